//! How long kernels took on a device that times them.

use std::collections::BTreeMap;
use std::time::Duration;

use moe_bundle::{Kernel, RankId};
use moe_runtime::KernelTime;

/// For each kernel, its launches: each on all ranks together, from the first start to the last end.
#[derive(Clone, Debug, Default)]
pub struct Times(BTreeMap<Kernel, Vec<Duration>>);

impl Times {
    /// Adds launches in the order in which each rank made them.
    pub fn add(&mut self, times: &[KernelTime]) {
        let mut of_ranks: BTreeMap<(Kernel, RankId), Vec<&KernelTime>> = BTreeMap::new();
        for time in times {
            of_ranks.entry((time.kernel, time.rank)).or_default().push(time);
        }
        let mut calls: BTreeMap<(Kernel, usize), (Duration, Duration)> = BTreeMap::new();
        for ((kernel, _), times) in of_ranks {
            for (call, time) in times.into_iter().enumerate() {
                let (start, end) = calls.entry((kernel, call)).or_insert((time.start, time.end));
                (*start, *end) = ((*start).min(time.start), (*end).max(time.end));
            }
        }
        for ((kernel, _), (start, end)) in calls {
            self.0.entry(kernel).or_default().push(end.saturating_sub(start));
        }
    }

    /// The median in microseconds; none if the kernel was not timed.
    pub fn of(&self, kernel: Kernel) -> Option<f64> {
        let mut times = self.0.get(&kernel)?.clone();
        times.sort_unstable();
        times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(rank: u32, start: u64, end: u64) -> KernelTime {
        let at = Duration::from_micros;
        KernelTime { kernel: Kernel::Gate, rank: RankId(rank), start: at(start), end: at(end) }
    }

    #[test]
    fn a_launch_is_as_long_as_all_ranks_together_and_the_median_is_taken() {
        let mut times = Times::default();
        times.add(&[time(0, 0, 5), time(0, 20, 21), time(1, 2, 9), time(1, 20, 23)]);
        times.add(&[time(0, 50, 54), time(1, 50, 51)]);
        assert_eq!(times.of(Kernel::Gate), Some(4.0), "of 9, 3 and 4");
        assert_eq!(times.of(Kernel::Layout), None);
    }
}
