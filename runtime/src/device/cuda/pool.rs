//! Freed memory of a GPU, kept for the next allocation: asking the driver costs more than most kernels take.
//!
//! Invariants:
//! * what was freed serves again only after everything launched before has finished, so that no launch can still use it, whichever stream
//!   it is in;
//! * sizes are rounded up by at most an eighth, so that tensors whose rows vary from call to call find what their last call left.

use std::collections::BTreeMap;

/// An address and the size it really has.
type Block = (u64, u64);

/// Memory of one GPU.
#[derive(Default)]
pub(super) struct Pool {
    /// By address.
    used: BTreeMap<u64, u64>,
    /// Freed, but launches may still use it: so many had been made.
    resting: Vec<(u64, Block)>,
    /// By size.
    free: BTreeMap<u64, Vec<u64>>,
}

/// The driver aligns and sizes in such steps anyway.
const LEAST: u64 = 512;

/// So many bytes or up to an eighth more.
fn rounded(bytes: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 16).max(LEAST);
    bytes.next_multiple_of(step)
}

impl Pool {
    /// Memory that was freed, or what `ask` gives for a size. If that fails, everything that is free goes back and it is asked again.
    pub fn allocate<E>(
        &mut self,
        bytes: u64,
        mut ask: impl FnMut(u64) -> Result<u64, E>,
        give_back: impl FnMut(u64),
    ) -> Result<u64, E> {
        let size = rounded(bytes);
        let found = self.free.get_mut(&size).and_then(Vec::pop);
        let address = match found {
            Some(address) => address,
            None => match ask(size) {
                Ok(address) => address,
                Err(_) => {
                    self.release(give_back);
                    ask(size)?
                }
            },
        };
        self.used.insert(address, size);
        Ok(address)
    }

    /// Keeps memory for later; `launched` launches have been made so far. Unknown addresses are ignored.
    pub fn free(&mut self, address: u64, launched: u64) {
        if let Some(size) = self.used.remove(&address) {
            self.resting.push((launched, (address, size)));
        }
    }

    /// The first `finished` launches have finished.
    pub fn rest_is_over(&mut self, finished: u64) {
        for (_, (address, size)) in self.resting.extract_if(.., |(launched, _)| *launched <= finished) {
            self.free.entry(size).or_default().push(address);
        }
    }

    /// Gives back what is free.
    pub fn release(&mut self, give_back: impl FnMut(u64)) {
        std::mem::take(&mut self.free).into_values().flatten().for_each(give_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_serves_again_when_nothing_runs() {
        let mut pool = Pool::default();
        let mut next = 0;
        let mut ask = |_| -> Result<u64, ()> {
            next += 1;
            Ok(next)
        };
        let none = |_| panic!("nothing is given back");
        assert_eq!(pool.allocate(10_000, &mut ask, none), Ok(1));
        pool.free(1, 5);
        pool.rest_is_over(4);
        assert_eq!(pool.allocate(10_000, &mut ask, none), Ok(2), "the fifth launch may still use the first");
        pool.rest_is_over(5);
        assert_eq!(pool.allocate(10_001, &mut ask, none), Ok(1), "nearly the same size");
        assert_eq!(pool.allocate(20_000, &mut ask, none), Ok(3));
    }

    #[test]
    fn without_memory_left_what_is_free_goes_back_first() {
        let mut pool = Pool::default();
        assert_eq!(pool.allocate(1 << 20, |_| Ok::<u64, ()>(7), |_| ()), Ok(7));
        pool.free(7, 0);
        pool.rest_is_over(0);
        let (mut asked, mut returned) = (0, vec![]);
        let full = |_| {
            asked += 1;
            if asked == 1 { Err("full") } else { Ok(8) }
        };
        assert_eq!(pool.allocate(2 << 20, full, |address| returned.push(address)), Ok(8));
        assert_eq!(returned, [7]);
    }

    #[test]
    fn sizes_grow_by_an_eighth_at_most() {
        for bytes in [1, 511, 513, 4096, 100_000, 7 << 20, (7 << 20) + 1, u64::from(u32::MAX)] {
            let size = rounded(bytes);
            assert!(size >= bytes && (size - bytes <= bytes / 8 || size - bytes < LEAST), "{bytes} to {size}");
        }
    }
}
