//! Gate IR to native code through Cranelift.
//!
//! Invariant: the results are those of [`moe_gate::interpret`], bit by bit (which NaN a NaN is excepted), and so are the faults. Nothing
//! of a gate is special here: whatever the IR can express runs, and the same code serves every gate.
//!
//! A gate is compiled once ([`HostGate::compile`]) and then runs over batches: on all cores of the current rayon
//! pool ([`HostGate::route`], [`HostGate::route_into`]), or on one with memory that is kept between batches ([`HostGate::worker`]),
//! where nothing is allocated.
//!
//! ```
//! use moe_gate::inputs::{Inputs, Tensor};
//! use moe_gate::ir::{Gate, InputKind, Op, Program};
//! use moe_host::HostGate;
//!
//! // top-2 of four logits, weighed by the logits
//! let mut program = Program::new(4, None);
//! let logits = program.declare("logits", InputKind::Logits);
//! let logits = program.push(Op::Input(logits)).unwrap();
//! let choice = program.push(Op::ChooseExperts { by: logits, count: 2, within: None }).unwrap();
//! let weights = program.push(Op::Gather { of: logits, at: choice }).unwrap();
//! let gate = Gate { program, choice, weights, before_experts: false };
//!
//! let host = HostGate::compile(&gate).unwrap();
//! let logits = [0.5, 2.0, 1.0, -1.0, 0.0, 0.0, 0.0, 3.0];
//! let inputs = Inputs::new(&gate.program, 2, vec![Tensor::F32(&logits)]).unwrap();
//! let routing = host.route(&inputs).unwrap();
//! assert_eq!(routing.indices, [1, 2, 0, 3]); // ascending; ties go to the lowest id
//! assert_eq!(routing.weights, [2.0, 1.0, 0.0, 3.0]);
//! ```

pub mod bench;
mod code;

use code::{Code, Results};
use moe_gate::inputs::Inputs;
use moe_gate::interpret::{self, Fault, GateError, Routing};
use moe_gate::ir::{Backward, Gate, InputId, Masked, Op, Program};
use rayon::prelude::*;

/// Tokens that one core takes at once.
const CHUNK: usize = 128;

/// A gate cannot be made into native code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// There is no code generator for this machine.
    #[error("gates cannot be compiled for this machine: {0}; the reference interpreter runs everywhere")]
    Machine(String),
    /// The number for masked experts is NaN, which cannot be ranked.
    #[error("`fill` is NaN, which cannot be ranked")]
    NanFill,
    /// The code generator refused.
    #[error("the code generator failed: {0}")]
    Generator(String),
}

/// A batch cannot be routed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A token has a fault.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The tensors are not those of this gate.
    #[error("the tensors were checked against another gate")]
    OtherInputs,
    /// A result has not the size that it must have.
    #[error("the memory for {name} holds {found} numbers, and {tokens} tokens give {expected}")]
    Size {
        /// The result.
        name: &'static str,
        /// Numbers that it must have.
        expected: usize,
        found: usize,
        /// The size of the batch.
        tokens: usize,
    },
}

/// A gate as native code.
pub struct HostGate {
    gate: Gate,
    code: Code,
}

impl HostGate {
    /// Compiles a gate; once, not for each batch.
    ///
    /// # Errors
    /// If there is no code generator for this machine.
    pub fn compile(gate: &Gate) -> Result<HostGate, CompileError> {
        check(&gate.program)?;
        let code = Code::compile(&gate.program, Results::Routing { choice: gate.choice, weights: gate.weights })?;
        Ok(HostGate { gate: gate.clone(), code })
    }

    /// The gate that was compiled.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Routes a batch on all cores.
    ///
    /// # Errors
    /// If a token cannot be routed (the first such token), or the inputs are of another gate.
    pub fn route(&self, inputs: &Inputs) -> Result<Routing, RunError> {
        let numbers = inputs.tokens() * self.gate.top_k() as usize;
        let mut routing = Routing { indices: vec![0; numbers], weights: vec![0.0; numbers] };
        self.route_into(inputs, &mut routing.indices, &mut routing.weights)?;
        Ok(routing)
    }

