//! Several plans in words.

use schemars::JsonSchema;
use serde::Serialize;

use super::explain::{both, trimmed};
use super::report::Report;
use crate::cost::compare::{By, Judged, MEMORY_RESOLUTION, Verdict};
use crate::cost::search::{Candidate, Found};
use crate::missing::withheld;
use crate::units::human_bytes;

/// Several plans of one deploy.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Comparison {
    /// Which of them.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Each against the first, and at the end the verdict, in words.
    pub words: Vec<String>,
}

/// Each plan against the first, and which of all.
pub fn compared(reports: &[Report]) -> Comparison {
    let judged: Option<Vec<Judged>> = reports.iter().map(|report| Judged::of(report)).collect();
    let verdict = judged.as_deref().map_or_else(Verdict::unknown, Verdict::of);
    let Some((first, others)) = reports.split_first() else { return Comparison { verdict, words: Vec::new() } };
    let mut words: Vec<String> = others.iter().flat_map(|other| against(first, other, reports)).collect();
    words.push(judgement(reports, &verdict));
    Comparison { verdict, words }
}

/// The plan that a search would take, and why.
pub(super) fn found(found: &Found) -> String {
    let Candidate { parallel, step_us, memory, recompute, .. } = &found.best;
    let fastest = found.front.first().map_or(*step_us, |plan| plan.step_us);
    let not_built: String = found.not_built.iter().map(|not_built| format!("\n{}", not_built.told())).collect();
    format!(
        "best: ep {} pp {} dp {} zero {} sms {} {}, a step of {:.2} s in {}, recomputing {}: of {} plans that are as fast as the fastest \
         ({:.2} s), as far as can be told, the one that needs least memory{not_built}",
        parallel.ep,
        parallel.pp,
        parallel.dp,
        parallel.zero,
        parallel.sms,
        parallel.schedule.name(),
        step_us / 1e6,
        human_bytes(*memory as f64),
        recompute.name(),
        found.as_fast,
        fastest / 1e6
    )
}

/// One plan against another.
fn against(first: &Report, other: &Report, all: &[Report]) -> Vec<String> {
    let (one, two) = (named(first, all), named(other, all));
    let mut words = Vec::new();
    let (a, b) = (&first.phases[0], &other.phases[0]);
    if first.nodes > 1 && other.nodes > 1 && first.parallel.ep != other.parallel.ep && a.rdma_bytes > 0.0 {
        words.push(format!(
            "{two} against {one}: a token reaches {:.2} nodes instead of {:.2}, RDMA ×{:.2} on average, ×{} at worst",
            other.gate.expected.distinct_nodes.mean,
            first.gate.expected.distinct_nodes.mean,
            b.rdma_bytes / a.rdma_bytes,
            trimmed(b.rdma_bytes_worst / a.rdma_bytes_worst)
        ));
    }
    if both(other) != both(first) {
        words.push(format!(
            "{two} against {one}: dispatch + combine ×{:.2} ({:.0} µs against {:.0} µs)",
            both(other) / both(first),
            both(other),
            both(first)
        ));
    }
    let bytes = |bytes: f64| human_bytes(bytes);
    if let (Some(a), Some(b)) = (&first.memory, &other.memory) {
        let step = match (&first.step, &other.step) {
            (Some(a), Some(b)) => format!("; step {:.2} s against {:.2} s", b.total.0 / 1e6, a.total.0 / 1e6),
            _ => String::new(),
        };
        let replicas = match (&first.replicas, &other.replicas) {
            (Some(a), Some(b)) => format!(
                "; experts among replicas {} a GPU and step against {}",
                bytes(b.expert_bytes),
                bytes(a.expert_bytes)
            ),
            _ => String::new(),
        };
        words.push(format!(
            "{two} against {one}: memory {} against {}{replicas}{step}",
            bytes(b.total().0 as f64),
            bytes(a.total().0 as f64)
        ));
    }
    words
}

