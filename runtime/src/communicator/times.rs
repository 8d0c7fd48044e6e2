//! How long kernels took.

use std::collections::BTreeMap;
use std::time::Duration;

use moe_contract::{Kernel, RankId};

/// When a kernel ran on a rank. Times of ranks that share a GPU can be compared; those of different GPUs have different beginnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// The kernel that was launched.
    pub kernel: Kernel,
    /// The rank that launched it.
    pub rank: RankId,
    /// The GPU as the driver numbers it.
    pub gpu: u32,
    /// When the kernels of the rank before it had finished.
    pub start: Duration,
    /// When it had finished, its waits for other ranks included.
    pub end: Duration,
}

/// How long each launch took on all ranks together: from the first start to the last end of the ranks of a GPU, on the GPU that took longest.
/// `times` has the launches of each rank in the order in which they were made.
pub fn together(times: &[KernelTime]) -> Vec<(Kernel, Duration)> {
    let mut launched: BTreeMap<(Kernel, RankId), usize> = BTreeMap::new();
    let mut on_gpus: BTreeMap<(Kernel, usize, u32), (Duration, Duration)> = BTreeMap::new();
    for time in times {
        let call = launched.entry((time.kernel, time.rank)).or_default();
        let (start, end) = on_gpus.entry((time.kernel, *call, time.gpu)).or_insert((time.start, time.end));
        (*start, *end) = ((*start).min(time.start), (*end).max(time.end));
        *call += 1;
    }
    let mut calls: BTreeMap<(Kernel, usize), Duration> = BTreeMap::new();
    for ((kernel, call, _), (start, end)) in on_gpus {
        let longest = calls.entry((kernel, call)).or_default();
        *longest = (*longest).max(end.saturating_sub(start));
    }
    calls.into_iter().map(|((kernel, _), time)| (kernel, time)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_as_long_as_all_ranks_of_a_gpu_together() {
        let at = Duration::from_micros;
        // Ranks 0 and 1 share a GPU; the times of rank 2 have another beginning.
        let time = |rank, start, end| {
            let (start, end) = (at(start), at(end));
            KernelTime { kernel: Kernel::Gate, rank: RankId(rank), gpu: rank / 2, start, end }
        };
        let shared = [time(0, 0, 5), time(0, 20, 21), time(1, 2, 9), time(1, 20, 23)];
        let other = [time(2, 100, 104), time(2, 110, 114)];
        assert_eq!(together(&[shared.as_slice(), &other].concat()), [(Kernel::Gate, at(9)), (Kernel::Gate, at(4))]);
    }
}
