//! Asynchronous copies and stores: `cp.async`, `cp.async.bulk`, `cp.reduce.async.bulk`, `st.async`, `red.async`, `st.bulk`.

use super::memory::atomic_kind;
use super::modifiers::Modifiers;
use super::op::{AsyncStoreOp, AtomicKind, BulkOp, CopyOp, Elements, FillOp, Op, Reg, Space};
use super::{Decoded, Decoder};
use crate::memory::order::{Order, Scope};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;

impl Decoder<'_> {
    pub(super) fn copy(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let reduce = m.take("reduce");
        if !m.take("async") {
            return self.fail("needs .async");
        }
        let bulk = m.take("bulk");
        if bulk && m.has("tensor") {
            return self.tensor_copy(reduce, m, operands);
        }
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
    pub(super) fn base(&mut self, operand: &Operand, space: Space) -> Decoded<(Reg, i64)> {
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
        let possible = match (to, from) {
            (Space::Shared | Space::Cluster, Space::Global) => !reduce,
            (Space::Global | Space::Cluster, Space::Shared) => true,
            _ => false,
        };
        if !possible {
            return self.fail("no bulk copy between these state spaces");
        }
        let signals = m.take("mbarrier::complete_tx::bytes");
        if signals == m.take("bulk_group") {
            return self.fail("needs .mbarrier::complete_tx::bytes or .bulk_group");
        }
        if signals == (to == Space::Global) {
            return self.fail("this direction completes otherwise");
        }
        let multicast = m.take("multicast::cluster");
        if multicast && (to, from) != (Space::Cluster, Space::Global) {
            return self.fail("`.multicast::cluster` is for copies from .global to .shared::cluster");
        }
        let masked = m.take("cp_mask");
        if masked && (to != Space::Global || reduce) {
            return self.fail("`.cp_mask` is for copies from .shared::cta to .global");
        }
        let reduce = if reduce { Some(self.reduction(m, to == Space::Global)?) } else { None };
        let policy = m.cache_hints();
        if policy && (to, from) == (Space::Cluster, Space::Shared) {
            return self.fail("a copy between shared memories has no cache policy");
        }
        let count = 3 + usize::from(signals);
        self.expect_count(operands, count + usize::from(multicast) + usize::from(policy) + usize::from(masked))?;
        let mut more = operands[count..].iter();
        let mut next =
            |decoder: &mut Self, element| more.next().map(|operand| decoder.source(operand, element)).transpose();
        let multicast = if multicast { next(self, ScalarType::B16)? } else { None };
        if policy {
            next(self, ScalarType::B64)?;
        }
        let byte_mask = if masked { next(self, ScalarType::B16)? } else { None };
        let (target, target_offset) = self.base(&operands[0], to)?;
        let (source, source_offset) = self.base(&operands[1], from)?;
        let size = self.source(&operands[2], ScalarType::U32)?.row;
        let space = if to == Space::Cluster { Space::Cluster } else { Space::Shared };
        let mbarrier = if signals { Some(self.base(&operands[3], space)?) } else { None };
        self.emit(Op::Bulk(Box::new(BulkOp {
            from,
            to,
            target,
            target_offset,
            source,
            source_offset,
            size,
            mbarrier,
            multicast,
            byte_mask,
            reduce,
        })));
        Ok(())
    }

    /// Operation and type of `cp.reduce.async.bulk`.
    fn reduction(&mut self, m: &mut Modifiers, to_global: bool) -> Decoded<(AtomicKind, ScalarType)> {
        let Some(kind) = atomic_kind(m) else { return self.fail("the operation is missing") };
        let no_flush = m.take("noftz");
        let element = self.need_element(m)?;
        if !reduction(kind, element, to_global) {
            return self.unsupported(element);
        }
        let half = matches!(element, ScalarType::F16 | ScalarType::Bf16);
        if no_flush != (half && kind == AtomicKind::Add) {
            return self.fail("`.noftz` belongs to sums of 16-bit floats, and they need it");
        }
        Ok((kind, element))
    }

    /// `st.async` and `red.async`: into the shared memory of a CTA of the cluster, whose mbarrier counts the bytes, or with a release into
    /// global memory.
    pub(super) fn async_store(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        m.take("async");
        let reduces = opcode == "red";
        let mmio = m.take("mmio");
        let (order, scope) = (m.order(), m.scope());
        let space = self.state_space(m)?;
        let signals = m.take("mbarrier::complete_tx::bytes");
        let to_global = order == Some(Order::Release);
        if signals == to_global {
            return self.fail("needs .mbarrier::complete_tx::bytes, or .release");
        }
        if mmio && !to_global {
            return self.fail("`.mmio` needs .release");
        }
        let (order, scope) = match (order, scope) {
            (Some(Order::Release), Some(scope @ (Scope::Gpu | Scope::Sys))) => (Order::Release, scope),
            (Some(Order::Relaxed), Some(Scope::Cluster)) if reduces => (Order::Relaxed, Scope::Cluster),
            (None | Some(Order::Weak), None) if !reduces => (Order::Weak, Scope::Cta),
            _ => return self.fail("this memory order and scope are not possible here"),
        };
        let fits = if to_global { Space::Global } else { Space::Cluster };
        if space != fits && space != Space::Generic {
            return self.fail(if to_global { "writes to .global" } else { "writes to .shared::cluster" });
        }
        let reduce = if reduces {
            let Some(kind) = atomic_kind(m) else { return self.fail("the operation is missing") };
            let element = self.need_element(m)?;
            use ScalarType::{S32, S64, U32, U64};
            let exists = if to_global {
                kind == AtomicKind::Add && matches!(element, U32 | S32 | U64 | S64)
            } else {
                reduction(kind, element, false)
            };
            if !exists {
                return self.unsupported(element);
            }
            Some((kind, element))
        } else {
            None
        };
        let length = if reduces || to_global { 1 } else { Self::vector_length(m) };
        let element = match reduce {
            Some((_, element)) => element,
            None => self.element_of_access(m, length)?,
        };
        if length == 8 || !to_global && !matches!(element.bytes(), 4 | 8) || length as u32 * element.bytes() > 16 {
            return self.unsupported(element);
        }
        self.expect_count(operands, 2 + usize::from(signals))?;
        let place = self.place(&operands[0], space)?;
        let registers = self
            .elements(&operands[1], length)?
            .iter()
            .map(|operand| self.wide_source(operand, element).map(Some))
            .collect::<Decoded<Vec<_>>>()?;
        let mbarrier = if signals { Some(self.base(&operands[2], space)?) } else { None };
        self.emit(Op::AsyncStore(Box::new(AsyncStoreOp {
            place,
            bytes: element.bytes(),
            registers: Elements::new(&registers),
            reduce,
            mbarrier: mbarrier.map(|(reg, _)| reg),
            mbarrier_offset: mbarrier.map_or(0, |(_, offset)| offset),
            order,
            scope,
        })));
        Ok(())
    }

    /// `st.bulk{.weak}{.shared::cta} [a], size, 0;`
    pub(super) fn fill(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        m.take("bulk");
        m.take("weak");
        let space = self.state_space(m)?;
        if !matches!(space, Space::Generic | Space::Shared) {
            return self.fail("fills .shared::cta");
        }
        self.expect_count(operands, 3)?;
        if operands[2] != Operand::Integer(0) {
            return self.fail("the value is 0");
        }
        let place = self.place(&operands[0], space)?;
        let size = self.source(&operands[1], ScalarType::U64)?;
        self.emit(Op::Fill(Box::new(FillOp { place, size })));
        Ok(())
    }
}

/// The table of `cp.reduce.async.bulk`.
pub(crate) fn reduction(kind: AtomicKind, element: ScalarType, to_global: bool) -> bool {
    use AtomicKind::*;
    use ScalarType::*;
    match kind {
        Add => matches!(element, U32 | S32 | U64) || to_global && matches!(element, F16 | Bf16 | F32 | F64),
        Min | Max => matches!(element, U32 | S32) || to_global && matches!(element, U64 | S64 | F16 | Bf16),
        Inc | Dec => element == U32,
        And | Or | Xor => element == B32 || to_global && element == B64,
        Exchange | CompareSwap => false,
    }
}
