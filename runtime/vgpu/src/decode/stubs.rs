//! Bodies for functions that a module declares and does not define.

use crate::names::demangled;
use crate::ptx::ScalarType;
use crate::ptx::ast::{Function, FunctionParameter, Instruction, Module, Operand, Statement};

/// A function that does nothing but return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stub {
    /// As the PTX or the source calls it.
    pub name: String,
    /// Low bits of what it returns; the rest is zero.
    pub returns: u64,
}

/// Gives the functions with the name of a stub a body that returns its value.
pub(super) fn define(module: &mut Module, stub: &Stub) {
    let named = |function: &&mut Function| {
        !function.entry
            && function.body.is_none()
            && (function.name == stub.name || demangled(&function.name) == stub.name)
    };
    for function in module.functions.iter_mut().filter(named) {
        let mut body: Vec<Statement> =
            function.returns.iter().flat_map(|returned| put(returned, stub.returns, function.line)).collect();
        body.push(instruction("ret", &[], Vec::new(), function.line));
        function.body = Some(body);
    }
}

fn instruction(opcode: &str, modifiers: &[&str], operands: Vec<Operand>, line: u32) -> Statement {
    let modifiers = modifiers.iter().map(|&word| word.to_owned()).collect();
    Statement::Instruction(Instruction { guard: None, opcode: opcode.to_owned(), modifiers, operands, line })
}

/// What puts a value into a formal result, its low bytes first.
fn put(returned: &FunctionParameter, value: u64, line: u32) -> Vec<Statement> {
    match returned {
        FunctionParameter::Register(element, name) => {
            let (word, mask) = match element.bytes() {
                2 => ("b16", 0xffff),
                4 => ("b32", 0xffff_ffff),
                8 => ("b64", u64::MAX),
                _ => return Vec::new(),
            };
            let operands = vec![Operand::Name(name.clone()), Operand::Integer((value & mask).into())];
            vec![instruction("mov", &[word], operands, line)]
        }
        FunctionParameter::Memory(variable) => {
            let width = u64::from(ScalarType::B8.bytes());
            let bytes = value.to_le_bytes();
            let put = |at: u64| {
                let byte = bytes.get(at as usize).copied().unwrap_or(0);
                let place = Operand::Address(Some(variable.name.clone()), at.cast_signed());
                instruction("st", &["param", "b8"], vec![place, Operand::Integer(byte.into())], line)
            };
            (0..variable.bytes / width).map(put).collect()
        }
    }
}
