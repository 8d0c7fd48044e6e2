//! Loads and stores of a warp at once; an observer is told of rows only. What all lanes access lies in one allocation nearly always, so
//! that it is found, checked and counted once.
//!
//! Invariant: an access that is not in order in every lane changes nothing here; the way lane by lane then finds whom to
//! blame, and why.

use super::Machine;
use super::addresses::Addresses;
use super::probe::{Watch, Watched};
use super::registers::{MOST, broadcast, collect, distribute};
use super::warp::{Warp, copy_element, lanes};
use crate::decode::op::{MemoryOp, OFFSET_MASK, Space, VARIABLE_SHIFT};
use crate::memory::address::{MAX_ALLOCATION_BYTES, is_device};
use crate::memory::segment::Segment;
use crate::memory::{Address, Order};
use crate::observer::{Access, AccessKind, Location, Places, Row};

/// How what the lanes access lies in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    /// All of it is one element.
    Same,
    /// One element after the other, as the lanes are numbered.
    Row,
    /// Anyhow.
    Scattered,
}

/// A range of memory that holds everything a warp accesses.
#[derive(Debug, Clone, Copy)]
struct Span {
    pattern: Pattern,
    start: u64,
    bytes: u64,
}

impl Machine {
    /// What observers are told of an access in one piece, if they can be.
    pub(super) fn row(&mut self, warp: &Warp, op: &MemoryOp, mask: u32, kind: AccessKind, line: u32) -> Option<Row> {
        let orders = match op.order {
            Order::Weak => false,
            // It orders nothing by itself, but what is written may be read by what does.
            Order::Relaxed | Order::Volatile => kind != AccessKind::Read,
            Order::Acquire | Order::Release | Order::AcqRel | Order::SeqCst => true,
        };
        if orders || self.observers.weak().is_some() {
            return None;
        }
        let lane = mask.trailing_zeros();
        let span = span(warp, op, mask)?;
        let (start, places) = match span.pattern {
            Pattern::Row => (span.start, Places::Behind),
            Pattern::Same => (span.start, Places::Same),
            Pattern::Scattered => {
                let places = warp.addresses_plus(&op.place, 0);
                let first = places[lane as usize];
                if span.bytes > i32::MAX as u64 {
                    return None;
                }
                (first, Places::Each(places.map(|place| place.wrapping_sub(first) as i32)))
            }
        };
        let location = if device_space(op.place.space, start) {
            Location::Device(Address(start))
        } else if op.place.space == Space::Shared {
            Location::Shared(warp.cta_index, (start & u64::from(OFFSET_MASK)) as u32)
        } else {
            return None;
        };
        let MemoryOp { order, scope, proxy, .. } = *op;
        let first = Access {
            thread: warp.thread(lane),
            location,
            bytes: op.size(),
            order,
            scope,
            proxy,
            kind,
            line,
            copy: None,
        };
        Some(Row { first, lanes: mask, places })
    }

    /// False if nothing has been done.
    #[inline]
    pub(super) fn load_together(&mut self, warp: &mut Warp, op: &MemoryOp, mask: u32, pc: u32) -> bool {
        if op.place.space == Space::Param {
            return op.place.base.is_none() && load_parameter(warp, op, mask);
        }
        let size = op.size();
        let Some(span) = span(warp, op, mask) else { return false };
        let check = self.config.check_initialised;
        let (segment, offset, owner) = if device_space(op.place.space, span.start) {
            if self.device_flights.may_meet(span.start, span.bytes, false) {
                return false;
            }
            let Some(found) = self.memory.span(warp.rank, span.start, span.bytes) else { return false };
            found
        } else {
            let Some((segment, _, offset)) = self.shared_span::<false>(warp, op, span) else { return false };
            (&*segment, offset, None)
        };
        let missing = match span.pattern {
            _ if !check => false,
            Pattern::Same => segment.first_uninitialised(offset, span.bytes).is_some(),
            Pattern::Row => runs(mask).any(|run| {
                let bytes = u64::from(run.count * size);
                segment.first_uninitialised(offset + u64::from(run.behind * size), bytes).is_some()
            }),
            Pattern::Scattered => {
                let places = places(warp, op, span, offset);
                (span.bytes > NEAR || segment.first_uninitialised(offset, span.bytes).is_some())
                    && lanes(mask).any(|lane| !segment.is_initialised(places[lane as usize], size))
            }
        };
        if missing {
            return false;
        }
        if warp.probe.recording {
            note(warp, op, mask, span, owner.is_none().then_some(offset), pc);
        }
        match span.pattern {
            Pattern::Same => broadcast(warp, op, mask, segment.span(offset, span.bytes)),
            Pattern::Row if mask == u32::MAX => distribute(warp, op, mask, segment.span(offset, span.bytes)),
            Pattern::Row => {
                // Lanes outside the mask may be behind the end of the memory.
                let mut elements = [0; MOST];
                let first = (mask.trailing_zeros() * size) as usize;
                elements[first..first + span.bytes as usize].copy_from_slice(segment.span(offset, span.bytes));
                distribute(warp, op, mask, &elements[..32 * size as usize]);
            }
            Pattern::Scattered => {
                let places = places(warp, op, span, offset);
                let mut elements = [0; MOST];
                let elements = &mut elements[..32 * size as usize];
                each_lane(elements, size, mask, |lane, element| {
                    copy_element(element, segment.span(places[lane], element.len() as u64));
                });
                distribute(warp, op, mask, elements);
            }
        }
        if let Some(owner) = owner {
            self.memory.traffic.add_read(warp.rank, owner, u64::from(size) * u64::from(mask.count_ones()));
        }
        true
    }

