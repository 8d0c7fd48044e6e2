//! Every kernel of every example through the real ptxas, for both targets: nothing spills, nothing has a stack frame.

use moe_front::check_source;
use moe_front::spec::Target;
use moe_lower::{Choice, Timings, compile_spec};
use moe_tests::examples;

#[test]
fn no_kernel_of_any_example_spills() {
    let mut kernels = 0;
    for (name, text) in examples() {
        let spec = check_source(text.as_bytes()).spec.expect("examples are right");
        let choice = Choice {
            deploy: Some("one_node".into()),
            targets: vec![Target::Sm90a, Target::Sm100a],
            ..Choice::default()
        };
        let mut images = compile_spec(&spec, &choice, &mut Timings::default()).expect("examples compile");
        for used in images.assemble().expect("ptxas takes it") {
            let what = format!("{name}: {} for {}", used.kernel.name(), used.target.text());
            let usage = used.usage;
            assert_eq!((usage.spill_stores, usage.spill_loads, usage.stack_frame), (0, 0, 0), "{what}");
            assert!((1..=255).contains(&usage.registers), "{what}: {} registers", usage.registers);
            kernels += 1;
        }
    }
    assert!(kernels >= 15 * 2 * 14, "{kernels} kernels");
}
