//! What is given: from a seed the same everywhere, and refused where it does not fit.

mod support;

use moe_contract::{Exchange, Format, RankId};
use moe_judge::{Expected, Given, GivenError, JudgeError, Numbers, Remark, Rows, compare, not_finite};
use support::{Weights, case, kinds, produced, request};

/// Each tensor has a stream of its own: another seed changes all, more tokens change none of those before.
#[test]
fn a_seed_gives_the_same_numbers_again() {
    let case = case(&request(), Weights::After);
    let (manifest, given) = (&case.manifest, &case.given);
    let again = Given::synthetic(manifest, 6, 7).with_backward(manifest, 7);
    assert_eq!(format!("{given:?}"), format!("{again:?}"));
    let other = Given::synthetic(manifest, 6, 8);
    assert!(given.logits[0] != other.logits[0] && given.activations[0] != other.activations[0]);
    let longer = Given::synthetic(manifest, 9, 7);
    assert_eq!(longer.logits[2][..6 * 8], given.logits[2]);
    assert_eq!(longer.activations[2].bytes()[..6 * 512], *given.activations[2].bytes());
    let (Numbers::F32(bias), Numbers::F32(same)) = (&given.parameters[0].1, &longer.parameters[0].1) else {
        panic!("a bias is f32")
    };
    assert!(bias == same && bias.iter().all(|bias| bias.abs() < 0.3), "{bias:?}");
}

#[test]
fn what_does_not_fit_is_named() {
    let case = case(&request(), Weights::After);
    let told = |change: fn(&mut Given)| {
        let mut given = case.given.clone();
        change(&mut given);
        let error = Expected::compute(&case.manifest, &case.gate, &given).err().expect("it does not fit");
        assert!(matches!(error, JudgeError::Given(_)), "{error:?}");
        error.to_string()
    };
    assert_eq!(told(|given| given.tokens.truncate(2)), "tokens of 2 ranks are given, and there are 3");
    assert_eq!(told(|given| drop(given.logits.pop())), "logits of 2 ranks are given, and there are 3");
    assert_eq!(told(|given| given.tokens[1] = 5), "rank 1: logits have 48 numbers, and 40 are needed");
    assert_eq!(told(|given| given.logits[2].truncate(47)), "rank 2: logits have 47 numbers, and 48 are needed");
    assert_eq!(
        told(|given| given.activations[0] = Rows::zeros(Format::F16, 256, 6)),
        "rank 0: rows of tokens are f16, and bf16 is needed"
    );
    assert_eq!(
        told(|given| given.activations[0] = Rows::zeros(Format::BF16, 512, 3)),
        "rank 0: rows of tokens have 1536 numbers, and 1536 are needed in rows of 256"
    );
    assert_eq!(
        told(|given| given.activations[0] = Rows::zeros(Format::BF16, 256, 7)),
        "rank 0: rows of tokens have 1792 numbers, and 1536 are needed in rows of 256"
    );
    assert_eq!(told(|given| given.parameters.clear()), "the gate has a parameter `bias` that is not given");
    assert_eq!(
        told(|given| given.parameters[0].1 = Numbers::F32(vec![0.0; 7])),
        "rank 0: `bias` has 8 numbers for 6 tokens, and 7 were given"
    );
    assert_eq!(
        told(|given| given.backward.as_mut().expect("with gradients").combined.clear()),
        "gradients of the result of 0 ranks are given, and there are 3"
    );
    let error = case.given.inputs(&case.gate.program, RankId(3), &[]).err();
    assert_eq!(error, Some(GivenError::Ranks { what: "logits", expected: 3, found: 3 }), "there is no rank 3");
}

#[test]
fn a_token_that_cannot_be_routed_is_named() {
    let mut case = case(&request(), Weights::After);
    case.given.logits[1][2 * 8 + 3] = f32::NAN;
    let error = Expected::compute(&case.manifest, &case.gate, &case.given).err().expect("a NaN cannot be ranked");
    assert_eq!(error.to_string(), "rank 1, token 2: the logit of expert 3 is NaN");
}

/// `x` with some numbers of a rank replaced.
fn with(case: &mut support::Case, rank: usize, numbers: &[(usize, usize, f32)]) {
    let rows = &case.given.activations[rank];
    let hidden = rows.hidden() as usize;
    let mut x: Vec<f32> = (0..rows.count()).flat_map(|token| rows.elements(token)).collect();
    numbers.iter().for_each(|&(token, element, number)| x[token * hidden + element] = number);
    case.given.activations[rank] = Rows::from_values(rows.format(), rows.hidden(), &x);
}

