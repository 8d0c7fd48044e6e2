//! How long kernels took on a device that times them.

use std::collections::BTreeMap;
use std::time::Duration;

use moe_contract::Kernel;
use moe_runtime::KernelTime;
use moe_runtime::communicator::together;

/// For each kernel, its launches, each on all ranks together.
#[derive(Clone, Debug, Default)]
pub struct Times(BTreeMap<Kernel, Vec<Duration>>);

impl Times {
    /// Adds launches.
    pub fn add(&mut self, times: &[KernelTime]) {
        for (kernel, time) in together(times) {
            self.0.entry(kernel).or_default().push(time);
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
    use moe_contract::RankId;

    use super::*;

    #[test]
    fn the_median_of_all_launches_is_taken() {
        let at = Duration::from_micros;
        let time = |end| KernelTime { kernel: Kernel::Gate, rank: RankId(0), gpu: 0, start: at(0), end: at(end) };
        let mut times = Times::default();
        times.add(&[time(9), time(3)]);
        times.add(&[time(4)]);
        assert_eq!(times.of(Kernel::Gate), Some(4.0), "of 9, 3 and 4");
        assert_eq!(times.of(Kernel::Route), None);
    }
}
