//! Loads, stores and atomics: state space, order, scope, width.

use super::modifiers::Modifiers;
use super::op::{AtomicKind, AtomicOp, Constant, Elements, MemoryOp, Op, Reg, Space};
use super::{Decoded, Decoder};
use crate::memory::order::{Order, Proxy, Scope};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;

/// Order and scope as written, checked against each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strength {
    pub order: Order,
    pub scope: Scope,
}

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &[
    "ld",
    "ldu",
    "st",
    "atom",
    "red",
    "prefetch",
    "prefetchu",
    "createpolicy",
    "applypriority",
    "discard",
    "multimem",
];

impl Decoder<'_> {
    pub(super) fn memory(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        match opcode {
            "ld" | "ldu" => self.load(opcode, m, operands),
            "st" | "red" if m.has("async") => self.async_store(opcode, m, operands),
            "st" if m.has("bulk") => self.fill(m, operands),
            "st" => self.store(m, operands),
            "multimem" => self.multimem(m, operands),
            "atom" | "red" => self.atomic(opcode, m, operands),
            "prefetch" | "prefetchu" => {
                self.state_space(m)?;
                if m.one_of(&["L1", "L2", "L2::evict_last", "L2::evict_normal", "tensormap"]).is_none() {
                    return self.fail("needs a cache level");
                }
                self.expect_count(operands, 1)?;
                self.hint(&operands[0])
            }
            "applypriority" | "discard" => {
                self.state_space(m)?;
                if m.one_of(&["L2", "L2::evict_normal"]).is_none() {
                    return self.fail("needs .L2");
                }
                self.expect_count(operands, 2)?;
                if operands[1] != Operand::Integer(128) {
                    return self.fail("the size is 128");
                }
                self.hint(&operands[0])
            }
            _ => self.create_policy(m, operands),
        }
    }

    /// An address whose contents the instruction neither reads nor writes.
    fn hint(&mut self, operand: &Operand) -> Decoded<()> {
        self.place(operand, Space::Generic)?;
        self.emit(Op::Nothing);
        Ok(())
    }

    /// A cache policy is an opaque value that only later hints read.
    fn create_policy(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let Some(kind) = m.one_of(&["fractional", "range", "cvt"]) else {
            return self.fail("needs .fractional, .range or .cvt");
        };
        m.one_of(&["global", "L2"]);
        m.cache_hints();
        // A secondary priority.
        m.cache_hints();
        self.only_type(m, ScalarType::B64)?;
        let counts = match kind {
            "fractional" => 1..=2,
            "range" => 4..=4,
            _ => 2..=2,
        };
        if !counts.contains(&operands.len()) {
            return self.fail("wrong number of operands");
        }
        let target = self.target(&operands[0], 8)?;
        let policy = self.constant(Constant::Bits(0), 8)?;
        self.copy_register(target, policy);
        Ok(())
    }

    /// The state space of an instruction; generic if none is written.
    pub(super) fn state_space(&self, m: &mut Modifiers) -> Decoded<Space> {
        const SPACES: [&str; 9] = [
            "global",
            "const",
            "shared",
            "shared::cta",
            "shared::cluster",
            "local",
            "param",
            "param::entry",
            "param::func",
        ];
        Ok(match m.one_of(&SPACES) {
            None => Space::Generic,
            // Constant variables are device allocations that nobody can write.
            Some("global" | "const") => Space::Global,
            Some("shared" | "shared::cta") => Space::Shared,
            Some("shared::cluster") => Space::Cluster,
            Some("local") => Space::Local,
            Some(_) => Space::Param,
        })
    }

    /// Takes order and scope of a load or store.
    pub(super) fn strength(&self, m: &mut Modifiers, strongest: Order) -> Decoded<Strength> {
        let order = m.order();
        if m.take("mmio") && order != Some(Order::Relaxed) {
            return self.fail("`.mmio` needs .relaxed");
        }
        let scope = m.scope();
        match (order.unwrap_or(Order::Weak), scope) {
            (order @ (Order::Weak | Order::Volatile), None) => {
                // A volatile access is a relaxed one of system scope that is never merged with another.
                Ok(Strength { order, scope: if order == Order::Weak { Scope::Cta } else { Scope::Sys } })
            }
            (Order::Weak | Order::Volatile, Some(_)) => self.fail("a weak or volatile access has no scope"),
            (Order::Relaxed, Some(scope)) => Ok(Strength { order: Order::Relaxed, scope }),
            (order, Some(scope)) if order == strongest => Ok(Strength { order, scope }),
            (Order::Relaxed | Order::Acquire | Order::Release, None) => self.fail("a strong access needs a scope"),
            _ => self.fail("this memory order is not possible here"),
        }
    }

    pub(super) fn vector_length(m: &mut Modifiers) -> usize {
        match m.one_of(&["v2", "v4", "v8"]) {
            None => 1,
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
        }
    }

    /// The registers of a scalar or of a `{a, b}` operand.
    pub(super) fn elements<'o>(&self, operand: &'o Operand, length: usize) -> Decoded<&'o [Operand]> {
        match operand {
            Operand::Vector(list) if list.len() == length && length > 1 => Ok(list),
            single if length == 1 && !matches!(single, Operand::Vector(_)) => Ok(std::slice::from_ref(single)),
            _ => self.fail(format!("expected {length} registers")),
        }
    }

    pub(super) fn element_of_access(&self, m: &mut Modifiers, length: usize) -> Decoded<ScalarType> {
        use ScalarType::*;
        let element = self.need_element(m)?;
        let wide = length as u32 * element.bytes();
        match element {
            B8 | B16 | B32 | B64 | U8 | U16 | U32 | U64 | S8 | S16 | S32 | S64 | F32 | F64 if wide <= 32 => Ok(element),
            B128 if length == 1 => Ok(element),
            _ => self.unsupported(element),
        }
    }

    fn load(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let strength = self.strength(m, Order::Acquire)?;
        let space = self.state_space(m)?;
        let non_coherent = m.take("nc") || opcode == "ldu";
        if non_coherent && (space != Space::Global || strength.order != Order::Weak) {
            return self.fail("a non-coherent load is a weak load of global memory");
        }
        let policy = m.cache_hints();
        let length = Self::vector_length(m);
        let element = self.element_of_access(m, length)?;
        self.expect_count(operands, if policy { 3 } else { 2 })?;
        if policy {
            self.source(&operands[2], ScalarType::B64)?;
        }
        let place = self.accessed_place(&operands[1], space)?;
        let registers = self
            .elements(&operands[0], length)?
            .iter()
            .map(|operand| self.wide_target(operand, element.bytes()))
            .collect::<Decoded<Vec<_>>>()?;
        self.emit(Op::Load(Box::new(MemoryOp {
            place,
            bytes: element.bytes(),
            signed: element.is_signed(),
            exact: exact(&registers, element),
            registers: Elements::new(&registers),
            order: strength.order,
            scope: strength.scope,
            proxy: if non_coherent { Proxy::NonCoherent } else { Proxy::Generic },
        })));
        Ok(())
    }

    fn store(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let strength = self.strength(m, Order::Release)?;
        let space = self.state_space(m)?;
        let policy = m.cache_hints();
        let length = Self::vector_length(m);
        let element = self.element_of_access(m, length)?;
        self.expect_count(operands, if policy { 3 } else { 2 })?;
        if policy {
            self.source(&operands[2], ScalarType::B64)?;
        }
        let place = self.accessed_place(&operands[0], space)?;
        if place.space == Space::Param {
            return self.fail("a kernel's parameters cannot be written");
        }
        let registers = self
            .elements(&operands[1], length)?
            .iter()
            .map(|operand| self.wide_source(operand, element).map(Some))
            .collect::<Decoded<Vec<_>>>()?;
        self.emit(Op::Store(Box::new(MemoryOp {
            place,
            bytes: element.bytes(),
            signed: false,
            exact: exact(&registers, element),
            registers: Elements::new(&registers),
            order: strength.order,
            scope: strength.scope,
            proxy: Proxy::Generic,
        })));
        Ok(())
    }

    fn atomic(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let read = opcode == "atom";
        // Without an order PTX says relaxed, without a scope it says gpu.
        let order = m.order().unwrap_or(Order::Relaxed);
        let possible = match order {
            Order::Relaxed | Order::Release => true,
            Order::Acquire | Order::AcqRel => read,
            _ => false,
        };
        if !possible {
            return self.fail("this memory order is not possible here");
        }
        let scope = m.scope().unwrap_or(Scope::Gpu);
        let space = self.state_space(m)?;
        if !matches!(space, Space::Generic | Space::Global | Space::Shared | Space::Cluster) {
            return self.fail("atomics work on global and shared memory");
        }
        let Some(kind) = atomic_kind(m) else { return self.fail("the operation is missing") };
        let no_flush = m.take("noftz");
        let policy = m.cache_hints();
        let length = Self::vector_length(m);
        let element = self.need_element(m)?;
        let known = if length == 1 { atomic_type(kind, element, read) } else { vector_atomic(kind, element, length) };
        if !known {
            return self.unsupported(element);
        }
        if length > 1 && !matches!(space, Space::Generic | Space::Global) {
            return self.fail("atomics on vectors work on global memory");
        }
        let half = matches!(element, ScalarType::F16 | ScalarType::F16x2 | ScalarType::Bf16 | ScalarType::Bf16x2);
        if no_flush != half {
            return self.fail("`.noftz` belongs to 16-bit floats, and they need it");
        }
        let swap = kind == AtomicKind::CompareSwap;
        let first = usize::from(read);
        let count = first + 1 + if swap { 2 } else { 1 };
        self.expect_count(operands, count + usize::from(policy))?;
        if policy {
            self.source(&operands[count], ScalarType::B64)?;
        }
        let place = self.place(&operands[first], space)?;
        let mut sources: Vec<Reg> = Vec::new();
        for operand in &operands[first + 1..count] {
            for part in self.elements(operand, length)? {
                sources.push(self.source(part, element)?);
            }
        }
        let mut targets = vec![None; length];
        if read && operands[0] != Operand::Sink {
            for (target, part) in targets.iter_mut().zip(self.elements(&operands[0], length)?) {
                *target = match part {
                    Operand::Sink => None,
                    part => Some(self.target(part, element.bytes())?),
                };
            }
        }
        let targets = Elements::new(&targets);
        self.emit(Op::Atomic(Box::new(AtomicOp { place, kind, element, targets, sources, order, scope })));
        Ok(())
    }
}

