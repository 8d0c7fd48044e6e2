//! Asynchronous copies: `cp.async`, `cp.async.bulk`, `cp.reduce.async.bulk`.

use super::memory::atomic_kind;
use super::modifiers::Modifiers;
use super::op::{AtomicKind, BulkDirection, BulkOp, CopyOp, Op, Reg, Space};
use super::{Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;

impl Decoder<'_> {
    pub(super) fn copy(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let reduce = m.take("reduce");
        if !m.take("async") {
            return self.fail("needs .async");
        }
        let bulk = m.take("bulk");
        if reduce && !bulk {
            return self.fail("needs .bulk");
        }
        if m.take("commit_group") {
            self.expect_count(operands, 0)?;
            self.emit(if bulk { Op::CommitBulk } else { Op::CommitCopies });
            return Ok(());
        }
        if m.take("wait_group") {
            let read = bulk && m.take("read");
            let groups = match operands {
                [Operand::Integer(groups)] => u32::try_from(*groups).ok(),
                _ => None,
            };
            let Some(groups) = groups else { return self.fail("takes a number of groups") };
            self.emit(if bulk { Op::WaitBulk { groups, read } } else { Op::WaitCopies { groups } });
            return Ok(());
        }
        if !bulk && m.take("wait_all") {
            self.expect_count(operands, 0)?;
            self.emit(Op::CommitCopies);
            self.emit(Op::WaitCopies { groups: 0 });
            return Ok(());
        }
        if !bulk && m.take("mbarrier") {
            if !m.take("arrive") {
                return self.fail("needs .arrive");
            }
            let no_increment = m.take("noinc");
            let space = self.state_space(m)?;
            self.only_type(m, ScalarType::B64)?;
            self.expect_count(operands, 1)?;
            let place = self.place(&operands[0], space)?;
            self.emit(Op::CopyArrive { place: Box::new(place), no_increment });
            return Ok(());
        }
        if !bulk {
            return self.small_copy(m, operands);
        }
        if m.take("prefetch") {
            if !m.take("L2") || self.state_space(m)? != Space::Global {
                return self.fail("needs .L2.global");
            }
            let policy = m.cache_hints();
            self.expect_count(operands, 2 + usize::from(policy))?;
            self.place(&operands[0], Space::Global)?;
            self.source(&operands[1], ScalarType::U32)?;
            self.emit(Op::Nothing);
            return Ok(());
        }
        self.bulk_copy(reduce, m, operands)
    }

    /// Base register and offset of an address operand.
    fn base(&mut self, operand: &Operand, space: Space) -> Decoded<(Reg, i64)> {
        let place = self.place(operand, space)?;
        let Some(base) = place.base else { return self.fail("an absolute address is not possible here") };
        Ok((base, place.offset))
    }

    /// `cp.async.{ca,cg}.shared.global [d], [s], 16{, bytes | , ignore};`
    fn small_copy(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let cached_near = match m.one_of(&["ca", "cg"]) {
            Some(level) => level == "ca",
            None => return self.fail("needs .ca or .cg"),
        };
        if self.state_space(m)? != Space::Shared || self.state_space(m)? != Space::Global {
            return self.fail("copies from global to shared memory only");
        }
        let policy = m.cache_hints();
        let count = operands.len().saturating_sub(usize::from(policy));
        if !(3..=4).contains(&count) {
            return self.fail("takes a destination, a source and a size");
        }
        let bytes = match operands[2] {
            Operand::Integer(16) => 16,
            Operand::Integer(bytes @ (4 | 8)) if cached_near => bytes as u32,
            _ => return self.fail("the size is 16, or with .ca 4 or 8"),
        };
        let (target, target_offset) = self.base(&operands[0], Space::Shared)?;
        let (source, source_offset) = self.base(&operands[1], Space::Global)?;
        let (mut source_bytes, mut ignore) = (None, None);
        if count == 4 {
            if self.is_predicate(&operands[3])? {
                ignore = Some(self.plain_predicate(&operands[3])?);
            } else {
                source_bytes = Some(self.source(&operands[3], ScalarType::U32)?.row);
            }
        }
        let copy = CopyOp { target, target_offset, source, source_offset, bytes, source_bytes, ignore };
        self.emit(Op::Copy(Box::new(copy)));
        Ok(())
    }

    fn bulk_copy(&mut self, reduce: bool, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let (to, from) = (self.state_space(m)?, self.state_space(m)?);
        let direction = match (to, from) {
            (Space::Shared, Space::Global) if !reduce => BulkDirection::GlobalToShared,
            (Space::Global, Space::Shared) => BulkDirection::SharedToGlobal,
            (Space::Shared, Space::Shared) => BulkDirection::SharedToShared,
            _ => return self.fail("no bulk copy between these state spaces"),
        };
        let signals = m.take("mbarrier::complete_tx::bytes");
        if signals == m.take("bulk_group") {
            return self.fail("needs .mbarrier::complete_tx::bytes or .bulk_group");
        }
        if signals == (direction == BulkDirection::SharedToGlobal) {
            return self.fail("this direction completes otherwise");
        }
        let reduce = if reduce {
            let Some(kind) = atomic_kind(m) else { return self.fail("the operation is missing") };
            let no_flush = m.take("noftz");
            let element = self.need_element(m)?;
            if !reduction(kind, element, direction) {
                return self.unsupported(element);
            }
            let half = matches!(element, ScalarType::F16 | ScalarType::Bf16);
            if no_flush != (half && kind == AtomicKind::Add) {
                return self.fail("`.noftz` belongs to sums of 16-bit floats, and they need it");
            }
            Some((kind, element))
        } else {
            None
        };
        let policy = m.cache_hints();
        let count = 3 + usize::from(signals);
        self.expect_count(operands, count + usize::from(policy))?;
        if policy {
            self.source(&operands[count], ScalarType::B64)?;
        }
        let (target, target_offset) = self.base(&operands[0], to)?;
        let (source, source_offset) = self.base(&operands[1], from)?;
        let size = self.source(&operands[2], ScalarType::U32)?.row;
        let mbarrier = if signals { Some(self.base(&operands[3], Space::Shared)?) } else { None };
        let bulk = BulkOp { direction, target, target_offset, source, source_offset, size, mbarrier, reduce };
        self.emit(Op::Bulk(Box::new(bulk)));
        Ok(())
    }
}

/// The table of `cp.reduce.async.bulk`.
fn reduction(kind: AtomicKind, element: ScalarType, direction: BulkDirection) -> bool {
    use AtomicKind::*;
    use ScalarType::*;
    let to_global = direction == BulkDirection::SharedToGlobal;
    match kind {
        Add => matches!(element, U32 | S32 | U64) || to_global && matches!(element, S64 | F16 | Bf16 | F32 | F64),
        Min | Max => matches!(element, U32 | S32) || to_global && matches!(element, U64 | S64 | F16 | Bf16),
        Inc | Dec => element == U32,
        And | Or | Xor => element == B32 || to_global && element == B64,
        Exchange | CompareSwap => false,
    }
}
