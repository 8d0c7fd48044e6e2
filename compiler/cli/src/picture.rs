//! The picture of a run: bytes from each rank to each rank, of dispatch and of combine, each for itself.

use moe_contract::RankId;
use moe_planner::page::picture::traffic;

use crate::report::Report;
use crate::verify::Verified;

/// The phases that it shows.
const SHOWN: [&str; 2] = ["dispatch", "combine"];

/// As SVG: what the device counted, or what the plan says where it counts nothing.
pub fn of_run(report: &Report, verified: &Verified) -> String {
    let ranks = report.tokens.len();
    let tokens: usize = report.tokens.iter().sum();
    let (how, phases): (_, Vec<_>) = if report.links.is_empty() {
        let rank = |index: usize| RankId(index as u32);
        let planned = verified.expected.traffic.iter().map(|(phase, traffic)| {
            let bytes = |from, to| if from == to { 0 } else { traffic.bytes(rank(from), rank(to)) };
            (phase.name(), (0..ranks).map(|from| (0..ranks).map(|to| bytes(from, to)).collect()).collect())
        });
        ("as the plan says: this device does not count them", planned.collect())
    } else {
        ("as counted", report.links.iter().map(|link| (link.phase, link.bytes.clone())).collect())
    };
    let phases: Vec<(&str, Vec<Vec<u64>>)> = phases.into_iter().filter(|(phase, _)| SHOWN.contains(phase)).collect();
    let title = format!("{}: bytes on the links", report.model);
    traffic(
        &title,
        &format!("{tokens} tokens on {ranks} {}, {how}", if ranks == 1 { "rank" } else { "ranks" }),
        &phases,
    )
}
