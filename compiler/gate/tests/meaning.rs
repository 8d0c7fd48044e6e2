//! Faults, ties, masks and tables: what the interpreter says where it could be otherwise, worked out by hand.

use moe_gate::inputs::{Inputs, Tensor};
use moe_gate::interpret::{self, Fault, GateError, Routing};
use moe_gate::ir::Gate;
use moe_gate::{derivative::derivative, ir::InputKind};

/// The gate of a model with this head and body.
fn gate(head: &str, body: &str) -> Gate {
    let source = format!("model m {{\n hidden 64\n {head}\n gate({body} }}\n}}\n");
    let checked = moe_front::check_source(source.as_bytes());
    let spec = checked.spec.unwrap_or_else(|| panic!("{source}\n{:?}", checked.diagnostics));
    spec.models.iter().next().expect("there is a model").1.gate.clone()
}

fn route(gate: &Gate, tensors: Vec<Tensor>) -> Result<Routing, GateError> {
    let logits = gate.program.inputs().iter().position(|input| input.kind == InputKind::Logits).expect("logits");
    let Tensor::F32(numbers) = tensors[logits] else { panic!("logits are f32") };
    let tokens = numbers.len() / gate.program.experts() as usize;
    interpret::route(gate, &Inputs::new(&gate.program, tokens, tensors).expect("they fit"))
}

fn grouped() -> Gate {
    gate(
        "experts 8 in 4 groups",
        "logits: f32[experts], bias: f32[experts]) {
            let choice = logits + bias
            let best   = top(2, groups, by: sum(top(1, choice)))
            let chosen = top(3, experts in best, by: choice)
            weights logits[chosen]",
    )
}

