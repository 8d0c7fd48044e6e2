//! How many copies each expert gets.
//!
//! Invariant: every expert has a copy, and no other numbers of copies with the same sum have a smaller largest load per copy.
//! *Why giving each extra copy to the largest load per copy is optimal (it is water filling):* let T be the best largest load per copy.
//! An expert needs ⌈load / T⌉ copies to be at most T, and the best solution affords that for all. While something is above T, the next
//! copy goes to an expert above T, which has fewer than it needs; so none is ever wasted before all are at most T.

/// The experts of the extra copies, in the order in which they are given. Ties go to the expert that comes first.
///
/// `copies` says how many each has already, at least 1.
pub(super) fn extra_copies(loads: &[f64], mut copies: Vec<usize>, extra: usize) -> Vec<usize> {
    let nothing = loads.iter().all(|&load| load == 0.0);
    let mut given = Vec::with_capacity(extra);
    for _ in 0..extra {
        // Without any load the copies are spread evenly: nothing else is known of the experts.
        let weight = |expert: usize| if nothing { 1.0 } else { loads[expert] } / copies[expert] as f64;
        let mut largest = 0;
        for expert in 1..loads.len() {
            if weight(expert) > weight(largest) {
                largest = expert;
            }
        }
        copies[largest] += 1;
        given.push(largest);
    }
    given
}

/// The smallest possible largest load per copy, when every expert has one and `extra` more are given.
pub(super) fn smallest_share(loads: &[f64], extra: usize) -> f64 {
    let mut copies = vec![1; loads.len()];
    for expert in extra_copies(loads, copies.clone(), extra) {
        copies[expert] += 1;
    }
    loads.iter().zip(copies).map(|(&load, copies)| load / copies as f64).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use moe_random::Random;

    use super::*;

    /// By trying all numbers of copies.
    fn best(loads: &[f64], extra: usize) -> f64 {
        let Some((&load, rest)) = loads.split_first() else { return 0.0 };
        (0..=extra).map(|more| (load / (1 + more) as f64).max(best(rest, extra - more))).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn no_other_numbers_of_copies_are_better() {
        let mut random = Random::stream(3, 0);
        for case in 0..300 {
            let loads: Vec<f64> = (0..=(case % 5)).map(|_| random.below(50) as f64).collect();
            let extra = random.index(7);
            assert_eq!(smallest_share(&loads, extra), best(&loads, extra), "{loads:?}, {extra} more");
        }
    }
}
