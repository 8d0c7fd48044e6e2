//! What a run is given: logits, gate parameters and activations of every rank, from a file or from a seed.
//!
//! Invariant of [`Given`]: there is one entry per rank; every tensor has the shape and type that the manifest asks for.

use moe_bundle::manifest::{Parameter, ParameterKind};
use moe_bundle::{GateDescription, Manifest};
use moe_contract::{Element, Exchange, Format};
use moe_gate::inputs::{Inputs, Tensor};
use moe_gate::ir::{InputKind, Program};
use moe_judge::Rows;
use moe_runtime::Parameters;
use safetensors::Dtype;

use crate::failure::Failure;
use crate::synthetic::{Stream, generator, normal};
use crate::tensors::{Dim, TensorFile};

/// What a run is given.
pub struct Given {
    /// Tokens of each rank.
    pub tokens: Vec<usize>,
    /// `[tokens, experts]` of each rank.
    pub logits: Vec<Vec<f32>>,
    /// In the order of the manifest.
    pub parameters: Vec<(Parameter, Numbers)>,
    /// `[tokens, hidden]` of each rank, in the source format; none for a gate alone.
    pub activations: Vec<Rows>,
    /// The file it comes from.
    pub file: Option<String>,
}

/// The numbers of a gate parameter.
pub enum Numbers {
    /// One for all tokens.
    F32(Vec<f32>),
    /// One for all tokens.
    I32(Vec<i32>),
    /// One for each token, of each rank.
    PerToken(Vec<Vec<i32>>),
}

impl Given {
    /// The gate's input from a file; its tokens are split over `ranks`, the first ranks get those that are left over.
    pub fn gate_from_file(file: &TensorFile, gate: &GateDescription, ranks: u32) -> Result<Given, Failure> {
        let (shape, logits) = file.numbers::<f32>(&gate.logits, &[Dim::Any("tokens"), experts(gate)])?;
        let tokens = split(shape[0], ranks);
        let mut parameters = Vec::new();
        for parameter in &gate.parameters {
            let name = &parameter.name;
            let numbers = match parameter.kind {
                ParameterKind::Scalar => Numbers::F32(scalar(file, name)?),
                ParameterKind::Experts => Numbers::F32(file.without_nan(name, &[experts(gate)])?),
                ParameterKind::Groups => {
                    Numbers::F32(file.without_nan(name, &[Dim::Exactly("groups", gate.groups as usize)])?)
                }
                ParameterKind::Table { vocabulary, k } => {
                    let shape = [Dim::Exactly("vocab", vocabulary as usize), Dim::Exactly("picks", k as usize)];
                    Numbers::I32(file.numbers(name, &shape)?.1)
                }
                ParameterKind::TokenId => {
                    let ids: Vec<i32> = file.numbers(name, &[Dim::Exactly("tokens", shape[0])])?.1;
                    Numbers::PerToken(cut(&ids, &tokens, 1))
                }
            };
            parameters.push((parameter.clone(), numbers));
        }
        let logits = cut(&logits, &tokens, gate.experts as usize);
        Ok(Given { tokens, logits, parameters, activations: vec![], file: Some(file.name()) })
    }

    /// Everything from a file.
    pub fn from_file(file: &TensorFile, manifest: &Manifest) -> Result<Given, Failure> {
        let exchange = &manifest.exchange;
        let mut given = Given::gate_from_file(file, &manifest.gate, exchange.ranks)?;
        let all = given.tokens.iter().sum();
        let source = exchange.dispatch.source();
        let shape = [Dim::Exactly("tokens", all), Dim::Exactly("hidden", exchange.hidden as usize)];
        let x = file.tensor("x", dtype(source), &shape)?;
        let row = exchange.row_bytes(source) as usize;
        given.activations = cut(x.bytes, &given.tokens, row)
            .into_iter()
            .map(|bytes| {
                // Cut at row ends, and the source format has no scales.
                Rows::from_memory(source, exchange.hidden, bytes, vec![]).expect("whole rows")
            })
            .collect();
        Ok(given)
    }

    /// From a seed: so many tokens on every rank.
    pub fn synthetic(manifest: &Manifest, tokens: u32, seed: u64) -> Given {
        let (exchange, gate) = (&manifest.exchange, &manifest.gate);
        let per_rank = tokens as usize;
        let tokens = vec![per_rank; exchange.ranks as usize];
        let of_rank = |stream, rank, width: u32| normal(&mut generator(seed, stream, rank), per_rank * width as usize);
        let parameters = (0..)
            .zip(&gate.parameters)
            .map(|(index, parameter)| (parameter.clone(), invent(parameter, gate, exchange, per_rank, seed, index)))
            .collect();
        let (ranks, hidden, source) = (0..exchange.ranks, exchange.hidden, exchange.dispatch.source());
        Given {
            tokens,
            logits: ranks.clone().map(|rank| of_rank(Stream::Logits, rank, gate.experts)).collect(),
            parameters,
            activations: ranks
                .map(|rank| Rows::from_values(source, hidden, &of_rank(Stream::Activations, rank, hidden)))
                .collect(),
            file: None,
        }
    }