#[test]
fn nans_and_infinities_of_the_input_are_one_plain_line() {
    let mut case = case(&request(), Weights::After);
    assert_eq!(not_finite("x", &case.given.activations), None);
    with(&mut case, 0, &[(2, 5, f32::NAN)]);
    let told = |case: &support::Case| {
        let found = not_finite("x", &case.given.activations).expect("there is one");
        Remark::NotFinite(found).to_string()
    };
    assert_eq!(told(&case), "x holds 1 NaN, at token 2, element 5; results that depend on it hold some too");
    with(&mut case, 0, &[(2, 5, 1.0)]);
    with(&mut case, 1, &[(3, 7, f32::NEG_INFINITY), (4, 0, f32::INFINITY), (4, 1, f32::NAN)]);
    assert_eq!(
        told(&case),
        "x holds 1 NaN and 2 infinities, the first at token 9, element 7 (rank 1, token 3); results that depend on \
         them hold some too"
    );
}

/// In every format and layout: the run is judged, the numbers go where the arithmetic takes them, and no further.
#[test]
fn a_run_with_nan_and_infinity_is_judged_like_any_other() {
    for (what, shape, weights) in kinds() {
        for number in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut case = case(&shape, weights);
            with(&mut case, 1, &[(2, 5, number)]);
            let expected = case.expected();
            let run = produced(&case.manifest, &expected);
            let verdict = compare(&run, &expected);
            assert!(verdict.holds(), "{what}, {number}: {:?}", verdict.checks);
            assert!(matches!(verdict.remarks[0], Remark::NotFinite(_)), "{what}, {number}");
            for (rank, rows) in expected.combined.iter().enumerate() {
                for token in 0..rows.count() {
                    let hit = rows.elements(token).iter().filter(|number| !number.is_finite()).count();
                    // Rotated by each expert; an infinity takes its whole block with it where there are scales.
                    let block = shape.dispatch.scales.filter(|_| number.is_infinite()).map_or(1, |scales| scales.block);
                    let most = (3 * block as usize).min(256);
                    let picks = &expected.indices[rank][token * 3..][..3];
                    let sent = picks.iter().any(|pick| (0..7).contains(pick));
                    let range = if (rank, token) == (1, 2) && sent { 1..=most } else { 0..=0 };
                    assert!(range.contains(&hit), "{what}, {number}, rank {rank}, token {token}: {hit}");
                }
            }
        }
    }
}

/// Numbers so large that sums overflow: infinity is the right answer there, and everything is compared all the same.
#[test]
fn a_run_that_overflows_is_judged_like_any_other() {
    for (what, shape, weights) in kinds() {
        let mut case = case(&shape, weights);
        let largest = if shape.dispatch == Format::F16 { 65504.0 } else { 3.389_531_4e38 };
        with(&mut case, 0, &[(0, 0, largest), (1, 3, -largest), (1, 4, largest)]);
        let expected = case.expected();
        let run = produced(&case.manifest, &expected);
        let verdict = compare(&run, &expected);
        assert!(verdict.holds(), "{what}: {:?}", verdict.checks);
        assert_eq!(verdict.remarks, [], "{what}: the input is finite");
    }
}

/// Tokens may be uneven, and a rank may have none.
#[test]
fn uneven_tokens_are_judged() {
    let shape = Exchange { max_tokens: 6, ..request() };
    let mut case = case(&shape, Weights::After);
    for (rank, tokens) in [(0, 0), (1, 1)] {
        case.given.tokens[rank] = tokens;
        case.given.logits[rank].truncate(tokens * 8);
        let cut = |rows: &Rows| {
            let bytes = rows.bytes()[..tokens * rows.hidden() as usize * 2].to_vec();
            Rows::from_memory(rows.format(), rows.hidden(), bytes, vec![]).expect("whole rows")
        };
        case.given.activations[rank] = cut(&case.given.activations[rank]);
        let backward = case.given.backward.as_mut().expect("with gradients");
        backward.combined[rank] = cut(&backward.combined[rank]);
        backward.again[rank] = cut(&backward.again[rank]);
    }
    let expected = case.expected();
    assert_eq!(expected.combined.iter().map(Rows::count).collect::<Vec<_>>(), [0, 1, 6]);
    let run = produced(&case.manifest, &expected);
    assert!(compare(&run, &expected).holds());
}
