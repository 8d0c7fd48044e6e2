//! Tables of a page: every number with its unit, and its exact value in `<data value>`.

use super::{name, units};
use crate::placement::Placement;
use crate::report::Report;
use crate::search::Found;
use crate::simulate::{Simulation, Spine};

/// Text that is safe between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Not allowed in any markup.
            control if control.is_control() && !matches!(control, '\n' | '\t') => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// A number and how it is read.
fn number(value: f64, shown: impl AsRef<str>) -> String {
    format!("<data value=\"{value}\">{}</data>", escape(shown.as_ref()))
}

fn time(us: f64) -> String {
    number(us, units::time(us))
}

fn bytes(value: f64) -> String {
    number(value, units::bytes(value))
}

fn count(value: f64) -> String {
    number(value, units::count(value))
}

fn decimals(value: f64) -> String {
    number(value, format!("{value:.3}"))
}

/// A table whose cells are markup already.
fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let heads: String = head.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
    let line = |row: &Vec<String>| {
        let mut cells = row.iter();
        let first = cells.next().map(|cell| format!("<th scope=\"row\">{cell}</th>")).unwrap_or_default();
        // A cell may say how it looks.
        let cell = |cell: &String| if cell.starts_with("<td") { cell.clone() } else { format!("<td>{cell}</td>") };
        format!("<tr>{first}{}</tr>\n", cells.map(cell).collect::<String>())
    };
    let rows: String = rows.iter().map(line).collect();
    format!(
        "<div class=\"wide\"><table aria-label=\"{}\"><thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n",
        escape(caption)
    )
}

/// Plans side by side; the best of each line is marked where better means something.
pub(super) fn comparison(plans: &[Report]) -> String {
    type Value = fn(&Report) -> Option<f64>;
    type Show = fn(f64) -> String;
    #[derive(Clone, Copy, PartialEq)]
    enum Better {
        Less,
        More,
        Neither,
    }
    let call = |index: usize| -> Value {
        match index {
            0 => |r| r.phases.first().map(|phase| phase.time.total().0),
            _ => |r| r.phases.get(1).map(|phase| phase.time.total().0),
        }
    };
    let lines: [(&str, Value, Show, Better); 16] = [
        ("nodes of a group of ranks", |r| Some(f64::from(r.nodes)), count, Better::Neither),
        ("distinct nodes of a token", |r| Some(r.gate.expected.distinct_nodes.mean), decimals, Better::Less),
        ("remote nodes of a token", |r| Some(r.gate.expected.remote_nodes.mean), decimals, Better::Less),
        ("most nodes of a token", |r| Some(f64::from(r.gate.most_nodes)), count, Better::Less),
        ("RDMA, dispatch + combine", |r| Some(r.phases[..2].iter().map(|p| p.rdma_bytes).sum()), bytes, Better::Less),
        ("RDMA at worst", |r| Some(r.phases[..2].iter().map(|p| p.rdma_bytes_worst).sum()), bytes, Better::Less),
        (
            "NVLink, dispatch + combine",
            |r| Some(r.phases[..2].iter().map(|p| p.nvlink_bytes).sum()),
            bytes,
            Better::Less,
        ),
        ("dispatch", call(0), time, Better::Less),
        ("combine", call(1), time, Better::Less),
        ("SMs that suffice", |r| r.enough_sms.map(f64::from), count, Better::Neither),
        ("replicas of an expert", |r| Some(f64::from(r.share.expert_replicas)), count, Better::Neither),
        ("experts among replicas, a GPU and step", |r| Some(r.replicas.expert_bytes), bytes, Better::Less),
        ("memory of the fullest GPU", |r| Some(r.memory.total().0 as f64), bytes, Better::Less),
        ("step", |r| r.step.map(|step| step.total.0), time, Better::Less),
        ("tokens/s a GPU", |r| r.step.map(|step| step.tokens_per_second), count, Better::More),
        ("all layers of one token", |r| r.decode.map(|decode| decode.0), time, Better::Less),
    ];
    let rows: Vec<Vec<String>> = lines
        .iter()
        .filter(|(_, value, ..)| plans.iter().any(|report| value(report).is_some()))
        .map(|(what, value, show, better)| {
            let values: Vec<Option<f64>> = plans.iter().map(value).collect();
            let known = || values.iter().flatten().copied();
            let best = match better {
                Better::Less => known().fold(f64::INFINITY, f64::min),
                Better::More => known().fold(f64::NEG_INFINITY, f64::max),
                Better::Neither => f64::NAN,
            };
            // Only what is shown differently is better.
            let differ = known().any(|value| {
                show(value).split_once('>').map(|(_, s)| s.to_owned())
                    != show(best).split_once('>').map(|(_, s)| s.to_owned())
            });
            let cell = |value: &Option<f64>| match value {
                Some(value) if differ && *value == best => format!("<td class=\"best\">{}</td>", show(*value)),
                Some(value) => show(*value),
                None => "–".to_owned(),
            };
            std::iter::once(escape(what)).chain(values.iter().map(cell)).collect()
        })
        .chain(std::iter::once(
            std::iter::once("fits the memory".to_owned())
                .chain(plans.iter().map(|r| if r.fits { "yes" } else { "<span class=\"bad\">no</span>" }.to_owned()))
                .collect(),
        ))
        .collect();
    let names: Vec<String> = plans.iter().map(name).collect();
    let head: Vec<&str> = std::iter::once("").chain(names.iter().map(String::as_str)).collect();
    table("Plans side by side", &head, &rows)
}

