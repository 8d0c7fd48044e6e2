//! A report in words: what limits, what would change it, what the gate costs the network.

use moe_compiler::spec::{Mode, Model};

use crate::groups;
use crate::memory::Recompute;
use crate::report::{PlanError, Planner, Report, human_bytes};
use crate::sample::Source;
use crate::time::Bottleneck;
use crate::traffic::{Topology, Wire};

/// How many groups a token may use, and of how many, if the gate limits its choice of experts to them.
pub fn group_limit(model: &Model) -> Option<(u32, u32)> {
    model.gate.facts().group_limit.zip(model.groups)
}

/// The most nodes that a token may reach.
pub fn most_nodes(model: &Model, topology: &Topology) -> u32 {
    let any = model.top_k().min(topology.nodes());
    match group_limit(model) {
        Some((chosen, groups)) => {
            any.min(topology.nodes_of_groups(groups).iter().take(chosen as usize).sum::<u32>()).max(1)
        }
        None => any,
    }
}

/// The most nodes other than its own that a token may reach: it may start on a node without any of its experts.
pub fn most_remote_nodes(model: &Model, topology: &Topology) -> u32 {
    most_nodes(model, topology).min(topology.nodes() - 1)
}

/// What was assumed, one sentence each.
pub(crate) fn assumptions(planner: &Planner<'_>) -> Vec<String> {
    let options = &planner.options;
    let source = match planner.sample.source() {
        Source::Independent => "independent standard normal logits, gate biases zero".to_owned(),
        Source::Skewed { deviation } => {
            format!("standard normal logits with an offset per expert of standard deviation {deviation}")
        }
        Source::Observed => "the logits of the given file".to_owned(),
        Source::Counted { off } => format!(
            "standard normal logits with an offset per expert, so that picks are those of the given counts ({:.1} % of them elsewhere)",
            off * 100.0
        ),
    };
    let mut list = vec![
        format!("routing: {} tokens through the gate, {source}, seed {}", planner.sample.tokens(), planner.sample.seed()),
        match &options.placed {
            None => "experts lie in contiguous blocks on the ranks; no pick is dropped for capacity".to_owned(),
            Some(placed) => format!(
                "experts lie as the placement of layer {} says, {} slots on a GPU; a token takes each copy of an expert equally often, near or \
                 far; no pick is dropped for capacity",
                placed.layer,
                placed.placement.slots_per_gpu()
            ),
        },
        format!("kernel times: profile {} ({}), link rates of the file", planner.profile.name, planner.profile.source),
        "between nodes: one copy per token and node over the rail, then NVLink; kernels of one node are built, those across nodes are \
         planned"
            .to_owned(),
    ];
    if planner.deploy.mode == Mode::Throughput {
        list.push(format!(
            "compute: {:.0} % of the dense bf16 peak on the SMs that communication leaves; sequences of {} tokens",
            options.efficiency * 100.0,
            options.sequence
        ));
        list.push(
            "dispatch and combine hide behind compute with DualPipe only; traffic among replicas hides nowhere"
                .to_owned(),
        );
        let precision = options.precision;
        list.push(format!(
            "bytes per parameter: weight {}, gradient {}, master {}, moments {}",
            precision.weight, precision.gradient, precision.master, precision.moments,
        ));
        list.push("stages have equal numbers of layers, rounded up; micro-batches of one call's tokens".to_owned());
    }
    if planner.deploy.mode == Mode::Latency {
        list.push("memory: weights and receive regions; caches of keys and values are not counted".to_owned());
    }
    list.push(match &planner.model.surroundings {
        Some(_) => "attention, dense layers and embeddings: as the file says".to_owned(),
        None => {
            "the file does not say `attention`: parameters, memory and compute count experts and gate only".to_owned()
        }
    });
    list
}

/// The explanation of a report.
pub(crate) fn words(planner: &mut Planner<'_>, report: &Report) -> Result<Vec<String>, PlanError> {
    let mut words = vec![gate(report)];
    words.extend(spanning(planner, report)?);
    words.push(limits(report));
    words.extend(changes(planner, report)?);
    words.extend(multiprocessors(report));
    if report.step.is_some() {
        words.push(replicas(report));
        words.push(step(report));
    }
    words.push(memory(report));
    Ok(words)
}

