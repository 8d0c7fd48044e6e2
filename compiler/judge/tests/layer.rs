//! The layer computed directly: against numbers worked out by hand, against finite differences, and the reference's bits against it.

mod support;

use moe_contract::{Exchange, Format, RankId, RowLayout};
use moe_judge::Rows;
use moe_judge::layer::{Layer, Sum, Weighing};
use support::{Weights, case, kinds, request};

const RANK: RankId = RankId(0);

/// Two picks and one that computes nothing, on one token of 8 elements.
fn token(layout: RowLayout, weighted: bool, before: bool, read: impl FnOnce(&Layer)) {
    let shape = Exchange { hidden: 8, dispatch: Format::F32, combine: Format::F32, layout, weighted, ..request() };
    let x: Vec<f32> = (1..=8).map(|number| number as f32).collect();
    let tokens = [Rows::from_values(Format::F32, 8, &x)];
    let (indices, weights) = ([vec![0, 1, 7]], [vec![0.5, 2.0, 64.0]]);
    read(&Layer::new(&shape, before, &tokens, &indices, &weights));
}

fn values(sums: &[Sum]) -> Vec<f64> {
    sums.iter().map(|sum| sum.value).collect()
}

/// Expert 0 multiplies by 1/2 and rotates by 1, expert 1 by 1/2 + 37/65 and by 30, which is 6 of 8. Expert 7 computes nothing.
#[test]
fn a_token_worked_out_by_hand() {
    let second = f64::from(0.5f32 + 37.0 / 65.0);
    let major = RowLayout::expert_major(1);
    token(major, true, false, |layer| {
        assert_eq!(layer.weighing(), Weighing::Combine);
        let result = layer.result(RANK, 0);
        // 0.5 × 0.5 × (2, 3, …, 8, 1) + 2 × (7, 8, 1, …, 6) × second
        assert_eq!(result[0].value, 0.25 * 2.0 + 2.0 * second * 7.0);
        assert_eq!(result[7].value, 0.25 * 1.0 + 2.0 * second * 6.0);
        assert_eq!(result[0].magnitude, result[0].value, "all terms are positive");

        let gradient = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0];
        let of_weights = layer.weight_gradients(RANK, 0, &gradient);
        // ⟨E(x), g⟩: 0.5 × (2 − 1) and second × (7 − 6).
        assert_eq!(values(&of_weights), [0.5, second, 0.0]);
        assert_eq!(of_weights[0].magnitude, 0.5 * (2.0 + 1.0));
        // Rotated back: element 1 of g comes from element 0 of x by expert 0; element 0 gets −1 from element 7.
        let of_token = layer.token_gradient(RANK, 0, &gradient);
        assert_eq!(of_token[1].value, 0.25);
        assert_eq!(of_token[0].value, -0.25);
        assert_eq!(of_token[6].value, 2.0 * second);
        assert_eq!(of_token[5].value, -2.0 * second);
    });
    // The same numbers wherever the weight is, as an expert is linear.
    for (layout, before, weighing) in [
        (RowLayout::RankMajor, false, Weighing::Output),
        (RowLayout::RankMajor, true, Weighing::Input),
        (major, true, Weighing::Input),
        (major, false, Weighing::Output),
    ] {
        token(layout, false, before, |layer| {
            assert_eq!(layer.weighing(), weighing);
            let result = layer.result(RANK, 0);
            assert_eq!(result[0].value, 0.5 * 2.0 * 0.5 + second * (2.0 * 7.0));
            let gradient = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0];
            let of_weights = layer.weight_gradients(RANK, 0, &gradient);
            // Before the experts ⟨x, Eᵀ(g)⟩ = 2 × 0.5 − 1 × 0.5.
            assert_eq!(values(&of_weights), [0.5, 7.0 * second - 6.0 * second, 0.0]);
        });
    }
}

fn loss(layer: &Layer, rank: RankId, token: usize, gradient: &[f64]) -> f64 {
    layer.result(rank, token).iter().zip(gradient).map(|(y, g)| y.value * g).sum()
}