/// The front of a search.
pub(super) fn front(found: &Found) -> String {
    let rows: Vec<Vec<String>> = (1..)
        .zip(&found.front)
        .map(|(index, plan): (usize, _)| {
            let parallel = &plan.parallel;
            let mut row = vec![index.to_string()];
            row.extend(
                [parallel.ep, parallel.pp, parallel.dp, u32::from(parallel.zero), parallel.sms]
                    .map(f64::from)
                    .map(count),
            );
            row.push(escape(parallel.schedule.name()));
            row.extend([time(plan.step_us), count(plan.tokens_per_second), bytes(plan.memory as f64)]);
            row
        })
        .collect();
    let head = ["", "ep", "pp", "dp", "zero", "SMs", "schedule", "step", "tokens/s a GPU", "memory"];
    table("Plans that no other beats", &head, &rows)
}

/// Where a token goes.
pub(super) fn gate(report: &Report) -> String {
    let expected = &report.gate.expected;
    let rows: Vec<Vec<String>> = [
        ("distinct nodes", expected.distinct_nodes),
        ("remote nodes (copies over RDMA)", expected.remote_nodes),
        ("distinct ranks", expected.distinct_ranks),
        ("copies over NVLink", expected.nvlink_copies),
        ("picks", expected.picks),
        ("picks on other nodes", expected.remote_picks),
        ("picks on other ranks", expected.crossing_picks),
    ]
    .into_iter()
    .map(|(what, estimate)| {
        let half_width =
            estimate.half_width.map_or_else(|| "–".to_owned(), |half| number(half, format!("± {half:.3}")));
        vec![escape(what), decimals(estimate.mean), half_width, count(estimate.largest)]
    })
    .collect();
    let mut text = format!(
        "<p class=\"quiet\">Means over {} sampled tokens with the half width of their 95 % confidence interval, and the most that a token \
         had.</p>",
        count(expected.tokens as f64)
    );
    text += &table("Where a token goes", &["per token", "mean", "95 %", "most"], &rows);
    text
}

/// Calls of a layer.
pub(super) fn phases(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .phases
        .iter()
        .map(|phase| {
            let us = |value: f64| number(value, format!("{value:.0}"));
            let t = &phase.time;
            let mut row = vec![escape(phase.name)];
            row.extend([phase.nvlink_bytes, phase.rdma_bytes, phase.rdma_bytes_worst].map(bytes));
            row.extend([t.copy.0, t.nvlink.0, t.network.0, t.latency.0, t.notify.0, t.transfer.0].map(us));
            row.push(number(t.total().0, format!("{:.0}", t.total().0)));
            row.push(number(t.uncertainty, format!("± {:.1} %", t.uncertainty * 100.0)));
            row.push(format!("<td class=\"text\">{}</td>", t.bottleneck.name()));
            row
        })
        .collect();
    let head = [
        "one call of one layer",
        "NVLink",
        "RDMA",
        "RDMA at worst",
        "copy, µs",
        "NVLink, µs",
        "RDMA, µs",
        "latency, µs",
        "notify, µs",
        "kernel, µs",
        "time, µs",
        "uncertainty",
        "limit",
    ];
    let mut text =
        "<p class=\"quiet\">Bytes that leave a GPU; copy, NVLink, RDMA: time if that alone limited, at the rates that kernels reach.</p>"
            .to_owned();
    text += &table("Calls of a layer", &head, &rows);
    text
}

