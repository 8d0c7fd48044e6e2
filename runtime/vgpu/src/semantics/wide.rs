//! Vectors of 512 bits where the processor has them. What a warp does is compiled twice, and chosen when a kernel is decoded
//! or a function is called; both versions compute the same.

/// Whether this processor has the vector instructions that the wide versions are compiled for.
#[inline(always)]
pub(crate) fn available() -> bool {
    #[cfg(test)]
    if tests::NARROW.get() {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A function in two versions. The body sees how many 32-bit lanes to compute together as the constant that is named first.
macro_rules! two_versions {
    (
        const $block:ident;
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block
    ) => {
        $(#[$attribute])*
        #[inline]
        $visibility fn $name($($argument: $type),*) -> $result {
            fn plain($($argument: $type),*) -> $result {
                #[allow(dead_code, reason = "not every body asks")]
                const $block: usize = $crate::semantics::lanes::BLOCK;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn wide($($argument: $type),*) -> $result {
                    #[allow(dead_code, reason = "not every body asks")]
                    const $block: usize = $crate::semantics::lanes::WIDE_BLOCK;
                    $body
                }
                if $crate::semantics::wide::available() {
                    // SAFETY: the processor has these instructions.
                    return unsafe { wide($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    };
}

two_versions! {
    const BLOCK;
    /// `result[lane] = values[sources[lane]]`
    pub(crate) fn permute(values: &[u32; 32], sources: &[u32; 32]) -> [u32; 32] {
        std::array::from_fn(|lane| values[(sources[lane] & 31) as usize])
    }
}

two_versions! {
    const BLOCK;
    /// A number added to the values of 8 bytes in a row.
    pub(crate) fn add_to_longs(row: &[[u8; 8]; 32], number: u64) -> [u64; 32] {
        let mut sums = [0; 32];
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum = u64::from_le_bytes(*value).wrapping_add(number);
        }
        sums
    }
}

two_versions! {
    const BLOCK;
    /// A number added to the values of 4 bytes in a row.
    pub(crate) fn add_to_words(row: &[[u8; 4]; 32], number: u64) -> [u64; 32] {
        let mut sums = [0; 32];
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum = u64::from(u32::from_le_bytes(*value)).wrapping_add(number);
        }
        sums
    }
}

two_versions! {
    const BLOCK;
    /// The lanes that have a value.
    pub(crate) fn equal_lanes(values: &[u32; 32], wanted: u32) -> u32 {
        (0..).zip(values).fold(0, |lanes, (lane, value)| lanes | u32::from(*value == wanted) << lane)
    }
}

two_versions! {
    const BLOCK;
    /// Four words of each lane to the lanes of a mask in four rows of 32 words. A shorter row stays as it is.
    pub(crate) fn words_to_rows(words: &[[[u8; 4]; 4]; 32], rows: [&mut [u8]; 4], mask: u32) -> () {
        for (word, row) in rows.into_iter().enumerate() {
            let Some(row) = row.as_chunks_mut::<4>().0.first_chunk_mut::<32>() else { continue };
            let new: [[u8; 4]; 32] = std::array::from_fn(|lane| words[lane][word]);
            if mask == u32::MAX {
                *row = new;
            } else {
                *row = std::array::from_fn(|lane| if mask >> lane & 1 == 0 { row[lane] } else { new[lane] });
            }
        }
    }
}

two_versions! {
    const BLOCK;
    /// Four rows of 32 words to four words of each lane; nothing if a row is shorter.
    pub(crate) fn rows_to_words(rows: [&[u8]; 4], words: &mut [[[u8; 4]; 4]; 32]) -> () {
        if let [Some(a), Some(b), Some(c), Some(d)] = rows.map(|row| row.as_chunks::<4>().0.first_chunk::<32>()) {
            *words = std::array::from_fn(|lane| [a[lane], b[lane], c[lane], d[lane]]);
        }
    }
}

two_versions! {
    const BLOCK;
    /// Sets the lanes of a mask in a row of 32 words; nothing if the row is shorter.
    pub(crate) fn set_words(row: &mut [u8], new: &[[u8; 4]; 32], mask: u32) -> () {
        if let Some(row) = row.as_chunks_mut::<4>().0.first_chunk_mut::<32>() {
            *row = std::array::from_fn(|lane| if mask >> lane & 1 == 0 { row[lane] } else { new[lane] });
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// This thread uses the plain versions.
        pub static NARROW: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs something with each version.
    pub fn with_both<T>(run: impl Fn() -> T) -> [T; 2] {
        [false, true].map(|narrow| {
            NARROW.set(narrow);
            let result = run();
            NARROW.set(false);
            result
        })
    }

    #[test]
    fn both_versions_move_the_same_words() {
        let words: [[[u8; 4]; 4]; 32] =
            std::array::from_fn(|lane| std::array::from_fn(|word| [lane as u8, word as u8, 3, 4]));
        let results = with_both(|| {
            let mut rows = [[9; 128]; 4];
            words_to_rows(&words, rows.each_mut().map(<[u8; 128]>::as_mut_slice), 0xfefe_fefe);
            let mut back = [[[0; 4]; 4]; 32];
            rows_to_words(rows.each_ref().map(<[u8; 128]>::as_slice), &mut back);
            back
        });
        for back in results {
            for (lane, element) in back.iter().enumerate() {
                assert_eq!(*element, if lane % 8 == 0 { [[9; 4]; 4] } else { words[lane] }, "lane {lane}");
            }
        }
    }

    #[test]
    fn both_versions_look_at_the_same_lanes() {
        let values: [u32; 32] = std::array::from_fn(|lane| lane as u32 / 3);
        let sources: [u32; 32] = std::array::from_fn(|lane| lane as u32 ^ 5);
        for (permuted, equal) in with_both(|| (permute(&values, &sources), equal_lanes(&values, 4))) {
            assert_eq!(permuted, std::array::from_fn(|lane| (lane as u32 ^ 5) / 3));
            assert_eq!(equal, 0b111 << 12);
        }
    }
}
