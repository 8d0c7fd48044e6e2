//! What a run is given: logits, gate parameters and rows of tokens of every rank, and for the backward pass the gradients that come
//! from outside of the layer.
//!
//! Invariant of a [`Given`] that [`Given::check`] accepts: there is one entry per rank, and every tensor has the shape and the format
//! that the manifest asks for.

use moe_bundle::manifest::{Parameter, ParameterKind};
use moe_bundle::{GateDescription, Manifest};
use moe_contract::{Format, RankId};
use moe_gate::inputs::{InputError, Inputs, Tensor};
use moe_gate::ir::{InputKind, Program};

use crate::draw::{Stream, generator, normal};
use crate::rows::Rows;

/// What a run is given.
#[derive(Clone, Debug)]
pub struct Given {
    /// Tokens of each rank.
    pub tokens: Vec<usize>,
    /// `[tokens, experts]` of each rank.
    pub logits: Vec<Vec<f32>>,
    /// In the order of the manifest.
    pub parameters: Vec<(Parameter, Numbers)>,
    /// `[tokens, hidden]` of each rank, in the source format; none for a gate alone.
    pub activations: Vec<Rows>,
    /// For a run with gradients.
    pub backward: Option<GivenBackward>,
}

/// What the backward pass of a run is given, on every rank.
#[derive(Clone, Debug)]
pub struct GivenBackward {
    /// `[tokens, hidden]` in the combine format: the gradient of the result.
    pub combined: Vec<Rows>,
    /// `[tokens, hidden]` in the source format: rows of a second dispatch with the same routing.
    pub again: Vec<Rows>,
}

/// The numbers of a gate parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// One for all tokens.
    F32(Vec<f32>),
    /// One for all tokens.
    I32(Vec<i32>),
    /// One for each token, of each rank.
    PerToken(Vec<Vec<i32>>),
}

/// What is given does not fit the layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GivenError {
    /// Not one entry for each rank.
    #[error("{what} of {found} ranks are given, and there are {expected}")]
    Ranks {
        /// Which tensor.
        what: &'static str,
        /// Ranks of the layer.
        expected: usize,
        /// Entries that are given.
        found: usize,
    },
    /// Too many or too few numbers.
    #[error("{rank}: {what} have {found} numbers, and {expected} are needed")]
    Size {
        rank: RankId,
        /// Which tensor.
        what: &'static str,
        expected: usize,
        found: usize,
    },
    /// Rows of another size or in another number.
    #[error("{rank}: {what} have {found} numbers, and {expected} are needed in rows of {hidden}")]
    Rows {
        rank: RankId,
        /// Which tensor.
        what: &'static str,
        expected: usize,
        found: usize,
        /// Of a row.
        hidden: u32,
    },
    /// Rows in another format.
    #[error("{rank}: {what} are {}, and {} is needed", name(*found), name(*expected))]
    Format {
        rank: RankId,
        /// Which tensor.
        what: &'static str,
        expected: Format,
        found: Format,
    },
    /// A parameter of the gate that is not there.
    #[error("the gate has a parameter `{0}` that is not given")]
    Parameter(String),
    /// A tensor does not fit the gate.
    #[error("{rank}: {error}")]
    Gate { rank: RankId, error: InputError },
}

/// What the language calls a format.
fn name(format: Format) -> &'static str {
    format.name().unwrap_or("of an unknown format")
}

impl Given {
    /// From a seed: so many tokens on every rank.
    pub fn synthetic(manifest: &Manifest, tokens: u32, seed: u64) -> Given {
        let (exchange, gate) = (&manifest.exchange, &manifest.gate);
        let per_rank = tokens as usize;
        let ranks = 0..exchange.ranks;
        let logits = |rank| normal(&mut generator(seed, Stream::Logits, rank), per_rank * gate.experts as usize);
        let parameters = (0..)
            .zip(&gate.parameters)
            .map(|(index, parameter)| (parameter.clone(), invent(parameter, manifest, per_rank, seed, index)))
            .collect();
        let tokens = vec![per_rank; ranks.len()];
        let activations = rows(manifest, &tokens, exchange.dispatch.source(), seed, Stream::Activations);
        Given { tokens, logits: ranks.map(logits).collect(), parameters, activations, backward: None }
    }

    /// The same with a backward pass, from a seed.
    #[must_use]
    pub fn with_backward(mut self, manifest: &Manifest, seed: u64) -> Given {
        let exchange = &manifest.exchange;
        self.backward = Some(GivenBackward {
            combined: rows(manifest, &self.tokens, exchange.combine, seed, Stream::Gradients),
            again: rows(manifest, &self.tokens, exchange.dispatch.source(), seed, Stream::Again),
        });
        self
    }