/// The step and the memory.
pub(super) fn totals(report: &Report) -> String {
    let mut text = String::new();
    if let Some(step) = &report.step {
        let parts = [
            ("compute of a micro-batch", step.compute.0),
            ("dispatch and combine of a micro-batch", step.communication.0),
            ("of which nothing hides", step.exposed.0),
            ("all micro-batches", step.steady.0),
            ("pipeline bubble", step.bubble.0),
            ("replicas", step.replicas.0),
            ("step", step.total.0),
        ];
        let mut rows: Vec<Vec<String>> = parts.map(|(what, us)| vec![escape(what), time(us)]).to_vec();
        rows.push(vec!["tokens/s a GPU".to_owned(), count(step.tokens_per_second)]);
        let title =
            format!("step of {} micro-batches, {}", report.parallel.micro_batches, report.parallel.schedule.name());
        text += &table("Step", &[&title, "time"], &rows);
    }
    let mut rows: Vec<Vec<String>> =
        report.memory.parts.iter().map(|part| vec![escape(part.kind.name()), bytes(part.bytes.0 as f64)]).collect();
    rows.push(vec!["all".to_owned(), bytes(report.memory.total().0 as f64)]);
    rows.push(vec!["what a GPU has".to_owned(), bytes(report.memory.capacity.0 as f64)]);
    text + &table("Memory of the fullest GPU", &["memory of the fullest GPU", "bytes"], &rows)
}

/// What the other tables are computed from.
pub(super) fn details(report: &Report) -> String {
    let (plan, wire, share) = (&report.parallel, &report.wire, &report.share);
    let parameters = &report.parameters;
    let groups = report
        .gate
        .groups
        .map(|(chosen, groups)| format!("{} of {}", count(f64::from(chosen)), count(f64::from(groups))));
    let mut rows = vec![
        vec!["GPUs".to_owned(), count(f64::from(report.gpus))],
        vec!["tensor parallel".to_owned(), count(f64::from(plan.tp))],
        vec!["tokens of a GPU in a call".to_owned(), count(f64::from(plan.tokens))],
        vec!["micro-batches of a step".to_owned(), count(f64::from(plan.micro_batches))],
        vec!["nodes that a group of experts spans, at most".to_owned(), count(f64::from(report.gate.nodes_per_group))],
        vec!["groups that a token may use".to_owned(), groups.unwrap_or_else(|| "no limit".to_owned())],
        vec!["nodes that a token may reach".to_owned(), count(f64::from(report.gate.most_nodes))],
        vec!["other nodes that a token may reach".to_owned(), count(f64::from(report.gate.most_remote_nodes))],
        vec!["largest over mean load of an expert".to_owned(), decimals(report.gate.expert_imbalance)],
        vec!["largest over mean load of a rank".to_owned(), decimals(report.gate.rank_imbalance)],
        vec!["largest over mean load of a node".to_owned(), decimals(report.gate.node_imbalance)],
        vec!["row on the way to the experts, with scales".to_owned(), bytes(wire.dispatch_row as f64)],
        vec!["record of a copy".to_owned(), bytes(wire.record as f64)],
        vec!["row on the way back".to_owned(), bytes(wire.combine_row as f64)],
        vec!["gradient of a weight".to_owned(), bytes(wire.weight_gradient as f64)],
        vec!["count of a peer".to_owned(), bytes(wire.count as f64)],
        vec!["flag of a peer".to_owned(), bytes(wire.flag as f64)],
        vec!["parameters".to_owned(), count(parameters.total() as f64)],
        vec!["of routed experts".to_owned(), count(parameters.routed() as f64)],
        vec!["active for a token".to_owned(), count(parameters.active() as f64)],
        vec!["expert parameters of the fullest GPU".to_owned(), count(share.expert)],
        vec!["expert parameters of a GPU on average".to_owned(), count(share.expert_mean)],
        vec!["other parameters of the fullest GPU".to_owned(), count(share.other)],
        vec!["experts of a layer on a GPU".to_owned(), count(f64::from(share.experts_per_layer))],
        vec!["replicas of an expert".to_owned(), count(f64::from(share.expert_replicas))],
        vec!["replicas of everything else".to_owned(), count(f64::from(share.other_replicas))],
        vec!["experts among replicas, a GPU and step".to_owned(), bytes(report.replicas.expert_bytes)],
        vec!["everything else among replicas".to_owned(), bytes(report.replicas.other_bytes)],
        vec!["of both over the network".to_owned(), bytes(report.replicas.network_bytes)],
        vec!["recomputed in the backward pass".to_owned(), report.thrift.recompute.name().to_owned()],
        vec!["halves of the receive regions".to_owned(), count(f64::from(report.thrift.halves))],
        vec!["seed of the sample".to_owned(), number(report.seed as f64, report.seed.to_string())],
    ];
    if let Some(nodes) = report.gate.closed_form_nodes {
        rows.push(vec!["distinct nodes by the closed form".to_owned(), decimals(nodes)]);
    }
    if let Some(enough) = report.enough_sms {
        rows.push(vec!["SMs that saturate the slower link".to_owned(), count(f64::from(enough))]);
    }
    if let Some(decode) = report.decode {
        rows.push(vec!["dispatches and combines of all layers for one token".to_owned(), time(decode.0)]);
    }
    let mut text = table("Further numbers", &["further numbers", ""], &rows);
    let expected = &report.gate.expected;
    for (what, values) in [
        ("picks of each expert per token", &expected.experts),
        ("picks of each rank per token", &expected.picks_by_rank),
        ("copies to each rank per token", &expected.copies_by_rank),
        ("copies to each node per token", &expected.copies_by_node),
    ] {
        text += &list(what, values.iter().map(|value| number(*value, format!("{value:.4}"))));
    }
    text
}

