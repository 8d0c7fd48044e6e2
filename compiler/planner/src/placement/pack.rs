//! Balanced packing: things with weights into bins that hold equally many.
//!
//! Invariant: every bin receives exactly its room. Heaviest first, each into the lightest bin with room (ties: the thing and the bin that
//! come first). It is where the local search starts.

/// The bin of each thing. `filled` is what is in each bin already; the rooms must add up to the number of things.
pub(super) fn pack(weights: &[f64], mut filled: Vec<f64>, mut room: Vec<usize>) -> Vec<usize> {
    debug_assert_eq!(room.iter().sum::<usize>(), weights.len());
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut bins = vec![0; weights.len()];
    for thing in order {
        let mut lightest: Option<usize> = None;
        for bin in 0..room.len() {
            if room[bin] > 0 && lightest.is_none_or(|found| filled[bin] < filled[found]) {
                lightest = Some(bin);
            }
        }
        // The rooms add up, so that one is left for every thing.
        let Some(bin) = lightest else { break };
        filled[bin] += weights[thing];
        room[bin] -= 1;
        bins[thing] = bin;
    }
    bins
}