    /// Whether all of it fits the layer; parameters are looked at when they are used ([`Given::inputs`]).
    ///
    /// # Errors
    /// The first tensor that does not.
    pub fn check(&self, manifest: &Manifest) -> Result<(), GivenError> {
        let exchange = &manifest.exchange;
        let ranks = exchange.ranks as usize;
        let each = |what, found| match found == ranks {
            true => Ok(()),
            false => Err(GivenError::Ranks { what, expected: ranks, found }),
        };
        each("tokens", self.tokens.len())?;
        let numbers = |what, given: &[Vec<f32>], width: u32| {
            each(what, given.len())?;
            for ((rank, given), tokens) in (0..).map(RankId).zip(given).zip(&self.tokens) {
                let (expected, found) = (tokens * width as usize, given.len());
                if found != expected {
                    return Err(GivenError::Size { rank, what, expected, found });
                }
            }
            Ok(())
        };
        let rows = |what, given: &[Rows], expected: Format| {
            each(what, given.len())?;
            for ((rank, given), tokens) in (0..).map(RankId).zip(given).zip(&self.tokens) {
                if given.format() != expected {
                    return Err(GivenError::Format { rank, what, expected, found: given.format() });
                }
                let hidden = exchange.hidden;
                let (wanted, found) = (tokens * hidden as usize, given.count() * given.hidden() as usize);
                if found != wanted || given.hidden() != hidden {
                    return Err(GivenError::Rows { rank, what, expected: wanted, found, hidden });
                }
            }
            Ok(())
        };
        numbers("logits", &self.logits, manifest.gate.experts)?;
        rows("rows of tokens", &self.activations, exchange.dispatch.source())?;
        if let Some(backward) = &self.backward {
            rows("gradients of the result", &backward.combined, exchange.combine)?;
            rows("rows of the second dispatch", &backward.again, exchange.dispatch.source())?;
        }
        Ok(())
    }

    /// What a program of the gate reads on a rank; `weight_gradients` where it is the derivative.
    ///
    /// # Errors
    /// When a parameter is missing or does not fit.
    pub fn inputs<'g>(
        &'g self,
        program: &Program,
        rank: RankId,
        weight_gradients: &'g [f32],
    ) -> Result<Inputs<'g>, GivenError> {
        let of_rank = |what, found: usize| GivenError::Ranks { what, expected: self.tokens.len(), found };
        let tensor = |input: &moe_gate::ir::Input| match input.kind {
            InputKind::Logits => {
                let logits = self.logits.get(rank.index()).ok_or_else(|| of_rank("logits", self.logits.len()))?;
                Ok(Tensor::F32(logits))
            }
            InputKind::WeightGradient(_) => Ok(Tensor::F32(weight_gradients)),
            _ => {
                let found = self.parameters.iter().find(|(parameter, _)| parameter.name == input.name);
                let (_, numbers) = found.ok_or_else(|| GivenError::Parameter(input.name.clone()))?;
                match numbers {
                    Numbers::F32(values) => Ok(Tensor::F32(values)),
                    Numbers::I32(values) => Ok(Tensor::I32(values)),
                    Numbers::PerToken(ranks) => {
                        let ids = ranks.get(rank.index()).ok_or_else(|| of_rank("token ids", ranks.len()))?;
                        Ok(Tensor::I32(ids))
                    }
                }
            }
        };
        let tensors = program.inputs().iter().map(tensor).collect::<Result<_, GivenError>>()?;
        let tokens = self.tokens.get(rank.index()).copied().unwrap_or(0);
        Inputs::new(program, tokens, tensors).map_err(|error| GivenError::Gate { rank, error })
    }
}

fn rows(manifest: &Manifest, tokens: &[usize], format: Format, seed: u64, stream: Stream) -> Vec<Rows> {
    let hidden = manifest.exchange.hidden;
    let of_rank = |(rank, tokens): (u32, &usize)| {
        let values = normal(&mut generator(seed, stream, rank), tokens * hidden as usize);
        Rows::from_values(format, hidden, &values)
    };
    (0..).zip(tokens).map(of_rank).collect()
}

/// Parameters like those of trained models: a bias is small beside the scores, a table holds no expert twice in a row.
fn invent(parameter: &Parameter, manifest: &Manifest, tokens: usize, seed: u64, index: u32) -> Numbers {
    const BIAS: f32 = 0.05;
    let gate: &GateDescription = &manifest.gate;
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
            // A token id has a row in every table.
            let vocabularies = gate.parameters.iter().filter_map(|other| match other.kind {
                ParameterKind::Table { vocabulary, .. } => Some(vocabulary),
                _ => None,
            });
            let vocabulary = u64::from(vocabularies.min().unwrap_or(1).max(1));
            let ids = |rank| {
                let random = &mut generator(seed, Stream::TokenIds, rank);
                (0..tokens).map(|_| random.below(vocabulary) as i32).collect()
            };
            Numbers::PerToken((0..manifest.exchange.ranks).map(ids).collect())
        }
    }
}
