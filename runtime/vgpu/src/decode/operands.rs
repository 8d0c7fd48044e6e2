//! Operands → rows and predicates, with the width checks of PTX: a register must be exactly as wide as the instruction's
//! type, except where `ld`, `st` and `cvt` allow a wider one.

use super::op::{Constant, FALSE, Op, PREDICATE_FLAG, Place, Reg, Space, Special, TRUE};
use super::{Binding, Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::lanes::Args;

impl Decoder<'_> {
    pub(super) fn expect_count(&self, operands: &[Operand], count: usize) -> Decoded<()> {
        if operands.len() == count {
            return Ok(());
        }
        self.fail(format!("takes {count} operands, here are {}", operands.len()))
    }

    pub(super) fn constant(&mut self, value: Constant, bytes: u32) -> Decoded<Reg> {
        if let Some(row) = self.constant_rows.get(&(value, bytes)) {
            return Ok(Reg { row: *row, bytes });
        }
        let row = self.new_row(bytes)?;
        self.constant_rows.insert((value, bytes), row);
        self.code.constants.push((Reg { row, bytes }, value));
        Ok(Reg { row, bytes })
    }

    pub(super) fn temporary(&mut self, bytes: u32) -> Decoded<Reg> {
        Ok(Reg { row: self.new_row(bytes)?, bytes })
    }

    pub(super) fn predicate_by_name(&mut self, name: &str) -> Decoded<u32> {
        match self.resolve(name)? {
            Some(Binding::Predicate(index)) => Ok(index),
            Some(_) => self.fail(format!("`{name}` is not a predicate")),
            None => self.fail(format!("`{name}` is not declared")),
        }
    }

    /// A source predicate and whether it is negated.
    pub(super) fn source_predicate(&mut self, operand: &Operand) -> Decoded<(u32, bool)> {
        let (index, negated) = match operand {
            Operand::Name(name) if name == "%is_explicit_cluster" => {
                let value = self.constant(Constant::Special(Special::ExplicitCluster), 4)?;
                let zero = self.constant(Constant::Bits(0), 4)?;
                let p = self.new_predicate();
                self.compare(comparison!(u32, |a, b| a != b), p, value, zero);
                (p, false)
            }
            Operand::Name(name) => (self.predicate_by_name(name)?, false),
            Operand::Not(name) => (self.predicate_by_name(name)?, true),
            Operand::Integer(0) => (FALSE, false),
            Operand::Integer(_) => (TRUE, false),
            _ => return self.fail("expected a predicate"),
        };
        Ok((index, negated))
    }

    /// Whether an operand is a predicate rather than a value.
    pub(super) fn is_predicate(&mut self, operand: &Operand) -> Decoded<bool> {
        Ok(match operand {
            Operand::Not(_) => true,
            Operand::Name(name) => matches!(self.resolve(name)?, Some(Binding::Predicate(_))),
            _ => false,
        })
    }

    /// A source predicate as an index; a negated one is computed into a temporary.
    pub(super) fn plain_predicate(&mut self, operand: &Operand) -> Decoded<u32> {
        let (index, negated) = self.source_predicate(operand)?;
        if !negated {
            return Ok(index);
        }
        let p = self.new_predicate();
        let args = Args { p, q: index, a: FALSE, ..Args::default() };
        self.emit_alu(predicate_logic!(|a, _| !a), args, &[index | PREDICATE_FLAG], &[p | PREDICATE_FLAG]);
        Ok(p)
    }

    /// A destination predicate; `_` gets a scratch one.
    pub(super) fn target_predicate(&mut self, operand: &Operand) -> Decoded<u32> {
        let index = match operand {
            Operand::Name(name) => self.predicate_by_name(name)?,
            Operand::Sink => self.new_predicate(),
            _ => return self.fail("expected a destination predicate"),
        };
        Ok(index)
    }

    /// A register of any width and its declared type.
    pub(super) fn register(&mut self, name: &str) -> Decoded<(Reg, ScalarType)> {
        match self.resolve(name)? {
            Some(Binding::Register(element, Some(reg))) => Ok((reg, element)),
            Some(Binding::Predicate(_)) => self.fail(format!("`{name}` is a predicate, a register is needed")),
            Some(_) => self.fail(format!("`{name}` is not a register")),
            None => self.fail(format!("`{name}` is not declared")),
        }
    }

    fn check_width(&self, name: &str, reg: Reg, bytes: u32) -> Decoded<()> {
        if reg.bytes == bytes {
            return Ok(());
        }
        self.fail(format!("register `{name}` has {} bits, the instruction needs {}", reg.bytes * 8, bytes * 8))
    }

    /// A destination register of exactly this width; `_` gets a scratch row.
    pub(super) fn target(&mut self, operand: &Operand, bytes: u32) -> Decoded<Reg> {
        match operand {
            Operand::Name(name) => {
                let (reg, _) = self.register(name)?;
                self.check_width(name, reg, bytes)?;
                Ok(reg)
            }
            Operand::Sink => self.temporary(bytes),
            _ => self.fail("expected a destination register"),
        }
    }

    /// A destination register at least this wide.
    pub(super) fn wide_target(&mut self, operand: &Operand, bytes: u32) -> Decoded<Option<Reg>> {
        match operand {
            Operand::Name(name) => {
                let (reg, _) = self.register(name)?;
                if reg.bytes < bytes {
                    self.check_width(name, reg, bytes)?;
                }
                Ok(Some(reg))
            }
            Operand::Sink => Ok(None),
            _ => self.fail("expected a destination register"),
        }
    }

    /// A source of exactly the width of the type: register, literal, special register or address of a symbol.
    pub(super) fn source(&mut self, operand: &Operand, element: ScalarType) -> Decoded<Reg> {
        self.source_of_width(operand, element, false)
    }

    /// A source at least as wide as the type.
    pub(super) fn wide_source(&mut self, operand: &Operand, element: ScalarType) -> Decoded<Reg> {
        self.source_of_width(operand, element, true)
    }

    fn source_of_width(&mut self, operand: &Operand, element: ScalarType, wider: bool) -> Decoded<Reg> {
        let bytes = element.bytes();
        if bytes == 0 {
            return self.fail("predicates are not possible here");
        }
        match operand {
            Operand::Name(name) => {
                if let Some(value) = special(name) {
                    return self.constant(Constant::Special(value), bytes);
                }
                if let Some(kind) = super::control::clock(name) {
                    let target = self.temporary(bytes)?;
                    self.emit(Op::Clock { target, kind });
                    return Ok(target);
                }
                if let Some(bits) = fixed_special(name) {
                    return self.constant(Constant::Bits(bits), bytes);
                }
                if let Some(Binding::Register(_, Some(reg))) = self.resolve(name)? {
                    if !(wider && reg.bytes > bytes) {
                        self.check_width(name, reg, bytes)?;
                    }
                    return Ok(reg);
                }
                self.symbol(name, 0, bytes)
            }
            Operand::Offset(name, offset) => self.symbol(name, *offset, bytes),
            Operand::Integer(value) => {
                if element.is_float() && !matches!(element, ScalarType::F16x2 | ScalarType::Bf16x2) {
                    return self.fail("a floating-point instruction needs a floating-point literal");
                }
                let width = bytes * 8;
                if *value >= 1i128 << width.min(126) || *value < -(1i128 << (width.min(126) - 1)) {
                    // PTX cuts wide literals silently; no compiler writes them on purpose.
                    return self.fail(format!("literal {value} does not fit in {width} bits"));
                }
                self.constant(Constant::Bits(value.cast_unsigned() & ones(bytes)), bytes)
            }
            Operand::Float(value) => {
                let bits = match element {
                    ScalarType::F64 => value.to_bits(),
                    ScalarType::F32 => u64::from((*value as f32).to_bits()),
                    _ => return self.fail("a decimal floating-point literal needs an .f32 or .f64 instruction"),
                };
                self.constant(Constant::Bits(u128::from(bits)), bytes)
            }
            Operand::Bits32(bits) => match bytes {
                4 => self.constant(Constant::Bits(u128::from(*bits)), 4),
                8 => self.constant(Constant::Bits(u128::from(f64::from(f32::from_bits(*bits)).to_bits())), 8),
                _ => self.fail("a 0f literal needs a 32-bit instruction"),
            },
            Operand::Bits64(bits) => match bytes {
                8 => self.constant(Constant::Bits(u128::from(*bits)), 8),
                _ => self.fail("a 0d literal needs a 64-bit instruction"),
            },
            _ => self.fail("expected a register or a constant"),
        }
    }

    /// Address of a symbol, as seen in its own state space.
    fn symbol(&mut self, name: &str, offset: i64, bytes: u32) -> Decoded<Reg> {
        let value = match self.resolve(name)? {
            Some(Binding::Global(variable)) => Constant::Global(variable, offset),
            Some(Binding::Shared(at) | Binding::Local { offset: at, .. } | Binding::Parameter(at)) => {
                Constant::Bits(u128::from((i64::from(at) + offset).cast_unsigned()))
            }
            Some(Binding::DynamicShared(_)) => Constant::DynamicShared(offset),
            Some(Binding::Frame { offset: at }) => return self.frame_address(i64::from(at) + offset, bytes),
            Some(Binding::Label(_) | Binding::Targets(_) | Binding::Prototype(_)) => {
                return self.fail("a label is not a value");
            }
            Some(Binding::Predicate(_)) => return self.fail(format!("`{name}` is a predicate, a value is needed")),
            Some(_) => return self.fail(format!("`{name}` cannot have an offset here")),
            None => match self.functions.get(name) {
                Some(&function) if offset == 0 && bytes == 8 && !self.module.functions[function].entry => {
                    Constant::Bits(super::calls::address(function).into())
                }
                _ => return self.fail(format!("`{name}` is not declared")),
            },
        };
        if bytes < 4 || (bytes == 4 && matches!(value, Constant::Global(..))) {
            return self.fail(format!("the address of `{name}` does not fit in {} bits", bytes * 8));
        }
        self.constant(value, bytes)
    }

    /// `[base + offset]` in a state space.
    pub(super) fn place(&mut self, operand: &Operand, space: Space) -> Decoded<Place> {
        let Operand::Address(base, offset) = operand else {
            return self.fail("expected an address in brackets");
        };
        let Some(name) = base else { return Ok(Place { space, base: None, offset: *offset }) };
        if let Some(Binding::Register(_, Some(reg))) = self.resolve(name)? {
            let fits = match reg.bytes {
                8 => true,
                4 => matches!(space, Space::Shared | Space::Cluster | Space::Local | Space::Param),
                _ => false,
            };
            if !fits {
                return self.fail(format!("register `{name}` with {} bits is not an address here", reg.bytes * 8));
            }
            return Ok(Place { space, base: Some(reg), offset: *offset });
        }
        let space = self.symbol_space(name, space)?;
        let base = self.symbol(name, 0, 8)?;
        Ok(Place { space, base: Some(base), offset: *offset })
    }

    /// The place of a load or store: the address of a symbol is known here, unless a launch decides it.
    pub(super) fn accessed_place(&mut self, operand: &Operand, space: Space) -> Decoded<Place> {
        if let Operand::Address(Some(name), offset) = operand
            && let Some(Binding::Shared(at) | Binding::Local { offset: at, .. } | Binding::Parameter(at)) =
                self.resolve(name)?
        {
            let space = self.symbol_space(name, space)?;
            return Ok(Place { space, base: None, offset: offset + i64::from(at) });
        }
        self.place(operand, space)
    }

    /// Checks that a symbol lives in the space of the instruction; a device function's parameters are in its frame.
    fn symbol_space(&mut self, name: &str, space: Space) -> Decoded<Space> {
        let found = match self.resolve(name)? {
            Some(Binding::Global(_)) => Space::Global,
            Some(Binding::Shared(_) | Binding::DynamicShared(_)) => Space::Shared,
            Some(Binding::Local { .. } | Binding::Frame { .. }) => Space::Local,
            Some(Binding::Parameter(_)) => Space::Param,
            Some(_) => return self.fail(format!("`{name}` is not an address")),
            None => return self.fail(format!("`{name}` is not declared")),
        };
        match (space, found) {
            (Space::Param, Space::Local) => Ok(Space::Local),
            (Space::Cluster, Space::Shared) => Ok(Space::Shared),
            _ if space == found => Ok(space),
            _ => self.fail(format!("`{name}` is in another state space than the instruction says")),
        }
    }
}

