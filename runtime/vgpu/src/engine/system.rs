//! The functions that a driver provides to kernels: assertions end a run with their text, printing prints nothing.

use super::Machine;
use super::report::FaultKind;
use super::warp::{Outcome, Trouble, Warp, lanes};
use crate::decode::op::{SystemCall, SystemFunction};

const LONGEST_TEXT: u64 = 400;

impl Machine {
    pub(super) fn system_call(&mut self, warp: &mut Warp, call: &SystemCall, mask: u32) -> Outcome<()> {
        match call.function {
            SystemFunction::Print => {
                let Some((offset, bytes)) = call.result else { return Ok(()) };
                for lane in lanes(mask) {
                    let at = u64::from(lane) * u64::from(warp.local_bytes) + u64::from(offset);
                    warp.effects += 1;
                    warp.local.span_mut(at, bytes.into(), &mut Vec::new()).fill(0);
                }
                Ok(())
            }
            SystemFunction::AssertFail => {
                let lane = mask.trailing_zeros();
                let argument = |index: usize| {
                    let (offset, bytes) = call.arguments.get(index).copied().unwrap_or_default();
                    let at = u64::from(lane) * u64::from(warp.local_bytes) + u64::from(offset);
                    let mut value = [0; 8];
                    let bytes = bytes.min(8) as usize;
                    value[..bytes].copy_from_slice(warp.local.span(at, bytes as u64));
                    u64::from_le_bytes(value)
                };
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
