//! Local search for a smaller largest load.
//!
//! Invariant: no step raises the largest load of a GPU. A step is an exchange of two slots, or a copy of one expert turned into a copy of
//! another, after which every GPU that it touches is below the largest load before; the steps end because each takes a GPU away from the
//! largest load and adds none, or with the work of the layer.

use moe_random::Random;

use super::layout::{Change, Layout};

/// Differences below this part of the mean load are rounding.
pub(super) const TOLERANCE: f64 = 1e-9;

/// Changes of a kick, 1 to this many: enough to leave the valley, few enough to stay near.
const KICK: usize = 4;
/// When no more than this part is left to the bound, the search has nothing to win.
const CLOSE_ENOUGH: f64 = 1e-3;

/// Steps of steepest descent until the largest load is at most `target` or no step lowers it.
pub(super) fn descend(layout: &mut Layout, target: f64) {
    let tolerance = TOLERANCE * layout.gpu_load().iter().sum::<f64>() / layout.grid.gpus() as f64;
    loop {
        let fullest = layout.fullest();
        let most = layout.max_load();
        if most <= target || layout.work.is_used_up() {
            return;
        }
        match best_step(layout, fullest, most - tolerance) {
            Some(step) => layout.apply(step),
            None => return,
        }
    }
}

/// The step after which the GPUs that it touches, this one among them, have the smallest largest load below `limit`.
fn best_step(layout: &Layout, gpu: usize, mut limit: f64) -> Option<Change> {
    let mut best = None;
    let mut consider = |change: Change| {
        if !layout.work.is_used_up()
            && layout.allows(change)
            && let Some(most) = layout.after(change, limit)
        {
            limit = most;
            best = Some(change);
        }
    };
    let own = layout.grid.slots_of_gpu(gpu);
    let scope = layout.scope(gpu);
    for slot in own.clone() {
        let expert = layout.slots()[slot];
        let share = layout.share(expert);
        for other in scope.clone() {
            // Lighter to here; and a further copy of this expert elsewhere, which makes this one lighter.
            if layout.share(layout.slots()[other]) < share {
                consider(Change::Exchange(slot, other));
            }
            consider(Change::Recopy(other, expert));
        }
        if layout.copies(expert).len() > 1 {
            for new in 0..layout.experts() {
                if layout.share(new) < share * 2.0 {
                    consider(Change::Recopy(slot, new));
                }
            }
        }
    }
    best
}

/// Descends, then again from the neighbourhood of the best found, `rounds` times or until the `bound` is near.
pub(super) fn search<'a>(mut layout: Layout<'a>, bound: f64, rounds: u32, random: &mut Random) -> Layout<'a> {
    descend(&mut layout, bound);
    let mut best = layout;
    for _ in 0..rounds {
        if best.max_load() <= bound * (1.0 + CLOSE_ENOUGH) || best.work.is_used_up() {
            break;
        }
        let mut trial = best.clone();
        for _ in 0..=random.index(KICK) {
            let own = trial.grid.slots_of_gpu(trial.fullest());
            let slot = own.start + random.index(own.len());
            let scope = trial.scope(trial.grid.gpu(slot));
            let other = scope.start + random.index(scope.len());
            let change = if random.below(2) == 0 {
                Change::Exchange(slot, other)
            } else {
                Change::Recopy(other, trial.slots()[slot])
            };
            if trial.allows(change) {
                trial.apply(change);
            }
        }
        descend(&mut trial, bound);
        // Equally good is taken too: plateaus are wide.
        if trial.max_load() <= best.max_load() {
            best = trial;
        }
    }
    best
}