    /// Routes a batch on all cores, into `i32[tokens, top_k]` and `f32[tokens, top_k]`. Allocates scratch memory (some kilobytes)
    /// per core, nothing per token.
    ///
    /// # Errors
    /// If a token cannot be routed (the first such token; what is written of others is not specified), the inputs are of another gate,
    /// or a result has another size.
    pub fn route_into(&self, inputs: &Inputs, indices: &mut [i32], weights: &mut [f32]) -> Result<(), RunError> {
        let top_k = self.gate.top_k() as usize;
        self.check(inputs, indices.len(), weights.len())?;
        let error = indices
            .par_chunks_mut(CHUNK * top_k)
            .zip(weights.par_chunks_mut(CHUNK * top_k))
            .enumerate()
            .map_init(
                || Scratch::of(&self.code),
                |scratch, (chunk, (indices, weights))| {
                    self.run(inputs, chunk * CHUNK, (indices, weights), scratch).err()
                },
            )
            .find_map_first(|error| error);
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Memory with which one thread routes batch after batch without allocating.
    pub fn worker(&self) -> Worker<'_> {
        Worker { gate: self, scratch: Scratch::of(&self.code) }
    }

    fn check(&self, inputs: &Inputs, indices: usize, weights: usize) -> Result<(), RunError> {
        fits(&self.gate.program, inputs)?;
        let expected = inputs.tokens() * self.gate.top_k() as usize;
        size("indices", expected, indices, inputs.tokens())?;
        size("weights", expected, weights, inputs.tokens())
    }

    /// Tokens `first ..`, as many as the results hold.
    fn run(
        &self,
        inputs: &Inputs,
        first: usize,
        (indices, weights): (&mut [i32], &mut [f32]),
        scratch: &mut Scratch,
    ) -> Result<(), GateError> {
        let tokens = indices.len() / self.gate.top_k() as usize;
        scratch.addresses(&self.gate.program, inputs, first);
        let results = (indices.as_mut_ptr().cast(), weights.as_mut_ptr().cast());
        // SAFETY: the inputs fit the program (checked by the caller) and have at least `first + tokens` rows; both results hold
        // `tokens` rows of top_k numbers of 4 bytes.
        let faulty = unsafe { self.code.run(&scratch.inputs, &mut scratch.memory, results, tokens) };
        match faulty {
            None => Ok(()),
            Some(token) => Err(named(first + token, interpret::route_token(&self.gate, inputs, first + token).err())),
        }
    }
}

/// Routes on one thread. See [`HostGate::worker`].
pub struct Worker<'a> {
    gate: &'a HostGate,
    scratch: Scratch,
}

impl Worker<'_> {
    /// Routes a batch on this thread, into `i32[tokens, top_k]` and `f32[tokens, top_k]`. Allocates nothing unless it fails.
    ///
    /// # Errors
    /// If a token cannot be routed (results of the tokens before it are written), the inputs are of another gate, or a result has
    /// another size.
    pub fn route(&mut self, inputs: &Inputs, indices: &mut [i32], weights: &mut [f32]) -> Result<(), RunError> {
        self.gate.check(inputs, indices.len(), weights.len())?;
        Ok(self.gate.run(inputs, 0, (indices, weights), &mut self.scratch)?)
    }
}

/// A backward gate as native code.
pub struct HostBackward {
    backward: Backward,
    code: Code,
}

impl HostBackward {
    /// Compiles the derivative of a gate; once, not for each batch.
    ///
    /// # Errors
    /// If there is no code generator for this machine.
    pub fn compile(backward: &Backward) -> Result<HostBackward, CompileError> {
        check(&backward.program)?;
        let code = Code::compile(&backward.program, Results::Vector(backward.logits))?;
        Ok(HostBackward { backward: backward.clone(), code })
    }

    /// The derivative that was compiled.
    pub fn backward(&self) -> &Backward {
        &self.backward
    }

