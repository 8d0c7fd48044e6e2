//! What a caller passes for a batch of tokens.
//!
//! Invariant of [`Inputs`]: there is one tensor for each input that the program declares, of its element type and its size.

use crate::ir::{Input, InputId, InputKind, Program};

/// The numbers of one input. Row by row where each token has its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tensor<'a> {
    /// Of all inputs that are numbers to compute with.
    F32(&'a [f32]),
    /// Of [`InputKind::Table`] and [`InputKind::TokenId`].
    I32(&'a [i32]),
}

/// The tensors of a batch, checked against the program that reads them.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    tokens: usize,
    widths: Vec<usize>,
    tensors: Vec<Tensor<'a>>,
}

/// A tensor does not fit its input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Too few or too many tensors.
    #[error("the gate has {declared} inputs ({names}), and {given} tensors were given")]
    Count {
        /// What the gate declares.
        declared: usize,
        /// The names, in order.
        names: String,
        given: usize,
    },
    /// f32 in the place of i32, or the reverse.
    #[error("`{name}` holds {expected}, and {found} was given")]
    Element {
        /// The input.
        name: String,
        /// What it holds.
        expected: &'static str,
        found: &'static str,
    },
    /// Too few or too many numbers.
    #[error("`{name}` has {expected} numbers for {tokens} tokens, and {found} were given")]
    Size {
        /// The input.
        name: String,
        /// Numbers that it must have.
        expected: usize,
        found: usize,
        /// The size of the batch.
        tokens: usize,
    },
}

impl<'a> Inputs<'a> {
    /// Takes one tensor for each input of `program`, in the order of declaration.
    ///
    /// # Errors
    /// If the invariant of this module would not hold.
    pub fn new(program: &Program, tokens: usize, tensors: Vec<Tensor<'a>>) -> Result<Inputs<'a>, InputError> {
        let declared = program.inputs();
        if declared.len() != tensors.len() {
            let names = declared.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(InputError::Count { declared: declared.len(), names, given: tensors.len() });
        }
        for (input, tensor) in declared.iter().zip(&tensors) {
            let name = || input.name.clone();
            let (found, found_element) = match tensor {
                Tensor::F32(numbers) => (numbers.len(), "f32"),
                Tensor::I32(numbers) => (numbers.len(), "i32"),
            };
            let element = if input.kind.is_integer() { "i32" } else { "f32" };
            if element != found_element {
                return Err(InputError::Element { name: name(), expected: element, found: found_element });
            }
            let rows = if input.kind.is_per_token() { tokens } else { 1 };
            let expected = rows * width(program, input);
            if expected != found {
                return Err(InputError::Size { name: name(), expected, found, tokens });
            }
        }
        let widths = declared.iter().map(|input| width(program, input)).collect();
        Ok(Inputs { tokens, widths, tensors })
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether these are the tensors of inputs like those of `program`.
    pub fn fit(&self, program: &Program) -> bool {
        Inputs::new(program, self.tokens, self.tensors.clone()).is_ok()
    }

    /// All numbers of an input of f32.
    ///
    /// # Panics
    /// If the input is of i32.
    pub fn floats(&self, input: InputId) -> &'a [f32] {
        match self.tensors[input.0 as usize] {
            Tensor::F32(numbers) => numbers,
            Tensor::I32(_) => panic!("input {} is of i32", input.0),
        }
    }

    /// All numbers of an input of i32.
    ///
    /// # Panics
    /// If the input is of f32.
    pub fn integers(&self, input: InputId) -> &'a [i32] {
        match self.tensors[input.0 as usize] {
            Tensor::I32(numbers) => numbers,
            Tensor::F32(_) => panic!("input {} is of f32", input.0),
        }
    }

    /// Numbers per row.
    pub fn width(&self, input: InputId) -> usize {
        self.widths[input.0 as usize]
    }

    /// One row of an input of f32.
    pub fn row(&self, input: InputId, row: usize) -> &'a [f32] {
        let width = self.width(input);
        &self.floats(input)[row * width..][..width]
    }
}

/// Numbers of an input that are passed at once: for one token, or for all.
fn width(program: &Program, input: &Input) -> usize {
    let width = match input.kind {
        InputKind::Logits | InputKind::ExpertParameter => program.experts(),
        InputKind::ScalarParameter | InputKind::TokenId => 1,
        InputKind::GroupParameter => program.groups().unwrap_or(0),
        InputKind::Table { vocabulary, k } => return vocabulary as usize * k as usize,
        InputKind::WeightGradient(k) => k,
    };
    width as usize
}

impl InputKind {
    /// Whether it holds i32 rather than f32.
    pub fn is_integer(self) -> bool {
        matches!(self, InputKind::Table { .. } | InputKind::TokenId)
    }
}
