//! A run of bytes, which of them are initialised, and the list of waiters that want to hear of writes.
//!
//! Invariants: callers check bounds before they ask for a span; the bytes stay where they are for as long as their keeper lives.

use std::ptr::NonNull;

use super::initialised::Initialised;

/// Who waits for a write: a ticket that the engine gave to a parked split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub start: u64,
    pub end: u64,
    pub ticket: u64,
}

/// Memory that somebody else has too, for example another process.
pub struct Lent {
    bytes: NonNull<[u8]>,
    keeper: Box<dyn Send + Sync>,
}

impl Lent {
    /// `keeper` is dropped when nothing uses the bytes any more.
    ///
    /// # Safety
    /// As long as the keeper lives, the bytes are initialised memory that can be read and written, and that nobody writes while kernels use it.
    pub unsafe fn new(bytes: NonNull<[u8]>, keeper: Box<dyn Send + Sync>) -> Lent {
        Lent { bytes, keeper }
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Who has the memory.
enum Keeper {
    /// The bytes, and some before and behind them.
    Own {
        _buffer: Vec<u8>,
    },
    Lender {
        _keeper: Box<dyn Send + Sync>,
    },
}

pub(crate) struct Segment {
    bytes: NonNull<[u8]>,
    keeper: Keeper,
    initialised: Initialised,
    pub waiters: Vec<Waiter>,
}

// SAFETY: the bytes are the keeper's, who can be sent, and are reached through this value alone.
unsafe impl Send for Segment {}
// SAFETY: through a shared reference they are only read.
unsafe impl Sync for Segment {}

impl Default for Segment {
    fn default() -> Segment {
        Segment {
            bytes: NonNull::from(&mut []),
            keeper: Keeper::Own { _buffer: Vec::new() },
            initialised: Initialised::default(),
            waiters: Vec::new(),
        }
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} bytes", self.bytes.len())
    }
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
        Segment {
            bytes: NonNull::from(&mut buffer[start..start + bytes]),
            keeper: Keeper::Own { _buffer: buffer },
            initialised: Initialised::new(bytes),
            waiters: Vec::new(),
        }
    }

    /// Bytes of somebody else: all count as initialised, since nobody tells when they are written.
    pub fn over(memory: Lent) -> Segment {
        let Lent { bytes, keeper } = memory;
        Segment {
            bytes,
            keeper: Keeper::Lender { _keeper: keeper },
            initialised: Initialised::complete(bytes.len()),
            waiters: Vec::new(),
        }
    }

    pub fn is_own(&self) -> bool {
        matches!(self.keeper, Keeper::Own { .. })
    }

    #[inline(always)]
    fn all(&self) -> &[u8] {
        // SAFETY: the keeper has them, initialised; through this value nobody writes them meanwhile, and no lender does either.
        unsafe { self.bytes.as_ref() }
    }

    #[inline(always)]
    fn all_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { self.bytes.as_mut() }
    }

    /// Makes all bytes uninitialised again. They keep their values, so this is only for those who check before they read.
    pub fn forget(&mut self) {
        self.initialised.forget();
        self.waiters.clear();
    }

    #[inline]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
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
        &self.all()[offset as usize..(offset + size) as usize]
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
        &mut self.all_mut()[offset as usize..(offset + size) as usize]
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
    fn lent_bytes_count_as_written_and_are_given_back() {
        let memory: &mut [u8] = Box::leak(Box::new([7; 300]));
        let bytes = std::ptr::NonNull::from(memory);
        let keeper = std::sync::Arc::new(());
        // SAFETY: leaked above, and freed below, when nothing refers to it any more.
        let mut segment = Segment::over(unsafe { super::Lent::new(bytes, Box::new(keeper.clone())) });
        assert_eq!((segment.len(), segment.first_uninitialised(0, 300), segment.span(299, 1)), (300, None, &[7][..]));
        segment.span_mut(1, 1, &mut Vec::new())[0] = 9;
        assert!(!segment.is_own() && std::sync::Arc::strong_count(&keeper) == 2);
        drop(segment);
        // SAFETY: as above.
        let memory = unsafe { Box::from_raw(bytes.as_ptr()) };
        assert_eq!((std::sync::Arc::strong_count(&keeper), &memory[..3]), (1, &[7, 9, 7][..]));
    }

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
