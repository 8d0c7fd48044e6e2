//! What a run is given, from a file and to the runtime.

use moe_bundle::manifest::ParameterKind;
use moe_bundle::{GateDescription, Manifest};
use moe_contract::{Element, Format, RankId};
use moe_judge::{Given, Numbers, Rows};
use moe_runtime::Parameters;
use safetensors::Dtype;

use crate::failure::Failure;
use crate::tensors::{Dim, TensorFile};

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
    Ok(Given { tokens, logits, parameters, activations: vec![], backward: None })
}

/// Everything from a file.
pub fn from_file(file: &TensorFile, manifest: &Manifest) -> Result<Given, Failure> {
    let exchange = &manifest.exchange;
    let mut given = gate_from_file(file, &manifest.gate, exchange.ranks)?;
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

/// The gate's parameters as the runtime takes them.
pub fn runtime_parameters(given: &Given) -> Parameters {
    given.parameters.iter().fold(Parameters::none(), |all, (parameter, numbers)| match numbers {
        Numbers::F32(values) => all.f32(&parameter.name, values),
        Numbers::I32(values) => all.table(&parameter.name, values),
        Numbers::PerToken(of_ranks) => all.token_ids(&parameter.name, of_ranks),
    })
}

/// Why running a bundle failed; the tokens of a file are called by their place in it.
pub fn failure(error: moe_runtime::Error, given: &Given, file: Option<&str>) -> Failure {
    match (&error, file) {
        (moe_runtime::Error::Input(fault), Some(file)) => {
            let token = token_of_file(given, fault.rank, fault.token);
            Failure::Message(format!("{file}: token {token}: {}", fault.problem))
        }
        _ => Failure::Message(error.to_string()),
    }
}

/// The place of a rank's token among those of all ranks: that in the file.
fn token_of_file(given: &Given, rank: RankId, token: u64) -> u64 {
    given.tokens.iter().take(rank.index()).sum::<usize>() as u64 + token
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
        Element::E2m1 => Dtype::F4,
    }
}
