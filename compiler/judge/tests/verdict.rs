//! The judge is judged: a run without a fault is let pass, and every fault that is put into one is found, in its place, under its name.

mod support;

use moe_contract::{Buffer, Call, Exchange, Format, LinkBytes, RankId, RowLayout};
use moe_judge::reference::{Weighting, combine};
use moe_judge::{Check, Expected, Produced, Remark, Rows, Verdict, compare, experts};
use moe_random::Random;
use support::{Case, Weights, case, kinds, produced, request};

/// fp8 to the experts and bf16 back, weighted in combine: everything there is to compare.
fn everything() -> Case {
    case(&Exchange { dispatch: Format::FP8_F32_128, ..request() }, Weights::After)
}

/// Everything in f32, so that every order of addition can be told from another.
fn everything_f32() -> Case {
    case(&Exchange { dispatch: Format::F32, combine: Format::F32, ..request() }, Weights::After)
}

fn verdict(case: &Case, expected: &Expected, fault: impl FnOnce(&mut Produced)) -> Verdict {
    let mut run = produced(&case.manifest, expected);
    fault(&mut run);
    compare(&run, expected)
}

/// What differs: the name, and the difference in words.
fn differences(verdict: &Verdict) -> Vec<(&str, String)> {
    let told = |check: &'_ Check| check.difference.as_ref().map(ToString::to_string);
    verdict.checks.iter().filter_map(|check| Some((check.what.as_str(), told(check)?))).collect()
}

/// The one difference of a run with a fault.
fn one(case: &Case, expected: &Expected, fault: impl FnOnce(&mut Produced)) -> (String, String) {
    let verdict = verdict(case, expected, fault);
    assert!(!verdict.holds());
    let [(what, told)] = &differences(&verdict)[..] else { panic!("{:?}", differences(&verdict)) };
    ((*what).to_owned(), told.clone())
}

/// The same rows with one byte changed.
fn changed(rows: &Rows, byte: usize, change: impl Fn(u8) -> u8) -> Rows {
    let mut bytes = rows.bytes().to_vec();
    bytes[byte] = change(bytes[byte]);
    Rows::from_memory(rows.format(), rows.hidden(), bytes, rows.scales().to_vec()).expect("whole rows")
}

/// The same rows with other scales.
fn rescaled(rows: &Rows, change: impl Fn(&mut [f32])) -> Rows {
    let mut scales: Vec<f32> =
        rows.scales().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect();
    change(&mut scales);
    let scales = scales.into_iter().flat_map(f32::to_le_bytes).collect();
    Rows::from_memory(rows.format(), rows.hidden(), rows.bytes().to_vec(), scales).expect("whole rows")
}

/// The same rows with two of them exchanged, with their scales.
fn exchanged(rows: &Rows, a: usize, b: usize) -> Rows {
    let mut order: Vec<usize> = (0..rows.count()).collect();
    order.swap(a, b);
    let bytes = order.iter().flat_map(|&row| rows.row_bytes(row)).copied().collect();
    let scales = order.iter().flat_map(|&row| rows.row_scales(row)).copied().collect();
    Rows::from_memory(rows.format(), rows.hidden(), bytes, scales).expect("whole rows")
}

/// Rows of two copies at rank 0, and whose they are.
fn two_rows(expected: &Expected) -> [(usize, String); 2] {
    let mut rows = expected.handles[0].copies.iter().map(|copy| {
        let row = copy.rows.iter().flatten().next().expect("a copy has a pick here");
        (*row, format!("token {} of {})", copy.token, copy.source))
    });
    [(); 2].map(|()| rows.next().expect("two copies"))
}

#[test]
fn a_run_without_a_fault_is_verified() {
    for (what, shape, weights) in kinds() {
        let case = case(&shape, weights);
        let expected = case.expected();
        let verdict = verdict(&case, &expected, |_| ());
        assert_eq!(differences(&verdict), [], "{what}");
        assert!(verdict.holds());
        assert!(verdict.checks.iter().all(|check| check.compared > 0), "{what}");
        assert_eq!(verdict.remarks, [], "{what}");
    }
}

