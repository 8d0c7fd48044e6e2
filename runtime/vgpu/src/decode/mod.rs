//! Syntax tree → compact form, once per kernel. Device functions are decoded into the kernels that call them.
//!
//! Invariants established here and relied on by the engine's `unsafe` code: every register offset leaves room for 32
//! lanes of its width inside `file_bytes`; every predicate index is below `predicates`; every branch target is a step.
//! While a kernel is decoded every register has a row of its own; at the end those share rows that can, see [`rows`].

mod arithmetic;
pub(crate) mod bulk;
mod calls;
mod comparison;
mod control;
mod conversion;
mod floating;
mod flow;
mod globals;
mod graph;
mod invoke;
mod matrix;
mod memory;
mod modifiers;
mod moves;
mod multimem;
pub(crate) mod op;
mod operands;
mod order;
mod rows;
pub(crate) mod stubs;
mod synchronisation;
mod target;
mod tensor;
mod video;
mod wmma;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use crate::names::demangled;
use crate::ptx::ast::{Function, FunctionParameter, Instruction, Module, Operand, Statement, Variable, VariableSpace};
use crate::ptx::{PtxError, ScalarType};
use crate::semantics::lanes::{AluFn, Args};
use calls::Calls;
use modifiers::Modifiers;
use op::{Constant, KernelCode, NO_GUARD, Op, PREDICATE_FLAG, Parameter, Program, Reg, SHARED_BASE, Step};
use stubs::Stub;

type Decoded<T> = Result<T, PtxError>;

/// Decodes the instructions of one kind, which the file of the kind lists.
type Decode<'m> = fn(&mut Decoder<'m>, &str, &mut Modifiers, &[Operand]) -> Decoded<()>;

const MAX_LOCAL_BYTES: u64 = 512 * 1024;
/// What a thread has for the variables of functions that may come back to themselves, and for `alloca`.
const STACK_BYTES: u32 = 16 * 1024;
const MAX_SHARED_BYTES: u64 = 1 << 20;
const MAX_FILE_BYTES: u32 = 64 << 20;
/// Over all kernels of a module: functions are decoded once per kernel that calls them, which must not multiply.
const MAX_STEPS: usize = 2 << 20;

#[derive(Debug, Clone)]
enum Binding {
    Register(ScalarType, Option<Reg>),
    Predicate(u32),
    Global(u32),
    Shared(u32),
    /// The dynamic shared memory, with the alignment of this declaration.
    DynamicShared(u32),
    Local {
        offset: u32,
        bytes: u64,
    },
    /// A variable of a function that may come back to itself, from the start of its frame on the stack.
    Frame {
        offset: u32,
    },
    Parameter(u32),
    Label(usize),
    Targets(Rc<[String]>),
    Prototype(Rc<Signature>),
    /// Module-level shared variable that this kernel has not used yet.
    UnplacedShared(u32),
}

#[derive(Debug, Default)]
struct Scope {
    names: HashMap<String, Binding>,
    /// `name<count>` declarations.
    families: HashMap<String, (u32, ScalarType)>,
}

/// What a function that is called through a register takes and gives.
#[derive(Debug)]
struct Signature {
    returns: Vec<FunctionParameter>,
    parameters: Vec<FunctionParameter>,
}

#[derive(Debug, Clone, Copy)]
enum Formal {
    Memory { offset: u32, bytes: u32 },
    Register(Reg),
    Predicate,
}

#[derive(Debug, Clone)]
struct Callee {
    label: usize,
    return_row: u32,
    parameters: Vec<Formal>,
    returns: Vec<Formal>,
}

