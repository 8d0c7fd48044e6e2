//! Where tokens go, by asking the gate itself.
//!
//! Invariant: a [`Sample`] is a function of gate, [`Logits`], number of tokens and seed: the work is cut into blocks, each with its own
//! stream of random numbers, so that the number of threads changes nothing.

mod counted;
mod normal;

use moe_gate::facts;
use moe_gate::inputs::{InputError, Inputs, Tensor};
use moe_gate::interpret;
use moe_gate::ir::{Gate, InputKind};
use moe_host::{HostGate, RunError};
use moe_random::Random;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;
use thiserror::Error;

/// Tokens of a block: its logits stay in the cache of the core that draws and then reads them.
const BLOCK: usize = 256;

/// What the gate is asked about.
#[derive(Clone, Debug, PartialEq)]
pub enum Logits {
    /// Every logit a standard normal number of its own; parameters per expert and per group zero, scalars one, tables random rows.
    Independent,
    /// The same, plus an offset of each expert that is normal with this standard deviation: some experts are liked by all tokens.
    Skewed(f32),
    /// The same, with offsets that were fitted so that experts are picked as often as these counts say, relative to each other.
    Counted(Vec<f64>),
    /// Those that a user has recorded, repeated if more tokens are asked for; no random number is involved.
    Observed(Observed),
}

/// The tensors of a file, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// f32 tensors: `logits`, and parameters.
    pub floats: Vec<(String, Vec<f32>)>,
    /// i32 tensors: tables and token ids.
    pub integers: Vec<(String, Vec<i32>)>,
}

/// How a sample was made, for reports.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Every expert of a token is as likely as any other.
    Independent,
    /// Experts differ in how often they are picked.
    Skewed {
        /// Standard deviation of the offsets of experts.
        deviation: f32,
    },
    /// Experts are picked as often as was counted.
    Counted {
        /// The part of this sample's picks that are of other experts than the counts say, its own noise included.
        off: f64,
    },
    /// Recorded tokens were drawn.
    Observed,
}

/// The picks of sampled tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    top_k: u32,
    indices: Vec<i32>,
    seed: u64,
    source: Source,
    given: Option<Vec<i32>>,
}

/// The gate could not be asked.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SampleError {
    /// No tokens.
    #[error("a sample needs at least one token")]
    Empty,
    /// A spread that is no number, or negative.
    #[error("the skew is {0}, and must be a number of at least 0")]
    Skew(f32),
    /// Counts that are not of this gate.
    #[error(
        "there are counts of {found} experts, and the gate has {experts}; give the counts of this model, not all of them 0"
    )]
    Counts {
        /// Counts given.
        found: usize,
        /// Of the gate.
        experts: u32,
    },
    /// An input of the gate is not in the file.
    #[error("the file has no tensor `{name}`, which is an input of the gate")]
    Missing {
        /// The input.
        name: String,
    },
    /// A tensor does not fit.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A token of the file cannot be routed.
    #[error(transparent)]
    Gate(#[from] RunError),
}

impl Sample {
    /// Asks `gate` where `tokens` tokens go.
    ///
    /// # Errors
    /// If the logits do not fit the gate, or a token cannot be routed.
    pub fn of(gate: &Gate, logits: &Logits, tokens: usize, seed: u64) -> Result<Sample, SampleError> {
        if tokens == 0 {
            return Err(SampleError::Empty);
        }
        let mut given = None;
        let (indices, source) = match logits {
            Logits::Observed(observed) => {
                let once = given.insert(observe(gate, observed)?);
                let repeated = once.iter().copied().cycle().take(tokens * gate.top_k() as usize);
                (repeated.collect(), Source::Observed)
            }
            Logits::Independent => (draw(gate, None, tokens, seed, 0)?, Source::Independent),
            Logits::Skewed(deviation) if deviation.is_finite() && *deviation >= 0.0 => {
                let offsets = offsets(gate, *deviation, seed);
                (draw(gate, Some(&offsets), tokens, seed, 0)?, Source::Skewed { deviation: *deviation })
            }
            Logits::Counted(counts) => {
                let offsets = counted::fit(gate, counts, seed)?;
                let picks = draw(gate, Some(&offsets), tokens, seed, 0)?;
                let off = counted::elsewhere(&picks, counts);
                (picks, Source::Counted { off })
            }
            Logits::Skewed(deviation) => return Err(SampleError::Skew(*deviation)),
        };
        Ok(Sample { top_k: gate.top_k(), indices, seed, source, given })
    }

    /// Picks of a token.
    pub fn top_k(&self) -> u32 {
        self.top_k
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.indices.len() / self.top_k as usize
    }

    /// Tokens that do not repeat others.
    pub fn independent(&self) -> usize {
        let recorded = self.given.as_ref().map(|given| given.len() / self.top_k as usize);
        recorded.map_or(self.tokens(), |recorded| recorded.min(self.tokens()))
    }

    /// `i32[tokens, top_k]`
    pub fn indices(&self) -> &[i32] {
        &self.indices
    }

    /// The picks of recorded tokens, each token once; none if tokens were made up.
    pub fn given(&self) -> Option<&[i32]> {
        self.given.as_deref()
    }

