//! The reference against expectations worked out by hand.

use moe_contract::{Drop, Exchange, Flow, Format, Padding, RankId, RowLayout};
use moe_judge::Rows;
use moe_judge::reference::{
    Handle, Input, PickProblem, Weighting, combine, combine_backward, dispatch, dispatch_backward, dispatch_cached,
    keep_within_capacity, weight_gradient,
};
use proptest::prelude::*;

/// Rank 0 owns experts 0 and 1, rank 1 owns expert 2; expert 3 computes nothing.
fn exchange(change: impl FnOnce(&mut Exchange)) -> Exchange {
    let mut request = Exchange {
        ranks: 2,
        experts: 3,
        zero_experts: 1,
        top_k: 2,
        hidden: 8,
        max_tokens: 4,
        dispatch: Format::BF16,
        layout: RowLayout::expert_major(2),
        combine: Format::BF16,
        weighted: true,
        drop: None,
        ctas_link: 2,
        ctas_local: 3,
        threads: 64,
    };
    change(&mut request);
    request.checked().expect("sound")
}

/// Rows whose elements are all the same.
fn rows(payload: Format, values: &[f32]) -> Rows {
    let elements: Vec<f32> = values.iter().flat_map(|&value| [value; 8]).collect();
    Rows::from_values(payload, 8, &elements)
}

/// The value of each row, all of whose elements must be the same.
fn values(rows: &Rows) -> Vec<f32> {
    let value = |row| {
        let elements = rows.elements(row);
        assert!(elements.iter().all(|&element| element == elements[0]), "{elements:?}");
        elements[0]
    };
    (0..rows.count()).map(value).collect()
}

/// Rank 0 has tokens 1 and 2, rank 1 has 11, 12, 13 and 14.
fn inputs() -> Vec<Input> {
    vec![
        Input {
            tokens: rows(Format::BF16, &[1.0, 2.0]),
            indices: vec![0, 2, 1, -1],
            weights: vec![0.5, 0.25, 1.0, 9.0],
        },
        Input {
            tokens: rows(Format::BF16, &[11.0, 12.0, 13.0, 14.0]),
            indices: vec![0, 1, -1, -1, 1, 2, 3, -1],
            weights: vec![0.75, 0.25, 9.0, 9.0, 0.5, 0.5, 1.0, 9.0],
        },
    ]
}

fn dispatched(exchange: &Exchange) -> (Vec<Handle>, Vec<Rows>) {
    dispatch(exchange, &inputs()).expect("sound picks").into_iter().unzip()
}

#[test]
fn layout_gives_each_copy_its_slot() {
    let exchange = exchange(|_| ());
    let (handles, _) = dispatched(&exchange);
    assert_eq!(handles[0].slots, [Some(0), Some(0), Some(1), None]);
    assert_eq!(handles[0].send_counts, [2, 1]);
    assert_eq!(handles[1].slots, [Some(0), None, None, None, Some(1), Some(0), None, None]);
    assert_eq!(handles[1].send_counts, [2, 1]);
    assert_eq!(handles[0].received_counts(&exchange), [2, 2]);
    assert_eq!(handles[1].received_counts(&exchange), [1, 1]);
    let copies: Vec<_> = handles[1].copies.iter().map(|copy| (copy.source, copy.token, copy.ordinal)).collect();
    assert_eq!(copies, [(RankId(0), 0, 1), (RankId(1), 2, 1)]);
}

#[test]
fn expert_major_groups_rows_and_pads_with_zeros() {
    let (handles, inputs) = dispatched(&exchange(|_| ()));
    assert_eq!(handles[0].expert_counts, [2, 3]);
    assert_eq!(handles[0].expert_offsets, [0, 2, 6]);
    assert_eq!(values(&inputs[0]), [1.0, 11.0, 2.0, 11.0, 13.0, 0.0]);
    let of_copies: Vec<_> = handles[0].copies.iter().map(|copy| copy.rows.clone()).collect();
    assert_eq!(of_copies, [vec![Some(0), None], vec![Some(2), None], vec![Some(1), Some(3)], vec![Some(4), None]]);
    // Rank 1 has one expert less.
    assert_eq!(handles[1].expert_counts, [2, 0]);
    assert_eq!(handles[1].expert_offsets, [0, 2, 2]);
    assert_eq!(values(&inputs[1]), [1.0, 13.0]);
}

