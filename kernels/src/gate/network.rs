//! Sorting in registers, without branches.
//!
//! Invariant: a list is descending. Comparators whose result nobody reads vanish in LLVM, so that the n largest cost less than a sort.
//! Numbers are no NaN; a NaN gives a wrong list, never a fault.

use crate::device::{F32, Value};

type Number<'k> = Value<'k, F32>;

/// The pairs of places that merge exchange compares, in order (Knuth, The Art of Computer Programming, 5.2.2, algorithm M), for any
/// number of places.
fn comparators(places: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    if places < 2 {
        return pairs;
    }
    let top = places.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut r, mut distance) = (top, 0, p);
        loop {
            pairs.extend((0..places - distance).filter(|place| place & p == r).map(|place| (place, place + distance)));
            if q == p {
                break;
            }
            (distance, q, r) = (q - p, q / 2, p);
        }
        p /= 2;
    }
    pairs
}

fn sort(numbers: &mut [Number<'_>]) {
    for (high, low) in comparators(numbers.len()) {
        let (a, b) = (numbers[high], numbers[low]);
        (numbers[high], numbers[low]) = (a.larger_number(b), a.smaller_number(b));
    }
}

/// The `count` largest, or all where there are fewer.
pub(super) fn largest<'k>(numbers: &[Number<'k>], count: u32) -> Vec<Number<'k>> {
    let mut list = numbers.to_vec();
    sort(&mut list);
    list.truncate(count as usize);
    list
}

/// The `count` largest of two lists of at most so many; shorter where both together have fewer.
pub(super) fn merge<'k>(a: &[Number<'k>], b: &[Number<'k>], count: u32) -> Vec<Number<'k>> {
    let count = (count as usize).min(a.len() + b.len());
    // One of a[i] and b[count − 1 − i] is among the largest: it has at most count − 1 above it in both lists.
    let mut list: Vec<_> = (0..count)
        .map(|i| match (a.get(i), b.get(count - 1 - i)) {
            (Some(&a), Some(&b)) => a.larger_number(b),
            (Some(&one), None) | (None, Some(&one)) => one,
            (None, None) => unreachable!("{count} numbers in two lists cover every place"),
        })
        .collect();
    sort(&mut list);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network that sorts every sequence of zeros and ones sorts everything.
    #[test]
    fn the_network_sorts() {
        for places in 0..=16usize {
            for bits in 0..1u32 << places {
                let mut numbers: Vec<bool> = (0..places).map(|place| bits >> place & 1 == 1).collect();
                for (high, low) in comparators(places) {
                    let (a, b) = (numbers[high], numbers[low]);
                    (numbers[high], numbers[low]) = (a | b, a & b);
                }
                assert!(numbers.is_sorted_by(|a, b| a >= b), "{places} places, {bits:b}");
            }
        }
        assert_eq!(comparators(8).len(), 19);
    }
}
