//! The order of every sum. It is part of a gate's meaning: f32 addition is not associative, and all executions must give the same bits.
//!
//! The order is the one that a warp takes without waste. The experts of a token lie on [`Lanes::lanes`] lanes, [`Lanes::per_lane`]
//! neighbouring experts on each; a lane adds its own in ascending order; then lanes add pairwise at distance 1, 2, 4, … (a *butterfly*:
//! f32 addition commutes, so every lane has the same result). Places without an element count as +0.
//! The n largest of something are added from the largest to the smallest.

/// How the experts of one token lie on the lanes of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes {
    /// Lanes per token: a power of two, at most 32.
    pub lanes: u32,
    /// Experts per lane: lane l holds the experts `l × per_lane .. (l + 1) × per_lane`. A group lies within a lane, or on whole lanes.
    pub per_lane: u32,
}

impl Lanes {
    /// The fewest experts per lane with which no lane holds parts of two groups without holding both.
    pub fn of(experts: u32, group_size: Option<u32>) -> Lanes {
        let lanes = experts.next_power_of_two().min(32);
        let least = experts.div_ceil(lanes);
        let fits = |per_lane: &u32| {
            group_size.is_none_or(|size| per_lane.is_multiple_of(size) || size.is_multiple_of(*per_lane))
        };
        // The number of experts itself always fits: it is a multiple of the group size.
        let per_lane = (least..=experts).find(fits).unwrap_or(experts);
        Lanes { lanes, per_lane }
    }

    /// Lanes that hold one group, if a group is larger than a lane; otherwise 1.
    pub fn per_group(self, group_size: u32) -> u32 {
        (group_size / self.per_lane).max(1)
    }
}

/// Ascending, starting with the first. The sum of nothing is +0.
pub fn sequential(values: &[f32]) -> f32 {
    match values {
        [] => 0.0,
        [first, rest @ ..] => rest.iter().fold(*first, |sum, value| sum + value),
    }
}

/// Pairwise at distance 1, 2, 4, …, after filling up with +0 to a power of two.
pub fn butterfly(values: &[f32]) -> f32 {
    let mut level = values.to_vec();
    level.resize(values.len().next_power_of_two(), 0.0);
    while level.len() > 1 {
        level = level.chunks_exact(2).map(|pair| pair[0] + pair[1]).collect();
    }
    level[0]
}

/// The sum over all experts.
pub fn sum_experts(values: &[f32], lanes: Lanes) -> f32 {
    let mut partial: Vec<f32> = values.chunks(lanes.per_lane as usize).map(sequential_filled(lanes)).collect();
    partial.resize(lanes.lanes as usize, 0.0);
    butterfly(&partial)
}

/// A lane that is partly filled adds +0 for the rest, which only matters for −0.
fn sequential_filled(lanes: Lanes) -> impl Fn(&[f32]) -> f32 {
    move |values| {
        let sum = sequential(values);
        if values.len() < lanes.per_lane as usize { sum + 0.0 } else { sum }
    }
}

/// The sum over one group: each lane its own elements, then the lanes of the group in ascending order.
pub fn sum_group(values: &[f32], lanes: Lanes) -> f32 {
    let partial: Vec<f32> = values.chunks(lanes.per_lane as usize).map(sequential).collect();
    sequential(&partial)
}

/// The sum over the groups, ascending.
pub fn sum_groups(values: &[f32]) -> f32 {
    sequential(values)
}

/// The sum over the picks of a token, which lie on one lane each.
pub fn sum_picks(values: &[f32]) -> f32 {
    butterfly(values)
}

/// The number with −0 replaced by +0, so that numbers which tie have the same bits. What is ranked, and what a maximum gives, is
/// comparable.
pub fn comparable(value: f32) -> f32 {
    value + 0.0
}

/// The largest, [`comparable`]. NaN is skipped; the largest of nothing is −∞.
pub fn maximum(values: &[f32]) -> f32 {
    comparable(values.iter().fold(f32::NEG_INFINITY, |largest, &value| if value > largest { value } else { largest }))
}

/// All positions, from the largest value to the smallest; ties in ascending position. The values hold no NaN.
pub fn ranking(values: &[f32]) -> Vec<u32> {
    let value = |position: u32| comparable(values[position as usize]);
    let mut positions: Vec<u32> = (0..values.len() as u32).collect();
    positions.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
    positions
}

/// The positions of the `count` largest values, ascending. The values hold no NaN.
pub fn choose(values: &[f32], count: u32) -> Vec<u32> {
    let mut chosen = ranking(values);
    chosen.truncate(count as usize);
    chosen.sort_unstable();
    chosen
}

/// The `count` largest values, [`comparable`], from the largest to the smallest. The values hold no NaN.
pub fn largest(values: &[f32], count: u32) -> Vec<f32> {
    ranking(values).into_iter().take(count as usize).map(|position| comparable(values[position as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_never_split_a_group_unevenly() {
        for experts in 1..=1024u32 {
            for groups in (1..=experts).filter(|&groups| experts.is_multiple_of(groups)) {
                let size = experts / groups;
                let lanes = Lanes::of(experts, Some(size));
                assert!(lanes.lanes.is_power_of_two() && lanes.lanes <= 32);
                assert!(lanes.lanes * lanes.per_lane >= experts);
                assert!(
                    lanes.per_lane.is_multiple_of(size) || size.is_multiple_of(lanes.per_lane),
                    "{experts} in {groups}"
                );
            }
        }
    }

    #[test]
    fn known_shapes() {
        let shape = |experts, size| {
            let lanes = Lanes::of(experts, size);
            (lanes.lanes, lanes.per_lane)
        };
        assert_eq!(shape(256, Some(32)), (32, 8));
        assert_eq!(shape(160, Some(20)), (32, 5));
        assert_eq!(shape(8, None), (8, 1));
        assert_eq!(shape(384, None), (32, 12));
        assert_eq!(shape(60, Some(15)), (32, 3));
        assert_eq!(shape(96, Some(7)), (32, 7));
    }

    /// 2^24 + 1 is not an f32: the order decides what is lost.
    #[test]
    fn the_order_is_the_stated_one() {
        let big = 16_777_216.0f32;
        assert_eq!(sequential(&[big, 1.0, 1.0]), big);
        assert_eq!(sequential(&[1.0, 1.0, big]), big + 2.0);
        // (big + 1) + (1 + 0)
        assert_eq!(butterfly(&[big, 1.0, 1.0]), big);
        // (1 + 1) + (big + 0)
        assert_eq!(butterfly(&[1.0, 1.0, big]), big + 2.0);
        // Two lanes of two: (big + 1) + (1 + 1) against lanes of one: ((big + 1) + (1 + 1)).
        assert_eq!(sum_experts(&[1.0, 1.0, big, 1.0], Lanes { lanes: 2, per_lane: 2 }), big + 2.0);
        assert_eq!(sum_group(&[big, 1.0, 1.0, 1.0], Lanes { lanes: 4, per_lane: 1 }), big);
    }

    #[test]
    fn the_two_zeros_tie() {
        assert_eq!(ranking(&[-0.0, 0.0, -0.0, 1.0]), [3, 0, 1, 2]);
        assert_eq!(maximum(&[-0.0, -0.0]).to_bits(), 0);
        assert_eq!(largest(&[-0.0, -1.0], 1)[0].to_bits(), 0);
        assert_eq!(maximum(&[]), f32::NEG_INFINITY);
        assert_eq!(maximum(&[1.0, f32::NAN, 0.0]), 1.0);
    }
}
