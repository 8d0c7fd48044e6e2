//! The order of every sum. It is part of a gate's meaning: f32 addition is not associative, and all executions must give the same bits.
//!
//! The order is the one that a warp takes without waste. The experts of a token lie on [`Lanes::lanes`] lanes, up to [`Lanes::per_lane`]
//! neighbouring experts on each; a lane adds its own in ascending order; then lanes add pairwise at distance 1, 2, 4, … (a *butterfly*:
//! f32 addition commutes, so every lane has the same result). Places without an element count as +0.
//! The n largest of something are added from the largest to the smallest.

/// How the experts of one token lie on the lanes of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes {
    /// Lanes per token: a power of two, at most 32.
    pub lanes: u32,
    /// Experts per lane. No lane holds parts of two groups: a group lies within a lane, or on lanes of its own.
    pub per_lane: u32,
    /// Experts of which the first begins on a lane of its own, whether the lane before is full or not: all experts, or a group.
    pub block: u32,
}

/// Experts per lane up to which all lanes but the last are full. A warp of full lanes holds more experts than any gate has.
const FULL_MAX: u32 = 32;

impl Lanes {
    /// The fewest experts per lane with which groups fill lanes, or lanes hold whole groups. Where that are too many, because the size of
    /// the groups has no fitting divisor, each group gets as many lanes as there are for it, and its last one is not full.
    pub fn of(experts: u32, group_size: Option<u32>) -> Lanes {
        let lanes = experts.next_power_of_two().min(32);
        let least = experts.div_ceil(lanes);
        let fits = |per_lane: &u32| {
            group_size.is_none_or(|size| per_lane.is_multiple_of(size) || size.is_multiple_of(*per_lane))
        };
        // The number of experts itself always fits: it is a multiple of the group size.
        let full = Lanes { lanes, per_lane: (least..=experts).find(fits).unwrap_or(experts), block: experts };
        let lanes_of_group = |size: u32| lanes / (experts / size);
        match group_size {
            Some(size) if full.per_lane > FULL_MAX && lanes_of_group(size) > 1 => {
                let per_lane = size.div_ceil(lanes_of_group(size));
                if per_lane < full.per_lane { Lanes { lanes, per_lane, block: size } } else { full }
            }
            _ => full,
        }
    }

    /// Lanes that hold one group, if a group is larger than a lane; otherwise 1.
    pub fn per_group(self, group_size: u32) -> u32 {
        group_size.div_ceil(self.per_lane)
    }

    /// Whether the last lane of a group holds fewer experts than its others.
    pub fn fills_up_groups(self, group_size: u32) -> bool {
        group_size > self.per_lane && !group_size.is_multiple_of(self.per_lane)
    }

    /// The experts of each lane that has some.
    pub fn ranges(self, experts: u32) -> impl Iterator<Item = std::ops::Range<u32>> {
        let blocks =
            (0..experts).step_by(self.block as usize).map(move |first| first..(first + self.block).min(experts));
        blocks.flat_map(move |block| {
            let lanes = block.clone().step_by(self.per_lane as usize);
            lanes.map(move |first| first..(first + self.per_lane).min(block.end))
        })
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
    let own = |range: std::ops::Range<u32>| &values[range.start as usize..range.end as usize];
    let mut partial: Vec<f32> = lanes.ranges(values.len() as u32).map(own).map(sequential_filled(lanes)).collect();
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

/// The sum over one group: each lane its own elements, then the lanes of the group in ascending order. Within a lane nothing is filled.
pub fn sum_group(values: &[f32], lanes: Lanes) -> f32 {
    if values.len() <= lanes.per_lane as usize {
        return sequential(values);
    }
    let partial: Vec<f32> = values.chunks(lanes.per_lane as usize).map(sequential_filled(lanes)).collect();
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
    fn no_lane_holds_parts_of_two_groups() {
        for experts in 1..=1024u32 {
            for groups in (1..=experts).filter(|&groups| experts.is_multiple_of(groups)) {
                let size = experts / groups;
                let lanes = Lanes::of(experts, Some(size));
                let ranges: Vec<_> = lanes.ranges(experts).collect();
                assert!(lanes.lanes.is_power_of_two() && lanes.lanes <= 32 && ranges.len() <= lanes.lanes as usize);
                assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..experts).collect::<Vec<_>>());
                for range in ranges {
                    assert!(range.len() as u32 <= lanes.per_lane, "{experts} in {groups}: {range:?}");
                    let within_one = range.start / size == (range.end - 1) / size;
                    let whole_groups = range.start.is_multiple_of(size) && range.end.is_multiple_of(size);
                    assert!(within_one || whole_groups, "{experts} in {groups}: {range:?}");
                }
                let most = if matches!(groups, 17..=20 | 33..=40) { 62 } else { 48 };
                assert!(lanes.per_lane <= most, "{experts} in {groups}: {lanes:?}");
            }
        }
    }

    #[test]
    fn known_shapes() {
        let shape = |experts, size| {
            let lanes = Lanes::of(experts, size);
            (lanes.lanes, lanes.per_lane, lanes.block)
        };
        assert_eq!(shape(256, Some(32)), (32, 8, 256));
        assert_eq!(shape(160, Some(20)), (32, 5, 160));
        assert_eq!(shape(8, None), (8, 1, 8));
        assert_eq!(shape(384, None), (32, 12, 384));
        assert_eq!(shape(60, Some(15)), (32, 3, 60));
        assert_eq!(shape(96, Some(7)), (32, 7, 96));
        // Four lanes for each group, of which the last has 29.
        assert_eq!(shape(1000, Some(125)), (32, 32, 125));
        assert_eq!(shape(1021, Some(1021)), (32, 32, 1021));
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
        assert_eq!(sum_experts(&[1.0, 1.0, big, 1.0], Lanes { lanes: 2, per_lane: 2, block: 4 }), big + 2.0);
        // Two groups of three on two lanes each: ((big + 1) + 1) + ((1 + 0) + 0). Full lanes would add 1 and 1 first.
        let uneven = Lanes { lanes: 4, per_lane: 2, block: 3 };
        assert_eq!(uneven.ranges(6).collect::<Vec<_>>(), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(sum_experts(&[big, 1.0, 1.0, 1.0, 0.0, 0.0], uneven), big);
        assert_eq!(sum_group(&[-0.0, -0.0, -0.0], uneven).to_bits(), 0);
        assert_eq!(sum_group(&[-0.0, -0.0], uneven).to_bits(), (-0.0f32).to_bits());
        assert_eq!(sum_group(&[big, 1.0, 1.0, 1.0], Lanes { lanes: 4, per_lane: 1, block: 4 }), big);
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
