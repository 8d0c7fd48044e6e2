//! The gate and its gradient.

use std::collections::BTreeMap;

use moe_bundle::manifest::{Parameter, ParameterKind};
use moe_contract::{Call, RankId, Tensor};

use super::launch::Passed;
use super::{Communicator, Routing};
use crate::device::{Address, Memory};
use crate::error::{Error, Result};
use crate::tensor::Distributed;

/// The parameters of a gate by name, without the logits. They are copied to every rank in each call.
#[derive(Clone, Debug, Default)]
pub struct Parameters(BTreeMap<String, Numbers>);

/// What a caller passes for a parameter.
#[derive(Clone, Debug)]
enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
    I32PerRank(Vec<Vec<i32>>),
}

impl Parameters {
    /// Those of a gate that has none.
    pub fn none() -> Parameters {
        Parameters::default()
    }

    /// Adds an f32 parameter: a scalar, one number per expert, or one per group.
    #[must_use]
    pub fn f32(mut self, name: &str, values: &[f32]) -> Parameters {
        self.0.insert(name.into(), Numbers::F32(values.into()));
        self
    }

    /// Adds a table of experts, row-major.
    #[must_use]
    pub fn table(mut self, name: &str, experts: &[i32]) -> Parameters {
        self.0.insert(name.into(), Numbers::I32(experts.into()));
        self
    }

    /// Adds token ids: one per token, for each rank.
    #[must_use]
    pub fn token_ids(mut self, name: &str, of_ranks: &[Vec<i32>]) -> Parameters {
        self.0.insert(name.into(), Numbers::I32PerRank(of_ranks.into()));
        self
    }
}

impl Communicator {
    /// Chooses experts and weights for every token; drops what exceeds the capacity, where the bundle has one.
    ///
    /// # Errors
    /// When shapes or parameters do not fit. A NaN is reported by the next [`Communicator::synchronise`].
    pub fn gate(&mut self, logits: &Distributed, parameters: &Parameters) -> Result<Routing> {
        self.running()?;
        logits.expect(Tensor::Logits)?;
        let tokens = self.check_tokens(logits)?;
        let parameters = self.place(parameters, &tokens)?;
        let indices = self.allocate(Tensor::Indices, &tokens)?;
        let weights = self.allocate(Tensor::Weights, &tokens)?;
        let passed = Passed {
            tokens: &tokens,
            tensors: &[logits, &indices, &weights],
            parameters: &addresses(&parameters),
            ..Passed::NOTHING
        };
        self.launch(Call::Gate, &passed)?;
        Ok(Routing { indices, weights })
    }

    /// Gradients of the logits, given those of the weights.
    ///
    /// # Errors
    /// When shapes or parameters do not fit.
    pub fn gate_backward(
        &mut self,
        logits: &Distributed,
        weight_gradients: &Distributed,
        parameters: &Parameters,
    ) -> Result<Distributed> {
        self.running()?;
        logits.expect(Tensor::Logits)?;
        weight_gradients.expect(Tensor::WeightGradients)?;
        let tokens = self.check_tokens(logits)?;
        weight_gradients.expect_rows(&tokens)?;
        let parameters = self.place(parameters, &tokens)?;
        let gradients = self.allocate(Tensor::LogitGradients, &tokens)?;
        let passed = Passed {
            tokens: &tokens,
            tensors: &[logits, weight_gradients, &gradients],
            parameters: &addresses(&parameters),
            ..Passed::NOTHING
        };
        self.launch(Call::GateBackward, &passed)?;
        Ok(gradients)
    }

    /// A routing that does not come from the gate: for each rank `[tokens, top_k]`, ascending, −1 for none.
    ///
    /// # Errors
    /// When shapes do not fit. Impossible picks are found by dispatch.
    pub fn routing(&mut self, indices: &[impl AsRef<[i32]>], weights: &[impl AsRef<[f32]>]) -> Result<Routing> {
        let indices = self.upload(Tensor::Indices, indices)?;
        let weights = self.upload(Tensor::Weights, weights)?;
        weights.expect_rows(&self.check_tokens(&indices)?)?;
        Ok(Routing { indices, weights })
    }

    /// Checks the parameters and copies them: for each rank, in the order of the kernel's arguments.
    fn place(&mut self, parameters: &Parameters, tokens: &[u64]) -> Result<Vec<Vec<Memory>>> {
        let gate = self.manifest.gate.clone();
        if let Some(name) = parameters.0.keys().find(|name| gate.parameters.iter().all(|known| known.name != **name)) {
            let known = gate.parameters.into_iter().map(|parameter| parameter.name).collect();
            return Err(Error::UnknownParameter { name: name.clone(), known });
        }
        let mut placed: Vec<Vec<Memory>> = tokens.iter().map(|_| vec![]).collect();
        for parameter in &gate.parameters {
            let found = parameters.0.get(&parameter.name);
            let numbers = found.ok_or_else(|| Error::MissingParameter { name: parameter.name.clone() })?;
            for ((rank, &tokens), placed) in (0..).map(RankId).zip(tokens).zip(&mut placed) {
                let bytes = bytes_of(parameter, numbers, rank, tokens, &gate)?;
                let memory = Memory::new(&self.device, rank, bytes.len() as u64, &parameter.name)?;
                memory.write(bytes)?;
                placed.push(memory);
            }
        }
        Ok(placed)
    }
}

fn addresses(parameters: &[Vec<Memory>]) -> Vec<Vec<Address>> {
    parameters.iter().map(|of_rank| of_rank.iter().map(Memory::address).collect()).collect()
}

/// What one rank gets of a parameter.
fn bytes_of<'n>(
    parameter: &Parameter,
    numbers: &'n Numbers,
    rank: RankId,
    tokens: u64,
    gate: &moe_bundle::GateDescription,
) -> Result<&'n [u8]> {
    let (expected, integers) = match parameter.kind {
        ParameterKind::Scalar => (1, false),
        ParameterKind::Experts => (u64::from(gate.experts), false),
        ParameterKind::Groups => (u64::from(gate.groups), false),
        ParameterKind::Table { vocabulary, k } => (u64::from(vocabulary) * u64::from(k), true),
        ParameterKind::TokenId => (tokens, true),
    };
    let per_rank = parameter.kind == ParameterKind::TokenId;
    let (found, bytes): (String, &[u8]) = match numbers {
        Numbers::F32(values) => (format!("{} × f32", values.len()), bytemuck::cast_slice(values)),
        Numbers::I32(values) => (format!("{} × i32", values.len()), bytemuck::cast_slice(values)),
        Numbers::I32PerRank(of_ranks) => match of_ranks.get(rank.index()) {
            Some(values) => (format!("{} × i32 on {rank}", values.len()), bytemuck::cast_slice(values)),
            None => (format!("nothing on {rank}"), &[]),
        },
    };
    let right_kind = match numbers {
        Numbers::F32(_) => !integers,
        Numbers::I32(_) => integers && !per_rank,
        Numbers::I32PerRank(_) => per_rank,
    };
    if right_kind && bytes.len() as u64 == 4 * expected {
        return Ok(bytes);
    }
    let place = if per_rank { format!(" on {rank}") } else { String::new() };
    let expected = format!("{expected} × {}{place}", if integers { "i32" } else { "f32" });
    Err(Error::ParameterShape { name: parameter.name.clone(), found, expected })
}