/// Two ranks with four tokens at most: eight rows for each expert, of which those in front are written.
#[test]
fn batched_gives_every_expert_the_same_number_of_rows() {
    let exchange = exchange(|request| request.layout = RowLayout::Batched);
    let (handles, inputs) = dispatched(&exchange);
    assert_eq!((handles[0].rows, handles[1].rows), (16, 16));
    assert_eq!((&handles[0].expert_counts[..], &handles[0].expert_offsets[..]), (&[2, 3][..], &[0, 8, 16][..]));
    assert_eq!(handles[0].written, [0..2, 8..11]);
    let of_copies: Vec<_> = handles[0].copies.iter().map(|copy| copy.rows.clone()).collect();
    assert_eq!(of_copies, [vec![Some(0), None], vec![Some(8), None], vec![Some(1), Some(9)], vec![Some(10), None]]);
    let written: Vec<f32> = handles[0].written.iter().cloned().flatten().map(|row| values(&inputs[0])[row]).collect();
    assert_eq!(written, [1.0, 11.0, 2.0, 11.0, 13.0]);
    // Rank 1 has one expert less, and rows for it all the same.
    assert_eq!((&handles[1].expert_counts[..], &handles[1].expert_offsets[..]), (&[2, 0][..], &[0, 8, 16][..]));
    assert_eq!(handles[1].written, [0..2, 8..8]);
    // Expert e multiplies by e + 1; what is behind the rows of an expert may be anything.
    let mut outputs = [vec![f32::NAN; 16], vec![f32::NAN; 16]];
    outputs[0][..2].copy_from_slice(&[1.0, 11.0]);
    outputs[0][8..11].copy_from_slice(&[4.0, 22.0, 26.0]);
    outputs[1][..2].copy_from_slice(&[3.0, 39.0]);
    let outputs = outputs.map(|values| rows(Format::BF16, &values));
    let combined = combine(&exchange, &handles, &outputs, Weighting::of(&exchange));
    assert_eq!(values(&combined[0]), [0.5 * 1.0 + 0.25 * 3.0, 4.0]);
    assert_eq!(values(&combined[1]), [0.75 * 11.0 + 0.25 * 22.0, 0.0, 0.5 * 26.0 + 0.5 * 39.0, 0.0]);
}

#[test]
fn rank_major_keeps_one_row_per_copy() {
    let exchange = exchange(|request| {
        request.layout = RowLayout::RankMajor;
        request.weighted = false;
    });
    let (handles, inputs) = dispatched(&exchange);
    assert_eq!(values(&inputs[0]), [1.0, 2.0, 11.0, 13.0]);
    assert_eq!(handles[0].row_picks(&exchange), [0, -1, 1, -1, 0, 1, 1, -1]);
    assert_eq!(handles[0].expert_counts, [2, 3]);
    assert_eq!(values(&inputs[1]), [1.0, 13.0]);
    assert_eq!(handles[1].row_picks(&exchange), [-1, 0, -1, 0]);
    // Rows come back as the expert function made them; rank 1's third token is 100 + 300.
    let outputs = [rows(Format::BF16, &[10.0, 20.0, 30.0, 100.0]), rows(Format::BF16, &[5.0, 300.0])];
    let combined = combine(&exchange, &handles, &outputs, Weighting::Unweighted);
    assert_eq!(values(&combined[0]), [15.0, 20.0]);
    assert_eq!(values(&combined[1]), [30.0, 0.0, 400.0, 0.0]);
}

