//! Every format in every layout with every way of weighing, in exchanges of drawn sizes: one to four ranks, uneven tokens or none, picks
//! that are missing or dropped.

use moe_contract::{Drop, Exchange, Format, RowLayout};
use moe_random::Random;

use crate::scenario::{Numbers, Picks, Scenario, Tokens, run};
use crate::world::{Loaded, Schedule};

/// Exchanges for each combination.
const EACH: usize = 2;

fn draw<T: Copy, const N: usize>(random: &mut Random, choices: [T; N]) -> T {
    choices[random.index(N)]
}

/// One that keeps its limits.
fn exchange(random: &mut Random, dispatch: Format, layout: RowLayout, weighted: bool) -> Exchange {
    let without_scales = [Format::BF16, Format::F16, Format::F32];
    let step = dispatch.scales.map_or(8, |scales| scales.block);
    let (experts, zero_experts) = (1 + random.below(12) as u32, random.below(3) as u32);
    let exchange = Exchange {
        ranks: 1 + random.below(4) as u32,
        experts,
        zero_experts,
        top_k: 1 + random.below(u64::from((experts + zero_experts).min(5))) as u32,
        hidden: step * (1 + random.below(9) as u32),
        max_tokens: 1 + random.below(20) as u32,
        dispatch,
        layout: layout.aligned(1 + random.below(9) as u32),
        combine: draw(random, without_scales),
        weighted,
        drop: draw(random, [None, Some(Drop::Lowest), Some(Drop::Position)]),
        ctas_link: 1 + random.below(4) as u32,
        ctas_local: 1 + random.below(4) as u32,
        threads: draw(random, [32, 64, 256]),
    };
    exchange.checked().unwrap_or_else(|error| panic!("{exchange:?}: {error}"))
}

fn scenario(random: &mut Random) -> Scenario {
    Scenario {
        picks: draw(random, [Picks::Even, Picks::First, Picks::Some]),
        tokens: draw(random, [Tokens::Uneven, Tokens::Uneven, Tokens::All]),
        numbers: draw(random, [Numbers::Usual, Numbers::Hostile]),
        rounds: 2,
        seed: random.bits(),
    }
}

#[test]
fn every_format_layout_and_weighting_in_exchanges_of_any_size() {
    let mut random = Random::new(7);
    let weightings = [true, false];
    for known in Format::KNOWN {
        for &layout in RowLayout::KNOWN {
            for weighted in weightings.into_iter().filter(|weighted| layout.by_expert() || !weighted) {
                for _ in 0..EACH {
                    let exchange = exchange(&mut random, known.format, layout, weighted);
                    let scenario = scenario(&mut random);
                    let loaded = Loaded::new(&exchange);
                    let [first, second] = [random.bits(), random.bits()];
                    for schedule in [Schedule::IN_TURN, Schedule::random(first), Schedule::adversarial(second).judged()]
                    {
                        if let Err(problem) = run(&loaded, scenario, schedule) {
                            panic!("{exchange:?}, {scenario:?}, {schedule:?}: {problem}");
                        }
                    }
                }
            }
        }
    }
}