pub(crate) struct Decoder<'m> {
    module: &'m Module,
    globals: &'m HashMap<&'m str, Binding>,
    functions: &'m HashMap<&'m str, usize>,
    reach: &'m Calls,
    scopes: Vec<Scope>,
    line: u32,
    /// File and line in the source, as the last `.loc` says.
    source: (u32, u32),
    form: String,
    guard: u32,
    code: KernelCode,
    /// Registers (row offsets) and predicates (index with the top bit) that each step reads.
    uses: Vec<Box<[u32]>>,
    /// The same for what it writes.
    defines: Vec<Box<[u32]>>,
    /// The rows made so far.
    rows: Vec<Reg>,
    /// Names of registers by row, and of predicates by index with [`PREDICATE_FLAG`].
    names: HashMap<u32, String>,
    form_index: HashMap<String, u32>,
    constant_rows: HashMap<(Constant, u32), u32>,
    labels: Vec<Option<u32>>,
    /// Functions called so far: frame and entry label.
    callees: HashMap<usize, Callee>,
    pending: Vec<usize>,
    current: usize,
    /// Where the free part of the stack begins, if there is one, and the constant that it starts with.
    stack: Option<(Reg, Reg)>,
    /// The frame of the current function on the stack, and the bytes that its variables have so far.
    base: Option<Reg>,
    base_used: u64,
    /// Local variables and parameters, each with its size.
    pieces: Vec<(u32, u32)>,
    /// Index of each frame.
    frames: HashMap<usize, u32>,
    /// Rows that hold arguments and results while frames are saved and taken back.
    transfers: HashSet<u32>,
    /// Steps that may still be made.
    budget: usize,
    local_bytes: u64,
}

/// Parses and decodes a module.
///
/// # Errors
/// The first construct or instruction that is not PTX as this crate knows it, with its line.
pub(crate) fn module(text: &str) -> Decoded<Program> {
    program(&crate::ptx::parse(text)?).map_err(|error| error.with_source(text))
}

/// A kernel that is not PTX as this crate knows it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Name in the PTX; of a function that no kernel calls, its own.
    pub kernel: String,
    /// Line in which the kernel begins.
    pub line: u32,
    pub error: PtxError,
}

/// Parses a module and decodes every kernel of it that can be.
///
/// # Errors
/// What is wrong with the module itself.
pub(crate) fn supported(text: &str, stubs: &[Stub]) -> Decoded<(Program, Vec<Refused>)> {
    let mut refused = Vec::new();
    let mut module = crate::ptx::parse(text)?;
    stubs.iter().for_each(|stub| stubs::define(&mut module, stub));
    let program = decoded(&module, &mut |function, error| {
        let error = error.with_source(text);
        refused.push(Refused { kernel: function.name.clone(), line: function.line, error });
        Ok(())
    });
    Ok((program.map_err(|error| error.with_source(text))?, refused))
}

fn program(module: &Module) -> Decoded<Program> {
    decoded(module, &mut |_, error| Err(error))
}

/// Decodes the kernels; `refuse` says what becomes of one that cannot be.
fn decoded(module: &Module, refuse: &mut dyn FnMut(&Function, PtxError) -> Decoded<()>) -> Decoded<Program> {
    let globals = globals::bindings(module)?;
    let functions = globals::functions(module)?;
    let reach = Calls::of(module, &functions);
    let files: Arc<[(u32, String)]> = module.files.as_slice().into();
    let mut kernels: Vec<KernelCode> = Vec::new();
    let mut decoded: HashSet<usize> = HashSet::new();
    let mut budget = MAX_STEPS;
    // Kernels first; then functions that no kernel calls, which are checked although they cannot run.
    for entry in [true, false] {
        for (index, function) in module.functions.iter().enumerate() {
            if function.entry != entry || function.body.is_none() || decoded.contains(&index) {
                continue;
            }
            let decoder = Decoder::new(module, &globals, &functions, &reach, index, &files, budget);
            let (code, callees) = match decoder.function(index) {
                Ok(found) => found,
                Err(error) => {
                    refuse(function, error)?;
                    continue;
                }
            };
            budget = budget.saturating_sub(code.steps.len());
            decoded.extend(callees);
            if entry {
                kernels.push(code);
            }
        }
    }
    Ok(Program { variables: globals::variables(module, &globals, &functions)?, kernels })
}

