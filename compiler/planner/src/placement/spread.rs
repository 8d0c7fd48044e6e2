//! Fewer copies between nodes at no more load.
//!
//! Invariant: the largest load stays at most the limit, copies between nodes never become more, and how many copies an expert has does not
//! change; no GPU gets a second copy of what it holds. Only the global policy has anything to exchange: confined to its node, an expert is reached from all other nodes.

use moe_random::Random;

use super::layout::{Change, Layout};
use super::network::{Network, copies_by_node};

/// Exchanges that are weighed, per slot.
const TRIALS_PER_SLOT: usize = 32;
/// Exchanges that are drawn at most for each that is weighed; most would load a GPU too much.
const DRAWS: usize = 20;

/// Random exchanges between nodes, each kept if it is fewer copies, until these are at most `target` or the trials are used up.
pub(super) fn spread(
    layout: &mut Layout,
    loads: &[f64],
    top_k: u32,
    limit: f64,
    target: f64,
    random: &mut Random,
) -> f64 {
    let mut network = Network::of(layout, top_k, loads);
    let mut copies = network.copies();
    if layout.confined || layout.grid.nodes == 1 {
        return copies;
    }
    // Each trial costs nodes², so that big clusters get fewer of them.
    let slots = layout.slots().len();
    let mut trials = slots * TRIALS_PER_SLOT * 64 / (layout.grid.nodes * layout.grid.nodes).max(64);
    let mut draws = trials * DRAWS;
    while trials > 0 && draws > 0 && copies > target && !layout.work.is_used_up() {
        draws -= 1;
        layout.work.spend(1);
        let (a, b) = (random.index(slots), random.index(slots));
        let change = Change::Exchange(a, b);
        if layout.grid.node(a) == layout.grid.node(b)
            || !layout.allows(change)
            || layout.holds(layout.grid.gpu(a), layout.slots()[b])
            || layout.holds(layout.grid.gpu(b), layout.slots()[a])
            || layout.after(change, f64::INFINITY).is_none_or(|most| most > limit)
        {
            continue;
        }
        trials -= 1;
        layout.work.spend(layout.grid.nodes * layout.grid.nodes);
        let exchanged = [(layout.slots()[a], a, b), (layout.slots()[b], b, a)];
        let mut trial = network.clone();
        for (expert, from, to) in exchanged {
            let mut at = copies_by_node(layout, expert);
            trial.add(expert, &at, -1.0);
            at[layout.grid.node(from)] -= 1;
            at[layout.grid.node(to)] += 1;
            trial.add(expert, &at, 1.0);
        }
        if trial.copies() < copies * (1.0 - 1e-9) {
            copies = trial.copies();
            network = trial;
            layout.apply(change);
        }
    }
    // Without the rounding of the many small sums.
    Network::of(layout, top_k, loads).copies()
}
