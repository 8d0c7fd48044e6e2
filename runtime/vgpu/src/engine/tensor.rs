//! Copies of tensors by their maps, and changes of maps.
//!
//! Invariant: a copy looks at its map when it is issued; what it then moves is fixed.

use std::sync::Arc;

use super::Machine;
use super::access::{Home, Manner};
use super::copies::{End, Tile, Transfer};
use super::warp::{Outcome, Warp, bad_access, lanes, undefined};
use crate::decode::bulk::reduction;
use crate::decode::op::{AtomicKind, KernelCode, MapOp, Space, TensorOp};
use crate::memory::tensor::{MAP_BYTES, Piece, TensorMap, replace};
use crate::memory::{MemoryFault, Order, Proxy, Scope};
use crate::observer::{AccessKind, Event, Fence};
use crate::ptx::ScalarType;

const MAP_ALIGN: u32 = 64;
/// Of the address of a tile in shared memory.
const TILE_ALIGN: u64 = 128;

impl Machine {
    /// The place of a tensor map.
    fn map_home(&self, warp: &Warp, space: Space, address: u64, lane: u32, write: bool) -> Outcome<Home> {
        let fail = |fault| bad_access(lane, address, MAP_BYTES, fault);
        let home = self.resolve(warp, space, address, MAP_ALIGN, lane, write).map_err(fail)?;
        // Its other half.
        self.resolve(warp, space, address.wrapping_add(MAP_ALIGN.into()), MAP_ALIGN, lane, write).map_err(fail)?;
        match home {
            Home::Local(_) => Err(fail(MemoryFault::WrongSpace { expected: "global", found: "local" })),
            Home::Device(_) | Home::Shared { .. } | Home::Param(_) => Ok(home),
        }
    }

    fn show_map(&mut self, warp: &Warp, lane: u32, line: u32, home: Home, proxy: Proxy, kind: AccessKind) {
        if !self.observers.is_empty() {
            let manner = Manner { order: Order::Weak, scope: Scope::Cta, proxy, kind, line };
            if kind != AccessKind::Read {
                self.overwrite(warp, lane, home, MAP_BYTES, manner);
            }
            self.show(warp, lane, home, MAP_BYTES, manner);
        }
    }

