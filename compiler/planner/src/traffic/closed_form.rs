//! Means that need no sampling.

/// How many of `parts` equal parts of `experts` experts hold one of `picks` different experts that are picked at random, on average:
/// n (1 − C(E − E/n, k) / C(E, k)).
///
/// It holds for a gate without groups over independent logits: every set of experts is then equally probable.
pub fn expected_distinct(experts: u32, picks: u32, parts: u32) -> f64 {
    let missed = experts - experts / parts;
    // C(missed, k) / C(experts, k), factor by factor: no factorial overflows.
    let untouched: f64 =
        (0..picks).map(|pick| (f64::from(missed) - f64::from(pick)).max(0.0) / f64::from(experts - pick)).product();
    f64::from(parts) * (1.0 - untouched)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By counting all C(6, 2) = 15 sets of 2 of 6 experts in 3 parts: 3 sets lie in one part, 12 in two: 27 / 15.
    #[test]
    fn a_case_that_can_be_counted() {
        assert!((expected_distinct(6, 2, 3) - 27.0 / 15.0).abs() < 1e-12);
    }

    #[test]
    fn extremes() {
        assert_eq!(expected_distinct(256, 8, 1), 1.0);
        assert!((expected_distinct(256, 8, 256) - 8.0).abs() < 1e-12);
        assert_eq!(expected_distinct(8, 8, 4), 4.0);
    }
}
