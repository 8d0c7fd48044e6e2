//! The kernels of an exchange on the virtual cluster, byte for byte against the reference.

mod faults;
#[path = "../common/host.rs"]
mod host;
#[path = "../common/mutants.rs"]
mod mutants;
mod mutations;
mod random;
#[path = "../common/run.rs"]
mod run;
mod scenario;
mod spread;
mod trials;
mod world;

use moe_contract::{Drop, Exchange, Format, Padding, RowLayout, Scales};
use scenario::{Numbers, Picks, Scenario, Tokens, USUAL, request, run, run_in};
use world::{Loaded, Schedule};

/// Runs a scenario in turn, at random and adversarially.
fn agrees(request: &Exchange, scenario: Scenario) {
    let loaded = Loaded::new(&request.checked().expect("it keeps its limits"));
    let schedules = [Schedule::IN_TURN, Schedule::adversarial(1).judged()]
        .into_iter()
        .chain((1..3).map(Schedule::random))
        .chain((2..4).map(Schedule::adversarial));
    for schedule in schedules {
        if let Err(problem) = run(&loaded, scenario, schedule) {
            panic!("{request:?}, {scenario:?}, {schedule:?}: {problem}");
        }
    }
}

/// Every row layout, weighted where that can be.
fn layouts() -> [(RowLayout, bool); 8] {
    [
        (RowLayout::RankMajor, false),
        (RowLayout::expert_major(1), true),
        (RowLayout::expert_major(5), false),
        (RowLayout::expert_major(8), true),
        (RowLayout::expert_major(5).padded(Padding::Any), true),
        (RowLayout::expert_major(8).padded(Padding::Any), false),
        (RowLayout::Batched, false),
        (RowLayout::Batched, true),
    ]
}

#[test]
fn every_layout_and_payload() {
    for (layout, weighted) in layouts() {
        for payload in [Format::BF16, Format::F16, Format::F32] {
            // 280 elements are 35, 35 and 70 chunks: more than one round of a warp, and an incomplete one.
            let shape = Exchange { layout, weighted, dispatch: payload, combine: payload, hidden: 280, ..request() };
            agrees(&shape, Scenario { rounds: 2, ..USUAL });
        }
    }
}

/// Every format with scales.
fn scaled() -> impl Iterator<Item = (Format, Scales)> {
    Format::KNOWN.iter().filter_map(|known| Some((known.format, known.format.scales?)))
}

#[test]
fn scales_of_one_block_several_and_an_incomplete_round() {
    for (dispatch, Scales { block, .. }) in scaled() {
        // 2304 elements are 144 chunks: more than one round of a warp, and an incomplete one. 1, 2 and 5 scales of a byte are no words.
        let rows = [block, 2 * block, 5 * block, 2304];
        for (hidden, (layout, weighted)) in rows.into_iter().cycle().zip(layouts()) {
            agrees(&Exchange { hidden, layout, weighted, dispatch, ..request() }, Scenario { rounds: 2, ..USUAL });
        }
    }
}

/// Fewer tokens and copies than warps, so that several warps take the parts of a row; and as many, in the same exchange.
#[test]
fn rows_that_several_warps_share() {
    // 325 chunks: two batches of four rounds, and an incomplete one. 144, 288 and 576 chunks of bytes.
    let rows =
        [(Format::BF16, 2600), (Format::FP8_F32_128, 4608), (Format::FP8_UE8M0_128, 2304), (Format::MXFP8, 9216)];
    for ((dispatch, hidden), (layout, weighted)) in rows.into_iter().cycle().zip(layouts()) {
        for max_tokens in [1, 5] {
            let shape = Exchange { dispatch, hidden, layout, weighted, max_tokens, ..request() };
            agrees(&Exchange { ctas_link: 4, ctas_local: 5, ..shape }, Scenario { rounds: 2, ..USUAL });
        }
    }
}

#[test]
fn rows_of_a_single_chunk() {
    for (payload, hidden) in [(Format::BF16, 8), (Format::F16, 8), (Format::F32, 4)] {
        agrees(&Exchange { dispatch: payload, combine: payload, hidden, ..request() }, USUAL);
    }
}

#[test]
fn formats_that_differ_on_the_two_ways() {
    let shape = Exchange { dispatch: Format::F32, combine: Format::F16, hidden: 16, ..request() };
    agrees(&shape, Scenario { rounds: 2, ..USUAL });
}

/// Whatever memory may do that PTX allows, nothing that a kernel reads is older than what it means.
#[test]
fn memory_as_weak_as_it_may_be() {
    for (layout, weighted) in layouts() {
        let shape = Exchange { ranks: 3, layout, weighted, hidden: 40, ..request() };
        let loaded = Loaded::new(&shape.checked().expect("it keeps its limits"));
        for schedule in (0..4).map(Schedule::weak) {
            run(&loaded, Scenario { rounds: 3, ..USUAL }, schedule)
                .unwrap_or_else(|problem| panic!("{shape:?}, {schedule:?}: {problem}"));
        }
    }
}

#[test]
fn any_number_of_ranks() {
    for (ranks, experts) in [(1, 5), (2, 7), (5, 5), (8, 20)] {
        agrees(&Exchange { ranks, experts, max_tokens: 9, ..request() }, Scenario { rounds: 2, ..USUAL });
    }
}