/// loss = ⟨y, g⟩. A layer is linear in each weight and in each element of a token, so that a central difference is the derivative, up to
/// the rounding of f64: 2⁻⁵³ of the terms, over twice the step.
#[test]
fn finite_differences_of_the_whole_layer_are_its_gradients() {
    const STEP: f32 = 1.0 / 64.0;
    let mut compared = 0;
    for (what, shape, weights) in kinds() {
        let case = case(&shape, weights);
        let expected = case.expected();
        let backward = case.given.backward.as_ref().expect("with gradients");
        let (exchange, before) = (&case.manifest.exchange, case.gate.before_experts);
        let (k, hidden) = (exchange.top_k as usize, exchange.hidden as usize);
        let tokens = &case.given.activations;
        let layer = Layer::new(exchange, before, tokens, &expected.indices, &expected.weights);
        for (rank, token) in layer.tokens() {
            let gradient: Vec<f64> =
                backward.combined[rank.index()].elements(token).into_iter().map(f64::from).collect();
            let magnitude: f64 =
                layer.result(rank, token).iter().zip(&gradient).map(|(y, g)| y.magnitude * g.abs()).sum();
            let tolerance = 1e-12 * (1.0 + magnitude);
            let differs = |sum: Sum, difference: f64| (sum.value - difference).abs() > tolerance;

            let of_weights = layer.weight_gradients(rank, token, &gradient);
            for pick in 0..k {
                let moved = |by: f32| {
                    let mut weights = expected.weights.clone();
                    weights[rank.index()][token * k + pick] += by;
                    let after = weights[rank.index()][token * k + pick];
                    let layer = Layer::new(exchange, before, tokens, &expected.indices, &weights);
                    (f64::from(after), loss(&layer, rank, token, &gradient))
                };
                let ((low, loss_low), (high, loss_high)) = (moved(-STEP), moved(STEP));
                let difference = (loss_high - loss_low) / (high - low);
                let sum = of_weights[pick];
                assert!(!differs(sum, difference), "{what}, {rank}, token {token}, pick {pick}: {sum:?} {difference}");
                compared += usize::from(difference != 0.0);
            }

            // A format with scales moves in steps; what the experts read is what the gradient is of.
            if exchange.dispatch != Format::F32 {
                continue;
            }
            let of_token = layer.token_gradient(rank, token, &gradient);
            for element in (0..hidden).step_by(17) {
                let moved = |by: f32| {
                    let mut values: Vec<f32> = tokens[rank.index()].elements(token);
                    values[element] += by;
                    let after = values[element];
                    let mut tokens = tokens.clone();
                    let mut all: Vec<f32> =
                        (0..tokens[rank.index()].count()).flat_map(|row| tokens[rank.index()].elements(row)).collect();
                    all[token * hidden..(token + 1) * hidden].copy_from_slice(&values);
                    tokens[rank.index()] = Rows::from_values(Format::F32, exchange.hidden, &all);
                    let layer = Layer::new(exchange, before, &tokens, &expected.indices, &expected.weights);
                    (f64::from(after), loss(&layer, rank, token, &gradient))
                };
                let ((low, loss_low), (high, loss_high)) = (moved(-STEP), moved(STEP));
                let difference = (loss_high - loss_low) / (high - low);
                let sum = of_token[element];
                assert!(!differs(sum, difference), "{what}, {rank}, token {token}, element {element}: {sum:?}");
                compared += usize::from(difference != 0.0);
            }
        }
    }
    assert!(compared > 1000, "only {compared} differences were not zero");
}

/// The bits of the reference are the layer's numbers, rounded.
#[test]
fn the_reference_is_within_rounding_of_the_layer() {
    for (what, shape, weights) in kinds() {
        let case = case(&shape, weights);
        let expected = case.expected();
        let names: Vec<&str> = expected.direct.iter().map(|check| check.what.as_str()).collect();
        let wanted = ["combined result", "gradient of weights", "gradient of tokens"];
        assert_eq!(names, wanted.map(|name| format!("{name}, as expected")), "{what}");
        for check in &expected.direct {
            assert!(check.holds(), "{what}: {check:?}");
            assert!(check.compared > 0, "{what}: {check:?}");
        }
    }
}

/// The gradient of the logits is that of the whole layer: gate, experts and all, by finite differences of the loss.
#[test]
fn gradients_of_logits_are_those_of_the_whole_layer() {
    use moe_gate::interpret::route;

    let shape = Exchange { dispatch: Format::F32, combine: Format::F32, ..request() };
    let case = case(&shape, Weights::After);
    let expected = case.expected();
    let backward = expected.backward.as_ref().expect("with gradients");
    let logits = backward.logits.as_ref().expect("the gate has a gradient");
    let given = &case.given;
    let of_result = given.backward.as_ref().expect("with gradients");
    let exchange = &case.manifest.exchange;
    let experts = case.manifest.gate.experts as usize;
    let loss_of = |logits: &[Vec<f32>], rank: RankId, token: usize| -> Option<f64> {
        let mut moved = given.clone();
        moved.logits = logits.to_vec();
        let routing =
            route(&case.gate, &moved.inputs(&case.gate.program, rank, &[]).expect("inputs")).expect("a routing");
        if routing.indices != expected.indices[rank.index()] {
            return None;
        }
        let mut weights = expected.weights.clone();
        weights[rank.index()] = routing.weights;
        let layer = Layer::new(exchange, false, &given.activations, &expected.indices, &weights);
        let gradient: Vec<f64> = of_result.combined[rank.index()].elements(token).into_iter().map(f64::from).collect();
        Some(loss(&layer, rank, token, &gradient))
    };
    let (mut compared, mut largest) = (0, 0.0f64);
    for (rank, token) in [(RankId(0), 0), (RankId(1), 3), (RankId(2), 5)] {
        let row = &logits[rank.index()][token * experts..(token + 1) * experts];
        let scale = row.iter().fold(0.0f64, |scale, &number| scale.max(f64::from(number).abs()));
        largest = largest.max(scale);
        for expert in 0..experts {
            const STEP: f32 = 1.0 / 256.0;
            let moved = |by: f32| {
                let mut logits = given.logits.clone();
                logits[rank.index()][token * experts + expert] += by;
                loss_of(&logits, rank, token)
            };
            let (Some(low), Some(high)) = (moved(-STEP), moved(STEP)) else { continue };
            let difference = (high - low) / (2.0 * f64::from(STEP));
            let found = f64::from(row[expert]);
            // A step of 2⁻⁸ errs by its square; weights are f32.
            assert!(
                (found - difference).abs() <= 1e-3 * scale,
                "{rank}, token {token}, expert {expert}: {found} {difference}"
            );
            compared += 1;
        }
    }
    assert!(compared >= 20 && largest > 1.0, "{compared} of 24 logits, the largest gradient {largest}");
}