/// What is compared, with what, in the order of the calls.
#[test]
fn every_quantity_is_compared_with_something_named() {
    let case = everything();
    let verdict = verdict(&case, &case.expected(), |_| ());
    let told: Vec<(&str, &str)> = verdict.checks.iter().map(|check| (check.what.as_str(), check.against)).collect();
    assert_eq!(
        told,
        [
            ("chosen experts", "the gate as written, interpreted"),
            ("weights", "the gate as written, interpreted"),
            ("slots and places", "the reference"),
            ("experts' input", "the reference"),
            ("experts' input", "the tokens before they were converted"),
            ("combined result", "the reference"),
            ("gradient of experts' output", "the reference"),
            ("gradient of weights", "the reference, which weighs in combine"),
            ("gradient of tokens", "the reference"),
            ("experts' input, cached routing", "the reference"),
            ("gradient of logits", "the gate's derivative, interpreted"),
            ("bytes on the links", "the plan"),
            ("combined result, as expected", "the whole layer computed directly, in f64"),
            ("gradient of weights, as expected", "the whole layer computed directly, in f64"),
            ("gradient of tokens, as expected", "the whole layer computed directly, in f64"),
        ]
    );
}

/// One bit anywhere, in every quantity: found there, and nowhere else.
#[test]
fn one_bit_is_found_in_every_quantity() {
    let case = everything();
    let expected = case.expected();
    let mut random = Random::new(1);
    for _ in 0..40 {
        let rank = random.index(3);
        let place = format!("rank {rank}, ");
        let bit = random.below(32);
        let (f32_bit, byte_bit) = (1u32 << bit, 1u8 << (bit % 8));
        let mut found = |what: &str, number_of_row: &str, fault: &dyn Fn(&mut Produced, &mut Random)| {
            let (name, told) = one(&case, &expected, |run| fault(run, &mut random));
            assert_eq!(name, what);
            assert!(told.starts_with(&place) && told.contains(number_of_row), "{told}");
            assert!(told.contains(" instead of ") && !told.contains("numbers differ"), "{told}");
        };
        let flip = |numbers: &mut Vec<f32>, random: &mut Random| {
            let place = random.index(numbers.len());
            numbers[place] = f32::from_bits(numbers[place].to_bits() ^ f32_bit);
        };
        let flip_row = |rows: &mut Rows, random: &mut Random| {
            *rows = changed(rows, random.index(rows.bytes().len()), |byte| byte ^ byte_bit);
        };
        found("chosen experts", ", pick ", &|run, random| {
            let place = random.index(run.indices[rank].len());
            run.indices[rank][place] ^= f32_bit.cast_signed();
        });
        found("weights", ", pick ", &|run, random| flip(&mut run.weights[rank], random));
        found("combined result", ", element ", &|run, random| flip_row(&mut run.combined[rank], random));
        fn backward(run: &mut Produced) -> &mut moe_judge::ProducedBackward {
            run.backward.as_mut().expect("with gradients")
        }
        found("gradient of experts' output", ", element ", &|run, random| {
            flip_row(&mut backward(run).output[rank], random);
        });
        found("gradient of weights", ", pick ", &|run, random| {
            flip(&mut backward(run).weights[rank], random);
        });
        found("gradient of tokens", ", element ", &|run, random| flip_row(&mut backward(run).tokens[rank], random));
        found("experts' input, cached routing", ", element ", &|run, random| {
            flip_row(&mut backward(run).again[rank], random);
        });
        found("gradient of logits", ", expert ", &|run, random| {
            flip(&mut backward(run).logits.as_mut().expect("a gradient")[rank], random);
        });
        // fp8 may also leave its bound; with the reference it always differs.
        let verdict = verdict(&case, &expected, |run| flip_row(&mut run.input[rank], &mut random));
        let (what, told) = differences(&verdict).remove(0);
        assert_eq!(what, "experts' input");
        assert!(told.starts_with(&place) && told.contains(", element "), "{told}");
    }
}

/// Every entry of every array that dispatch keeps.
#[test]
fn every_array_of_a_handle_is_compared() {
    for layout in RowLayout::KNOWN.iter().map(|layout| layout.aligned(4)) {
        let weighted = layout.by_expert();
        let case = case(&Exchange { layout, weighted, ..request() }, Weights::After);
        let expected = case.expected();
        let mut seen: Vec<Buffer> = Vec::new();
        for rank in 0..3 {
            let arrays = produced(&case.manifest, &expected).handles[rank].clone();
            for (place, (buffer, values)) in arrays.iter().enumerate() {
                seen.push(*buffer);
                for entry in [0, values.len() / 2, values.len() - 1] {
                    let (what, told) = one(&case, &expected, |run| run.handles[rank][place].1[entry] ^= 1);
                    assert_eq!(what, "slots and places");
                    assert!(told.starts_with(&format!("rank {rank}, entry {entry} of {}: ", buffer.name())), "{told}");
                }
                let (_, told) = one(&case, &expected, |run| drop(run.handles[rank].remove(place)));
                assert!(told.starts_with(&format!("rank {rank}, {}: 0 numbers instead of", buffer.name())), "{told}");
            }
        }
        // Without weights in combine, those of rows are there too.
        let wanted = if weighted { 9 } else { 10 };
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), wanted, "{seen:?}");
    }
}

