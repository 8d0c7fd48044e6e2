//! Places and bytes, worked out by hand.

use moe_contract::{Call, Exchange, Flag, Flow, Format, LimitError, LinkBytes, Padding, RankId, Region, RowLayout};
use proptest::prelude::*;

fn request() -> Exchange {
    Exchange {
        ranks: 2,
        experts: 3,
        zero_experts: 1,
        top_k: 2,
        hidden: 256,
        max_tokens: 3,
        dispatch: Format::FP8_F32_128,
        layout: RowLayout::expert_major(2),
        combine: Format::BF16,
        weighted: true,
        drop: None,
        ctas_link: 2,
        ctas_local: 3,
        threads: 64,
    }
}

#[test]
fn a_layout_worked_out_by_hand() {
    let exchange = request().checked().expect("sound");
    // 2 halves × 2 sources × 3 tokens = 12 slots, and as many partial sums, because a token has at most 2 destinations.
    let expected = [
        ("dispatch.arrive", 0, 16),
        ("combine.arrive", 128, 16),
        ("gradient.arrive", 256, 16),
        ("barrier.arrive", 384, 16),
        ("counts", 512, 16),
        ("rows", 640, 12 * 512),             // 256 bf16 of the way back are more than 256 fp8
        ("scales", 640 + 12 * 512, 12 * 16), // 2 f32, rounded up
        ("records", 7040, 12 * 32),          // 6784 + 12 × 16 = 6976, rounded up
        ("partials", 7040 + 12 * 32, 12 * 512),
        ("weight_gradients", 7424 + 12 * 512, 2 * 3 * 2 * 4),
    ];
    let found: Vec<_> =
        exchange.symmetric_places().map(|place| (place.part.name(), place.start, place.bytes)).collect();
    assert_eq!(found, expected);
    for (name, start, _) in expected {
        let by_name = |region: &Region| region.name() == name;
        let region = Region::ALL.into_iter().find(by_name).map(|region| exchange.region_start(region));
        let flag = Flag::ALL.into_iter().find(|flag| flag.name() == name).map(|flag| exchange.flag_start(flag));
        assert_eq!(region.or(flag), Some(start), "{name}");
    }
    // Rows: 2 × 3 copies × 2 local picks + 2 experts × 1 of padding = 14.
    let sizes = exchange.sizes();
    assert_eq!(sizes.symmetric, 13_696, "13568 + 48, rounded up");
    assert_eq!(sizes.fixed, 32 + 64 + 16, "status, calls, peers");
    assert_eq!(sizes.expert_input, 14 * (256 + 8));
    assert_eq!(sizes.expert_output, 14 * 512);
    // slots, tokens, ordinals: 3 × 4 × 2 × 3; counts: 2 × 8; rows, weights: 2 × 4 × 2 × 3 × 2; experts: 8 + 12
    assert_eq!(sizes.handle, 72 + 16 + 96 + 20);
}

#[test]
fn rows_of_every_layout_worked_out_by_hand() {
    let of = |layout| Exchange { layout, weighted: false, ..request() }.checked().expect("sound");
    // 2 × 3 copies, each with 2 local picks at most, and 2 local experts.
    let rows = |layout, picks: [u64; 4]| (picks.map(|picks| of(layout).rows_of(picks)), of(layout).output_rows_max());
    assert_eq!(rows(RowLayout::RankMajor, [0, 1, 6, 99]), ([0, 1, 6, 6], 6));
    assert_eq!(rows(RowLayout::expert_major(1), [0, 1, 6, 99]), ([0, 1, 6, 12], 12));
    // One pick fills a group of 4; 6 picks in two groups are at most 5 + 1: 8 + 4.
    assert_eq!(rows(RowLayout::expert_major(4), [0, 1, 6, 99]), ([0, 4, 12, 20], 20));
    assert_eq!(rows(RowLayout::Batched, [0, 1, 6, 99]), ([12; 4], 12));
    assert_eq!([0, 1, 4, 5].map(|picks| of(RowLayout::expert_major(4)).group_rows(picks)), [0, 4, 4, 8]);
    assert_eq!([0, 1, 6].map(|picks| of(RowLayout::Batched).group_rows(picks)), [6; 3]);
    for layout in RowLayout::KNOWN {
        assert_eq!(layout.is_fixed(), of(*layout).rows_of(0) == of(*layout).output_rows_max(), "{layout}");
    }
    let batched = of(RowLayout::Batched);
    assert_eq!(batched.sizes().expert_input, 12 * (256 + 8), "also where nothing arrives");
    assert_eq!(batched.layout.written(12, [(0, 2), (6, 0)].into_iter()), [0..2, 6..6]);
    let groups = || [(0, 1), (4, 0), (4, 3)].into_iter();
    assert_eq!(RowLayout::expert_major(4).padded(Padding::Any).written(8, groups()), [0..1, 4..4, 4..7]);
    assert_eq!(RowLayout::expert_major(4).written(8, groups()), std::iter::once(0..8).collect::<Vec<_>>());
    assert_eq!(RowLayout::RankMajor.written(3, std::iter::empty()), std::iter::once(0..3).collect::<Vec<_>>());
}

#[test]
fn what_the_language_calls_a_layout() {
    for layout in RowLayout::KNOWN {
        let aligned = layout.aligned(64);
        let text = if layout.align().is_some() { format!("{} align 64", layout.name()) } else { layout.name().into() };
        assert_eq!(aligned.to_string(), text);
    }
}