fn gate(report: &Report) -> String {
    let expected = &report.gate.expected;
    let (nodes, remote) = (expected.distinct_nodes, expected.remote_nodes);
    if report.nodes == 1 {
        return format!(
            "one node: a token is copied to {:.2} of {} GPUs, {:.2} of them over NVLink",
            expected.distinct_ranks.mean, report.parallel.ep, expected.nvlink_copies.mean
        );
    }
    let within = nodes.half_width.map_or_else(String::new, |half| format!(" ± {half:.2}"));
    let reach = format!(
        "a token reaches {:.2}{within} of {} nodes ({:.2} over RDMA), at most {}",
        nodes.mean, report.nodes, remote.mean, report.gate.most_nodes
    );
    match report.gate.groups {
        Some((chosen, groups)) => {
            let span = report.gate.nodes_per_group;
            let place = if span == 1 { "lies on one node".to_owned() } else { format!("spans {span} nodes") };
            format!(
                "with ep {} each of the {groups} groups {place} and the gate allows {chosen}: {reach}",
                report.parallel.ep
            )
        }
        None => format!("nothing limits the nodes of a token but its {} picks: {reach}", expected.picks.largest),
    }
}

/// The largest number of ranks with which every group lies on one node.
fn whole_groups(planner: &Planner<'_>, report: &Report) -> Option<u32> {
    let groups = planner.model.groups?;
    let per_node = planner.cluster.gpus_per_node;
    (1..report.parallel.ep).rev().find(|&ep| {
        report.parallel.ep.is_multiple_of(ep)
            && Topology::contiguous(planner.model, ep, per_node)
                .is_ok_and(|topology| topology.nodes() > 1 && topology.nodes_of_groups(groups)[0] == 1)
    })
}

/// What groups that span nodes cost.
fn spanning(planner: &mut Planner<'_>, report: &Report) -> Result<Option<String>, PlanError> {
    let Some((chosen, groups)) = report.gate.groups else { return Ok(None) };
    let span = report.gate.nodes_per_group;
    // Experts that were placed lie somewhere else with another number of ranks.
    if span < 2 || chosen >= groups || planner.options.placed.is_some() {
        return Ok(None);
    }
    let Some((topology, _)) = planner.expected(report.parallel.ep) else { return Ok(None) };
    let finer = groups::finer(planner.model, topology).map(|more| format!("give the gate {more} groups"));
    let Some(better) = whole_groups(planner, report) else {
        let instead =
            finer.unwrap_or_else(|| "no number of groups that suits the gate lies on one node each".to_owned());
        return Ok(Some(format!("groups span nodes: {instead}")));
    };
    let finer = finer.map_or(String::new(), |finer| format!(", or {finer}"));
    planner.prepare(better)?;
    let Some((topology, expected)) = planner.expected(better) else { return Ok(None) };
    let here = &report.gate.expected;
    let (mean, most) = (
        here.remote_nodes.mean / expected.remote_nodes.mean,
        f64::from(report.gate.most_remote_nodes) / f64::from(most_remote_nodes(planner.model, topology)),
    );
    let (nodes, distinct) = (here.distinct_nodes.mean, expected.distinct_nodes.mean);
    let there = crate::step::Parallel { ep: better, ..report.parallel };
    let cost = planner.evaluate(&there)?.replicas;
    let zero = if report.step.is_some() && there.dp * there.tp > better {
        format!(
            "; with ep {better}, gradients and weights of experts among their {} replicas cost {} a GPU and step",
            there.dp * there.tp / better,
            human_bytes(cost.expert_bytes)
        )
    } else {
        String::new()
    };
    Ok(Some(format!(
        "groups span nodes: a token reaches {nodes:.2} nodes instead of {distinct:.2} with ep {better}; RDMA ×{mean:.2} on average, ×{} at \
         worst{zero}; keep ep {better}{finer}",
        trimmed(most)
    )))
}

fn limits(report: &Report) -> String {
    let [dispatch, combine] = [&report.phases[0].time, &report.phases[1].time];
    let one = |name: &str, time: &crate::time::Prediction| {
        format!(
            "{name} takes {:.0} µs ± {:.0} %, limited by {}",
            time.total().0,
            time.uncertainty * 100.0,
            time.bottleneck.name()
        )
    };
    format!("{}; {}", one("dispatch", dispatch), one("combine", combine))
}