/// Two tokens that have exchanged their slots: the array says so, and each row is told to be the other's.
#[test]
fn swapped_slots_are_told_from_wrong_numbers() {
    let case = everything();
    let expected = case.expected();
    let [(a, of_a), (b, of_b)] = two_rows(&expected);
    let verdict = verdict(&case, &expected, |run| {
        run.input[0] = exchanged(&run.input[0], a, b);
        let slots = run.handles[0].iter_mut().find(|(buffer, _)| *buffer == Buffer::Slots).expect("slots");
        // `[tokens][ranks]`: two tokens that go to the same rank.
        let of_rank = |rank: usize| (rank..slots.1.len()).step_by(3).filter(|&entry| slots.1[entry] >= 0);
        let sent = (0..3).map(|rank| of_rank(rank).collect::<Vec<usize>>()).find(|sent| sent.len() > 1);
        let sent = sent.expect("two tokens to one rank");
        slots.1.swap(sent[0], sent[1]);
    });
    let found = differences(&verdict);
    let (what, told) = &found[0];
    assert_eq!(*what, "slots and places");
    assert!(told.contains("of slots: 1 instead of 0; 2 numbers differ"), "{told}");
    let (what, told) = &found[1];
    assert_eq!(*what, "experts' input");
    let (first, here, there) = if a < b { (a, of_a, of_b) } else { (b, of_b, of_a) };
    assert!(told.starts_with(&format!("rank 0, row {first} (expert ")) && told.contains(&here), "{told}");
    let (_, hint) = told.split_once("; it is what belongs to rank 0, row ").unwrap_or_else(|| panic!("{told}"));
    assert!(hint.ends_with(&there), "{told}");
}

/// A row of zeros, a row of the call before, a row that came twice.
#[test]
fn one_wrong_row_is_found_and_named_by_its_token() {
    let case = everything_f32();
    let expected = case.expected();
    let hidden = case.manifest.exchange.hidden as usize;
    let with_row = |rows: &Rows, row: usize, of: &[u8]| {
        let mut bytes = rows.bytes().to_vec();
        bytes[row * 4 * hidden..(row + 1) * 4 * hidden].copy_from_slice(of);
        Rows::from_memory(rows.format(), rows.hidden(), bytes, vec![]).expect("whole rows")
    };
    let (what, told) = one(&case, &expected, |run| {
        run.combined[2] = with_row(&run.combined[2], 4, &vec![0; 4 * hidden]);
    });
    assert_eq!(what, "combined result");
    assert!(told.starts_with("rank 2, token 4, element 0: 0 instead of "), "{told}");
    assert!(told.ends_with(&format!("; {hidden} numbers differ")), "{told}");

    let (what, told) = one(&case, &expected, |run| {
        let twice = run.combined[1].row_bytes(0).to_vec();
        run.combined[1] = with_row(&run.combined[1], 5, &twice);
    });
    assert_eq!(what, "combined result");
    assert!(told.starts_with("rank 1, token 5, element 0: "), "{told}");
    assert!(told.ends_with("numbers differ; it is what belongs to rank 1, token 0"), "{told}");
}

