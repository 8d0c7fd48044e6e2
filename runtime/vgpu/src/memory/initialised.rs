//! Which bytes of a segment have been written: one bit for each block that is known to be complete, and one for each byte of
//! the others. Payloads are written in whole blocks, so that the bits of their bytes are never touched: they would cost an
//! eighth of the payload's traffic.
//!
//! Invariant: a byte is initialised if the bit of its block or its own is set.

/// Bytes of a block.
const BLOCK: u64 = 128;

#[derive(Debug, Default)]
pub(crate) struct Initialised {
    blocks: Vec<u64>,
    bytes: Vec<u64>,
}

impl Initialised {
    pub fn new(bytes: usize) -> Initialised {
        let blocks = bytes.div_ceil(BLOCK as usize);
        Initialised { blocks: vec![0; blocks.div_ceil(64)], bytes: vec![0; blocks * (BLOCK as usize / 64)] }
    }

    /// All of them are initialised.
    pub fn complete(bytes: usize) -> Initialised {
        let mut made = Initialised::new(bytes);
        made.blocks.fill(u64::MAX);
        made
    }

    /// Makes all bytes uninitialised.
    pub fn forget(&mut self) {
        self.blocks.fill(0);
        self.bytes.fill(0);
    }

    /// First uninitialised byte of a range, if any.
    #[inline]
    pub fn first_missing(&self, offset: u64, size: u64) -> Option<u64> {
        if size == 0 || all_set(&self.blocks, offset / BLOCK, (offset + size - 1) / BLOCK) {
            return None;
        }
        self.search(offset, size)
    }

    fn search(&self, offset: u64, size: u64) -> Option<u64> {
        let end = offset + size;
        let mut at = offset;
        while at < end {
            let next = ((at / BLOCK + 1) * BLOCK).min(end);
            if !is_set(&self.blocks, at / BLOCK) && !all_set(&self.bytes, at, next - 1) {
                return (at..next).find(|byte| !is_set(&self.bytes, *byte));
            }
            at = next;
        }
        None
    }

    /// Whether `size` bytes are initialised, which is a power of two of at most 32 and divides the offset.
    #[inline(always)]
    pub fn has(&self, offset: u64, size: u32) -> bool {
        let wanted = u64::MAX >> (64 - size);
        is_set(&self.blocks, offset / BLOCK) || self.bytes[(offset / 64) as usize] >> (offset % 64) & wanted == wanted
    }

    /// Makes a range initialised.
    #[inline]
    pub fn mark(&mut self, offset: u64, size: u64) {
        let end = offset + size;
        let (first, last) = (offset.div_ceil(BLOCK), end / BLOCK);
        if first < last {
            set(&mut self.blocks, first, last - 1);
            if offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK) {
                return;
            }
            self.mark_bytes(offset, first * BLOCK);
            self.mark_bytes(last * BLOCK, end);
        } else {
            let border = (last * BLOCK).clamp(offset, end);
            self.mark_bytes(offset, border);
            self.mark_bytes(border, end);
        }
    }

    /// Makes one byte uninitialised.
    pub fn unmark(&mut self, at: u64) {
        let block = at / BLOCK;
        if is_set(&self.blocks, block) {
            self.blocks[(block / 64) as usize] &= !(1 << (block % 64));
            set(&mut self.bytes, block * BLOCK, block * BLOCK + BLOCK - 1);
        }
        self.bytes[(at / 64) as usize] &= !(1 << (at % 64));
    }

    /// Makes bytes of one block initialised.
    fn mark_bytes(&mut self, start: u64, end: u64) {
        let block = start / BLOCK;
        if start == end || is_set(&self.blocks, block) {
            return;
        }
        set(&mut self.bytes, start, end - 1);
        if all_set(&self.bytes, block * BLOCK, block * BLOCK + BLOCK - 1) {
            set(&mut self.blocks, block, block);
        }
    }
}

#[inline(always)]
fn is_set(words: &[u64], bit: u64) -> bool {
    words[(bit / 64) as usize] >> (bit % 64) & 1 != 0
}

/// The bits from `first` to `last` in the words that hold them: those of the first word and those of the last.
#[inline(always)]
fn ends(first: u64, last: u64) -> (u64, u64) {
    (u64::MAX << (first % 64), u64::MAX >> (63 - last % 64))
}

#[inline(always)]
fn all_set(words: &[u64], first: u64, last: u64) -> bool {
    let (head, tail) = ends(first, last);
    match &words[(first / 64) as usize..=(last / 64) as usize] {
        [only] => !only & head & tail == 0,
        [first, middle @ .., last] => {
            !first & head == 0 && !last & tail == 0 && middle.iter().all(|word| *word == u64::MAX)
        }
        [] => true,
    }
}

#[inline(always)]
fn set(words: &mut [u64], first: u64, last: u64) {
    let (head, tail) = ends(first, last);
    match &mut words[(first / 64) as usize..=(last / 64) as usize] {
        [only] => *only |= head & tail,
        [first, middle @ .., last] => {
            *first |= head;
            middle.fill(u64::MAX);
            *last |= tail;
        }
        [] => {}
    }
}

#[cfg(test)]
mod tests {
    use moe_random::Random;

    use super::Initialised;

    /// Ranges around the borders of blocks and words, against one flag per byte.
    #[test]
    fn ranges_agree_with_a_flag_for_each_byte() {
        const BYTES: usize = 1000;
        let mut random = Random::new(1);
        for _ in 0..200 {
            let (mut initialised, mut flags) = (Initialised::new(BYTES), [false; BYTES]);
            for _ in 0..20 {
                let mut next = |below: usize| random.index(below);
                let (start, asked) = (next(BYTES), next(BYTES));
                let (end, asked_end) = ((start + next(300)).min(BYTES), (asked + next(300)).min(BYTES));
                let (start, end) = if next(3) == 0 { (start / 128 * 128, end / 128 * 128) } else { (start, end) };
                if start < end {
                    initialised.mark(start as u64, (end - start) as u64);
                    flags[start..end].fill(true);
                }
                if next(4) == 0 {
                    initialised.unmark(asked as u64);
                    flags[asked] = false;
                }
                let missing = (asked..asked_end).find(|at| !flags[*at]).map(|at| at as u64);
                assert_eq!(initialised.first_missing(asked as u64, (asked_end - asked) as u64), missing);
                let (at, size) = (asked / 32 * 32, 1 << next(6));
                let all = at + size <= BYTES && flags[at..at + size].iter().all(|flag| *flag);
                if at + size <= BYTES {
                    assert_eq!(initialised.has(at as u64, size as u32), all);
                }
            }
            initialised.forget();
            assert_eq!(initialised.first_missing(0, BYTES as u64), Some(0));
        }
    }
}
