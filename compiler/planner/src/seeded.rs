//! Random numbers that are the same everywhere.
//!
//! Invariant: the stream is a function of seed and stream number alone (SplitMix64, Steele, Lea and Flood 2014), so that a
//! recorded placement or simulation can be repeated years later, whatever a random number crate changes.

/// A stream of random numbers.
pub(crate) struct Seeded(u64);

impl Seeded {
    /// The given stream of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Self(seed);
        let base = mixed.next();
        let mut stream = Self(base ^ stream.wrapping_mul(0xD605_BBB5_8C8A_BBFD));
        stream.next();
        stream
    }

    /// 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// At least 0 and below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `limit`, which must not be 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// Brings a slice into random order.
    pub fn shuffle<T>(&mut self, slice: &mut [T]) {
        for last in (1..slice.len()).rev() {
            slice.swap(last, self.below(last + 1));
        }
    }
}
