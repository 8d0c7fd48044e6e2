//! Calls that come back to their caller: what a thread keeps of a function while a later call of the same function runs.
//!
//! Functions have places of their own in the register file and in local memory. A function that may be called again while it runs puts what
//! is there on the stack of the thread before the call, and takes it back behind it.

use super::Machine;
use super::stored::Source;
use super::undefined::Kept;
use super::warp::{Outcome, Warp, lanes, undefined};
use crate::decode::op::{Frame, KernelCode};

/// Bytes of what a thread may keep.
const MOST_BYTES: usize = 1 << 20;

/// One call of one thread that is not over.
#[derive(Debug)]
struct Saved {
    /// Registers, one behind the other, then a byte for each predicate.
    values: Vec<u8>,
    /// Local memory, and which of its bytes are defined.
    local: Vec<(u8, bool)>,
    /// Where undefined bytes of it come from, by their number.
    stored: Vec<(usize, Source)>,
    undefined: Vec<Kept>,
}

/// What threads keep, by lane.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    lanes: [Vec<Saved>; 32],
    bytes: [usize; 32],
}

impl Machine {
    pub(super) fn save_frame(&mut self, warp: &mut Warp, code: &KernelCode, frame: u32, mask: u32) -> Outcome<()> {
        let frame = &code.frames[frame as usize];
        let mut stacks = warp.stacks.take().unwrap_or_default();
        for lane in lanes(mask) {
            let mut values = Vec::new();
            frame.registers.iter().for_each(|reg| values.extend_from_slice(warp.lane(*reg, lane)));
            values.extend(frame.predicates.iter().map(|predicate| (warp.predicate(*predicate) >> lane & 1) as u8));
            let place = |at: u32| u64::from(lane) * u64::from(warp.local_bytes) + u64::from(at);
            let local =
                frame.local.iter().flat_map(|&(offset, bytes)| offset..offset + bytes).map(|at| {
                    (warp.local.span(place(at), 1)[0], warp.local.first_uninitialised(place(at), 1).is_none())
                });
            let local: Vec<(u8, bool)> = local.collect();
            let bytes = frame.local.iter().flat_map(|&(offset, bytes)| offset..offset + bytes).enumerate();
            let missing = bytes.filter(|(number, _)| !local[*number].1);
            let stored =
                missing.filter_map(|(number, at)| Some((number, warp.stored.of(place(at))?.clone()))).collect();
            let saved = Saved { local, stored, undefined: warp.kept(frame, lane), values };
            let bytes = &mut stacks.bytes[lane as usize];
            *bytes += saved.size();
            if *bytes > MOST_BYTES {
                let deep = stacks.lanes[lane as usize].len();
                let text =
                    format!("{deep} calls of `{}` are not over: the stack of a thread ends here", frame.function);
                return undefined(1 << lane, text);
            }
            stacks.lanes[lane as usize].push(saved);
        }
        warp.stacks = Some(stacks);
        Ok(())
    }

    pub(super) fn restore_frame(&mut self, warp: &mut Warp, code: &KernelCode, frame: u32, mask: u32) {
        let frame: &Frame = &code.frames[frame as usize];
        let Some(mut stacks) = warp.stacks.take() else { return };
        for lane in lanes(mask) {
            let Some(saved) = stacks.lanes[lane as usize].pop() else { continue };
            stacks.bytes[lane as usize] -= saved.size();
            let mut at = 0;
            for reg in &frame.registers {
                let bytes = reg.bytes as usize;
                warp.lane_mut(*reg, lane).copy_from_slice(&saved.values[at..at + bytes]);
                at += bytes;
            }
            for (predicate, bit) in frame.predicates.iter().zip(&saved.values[at..]) {
                warp.set_predicate(*predicate, 1 << lane, u32::from(*bit) << lane);
            }
            let places = frame.local.iter().flat_map(|&(offset, bytes)| offset..offset + bytes);
            let mut stored = saved.stored.into_iter().peekable();
            for ((number, at), &(byte, defined)) in places.enumerate().zip(&saved.local) {
                let at = u64::from(lane) * u64::from(warp.local_bytes) + u64::from(at);
                if defined {
                    warp.local.span_mut(at, 1, &mut Vec::new())[0] = byte;
                } else {
                    warp.local.make_undefined(at);
                    let source = stored.next_if(|(of, _)| *of == number).map(|(_, source)| source);
                    warp.stored.put(at, source);
                }
            }
            warp.keep(frame, lane, saved.undefined);
        }
        warp.stacks = Some(stacks);
    }
}

impl Saved {
    fn size(&self) -> usize {
        self.values.len()
            + 2 * self.local.len()
            + size_of::<Saved>()
            + size_of::<Kept>() * self.undefined.len()
            + size_of::<Source>() * self.stored.len()
    }
}
