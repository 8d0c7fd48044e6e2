//! Random numbers that are the same everywhere: the only generator of the workspace.
//!
//! Invariant: what comes out is a function of the seed (and of the number of the stream) alone. Every operation is exact in integers or
//! correctly rounded, so that neither the machine nor a release of some other library can change a recorded schedule, placement or input.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood 2014): 64 bits of state, a few operations a number, good enough for schedules,
//! inputs and searches. It is not for secrets.

/// A stream of random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// One of many streams of a seed that have nothing to do with each other.
    pub fn stream(seed: u64, stream: u64) -> Random {
        let base = Random(seed).bits();
        let mut random = Random(base ^ stream.wrapping_mul(0xd605_bbb5_8c8a_bbfd));
        random.bits();
        random
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`; 0 if that is 0. The bias is at most `bound` / 2⁶⁴.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A place in something that has `length` of them.
    #[inline]
    pub fn index(&mut self, length: usize) -> usize {
        // Below `length`, so that it fits.
        self.below(length as u64) as usize
    }

    /// At least 0 and below 1, in steps of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Close to the standard normal distribution: mean 0, variance 1, none beyond ±6. It is the sum of twelve uniform numbers of 32 bits
    /// (Irwin and Hall), which needs no function that machines round differently.
    pub fn normal(&mut self) -> f32 {
        const LARGEST: i64 = u32::MAX as i64;
        let sum: i64 = (0..12).map(|_| (self.bits() >> 32) as i64).sum();
        // Twice as much, so that the mean is a whole number; below 2⁵³, so that it is an f64.
        (((2 * sum - 12 * LARGEST) as f64) / (2.0 * (1_u64 << 32) as f64)) as f32
    }

    /// Brings a slice into random order.
    pub fn shuffle<T>(&mut self, slice: &mut [T]) {
        for last in (1..slice.len()).rev() {
            slice.swap(last, self.index(last + 1));
        }
    }

    /// `count` different numbers below `bound`, in random order; all of them if there are no more. Takes time of `count` squared.
    pub fn choose(&mut self, bound: u32, count: u32) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(count.min(bound) as usize);
        while chosen.len() < count.min(bound) as usize {
            // Below `bound`, so that it fits.
            let next = self.below(u64::from(bound)) as u32;
            if !chosen.contains(&next) {
                chosen.push(next);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    /// The sequence that the authors' C program prints for the seed 1234567, as many libraries test it.
    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let found = [0; 5].map(|_| random.bits());
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(found, published);
    }

    #[test]
    fn streams_of_a_seed_differ() {
        let mut first: Vec<u64> = (0..1000).map(|stream| Random::stream(7, stream).bits()).collect();
        first.extend((0..1000).map(|seed| Random::stream(1000 + seed, 0).bits()));
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 2000);
    }

    /// Mean, variance and the fourth moment of a sum of twelve uniform numbers: 0, 1 and 3 − 6/(5 × 12) = 2.9.
    #[test]
    fn normal_numbers_have_the_moments_of_their_distribution() {
        const COUNT: i32 = 1 << 20;
        let mut random = Random::new(3);
        let mut sums = [0.0; 4];
        for _ in 0..COUNT {
            let number = f64::from(random.normal());
            assert!(number.abs() < 6.0);
            (1..).zip(&mut sums).for_each(|(power, sum)| *sum += number.powi(power));
        }
        let [mean, variance, third, fourth] = sums.map(|sum| sum / f64::from(COUNT));
        assert!(mean.abs() < 5e-3 && (variance - 1.0).abs() < 1e-2, "{mean} {variance}");
        assert!(third.abs() < 2e-2 && (fourth - 2.9).abs() < 5e-2, "{third} {fourth}");
    }

    #[test]
    fn places_are_even_and_never_beyond_the_end() {
        let mut random = Random::new(9);
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[random.index(7)] += 1);
        // Binomial: a standard deviation of 93.
        assert!(counts.iter().all(|count: &i32| (count - 10_000).abs() < 465), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.unit())));
    }

    #[test]
    fn a_shuffle_loses_nothing_and_a_choice_repeats_nothing() {
        let mut random = Random::new(4);
        let mut numbers: Vec<u32> = (0..50).collect();
        random.shuffle(&mut numbers);
        assert_ne!(numbers, (0..50).collect::<Vec<_>>());
        numbers.sort_unstable();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        let mut chosen = random.choose(10, 99);
        assert_ne!(chosen, (0..10).collect::<Vec<_>>());
        chosen.sort_unstable();
        assert_eq!(chosen, (0..10).collect::<Vec<_>>());
        assert_eq!(random.choose(0, 3), []);
        assert_eq!(random.choose(1000, 8).len(), 8);
    }
}