/// Many numbers, folded away.
fn list(what: &str, numbers: impl Iterator<Item = String>) -> String {
    format!("<details><summary>{what}</summary><p>{}</p></details>\n", numbers.collect::<Vec<_>>().join(" "))
}

/// Layers before and after placement.
pub(super) fn placement(placement: &Placement) -> String {
    let rows: Vec<Vec<String>> = placement
        .layers
        .iter()
        .map(|layer| {
            let ratio = |value: f64| number(value, format!("×{value:.3}"));
            vec![
                layer.layer.to_string(),
                ratio(layer.before.max_over_mean),
                ratio(layer.after.max_over_mean),
                decimals(layer.before.copies_between_nodes),
                decimals(layer.after.copies_between_nodes),
                bytes(layer.before.bytes_between_nodes),
                bytes(layer.after.bytes_between_nodes),
                layer.moves.map_or_else(|| "–".to_owned(), |moves| count(f64::from(moves))),
            ]
        })
        .collect();
    let head = [
        "layer",
        "largest/mean before",
        "after",
        "copies between nodes before",
        "after",
        "bytes between nodes before",
        "after",
        "experts moved",
    ];
    table("Placement by layer", &head, &rows)
}

/// Times of a simulation beside bound and plan, and what its links did.
pub(super) fn simulated_times(simulation: &Simulation) -> String {
    let part = |value: f64| number(value, units::percent(value));
    let rows: Vec<Vec<String>> = simulation
        .phases()
        .into_iter()
        .map(|(name, phase, bound, planned)| {
            let tail = &phase.time;
            let mut row = vec![escape(name)];
            row.extend([tail.median, tail.mean, tail.p99, tail.max, bound.time, planned.links].map(|us| time(us.0)));
            row.push(format!("<td class=\"text\">{}</td>", escape(planned.bottleneck.name())));
            row.extend([
                time(planned.call.0),
                number(planned.uncertainty, format!("± {}", units::percent(planned.uncertainty))),
            ]);
            row
        })
        .collect();
    let head = [
        "time of the GPUs",
        "median",
        "mean",
        "99 %",
        "slowest",
        "busiest link alone",
        "links by plan",
        "which",
        "call by plan",
        "uncertainty",
    ];
    let mut text = table("Dispatch and combine, simulated", &head, &rows);
    let mut rows = Vec::new();
    for (name, phase, ..) in simulation.phases() {
        for of in &phase.kinds {
            let (mean, most) = phase.utilisation(of.kind).unwrap_or_default();
            rows.push(vec![
                escape(&format!("{name}, {}", of.kind.name())),
                count(f64::from(of.links)),
                time(of.mean_busy.0),
                part(mean),
                time(of.max_busy.0),
                part(most),
            ]);
        }
    }
    let head = [
        "links that carry bytes",
        "links",
        "mean",
        "of the slowest GPU's time",
        "busiest",
        "of the slowest GPU's time",
    ];
    text += &table("Links", &head, &rows);
    text
}