pub(super) fn ones(bytes: u32) -> u128 {
    if bytes >= 16 { u128::MAX } else { (1 << (bytes * 8)) - 1 }
}

/// Special registers that are the same for every thread of every run.
fn fixed_special(name: &str) -> Option<u128> {
    Some(match name {
        "WARP_SZ" => 32,
        // Those that the driver does not set.
        "%envreg0" => 0,
        name if name
            .strip_prefix("%envreg")
            .and_then(|n| n.parse().ok())
            .is_some_and(|n: u32| (3..32).contains(&n)) =>
        {
            0
        }
        "%reserved_smem_offset_begin" => 0,
        "%reserved_smem_offset_end" => u128::from(super::op::SHARED_BASE),
        _ => return None,
    })
}

fn special(name: &str) -> Option<Special> {
    let axis = |name: &str| match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((base, component)) = name.split_once('.') {
        let axis = axis(component)?;
        return Some(match base {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            "%clusterid" => Special::ClusterId(axis),
            "%nclusterid" => Special::ClusterCount(axis),
            "%cluster_ctaid" => Special::CtaInCluster(axis),
            "%cluster_nctaid" => Special::ClusterExtent(axis),
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::WarpCount,
        "%smid" => Special::SmId,
        "%nsmid" => Special::SmCount,
        "%gridid" => Special::GridId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%cluster_ctarank" => Special::CtaRank,
        "%cluster_nctarank" => Special::ClusterSize,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%envreg1" => Special::WorkspaceHigh,
        "%envreg2" => Special::WorkspaceLow,
        _ => return None,
    })
}