#[test]
fn combine_weighs_and_sums() {
    let exchange = exchange(|_| ());
    let (handles, _) = dispatched(&exchange);
    // Expert e multiplies by e + 1; the padding row is never read.
    let outputs = [rows(Format::BF16, &[1.0, 11.0, 4.0, 22.0, 26.0, f32::NAN]), rows(Format::BF16, &[3.0, 39.0])];
    let combined = combine(&exchange, &handles, &outputs, Weighting::of(&exchange));
    assert_eq!(values(&combined[0]), [0.5 * 1.0 + 0.25 * 3.0, 4.0]);
    assert_eq!(values(&combined[1]), [0.75 * 11.0 + 0.25 * 22.0, 0.0, 0.5 * 26.0 + 0.5 * 39.0, 0.0]);
    // Backward of dispatch: the same rows without weights.
    let gradients = dispatch_backward(&exchange, &handles, &outputs);
    assert_eq!(values(&gradients[0]), [4.0, 4.0]);
    assert_eq!(values(&gradients[1]), [33.0, 0.0, 65.0, 0.0]);
}

#[test]
fn partial_sums_are_added_in_ascending_rank_and_rounded_on_the_way() {
    let exchange = exchange(|request| {
        (request.ranks, request.top_k, request.combine, request.weighted) = (3, 3, Format::F32, false);
    });
    let token = Input { tokens: rows(Format::BF16, &[1.0]), indices: vec![0, 1, 2], weights: vec![1.0; 3] };
    let none = Input { tokens: rows(Format::BF16, &[]), indices: vec![], weights: vec![] };
    let picked = dispatch(&exchange, &[token, none.clone(), none]).expect("sound picks");
    let handles: Vec<Handle> = picked.into_iter().map(|(handle, _)| handle).collect();
    let output = |value| rows(Format::F32, &[value, 0.0]);
    let sum = |a, b, c| {
        let outputs = [output(a), output(b), output(c)];
        values(&combine(&exchange, &handles, &outputs, Weighting::Unweighted)[0])
    };
    assert_eq!(sum(1e8, 1.0, -1e8), [0.0], "1e8 + 1 is 1e8 in f32");
    assert_eq!(sum(1e8, -1e8, 1.0), [1.0]);

    // On one rank two terms, 1 and 2⁻⁸, make a partial sum that bf16 rounds to 1; the f32 of the source adds another 2⁻⁸.
    let exchange = self::exchange(|request| (request.top_k, request.weighted) = (3, false));
    let token = Input { tokens: rows(Format::BF16, &[1.0]), indices: vec![0, 1, 2], weights: vec![1.0; 3] };
    let none = Input { tokens: rows(Format::BF16, &[]), indices: vec![], weights: vec![] };
    let picked = dispatch(&exchange, &[token, none]).expect("sound picks");
    let handles: Vec<Handle> = picked.into_iter().map(|(handle, _)| handle).collect();
    let small = 2f32.powi(-8);
    let outputs = [rows(Format::BF16, &[1.0, 0.0, small, 0.0]), rows(Format::BF16, &[small, 0.0])];
    assert_eq!(values(&combine(&exchange, &handles, &outputs, Weighting::Unweighted)[0]), [1.0]);
}

#[test]
fn a_token_is_quantised_once_at_its_source() {
    let exchange = exchange(|request| {
        (request.hidden, request.dispatch) = (128, Format::FP8_F32_128);
    });
    let mut elements = vec![1.0; 128];
    elements[5] = 896.0;
    let token = Rows::from_values(Format::BF16, 128, &elements);
    let tokens = Input { tokens: token, indices: vec![1, 2], weights: vec![0.5; 2] };
    let none = Input { tokens: Rows::zeros(Format::BF16, 128, 0), indices: vec![], weights: vec![] };
    let received = dispatch(&exchange, &[tokens, none]).expect("sound picks");
    for (handle, input) in &received {
        assert_eq!(input.format(), Format::FP8_F32_128);
        assert_eq!(input.values(0), elements, "{}", handle.rank);
        let scales: Vec<f32> =
            input.scales().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4"))).collect();
        assert_eq!((scales[0], scales[1]), (2.0, 0.0), "the padding row has no scale");
    }
}