    /// The gradient with respect to the logits, `f32[tokens, experts]`, on all cores.
    ///
    /// # Errors
    /// If a token cannot be routed (the first such token), or the inputs are of another gate.
    pub fn differentiate(&self, inputs: &Inputs) -> Result<Vec<f32>, RunError> {
        let mut gradient = vec![0.0; inputs.tokens() * self.backward.program.experts() as usize];
        self.differentiate_into(inputs, &mut gradient)?;
        Ok(gradient)
    }

    /// The gradient with respect to the logits, into `f32[tokens, experts]`, on all cores.
    ///
    /// # Errors
    /// If a token cannot be routed (the first such token; what is written of others is not specified), the inputs are of another gate,
    /// or the result has another size.
    pub fn differentiate_into(&self, inputs: &Inputs, gradient: &mut [f32]) -> Result<(), RunError> {
        let program = &self.backward.program;
        let experts = program.experts() as usize;
        fits(program, inputs)?;
        size("grad_logits", inputs.tokens() * experts, gradient.len(), inputs.tokens())?;
        let run = |scratch: &mut Scratch, (chunk, gradient): (usize, &mut [f32])| {
            let first = chunk * CHUNK;
            scratch.addresses(program, inputs, first);
            let results = (gradient.as_mut_ptr().cast(), std::ptr::null_mut());
            // SAFETY: the inputs fit the program and have as many rows; the result holds a row for each token.
            let faulty =
                unsafe { self.code.run(&scratch.inputs, &mut scratch.memory, results, gradient.len() / experts) };
            faulty.map(|token| {
                let fault = interpret::differentiate_token(&self.backward, inputs, first + token).err();
                named(first + token, fault)
            })
        };
        let error = gradient
            .par_chunks_mut(CHUNK * experts)
            .enumerate()
            .map_init(|| Scratch::of(&self.code), run)
            .find_map_first(|error| error);
        error.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// What one thread needs to run code.
struct Scratch {
    memory: Vec<u128>,
    inputs: Vec<*const u8>,
}

// SAFETY: the addresses are written before each run and not read after it.
unsafe impl Send for Scratch {}

impl Scratch {
    fn of(code: &Code) -> Scratch {
        Scratch { memory: code.scratch(), inputs: Vec::new() }
    }

    /// The inputs from the row of token `first` on.
    fn addresses(&mut self, program: &Program, inputs: &Inputs, first: usize) {
        self.inputs.clear();
        for (index, input) in program.inputs().iter().enumerate() {
            let id = InputId(index as u32);
            let skipped = if input.kind.is_per_token() { first * inputs.width(id) } else { 0 };
            self.inputs.push(if input.kind.is_integer() {
                inputs.integers(id)[skipped..].as_ptr().cast()
            } else {
                inputs.floats(id)[skipped..].as_ptr().cast()
            });
        }
    }
}

/// What native code has to rely on that a program does not say.
fn check(program: &Program) -> Result<(), CompileError> {
    let is_nan_fill =
        |op: &Op| matches!(op, Op::ChooseExperts { within: Some((_, Masked::Fill(fill))), .. } if fill.is_nan());
    if program.ops().any(|(_, op)| is_nan_fill(op)) { Err(CompileError::NanFill) } else { Ok(()) }
}

fn fits(program: &Program, inputs: &Inputs) -> Result<(), RunError> {
    if inputs.fit(program) { Ok(()) } else { Err(RunError::OtherInputs) }
}

fn size(name: &'static str, expected: usize, found: usize, tokens: usize) -> Result<(), RunError> {
    if expected == found { Ok(()) } else { Err(RunError::Size { name, expected, found, tokens }) }
}

/// The error of a token that native code refused.
///
/// # Panics
/// If the interpreter accepts it: then one of the two is wrong, and no result can be trusted.
fn named(token: usize, fault: Option<Fault>) -> GateError {
    let fault = fault.expect("native code and the interpreter agree on which tokens have a fault");
    GateError { token, fault }
}
