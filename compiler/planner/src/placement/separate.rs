//! No GPU with two copies of one expert, where load allows.
//!
//! Invariant: the largest load stays at most the limit, and no GPU gets a second copy of what it holds. The second copy takes memory and
//! serves nobody whom the first would not serve; it is left only where the expert needs more copies than there are GPUs to hold them.

use super::layout::{Change, Layout};

/// Slots that hold what an earlier slot of the same GPU holds.
pub(super) fn doubled<'a>(layout: &'a Layout) -> impl Iterator<Item = usize> + 'a {
    let grid = layout.grid;
    (0..layout.slots().len()).filter(move |&slot| {
        let before = grid.slots_of_gpu(grid.gpu(slot)).start..slot;
        layout.slots()[before].contains(&layout.slots()[slot])
    })
}

/// Exchanges second copies, or turns them into copies of other experts.
pub(super) fn separate(layout: &mut Layout, limit: f64) {
    while !layout.work.is_used_up() {
        layout.work.spend(layout.slots().len() * layout.grid.per_gpu);
        let change = doubled(layout).find_map(|slot| way_out(layout, slot, limit));
        match change {
            Some(change) => layout.apply(change),
            None => return,
        }
    }
}

/// The change that leaves the least load, of those that give this slot something that its GPU does not hold.
fn way_out(layout: &Layout, slot: usize, limit: f64) -> Option<Change> {
    let gpu = layout.grid.gpu(slot);
    let scope = layout.scope(gpu);
    let exchanges = scope
        .clone()
        .filter(|&other| {
            !layout.holds(gpu, layout.slots()[other]) && !layout.holds(layout.grid.gpu(other), layout.slots()[slot])
        })
        .map(|other| Change::Exchange(slot, other));
    let copies =
        (0..layout.experts()).filter(|&expert| !layout.holds(gpu, expert)).map(|expert| Change::Recopy(slot, expert));
    exchanges
        .chain(copies)
        .filter(|&change| layout.allows(change))
        .filter_map(|change| Some((layout.after(change, f64::INFINITY)?, change)))
        .filter(|&(most, _)| most <= limit)
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, change)| change)
}
