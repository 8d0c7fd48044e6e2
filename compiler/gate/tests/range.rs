//! The ranges of values against what the interpreter computes: random gates and their derivatives, with numbers of every kind.

#[path = "common/programs.rs"]
mod programs;

use moe_gate::derivative::derivative;
use moe_gate::inputs::Inputs;
use moe_gate::interpret::{self, Value};
use moe_gate::ir::Program;
use moe_gate::range::Nan;
use moe_gate::ranges::{Ranges, Reading};
use programs::{Draws, Mood, Numbers};
use proptest::prelude::*;

/// How many elements were looked at.
fn check(program: &Program, mood: Mood, seed: u32) -> Result<usize, TestCaseError> {
    const TOKENS: usize = 4;
    let numbers = Numbers::draw(program, TOKENS, mood, seed);
    let inputs = Inputs::new(program, TOKENS, numbers.tensors(program)).expect("they fit");
    let computed = Ranges::of(program, Reading::Computed);
    let exact = (mood == Mood::Tame).then(|| Ranges::of(program, Reading::Exact));
    let mut seen = 0;
    for token in 0..TOKENS {
        let Ok(values) = interpret::evaluate(program, &inputs, token) else { continue };
        for ((id, op), value) in program.ops().zip(&values) {
            let Value::Numbers(numbers) = value else { continue };
            let range = computed.get(id);
            let nan = numbers.iter().filter(|number| number.is_nan()).count();
            let told = format!("{op:?} gives {numbers:?}, which are not {range:?}\n{program}");
            prop_assert!(
                nan == 0 || range.nan == Nan::Some || (range.nan == Nan::All && nan == numbers.len()),
                "{}",
                told
            );
            for number in numbers.iter().filter(|number| !number.is_nan()) {
                // A function can be off by some units in the last place, but not beyond what it approaches.
                let (number, slack) = (f64::from(*number), 1e-6 * f64::from(number.abs()).min(1e38));
                let is_inside = number + slack >= range.low.at && number - slack <= range.high.at;
                prop_assert!(is_inside, "{}", told);
                if let Some(exact) = exact.as_ref().map(|exact| exact.get(id)) {
                    // What overflows is beyond the largest number, and need not be infinite.
                    let finite = number.clamp(f32::MIN.into(), f32::MAX.into());
                    let is_exactly =
                        [number, finite].iter().any(|at| at + slack >= exact.low.at && at - slack <= exact.high.at);
                    prop_assert!(is_exactly, "exactly {}", told);
                }
            }
            seen += numbers.len();
        }
    }
    Ok(seen)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_value_leaves_its_range(
        draws in prop::collection::vec(any::<u32>(), 150),
        steps in 1u32..24,
        mood in prop::sample::select(&[Mood::Tame, Mood::Ties, Mood::Extreme, Mood::Faulty][..]),
        seed: u32,
    ) {
        let gate = programs::gate(&mut Draws(draws.iter()), steps);
        check(&gate.program, mood, seed)?;
        check(&derivative(&gate).expect("it has logits").program, mood, seed)?;
    }
}
