//! Mbarriers: objects of 8 bytes in shared memory that count arrivals and bytes of asynchronous copies.
//!
//! Invariant: the object's bytes hold a [`State`] with its tag; a phase completes in the very step in which both its
//! pending arrivals and its pending bytes become zero.

use super::Machine;
use super::access::{Home, Manner, shared_symbol};
use super::warp::{Outcome, Trouble, Warp, bad_access, lanes};
use crate::decode::op::{KernelCode, MbarrierKind, MbarrierOp, Place};
use crate::memory::{MemoryFault, Proxy};
use crate::observer::{AccessKind, Event, MbarrierStep};

const COUNT_BITS: u32 = 20;
const MOST_COUNT: u32 = (1 << COUNT_BITS) - 1;
const BYTE_BITS: u32 = 21;
const TAG: u64 = 0b10;

/// An mbarrier, and the token that an arrival returns: `tag (2) | phase (1) | bytes (21, signed) | arrivals of a phase (20)
/// | pending arrivals (20)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    phase: bool,
    bytes: i64,
    expected: u32,
    pending: u32,
}

impl State {
    fn from_bits(bits: u64) -> Option<State> {
        if bits >> 62 != TAG {
            return None;
        }
        let count = |at: u32| (bits >> at) as u32 & MOST_COUNT;
        let bytes = (bits << 3).cast_signed() >> (64 - BYTE_BITS);
        Some(State { phase: bits >> 61 & 1 == 1, bytes, expected: count(COUNT_BITS), pending: count(0) })
    }

    fn to_bits(self) -> u64 {
        let bytes = self.bytes.cast_unsigned() & ((1 << BYTE_BITS) - 1);
        TAG << 62
            | u64::from(self.phase) << 61
            | bytes << (2 * COUNT_BITS)
            | u64::from(self.expected) << COUNT_BITS
            | u64::from(self.pending)
    }

    /// Whether it completes a phase.
    fn complete_if_done(&mut self) -> bool {
        let done = self.pending == 0 && self.bytes == 0;
        if done {
            self.phase = !self.phase;
            self.pending = self.expected;
        }
        done
    }

    fn arrive(&mut self, count: u32) -> Result<(), String> {
        if count > self.pending {
            return Err(format!("{count} arrivals at an mbarrier whose phase has {} pending", self.pending));
        }
        self.pending -= count;
        Ok(())
    }

    fn expect(&mut self, bytes: i64) -> Result<(), String> {
        self.bytes += bytes;
        let most = i64::from(MOST_COUNT);
        if (-most..=most).contains(&self.bytes) {
            return Ok(());
        }
        Err(format!("an mbarrier counts at most {most} bytes, here are {}", self.bytes))
    }
}

