//! The file of a placement, and what a runtime does with it.

use moe_contract::placement::{LayerSlots, Placement, SlotId};
use moe_contract::{ExpertId, RankId};
use proptest::prelude::*;

/// Two nodes of two GPUs with two slots each: expert 0 has three copies, expert 1 two.
const FILE: &str = r#"{
    "format": "moe-placement", "version": 1, "policy": "global",
    "nodes": 2, "gpus_per_node": 2, "slots_per_gpu": 2, "experts": 5,
    "layers": [{ "layer": 7, "experts_by_slot": [0, 1, 0, 2, 0, 3, 1, 4], "bound": 1.5 }]
}"#;

fn read(text: &str) -> Placement {
    Placement::from_json(text.as_bytes()).expect("it is one")
}

#[test]
fn slots_are_on_ranks_and_copies_take_turns() {
    let placement = read(FILE);
    assert_eq!((placement.nodes(), placement.gpus_per_node(), placement.slots(), placement.experts()), (2, 2, 8, 5));
    let layer = placement.layer(7).expect("it is there");
    assert_eq!(layer.copies(ExpertId(0)), [SlotId(0), SlotId(2), SlotId(4)]);
    assert_eq!(layer.copies(ExpertId(9)), []);
    assert_eq!(layer.rank(SlotId(5)).0, 2);
    let mut indices = [0; 4];
    layer.choose_slots(RankId(0), 1, &mut indices, &mut [1.0; 4]);
    assert_eq!(indices, [0, 2, 4, 0]);
    // The rank behind one with four picks of the expert.
    let mut indices = [0; 4];
    layer.choose_slots(RankId(1), 1, &mut indices, &mut [1.0; 4]);
    assert_eq!(indices, [2, 4, 0, 2]);
}

/// Tokens 0 and 1 of a rank pick experts 0, 1, 4 and 0, 3 and nothing.
#[test]
fn a_choice_of_experts_becomes_one_of_slots_with_the_weights_beside() {
    let placement = read(FILE);
    let mut indices = [0, 1, 4, 0, 3, -1];
    let mut weights = [0.5, 0.25, 0.125, 0.75, 0.25, 0.0];
    placement.layers()[0].choose_slots(RankId(0), 3, &mut indices, &mut weights);
    assert_eq!(indices, [0, 1, 7, 2, 5, -1]);
    assert_eq!(weights, [0.5, 0.25, 0.125, 0.75, 0.25, 0.0]);
    // The third pick of expert 0 takes its third copy, which stands behind the first one of expert 1. Padding is no turn.
    let mut indices = [0, -1, -1, -1, 0, -1, 0, 1];
    let mut weights = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.75, 0.25];
    placement.layers()[0].choose_slots(RankId(0), 2, &mut indices, &mut weights);
    assert_eq!(
        (&indices[..6], &indices[6..], &weights[6..]),
        (&[0, -1, -1, -1, 2, -1][..], &[1, 4][..], &[0.25, 0.75][..])
    );
}

