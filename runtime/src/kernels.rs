//! The kernels of a bundle, loaded on every rank of this process.
//!
//! Invariant: ranks that share a GPU leave room on it for each other, so that what waits never keeps off what it waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use moe_bundle::{Bundle, KernelEntry};
use moe_contract::{Grid, Kernel, RankId};

use crate::device::{Device, FunctionId, Residency, StreamId, Waiting};
use crate::error::{Error, Result};

/// The kernels of a bundle, loaded on every rank of this process.
pub(crate) struct Kernels {
    loaded: BTreeMap<Kernel, Loaded>,
    /// The first rank of this process.
    first: RankId,
    /// Of each rank, where whichever kernel of the bundle has least room.
    places: Vec<Residency>,
}

/// One of them.
pub(crate) struct Loaded {
    pub entry: KernelEntry,
    /// One for each rank of this process.
    pub functions: Vec<FunctionId>,
}

impl Kernels {
    /// Loads the kernels of the best target and checks that ranks which share a GPU cannot keep each other off it.
    pub fn load(device: &Arc<dyn Device>, bundle: &Bundle) -> Result<Kernels> {
        let manifest = bundle.manifest();
        let targets = manifest.targets();
        let target = device.choose_target(&targets).ok_or_else(|| Error::NoTarget {
            bundle: if targets.is_empty() { "no target".into() } else { targets.join(", ") },
            device: device.description(),
        })?;
        let mut loaded = BTreeMap::new();
        let mut places: BTreeMap<RankId, Residency> = BTreeMap::new();
        for entry in manifest.kernels.iter().filter(|entry| entry.target == target) {
            let (ptx, name) = (bundle.ptx(entry), entry.kernel.name());
            let mut functions = Vec::new();
            for rank in device.mine().map(RankId) {
                let function = match bundle.cubin(entry) {
                    Some(cubin) => device.load_assembled(rank, cubin, ptx, name)?,
                    None => device.load(rank, ptx, name)?,
                };
                let residency = device.residency(function, entry.block, entry.shared)?;
                let known = places.entry(rank).or_insert(residency);
                known.ctas = known.ctas.min(residency.ctas);
                functions.push(function);
            }
            loaded.insert(entry.kernel, Loaded { entry: entry.clone(), functions });
        }
        leave_room(&mut loaded, &places);
        let kernels = Kernels { loaded, first: RankId(device.mine().start), places: places.into_values().collect() };
        let waits = kernels.most_waiting();
        waits
            .map_or(Ok(()), |(kernel, ctas)| kernels.places.iter().try_for_each(|&place| fits(kernel, ctas, place)))?;
        Ok(kernels)
    }

    /// One of them, which a bundle need not have.
    pub fn loaded(&self, kernel: Kernel) -> Result<&Loaded> {
        self.loaded.get(&kernel).ok_or(Error::NoKernel(kernel))
    }

    /// Of a rank of this process, its place among them.
    pub fn place(&self, rank: RankId) -> usize {
        (rank.0 - self.first.0) as usize
    }

    /// Which kernel a function is, and of which rank.
    pub fn of(&self, function: FunctionId) -> Option<(Kernel, RankId)> {
        self.loaded.iter().find_map(|(&kernel, loaded)| {
            let rank = loaded.functions.iter().position(|&known| known == function)?;
            Some((kernel, RankId(self.first.0 + rank as u32)))
        })
    }

    /// The kernel that waits with most CTAs, and how many.
    fn most_waiting(&self) -> Option<(Kernel, u32)> {
        let waiting = self.loaded.iter().filter(|(kernel, _)| kernel.row().waits.is_some());
        waiting.map(|(&kernel, loaded)| (kernel, loaded.entry.grid.ctas(0))).max_by_key(|&(_, ctas)| ctas)
    }

    /// What a rank may wait with in a stream.
    pub fn waiting(&self, world: u64, rank: RankId, stream: StreamId) -> Option<Waiting> {
        let (kernel, ctas) = self.most_waiting()?;
        let Residency { gpu, ctas: resident, .. } = *self.places.get(self.place(rank))?;
        Some(Waiting { world, rank, stream, gpu, kernel, ctas, resident })
    }
}

/// Where ranks share a GPU, kernels that wait and whose CTAs nobody counts have fewer of them, so that [`fits`] holds.
fn leave_room(loaded: &mut BTreeMap<Kernel, Loaded>, places: &BTreeMap<RankId, Residency>) {
    let Some(room) = places.values().filter_map(room).min() else { return };
    for (_, Loaded { entry, .. }) in loaded.iter_mut().filter(|(kernel, _)| kernel.row().waits.is_some()) {
        entry.grid = match entry.grid {
            Grid::UpTo(ctas) => Grid::UpTo(ctas.min(room)),
            grid @ (Grid::Fixed(_) | Grid::PerTokens(_)) => grid,
        };
    }
}

/// CTAs with which a rank may wait where it shares its GPU: the most for which [`fits`] holds, if there are any.
fn room(place: &Residency) -> Option<u32> {
    let others = u64::from(place.ranks.checked_sub(1).filter(|&others| others > 0)?);
    Some(u32::try_from(place.ctas.saturating_sub(1) / others).unwrap_or(u32::MAX).max(1))
}

/// A CTA that waits occupies its place until the rank it waits for has sent. While all ranks but one of a GPU wait, the last one must
/// still have a place for a CTA that sends: one is enough, since those finish. `residency` counts places in which any kernel of the
/// bundle fits, so many to a multiprocessor that each takes at most one part of it: where fewer than all places are taken, a
/// multiprocessor has a free one. A rank with a GPU of its own sends before it waits, in stream order.
fn fits(kernel: Kernel, per_rank: u32, residency: Residency) -> Result<()> {
    let Residency { ctas: resident, ranks, .. } = residency;
    if ranks > 1 && u64::from(per_rank) * u64::from(ranks - 1) >= resident {
        return Err(Error::Residency { kernel, per_rank, ranks, resident });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_counts_takes_the_room_that_there_is() {
        for (ctas, ranks) in [(132, 2), (132, 3), (264, 8), (1056, 72), (5, 5)] {
            let place = Residency { gpu: 0, ctas, ranks };
            let most = room(&place).expect("it is shared");
            assert_eq!(fits(Kernel::CombineReduce, most, place), Ok(()), "{place:?}");
            assert!(fits(Kernel::CombineReduce, most + 1, place).is_err(), "{place:?}");
        }
        assert_eq!(room(&Residency { gpu: 0, ctas: 132, ranks: 1 }), None, "it is alone");
        let crowded = Residency { gpu: 0, ctas: 4, ranks: 5 };
        assert!(fits(Kernel::CombineReduce, room(&crowded).expect("it is shared"), crowded).is_err(), "not even one");
    }

    #[test]
    fn waiting_ranks_leave_room_for_the_last_one() {
        let shared = |ranks| Residency { gpu: 0, ctas: 264, ranks };
        assert_eq!(fits(Kernel::CombineReduce, 37, shared(8)), Ok(()), "259 of 7 ranks wait, 5 places are left");
        assert_eq!(
            fits(Kernel::CombineReduce, 1000, shared(1)),
            Ok(()),
            "a GPU of its own has room for what comes in turn"
        );
        let error = fits(Kernel::CombineReduce, 38, shared(8)).expect_err("266 CTAs");
        assert_eq!(
            error.to_string(),
            "too many ranks for one GPU: kernel `combine_reduce` waits with 38 CTAs on each of 8 ranks, and the GPU holds 264 of them \
             at once; use fewer ranks, more GPUs, or a plan with fewer CTAs"
        );
    }
}