    /// Of the random numbers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How it was made.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

/// Executes the gate: native code, or, on a machine without a code generator, the reference interpreter, which gives the same bits.
enum Router<'a> {
    Native(Box<HostGate>),
    Reference(&'a Gate),
}

impl<'a> Router<'a> {
    fn of(gate: &'a Gate) -> Router<'a> {
        HostGate::compile(gate).map_or(Router::Reference(gate), |host| Router::Native(Box::new(host)))
    }

    /// The picks of a batch, on this core.
    fn route(&self, inputs: &Inputs) -> Result<Vec<i32>, SampleError> {
        match self {
            Router::Native(host) => {
                let numbers = inputs.tokens() * host.gate().top_k() as usize;
                let (mut indices, mut weights) = (vec![0; numbers], vec![0.0; numbers]);
                host.worker().route(inputs, &mut indices, &mut weights)?;
                Ok(indices)
            }
            Router::Reference(gate) => Ok(interpret::route(gate, inputs).map_err(RunError::from)?.indices),
        }
    }
}

/// Streams of one seed; blocks of tokens follow.
const OFFSETS: u64 = 0;
const TABLES: u64 = 1;
const BLOCKS: u64 = 2;

/// What an input holds for the tokens of a block.
enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Numbers {
    fn tensor(&self) -> Tensor<'_> {
        match self {
            Numbers::F32(numbers) => Tensor::F32(numbers),
            Numbers::I32(numbers) => Tensor::I32(numbers),
        }
    }
}

/// An offset for each expert, normal with this standard deviation.
fn offsets(gate: &Gate, deviation: f32, seed: u64) -> Vec<f32> {
    let mut offsets = vec![0.0; gate.program.experts() as usize];
    normal::fill(&mut Random::stream(seed, OFFSETS), &mut offsets);
    offsets.into_iter().map(|offset| offset * deviation).collect()
}

/// The picks of tokens whose random numbers are those of the blocks from `first` on.
fn draw(gate: &Gate, offsets: Option<&[f32]>, tokens: usize, seed: u64, first: u64) -> Result<Vec<i32>, SampleError> {
    let program = &gate.program;
    let experts = program.experts() as usize;
    let mut tables = Random::stream(seed, TABLES);
    // What all tokens share, by input; nothing where each token has its own.
    let shared: Vec<Option<Numbers>> = program
        .inputs()
        .iter()
        .map(|input| match input.kind {
            InputKind::ScalarParameter => Some(Numbers::F32(vec![1.0])),
            InputKind::ExpertParameter => Some(Numbers::F32(vec![0.0; experts])),
            InputKind::GroupParameter => Some(Numbers::F32(vec![0.0; program.groups().unwrap_or(0) as usize])),
            InputKind::Table { vocabulary, k } => {
                let row = |_| tables.choose(program.experts(), k).into_iter().map(|expert| expert as i32);
                Some(Numbers::I32((0..vocabulary).flat_map(row).collect()))
            }
            InputKind::Logits | InputKind::TokenId | InputKind::WeightGradient(_) => None,
        })
        .collect();
    let vocabulary = facts::vocabulary(program).unwrap_or(1) as usize;

    let blocks: Vec<usize> = (0..tokens.div_ceil(BLOCK)).collect();
    let router = Router::of(gate);
    let picked: Result<Vec<Vec<i32>>, SampleError> = blocks
        .into_par_iter()
        .map(|block| {
            let here = BLOCK.min(tokens - block * BLOCK);
            let mut random = Random::stream(seed, BLOCKS + first + block as u64);
            let own = |kind| match kind {
                InputKind::TokenId => Numbers::I32((0..here).map(|_| random.index(vocabulary) as i32).collect()),
                _ => {
                    let mut logits = vec![0.0; here * experts];
                    normal::fill(&mut random, &mut logits);
                    if let Some(offsets) = offsets {
                        for row in logits.chunks_mut(experts) {
                            row.iter_mut().zip(offsets).for_each(|(logit, offset)| *logit += offset);
                        }
                    }
                    Numbers::F32(logits)
                }
            };
            let per_token: Vec<Numbers> =
                program.inputs().iter().map(|input| input.kind).filter(|kind| kind.is_per_token()).map(own).collect();
            let mut per_token = per_token.iter();
            let tensors = shared.iter().map(|shared| match shared {
                Some(numbers) => numbers.tensor(),
                // One was made above for each input that nothing is shared of.
                None => per_token.next().map_or(Tensor::F32(&[]), Numbers::tensor),
            });
            let inputs = Inputs::new(program, here, tensors.collect())?;
            router.route(&inputs)
        })
        .collect();
    Ok(picked?.concat())
}

/// The picks of every recorded token.
fn observe(gate: &Gate, observed: &Observed) -> Result<Vec<i32>, SampleError> {
    let program = &gate.program;
    let tensors = program.inputs().iter().map(|input| {
        let floats = observed.floats.iter().find(|(name, _)| *name == input.name);
        let integers = observed.integers.iter().find(|(name, _)| *name == input.name);
        match (floats, integers) {
            (Some((_, numbers)), _) => Ok(Tensor::F32(numbers)),
            (None, Some((_, numbers))) => Ok(Tensor::I32(numbers)),
            (None, None) => Err(SampleError::Missing { name: input.name.clone() }),
        }
    });
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    let rows = program.inputs().iter().zip(&tensors).find(|(input, _)| input.kind.is_per_token());
    let recorded = rows.map_or(0, |(input, tensor)| match (input.kind, tensor) {
        (InputKind::Logits, Tensor::F32(numbers)) => numbers.len() / program.experts() as usize,
        (_, Tensor::I32(numbers)) => numbers.len(),
        (_, Tensor::F32(_)) => 0,
    });
    if recorded == 0 {
        return Err(SampleError::Empty);
    }
    let inputs = Inputs::new(program, recorded, tensors)?;
    Router::of(gate).route(&inputs)
}