#[test]
fn a_missing_scale_is_found_and_the_number_it_belongs_to() {
    let case = everything();
    let expected = case.expected();
    let [(row, _), _] = two_rows(&expected);
    for (scale, to) in [(0, 0.0), (1, f32::NAN), (1, -0.0)] {
        let verdict = verdict(&case, &expected, |run| {
            run.input[0] = rescaled(&run.input[0], |scales| scales[2 * row + scale] = to);
        });
        let found = differences(&verdict);
        let [(with_reference, told), (with_tokens, beyond)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((*with_reference, *with_tokens), ("experts' input", "experts' input"));
        assert!(told.starts_with(&format!("rank 0, row {row} (expert ")), "{told}");
        assert!(told.contains(&format!("), scale {scale}: {to} instead of ")), "{told}");
        assert!(beyond.starts_with(&format!("rank 0, row {row}, element ")), "{beyond}");
    }
    // One that is doubled and elements that are halved: the same numbers, other bits.
    let (what, told) = one(&case, &expected, |run| {
        let last = run.input[0].scales().len() / 4 - 1;
        run.input[0] = rescaled(&run.input[0], |scales| scales[last] = f32::from_bits(scales[last].to_bits() ^ 1));
    });
    assert_eq!(what, "experts' input");
    assert!(told.contains(", scale 1: "), "{told}");
}

#[test]
fn minus_zero_is_not_zero() {
    let mut case = everything_f32();
    // A token of zeros has a result of zeros.
    let values: Vec<f32> = case.given.activations[0].elements(0);
    let rest: Vec<f32> = (1..6).flat_map(|token| case.given.activations[0].elements(token)).collect();
    let zeros: Vec<f32> = values.iter().map(|_| 0.0).collect();
    case.given.activations[0] = Rows::from_values(Format::F32, 256, &[zeros, rest].concat());
    let expected = case.expected();
    assert_eq!(expected.combined[0].elements(0)[9].to_bits(), 0);
    let (what, told) =
        one(&case, &expected, |run| run.combined[0] = changed(&run.combined[0], 4 * 9 + 3, |byte| byte ^ 0x80));
    assert_eq!((what.as_str(), told.as_str()), ("combined result", "rank 0, token 0, element 9: -0 instead of 0"));
}

#[test]
fn nan_for_a_number_and_another_nan_are_found() {
    let case = everything_f32();
    let expected = case.expected();
    fn of_weights(run: &mut Produced) -> &mut Vec<Vec<f32>> {
        &mut run.backward.as_mut().expect("with gradients").weights
    }
    let (what, told) = one(&case, &expected, |run| of_weights(run)[1][4] = f32::NAN);
    assert_eq!(what, "gradient of weights");
    assert!(told.starts_with("rank 1, token 1, pick 1: NaN instead of "), "{told}");

    // The other way round, with a NaN that is expected: its bits are promised.
    let mut case = everything_f32();
    let mut x: Vec<f32> = (0..6).flat_map(|token| case.given.activations[1].elements(token)).collect();
    x[2 * 256 + 5] = f32::NAN;
    case.given.activations[1] = Rows::from_values(Format::F32, 256, &x);
    let expected = case.expected();
    let gradient = |expected: &Expected| {
        let backward = expected.backward.as_ref().expect("with gradients");
        backward.weights[1][2 * 3].to_bits()
    };
    assert_eq!(gradient(&expected), 0x7fff_ffff, "the NaN of a GPU");
    assert!(verdict(&case, &expected, |_| ()).holds());
    let (_, told) = one(&case, &expected, |run| of_weights(run)[1][6] = 1.5);
    assert!(told.starts_with("rank 1, token 2, pick 0: 1.5 instead of NaN"), "{told}");
    let (_, told) = one(&case, &expected, |run| of_weights(run)[1][6] = f32::from_bits(0x7fc0_0000));
    assert_eq!(told, "rank 1, token 2, pick 0: NaN (0x7fc00000) instead of NaN (0x7fffffff)");
    // A gate's derivative promises that there is a NaN, not which.
    let logits = |run: &mut Produced, bits: u32| {
        let of_logits = run.backward.as_mut().expect("with gradients").logits.as_mut().expect("a gradient");
        let nan = of_logits[1].iter_mut().find(|number| number.is_nan()).expect("a NaN in token 2");
        *nan = f32::from_bits(bits);
    };
    assert!(verdict(&case, &expected, |run| logits(run, 0xffc0_1234)).holds());
    let (what, told) = one(&case, &expected, |run| logits(run, 0));
    assert!(what == "gradient of logits" && told.contains(": 0 instead of NaN"), "{what}: {told}");
}

/// Partial sums in descending rank instead of ascending: the last bit of a few numbers, and every criterion but bits would let it pass.
#[test]
fn another_order_of_addition_is_found() {
    let case = everything_f32();
    let expected = case.expected();
    let exchange = &case.manifest.exchange;
    let outputs: Vec<Rows> = expected
        .handles
        .iter()
        .zip(&expected.input)
        .map(|(handle, input)| experts::forward(exchange, handle, input, false))
        .collect();
    // What comes of one rank alone is its partial sum.
    let alone = |rank: usize| {
        let mut handles = expected.handles.clone();
        (0..3).filter(|&other| other != rank).for_each(|other| handles[other].copies.clear());
        combine(exchange, &handles, &outputs, Weighting::Weighted)
    };
    let partials = [0, 1, 2].map(alone);
    let sum = |order: [usize; 3]| -> Vec<Rows> {
        let of_rank = |rank: usize| {
            let count = expected.combined[rank].count();
            let token = |token| {
                let terms = order.map(|other| partials[other][rank].elements(token));
                (0..256).map(move |place| terms[0][place] + terms[1][place] + terms[2][place]).collect::<Vec<f32>>()
            };
            Rows::from_values(Format::F32, 256, &(0..count).flat_map(token).collect::<Vec<f32>>())
        };
        (0..3).map(of_rank).collect()
    };
    let ascending = sum([0, 1, 2]);
    let same = ascending
        .iter()
        .zip(&expected.combined)
        .all(|(a, b)| (0..a.count()).all(|row| a.elements(row).iter().zip(b.elements(row)).all(|(a, b)| *a == b)));
    assert!(same, "the partial sums are those of the reference");
    let verdict = verdict(&case, &expected, |run| run.combined = sum([2, 1, 0]));
    let found = differences(&verdict);
    let [("combined result", told)] = &found[..] else { panic!("{found:?}") };
    assert!(told.contains(" numbers differ"), "{told}");
}

/// What is not there is not equal to anything.
#[test]
fn what_is_missing_is_found() {
    let case = everything();
    let expected = case.expected();
    fn backward(run: &mut Produced) -> &mut moe_judge::ProducedBackward {
        run.backward.as_mut().expect("with gradients")
    }
    type Fault = fn(&mut Produced);
    let faults: [(&str, &str, Fault); 11] = [
        ("chosen experts", "the run: results of 2 ranks instead of 3 ranks", |run| drop(run.indices.pop())),
        ("slots and places", "the run: results of 2 ranks instead of 3 ranks", |run| drop(run.handles.pop())),
        ("combined result", "the run: results of 0 ranks instead of 3 ranks", |run| run.combined.clear()),
        ("gradient of tokens", "the run: results of 2 ranks instead of 3 ranks", |run| {
            drop(backward(run).tokens.pop());
        }),
        ("gradient of weights", "the run: results of 0 ranks instead of 3 ranks", |run| backward(run).weights.clear()),
        ("gradient of logits", "the run: results of 0 ranks instead of 3 ranks", |run| backward(run).logits = None),
        ("weights", "rank 0: 17 numbers instead of 18 numbers", |run| run.weights[0].truncate(17)),
        ("backward pass", "the run: none instead of one", |run| run.backward = None),
        ("combined result", "rank 1: 0 rows of 256 bf16 instead of 6 rows of 256 bf16", |run| {
            run.combined[1] = Rows::zeros(Format::BF16, 256, 0);
        }),
        ("combined result", "rank 1: 6 rows of 256 f16 instead of 6 rows of 256 bf16", |run| {
            run.combined[1] = Rows::zeros(Format::F16, 256, 6);
        }),
        (
            "bytes on the links",
            "the run: dispatch, combine, combine_backward, dispatch_backward, dispatch_cached instead of dispatch, \
             combine, combine_backward, dispatch_backward, dispatch_cached, barrier",
            |run| drop(run.traffic.pop()),
        ),
    ];
    for (what, told, fault) in faults {
        assert_eq!(one(&case, &expected, fault), (what.to_owned(), told.to_owned()));
    }
    let told = verdict(&case, &expected, |run| run.traffic.clear());
    assert!(told.holds() && told.remarks == [Remark::NoTraffic], "a device need not count");
}

#[test]
fn one_byte_too_many_on_a_link_is_found() {
    let case = everything();
    let expected = case.expected();
    let (what, told) = one(&case, &expected, |run| {
        let (call, bytes) = &mut run.traffic[1];
        assert_eq!(*call, Call::Combine);
        let (from, to) = (RankId(2), RankId(0));
        *bytes += &LinkBytes::new(3, |writer, owner| u64::from((writer, owner) == (from, to)));
    });
    assert_eq!(what, "bytes on the links");
    let planned = expected.traffic[1].1.bytes(RankId(2), RankId(0));
    assert_eq!(told, format!("combine, rank 2 to rank 0: {} instead of {planned}", planned + 1));
}

/// A run with the experts of other ids, as a wrong offset would give: everything behind them differs, nothing before.
#[test]
fn wrong_experts_are_found_behind_them() {
    let case = everything();
    let expected = case.expected();
    let exchange = &case.manifest.exchange;
    let outputs: Vec<Rows> = expected
        .handles
        .iter()
        .zip(&expected.input)
        .map(|(handle, input)| {
            let mut handle = handle.clone();
            let other = |pick: &mut i32| *pick = if *pick >= 0 { (*pick + 1) % 7 } else { *pick };
            handle.copies.iter_mut().for_each(|copy| copy.picks.iter_mut().for_each(other));
            experts::forward(exchange, &handle, input, false)
        })
        .collect();
    let combined = combine(exchange, &expected.handles, &outputs, Weighting::Weighted);
    let (what, told) = one(&case, &expected, |run| run.combined = combined);
    assert_eq!(what, "combined result");
    assert!(told.contains("numbers differ"), "{told}");
}
