//! The interpreter against the routers of a model library: what the language means is what those models compute.

#[path = "common/golden.rs"]
mod golden;

use golden::Golden;
use moe_gate::derivative::derivative;
use moe_gate::inputs::Inputs;
use moe_gate::interpret;

#[test]
fn the_interpreter_routes_as_the_models_do() {
    for golden in Golden::all() {
        let program = &golden.gate.program;
        let inputs = Inputs::new(program, golden.tokens, golden.tensors(program.inputs())).expect("they fit");
        let routing = interpret::route(&golden.gate, &inputs).expect("no token has a fault");
        golden.check_routing(&routing.indices, &routing.weights);
    }
}

#[test]
fn the_derivative_is_that_of_the_models() {
    for golden in Golden::all() {
        let backward = derivative(&golden.gate).expect("it has logits");
        let tensors = golden.tensors(backward.program.inputs());
        let inputs = Inputs::new(&backward.program, golden.tokens, tensors).expect("they fit");
        golden.check_gradient(&interpret::differentiate(&backward, &inputs).expect("no token has a fault"));
    }
}
