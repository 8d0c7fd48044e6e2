//! Native code against the routers of a model library, and bit by bit against the interpreter on the same data.

#[path = "../../gate/tests/common/golden.rs"]
mod golden;

use golden::Golden;
use moe_gate::derivative::derivative;
use moe_gate::inputs::Inputs;
use moe_gate::interpret;
use moe_host::{HostBackward, HostGate};

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn native_code_routes_as_the_models_do() {
    for golden in Golden::all() {
        let program = &golden.gate.program;
        let inputs = Inputs::new(program, golden.tokens, golden.tensors(program.inputs())).expect("they fit");
        let routing = HostGate::compile(&golden.gate).expect("it compiles").route(&inputs).expect("no fault");
        golden.check_routing(&routing.indices, &routing.weights);
        let reference = interpret::route(&golden.gate, &inputs).expect("no fault");
        assert_eq!(routing.indices, reference.indices, "{}", golden.name);
        assert_eq!(bits(&routing.weights), bits(&reference.weights), "{}", golden.name);
    }
}

#[test]
fn native_gradients_are_those_of_the_models() {
    for golden in Golden::all() {
        let backward = derivative(&golden.gate).expect("it has logits");
        let tensors = golden.tensors(backward.program.inputs());
        let inputs = Inputs::new(&backward.program, golden.tokens, tensors).expect("they fit");
        let gradient = HostBackward::compile(&backward).expect("it compiles").differentiate(&inputs).expect("no fault");
        golden.check_gradient(&gradient);
        let reference = interpret::differentiate(&backward, &inputs).expect("no fault");
        assert_eq!(bits(&gradient), bits(&reference), "{}", golden.name);
    }
}