#[test]
fn cached_dispatch_repeats_the_routing() {
    let exchange = exchange(|_| ());
    let (handles, _) = dispatched(&exchange);
    let (a, b) = (rows(Format::BF16, &[5.0, 6.0]), rows(Format::BF16, &[7.0, 8.0, 9.0, 10.0]));
    let inputs = dispatch_cached(&exchange, &handles, &[&a, &b]);
    assert_eq!(values(&inputs[0]), [5.0, 7.0, 6.0, 7.0, 9.0, 0.0]);
    assert_eq!(values(&inputs[1]), [5.0, 9.0]);
}

#[test]
fn combine_backward_gives_rows_and_weights_their_gradients() {
    let exchange = exchange(|_| ());
    let (handles, _) = dispatched(&exchange);
    let outputs = [rows(Format::BF16, &[1.0, 11.0, 4.0, 22.0, 26.0, 7.0]), rows(Format::BF16, &[3.0, 39.0])];
    let gradients = [rows(Format::BF16, &[1.0, 2.0]), rows(Format::BF16, &[4.0, 99.0, -1.0, 99.0])];
    let backward = combine_backward(&exchange, &handles, &outputs, &gradients);
    assert_eq!(values(&backward[0].expert_output), [0.5, 3.0, 2.0, 1.0, -0.5, 0.0]);
    assert_eq!(values(&backward[1].expert_output), [0.25, -0.5]);
    // 8 equal elements: 8 × output × gradient.
    assert_eq!(backward[0].weights, Some(vec![8.0, 24.0, 64.0, 0.0]));
    assert_eq!(backward[1].weights, Some(vec![352.0, 704.0, 0.0, 0.0, -208.0, -312.0, 0.0, 0.0]));
}

#[test]
fn combine_backward_without_weights_copies() {
    let exchange = exchange(|request| request.weighted = false);
    let (handles, _) = dispatched(&exchange);
    let outputs = [rows(Format::BF16, &[1.0; 6]), rows(Format::BF16, &[1.0; 2])];
    let gradients = [rows(Format::BF16, &[1.0, 2.0]), rows(Format::BF16, &[4.0, 99.0, -1.0, 99.0])];
    let backward = combine_backward(&exchange, &handles, &outputs, &gradients);
    assert_eq!(values(&backward[0].expert_output), [1.0, 4.0, 2.0, 4.0, -1.0, 0.0]);
    assert_eq!(values(&backward[1].expert_output), [1.0, -1.0]);
    assert_eq!((&backward[0].weights, &backward[1].weights), (&None, &None));
}

/// f32: a chunk is 4 elements, so lane 0 takes 0–3 and 128–131, lane 1 takes 4–7, lane 16 takes 64–67.
#[test]
fn weight_gradients_are_summed_by_lane_and_then_by_butterfly() {
    let sum = |terms: &[(usize, f32)]| {
        let mut gradient = vec![0.0; 256];
        terms.iter().for_each(|&(place, value)| gradient[place] = value);
        weight_gradient(Format::F32, &[1.0; 256], &gradient)
    };
    assert_eq!(sum(&[(0, 1e8), (1, 1.0), (128, -1e8), (4, 1.0)]), 1.0, "lane 0 loses its 1, lane 1 keeps its own");
    assert_eq!(sum(&[(0, 1e8), (4, 1.0), (64, -1e8)]), 1.0, "lanes 0 and 16 meet before lane 1");
    // bf16: a chunk is 8 elements, so that 0 and 4 are of one lane, and 1 is lost.
    let mut gradient = vec![0.0; 256];
    (gradient[0], gradient[4], gradient[128]) = (1e8, 1.0, -1e8);
    assert_eq!(weight_gradient(Format::BF16, &[1.0; 256], &gradient), 0.0);
}

