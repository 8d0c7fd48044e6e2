//! Small layers of every kind, and results without a fault.
#![allow(dead_code, reason = "each test file uses some of it")]

use moe_bundle::manifest::{Parameter, ParameterKind};
use moe_bundle::{Capacity, GateDescription, Manifest};
use moe_contract::{Buffer, Exchange, Format, RowLayout};
use moe_front::check_source;
use moe_gate::ir::Gate;
use moe_judge::{Expected, Given, Produced, ProducedBackward};

/// What is run, and what it is given.
pub struct Case {
    pub manifest: Manifest,
    pub gate: Gate,
    pub given: Given,
}

/// The gates that layers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// After the experts.
    After,
    /// On their input.
    Before,
}

/// The gate of 7 experts of which 3 are chosen, and a parameter.
pub fn gate(weights: Weights) -> Gate {
    let before = if weights == Weights::Before { " before experts" } else { "" };
    let source = format!(
        "model m {{ hidden 256 experts 8 {{ zero 7..7 }}
            gate(logits: f32[experts], bias: f32[experts]) {{
                let score = sigmoid(logits)
                let chosen = top(3, experts, by: score + bias)
                weights normalize(score[chosen]){before}
            }} }}"
    );
    let checked = check_source(source.as_bytes());
    let spec = checked.spec.unwrap_or_else(|| panic!("{:?}", checked.diagnostics));
    let (_, model) = spec.models.iter().next().expect("one model");
    model.gate.clone()
}

pub fn request() -> Exchange {
    Exchange {
        ranks: 3,
        experts: 7,
        zero_experts: 1,
        top_k: 3,
        hidden: 256,
        max_tokens: 6,
        dispatch: Format::BF16,
        layout: RowLayout::expert_major(4),
        combine: Format::BF16,
        weighted: true,
        drop: None,
        ctas_link: 2,
        ctas_local: 3,
        threads: 64,
    }
}

fn name(format: Format) -> &'static str {
    format.name().expect("a format that is known")
}

/// Every way in which weights take part, in every format.
pub fn kinds() -> Vec<(String, Exchange, Weights)> {
    let mut kinds = Vec::new();
    let major = request().layout;
    for (dispatch, combine) in [
        (Format::BF16, Format::BF16),
        (Format::F16, Format::F16),
        (Format::F32, Format::F32),
        (Format::FP8_F32_128, Format::BF16),
        (Format::FP8_UE8M0_128, Format::BF16),
        (Format::MXFP8, Format::BF16),
        (Format::BF16, Format::F32),
    ] {
        for (what, layout, weighted, weights) in [
            ("weighted in combine", major, true, Weights::After),
            ("weighted by the experts, rank-major", RowLayout::RankMajor, false, Weights::After),
            ("weights on the input, expert-major", major, false, Weights::Before),
            ("weights on the input, rank-major", RowLayout::RankMajor, false, Weights::Before),
            ("weighted by the experts, expert-major", major, false, Weights::After),
            ("weighted in combine, batched", RowLayout::Batched, true, Weights::After),
            ("weights on the input, batched", RowLayout::Batched, false, Weights::Before),
        ] {
            let request = Exchange { dispatch, combine, layout, weighted, ..request() };
            kinds.push((format!("{what}, {} and {}", name(dispatch), name(combine)), request, weights));
        }
    }
    kinds
}

pub fn manifest(exchange: &Exchange, gate: &Gate) -> Manifest {
    Manifest {
        compiler: "none".into(),
        assembler: None,
        model: "m".into(),
        deploy: None,
        source: String::new(),
        exchange: *exchange,
        gate: GateDescription {
            logits: "logits".into(),
            parameters: vec![Parameter { name: "bias".into(), kind: ParameterKind::Experts }],
            experts: exchange.experts + exchange.zero_experts,
            groups: 1,
            top_k: exchange.top_k,
            before_experts: gate.before_experts,
        },
        capacity: exchange.drop.map(|_| Capacity::Factor(0.8)),
        kernels: vec![],
    }
}

/// A layer with seeded input, forward and backward.
pub fn case(exchange: &Exchange, weights: Weights) -> Case {
    exchange.check().expect("it keeps its limits");
    let gate = gate(weights);
    let manifest = manifest(exchange, &gate);
    let given = Given::synthetic(&manifest, exchange.max_tokens, 7).with_backward(&manifest, 7);
    Case { manifest, gate, given }
}

impl Case {
    pub fn expected(&self) -> Expected {
        Expected::compute(&self.manifest, &self.gate, &self.given).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// A run without a fault.
pub fn produced(manifest: &Manifest, expected: &Expected) -> Produced {
    let exchange = &manifest.exchange;
    let handles = expected.handles.iter().map(|handle| {
        let array = |buffer| (buffer, moe_judge::handle_array(exchange, handle, buffer));
        Buffer::of_handle().map(array).filter(|(_, values)| !values.is_empty()).collect()
    });
    let backward = expected.backward.as_ref().map(|backward| ProducedBackward {
        again: backward.again.clone(),
        output: backward.output.clone(),
        weights: backward.weights.clone(),
        tokens: backward.tokens.clone(),
        logits: backward.logits.clone(),
    });
    Produced {
        indices: expected.indices.clone(),
        weights: expected.weights.clone(),
        handles: handles.collect(),
        input: expected.input.clone(),
        combined: expected.combined.clone(),
        traffic: expected.traffic.clone(),
        backward,
    }
}
