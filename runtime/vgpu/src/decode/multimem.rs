//! `multimem.ld_reduce`, `multimem.st`, `multimem.red`.

use super::memory::{Strength, atomic_kind};
use super::modifiers::Modifiers;
use super::op::{AtomicKind, Elements, MultimemKind, MultimemOp, Op, Space};
use super::{Decoded, Decoder};
use crate::memory::order::{Order, Scope};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::matrix::Fragment;

impl Decoder<'_> {
    pub(super) fn multimem(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let Some(name) = m.one_of(&["ld_reduce", "st", "red"]) else {
            return self.fail("needs .ld_reduce, .st or .red");
        };
        let strength = match name {
            "red" => self.reduction_strength(m)?,
            "st" => self.strength(m, Order::Release)?,
            _ => self.strength(m, Order::Acquire)?,
        };
        if strength.order == Order::Volatile {
            return self.fail("this memory order is not possible here");
        }
        let space = self.state_space(m)?;
        if !matches!(space, Space::Generic | Space::Global) {
            return self.fail("a multicast address is in .global");
        }
        let operation = if name == "st" { None } else { atomic_kind(m) };
        let kind = match (name, operation) {
            ("st", _) => MultimemKind::Store,
            ("red", Some(kind)) => MultimemKind::Reduce(kind),
            (_, Some(kind)) => MultimemKind::LoadReduce(kind),
            (_, None) => return self.fail("the operation is missing"),
        };
        let precision = m.one_of(&["acc::f32", "acc::f16"]);
        let length = Self::vector_length(m);
        let small = m.one_of(&["e4m3", "e5m2", "e4m3x2", "e5m2x2", "e4m3x4", "e5m2x4"]);
        let element = match small {
            // Registers of four of them, of two, or of one.
            Some(word) if word.ends_with("x4") => ScalarType::B32,
            Some(word) if word.ends_with("x2") => ScalarType::B16,
            Some(_) => ScalarType::B8,
            None => self.need_element(m)?,
        };
        let small = small.and_then(|word| Fragment::named(&word[..4]));
        let exists = match small {
            Some(_) => matches!(
                kind,
                MultimemKind::Store | MultimemKind::LoadReduce(AtomicKind::Add | AtomicKind::Min | AtomicKind::Max)
            ),
            None => exists(kind, element),
        };
        if !exists {
            return self.unsupported(element);
        }
        let half = matches!(element, ScalarType::F16 | ScalarType::F16x2 | ScalarType::Bf16 | ScalarType::Bf16x2);
        match precision {
            None => {}
            Some("acc::f32") if half && operation == Some(AtomicKind::Add) => {}
            Some("acc::f16") if small.is_some() && kind == MultimemKind::LoadReduce(AtomicKind::Add) => {}
            Some(other) => return self.fail(format!("`.{other}` is not for sums of this type")),
        }
        let bytes = length as u32 * element.bytes();
        if length > 1 && !(half || element == ScalarType::F32 || small.is_some()) {
            return self.fail("only floats have vectors");
        }
        if !matches!(bytes, 4 | 8 | 16) {
            return self.fail(format!("accesses 32, 64 or 128 bits, not {}", 8 * bytes));
        }
        self.expect_count(operands, 2)?;
        let loads = matches!(kind, MultimemKind::LoadReduce(_));
        let (values, address) = if loads { (&operands[0], &operands[1]) } else { (&operands[1], &operands[0]) };
        let place = self.place(address, space)?;
        let registers = self
            .elements(values, length)?
            .iter()
            .map(|operand| match loads {
                true => self.target(operand, element.bytes()).map(Some),
                false => self.source(operand, element).map(Some),
            })
            .collect::<Decoded<Vec<_>>>()?;
        let unit = match element {
            ScalarType::F16x2 => ScalarType::F16,
            ScalarType::Bf16x2 => ScalarType::Bf16,
            _ if small.is_some() => ScalarType::B8,
            other => other,
        };
        let Strength { order, scope } = strength;
        self.emit(Op::Multimem(Box::new(MultimemOp {
            place,
            kind,
            unit,
            bytes: element.bytes(),
            registers: Elements::new(&registers),
            small,
            wide: loads && if small.is_some() { precision.is_none() } else { precision.is_some() },
            order,
            scope,
        })));
        Ok(())
    }

    /// Without an order it is relaxed, without a scope it is that of the system.
    fn reduction_strength(&self, m: &mut Modifiers) -> Decoded<Strength> {
        let order = m.order().unwrap_or(Order::Relaxed);
        if !matches!(order, Order::Relaxed | Order::Release) {
            return self.fail("this memory order is not possible here");
        }
        Ok(Strength { order, scope: m.scope().unwrap_or(Scope::Sys) })
    }
}

/// Which operation exists on which type.
fn exists(kind: MultimemKind, element: ScalarType) -> bool {
    use ScalarType::{B32, B64, Bf16, Bf16x2, F16, F16x2, F32, F64, S32, S64, U32, U64};
    let half = matches!(element, F16 | F16x2 | Bf16 | Bf16x2);
    let sums = half || matches!(element, U32 | S32 | U64 | F32 | F64);
    match kind {
        MultimemKind::Store => half || matches!(element, B32 | B64 | U32 | U64 | S32 | S64 | F32 | F64),
        MultimemKind::LoadReduce(AtomicKind::Add) | MultimemKind::Reduce(AtomicKind::Add) => sums,
        MultimemKind::LoadReduce(AtomicKind::Min | AtomicKind::Max) => half || matches!(element, U32 | S32 | U64 | S64),
        MultimemKind::Reduce(AtomicKind::Min | AtomicKind::Max) => matches!(element, U32 | S32 | U64 | S64),
        MultimemKind::LoadReduce(AtomicKind::And | AtomicKind::Or | AtomicKind::Xor)
        | MultimemKind::Reduce(AtomicKind::And | AtomicKind::Or | AtomicKind::Xor) => matches!(element, B32 | B64),
        MultimemKind::LoadReduce(_) | MultimemKind::Reduce(_) => false,
    }
}