impl<'m> Decoder<'m> {
    fn new(
        module: &'m Module,
        globals: &'m HashMap<&'m str, Binding>,
        functions: &'m HashMap<&'m str, usize>,
        reach: &'m Calls,
        index: usize,
        files: &Arc<[(u32, String)]>,
        budget: usize,
    ) -> Decoder<'m> {
        let function = &module.functions[index];
        let code = KernelCode {
            name: function.name.clone(),
            steps: Vec::new(),
            operands: Vec::new(),
            unwritten: Vec::new(),
            lines: Vec::new(),
            sources: Vec::new(),
            files: files.clone(),
            form_of: Vec::new(),
            forms: Vec::new(),
            comparisons: Vec::new(),
            file_bytes: 0,
            initial_bytes: 0,
            zeroed_from: 0,
            predicates: 2,
            constants: Vec::new(),
            parameters: Vec::new(),
            parameter_bytes: 0,
            shared_symbols: Vec::new(),
            shared_static: SHARED_BASE,
            dynamic_align: 16,
            local_bytes: 0,
            max_threads: function.max_threads,
            required_threads: function.required_threads,
            clusters: function.clusters,
            return_sites: Vec::new(),
            frames: Vec::new(),
            missing: Vec::new(),
        };
        Decoder {
            module,
            globals,
            functions,
            reach,
            // The lowest scope takes the places of module-level shared variables.
            scopes: vec![Scope::default()],
            line: function.line,
            source: (0, 0),
            form: String::new(),
            guard: NO_GUARD,
            code,
            uses: Vec::new(),
            defines: Vec::new(),
            rows: Vec::new(),
            names: HashMap::new(),
            budget,
            form_index: HashMap::new(),
            constant_rows: HashMap::new(),
            labels: Vec::new(),
            callees: HashMap::new(),
            pending: Vec::new(),
            current: index,
            stack: None,
            base: None,
            base_used: 0,
            pieces: Vec::new(),
            frames: HashMap::new(),
            transfers: HashSet::new(),
            local_bytes: 0,
        }
    }

    /// Decodes a kernel, or a device function alone, with everything it calls. Says which functions those were.
    fn function(mut self, index: usize) -> Decoded<(KernelCode, Vec<usize>)> {
        let function = &self.module.functions[index];
        if self.reach.any_frame {
            self.start_stack()?;
        }
        if function.entry {
            self.kernel_parameters(function)?;
            self.function_body(function, None)?;
        } else {
            self.callee(&function.name)?;
        }
        while let Some(next) = self.pending.pop() {
            self.device_function(next)?;
        }
        let callees = self.callees.keys().copied().collect();
        Ok((self.finish()?, callees))
    }
}

impl<'m> Decoder<'m> {
    fn fail<T>(&self, message: impl std::fmt::Display) -> Decoded<T> {
        let message = if self.form.is_empty() { message.to_string() } else { format!("`{}`: {message}", self.form) };
        Err(PtxError::new(self.line, message))
    }

    fn kernel_parameters(&mut self, function: &Function) -> Decoded<()> {
        let mut scope = Scope::default();
        let mut at = 0u64;
        for parameter in &function.parameters {
            let FunctionParameter::Memory(variable) = parameter else {
                return self.fail("a kernel's parameters are in parameter space");
            };
            at = at.next_multiple_of(u64::from(variable.align));
            if at + variable.bytes > 32 * 1024 {
                return self.fail("a kernel has at most 32 KiB of parameters");
            }
            scope.names.insert(variable.name.clone(), Binding::Parameter(at as u32));
            self.code.parameters.push(Parameter {
                name: variable.name.clone(),
                offset: at as u32,
                bytes: variable.bytes as u32,
            });
            at += variable.bytes;
        }
        self.code.parameter_bytes = at as u32;
        self.scopes.push(scope);
        Ok(())
    }