#[test]
fn a_file_that_is_none_says_what_is_wrong_and_where() {
    for (changed, by, expected) in [
        (
            "moe-placement",
            "bundle",
            "its format is `bundle`, not `moe-placement`; give a file that `moec place -o` wrote",
        ),
        (
            "\"version\": 1",
            "\"version\": 2",
            "its version is 2, and this program reads up to 1: place anew with `moec place`",
        ),
        (
            "\"slots_per_gpu\": 2,",
            "",
            "missing field `slots_per_gpu` at line 5 column 1; give a file that `moec place -o` wrote",
        ),
        ("3, 1, 4]", "3, 1]", "layer 7 has 7 slots, and 2 nodes × 2 GPUs × 2 slots are 8"),
        ("3, 1, 4]", "3, 1, 5]", "layer 7, slot 7: expert 5 does not exist; there are experts 0 to 4"),
        ("3, 1, 4]", "3, 1, 4294967295]", "layer 7, slot 7: expert 4294967295 does not exist"),
        ("2, 0, 3", "2, 0, 1", "layer 7 has no slot of expert 3; every expert needs one"),
        ("\"experts\": 5", "\"experts\": 4000000000", "layer 7 has no slot of expert 5"),
        ("\"experts\": 5", "\"experts\": 0", "it has no layer"),
        (
            "\"nodes\": 2",
            "\"nodes\": 4294967295",
            "layer 7 has 8 slots, and 4294967295 nodes × 2 GPUs × 2 slots are 17179869180",
        ),
        (
            "\"layers\": [",
            "\"layers\": [{ \"layer\": 7, \"experts_by_slot\": [0, 1, 0, 2, 0, 3, 1, 4] }, ",
            "layer 7 stands there twice",
        ),
    ] {
        assert!(FILE.contains(changed), "{changed}");
        let error = Placement::from_json(FILE.replacen(changed, by, 1).as_bytes()).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let nothing = r#"{ "nodes": 1, "gpus_per_node": 1, "slots_per_gpu": 1, "layers": [] }"#;
    assert_eq!(Placement::from_json(nothing.as_bytes()).expect_err("no layer").to_string(), "it has no layer");
}

/// The experts of a layer with further copies, in some order, on four ranks.
fn layers() -> impl Strategy<Value = (Placement, u32)> {
    (1_u32..12, 1_u32..5).prop_flat_map(|(experts, per_gpu)| {
        let per_gpu = per_gpu.max(experts.div_ceil(4));
        let slots: Vec<ExpertId> = (0..4 * per_gpu).map(|slot| ExpertId(slot % experts)).collect();
        Just(slots).prop_shuffle().prop_map(move |slots| {
            (Placement::new(2, 2, per_gpu, Some(experts), [(0, slots)]).expect("every expert has a slot"), experts)
        })
    })
}

/// Picks of a token: different experts, and what it picks besides.
fn holds(layer: &LayerSlots, slot: i32) -> i32 {
    usize::try_from(slot).map_or(-1, |slot| layer.experts_by_slot()[slot].0 as i32)
}

proptest! {
    #[test]
    fn every_pick_keeps_its_expert_and_its_weight((placement, experts) in layers(), seed in 0_u32..1000) {
        let (layer, top_k) = (&placement.layers()[0], experts.min(3) as usize);
        // Experts seed, seed + 1, …, ascending, and the last pick of every third token missing.
        let mut picks: Vec<(i32, f32)> = Vec::new();
        for token in 0..20 {
            let mut chosen: Vec<i32> = (0..top_k as u32).map(|pick| ((seed + token + pick) % experts) as i32).collect();
            chosen.sort_unstable();
            if token % 3 == 0 {
                chosen[top_k - 1] = -1;
            }
            picks.extend(chosen.into_iter().map(|expert| (expert, expert as f32 + 0.5)));
        }
        let (mut indices, mut weights): (Vec<i32>, Vec<f32>) = picks.iter().copied().unzip();
        layer.choose_slots(RankId(seed), top_k, &mut indices, &mut weights);
        for (token, row) in picks.chunks(top_k).enumerate() {
            let here = token * top_k..(token + 1) * top_k;
            let mut found: Vec<(i32, f32)> =
                here.clone().map(|place| (holds(layer, indices[place]), weights[place])).collect();
            let chosen: Vec<i32> = indices[here].iter().copied().filter(|&slot| slot >= 0).collect();
            prop_assert!(chosen.is_sorted(), "{chosen:?}");
            let mut expected = row.to_vec();
            found.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
            expected.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
            prop_assert_eq!(found, expected);
        }
    }
}

/// How often each copy of an expert stands in some choices, counted one by one.
fn served(layer: &LayerSlots, expert: u32, choices: &[Vec<i32>]) -> Vec<usize> {
    let count = |slot: &SlotId| choices.iter().flatten().filter(|&&pick| pick == slot.0 as i32).count();
    layer.copies(ExpertId(expert)).iter().map(count).collect()
}

fn apart(served: &[usize]) -> usize {
    served.iter().max().unwrap_or(&0) - served.iter().min().unwrap_or(&0)
}

proptest! {
    /// Any tokens, any of their picks missing, also all: on every rank the copies of every expert serve equally many, or one apart.
    #[test]
    fn the_copies_of_an_expert_serve_evenly_on_a_rank(
        (placement, experts) in layers(),
        rank in 0_u32..100,
        tokens in prop::collection::vec(prop::collection::vec(prop::option::of(0_u32..12), 3), 0..60),
    ) {
        let layer = &placement.layers()[0];
        let picks = tokens.iter().flatten().map(|pick| pick.map_or(-1, |pick| (pick % experts) as i32));
        let mut indices: Vec<i32> = picks.collect();
        let again = indices.clone();
        let mut weights = vec![1.0; indices.len()];
        layer.choose_slots(RankId(rank), 3, &mut indices, &mut weights);
        let choices = [indices];
        for expert in 0..experts {
            let served = served(layer, expert, &choices);
            prop_assert!(apart(&served) <= 1, "expert {expert} on rank {rank}: {served:?}");
        }
        let mut second = again;
        layer.choose_slots(RankId(rank), 3, &mut second, &mut weights);
        prop_assert_eq!(&choices[0], &second);
    }

    /// Ranks with equally many picks of an expert, one each for a start, in whatever tokens: over all of them too.
    #[test]
    fn the_copies_of_an_expert_serve_evenly_over_all_ranks(
        (placement, experts) in layers(),
        ranks in 1_u32..70,
        picks in 1_usize..10,
        expert in 0_u32..12,
        padding in 0_usize..4,
    ) {
        let (layer, expert) = (&placement.layers()[0], expert % experts);
        let choices: Vec<Vec<i32>> = (0..ranks).map(|rank| {
            let mut indices = Vec::new();
            for pick in 0..picks {
                indices.resize(indices.len() + (padding * (pick + rank as usize)) % 4, -1);
                indices.push(expert as i32);
            }
            let mut weights = vec![1.0; indices.len()];
            layer.choose_slots(RankId(rank), 1, &mut indices, &mut weights);
            indices
        }).collect();
        let served = served(layer, expert, &choices);
        prop_assert_eq!(served.iter().sum::<usize>(), picks * ranks as usize);
        prop_assert!(apart(&served) <= 1, "{served:?}");
    }
}

/// Where ranks differ in how often they pick an expert, no copy is preferred: over as many ranks as copies, each with each count, every copy
/// serves as many.
#[test]
fn no_copy_is_preferred() {
    for copies in 1..9_u32 {
        let slots = vec![ExpertId(0); copies as usize];
        let placement = Placement::new(1, copies, 1, None, [(0, slots)]).expect("one expert");
        let layer = &placement.layers()[0];
        for picks in 1..20 {
            let choices: Vec<Vec<i32>> = (0..copies)
                .map(|rank| {
                    let mut indices = vec![0; picks];
                    layer.choose_slots(RankId(rank), 1, &mut indices, &mut vec![1.0; picks]);
                    indices
                })
                .collect();
            assert_eq!(served(layer, 0, &choices), vec![picks; copies as usize]);
        }
    }
}