    /// False if nothing has been done. With `COMPARES`, a store of what is there already is no effect.
    #[inline]
    pub(super) fn store_together<const COMPARES: bool>(&mut self, warp: &mut Warp, op: &MemoryOp, mask: u32) -> bool {
        let size = op.size();
        let Some(span) = span(warp, op, mask) else { return false };
        let mut owner = None;
        let (segment, woken, offset) = if device_space(op.place.space, span.start) {
            if self.device_flights.may_meet(span.start, span.bytes, true) {
                return false;
            }
            let Some((segment, woken, offset, rank)) = self.memory.span_mut(warp.rank, span.start, span.bytes) else {
                return false;
            };
            owner = Some(rank);
            (segment, woken, offset)
        } else {
            let Some(found) = self.shared_span::<true>(warp, op, span) else { return false };
            found
        };
        let mut changed = !COMPARES;
        let mut put = |place, bytes: &[u8]| {
            if COMPARES {
                changed |= segment.store_changed(place, bytes, woken);
            } else {
                copy_element(segment.span_mut(place, bytes.len() as u64, woken), bytes);
            }
        };
        match span.pattern {
            Pattern::Row if mask == u32::MAX && !COMPARES => {
                collect(warp, op, segment.span_mut(offset, span.bytes, woken));
            }
            Pattern::Row => {
                let mut elements = [0; MOST];
                let elements = &mut elements[..32 * size as usize];
                collect(warp, op, elements);
                for run in runs(mask) {
                    let (from, bytes) = ((run.first * size) as usize, (run.count * size) as usize);
                    put(offset + u64::from(run.behind * size), &elements[from..from + bytes]);
                }
            }
            Pattern::Same | Pattern::Scattered => {
                let places = places(warp, op, span, offset);
                let mut elements = [0; MOST];
                let elements = &mut elements[..32 * size as usize];
                collect(warp, op, elements);
                each_lane(elements, size, mask, |lane, element| put(places[lane], element));
            }
        }
        warp.effects += u64::from(changed);
        if let Some(owner) = owner {
            self.memory.traffic.add_written(warp.rank, owner, u64::from(size) * u64::from(mask.count_ones()));
        }
        true
    }

    /// The CTA's shared memory if the range lies in one variable of it and no copy may be in the way, the list of the woken, and where
    /// the range begins.
    #[inline]
    fn shared_span<const WRITES: bool>(
        &mut self,
        warp: &Warp,
        op: &MemoryOp,
        span: Span,
    ) -> Option<(&mut Segment, &mut Vec<u64>, u64)> {
        let cta = self.ctas[warp.cta as usize].as_mut()?;
        let &(start, end) = cta.variables.get((span.start >> VARIABLE_SHIFT) as usize)?;
        let offset = span.start & u64::from(OFFSET_MASK);
        let inside =
            op.place.space == Space::Shared && offset >= u64::from(start) && offset + span.bytes <= u64::from(end);
        let inside = inside && !cta.flights.may_meet(offset, span.bytes, WRITES);
        inside.then_some((&mut cta.shared, &mut self.memory.woken, offset))
    }
}

