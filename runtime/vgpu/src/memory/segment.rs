//! A run of bytes, which of them are initialised, and the list of waiters that want to hear of writes.
//!
//! Invariant: callers check bounds before they ask for a span.

use super::initialised::Initialised;

/// Who waits for a write: a ticket that the engine gave to a parked split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub start: u64,
    pub end: u64,
    pub ticket: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// Its bytes, and some before and behind them.
    buffer: Vec<u8>,
    start: usize,
    size: usize,
    initialised: Initialised,
    pub waiters: Vec<Waiter>,
}

impl Segment {
    /// Zeroed but uninitialised bytes; untouched pages cost nothing.
    pub fn new(bytes: usize) -> Segment {
        if bytes == 0 {
            return Segment::default();
        }
        let align = if bytes >= 2 * LARGE_PAGE { LARGE_PAGE } else { LINE };
        let mut buffer = vec![0; bytes + align - 1];
        let start = buffer.as_ptr().align_offset(align).min(align - 1);
        if align == LARGE_PAGE {
            use_large_pages(&mut buffer[start..start + bytes]);
        }
        Segment { buffer, start, size: bytes, initialised: Initialised::new(bytes), waiters: Vec::new() }
    }

    /// Makes all bytes uninitialised again. They keep their values, so this is only for those who check before they read.
    pub fn forget(&mut self) {
        self.initialised.forget();
        self.waiters.clear();
    }

    #[inline]
    pub fn len(&self) -> u64 {
        self.size as u64
    }

    /// Whether `[offset, offset + size)` lies inside.
    #[inline]
    pub fn holds(&self, offset: i64, size: u64) -> bool {
        offset >= 0 && offset.cast_unsigned() + size <= self.len()
    }

    /// First uninitialised byte of the range, if any.
    #[inline]
    pub fn first_uninitialised(&self, offset: u64, size: u64) -> Option<u64> {
        self.initialised.first_missing(offset, size)
    }

    /// Whether `size` bytes are initialised, which is a power of two of at most 32 and divides the offset.
    #[inline(always)]
    pub fn is_initialised(&self, offset: u64, size: u32) -> bool {
        self.initialised.has(offset, size)
    }

    #[inline]
    pub fn span(&self, offset: u64, size: u64) -> &[u8] {
        &self.buffer[self.start..][..self.size][offset as usize..(offset + size) as usize]
    }

    /// Makes one byte undefined. It keeps its value.
    pub fn make_undefined(&mut self, offset: u64) {
        self.initialised.unmark(offset);
    }

    /// Bytes to be overwritten by the caller: marks them initialised and tells the waiters.
    #[inline]
    pub fn span_mut(&mut self, offset: u64, size: u64, woken: &mut Vec<u64>) -> &mut [u8] {
        self.initialised.mark(offset, size);
        if !self.waiters.is_empty() {
            self.wake(offset, size, woken);
        }
        &mut self.buffer[self.start..][..self.size][offset as usize..(offset + size) as usize]
    }

    /// Writes bytes. Whether they or their initialisation changed; only then waiters are woken.
    pub fn store_changed(&mut self, offset: u64, bytes: &[u8], woken: &mut Vec<u64>) -> bool {
        let size = bytes.len() as u64;
        if self.span(offset, size) == bytes && self.first_uninitialised(offset, size).is_none() {
            return false;
        }
        self.span_mut(offset, size, woken).copy_from_slice(bytes);
        true
    }

    /// Replaces bytes by a function of them. Whether they changed; only then waiters are woken.
    pub fn update(
        &mut self,
        offset: u64,
        size: u64,
        woken: &mut Vec<u64>,
        change: impl FnOnce(&[u8], &mut [u8]),
    ) -> bool {
        let mut buffer = [0; 16];
        let new = &mut buffer[..size as usize];
        let old = self.span(offset, size);
        change(old, new);
        if old == new {
            return false;
        }
        let new = buffer;
        self.span_mut(offset, size, woken).copy_from_slice(&new[..size as usize]);
        true
    }

    #[cold]
    fn wake(&mut self, offset: u64, size: u64, woken: &mut Vec<u64>) {
        self.waiters.retain(|waiter| {
            let hit = waiter.start < offset + size && offset < waiter.end;
            if hit && !woken.contains(&waiter.ticket) {
                woken.push(waiter.ticket);
            }
            !hit
        });
    }
}

/// What a warp accesses at once is aligned to this nearly always, and must not be in more cache lines than it has to be.
const LINE: usize = 128;
const LARGE_PAGE: usize = 2 << 20;

/// Asks for large pages: payloads are larger than what the processor can translate of small ones.
fn use_large_pages(bytes: &mut [u8]) {
    #[cfg(target_os = "linux")]
    // SAFETY: the range is memory of this process, and the advice does not change what is in it.
    unsafe {
        // It is only an advice, which a system may refuse.
        libc::madvise(bytes.as_mut_ptr().cast(), bytes.len(), libc::MADV_HUGEPAGE);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::Segment;

    #[test]
    fn a_write_wakes_only_overlapping_waiters() {
        let mut segment = Segment::new(64);
        segment.waiters.push(super::Waiter { start: 8, end: 12, ticket: 1 });
        segment.waiters.push(super::Waiter { start: 12, end: 16, ticket: 2 });
        let mut woken = Vec::new();
        segment.span_mut(12, 4, &mut woken);
        assert_eq!(woken, [2]);
        assert_eq!(segment.waiters.len(), 1);
    }
}
