//! The functions that a driver provides to kernels: assertions end a run with their text, what is printed is kept for the host.

use super::Machine;
use super::print::{Printed, formatted};
use super::report::FaultKind;
use super::warp::{Outcome, Trouble, Warp, lanes, put_low_bytes, zero_extended};
use crate::decode::op::{KernelCode, Space, SystemCall, SystemFunction};

const LONGEST_TEXT: u64 = 400;
/// Calls of which what they print is kept.
const MOST_PRINTED: usize = 10_000;

/// An argument of a call.
fn argument(warp: &Warp, call: &SystemCall, lane: u32, index: usize) -> u64 {
    let (offset, bytes) = call.arguments.get(index).copied().unwrap_or_default();
    let at = u64::from(lane) * u64::from(warp.local_bytes) + u64::from(offset);
    zero_extended(warp.local.span(at, bytes.min(8).into())) as u64
}

impl Machine {
    pub(super) fn system_call(
        &mut self,
        warp: &mut Warp,
        code: &KernelCode,
        call: &SystemCall,
        mask: u32,
    ) -> Outcome<()> {
        match call.function {
            SystemFunction::Print => {
                for lane in lanes(mask) {
                    let count = self.print(warp, code, call, lane);
                    let Some((offset, bytes)) = call.result else { continue };
                    let at = u64::from(lane) * u64::from(warp.local_bytes) + u64::from(offset);
                    warp.effects += 1;
                    let result = warp.local.span_mut(at, bytes.into(), &mut Vec::new());
                    put_low_bytes(result, count.into());
                }
                Ok(())
            }
            SystemFunction::AssertFail => {
                let lane = mask.trailing_zeros();
                let argument = |index: usize| argument(warp, call, lane, index);
                let (message, file, line, function) = (argument(0), argument(1), argument(2), argument(3));
                let text = format!(
                    "{} ({}:{line}, in {})",
                    self.text(warp.rank, message),
                    self.text(warp.rank, file),
                    self.text(warp.rank, function)
                );
                Err(Box::new(Trouble { lane, kind: FaultKind::Assertion(text) }))
            }
        }
    }

    /// Keeps what a lane prints; the number of its arguments.
    fn print(&mut self, warp: &Warp, code: &KernelCode, call: &SystemCall, lane: u32) -> u32 {
        let format = self.text(warp.rank, argument(warp, call, lane, 0));
        let arguments = argument(warp, call, lane, 1);
        let mut at = 0u64;
        let mut values: Vec<u64> = Vec::new();
        let (_, count) = formatted(
            &format,
            |bytes| {
                at = at.next_multiple_of(bytes.into());
                let place = arguments.wrapping_add(at);
                at += u64::from(bytes);
                let home = self.resolve(warp, Space::Generic, place, bytes, lane, false);
                let value = home.ok().and_then(|home| self.bytes_at(warp, code, home, bytes).ok().map(zero_extended));
                values.push(value.unwrap_or_default() as u64);
                values.last().copied().unwrap_or_default()
            },
            |_| String::new(),
        );
        let mut read = values.into_iter();
        let (text, _) = formatted(&format, |_| read.next().unwrap_or_default(), |place| self.text(warp.rank, place));
        if self.printed.len() < MOST_PRINTED {
            let site = self.site(warp, code, 0, 1 << lane);
            let thread = self.thread_index(warp, lane);
            self.printed.push(Printed { rank: site.rank, kernel: site.kernel, cta: site.cta, thread, text });
        }
        count
    }

    /// A zero-terminated string in device memory.
    fn text(&mut self, rank: u32, address: u64) -> String {
        let mut bytes = Vec::new();
        for offset in 0..LONGEST_TEXT {
            match self.memory.read_device(Some(rank), address.wrapping_add(offset), 1) {
                Ok([byte]) if *byte != 0 => bytes.push(*byte),
                _ => break,
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