/// The range that the lanes access, if each is aligned.
#[inline(always)]
fn span(warp: &Warp, op: &MemoryOp, mask: u32) -> Option<Span> {
    let size = u64::from(op.size());
    let offset = op.place.offset.cast_unsigned();
    let (pattern, start, bytes, bits) = match warp.addresses(&op.place, op.size(), mask)? {
        Addresses::Same(first) => (Pattern::Same, first, size, first.wrapping_add(offset)),
        Addresses::Row(zero) => {
            let (low, high) = (mask.trailing_zeros(), mask.ilog2());
            let start = zero.wrapping_add(u64::from(low) * size);
            (Pattern::Row, start, u64::from(high - low + 1) * size, start.wrapping_add(offset))
        }
        Addresses::Scattered { least, most, bits } => {
            (Pattern::Scattered, least, (most - least).saturating_add(size), bits | offset)
        }
    };
    let fits = bits & (size - 1) == 0 && bytes <= MAX_ALLOCATION_BYTES;
    fits.then_some(Span { pattern, start: start.wrapping_add(offset), bytes })
}

/// Ranges up to this are looked at as a whole.
const NEAR: u64 = 4096;

/// Where the lanes' elements are in the segment in which the range begins at `offset`.
#[inline(always)]
fn places(warp: &Warp, op: &MemoryOp, span: Span, offset: u64) -> [u64; 32] {
    warp.addresses_plus(&op.place, offset.wrapping_sub(span.start))
}

/// Calls a function for each lane of a mask with its element. The usual sizes are known to the compiler.
#[inline(always)]
fn each_lane(elements: &mut [u8], size: u32, mask: u32, mut run: impl FnMut(usize, &mut [u8])) {
    #[inline(always)]
    fn fixed<const N: usize>(elements: &mut [u8], mask: u32, mut run: impl FnMut(usize, &mut [u8])) {
        for (lane, element) in elements.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                run(lane, element);
            }
        }
    }
    match size {
        4 => fixed::<4>(elements, mask, run),
        8 => fixed::<8>(elements, mask, run),
        16 => fixed::<16>(elements, mask, run),
        size => {
            let size = size as usize;
            lanes(mask).for_each(|lane| run(lane as usize, &mut elements[lane as usize * size..][..size]));
        }
    }
}

/// Lanes of a mask that follow each other.
struct Run {
    first: u32,
    count: u32,
    /// How far it is behind the first lane of the mask.
    behind: u32,
}

fn runs(mask: u32) -> impl Iterator<Item = Run> {
    let low = mask.trailing_zeros();
    let mut rest = mask;
    std::iter::from_fn(move || {
        let first = (rest != 0).then(|| rest.trailing_zeros())?;
        let count = (rest >> first).trailing_ones();
        rest &= !(u32::MAX >> (32 - count) << first);
        Some(Run { first, count, behind: first - low })
    })
}

fn load_parameter(warp: &mut Warp, op: &MemoryOp, mask: u32) -> bool {
    let size = op.size() as usize;
    let mut element = [0; 32];
    let source = usize::try_from(op.place.offset).ok().and_then(|at| warp.parameters.get(at..)?.get(..size));
    let Some(source) = source.filter(|_| op.place.offset.cast_unsigned().is_multiple_of(size as u64)) else {
        return false;
    };
    element[..size].copy_from_slice(source);
    broadcast(warp, op, mask, &element[..size]);
    true
}

/// Writes down what a polling loop reads; `shared` is where the range begins in shared memory, if it is there.
#[cold]
fn note(warp: &mut Warp, op: &MemoryOp, mask: u32, span: Span, shared: Option<u64>, pc: u32) {
    let (element, memory) = (op.size(), shared.map_or(Watched::Device, |_| Watched::Shared(warp.cta)));
    let begin = shared.unwrap_or(span.start);
    if span.pattern != Pattern::Scattered && mask == u32::MAX {
        let bytes = span.bytes as u32;
        warp.probe.read(Watch { memory, start: begin, bytes, element, pc, lane: 0 });
        return;
    }
    for lane in lanes(mask) {
        let start = begin + (warp.address(&op.place, lane) - span.start);
        warp.probe.read(Watch { memory, start, bytes: element, element, pc, lane });
    }
}

#[inline(always)]
pub(super) fn device_space(space: Space, address: u64) -> bool {
    matches!(space, Space::Global | Space::Generic) && is_device(address)
}