impl Machine {
    pub(super) fn mbarrier(
        &mut self,
        warp: &mut Warp,
        op: &MbarrierOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        for lane in lanes(mask) {
            let (address, home) = self.place_of(warp, &op.place, 8, lane, true)?;
            let fail = |fault| bad_access(lane, address, 8, fault);
            let Home::Shared { cta, offset } = home else {
                return Err(fail(MemoryFault::WrongSpace { expected: "shared", found: "global" }));
            };
            if cta != warp.cta && !reaches_peers(&op.kind) {
                return Err(fail(MemoryFault::WrongSpace { expected: "shared::cta", found: "shared::cluster" }));
            }
            let at = (cta, offset);
            let word = |row: u32| warp.u32(row, lane);
            let mut completes = false;
            match op.kind {
                MbarrierKind::Init { count } => {
                    let count = word(count);
                    if !(1..=MOST_COUNT).contains(&count) {
                        let what = format!("an mbarrier counts from 1 to {MOST_COUNT} arrivals, not {count}");
                        return Err(fail(MemoryFault::BadObject(what)));
                    }
                    let state = State { phase: false, bytes: 0, expected: count, pending: count };
                    self.put(warp, home, &state.to_bits().to_le_bytes()).map_err(fail)?;
                }
                MbarrierKind::Invalidate => {
                    self.change(warp, code, at, |_| Ok(())).map_err(fail)?;
                    self.put(warp, home, &[0; 8]).map_err(fail)?;
                }
                MbarrierKind::Arrive { count, expect, drop, state, complete } => {
                    let count = count.map_or(1, word);
                    let expect = expect.map_or(0, word);
                    let changed = self.change(warp, code, at, |state| {
                        state.expect(expect.into())?;
                        state.arrive(count)?;
                        if drop {
                            state.expected = state.expected.saturating_sub(count);
                        }
                        if !complete && state.pending == 0 && state.bytes == 0 {
                            return Err("an arrival with .noComplete completes the phase".into());
                        }
                        Ok(())
                    });
                    let before;
                    (before, completes) = changed.map_err(fail)?;
                    if let Some(reg) = state {
                        warp.set_value(reg, lane, before.into());
                    }
                }
                MbarrierKind::ExpectTransactions { bytes } => {
                    let bytes = word(bytes);
                    let changed = self.change(warp, code, at, |state| state.expect(bytes.into()));
                    (_, completes) = changed.map_err(fail)?;
                }
                MbarrierKind::CompleteTransactions { bytes } => {
                    let bytes = word(bytes);
                    let changed = self.change(warp, code, at, |state| state.expect(-i64::from(bytes)));
                    (_, completes) = changed.map_err(fail)?;
                }
                MbarrierKind::Test { state, parity, target } => {
                    let bits = self.read_mbarrier(warp, code, at).map_err(fail)?;
                    let phase = match (state, parity) {
                        (Some(token), _) => {
                            let token = warp.value(token, lane) as u64;
                            let Some(token) = State::from_bits(token) else {
                                let what = "the state operand is not what an arrival returned";
                                return Err(fail(MemoryFault::BadObject(what.into())));
                            };
                            token.phase
                        }
                        (None, Some(parity)) => word(parity) & 1 == 1,
                        (None, None) => false,
                    };
                    let done = bits.phase != phase;
                    warp.set_predicate(target, 1 << lane, if done { u32::MAX } else { 0 });
                    self.note_read(warp, home, 8, pc, lane);
                }
            }
            if !self.observers.is_empty() {
                let (kind, step) = match op.kind {
                    MbarrierKind::Init { .. } | MbarrierKind::Invalidate => {
                        (AccessKind::Write, Some(MbarrierStep::Made))
                    }
                    MbarrierKind::Test { target, .. } => {
                        let done = warp.predicate(target) >> lane & 1 == 1;
                        (AccessKind::Read, done.then_some(MbarrierStep::Passed(op.order, op.scope)))
                    }
                    MbarrierKind::Arrive { .. } => {
                        (AccessKind::Atomic, Some(MbarrierStep::Arrived(op.order, op.scope)))
                    }
                    MbarrierKind::ExpectTransactions { .. } | MbarrierKind::CompleteTransactions { .. } => {
                        (AccessKind::Atomic, None)
                    }
                };
                let (order, scope, line) = (op.order, op.scope, code.lines[pc as usize]);
                self.show(warp, lane, home, 8, Manner { order, scope, proxy: Proxy::Generic, kind, line });
                let thread = warp.thread(lane);
                let cta = self.ctas[cta as usize].as_ref().map_or(warp.cta_index, |cta| cta.index);
                if let Some(step) = step {
                    self.observers.tell(|| Event::Mbarrier { thread, cta, offset, step, line });
                }
                if completes {
                    let step = MbarrierStep::PhaseComplete;
                    self.observers.tell(|| Event::Mbarrier { thread, cta, offset, step, line });
                }
            }
        }
        Ok(())
    }

    fn read_mbarrier(
        &mut self,
        warp: &Warp,
        code: &KernelCode,
        (cta, offset): (u32, u32),
    ) -> Result<State, MemoryFault> {
        let bytes = self.bytes_at(warp, code, Home::Shared { cta, offset }, 8)?;
        let bits = bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
        State::from_bits(bits).ok_or_else(|| not_an_mbarrier(self.shared_name(warp.cta, code, cta, offset.into())))
    }

    /// Changes an mbarrier for a warp; its bits before, and whether that completes a phase.
    fn change(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        (cta, offset): (u32, u32),
        change: impl FnOnce(&mut State) -> Result<(), String>,
    ) -> Result<(u64, bool), MemoryFault> {
        warp.effects += 1;
        self.bytes_at(warp, code, Home::Shared { cta, offset }, 8)?;
        self.change_mbarrier(code, (cta, offset), change)
    }