#[test]
fn capacity_drops_by_position_or_by_weight() {
    let exchange = exchange(|_| ());
    let picks = [0, 1, 0, 2, 0, 3, 0, 1];
    let weights = [0.2, 0.8, 0.5, 0.5, 0.2, 0.8, 0.9, 0.1];
    let kept = |rule, capacity| {
        let mut indices = picks;
        keep_within_capacity(&exchange, rule, capacity, &mut indices, &weights);
        indices
    };
    assert_eq!(kept(Drop::Position, 2), [0, 1, 0, 2, -1, 3, -1, 1]);
    assert_eq!(kept(Drop::Lowest, 2), [-1, 1, 0, 2, -1, 3, 0, 1]);
    assert_eq!(kept(Drop::Lowest, 3), [0, 1, 0, 2, -1, 3, 0, 1], "of two equal weights the later token goes");
    assert_eq!(kept(Drop::Position, 4), picks);
    assert_eq!(kept(Drop::Position, 0), [-1; 8]);
}

#[test]
fn impossible_picks_are_named() {
    let exchange = exchange(|_| ());
    let problem = |indices: Vec<i32>| {
        let mut inputs = inputs();
        inputs[1].indices[..indices.len()].copy_from_slice(&indices);
        dispatch(&exchange, &inputs).expect_err("impossible")
    };
    let error = problem(vec![0, 1, 0, 4]);
    assert_eq!(error.to_string(), "rank 1, token 1, pick 1: 4 is not an expert");
    assert_eq!(problem(vec![-2]).problem, PickProblem::NoExpert(-2));
    assert_eq!(problem(vec![3, 3]).to_string(), "rank 1, token 0, pick 1: expert 3 is picked twice");
}

fn picks(experts: i32, k: usize, tokens: usize) -> impl Strategy<Value = Vec<i32>> {
    let token = proptest::sample::subsequence((0..experts).collect::<Vec<_>>(), 0..=k);
    let filled = token.prop_map(move |mut picks| {
        picks.resize(k, -1);
        picks
    });
    proptest::collection::vec(filled, 0..=tokens).prop_map(|picks| picks.concat())
}

proptest! {
    /// Any routing: every local pick has its own row, no row is lost, and the plan counts the same copies.
    #[test]
    fn rows_and_picks_correspond(
        picks in proptest::collection::vec(picks(8, 3, 4), 3), align in 1..5u32,
        padding in proptest::sample::select(&Padding::ALL),
    ) {
        let exchange = exchange(|request| {
            (request.ranks, request.experts, request.top_k) = (3, 7, 3);
            request.layout = RowLayout::expert_major(align).padded(padding);
        });
        let inputs: Vec<Input> = picks.iter().map(|indices| Input {
            tokens: rows(Format::BF16, &vec![1.0; indices.len() / 3]),
            indices: indices.clone(),
            weights: vec![1.0; indices.len()],
        }).collect();
        let flow = Flow::of(&exchange, &picks.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for (handle, input) in dispatch(&exchange, &inputs).expect("sound picks") {
            let mut used: Vec<usize> = handle.copies.iter().flat_map(|copy| copy.rows.iter().flatten().copied()).collect();
            used.sort_unstable();
            let filled: Vec<usize> = (0..input.count()).filter(|&row| input.elements(row)[0] == 1.0).collect();
            prop_assert_eq!(&used, &filled);
            let written: Vec<usize> = handle.written.iter().cloned().flatten().collect();
            let all = match padding {
                Padding::Zero => (0..input.count()).collect(),
                Padding::Any => used.clone(),
            };
            prop_assert_eq!(written, all);
            let groups = handle.expert_offsets.iter().zip(&handle.expert_counts);
            let expected: Vec<usize> = groups.flat_map(|(&start, &count)| start..start + count).collect();
            prop_assert_eq!(used, expected);
            prop_assert!(handle.expert_offsets.iter().all(|offset| offset.is_multiple_of(align as usize)));
            prop_assert!(input.count() as u64 <= exchange.output_rows_max());
            for (source, received) in (0..).zip(handle.received_counts(&exchange)) {
                prop_assert_eq!(flow.copies(RankId(source), handle.rank), received as u64);
            }
        }
    }
}