/// What faster parts would give.
fn changes(planner: &Planner<'_>, report: &Report) -> Result<Option<String>, PlanError> {
    let wire = Wire::of(planner.model, report.parallel.sms);
    let time = |phases: &[crate::report::Phase]| phases[..2].iter().map(|phase| phase.time.total().0).sum::<f64>();
    let now = time(&report.phases);
    let mut list = Vec::new();
    if report.nodes > 1 {
        list.push(("RDMA twice as fast", time(&planner.phases(&report.parallel, &wire, 1.0, 2.0)?)));
    }
    list.push(("NVLink twice as fast", time(&planner.phases(&report.parallel, &wire, 2.0, 1.0)?)));
    let doubled = crate::step::Parallel { sms: report.parallel.sms * 2, ..report.parallel };
    if doubled.sms < planner.cluster.gpu.sms && report.step.is_some() {
        list.push(("twice the SMs", time(&planner.phases(&doubled, &wire, 1.0, 1.0)?)));
    }
    let gains: Vec<String> =
        list.into_iter().map(|(what, then)| format!("{what}: {:+.0} %", (then / now - 1.0) * 100.0)).collect();
    Ok((!gains.is_empty()).then(|| format!("dispatch + combine would take, with {}", gains.join("; with "))))
}

fn multiprocessors(report: &Report) -> Option<String> {
    let enough = report.enough_sms?;
    let link = if report.phases[0].time.network.0 > report.phases[0].time.nvlink.0 {
        Bottleneck::Network
    } else {
        Bottleneck::Nvlink
    };
    let used = report.parallel.sms;
    let verdict = match used.cmp(&enough) {
        std::cmp::Ordering::Less => format!("{used} are planned, so that copying limits"),
        std::cmp::Ordering::Equal => "as planned".to_owned(),
        std::cmp::Ordering::Greater => format!("{used} are planned, {} could compute instead", used - enough),
    };
    Some(format!("{enough} SMs saturate the slower link ({}); {verdict}", link.name()))
}

fn replicas(report: &Report) -> String {
    let (share, zero) = (&report.share, report.parallel.zero);
    let bytes = human_bytes(report.replicas.expert_bytes);
    match (share.expert_replicas, zero) {
        (1, 0) => "each expert has one replica: nothing is exchanged for experts".to_owned(),
        (1, _) => format!(
            "each expert has one replica: ZeRO {zero} shards nothing of the experts, and nothing is exchanged for them"
        ),
        (replicas, _) => format!(
            "each expert has {replicas} replicas: their gradients and weights cost {bytes} a GPU and step; with everything else {:.1} ms, if \
             nothing hides it",
            report.replicas.time.0 / 1e3
        ),
    }
}

fn step(report: &Report) -> String {
    let Some(step) = report.step else { return String::new() };
    let part = |part: f64| part / step.total.0 * 100.0;
    let micro_batches = f64::from(report.parallel.micro_batches);
    format!(
        "a step takes {:.2} s: compute {:.0} %, dispatch and combine that nothing hides {:.0} %, bubble {:.0} %, replicas {:.0} %; {:.0} tokens/s a GPU",
        step.total.0 / 1e6,
        part(step.compute.0 * micro_batches),
        part(step.exposed.0 * micro_batches),
        part(step.bubble.0),
        part(step.replicas.0),
        step.tokens_per_second
    )
}

fn memory(report: &Report) -> String {
    let (total, capacity) = (report.memory.total(), report.memory.capacity);
    let largest = report.memory.largest();
    let most = format!("most of it {} ({})", largest.kind.name(), human_bytes(largest.bytes.0 as f64));
    if report.fits {
        format!(
            "memory: {} of {} on the fullest GPU, {most}",
            human_bytes(total.0 as f64),
            human_bytes(capacity.0 as f64)
        )
    } else {
        format!(
            "memory: {} do not fit {} by {}, {most}: {}",
            human_bytes(total.0 as f64),
            human_bytes(capacity.0 as f64),
            human_bytes((total.0 - capacity.0) as f64),
            remedy(report)
        )
    }
}

