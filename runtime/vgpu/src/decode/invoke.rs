//! Calls. A function has one place for what it is given and gives; a call that may come back to its caller puts what the caller has on the
//! stack first. A call through a register is one for each function that can be meant, behind a comparison with its address, so that lanes
//! go apart and meet again as at any branch.

use super::calls;
use super::modifiers::Modifiers;
use super::op::{Constant, Frame, GUARD_NOT, NO_GUARD, NoFunction, Op, Reg, SystemFunction};
use super::{Binding, Callee, Decoded, Decoder, Formal};
use crate::ptx::ScalarType;
use crate::ptx::ast::{FunctionParameter, Operand};
use crate::semantics::lanes::Args;

/// How a call through a register says what may be called.
enum Meant {
    Listed(Vec<usize>),
    OfType(std::rc::Rc<super::Signature>),
}

impl Decoder<'_> {
    /// `call (results), name, (arguments);` where both lists may be missing; through a register with a prototype or a list behind it.
    pub(super) fn call(&mut self, operands: &[Operand]) -> Decoded<()> {
        let (results, rest) = match operands {
            [Operand::List(results), rest @ ..] => (results.as_slice(), rest),
            rest => (&[][..], rest),
        };
        let (name, arguments, meant) = match rest {
            [Operand::Name(name)] => (name, &[][..], None),
            [Operand::Name(name), Operand::List(arguments)] => (name, arguments.as_slice(), None),
            [Operand::Name(name), Operand::Name(meant)] => (name, &[][..], Some(meant)),
            [Operand::Name(name), Operand::List(arguments), Operand::Name(meant)] => {
                (name, arguments.as_slice(), Some(meant))
            }
            _ => return self.fail("expected `(results), function, (arguments)`"),
        };
        if let Some(Binding::Register(_, Some(pointer))) = self.resolve(name)? {
            let Some(meant) = meant else {
                return self.fail("a call through a register needs a .callprototype or .calltargets");
            };
            return self.indirect_call(pointer, meant, results, arguments);
        }
        let system = match name.as_str() {
            "vprintf" => Some((SystemFunction::Print, 2)),
            "__assertfail" => Some((SystemFunction::AssertFail, 5)),
            _ => None,
        };
        let known = self.functions.get(name.as_str()).copied();
        let defined = known.is_some_and(|at| self.module.functions[at].body.is_some());
        if let (Some((function, count)), false) = (system, defined) {
            return self.system_call(function, count, results, arguments);
        }
        match known {
            Some(function) if !defined && !self.module.functions[function].entry => {
                self.check_lists(function, results, arguments)?;
                self.missing(name);
                Ok(())
            }
            Some(function) if self.reach.comes_back(self.current, function) => {
                let end = self.skip_by_guard();
                self.call_of(name, results, arguments)?;
                self.put_label(end);
                Ok(())
            }
            _ => self.call_of(name, results, arguments),
        }
    }

    fn missing(&mut self, name: &str) {
        let text = format!("calls `{name}`, which is declared and not defined in this module");
        self.code.missing.push((self.line, name.to_owned()));
        self.emit(Op::NoFunction(Box::new(NoFunction { pointer: None, text })));
    }

    /// The lanes that the guard excludes go on at the label that this gives; behind it there is no guard.
    fn skip_by_guard(&mut self) -> usize {
        let end = self.new_label();
        if self.guard != NO_GUARD {
            self.guard ^= GUARD_NOT;
            self.emit(Op::Branch { target: end as u32 });
            self.guard = NO_GUARD;
        }
        end
    }

    fn put_label(&mut self, label: usize) {
        self.labels[label] = Some(self.code.steps.len() as u32);
    }

    fn check_lists(&self, function: usize, results: &[Operand], arguments: &[Operand]) -> Decoded<()> {
        let function = &self.module.functions[function];
        if arguments.len() == function.parameters.len() && results.len() == function.returns.len() {
            return Ok(());
        }
        self.fail(format!(
            "`{}` takes {} arguments and gives {} results, here are {} and {}",
            function.name,
            function.parameters.len(),
            function.returns.len(),
            arguments.len(),
            results.len()
        ))
    }

    fn indirect_call(&mut self, pointer: Reg, meant: &str, results: &[Operand], arguments: &[Operand]) -> Decoded<()> {
        if pointer.bytes != 8 {
            return self.fail("the address of a function has 64 bits");
        }
        let meant = match self.resolve(meant)? {
            Some(Binding::Prototype(signature)) => Meant::OfType(signature),
            Some(Binding::Targets(names)) => {
                let functions = names.iter().map(|name| match self.functions.get(name.as_str()) {
                    Some(function) => Ok(*function),
                    None => self.fail(format!("there is no function `{name}` in this module")),
                });
                Meant::Listed(functions.collect::<Decoded<Vec<_>>>()?)
            }
            _ => return self.fail(format!("`{meant}` is no .callprototype and no .calltargets")),
        };
        let (functions, why) = match meant {
            Meant::Listed(functions) => (functions, "it is not among the .calltargets"),
            Meant::OfType(signature) => {
                let (returns, parameters) = (&signature.returns, &signature.parameters);
                if arguments.len() != parameters.len() || results.len() != returns.len() {
                    return self.fail("the lists of this call are not those of its .callprototype");
                }
                let fits = |function: &usize| {
                    let function = &self.module.functions[*function];
                    same(&function.returns, returns) && same(&function.parameters, parameters)
                };
                let functions: Vec<usize> = self.reach.taken.iter().copied().filter(fits).collect();
                (functions, "no function with these parameters whose address the module takes has this one")
            }
        };
        let end = self.skip_by_guard();
        for function in functions {
            if self.code.steps.len() >= self.budget {
                return self.fail("the module has too many instructions");
            }
            let next = self.new_label();
            let address = self.constant(Constant::Bits(calls::address(function).into()), 8)?;
            let p = self.new_predicate();
            self.compare(comparison!(u64, |a, b| a == b), p, pointer, address);
            self.guard = p | GUARD_NOT;
            self.emit(Op::Branch { target: next as u32 });
            self.guard = NO_GUARD;
            let name = self.module.functions[function].name.clone();
            if self.module.functions[function].body.is_some() {
                self.call_of(&name, results, arguments)?;
                self.emit(Op::Branch { target: end as u32 });
            } else {
                self.missing(&name);
            }
            self.put_label(next);
        }
        self.emit(Op::NoFunction(Box::new(NoFunction { pointer: Some(pointer), text: why.into() })));
        self.put_label(end);
        Ok(())
    }

    /// A call of a function of this module.
    fn call_of(&mut self, name: &str, results: &[Operand], arguments: &[Operand]) -> Decoded<()> {
        let (index, callee) = self.callee(name)?;
        self.check_lists(index, results, arguments)?;
        let frame = self.reach.comes_back(self.current, index).then(|| self.frame_number(self.current));
        let function = &self.module.functions[index];
        // What the caller has may be what the callee is given: both are moved by way of places that no frame has.
        let mut given = Vec::new();
        for ((actual, formal), parameter) in arguments.iter().zip(&callee.parameters).zip(&function.parameters) {
            let place = match frame {
                Some(_) => self.transfer(*formal)?,
                None => *formal,
            };
            match place {
                Formal::Memory { offset, bytes } => {
                    let from = self.argument(actual, bytes)?;
                    self.emit(Op::CopyLocal { from, to: offset, bytes });
                }
                Formal::Register(reg) => {
                    let source = self.source(actual, formal_type(parameter))?;
                    self.copy_register(reg, source);
                }
                Formal::Predicate => return self.fail("predicate parameters are not supported"),
            }
            given.push((place, *formal));
        }
        if let Some(frame) = frame {
            self.emit(Op::Save { frame });
            given.iter().for_each(|(from, to)| self.copy_formal(*from, *to));
        }
        self.emit(Op::Call { target: callee.label as u32, return_row: callee.return_row });
        self.code.return_sites.push(self.code.steps.len() as u32);
        let mut taken = callee.returns.clone();
        if let Some(frame) = frame {
            for place in &mut taken {
                let to = self.transfer(*place)?;
                self.copy_formal(*place, to);
                *place = to;
            }
            self.emit(Op::Restore { frame });
        }
        for (actual, place) in results.iter().zip(taken) {
            match place {
                Formal::Memory { offset, bytes } => {
                    let to = self.argument(actual, bytes)?;
                    self.emit(Op::CopyLocal { from: offset, to, bytes });
                }
                Formal::Register(reg) => {
                    let target = self.target(actual, reg.bytes)?;
                    self.copy_register(target, reg);
                }
                Formal::Predicate => return self.fail("predicate parameters are not supported"),
            }
        }
        Ok(())
    }

    /// A place like a formal one that belongs to no frame.
    fn transfer(&mut self, formal: Formal) -> Decoded<Formal> {
        Ok(match formal {
            Formal::Memory { bytes, .. } => Formal::Memory { offset: self.local_space(bytes.into(), 16)?, bytes },
            Formal::Register(reg) => {
                let reg = self.temporary(reg.bytes)?;
                self.transfers.insert(reg.row);
                Formal::Register(reg)
            }
            Formal::Predicate => Formal::Predicate,
        })
    }

    fn copy_formal(&mut self, from: Formal, to: Formal) {
        match (from, to) {
            (Formal::Memory { offset: from, bytes }, Formal::Memory { offset: to, .. }) => {
                self.emit(Op::CopyLocal { from, to, bytes });
            }
            (Formal::Register(from), Formal::Register(to)) => self.copy_register(to, from),
            // Such a call has been refused.
            (Formal::Memory { .. } | Formal::Register(_) | Formal::Predicate, _) => {}
        }
    }

    fn frame_number(&mut self, function: usize) -> u32 {
        if let Some(frame) = self.frames.get(&function) {
            return *frame;
        }
        let number = self.code.frames.len() as u32;
        self.code.frames.push(Frame::default());
        self.frames.insert(function, number);
        number
    }

    /// Says what belongs to a function that has been decoded. Before it there were so many rows, predicates and pieces of local memory.
    pub(super) fn keep_frame(&mut self, function: usize, callee: &Callee, before: (usize, u32, usize)) {
        let Some(&number) = self.frames.get(&function) else { return };
        let constants: std::collections::HashSet<u32> = self.code.constants.iter().map(|(reg, _)| reg.row).collect();
        let mut frame = Frame {
            function: self.module.functions[function].name.clone(),
            registers: vec![Reg { row: callee.return_row, bytes: 4 }],
            predicates: (before.1..self.code.predicates).collect(),
            local: self.pieces[before.2..].to_vec(),
        };
        for formal in callee.parameters.iter().chain(&callee.returns) {
            match *formal {
                Formal::Memory { offset, bytes } => frame.local.push((offset, bytes)),
                Formal::Register(reg) => frame.registers.push(reg),
                Formal::Predicate => {}
            }
        }
        let own = self.rows[before.0..].iter();
        let own = own.filter(|reg| !constants.contains(&reg.row) && !self.transfers.contains(&reg.row));
        frame.registers.extend(own);
        self.code.frames[number as usize] = frame;
    }

    /// The stack of a thread is empty at first.
    pub(super) fn start_stack(&mut self) -> Decoded<()> {
        let start = self.temporary(4)?;
        // Its value is known when all functions are.
        self.code.constants.push((start, Constant::Bits(0)));
        let top = self.temporary(4)?;
        self.transfers.insert(top.row);
        self.copy_register(top, start);
        self.stack = Some((top, start));
        Ok(())
    }

    /// Makes room for the variables of a function that is entered.
    pub(super) fn enter_frame(&mut self, function: usize) -> Decoded<()> {
        (self.base, self.base_used) = (None, 0);
        let Some((top, _)) = self.stack.filter(|_| self.reach.has_frame(function)) else { return Ok(()) };
        let base = self.temporary(4)?;
        self.copy_register(base, top);
        self.base = Some(base);
        let body = self.module.functions[function].body.as_deref().unwrap_or_default();
        let (bytes, align) = if self.reach.is_recursive(function) { calls::frame_bytes(body) } else { (0, 16) };
        if align > 16 {
            return self.fail("a variable of a function that may call itself is aligned to at most 16 bytes");
        }
        if bytes > 0 {
            let size = self.constant(Constant::Bits(bytes.next_multiple_of(16).into()), 4)?;
            self.alu(binary!(u32, u32 => u32, u32::wrapping_add), top, &[top, size]);
        }
        Ok(())
    }

    /// The address of a variable on the stack.
    pub(super) fn frame_address(&mut self, offset: i64, bytes: u32) -> Decoded<Reg> {
        let Some(base) = self.base.filter(|_| bytes >= 4) else { return self.fail("the address does not fit") };
        let target = self.temporary(bytes)?;
        let number = self.constant(Constant::Bits(u128::from(offset.cast_unsigned() as u32)), 4)?;
        let run = match bytes {
            4 => binary!(u32, u32 => u32, u32::wrapping_add),
            _ => binary!(u32, u32 => u64, |a, b| u64::from(a.wrapping_add(b))),
        };
        self.alu(run, target, &[base, number]);
        Ok(target)
    }

    /// `alloca d, size{, align};`, `stacksave d;` and `stackrestore a;`
    pub(super) fn move_stack(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let element = self.need_element(m)?;
        if !matches!(element, ScalarType::U32 | ScalarType::U64) {
            return self.unsupported(element);
        }
        let Some((top, _)) = self.stack else { return self.fail("there is no stack here") };
        let wide = element == ScalarType::U64;
        let narrow = if wide { unary!(u64 => u32, |a| a as u32) } else { unary!(u32 => u32, |a| a) };
        let widen = if wide { unary!(u32 => u64, u64::from) } else { unary!(u32 => u32, |a| a) };
        match (opcode, operands) {
            ("stackrestore", [source]) => {
                let source = self.source(source, element)?;
                self.alu(narrow, top, &[source]);
            }
            ("stacksave", [target]) => {
                let target = self.target(target, element.bytes())?;
                self.alu(widen, target, &[top]);
            }
            ("alloca", [target, size, rest @ ..]) => {
                let align = match rest {
                    [] => 8,
                    [Operand::Integer(align @ 1..=1024)] if (*align as u32).is_power_of_two() => *align as u32,
                    _ => return self.fail("the alignment is a power of two up to 1024"),
                };
                let size = self.source(size, element)?;
                let target = self.target(target, element.bytes())?;
                let bytes = self.temporary(4)?;
                self.alu(narrow, bytes, &[size]);
                let args = Args { d: top.row, a: top.row, p: align - 1, ..Args::default() };
                self.emit_alu(uniform!(u32, |a, n| a.wrapping_add(n) & !n), args, &[top.row], &[top.row]);
                self.alu(widen, target, &[top]);
                self.alu(binary!(u32, u32 => u32, u32::wrapping_add), top, &[top, bytes]);
            }
            _ => return self.fail("wrong number of operands"),
        }
        Ok(())
    }
}

fn formal_type(parameter: &FunctionParameter) -> ScalarType {
    match parameter {
        FunctionParameter::Memory(variable) => variable.element,
        FunctionParameter::Register(element, _) => *element,
    }
}

/// Whether two lists of parameters are passed in the same way.
fn same(a: &[FunctionParameter], b: &[FunctionParameter]) -> bool {
    let alike = |(a, b): (&FunctionParameter, &FunctionParameter)| match (a, b) {
        (FunctionParameter::Memory(a), FunctionParameter::Memory(b)) => a.bytes == b.bytes,
        (FunctionParameter::Register(a, _), FunctionParameter::Register(b, _)) => a.bytes() == b.bytes(),
        (FunctionParameter::Memory(_), FunctionParameter::Register(..))
        | (FunctionParameter::Register(..), FunctionParameter::Memory(_)) => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(alike)
}
