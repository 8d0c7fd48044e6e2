//! Module level: names of variables and functions, and the bytes of initialised variables.

use std::collections::HashMap;

use super::op::{GlobalVariable, Relocation};
use super::{Binding, Decoded};
use crate::ptx::ast::{Initial, Module, Variable, VariableSpace};
use crate::ptx::{PtxError, ScalarType};
use crate::semantics::convert::{Narrow, to_bf16, to_f16};
use crate::semantics::float::Rounding;

/// Initialised variables are held in memory as bytes.
const MAX_INITIAL_BYTES: u64 = 256 << 20;

/// Names of module variables.
pub(super) fn bindings(module: &Module) -> Decoded<HashMap<&str, Binding>> {
    let mut names = HashMap::new();
    for (index, variable) in module.variables.iter().enumerate() {
        let binding = match variable.space {
            VariableSpace::Shared if variable.external => Binding::DynamicShared(variable.align),
            VariableSpace::Shared => Binding::UnplacedShared(index as u32),
            _ => Binding::Global(index as u32),
        };
        if names.insert(variable.name.as_str(), binding).is_some() {
            return Err(PtxError::new(variable.line, format!("`{}` is declared twice", variable.name)));
        }
    }
    Ok(names)
}

/// Names of functions; a definition takes precedence over its prototype.
pub(super) fn functions(module: &Module) -> Decoded<HashMap<&str, usize>> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, function) in module.functions.iter().enumerate() {
        if let Some(earlier) = names.get(function.name.as_str()) {
            match (module.functions[*earlier].body.is_some(), function.body.is_some()) {
                (true, true) => {
                    return Err(PtxError::new(function.line, format!("`{}` is defined twice", function.name)));
                }
                (true, false) => continue,
                (false, _) => {}
            }
        }
        names.insert(&function.name, index);
    }
    Ok(names)
}

/// The variables with their initial bytes.
pub(super) fn variables(
    module: &Module,
    globals: &HashMap<&str, Binding>,
    functions: &HashMap<&str, usize>,
) -> Decoded<Vec<GlobalVariable>> {
    module.variables.iter().map(|variable| global(variable, globals, functions)).collect()
}

fn global(
    variable: &Variable,
    globals: &HashMap<&str, Binding>,
    functions: &HashMap<&str, usize>,
) -> Decoded<GlobalVariable> {
    let fail = |message: String| Err(PtxError::new(variable.line, message));
    let device = matches!(variable.space, VariableSpace::Global | VariableSpace::Const);
    if device && variable.external {
        return fail(format!("`{}` is .extern, and modules are not linked here", variable.name));
    }
    if !device && !variable.initial.is_empty() {
        return fail(format!("`{}`: only global and constant variables can be initialised", variable.name));
    }
    let width = variable.element.bytes() as usize;
    if variable.initial.len() as u64 * width as u64 > MAX_INITIAL_BYTES {
        return fail(format!("the initialiser of `{}` is too large", variable.name));
    }
    let mut out = GlobalVariable {
        name: variable.name.clone(),
        space: variable.space,
        bytes: variable.bytes,
        initial: Vec::with_capacity(variable.initial.len() * width),
        relocations: Vec::new(),
    };
    for value in &variable.initial {
        let bits = match value {
            Initial::Symbol(name, offset) => {
                if width != 8 {
                    return fail(format!("the address of `{name}` needs 64 bits"));
                }
                match (globals.get(name.as_str()), functions.get(name.as_str())) {
                    (Some(Binding::Global(target)), _) => {
                        let at = out.initial.len() as u64;
                        out.relocations.push(Relocation { at, target: *target, offset: *offset });
                        0
                    }
                    (_, Some(function)) if *offset == 0 => super::calls::address(*function).into(),
                    _ => return fail(format!("`{name}` is not a variable or function of this module")),
                }
            }
            number => match bits(number, variable.element) {
                Some(bits) => bits,
                None => return fail(format!("a value of `{}` does not fit its type", variable.name)),
            },
        };
        out.initial.extend_from_slice(&bits.to_le_bytes()[..width]);
    }
    Ok(out)
}

/// Bits of one element.
fn bits(value: &Initial, element: ScalarType) -> Option<u128> {
    use ScalarType::{Bf16, F16, F32, F64};
    let width = element.bytes() * 8;
    let nearest = Narrow { mode: Rounding::Nearest, finite: false, relu: false };
    match (*value).clone() {
        Initial::Integer(value) if !element.is_float() => {
            let fits = width >= 128 || (-(1i128 << (width - 1))..1i128 << width).contains(&value);
            fits.then(|| value.cast_unsigned() & super::operands::ones(element.bytes()))
        }
        Initial::Integer(_) | Initial::Symbol(..) => None,
        Initial::Float(value) => Some(match element {
            F64 => u128::from(value.to_bits()),
            F32 => u128::from((value as f32).to_bits()),
            F16 => u128::from(to_f16(value, nearest)),
            Bf16 => u128::from(to_bf16(value, nearest)),
            _ => return None,
        }),
        Initial::Bits32(bits) if width == 32 => Some(u128::from(bits)),
        Initial::Bits64(bits) if width == 64 => Some(u128::from(bits)),
        Initial::Bits32(_) | Initial::Bits64(_) => None,
    }
}
