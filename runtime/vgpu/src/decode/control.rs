//! Branches, calls, and the instructions that only concern the scheduling of a thread.

use super::modifiers::Modifiers;
use super::op::{ClockKind, Op, Reg, SystemCall, SystemFunction};
use super::{Binding, Decoded, Decoder};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;

/// The clock that a special register reads.
pub(super) fn clock(name: &str) -> Option<ClockKind> {
    Some(match name {
        "%clock" => ClockKind::Clock,
        "%clock_hi" => ClockKind::ClockHigh,
        "%clock64" => ClockKind::Clock64,
        "%globaltimer" => ClockKind::Timer,
        "%globaltimer_lo" => ClockKind::TimerLow,
        "%globaltimer_hi" => ClockKind::TimerHigh,
        _ => return None,
    })
}

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &[
    "bra",
    "brx",
    "call",
    "alloca",
    "stacksave",
    "stackrestore",
    "ret",
    "exit",
    "trap",
    "brkpt",
    "pmevent",
    "nanosleep",
    "setmaxnreg",
    "griddepcontrol",
    "nop",
];

impl Decoder<'_> {
    pub(super) fn control(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        match opcode {
            "bra" => {
                m.take("uni");
                self.expect_count(operands, 1)?;
                let target = self.label(&operands[0])?;
                self.emit(Op::Branch { target });
            }
            "brx" => {
                if !m.take("idx") {
                    return self.fail("needs .idx");
                }
                m.take("uni");
                self.expect_count(operands, 2)?;
                let index = self.source(&operands[0], ScalarType::U32)?;
                let list = match &operands[1] {
                    Operand::Name(name) => self.resolve(name)?,
                    _ => None,
                };
                let Some(Binding::Targets(names)) = list else {
                    return self.fail("the second operand is not a .branchtargets list");
                };
                let targets = names
                    .iter()
                    .map(|name| self.label(&Operand::Name(name.clone())))
                    .collect::<Decoded<Box<[u32]>>>()?;
                self.emit(Op::BranchIndexed { index: index.row, targets });
            }
            "call" => {
                m.take("uni");
                self.call(operands)?;
            }
            "alloca" | "stacksave" | "stackrestore" => self.move_stack(opcode, m, operands)?,
            "ret" => {
                m.take("uni");
                self.expect_count(operands, 0)?;
                let return_row = self.callees.get(&self.current).map(|callee| callee.return_row);
                match return_row {
                    None => self.emit(Op::Exit),
                    Some(return_row) => self.leave(return_row),
                }
            }
            "exit" | "trap" => {
                self.expect_count(operands, 0)?;
                self.emit(if opcode == "trap" { Op::Trap } else { Op::Exit });
            }
            "nanosleep" => {
                self.only_type(m, ScalarType::U32)?;
                self.expect_count(operands, 1)?;
                let nanoseconds = self.source(&operands[0], ScalarType::U32)?.row;
                self.emit(Op::Sleep { nanoseconds });
            }
            "setmaxnreg" => {
                let known = m.one_of(&["inc", "dec"]).is_some() && m.take("sync") && m.take("aligned");
                if !known {
                    return self.fail("needs .inc or .dec, .sync and .aligned");
                }
                self.only_type(m, ScalarType::U32)?;
                self.literal(operands, 1)?;
                self.emit(Op::Nothing);
            }
            "griddepcontrol" => {
                let op = match m.one_of(&["launch_dependents", "wait"]) {
                    Some("wait") => Op::GridWait,
                    Some(_) => Op::LaunchDependents,
                    None => return self.fail("needs .launch_dependents or .wait"),
                };
                self.expect_count(operands, 0)?;
                self.emit(op);
            }
            "pmevent" => {
                m.take("mask");
                self.literal(operands, 1)?;
                self.emit(Op::Nothing);
            }
            _ => return self.fail("is not supported"),
        }
        Ok(())
    }

    pub(super) fn only_type(&self, m: &mut Modifiers, element: ScalarType) -> Decoded<()> {
        match m.element() {
            Some(found) if found == element => Ok(()),
            _ => self.fail(format!("needs type {element:?}")),
        }
    }

    fn literal(&self, operands: &[Operand], count: usize) -> Decoded<()> {
        self.expect_count(operands, count)?;
        if operands.iter().all(|operand| matches!(operand, Operand::Integer(_))) {
            return Ok(());
        }
        self.fail("the operand is an integer literal")
    }

    fn label(&mut self, operand: &Operand) -> Decoded<u32> {
        let Operand::Name(name) = operand else { return self.fail("expected a label") };
        match self.resolve(name)? {
            Some(Binding::Label(label)) => Ok(label as u32),
            _ => self.fail(format!("there is no label `{name}` here")),
        }
    }

    pub(super) fn system_call(
        &mut self,
        function: SystemFunction,
        count: usize,
        results: &[Operand],
        arguments: &[Operand],
    ) -> Decoded<()> {
        let printing = function == SystemFunction::Print;
        if arguments.len() != count || results.len() != usize::from(printing) {
            return self.fail(format!("this system function takes {count} arguments"));
        }
        let sizes: &[u32] = if printing { &[8, 8] } else { &[8, 8, 4, 8, 8] };
        let arguments = arguments
            .iter()
            .zip(sizes)
            .map(|(actual, bytes)| Ok((self.argument(actual, *bytes)?, *bytes)))
            .collect::<Decoded<Vec<_>>>()?;
        let result = match results.first() {
            Some(actual) => Some((self.argument(actual, 4)?, 4)),
            None => None,
        };
        self.emit(Op::System(Box::new(SystemCall { function, arguments, result })));
        Ok(())
    }

    /// Local offset of a `.param` variable of exactly this size.
    pub(super) fn argument(&mut self, actual: &Operand, bytes: u32) -> Decoded<u32> {
        let Operand::Name(name) = actual else { return self.fail("expected a .param variable") };
        match self.resolve(name)? {
            Some(Binding::Local { offset, bytes: found }) if found == u64::from(bytes) => Ok(offset),
            Some(Binding::Local { bytes: found, .. }) => {
                self.fail(format!("`{name}` has {found} bytes, the function wants {bytes}"))
            }
            _ => self.fail(format!("`{name}` is not a .param variable")),
        }
    }

    pub(super) fn copy_register(&mut self, target: Reg, source: Reg) {
        let run = match target.bytes {
            1 => unary!(u8 => u8, |a| a),
            2 => unary!(u16 => u16, |a| a),
            4 => unary!(u32 => u32, |a| a),
            8 => unary!(u64 => u64, |a| a),
            _ => unary!(u128 => u128, |a| a),
        };
        self.alu(run, target, &[source]);
    }
}
