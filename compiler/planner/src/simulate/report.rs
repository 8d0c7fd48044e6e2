//! What a simulation shows: when each phase ended, and which links were busy.

use moe_front::units::Microseconds;
use schemars::JsonSchema;
use serde::Serialize;

use super::bounds::Bounds;
use super::links::Links;
use super::queue::Picoseconds;
use super::record::Record;
use super::{GpuId, Link, LinkKind, Scenario};

/// Links and GPUs that are listed one by one.
const LISTED: usize = 8;

/// One dispatch and one combine.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Outcome {
    /// GPUs of the cluster.
    pub gpus: u32,
    /// Chunks that travelled.
    pub chunks: u64,
    /// Events that were handled.
    pub events: u64,
    /// From the start until a GPU has all copies for its experts.
    pub dispatch: PhaseOutcome,
    /// From the moment a GPU begins to send back until it has all its tokens back.
    pub combine: PhaseOutcome,
    /// From the start until the last GPU has its tokens back; none where the time of the experts is not known.
    pub total: Option<Microseconds>,
    /// What no schedule can beat.
    pub bounds: Bounds,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PhaseOutcome {
    /// Over the GPUs.
    pub time: Tail,
    /// The GPUs that took longest, the slowest first.
    pub slowest: Vec<GpuTime>,
    /// Of each GPU.
    pub by_gpu: Vec<Microseconds>,
    /// Links by kind, those that carried bytes.
    pub kinds: Vec<KindUse>,
    /// The links that were busy longest.
    pub busiest: Vec<LinkUse>,
}

impl PhaseOutcome {
    /// The part of the slowest GPU's time during which links of a kind carry bytes: on average, and the busiest of them.
    pub(crate) fn utilisation(&self, kind: LinkKind) -> Option<(f64, f64)> {
        let of_kind = self.kinds.iter().find(|of| of.kind == kind)?;
        let whole = self.time.max.0;
        (whole > 0.0).then(|| (of_kind.mean_busy.0 / whole, of_kind.max_busy.0 / whole))
    }
}

/// One GPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct GpuTime {
    /// Which.
    pub gpu: GpuId,
    /// How long it took.
    pub time: Microseconds,
}

/// A distribution over GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct LinkUse {
    /// Which.
    #[serde(flatten)]
    pub link: Link,
    /// Time that it carried bytes.
    pub busy: Microseconds,
}

pub(super) fn summarise(scenario: &Scenario, links: &Links, record: &Record, bounds: Bounds) -> Outcome {
    let combine_time: Vec<Picoseconds> =
        record.combined.iter().zip(&record.combine_began).map(|(&end, &began)| end.saturating_sub(began)).collect();
    let last = record.combined.iter().chain(&record.combine_began).max().copied().unwrap_or(0);
    Outcome {
        gpus: scenario.gpus(),
        chunks: scenario.chunks(),
        events: record.events,
        dispatch: phase(&record.dispatched, links, &record.busy(0, links.count())),
        combine: phase(&combine_time, links, &record.busy(1, links.count())),
        total: scenario.demand.expert_time.map(|_| microseconds(last as f64)),
        bounds,
    }
}

fn microseconds(picoseconds: f64) -> Microseconds {
    Microseconds(picoseconds * 1e-6)
}

fn phase(times: &[Picoseconds], links: &Links, busy: &[Picoseconds]) -> PhaseOutcome {
    let mut by_time: Vec<u32> = (0..times.len() as u32).collect();
    by_time.sort_by_key(|&gpu| (std::cmp::Reverse(times[gpu as usize]), gpu));
    let time = |gpu: u32| microseconds(times[gpu as usize] as f64);
    let quantile = |share: f64| {
        let faster = (share * times.len() as f64).ceil() as usize;
        time(by_time[times.len() - faster.clamp(1, times.len())])
    };
    let mean = times.iter().map(|&time| time as f64).sum::<f64>() / times.len() as f64;
    let mut order: Vec<u32> = (0..busy.len() as u32).filter(|&link| busy[link as usize] > 0).collect();
    order.sort_by_key(|&link| (std::cmp::Reverse(busy[link as usize]), link));
    let busiest = order.into_iter().take(LISTED);
    PhaseOutcome {
        time: Tail { mean: microseconds(mean), median: quantile(0.5), p99: quantile(0.99), max: quantile(1.0) },
        slowest: by_time.iter().take(LISTED).map(|&gpu| GpuTime { gpu: GpuId(gpu), time: time(gpu) }).collect(),
        by_gpu: (0..times.len() as u32).map(time).collect(),
        kinds: LinkKind::ALL.into_iter().filter_map(|kind| kind_use(kind, links, busy)).collect(),
        busiest: busiest
            .map(|link| LinkUse { link: links.link(link), busy: microseconds(busy[link as usize] as f64) })
            .collect(),
    }
}

fn kind_use(kind: LinkKind, links: &Links, busy: &[Picoseconds]) -> Option<KindUse> {
    let of_kind = (0..busy.len() as u32).filter(|&link| links.link(link).kind() == kind);
    let times: Vec<Picoseconds> = of_kind.map(|link| busy[link as usize]).collect();
    let max = times.iter().copied().max().filter(|&max| max > 0)?;
    let mean = times.iter().map(|&time| time as f64).sum::<f64>() / times.len() as f64;
    Some(KindUse { kind, links: times.len() as u32, mean_busy: microseconds(mean), max_busy: microseconds(max as f64) })
}