    /// As the runtime takes them.
    pub fn runtime_parameters(&self) -> Parameters {
        self.parameters.iter().fold(Parameters::none(), |all, (parameter, numbers)| match numbers {
            Numbers::F32(values) => all.f32(&parameter.name, values),
            Numbers::I32(values) => all.table(&parameter.name, values),
            Numbers::PerToken(of_ranks) => all.token_ids(&parameter.name, of_ranks),
        })
    }

    /// What a program of the gate reads on a rank; `weight_gradients` where it is the derivative.
    pub fn inputs<'g>(
        &'g self,
        program: &Program,
        rank: usize,
        weight_gradients: &'g [f32],
    ) -> Result<Inputs<'g>, Failure> {
        let tensor = |input: &moe_gate::ir::Input| match input.kind {
            InputKind::Logits => Ok(Tensor::F32(&self.logits[rank])),
            InputKind::WeightGradient(_) => Ok(Tensor::F32(weight_gradients)),
            _ => {
                let found = self.parameters.iter().find(|(parameter, _)| parameter.name == input.name);
                let (_, numbers) = found.ok_or_else(|| {
                    Failure::Message(format!(
                        "the bundle's gate has a parameter `{}` that its manifest has not",
                        input.name
                    ))
                })?;
                Ok(match numbers {
                    Numbers::F32(values) => Tensor::F32(values),
                    Numbers::I32(values) => Tensor::I32(values),
                    Numbers::PerToken(of_ranks) => Tensor::I32(&of_ranks[rank]),
                })
            }
        };
        let tensors = program.inputs().iter().map(tensor).collect::<Result<_, Failure>>()?;
        Inputs::new(program, self.tokens[rank], tensors).map_err(|error| Failure::Message(error.to_string()))
    }

    /// The place of a rank's token in the file.
    pub fn token_of_file(&self, rank: usize, token: u64) -> u64 {
        self.tokens[..rank].iter().sum::<usize>() as u64 + token
    }
}

fn experts(gate: &GateDescription) -> Dim {
    Dim::Exactly("experts", gate.experts as usize)
}

/// A scalar may be written with or without a dimension.
fn scalar(file: &TensorFile, name: &str) -> Result<Vec<f32>, Failure> {
    // Of the two shapes the plain one is asked for where neither is there.
    let listed = file.numbers::<f32>(name, &[Dim::Exactly("numbers", 1)]).is_ok();
    let shape = [Dim::Exactly("numbers", 1)];
    Ok(file.without_nan(name, if listed { &shape } else { &[] })?)
}

/// As even as it can be.
fn split(tokens: usize, ranks: u32) -> Vec<usize> {
    let ranks = ranks as usize;
    (0..ranks).map(|rank| tokens / ranks + usize::from(rank < tokens % ranks)).collect()
}

fn cut<T: Clone>(all: &[T], tokens: &[usize], width: usize) -> Vec<Vec<T>> {
    let mut rest = all;
    let mut parts = Vec::new();
    for &count in tokens {
        let (part, after) = rest.split_at(count * width);
        parts.push(part.to_vec());
        rest = after;
    }
    parts
}

/// The element type of a row format in a file.
pub fn dtype(format: Format) -> Dtype {
    match format.element {
        Element::Bf16 => Dtype::BF16,
        Element::F16 => Dtype::F16,
        Element::F32 => Dtype::F32,
        Element::E4m3 => Dtype::F8_E4M3,
    }
}

/// Parameters like those of trained models: a bias is small beside the scores, a table holds no expert twice in a row.
fn invent(
    parameter: &Parameter,
    gate: &GateDescription,
    exchange: &Exchange,
    tokens: usize,
    seed: u64,
    index: u32,
) -> Numbers {
    const BIAS: f32 = 0.05;
    let random = &mut generator(seed, Stream::Parameter, index);
    let mut small =
        |count: u32| Numbers::F32(normal(random, count as usize).iter().map(|value| value * BIAS).collect());
    match parameter.kind {
        ParameterKind::Scalar => small(1),
        ParameterKind::Experts => small(gate.experts),
        ParameterKind::Groups => small(gate.groups),
        ParameterKind::Table { vocabulary, k } => {
            let row = |_| random.choose(gate.experts, k).into_iter().map(|expert| expert as i32);
            Numbers::I32((0..vocabulary).flat_map(row).collect())
        }
        ParameterKind::TokenId => {
            let vocabulary = gate.parameters.iter().find_map(|other| match other.kind {
                ParameterKind::Table { vocabulary, .. } => Some(vocabulary),
                _ => None,
            });
            let vocabulary = u64::from(vocabulary.unwrap_or(1).max(1));
            let ids = |rank| {
                let random = &mut generator(seed, Stream::TokenIds, rank);
                (0..tokens).map(|_| random.below(vocabulary) as i32).collect()
            };
            Numbers::PerToken((0..exchange.ranks).map(ids).collect())
        }
    }
}