    /// Changes an mbarrier of a CTA; its bits before, and whether that completes a phase.
    pub(super) fn change_mbarrier(
        &mut self,
        code: &KernelCode,
        (slot, offset): (u32, u32),
        change: impl FnOnce(&mut State) -> Result<(), String>,
    ) -> Result<(u64, bool), MemoryFault> {
        let Some(cta) = &mut self.ctas[slot as usize] else { return Err(MemoryFault::NotAnAddress) };
        let bytes = cta.shared.span(offset.into(), 8);
        let bits = bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
        let Some(mut state) = State::from_bits(bits) else {
            return Err(not_an_mbarrier(format!("`{}`", shared_symbol(code, offset.into()))));
        };
        change(&mut state).map_err(MemoryFault::BadObject)?;
        let completes = state.complete_if_done();
        let target = cta.shared.span_mut(offset.into(), 8, &mut self.memory.woken);
        target.copy_from_slice(&state.to_bits().to_le_bytes());
        Ok((bits, completes))
    }

    /// Bytes of an asynchronous copy have arrived. Whether that completes a phase.
    pub(super) fn complete_bytes(
        &mut self,
        code: &KernelCode,
        at: (u32, u32),
        bytes: u32,
    ) -> Result<bool, MemoryFault> {
        self.change_mbarrier(code, at, |state| state.expect(-i64::from(bytes))).map(|(_, completes)| completes)
    }

    /// The arrival of a thread's small copies. Whether that completes a phase.
    pub(super) fn arrive_late(&mut self, code: &KernelCode, at: (u32, u32)) -> Result<bool, MemoryFault> {
        self.change_mbarrier(code, at, |state| state.arrive(1)).map(|(_, completes)| completes)
    }

    /// `cp.async.mbarrier.arrive`: announces the arrival that follows when the thread's copies are done.
    pub(super) fn announce_arrival(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        place: &Place,
        lane: u32,
        increment: bool,
    ) -> Outcome<(u32, u32)> {
        let (address, home) = self.place_of(warp, place, 8, lane, true)?;
        let fail = |fault| bad_access(lane, address, 8, fault);
        let Home::Shared { cta, offset } = home else {
            return Err(fail(MemoryFault::WrongSpace { expected: "shared", found: "global" }));
        };
        if cta != warp.cta {
            return Err(fail(MemoryFault::WrongSpace { expected: "shared::cta", found: "shared::cluster" }));
        }
        let announced = self.change(warp, code, (cta, offset), |state| {
            state.pending += u32::from(increment);
            if state.pending > MOST_COUNT { Err("too many pending arrivals".into()) } else { Ok(()) }
        });
        announced.map_err(|fault| -> Box<Trouble> { fail(fault) })?;
        Ok((cta, offset))
    }
}

/// Whether threads of other CTAs of the cluster may do it.
fn reaches_peers(kind: &MbarrierKind) -> bool {
    match kind {
        MbarrierKind::Init { .. } | MbarrierKind::Invalidate | MbarrierKind::Test { .. } => false,
        MbarrierKind::Arrive { state, complete, .. } => state.is_none() && *complete,
        MbarrierKind::ExpectTransactions { .. } | MbarrierKind::CompleteTransactions { .. } => true,
    }
}

/// An mbarrier in words, from its bits.
pub(super) fn in_words(bits: u64) -> Option<String> {
    let State { phase, bytes, expected, pending } = State::from_bits(bits)?;
    let parity = u8::from(phase);
    let arrivals = format!("{pending} of {expected} arrivals are missing");
    Some(match bytes {
        0 => format!("its phase of parity {parity} is not complete, {arrivals}"),
        bytes if bytes > 0 => format!("its phase of parity {parity} is not complete, {arrivals}, and {bytes} bytes"),
        bytes => format!(
            "its phase of parity {parity} is not complete, {arrivals}; {} bytes came that nobody expects",
            -bytes
        ),
    })
}

fn not_an_mbarrier(name: String) -> MemoryFault {
    MemoryFault::BadObject(format!("{name} is not an initialised mbarrier"))
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn bits_hold_every_field() {
        for bytes in [-1_048_575, -1, 0, 5, 1_048_575] {
            let state = State { phase: true, bytes, expected: 1_048_575, pending: 77 };
            assert_eq!(State::from_bits(state.to_bits()), Some(state));
        }
        assert_eq!(State::from_bits(0), None);
    }

    #[test]
    fn a_phase_needs_arrivals_and_bytes() {
        let mut state = State { phase: false, bytes: 0, expected: 1, pending: 1 };
        state.expect(64).unwrap();
        state.arrive(1).unwrap();
        state.complete_if_done();
        assert!(!state.phase);
        state.expect(-64).unwrap();
        state.complete_if_done();
        assert!(state.phase);
        assert_eq!(state.pending, 1);
        assert!(state.arrive(2).is_err());
    }
}