#[test]
fn ties_go_to_the_lowest_group_and_expert() {
    let gate = grouped();
    let zeros = [0.0; 8];
    let routing = route(&gate, vec![Tensor::F32(&zeros), Tensor::F32(&zeros)]).expect("no fault");
    assert_eq!(routing.indices, [0, 1, 2]);
    // −0 and +0 tie: expert 0 is not behind expert 1.
    let signs = [-0.0, 0.0, -0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let routing = route(&gate, vec![Tensor::F32(&signs), Tensor::F32(&signs)]).expect("no fault");
    assert_eq!(routing.indices, [0, 1, 2]);
}

#[test]
fn a_nan_is_an_error_that_names_the_token_and_the_expert() {
    let gate = grouped();
    let fine = [0.0; 8];
    let mut logits = [1.0; 24];
    logits[8 + 5] = f32::NAN;
    let error = route(&gate, vec![Tensor::F32(&logits), Tensor::F32(&fine)]).expect_err("a NaN");
    assert_eq!(error, GateError { token: 1, fault: Fault::NanLogit { expert: 5 } });
    assert_eq!(error.to_string(), "token 1: the logit of expert 5 is NaN");

    let mut bias = fine;
    bias[3] = -f32::NAN;
    let error = route(&gate, vec![Tensor::F32(&[1.0; 8]), Tensor::F32(&bias)]).expect_err("a NaN");
    assert_eq!(error.fault, Fault::NanKey { expert: 3 });

    // ∞ − ∞ as a key, in a choice that has nothing else to fail at.
    let plain = self::gate(
        "experts 4",
        "logits: f32[experts], bias: f32[experts]) {
            let chosen = top(2, experts, by: logits + bias)
            weights softmax(logits[chosen])",
    );
    let infinite = [0.0, 0.0, f32::INFINITY, 0.0];
    let bias = [0.0, 0.0, f32::NEG_INFINITY, 0.0];
    let error = route(&plain, vec![Tensor::F32(&infinite), Tensor::F32(&bias)]).expect_err("a NaN");
    assert_eq!(error.fault, Fault::NanKey { expert: 2 });

    // Both logits are −∞: the softmax over them is 0 / 0.
    let low = [f32::NEG_INFINITY; 4];
    let error = route(&plain, vec![Tensor::F32(&low), Tensor::F32(&[0.0; 4])]).expect_err("a NaN");
    assert_eq!(error.fault, Fault::NanWeight { expert: 0 });
}

#[test]
fn a_nan_group_key_names_the_group() {
    let gate = gate(
        "experts 4 in 2 groups",
        "logits: f32[experts]) {
            let best   = top(1, groups, by: sum(group(logits)))
            let chosen = top(1, experts in best, by: logits)
            weights logits[chosen]",
    );
    let logits = [0.0, 0.0, f32::INFINITY, f32::NEG_INFINITY];
    let error = route(&gate, vec![Tensor::F32(&logits)]).expect_err("∞ − ∞");
    assert_eq!(error.fault, Fault::NanGroupKey { group: 1 });
}

#[test]
fn a_masked_expert_counts_as_its_fill() {
    let body = |fill: &str| {
        format!(
            "logits: f32[experts]) {{
            let best   = top(1, groups, by: max(group(logits)))
            let chosen = top(2, experts in best, by: logits{fill})
            weights logits[chosen]"
        )
    };
    let logits = [5.0, -1.0, 4.0, 3.0];
    let strict = route(&gate("experts 4 in 2 groups", &body("")), vec![Tensor::F32(&logits)]).expect("no fault");
    assert_eq!(strict.indices, [0, 1]);
    // Outside counts as 0, which is more than −1; the lowest of the two outside is taken, with its own weight.
    let filled = gate("experts 4 in 2 groups", &body(", fill: 0.0"));
    let filled = route(&filled, vec![Tensor::F32(&logits)]).expect("no fault");
    assert_eq!((filled.indices, filled.weights), (vec![0, 2], vec![5.0, 4.0]));
}

#[test]
fn zero_experts_are_routed_and_weighed_like_others() {
    let gate = gate(
        "experts 6 { zero 4..5 }",
        "logits: f32[experts]) {
            let chosen = top(2, experts, by: logits)
            weights logits[chosen]",
    );
    let routing = route(&gate, vec![Tensor::F32(&[0.0, 1.0, 0.0, 0.0, 3.0, 0.5])]).expect("no fault");
    assert_eq!((routing.indices, routing.weights), (vec![1, 4], vec![1.0, 3.0]));
}

#[test]
fn a_table_decides_and_must_hold_a_choice() {
    let gate = gate(
        "experts 4\n vocab 3",
        "logits: f32[experts], token_id: i32, table: i32[vocab, 2]) {
            let chosen = table[token_id]
            weights logits[chosen]",
    );
    let order = |token: i32, table: [i32; 6]| {
        let (tokens, logits) = ([token], [0.5, 1.5, 2.5, 3.5]);
        let tensors = gate.program.inputs().iter().map(|input| match input.kind {
            InputKind::Logits => Tensor::F32(&logits),
            InputKind::TokenId => Tensor::I32(&tokens),
            _ => Tensor::I32(&table),
        });
        route(&gate, tensors.collect()).map_err(|error| error.fault)
    };
    let table = [0, 1, 3, 2, 1, 1];
    let routing = order(1, table).expect("a choice");
    assert_eq!((routing.indices, routing.weights), (vec![2, 3], vec![2.5, 3.5]));
    assert_eq!(order(2, table), Err(Fault::ExpertTwice { expert: 1 }));
    assert_eq!(order(3, table), Err(Fault::TokenId { id: 3, vocabulary: 3 }));
    assert_eq!(order(-1, table), Err(Fault::TokenId { id: -1, vocabulary: 3 }));
    assert_eq!(order(0, [0, 4, 0, 1, 0, 1]), Err(Fault::NoSuchExpert { found: 4, experts: 4 }));
}

#[test]
fn what_a_gate_looks_like() {
    let gate = grouped();
    insta::assert_snapshot!(gate);
    insta::assert_snapshot!(derivative(&gate).expect("it has logits"));
}

#[test]
fn what_a_normalised_gate_looks_like() {
    let gate = gate(
        "experts 8",
        "logits: f32[experts]) {
            let score  = sigmoid(logits)
            let chosen = top(2, experts, by: score)
            weights normalize(score[chosen], eps: 1e-20) * 2.5",
    );
    insta::assert_snapshot!(gate);
    insta::assert_snapshot!(derivative(&gate).expect("it has logits"));
}

#[test]
fn the_gradient_of_logits_that_do_not_matter_is_zero() {
    let gate = gate(
        "experts 4",
        "logits: f32[experts], bias: f32[experts]) {
            let chosen = top(1, experts, by: logits)
            weights bias[chosen]",
    );
    let backward = derivative(&gate).expect("it has logits");
    let (numbers, ones) = ([1.0, 2.0, 3.0, 4.0], [1.0]);
    let tensors = vec![Tensor::F32(&numbers), Tensor::F32(&numbers), Tensor::F32(&ones)];
    let inputs = Inputs::new(&backward.program, 1, tensors).expect("they fit");
    assert_eq!(interpret::differentiate(&backward, &inputs), Ok(vec![0.0; 4]));
}

/// The gradient of the logits, of one token.
fn gradient(gate: &Gate, tensors: Vec<Tensor>) -> Vec<f32> {
    let backward = derivative(gate).expect("it has logits");
    let inputs = Inputs::new(&backward.program, 1, tensors).expect("they fit");
    interpret::differentiate(&backward, &inputs).expect("no fault")
}

/// √softplus is 0 at −1e9, and its slope 1 / (2 × 0).
#[test]
fn the_gradient_of_a_masked_logit_under_a_square_root_is_zero_and_not_nan() {
    let gate = gate(
        "experts 4",
        "logits: f32[experts]) {
            let score  = sqrt(softplus(logits))
            let chosen = top(2, experts, by: score)
            weights normalize(score[chosen], eps: 1e-20)",
    );
    for mask in [-1e9, f32::NEG_INFINITY] {
        let gradient = gradient(&gate, vec![Tensor::F32(&[0.5, mask, 1.5, mask]), Tensor::F32(&[1.0, -1.0])]);
        assert_eq!([gradient[1].to_bits(), gradient[3].to_bits()], [0, 0]);
        // w₀ = s₀ / (s₀ + s₁) and its gradient times s₁ / (s₀ + s₁)² · 2 (for both weights), by hand: s = √ln(1 + eˣ).
        let (s, slope) = (|x: f64| x.exp().ln_1p().sqrt(), |x: f64| 0.5 / x.exp().ln_1p().sqrt() / (1.0 + (-x).exp()));
        let sum = s(0.5) + s(1.5);
        let expected = [2.0 * s(1.5) / sum / sum * slope(0.5), -2.0 * s(0.5) / sum / sum * slope(1.5)];
        for (found, expected) in [gradient[0], gradient[2]].into_iter().zip(expected) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
        // Also where a masked expert had to be chosen: at −1e9 and at −∞ the function is flat.
        let gradient = self::gradient(&gate, vec![Tensor::F32(&[mask, mask, 1.5, mask]), Tensor::F32(&[1.0, -1.0])]);
        assert_eq!([gradient[0], gradient[1], gradient[3]].map(f32::to_bits), [0; 3]);
    }
}

/// All logits are −∞, so that their softmax is NaN; a maximum takes the other number. Nothing that the logits do matters.
#[test]
fn the_gradient_through_a_softmax_that_a_maximum_hides_is_zero() {
    let gate = gate(
        "experts 4",
        "logits: f32[experts], bias: f32[experts]) {
            let chosen = top(2, experts, by: bias)
            weights max(softmax(logits), 0.25)[chosen]",
    );
    let (low, bias) = ([f32::NEG_INFINITY; 4], [1.0, 2.0, 3.0, 4.0]);
    let routing = route(&gate, vec![Tensor::F32(&low), Tensor::F32(&bias)]).expect("no fault");
    assert_eq!((routing.indices, routing.weights), (vec![2, 3], vec![0.25, 0.25]));
    let found = gradient(&gate, vec![Tensor::F32(&low), Tensor::F32(&bias), Tensor::F32(&[1.0, -2.0])]);
    assert_eq!(found.iter().map(|number| number.to_bits()).collect::<Vec<_>>(), [0; 4]);
}

/// log(−1) is NaN, which a maximum skips and a choice by something else does not see.
#[test]
fn the_gradient_of_a_maximum_over_numbers_with_nan_is_that_of_the_others() {
    let gate = gate(
        "experts 4 in 2 groups",
        "logits: f32[experts], bias: f32[experts]) {
            let chosen = top(1, experts, by: bias)
            weights logits[chosen] * max(log(logits)) * sum(max(group(log(logits))))",
    );
    let (logits, bias) = ([4.0, -1.0, -1.0, 2.0], [1.0, 0.0, 0.0, 0.0]);
    let found = gradient(&gate, vec![Tensor::F32(&logits), Tensor::F32(&bias), Tensor::F32(&[1.0])]);
    // 4 · ln 4 · (ln 4 + ln 2) by x₀ and x₃, by hand.
    let (a, b) = (4f64.ln(), 2f64.ln());
    let expected = [a * (a + b) + (a + b) + a, 0.0, 0.0, 4.0 * a / 2.0];
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} instead of {expected}");
    }
    assert_eq!([found[1].to_bits(), found[2].to_bits()], [0, 0]);
}
