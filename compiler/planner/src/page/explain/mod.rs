//! A report in words: what limits, what would change it, what the gate costs the network.
//!
//! Invariant: every sentence is made of numbers of the [`Report`], which stand in its JSON; a cause is named only where the numbers show it.

mod assumptions;
mod headline;

pub(super) use assumptions::assumptions;
pub(super) use headline::headline;

use crate::cost::memory::Memory;
use crate::cost::parallel::Parallel;
use crate::cost::step::{Replicas, Step};
use crate::cost::{Costs, Faster, PlanError, Planner, Remedy};
use crate::groups;
use crate::time::{Bottleneck, Prediction};
use crate::traffic;
use crate::units::human_bytes;

/// The explanation of a report.
pub(super) fn words(planner: &mut Planner<'_>, report: &Costs) -> Result<Vec<String>, PlanError> {
    let mut words = vec![gate(report)];
    words.extend(spanning(planner, report)?);
    words.push(limits(report));
    words.extend(changes(report));
    words.extend(multiprocessors(report));
    words.extend(report.replicas.as_ref().map(|traffic| replicas(report, traffic)));
    words.extend(report.step.as_ref().map(|parts| step(report, parts)));
    words.extend(report.memory.as_ref().map(memory));
    words.extend(remedy(report));
    Ok(words)
}

fn gate(report: &Costs) -> String {
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
            let place = if span == 1 { "lies on one node".to_owned() } else { format!("spans up to {span} nodes") };
            format!(
                "with ep {} each of the {groups} groups {place} and the gate allows {chosen}: {reach}",
                report.parallel.ep
            )
        }
        None => format!("nothing limits the nodes of a token but its {} picks: {reach}", expected.picks.largest),
    }
}

/// The largest number of ranks with which every group lies on one node.
fn whole_groups(planner: &Planner<'_>, report: &Costs) -> Option<u32> {
    let groups = planner.model.groups?;
    let per_node = planner.cluster.gpus_per_node;
    (1..report.parallel.ep).rev().find(|&ep| {
        report.parallel.ep.is_multiple_of(ep)
            && traffic::contiguous(planner.model, ep, per_node)
                .is_ok_and(|homes| homes.topology().domains() > 1 && homes.domains_of_groups(groups)[0] == 1)
    })
}

/// What groups that span nodes cost.
fn spanning(planner: &mut Planner<'_>, report: &Costs) -> Result<Option<String>, PlanError> {
    let Some((chosen, groups)) = report.gate.groups else { return Ok(None) };
    let span = report.gate.nodes_per_group;
    // Experts that were placed lie somewhere else with another number of ranks.
    if span < 2 || chosen >= groups || planner.options.placed.is_some() {
        return Ok(None);
    }
    let Some((homes, _)) = planner.expected(report.parallel.ep) else { return Ok(None) };
    let finer = groups::finer(planner.model, homes).map(|more| format!("give the gate {more} groups"));
    let Some(better) = whole_groups(planner, report) else {
        let instead =
            finer.unwrap_or_else(|| "no number of groups that suits the gate lies on one node each".to_owned());
        return Ok(Some(format!("groups span nodes: {instead}")));
    };
    let finer = finer.map_or(String::new(), |finer| format!(", or {finer}"));
    planner.prepare(better)?;
    let Some((_, expected)) = planner.expected(better) else { return Ok(None) };
    let (nodes, distinct) = (report.gate.expected.distinct_nodes.mean, expected.distinct_nodes.mean);
    let there = planner.evaluate(&Parallel { ep: better, ..report.parallel })?;
    let (here, other) = (&report.phases[0], &there.phases[0]);
    if other.rdma_bytes <= 0.0 || other.rdma_bytes_worst <= 0.0 {
        return Ok(None);
    }
    let (mean, most) = (here.rdma_bytes / other.rdma_bytes, here.rdma_bytes_worst / other.rdma_bytes_worst);
    let zero = match &there.timed {
        Some(timed) if there.share.expert_replicas > 1 => format!(
            "; with ep {better}, gradients and weights of experts among their {} replicas cost {} a GPU and step",
            there.share.expert_replicas,
            human_bytes(timed.replicas.expert_bytes)
        ),
        _ => String::new(),
    };
    Ok(Some(format!(
        "groups span nodes: a token reaches {nodes:.2} nodes instead of {distinct:.2} with ep {better}; RDMA ×{mean:.2} on average, ×{} at \
         worst{zero}; keep ep {better}{finer}",
        trimmed(most)
    )))
}