/// Which of all, and why.
fn judgement(reports: &[Report], verdict: &Verdict) -> String {
    let name = |plan: usize| named(&reports[plan], reports);
    let memory = |plan: usize| reports[plan].memory.as_ref().map_or(0.0, |memory| memory.total().0 as f64);
    let names = |plans: &[usize]| plans.iter().map(|&plan| name(plan)).collect::<Vec<_>>().join(", ");
    let not_fitting = match reports.len() - verdict.fitting.len() {
        0 => String::new(),
        1 => "; one does not fit".to_owned(),
        more => format!("; {more} do not fit"),
    };
    match (verdict.by, verdict.best) {
        (By::Time, Some(best)) => {
            let mut rest: Vec<usize> = verdict.fitting.iter().copied().filter(|&plan| plan != best).collect();
            rest.sort_by(|&a, &b| time(&reports[a]).total_cmp(&time(&reports[b])));
            let against = rest.first().map_or_else(String::new, |&next| {
                format!(
                    "the fastest that fits, {} against {} of {}, ×{:.2}{}",
                    shown(&reports[best]),
                    shown(&reports[next]),
                    name(next),
                    time(&reports[next]) / time(&reports[best]),
                    recomputing(&reports[best], &reports[next])
                )
            });
            format!("keep {}: {against}{not_fitting}", name(best))
        }
        (By::Memory, Some(best)) => {
            let others: Vec<usize> = verdict.as_fast.iter().copied().filter(|&plan| plan != best).collect();
            let least = others.iter().map(|&plan| memory(plan)).fold(f64::INFINITY, f64::min);
            format!(
                "keep {}: as fast as {}, as far as can be told ({}), and it needs {} less memory{not_fitting}",
                name(best),
                names(&others),
                within(reports, &verdict.as_fast),
                human_bytes(least - memory(best))
            )
        }
        (By::Fit, Some(best)) => format!("keep {}: the only one of {} that fits the memory", name(best), reports.len()),
        (By::Nothing, _) => format!(
            "no difference that can be told between {}: {}, and memories differ by less than {:.0} %{not_fitting}",
            names(&verdict.alike),
            within(reports, &verdict.alike),
            MEMORY_RESOLUTION * 100.0
        ),
        (By::NoneFits, _) => {
            let smallest = (0..reports.len()).min_by(|&a, &b| memory(a).total_cmp(&memory(b)));
            let least = smallest.map_or_else(String::new, |plan| {
                format!(": {} needs least, {}", name(plan), human_bytes(memory(plan)))
            });
            format!("none of {} plans fits the memory{least}", reports.len())
        }
        _ => reports
            .iter()
            .find_map(|report| withheld("which plan is best is", &report.missing, &report.model, &report.cluster))
            .unwrap_or_default(),
    }
}

/// What a plan is judged by, in µs: of a token, or of a call.
fn time(report: &Report) -> f64 {
    Judged::of(report).map_or(f64::INFINITY, |judged| judged.time)
}

/// The same as it is printed.
fn shown(report: &Report) -> String {
    match (&report.step, report.decode) {
        (Some(step), _) => format!("a step of {:.2} s for {} tokens", step.total.0 / 1e6, step.tokens),
        (None, decode) => format!("{:.2} ms for all layers", decode.map_or(0.0, |decode| decode.0 / 1e3)),
    }
}

/// How near to each other the times of plans are, and how near they must be to be equal.
fn within(reports: &[Report], plans: &[usize]) -> String {
    let times = plans.iter().map(|&plan| time(&reports[plan]));
    let (least, most) = times.fold((f64::INFINITY, 0.0_f64), |(least, most), time| (least.min(time), most.max(time)));
    let resolution = plans.iter().filter_map(|&plan| Judged::of(&reports[plan])).map(|plan| plan.resolution);
    format!(
        "times differ by {:.1} %, and by less than {:.1} % nothing can be told",
        (most / least - 1.0) * 100.0,
        resolution.fold(0.0, f64::max) * 100.0
    )
}

/// Why one is faster, where that is what it keeps.
fn recomputing(better: &Report, worse: &Report) -> String {
    match (&better.recompute, &worse.recompute) {
        (Some(one), Some(other)) if one.chosen.passes() < other.chosen.passes() => {
            ", since its memory lets it keep what the other computes again".to_owned()
        }
        _ => String::new(),
    }
}

/// A plan by the numbers that are not those of all, and the usual ones.
fn named(report: &Report, all: &[Report]) -> String {
    let plan = &report.parallel;
    let differs = |number: fn(&Report) -> u32| all.iter().any(|other| number(other) != number(report));
    let mut name = format!("ep {} pp {}", plan.ep, plan.pp);
    if differs(|report| report.parallel.dp) {
        name += &format!(" dp {}", plan.dp);
    }
    name += &format!(" zero {}", plan.zero);
    if differs(|report| report.parallel.sms) {
        name += &format!(" sms {}", plan.sms);
    }
    if differs(|report| report.parallel.tokens) {
        name += &format!(" tokens {}", plan.tokens);
    }
    name
}
