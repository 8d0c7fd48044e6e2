//! Native code against the interpreter, bit by bit, on random gates over every operation and on every example: results, the first
//! token with a fault, and the fault.

#[path = "../../gate/tests/common/golden.rs"]
#[allow(dead_code)]
mod golden;
#[path = "../../gate/tests/common/programs.rs"]
#[allow(dead_code)]
mod programs;

use moe_gate::derivative::derivative;
use moe_gate::inputs::Inputs;
use moe_gate::interpret::{self, GateError};
use moe_gate::ir::Gate;
use moe_host::{HostBackward, HostGate, RunError};
use programs::{Draws, Mood, Numbers};
use proptest::prelude::*;

/// Which NaN a NaN is, is not specified.
fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| if number.is_nan() { 0x7fc0_0000 } else { number.to_bits() }).collect()
}

fn fault<T>(result: Result<T, RunError>) -> Result<T, GateError> {
    result.map_err(|error| match error {
        RunError::Gate(error) => error,
        other => panic!("{other}"),
    })
}

/// Forward and backward agree with the interpreter. Returns how many tokens were routed.
fn compare(gate: &Gate, tokens: usize, mood: Mood, seed: u32) -> usize {
    let numbers = Numbers::draw(&gate.program, tokens, mood, seed);
    let inputs = Inputs::new(&gate.program, tokens, numbers.tensors(&gate.program)).expect("they fit");
    let expected = interpret::route(gate, &inputs).map(|routing| (routing.indices, bits(&routing.weights)));
    let host = HostGate::compile(gate).expect("it compiles");
    let found = fault(host.route(&inputs)).map(|routing| (routing.indices, bits(&routing.weights)));
    assert_eq!(found, expected, "{gate}");
    let routed = expected.as_ref().map_or_else(|error| error.token, |_| tokens);

    let k = gate.top_k() as usize;
    let (mut indices, mut weights) = (vec![0; tokens * k], vec![0.0; tokens * k]);
    let alone = fault(host.worker().route(&inputs, &mut indices, &mut weights));
    assert_eq!(alone.as_ref().err(), expected.as_ref().err(), "{gate}");
    for token in 0..routed {
        let (experts, numbers) =
            interpret::route_token(gate, &inputs, token).expect("tokens before the fault have none");
        let experts: Vec<i32> = experts.into_iter().map(|expert| expert as i32).collect();
        assert_eq!(indices[token * k..][..k], experts, "{gate}");
        assert_eq!(bits(&weights[token * k..][..k]), bits(&numbers), "{gate}");
    }

    let backward = derivative(gate).expect("it has logits");
    let numbers = Numbers::draw(&backward.program, tokens, mood, seed);
    let inputs = Inputs::new(&backward.program, tokens, numbers.tensors(&backward.program)).expect("they fit");
    let expected = interpret::differentiate(&backward, &inputs).map(|gradient| bits(&gradient));
    let host = HostBackward::compile(&backward).expect("it compiles");
    assert_eq!(fault(host.differentiate(&inputs)).map(|gradient| bits(&gradient)), expected, "{backward}");
    routed
}

fn moods() -> impl Strategy<Value = Mood> {
    prop_oneof![Just(Mood::Tame), Just(Mood::Ties), Just(Mood::Extreme), Just(Mood::Faulty)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_gates(draws in prop::collection::vec(any::<u32>(), 150), steps in 1u32..24, mood in moods(), seed: u32) {
        let gate = programs::gate(&mut Draws(draws.iter()), steps);
        compare(&gate, 7, mood, seed);
    }
}

/// More tokens than a chunk, so that faults of several chunks compete.
#[test]
fn examples_and_golden_gates() {
    let mut paths = golden::files("dsl-examples", "moe");
    paths.extend(golden::files("tests/data/gates", "moe"));
    assert!(paths.len() >= 26, "files are missing");
    for path in paths {
        for (name, gate) in golden::gates(&path) {
            for mood in [Mood::Tame, Mood::Ties, Mood::Extreme, Mood::Faulty] {
                let routed = compare(&gate, 150, mood, 7);
                assert!(mood != Mood::Tame || routed == 150, "{name}: tame numbers have no fault");
            }
        }
    }
}