    /// Decodes a body into the scope on top of the stack, then pops that scope.
    fn function_body(&mut self, function: &'m Function, return_row: Option<u32>) -> Decoded<()> {
        let Some(body) = &function.body else {
            return self.fail(format!("`{}` is declared but never defined", function.name));
        };
        if let Some(error) = &function.malformed {
            return Err(error.clone());
        }
        self.source = (0, 0);
        self.block(body)?;
        self.scopes.pop();
        self.guard = NO_GUARD;
        self.form = "ret".into();
        match return_row {
            None => self.emit(Op::Exit),
            Some(return_row) => self.leave(return_row),
        }
        Ok(())
    }

    /// Returns from a device function, whose frame on the stack is free then.
    fn leave(&mut self, return_row: u32) {
        if let (Some(base), Some((top, _))) = (self.base, self.stack) {
            self.copy_register(top, base);
        }
        self.emit(Op::Return { return_row });
    }

    fn device_function(&mut self, index: usize) -> Decoded<()> {
        let function = &self.module.functions[index];
        let Some(callee) = self.callees.get(&index).cloned() else { return Ok(()) };
        self.line = function.line;
        self.form.clear();
        self.current = index;
        self.labels[callee.label] = Some(self.code.steps.len() as u32);
        let before = (self.rows.len(), self.code.predicates, self.pieces.len());
        self.guard = NO_GUARD;
        self.form = "call".into();
        self.enter_frame(index)?;
        self.form.clear();
        let mut scope = Scope::default();
        let formals = callee.returns.iter().zip(&function.returns);
        for (formal, parameter) in formals.chain(callee.parameters.iter().zip(&function.parameters)) {
            match (formal, parameter) {
                (Formal::Memory { offset, .. }, FunctionParameter::Memory(variable)) => {
                    scope
                        .names
                        .insert(variable.name.clone(), Binding::Local { offset: *offset, bytes: variable.bytes });
                }
                (Formal::Register(reg), FunctionParameter::Register(element, name)) => {
                    scope.names.insert(name.clone(), Binding::Register(*element, Some(*reg)));
                }
                _ => return self.fail("predicate parameters are not supported"),
            }
        }
        self.scopes.push(scope);
        self.function_body(function, Some(callee.return_row))?;
        self.base = None;
        self.keep_frame(index, &callee, before);
        Ok(())
    }

    /// Frame and entry of a device function; schedules its decoding on first use.
    fn callee(&mut self, name: &str) -> Decoded<(usize, Callee)> {
        let Some(&index) = self.functions.get(name) else {
            return self.fail(format!("there is no function `{name}` in this module"));
        };
        if let Some(callee) = self.callees.get(&index) {
            return Ok((index, callee.clone()));
        }
        let module = self.module;
        let function = &module.functions[index];
        if function.entry {
            return self.fail(format!("`{name}` is a kernel, not a function"));
        }
        if function.body.is_none() {
            return self.fail(format!("function `{name}` is declared but never defined"));
        }
        let label = self.new_label();
        let return_row = self.new_row(4)?;
        let returns = function.returns.iter().map(|formal| self.formal(formal)).collect::<Decoded<Vec<_>>>()?;
        let parameters = function.parameters.iter().map(|formal| self.formal(formal)).collect::<Decoded<Vec<_>>>()?;
        let callee = Callee { label, return_row, parameters, returns };
        self.callees.insert(index, callee.clone());
        self.pending.push(index);
        Ok((index, callee))
    }

    fn formal(&mut self, parameter: &FunctionParameter) -> Decoded<Formal> {
        Ok(match parameter {
            FunctionParameter::Memory(variable) => {
                let offset = self.place_local(variable)?;
                Formal::Memory { offset, bytes: variable.bytes as u32 }
            }
            FunctionParameter::Register(ScalarType::Pred, _) => Formal::Predicate,
            FunctionParameter::Register(element, _) => {
                Formal::Register(Reg { row: self.new_row(element.bytes())?, bytes: element.bytes() })
            }
        })
    }

    fn place_local(&mut self, variable: &Variable) -> Decoded<u32> {
        let offset = self.local_space(variable.bytes, variable.align)?;
        self.pieces.push((offset, variable.bytes as u32));
        Ok(offset)
    }