/// What was simulated, and every GPU.
pub(super) fn simulated_details(simulation: &Simulation) -> String {
    let (scenario, outcome) = (&simulation.scenario, &simulation.outcome);
    let (network, demand, options) = (&scenario.network, &scenario.demand, &scenario.options);
    let rate = |rate: u64| number(rate as f64, format!("{:.1} GB/s", rate as f64 / 1e9));
    let mut rows = vec![
        vec!["GPUs".to_owned(), count(f64::from(outcome.gpus))],
        vec!["nodes".to_owned(), count(f64::from(network.nodes))],
        vec!["GPUs of a node".to_owned(), count(f64::from(network.gpus_per_node))],
        vec!["ranks of a group".to_owned(), count(f64::from(demand.group_ranks))],
        vec!["tokens of a GPU".to_owned(), count(f64::from(demand.tokens_per_gpu))],
        vec!["nodes of a token".to_owned(), decimals(demand.nodes_per_token)],
        vec!["ranks of a copy".to_owned(), decimals(demand.ranks_per_copy)],
        vec!["copy out".to_owned(), bytes(demand.dispatch_bytes.0 as f64)],
        vec!["copy back".to_owned(), bytes(demand.combine_bytes.0 as f64)],
        vec!["experts, average load".to_owned(), time(demand.expert_time.0)],
        vec!["NVLink of a GPU".to_owned(), rate(network.nvlink.0)],
        vec!["NIC of a GPU".to_owned(), rate(network.nic.0)],
        vec!["latency inside a node".to_owned(), time(network.nvlink_latency.0)],
        vec!["latency between nodes".to_owned(), time(network.nic_latency.0)],
        vec!["tokens of a chunk".to_owned(), count(f64::from(options.chunk_tokens))],
        vec!["chunks on the way, at most".to_owned(), count(f64::from(options.window))],
        vec!["seed".to_owned(), number(options.seed as f64, options.seed.to_string())],
        vec!["chunks".to_owned(), count(outcome.chunks as f64)],
        vec!["events".to_owned(), count(outcome.events as f64)],
        vec!["from the first token sent to the last one back".to_owned(), time(outcome.total.0)],
    ];
    if let Some(Spine { nodes_per_pod, oversubscription, latency }) = &network.spine {
        rows.push(vec!["nodes of a pod".to_owned(), count(f64::from(*nodes_per_pod))]);
        rows.push(vec!["oversubscription of the spine".to_owned(), decimals(*oversubscription)]);
        rows.push(vec!["latency of the spine".to_owned(), time(latency.0)]);
    }
    if let Some(healthy) = &simulation.without_faults {
        rows.push(vec!["dispatch without what is wrong".to_owned(), time(healthy.dispatch.0)]);
        rows.push(vec!["combine without what is wrong".to_owned(), time(healthy.combine.0)]);
        rows.push(vec!["all without what is wrong".to_owned(), time(healthy.total.0)]);
    }
    rows.extend(scenario.faults.iter().map(|fault| vec!["wrong".to_owned(), escape(&fault.to_string())]));
    let mut text = table("What was simulated", &["what was simulated", ""], &rows);
    if !demand.rank_load.is_empty() {
        text += &list("load of each rank", demand.rank_load.iter().map(|load| decimals(*load)));
    }
    for (name, phase, ..) in simulation.phases() {
        let slowest: Vec<Vec<String>> = phase
            .slowest
            .iter()
            .zip(&phase.busiest)
            .map(|(slow, busy)| {
                vec![
                    format!("GPU {}", slow.gpu.0),
                    time(slow.time.0),
                    escape(&busy.link.to_string()),
                    time(busy.busy.0),
                ]
            })
            .collect();
        let head = [&format!("slowest GPUs, {name}"), "time", "busiest links", "carry bytes for"];
        text += &table(head[0], &head, &slowest);
        text += &list(&format!("{name}: time of each GPU"), phase.by_gpu.iter().map(|us| time(us.0)));
    }
    text
}