#[test]
fn seventy_two_ranks() {
    // Three groups of lanes; the last ranks have one expert less than the first.
    let shape = Exchange {
        ranks: 72,
        experts: 100,
        top_k: 8,
        max_tokens: 3,
        hidden: 8,
        ctas_link: 1,
        ctas_local: 1,
        ..request()
    };
    let loaded = Loaded::new(&shape.checked().expect("it keeps its limits"));
    for schedule in [Schedule::IN_TURN, Schedule::adversarial(1).judged()] {
        run(&loaded, Scenario { rounds: 1, ..USUAL }, schedule).unwrap_or_else(|problem| panic!("{problem}"));
    }
    // Fewer experts than ranks: some ranks have none.
    let shape = Exchange {
        ranks: 40,
        experts: 33,
        top_k: 4,
        max_tokens: 3,
        hidden: 8,
        ctas_link: 1,
        ctas_local: 1,
        ..request()
    };
    let loaded = Loaded::new(&shape.checked().expect("it keeps its limits"));
    run(&loaded, Scenario { rounds: 2, ..USUAL }, Schedule::IN_TURN.judged())
        .unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn thirty_two_picks() {
    let shape = Exchange { experts: 50, zero_experts: 3, top_k: 32, max_tokens: 6, ..request() };
    agrees(&shape, Scenario { rounds: 2, ..USUAL });
    agrees(&Exchange { layout: RowLayout::RankMajor, weighted: false, ..shape }, Scenario { rounds: 1, ..USUAL });
    agrees(&Exchange { layout: RowLayout::Batched, ..shape }, Scenario { rounds: 1, ..USUAL });
}

#[test]
fn a_single_pick() {
    agrees(&Exchange { top_k: 1, ..request() }, USUAL);
}

#[test]
fn a_thousand_experts() {
    let shape = Exchange { experts: 1000, zero_experts: 24, top_k: 4, ranks: 2, max_tokens: 5, hidden: 8, ..request() };
    let loaded = Loaded::new(&shape.checked().expect("it keeps its limits"));
    run(&loaded, Scenario { rounds: 1, ..USUAL }, Schedule::IN_TURN.judged())
        .unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn all_tokens_to_the_first_experts_and_none_to_the_others() {
    agrees(&request(), Scenario { picks: Picks::First, tokens: Tokens::All, ..USUAL });
    let shape = Exchange { top_k: 1, experts: 3, ..request() };
    agrees(&shape, Scenario { picks: Picks::First, tokens: Tokens::All, rounds: 2, ..USUAL });
    // Every row of the first experts counts, and none of the others.
    let shape = Exchange { layout: RowLayout::Batched, ..shape };
    agrees(&shape, Scenario { picks: Picks::First, tokens: Tokens::All, rounds: 2, ..USUAL });
}

#[test]
fn picks_that_are_missing_anywhere_in_a_row() {
    for (layout, weighted) in layouts() {
        let shape = Exchange { layout, weighted, ..request() };
        agrees(&shape, Scenario { picks: Picks::Some, rounds: 2, ..USUAL });
    }
}

#[test]
fn capacity_drops_the_latest_or_the_lowest() {
    for drop in [Drop::Position, Drop::Lowest] {
        let shape = Exchange { drop: Some(drop), max_tokens: 100, experts: 5, ..request() };
        agrees(&shape, Scenario { tokens: Tokens::All, rounds: 2, ..USUAL });
        agrees(&shape, Scenario { picks: Picks::Some, rounds: 2, seed: 2, ..USUAL });
    }
}

#[test]
fn many_epochs_one_after_the_other() {
    let shape = Exchange { max_tokens: 4, hidden: 8, ..request() };
    agrees(&shape, Scenario { rounds: 9, ..USUAL });
}

#[test]
fn ctas_of_one_warp_and_of_many() {
    for (ctas_link, ctas_local, threads) in [(1, 2, 32), (5, 3, 32), (3, 1, 256), (2, 5, 1024)] {
        let shape = Exchange { ctas_link, ctas_local, threads, max_tokens: 40, ..request() };
        agrees(&shape, Scenario { rounds: 2, ..USUAL });
    }
}

/// What places and reduces does with fewer CTAs, where ranks share a GPU.
#[test]
fn fewer_ctas_than_there_could_be() {
    let shape = Exchange { ctas_local: 5, max_tokens: 40, ..request() };
    for (layout, weighted) in layouts() {
        let loaded = Loaded::new(&Exchange { layout, weighted, ..shape }.checked().expect("it keeps its limits"));
        for room in [1, 2] {
            for schedule in [Schedule::IN_TURN, Schedule::adversarial(1).judged()] {
                run_in(&loaded, Scenario { rounds: 2, ..USUAL }, schedule, room)
                    .unwrap_or_else(|problem| panic!("{layout:?}, {room} CTAs, {schedule:?}: {problem}"));
            }
        }
    }
}

#[test]
fn many_tokens_for_few_threads() {
    for threads in [32, 64] {
        let shape = Exchange {
            ranks: 2,
            experts: 6,
            max_tokens: 700,
            hidden: 8,
            threads,
            ctas_link: 1,
            ctas_local: 1,
            ..request()
        };
        let loaded = Loaded::new(&shape.checked().expect("it keeps its limits"));
        let scenario = Scenario { tokens: Tokens::All, rounds: 1, ..USUAL };
        run(&loaded, scenario, Schedule::IN_TURN.judged()).unwrap_or_else(|problem| panic!("{problem}"));
    }
}

#[test]
fn numbers_that_are_none_and_numbers_at_the_ends() {
    let scenario = Scenario { numbers: Numbers::Hostile, rounds: 2, tokens: Tokens::All, ..USUAL };
    for (layout, weighted) in layouts() {
        for payload in [Format::BF16, Format::F16, Format::F32] {
            agrees(&Exchange { layout, weighted, dispatch: payload, combine: payload, ..request() }, scenario);
        }
        for (dispatch, _) in scaled() {
            agrees(&Exchange { hidden: 384, layout, weighted, dispatch, ..request() }, scenario);
        }
    }
}