/// What to lower when the memory does not suffice.
pub fn remedy(report: &Report) -> &'static str {
    use crate::memory::Kind;
    match report.memory.largest().kind {
        Kind::Activations => "lower `tokens`, raise `tp`, or recompute everything",
        Kind::Communication => "lower `tokens` or `ep`",
        Kind::ExpertWeights | Kind::ExpertGradients | Kind::ExpertOptimizer => "raise `ep` or `pp`, or a higher `zero`",
        Kind::OtherWeights | Kind::OtherGradients | Kind::OtherOptimizer => "raise `pp` or `tp`, or a higher `zero`",
    }
}

/// One plan against another, in words.
pub fn compared(first: &Report, other: &Report) -> Vec<String> {
    let mut words = Vec::new();
    let (a, b) = (&first.gate.expected, &other.gate.expected);
    if first.nodes > 1 && other.nodes > 1 && first.parallel.ep != other.parallel.ep {
        let worst = f64::from(other.gate.most_remote_nodes) / f64::from(first.gate.most_remote_nodes);
        words.push(format!(
            "ep {} against ep {}: a token reaches {:.2} nodes instead of {:.2}, RDMA ×{:.2} on average, ×{} at worst",
            other.parallel.ep,
            first.parallel.ep,
            b.distinct_nodes.mean,
            a.distinct_nodes.mean,
            b.remote_nodes.mean / a.remote_nodes.mean,
            trimmed(worst)
        ));
    }
    let time = |report: &Report| report.phases[..2].iter().map(|phase| phase.time.total().0).sum::<f64>();
    words.push(format!(
        "dispatch + combine ×{:.2} ({:.0} µs against {:.0} µs)",
        time(other) / time(first),
        time(other),
        time(first)
    ));
    if let (Some(one), Some(two)) = (first.step, other.step) {
        let (memory_one, memory_two) = (first.memory.total().0 as f64, other.memory.total().0 as f64);
        words.push(format!(
            "experts among replicas: {} a GPU and step against {}; memory {} against {}; step {:.2} s against {:.2} s",
            human_bytes(other.replicas.expert_bytes),
            human_bytes(first.replicas.expert_bytes),
            human_bytes(memory_two),
            human_bytes(memory_one),
            two.total.0 / 1e6,
            one.total.0 / 1e6
        ));
        words.push(verdict(first, other, one.total.0, two.total.0));
    }
    words
}

/// Which of two plans, and why.
fn verdict(first: &Report, other: &Report, one: f64, two: f64) -> String {
    let named = |report: &Report| {
        let plan = &report.parallel;
        format!("keep ep {} pp {} zero {}", plan.ep, plan.pp, plan.zero)
    };
    match (first.fits, other.fits) {
        (true, false) => return format!("{}: the other does not fit the memory", named(first)),
        (false, true) => return format!("{}: the other does not fit the memory", named(other)),
        (false, false) => return "neither fits the memory".to_owned(),
        (true, true) => {}
    }
    if (two / one - 1.0).abs() >= TIE {
        let better = if two < one { other } else { first };
        let worse = if two < one { first } else { other };
        let why = match (better.thrift.recompute, worse.thrift.recompute) {
            (Recompute::Selective, Recompute::Full) => ", since its memory lets it keep what the other computes again",
            _ => "",
        };
        return format!("{}: a step is ×{:.2} as fast{why}", named(better), one.max(two) / one.min(two));
    }
    let busy = |report: &Report| report.step.map_or(0.0, |step| step.communication.0 / step.compute.0 * 100.0);
    let (calm, other) = if busy(other) < busy(first) { (other, first) } else { (first, other) };
    format!(
        "{}: the steps differ by less than the model can tell ({:.1} %), but dispatch and combine need {:.0} % of the time of compute \
         instead of {:.0} %, which is what is left to hide them behind",
        named(calm),
        (two / one - 1.0).abs() * 100.0,
        busy(calm),
        busy(other)
    )
}

/// Steps that differ by less are equal: the model of compute is an assumption, and no better than this.
const TIE: f64 = 0.02;

fn trimmed(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}