/// Whether all registers exist and are as wide as the element.
fn exact(registers: &[Option<Reg>], element: ScalarType) -> bool {
    registers.iter().all(|reg| reg.is_some_and(|reg| reg.bytes == element.bytes()))
}

pub(super) fn atomic_kind(m: &mut Modifiers) -> Option<AtomicKind> {
    Some(match m.one_of(&["add", "and", "or", "xor", "min", "max", "inc", "dec", "exch", "cas"])? {
        "add" => AtomicKind::Add,
        "and" => AtomicKind::And,
        "or" => AtomicKind::Or,
        "xor" => AtomicKind::Xor,
        "min" => AtomicKind::Min,
        "max" => AtomicKind::Max,
        "inc" => AtomicKind::Inc,
        "dec" => AtomicKind::Dec,
        "exch" => AtomicKind::Exchange,
        _ => AtomicKind::CompareSwap,
    })
}

/// The table of `atom` and `red`: which operation exists on which type.
fn atomic_type(kind: AtomicKind, element: ScalarType, read: bool) -> bool {
    use AtomicKind::*;
    use ScalarType::*;
    match kind {
        Add => matches!(element, U32 | S32 | U64 | S64 | F32 | F64 | F16 | F16x2 | Bf16 | Bf16x2),
        And | Or | Xor => matches!(element, B32 | B64),
        Min | Max => matches!(element, U32 | S32 | U64 | S64),
        Inc | Dec => element == U32,
        Exchange => read && matches!(element, B32 | B64 | B128),
        CompareSwap => read && matches!(element, B16 | B32 | B64 | B128),
    }
}

/// The same for vectors, of at most 16 bytes.
fn vector_atomic(kind: AtomicKind, element: ScalarType, length: usize) -> bool {
    use AtomicKind::*;
    use ScalarType::*;
    let floats = match element {
        F32 => kind == Add,
        F16 | Bf16 | F16x2 | Bf16x2 => matches!(kind, Add | Min | Max),
        _ => false,
    };
    floats && length as u32 * element.bytes() <= 16
}