    pub(super) fn tensor_copy(
        &mut self,
        warp: &mut Warp,
        op: &TensorOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let line = code.lines[pc as usize];
        for lane in lanes(mask) {
            let address = (warp.value(op.map, lane) as u64).wrapping_add_signed(op.map_offset);
            let fail = |fault| bad_access(lane, address, MAP_BYTES, fault);
            let home = self.map_home(warp, Space::Generic, address, lane, false)?;
            if let Home::Shared { .. } = home {
                return Err(fail(MemoryFault::WrongSpace { expected: "global", found: "shared" }));
            }
            let bytes = self.bytes_at(warp, code, home, MAP_BYTES).map_err(fail)?;
            let map = TensorMap::decode(bytes).map_err(|text| fail(MemoryFault::BadObject(text)))?;
            self.show_map(warp, lane, line, home, Proxy::TensorMap, AccessKind::Read);
            if map.dims.len() != op.coordinates.len() {
                let text =
                    format!("a tensor of {} dimensions and {} coordinates", map.dims.len(), op.coordinates.len());
                return undefined(1 << lane, text);
            }
            let reduce = match op.reduce {
                None => None,
                Some(kind) => Some((kind, element_of_reduction(kind, map.element.scalar(), lane)?)),
            };
            let bytes = map.tile_bytes() as u32;
            let at = (warp.value(op.shared, lane) as u64).wrapping_add_signed(op.shared_offset);
            let shared = self.end(warp, op.space, at, bytes, lane, op.loads)?;
            if !at.is_multiple_of(TILE_ALIGN) {
                return Err(bad_access(lane, at, bytes, MemoryFault::Misaligned { align: TILE_ALIGN as u32 }));
            }
            let End::Shared { offset, .. } = shared else { return Ok(()) };
            let coordinates: Vec<i32> =
                op.coordinates.iter().map(|reg| (warp.value(*reg, lane) as u32).cast_signed()).collect();
            let pieces = map.pieces(&coordinates, offset);
            self.check_pieces(warp, lane, &pieces, !op.loads)?;
            let tile = Arc::new(Tile { pieces, empty: if op.loads { map.empty_tile() } else { Vec::new() } });
            let global = End::Device(map.address.0);
            let (source, target) = if op.loads { (global, shared) } else { (shared, global) };
            let mbarrier = match op.mbarrier {
                None => None,
                Some((reg, offset)) => {
                    let address = (warp.value(reg, lane) as u64).wrapping_add_signed(offset);
                    Some(self.signalled(warp, op.space, address, lane, shared)?)
                }
            };
            let transfer = |machine: &Machine, warp: &Warp| Transfer {
                mbarrier,
                reduce,
                tensor: Some(Arc::clone(&tile)),
                ..machine.transfer(warp, source, target, bytes, lane, pc)
            };
            match op.multicast {
                None => {
                    let transfer = transfer(self, warp);
                    self.issue(warp, transfer, lane, (!op.loads).then_some(true))?;
                }
                Some(reg) => {
                    let ctas = warp.value(reg, lane) as u16;
                    self.multicast(warp, transfer, ctas, lane)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the tensor is in memory where the tile is.
    fn check_pieces(&self, warp: &Warp, lane: u32, pieces: &[Piece], write: bool) -> Outcome<()> {
        for piece in pieces {
            self.memory
                .locate(Some(warp.rank), piece.address, piece.bytes.into(), write)
                .map_err(|fault| bad_access(lane, piece.address, piece.bytes, fault))?;
        }
        Ok(())
    }

    pub(super) fn tensor_map(
        &mut self,
        warp: &mut Warp,
        op: &MapOp,
        mask: u32,
        pc: u32,
        code: &KernelCode,
    ) -> Outcome<()> {
        let line = code.lines[pc as usize];
        let fail = |lane, address| move |fault| bad_access(lane, address, MAP_BYTES, fault);
        match op {
            MapOp::Replace { place, field, value } => {
                for lane in lanes(mask) {
                    let address = warp.address(place, lane);
                    let home = self.map_home(warp, place.space, address, lane, true)?;
                    let found = self.bytes_at(warp, code, home, MAP_BYTES).map_err(fail(lane, address))?;
                    let Some(mut bytes) = found.first_chunk().copied() else { continue };
                    replace(&mut bytes, *field, warp.value(*value, lane) as u64);
                    self.put(warp, home, &bytes).map_err(fail(lane, address))?;
                    self.show_map(warp, lane, line, home, Proxy::Generic, AccessKind::Write);
                }
            }
            MapOp::Acquire { place, scope } => {
                for lane in lanes(mask) {
                    self.map_home(warp, place.space, warp.address(place, lane), lane, false)?;
                }
                self.tell_map_fence(warp, mask, *scope, true, line);
            }
            MapOp::CopyAndRelease { target, source, scope, .. } => {
                if mask != warp.live {
                    return undefined(
                        mask,
                        "all lanes of a warp have to execute this together, as it is .sync.aligned",
                    );
                }
                let lane = mask.trailing_zeros();
                let (to, from) = (warp.address(target, lane), warp.address(source, lane));
                if lanes(mask).any(|lane| warp.address(target, lane) != to || warp.address(source, lane) != from) {
                    return undefined(mask, "the addresses differ between the lanes of a warp");
                }
                let (to_home, from_home) = (
                    self.map_home(warp, target.space, to, lane, true)?,
                    self.map_home(warp, source.space, from, lane, false)?,
                );
                let bytes = self.bytes_at(warp, code, from_home, MAP_BYTES).map_err(fail(lane, from))?.to_vec();
                self.show_map(warp, lane, line, from_home, Proxy::Generic, AccessKind::Read);
                self.put(warp, to_home, &bytes).map_err(fail(lane, to))?;
                self.show_map(warp, lane, line, to_home, Proxy::Generic, AccessKind::Write);
                self.tell_map_fence(warp, mask, *scope, false, line);
            }
        }
        Ok(())
    }

    fn tell_map_fence(&mut self, warp: &Warp, mask: u32, scope: Scope, acquire: bool, line: u32) {
        let thread = warp.thread(mask.trailing_zeros());
        self.observers.tell(|| Event::Fence { thread, lanes: mask, fence: Fence::TensorMap { acquire }, scope, line });
    }
}

/// The type as which elements are combined; bits have none of their own in a map.
fn element_of_reduction(kind: AtomicKind, element: ScalarType, lane: u32) -> Outcome<ScalarType> {
    use ScalarType::{B32, B64, S32, S64, U32, U64};
    let element = match (kind, element) {
        (AtomicKind::And | AtomicKind::Or | AtomicKind::Xor, U32 | S32) => B32,
        (AtomicKind::And | AtomicKind::Or | AtomicKind::Xor, U64 | S64) => B64,
        // The sum of both is the same.
        (AtomicKind::Add, S64) => U64,
        (_, other) => other,
    };
    if reduction(kind, element, true) {
        return Ok(element);
    }
    undefined(1 << lane, format!("there is no such reduction of elements of type {element:?}"))
}