#[test]
fn limits_speak() {
    let problem = |change: fn(&mut Exchange)| {
        let mut request = request();
        change(&mut request);
        request.checked().expect_err("wrong").to_string()
    };
    assert_eq!(problem(|r| r.ranks = 0), "ranks is 0; it must be from 1 to 72");
    assert_eq!(problem(|r| r.experts = 1025), "experts is 1025; it must be from 1 to 1024");
    assert_eq!(problem(|r| r.zero_experts = 1022), "zero_experts is 1022; it must be from 0 to 1021");
    assert_eq!(problem(|r| r.top_k = 33), "top_k is 33; it must be from 1 to 32");
    assert_eq!(problem(|r| r.hidden = 200), "hidden is 200; it must be a multiple of 128");
    assert_eq!(problem(|r| r.threads = 48), "threads is 48; it must be a multiple of 32");
    assert_eq!(problem(|r| r.layout = RowLayout::expert_major(0)), "align is 0; it must be from 1 to 65536");
    let error = Exchange { max_tokens: 1 << 24, ranks: 72, ..request() }.checked().expect_err("wrong");
    assert!(matches!(error, LimitError::TooManyEntries { max_tokens: 16_777_216, .. }), "{error}");
}

/// Rank 0 owns experts 0 and 1, rank 1 owns expert 2; expert 3 computes nothing.
const RANK_0: [i32; 4] = [0, 2, 1, -1];
const RANK_1: [i32; 8] = [0, 1, -1, -1, 1, 2, 3, -1];

fn matrix(traffic: &LinkBytes) -> [[u64; 2]; 2] {
    [0, 1].map(|writer| [0, 1].map(|owner| traffic.bytes(RankId(writer), RankId(owner))))
}

#[test]
fn traffic_worked_out_by_hand() {
    let request = Exchange { hidden: 8, dispatch: Format::BF16, ..request() };
    let exchange = request.checked().expect("sound");
    let flow = Flow::of(&exchange, &[&RANK_0, &RANK_1]);
    let of_flow = |number: fn(&Flow, RankId, RankId) -> u64| {
        [0, 1].map(|source| [0, 1].map(|destination| number(&flow, RankId(source), RankId(destination))))
    };
    assert_eq!(of_flow(Flow::copies), [[2, 1], [2, 1]]);
    assert_eq!(of_flow(Flow::picks), [[2, 1], [3, 1]]);
    // A copy is 16 bytes of row and 24 of record; 4 for the count and 2 × 8 for the flag.
    assert_eq!(matrix(&LinkBytes::of(Call::Dispatch, &exchange, &flow)), [[100, 60], [100, 60]]);
    assert_eq!(matrix(&LinkBytes::of(Call::DispatchCached, &exchange, &flow)), [[48, 32], [48, 32]]);
    // Back: rank 0 returns 2 rows to itself and 2 to rank 1; rank 1 one to each.
    assert_eq!(matrix(&LinkBytes::of(Call::Combine, &exchange, &flow)), [[48, 48], [32, 32]]);
    // Cached, and then 4 bytes for each pick, the other way.
    let backward = LinkBytes::of(Call::CombineBackward, &exchange, &flow);
    assert_eq!(matrix(&backward), [[48 + 24, 32 + 28], [48 + 20, 32 + 20]]);
    assert_eq!(backward.crossing(), 60 + 68);
    // Where experts weigh, gradients of weights come from them: 4 bytes for each pick.
    let experts_weigh = Exchange { weighted: false, ..exchange };
    assert_eq!(matrix(&LinkBytes::of(Call::CombineBackward, &experts_weigh, &flow)), [[48, 32], [48, 32]]);
    assert_eq!(matrix(&LinkBytes::of(Call::WeightsBackward, &experts_weigh, &flow)), [[24, 28], [20, 20]]);
    assert_eq!(matrix(&LinkBytes::of(Call::WeightsBackward, &exchange, &flow)), [[0, 0], [0, 0]]);
    assert_eq!(matrix(&LinkBytes::of(Call::Barrier, &exchange, &flow)), [[8, 8], [8, 8]]);
}

#[test]
fn scales_travel_with_the_rows() {
    let exchange = request().checked().expect("sound");
    let flow = Flow::of(&exchange, &[&RANK_0, &[]]);
    // 256 fp8, 2 scales, 24 of record; a rank without tokens still says so.
    assert_eq!(matrix(&LinkBytes::of(Call::Dispatch, &exchange, &flow)), [[2 * 288 + 20, 288 + 20], [20, 20]]);
}

proptest! {
    /// Whatever a request holds: a plan that keeps its own rules, or an error.
    #[test]
    fn a_plan_is_sound_or_an_error(
        ranks in 0..80u32, experts in 0..1100u32, top_k in 0..40u32, hidden in prop_oneof![0..9000u32, any::<u32>()],
        max_tokens in prop_oneof![0..9000u32, any::<u32>()], align in prop_oneof![0..300u32, any::<u32>()],
        zero_experts in prop_oneof![0..30u32, any::<u32>()],
    ) {
        let layout = RowLayout::expert_major(align);
        let request = Exchange { ranks, experts, zero_experts, top_k, hidden, max_tokens, layout, ..request() };
        if let Ok(exchange) = request.checked() {
            prop_assert_eq!(exchange.check(), Ok(()));
            prop_assert!(exchange.sizes().expert_input >= u64::from(max_tokens));
        }
    }
}
