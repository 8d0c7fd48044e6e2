//! Whole-system tests: one specification through every back end, and the table of measured figures.
//!
//! What is here is shared by tests and benchmarks: the examples of the language, and seeded input for any of their gates.

pub mod ranks;

use std::path::{Path, PathBuf};

use moe_gate::facts;
use moe_gate::inputs::{InputError, Inputs, Tensor};
use moe_gate::ir::{InputKind, Program};
use moe_random::Random;
use moe_runtime::Parameters;

/// The root of the project.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every example of the language: its name and its text, by name.
///
/// # Panics
/// When the examples cannot be read.
pub fn examples() -> Vec<(String, String)> {
    let folder = std::fs::read_dir(root().join("dsl-examples")).expect("the examples are in the project");
    let mut examples: Vec<(String, String)> = folder
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "moe"))
        .map(|path| {
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).expect("an example is text"))
        })
        .collect();
    examples.sort();
    examples
}

/// The text of one example.
///
/// # Panics
/// When there is no such example.
pub fn example(name: &str) -> String {
    examples().into_iter().find(|(known, _)| known == name).expect("the example exists").1
}

/// Seeded input of a gate on some ranks: every tensor of its program, in the order of declaration.
pub struct GateInput {
    tokens: Vec<usize>,
    tensors: Vec<Numbers>,
}

enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
    F32PerRank(Vec<Vec<f32>>),
    I32PerRank(Vec<Vec<i32>>),
}

impl GateInput {
    /// Normal logits and parameters, random tables and token ids; `tokens` of each rank.
    ///
    /// # Panics
    /// When the program is a derivative.
    pub fn seeded(program: &Program, tokens: &[usize], seed: u64) -> GateInput {
        let mut random = Random::new(seed);
        let vocabulary = facts::vocabulary(program);
        let experts = program.experts();
        let mut tensor = |kind| match kind {
            InputKind::Logits => Numbers::F32PerRank(
                tokens.iter().map(|&tokens| normal(&mut random, tokens * experts as usize)).collect(),
            ),
            InputKind::ScalarParameter => Numbers::F32(normal(&mut random, 1)),
            InputKind::ExpertParameter => Numbers::F32(normal(&mut random, experts as usize)),
            InputKind::GroupParameter => Numbers::F32(normal(&mut random, program.groups().unwrap_or(0) as usize)),
            InputKind::Table { vocabulary, k } => {
                let row = |_| random.choose(experts, k).into_iter().map(|expert| expert as i32);
                Numbers::I32((0..vocabulary).flat_map(row).collect())
            }
            InputKind::TokenId => {
                let ids = u64::from(vocabulary.unwrap_or(1));
                let mut of_rank = |&tokens: &usize| (0..tokens).map(|_| random.below(ids) as i32).collect();
                Numbers::I32PerRank(tokens.iter().map(&mut of_rank).collect())
            }
            InputKind::WeightGradient(_) => panic!("the input of a gate, not of its derivative"),
        };
        let tensors = program.inputs().iter().map(|input| tensor(input.kind)).collect();
        GateInput { tokens: tokens.to_vec(), tensors }
    }

    /// As the interpreter and native code take the tokens of one rank.
    ///
    /// # Errors
    /// When it was made for another program.
    pub fn of_rank<'g>(&'g self, program: &Program, rank: usize) -> Result<Inputs<'g>, InputError> {
        let tensors = self.tensors.iter().map(|numbers| match numbers {
            Numbers::F32(values) => Tensor::F32(values),
            Numbers::I32(values) => Tensor::I32(values),
            Numbers::F32PerRank(ranks) => Tensor::F32(&ranks[rank]),
            Numbers::I32PerRank(ranks) => Tensor::I32(&ranks[rank]),
        });
        Inputs::new(program, self.tokens[rank], tensors.collect())
    }

    /// The logits of every rank.
    pub fn logits(&self) -> &[Vec<f32>] {
        let logits = self.tensors.iter().find_map(|numbers| match numbers {
            Numbers::F32PerRank(ranks) => Some(ranks),
            _ => None,
        });
        logits.map_or(&[], Vec::as_slice)
    }

    /// The other inputs, as the runtime takes them.
    pub fn parameters(&self, program: &Program) -> Parameters {
        program.inputs().iter().zip(&self.tensors).fold(Parameters::none(), |all, (input, numbers)| match numbers {
            Numbers::F32(values) => all.f32(&input.name, values),
            Numbers::I32(values) => all.table(&input.name, values),
            Numbers::F32PerRank(_) => all,
            Numbers::I32PerRank(ranks) => all.token_ids(&input.name, ranks),
        })
    }
}

fn normal(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.normal()).collect()
}