fn limits(report: &Costs) -> String {
    let [dispatch, combine] = [&report.phases[0].time, &report.phases[1].time];
    let one = |name: &str, time: &Prediction| {
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
fn changes(report: &Costs) -> Option<String> {
    let now = both(report);
    let gain = |faster: &Faster| format!("{}: {:+.0} %", faster.what.name(), (faster.time.0 / now - 1.0) * 100.0);
    let gains: Vec<String> = report.faster.iter().map(gain).collect();
    (!gains.is_empty()).then(|| format!("dispatch + combine would take, with {}", gains.join("; with ")))
}

/// Dispatch and combine, in µs.
pub(super) fn both(report: &Costs) -> f64 {
    report.phases[..2].iter().map(|phase| phase.time.total().0).sum()
}

fn multiprocessors(report: &Costs) -> Option<String> {
    let enough = report.enough_sms?;
    let [dispatch, combine] = [&report.phases[0].time, &report.phases[1].time];
    let slower =
        |time: &Prediction| if time.network.0 > time.nvlink.0 { Bottleneck::Network } else { Bottleneck::Nvlink };
    let link = match (slower(dispatch), slower(combine)) {
        (one, other) if one == other => one.name().to_owned(),
        (one, other) => format!("{} in dispatch, {} in combine", one.name(), other.name()),
    };
    let used = report.parallel.sms;
    let verdict = match used.cmp(&enough) {
        std::cmp::Ordering::Less => {
            let copying: Vec<&str> = [("dispatch", dispatch), ("combine", combine)]
                .into_iter()
                .filter(|(_, time)| time.bottleneck == Bottleneck::Copy)
                .map(|(name, _)| name)
                .collect();
            match copying[..] {
                [] => format!("{used} are planned"),
                _ => format!("{used} are planned, so that copying limits {}", copying.join(" and ")),
            }
        }
        std::cmp::Ordering::Equal => "as planned".to_owned(),
        std::cmp::Ordering::Greater => format!("{used} are planned, {} could compute instead", used - enough),
    };
    Some(format!("{enough} SMs saturate the slower link ({link}); {verdict}"))
}

fn replicas(report: &Costs, traffic: &Replicas) -> String {
    let (share, zero) = (&report.share, report.parallel.zero);
    let everything = match (share.other_replicas, traffic.other_bytes) {
        (1, _) => String::new(),
        _ => format!(
            "; with everything else {} and {:.1} ms, which nothing hides",
            human_bytes(traffic.expert_bytes + traffic.other_bytes),
            traffic.time.0 / 1e3
        ),
    };
    match (share.expert_replicas, zero) {
        (1, 0) => format!("each expert has one replica: nothing is exchanged for experts{everything}"),
        (1, _) => format!(
            "each expert has one replica: ZeRO {zero} shards nothing of the experts, and nothing is exchanged for them{everything}"
        ),
        (replicas, _) => format!(
            "each expert has {replicas} replicas: their gradients and weights cost {} a GPU and step{everything}",
            human_bytes(traffic.expert_bytes)
        ),
    }
}

fn step(report: &Costs, step: &Step) -> String {
    let part = |part: f64| part / step.total.0 * 100.0;
    let micro_batches = f64::from(report.parallel.micro_batches);
    format!(
        "of a step, compute takes {:.1} %, dispatch and combine that nothing hides {:.1} %, bubble {:.1} %, replicas {:.1} %",
        part(step.compute.0 * micro_batches),
        part(step.exposed.0 * micro_batches),
        part(step.bubble.0),
        part(step.replicas.0),
    )
}

fn memory(memory: &Memory) -> String {
    let (largest, total) = (memory.largest(), memory.total().0 as f64);
    format!(
        "the largest part of the memory is {}: {}, {:.0} % of what is needed",
        largest.kind.name(),
        human_bytes(largest.bytes.0 as f64),
        largest.bytes.0 as f64 / total * 100.0
    )
}

/// What would need less memory where it does not suffice: each was planned.
pub fn remedy(report: &Costs) -> Option<String> {
    if report.fits != Some(false) {
        return None;
    }
    let told = |remedy: &Remedy| format!("`{}` ({})", remedy.setting, human_bytes(remedy.bytes.0 as f64));
    let fitting: Vec<String> = report.remedies.iter().filter(|remedy| remedy.fits).map(told).collect();
    let others: Vec<String> = report.remedies.iter().map(told).collect();
    Some(match (&fitting[..], &others[..]) {
        ([], []) => "no single change of the deploy needs less: use more GPUs".to_owned(),
        ([], others) => {
            format!("no single change is enough, of {}: combine them, or use more GPUs", others.join(", "))
        }
        (fitting, _) => format!("it fits with {}", fitting.join(", or ")),
    })
}

pub(super) fn trimmed(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}