    fn local_space(&mut self, bytes: u64, align: u32) -> Decoded<u32> {
        let offset = self.local_bytes.next_multiple_of(u64::from(align.max(1)));
        if offset + bytes > MAX_LOCAL_BYTES {
            return self.fail("a thread has at most 512 KiB of local memory");
        }
        self.local_bytes = offset + bytes;
        Ok(offset as u32)
    }

    fn place_shared(&mut self, variable: &Variable) -> Decoded<u32> {
        let offset = u64::from(self.code.shared_static).next_multiple_of(u64::from(variable.align.max(1)));
        if offset + variable.bytes > MAX_SHARED_BYTES {
            return self.fail("a kernel has at most 1 MiB of shared variables");
        }
        self.code.shared_static = (offset + variable.bytes) as u32;
        self.code.shared_symbols.push((demangled(&variable.name), offset as u32, variable.bytes as u32));
        let number = Some(self.code.shared_symbols.len()).filter(|number| *number <= op::MOST_NUMBERED).unwrap_or(0);
        Ok((number as u32) << op::VARIABLE_SHIFT | offset as u32)
    }

    fn new_label(&mut self) -> usize {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn block(&mut self, statements: &'m [Statement]) -> Decoded<()> {
        for statement in statements {
            match statement {
                Statement::Label(name, line) => {
                    self.line = *line;
                    let label = self.new_label();
                    self.declare(name, Binding::Label(label))?;
                }
                Statement::Prototype(name, returns, parameters, line) => {
                    self.line = *line;
                    let signature = Signature { returns: returns.clone(), parameters: parameters.clone() };
                    self.declare(name, Binding::Prototype(Rc::new(signature)))?;
                }
                Statement::BranchTargets(name, targets, line) => {
                    self.line = *line;
                    self.declare(name, Binding::Targets(targets.as_slice().into()))?;
                }
                _ => {}
            }
        }
        for statement in statements {
            match statement {
                Statement::Block(inner) => {
                    self.scopes.push(Scope::default());
                    self.block(inner)?;
                    self.scopes.pop();
                }
                Statement::Label(name, _) => {
                    if let Some(Binding::Label(label)) = self.top().names.get(name) {
                        let label = *label;
                        self.labels[label] = Some(self.code.steps.len() as u32);
                    }
                }
                Statement::BranchTargets(..) | Statement::Prototype(..) => {}
                Statement::Registers(element, names, line) => {
                    self.line = *line;
                    self.form.clear();
                    for (name, count) in names {
                        match count {
                            Some(count) => {
                                if self.top().families.insert(name.clone(), (*count, *element)).is_some() {
                                    return self.fail(format!("`{name}<…>` is declared twice in this scope"));
                                }
                            }
                            None if *element == ScalarType::Pred => {
                                let index = self.named_predicate(name);
                                self.declare(name, Binding::Predicate(index))?;
                            }
                            None => self.declare(name, Binding::Register(*element, None))?,
                        }
                    }
                }
                Statement::Location(file, line) => self.source = (*file, *line),
                Statement::Variable(variable) => self.local_variable(variable)?,
                Statement::Instruction(instruction) => self.instruction(instruction)?,
            }
        }
        Ok(())
    }

    fn top(&mut self) -> &mut Scope {
        if self.scopes.is_empty() {
            self.scopes.push(Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn declare(&mut self, name: &str, binding: Binding) -> Decoded<()> {
        if self.top().names.insert(name.to_owned(), binding).is_some() {
            return self.fail(format!("`{name}` is declared twice in this scope"));
        }
        Ok(())
    }

    fn local_variable(&mut self, variable: &Variable) -> Decoded<()> {
        self.line = variable.line;
        self.form.clear();
        if !variable.initial.is_empty() {
            return self.fail("a variable inside a function cannot have an initialiser");
        }
        let binding = match variable.space {
            VariableSpace::Shared if variable.external => {
                self.code.dynamic_align = self.code.dynamic_align.max(variable.align);
                Binding::DynamicShared(variable.align)
            }
            VariableSpace::Shared => Binding::Shared(self.place_shared(variable)?),
            VariableSpace::Local if self.base.is_some() && self.reach.is_recursive(self.current) => {
                let offset = self.base_used.next_multiple_of(u64::from(variable.align.max(1)));
                self.base_used = offset + variable.bytes;
                Binding::Frame { offset: offset as u32 }
            }
            VariableSpace::Local | VariableSpace::Param => {
                Binding::Local { offset: self.place_local(variable)?, bytes: variable.bytes }
            }
            VariableSpace::Global | VariableSpace::Const => {
                return self.fail("global and constant variables are declared at module level");
            }
        };
        self.declare(&variable.name, binding)
    }

    /// Finds a name, giving registers their rows and shared variables their places on first use.
    fn resolve(&mut self, name: &str) -> Decoded<Option<Binding>> {
        for level in (0..self.scopes.len()).rev() {
            if let Some(binding) = self.scopes[level].names.get(name) {
                let binding = match binding.clone() {
                    Binding::Register(element, None) => {
                        Binding::Register(element, Some(self.new_register(name, element)?))
                    }
                    found => return Ok(Some(found)),
                };
                self.scopes[level].names.insert(name.to_owned(), binding.clone());
                return Ok(Some(binding));
            }
            let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
            let digits = &name[prefix.len()..];
            let canonical = digits == "0" || !digits.starts_with('0');
            if let (true, Ok(number)) = (canonical, digits.parse::<u32>()) {
                let family = self.scopes[level].families.get(prefix).filter(|family| number < family.0);
                if let Some(&(_, element)) = family {
                    let binding = if element == ScalarType::Pred {
                        Binding::Predicate(self.named_predicate(name))
                    } else {
                        Binding::Register(element, Some(self.new_register(name, element)?))
                    };
                    self.scopes[level].names.insert(name.to_owned(), binding.clone());
                    return Ok(Some(binding));
                }
            }
        }
        match self.globals.get(name) {
            Some(Binding::UnplacedShared(index)) => {
                let module = self.module;
                let binding = Binding::Shared(self.place_shared(&module.variables[*index as usize])?);
                self.scopes[0].names.insert(name.to_owned(), binding.clone());
                Ok(Some(binding))
            }
            Some(Binding::DynamicShared(align)) => {
                self.code.dynamic_align = self.code.dynamic_align.max(*align);
                Ok(Some(Binding::DynamicShared(*align)))
            }
            found => Ok(found.cloned()),
        }
    }

    /// A row of its own for a register of a width.
    fn new_row(&mut self, bytes: u32) -> Decoded<u32> {
        let at = self.code.file_bytes;
        let size = rows::row_bytes(bytes);
        if at > MAX_FILE_BYTES {
            return self.fail("this kernel uses too many registers");
        }
        self.code.file_bytes = at + size;
        self.rows.push(Reg { row: at, bytes });
        Ok(at)
    }

    fn new_register(&mut self, name: &str, element: ScalarType) -> Decoded<Reg> {
        let reg = Reg { row: self.new_row(element.bytes())?, bytes: element.bytes() };
        self.names.insert(reg.row, name.to_owned());
        Ok(reg)
    }

    fn named_predicate(&mut self, name: &str) -> u32 {
        let index = self.new_predicate();
        self.names.insert(index | PREDICATE_FLAG, name.to_owned());
        index
    }

    fn new_predicate(&mut self) -> u32 {
        self.code.predicates += 1;
        self.code.predicates - 1
    }

    fn emit(&mut self, mut op: Op) {
        let (uses, defines) = flow::of(&mut op);
        self.push(op, uses, defines);
    }

    /// A register instruction, whose operands only its maker knows.
    fn emit_alu(&mut self, run: AluFn, args: Args, uses: &[u32], defines: &[u32]) {
        self.push(Op::Alu { run, args }, uses.to_vec(), defines.to_vec());
    }

    /// Invariant: an operand that is a predicate has [`PREDICATE_FLAG`].
    fn push(&mut self, op: Op, mut uses: Vec<u32>, defines: Vec<u32>) {
        if self.code.steps.len() >= self.budget {
            return;
        }
        let form = match self.form_index.get(&self.form) {
            Some(index) => *index,
            None => {
                let index = self.code.forms.len() as u32;
                self.code.forms.push(self.form.clone());
                self.form_index.insert(self.form.clone(), index);
                index
            }
        };
        if self.guard != NO_GUARD {
            uses.push(self.guard & !op::GUARD_NOT | PREDICATE_FLAG);
        }
        self.code.steps.push(Step { guard: self.guard, order: 0, op });
        self.code.lines.push(self.line);
        self.code.sources.push(self.source);
        self.code.form_of.push(form);
        self.uses.push(uses.into());
        self.defines.push(defines.into());
    }

    fn instruction(&mut self, instruction: &'m Instruction) -> Decoded<()> {
        self.line = instruction.line;
        self.form = instruction.form();
        self.guard = match &instruction.guard {
            None => NO_GUARD,
            Some((name, negated)) => {
                let predicate = self.predicate_by_name(name)?;
                predicate | if *negated { op::GUARD_NOT } else { 0 }
            }
        };
        if let Some(reason) = target::refusal(self.module, instruction) {
            return self.fail(reason);
        }
        let mut modifiers = Modifiers::new(&instruction.modifiers);
        let operands = instruction.operands.as_slice();
        let opcode = instruction.opcode.as_str();
        let decode = [
            (arithmetic::OPCODES, Decoder::arithmetic as Decode<'m>),
            (arithmetic::OPCODES_OF_BITS, Decoder::bits),
            (video::OPCODES, Decoder::video),
            (moves::OPCODES, Decoder::moves),
            (conversion::OPCODES, |decoder, _, modifiers, operands| decoder.conversion(modifiers, operands)),
            (memory::OPCODES, Decoder::memory),
            (matrix::OPCODES, Decoder::matrix),
            (control::OPCODES, Decoder::control),
            (synchronisation::OPCODES, Decoder::synchronisation),
        ];
        match decode.into_iter().find(|(opcodes, _)| opcodes.contains(&opcode)) {
            Some((_, decode)) => decode(self, opcode, &mut modifiers, operands)?,
            None => return Err(PtxError::new(self.line, format!("unknown instruction `{opcode}`"))),
        }
        if let Some(word) = modifiers.rest() {
            return self.fail(format!("unknown modifier `.{word}`"));
        }
        Ok(())
    }

    /// Label numbers become step numbers, and registers share rows.
    fn finish(mut self) -> Decoded<KernelCode> {
        if self.code.steps.len() >= self.budget {
            return Err(PtxError::new(self.line, "the module has too many instructions"));
        }
        let count = self.code.steps.len() as u32;
        let labels = std::mem::take(&mut self.labels);
        let place = |target: u32| labels.get(target as usize).copied().flatten().filter(|at| *at < count);
        for (index, step) in self.code.steps.iter_mut().enumerate() {
            let line = self.code.lines[index];
            let missing = || PtxError::new(line, "this branch goes to a label that is never placed");
            match &mut step.op {
                Op::Branch { target } | Op::Call { target, .. } => *target = place(*target).ok_or_else(missing)?,
                Op::BranchIndexed { targets, .. } => {
                    for target in targets.iter_mut() {
                        *target = place(*target).ok_or_else(missing)?;
                    }
                }
                _ => {}
            }
        }
        self.code.local_bytes = (self.local_bytes as u32).next_multiple_of(16);
        if let Some((_, start)) = self.stack {
            let bottom = Constant::Bits(self.code.local_bytes.into());
            let constants = self.code.constants.iter_mut().filter(|(reg, _)| *reg == start);
            constants.for_each(|(_, value)| *value = bottom);
            self.code.local_bytes += STACK_BYTES;
        }
        self.code.comparisons = comparison::comparisons(&self.code, &self.uses, &self.defines);
        order::order(&mut self.code);
        rows::share(&mut self.code, &self.rows, &self.names, &self.uses, &self.defines);
        Ok(self.code)
    }
}

#[cfg(test)]
mod tests;
