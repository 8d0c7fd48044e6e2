//! What a simulation shows: when each phase ended, and which links were busy.

use moe_compiler::units::Microseconds;
use serde::Serialize;

use super::bounds::Bounds;
use super::chunks::Chunks;
use super::engine::Record;
use super::links::Links;
use super::queue::Picoseconds;
use super::{Gpu, Link, LinkKind, Scenario};

/// Links that are listed one by one.
const LISTED: usize = 8;

/// One dispatch and one combine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// GPUs of the cluster.
    pub gpus: u32,
    /// Chunks that travelled.
    pub chunks: u64,
    /// Events that were handled.
    pub events: u64,
    /// From the start until a GPU has all copies for its experts.
    pub dispatch: Phase,
    /// From the moment a GPU begins to send back until it has all its tokens back.
    pub combine: Phase,
    /// From the start until the last GPU has its tokens back.
    pub total: Microseconds,
    /// What no schedule can beat.
    pub bounds: Bounds,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Over the GPUs.
    pub time: Tail,
    /// The GPU that took longest.
    pub slowest: Gpu,
    /// Links by kind, those that carried bytes.
    pub kinds: Vec<KindUse>,
    /// The links that were busy longest.
    pub busiest: Vec<LinkUse>,
}

/// A distribution over GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tail {
    /// Mean.
    pub mean: Microseconds,
    /// Half of the GPUs take at most this.
    pub median: Microseconds,
    /// 99 of 100 GPUs take at most this.
    pub p99: Microseconds,
    /// The slowest.
    pub max: Microseconds,
}

/// The links of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindUse {
    /// Which kind.
    pub kind: LinkKind,
    /// How many there are.
    pub links: u32,
    /// Time that one carried bytes, on average.
    pub mean_busy: Microseconds,
    /// Time that the busiest carried bytes.
    pub max_busy: Microseconds,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkUse {
    /// Which.
    #[serde(flatten)]
    pub link: Link,
    /// Time that it carried bytes.
    pub busy: Microseconds,
}

pub(super) fn summarise(
    scenario: &Scenario,
    chunks: &Chunks,
    links: &Links,
    record: &Record,
    bounds: Bounds,
) -> Outcome {
    let combine_time: Vec<Picoseconds> =
        record.combined.iter().zip(&record.combine_began).map(|(&end, &began)| end.saturating_sub(began)).collect();
    let last = record.combined.iter().chain(&record.combine_began).max().copied().unwrap_or(0);
    Outcome {
        gpus: scenario.gpus(),
        chunks: chunks.target.len() as u64,
        events: record.events,
        dispatch: phase(&record.dispatched, links, &record.busy[0]),
        combine: phase(&combine_time, links, &record.busy[1]),
        total: microseconds(last as f64),
        bounds,
    }
}

fn microseconds(picoseconds: f64) -> Microseconds {
    Microseconds(picoseconds * 1e-6)
}

fn phase(times: &[Picoseconds], links: &Links, busy: &[Picoseconds]) -> Phase {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let quantile = |share: f64| {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        microseconds(sorted[rank.clamp(1, sorted.len()) - 1] as f64)
    };
    let mean = sorted.iter().map(|&time| time as f64).sum::<f64>() / sorted.len() as f64;
    let slowest = (0..times.len()).max_by_key(|&gpu| (times[gpu], std::cmp::Reverse(gpu))).unwrap_or(0);
    let mut order: Vec<u32> = (0..busy.len() as u32).filter(|&link| busy[link as usize] > 0).collect();
    let kinds = [
        LinkKind::NicOut,
        LinkKind::NicIn,
        LinkKind::NvlinkOut,
        LinkKind::NvlinkIn,
        LinkKind::SpineUp,
        LinkKind::SpineDown,
    ];
    let kinds = kinds.into_iter().filter_map(|kind| kind_use(kind, links, busy)).collect();
    order.sort_by_key(|&link| (std::cmp::Reverse(busy[link as usize]), link));
    order.truncate(LISTED);
    let busiest = order
        .into_iter()
        .map(|link| LinkUse { link: links.link(link), busy: microseconds(busy[link as usize] as f64) })
        .collect();
    Phase {
        time: Tail { mean: microseconds(mean), median: quantile(0.5), p99: quantile(0.99), max: quantile(1.0) },
        slowest: Gpu(slowest as u32),
        kinds,
        busiest,
    }
}

fn kind_use(kind: LinkKind, links: &Links, busy: &[Picoseconds]) -> Option<KindUse> {
    let of_kind = (0..busy.len() as u32).filter(|&link| links.link(link).kind() == kind);
    let times: Vec<Picoseconds> = of_kind.map(|link| busy[link as usize]).collect();
    let max = times.iter().copied().max().filter(|&max| max > 0)?;
    let mean = times.iter().map(|&time| time as f64).sum::<f64>() / times.len() as f64;
    Some(KindUse { kind, links: times.len() as u32, mean_busy: microseconds(mean), max_busy: microseconds(max as f64) })
}
