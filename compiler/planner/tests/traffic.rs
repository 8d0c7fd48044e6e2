//! Traffic against arithmetic done elsewhere: the plan of one node, a small cluster counted by hand, published Monte-Carlo means.

use moe_contract::placement::Placement;
use moe_contract::topology::Link;
use moe_contract::{Call, Exchange, ExpertId, Flow, Format, Homes, Launch, LinkBytes, RankId, RowLayout};
use moe_front::spec::{Model, Spec};
use moe_planner::sample::Source;
use moe_planner::traffic::{self, Expected, expected_distinct};
use moe_planner::{Logits, Sample};

const TOKENS: usize = 40_000;

fn spec(source: &str) -> Spec {
    let checked = moe_front::check_source(source.as_bytes());
    checked.spec.unwrap_or_else(|| panic!("{:?}", checked.diagnostics))
}

fn example(name: &str) -> Model {
    let path = format!("{}/../../dsl-examples/{name}.moe", env!("CARGO_MANIFEST_DIR"));
    let spec = spec(&std::fs::read_to_string(path).expect("an example"));
    spec.models.iter().next().expect("a model").1.clone()
}

fn homes(model: &Model, ranks: u32) -> Homes {
    traffic::contiguous(model, ranks, 8).expect("ranks that fit")
}

/// Within 1 % of a published mean.
#[track_caller]
fn close(mean: f64, published: f64) {
    assert!((mean / published - 1.0).abs() < 0.01, "{mean} is not {published}");
}

#[test]
fn deepseek_v3_reaches_as_many_nodes_as_published() {
    let model = example("deepseek_v3");
    let sample = Sample::of(&model.gate, &Logits::Independent, TOKENS, 1).unwrap();
    let ep64 = Expected::of(&sample, &homes(&model, 64));
    let ep128 = Expected::of(&sample, &homes(&model, 128));
    close(ep64.distinct_nodes.mean, 3.97);
    close(ep64.remote_nodes.mean, 3.47);
    close(ep128.distinct_nodes.mean, 5.71);
    close(ep128.remote_nodes.mean, 5.36);
    close(ep128.remote_nodes.mean / ep64.remote_nodes.mean, 1.54);
    assert_eq!(ep64.distinct_nodes.largest, 4.0);
    assert_eq!(ep128.distinct_nodes.largest, 8.0);
    assert!(ep64.remote_nodes.half_width.unwrap() < 0.01 * ep64.remote_nodes.mean);
}

#[test]
fn three_groups_reach_as_many_nodes_as_published() {
    let model = example("deepseek_v3_3_groups");
    let sample = Sample::of(&model.gate, &Logits::Independent, TOKENS, 2).unwrap();
    let ep64 = Expected::of(&sample, &homes(&model, 64));
    close(ep64.distinct_nodes.mean, 3.00);
    close(ep64.remote_nodes.mean, 2.62);
}

#[test]
fn without_groups_sampling_closed_form_and_publication_agree() {
    let limited = std::fs::read_to_string(format!("{}/../../dsl-examples/deepseek_v3.moe", env!("CARGO_MANIFEST_DIR")));
    let free = limited
        .unwrap()
        .replace("experts in best", "experts")
        .replace("let best   = top(4, groups, by: sum(top(2, choice)))", "");
    let free: String = free.split("cluster").next().unwrap().replace("256 in 8 groups", "256");
    let spec = spec(&free);
    let model = spec.models.iter().next().unwrap().1;
    let sample = Sample::of(&model.gate, &Logits::Independent, TOKENS, 3).unwrap();
    for (ranks, distinct, remote) in [(64, 5.29, 4.63), (128, 6.53, 6.12)] {
        let homes = homes(model, ranks);
        let expected = Expected::of(&sample, &homes);
        close(expected.distinct_nodes.mean, distinct);
        close(expected.remote_nodes.mean, remote);
        let nodes = expected_distinct(256, 8, homes.topology().domains());
        let of_ranks = expected_distinct(256, 8, ranks);
        assert!((expected.distinct_nodes.mean - nodes).abs() < 2.0 * expected.distinct_nodes.half_width.unwrap());
        assert!((expected.distinct_ranks.mean - of_ranks).abs() < 2.0 * expected.distinct_ranks.half_width.unwrap());
    }
}

#[test]
fn every_example_can_be_sampled() {
    let folder = format!("{}/../../dsl-examples", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "moe") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let model = example(&name);
        let sample = Sample::of(&model.gate, &Logits::Skewed(0.5), 64, 4).unwrap();
        let expected = Expected::of(&sample, &homes(&model, 8));
        assert_eq!(sample.tokens(), 64, "{name}");
        assert!(expected.picks.mean <= f64::from(model.top_k()), "{name}");
        let all: f64 = expected.experts.iter().sum();
        assert!((all - f64::from(model.top_k())).abs() < 1e-9, "{name}: {all}");
        seen += 1;
    }
    assert!(seen >= 15, "{seen} examples");
}

#[test]
fn a_skew_loads_some_ranks_more_and_the_seed_repeats_it() {
    let model = example("qwen3_moe");
    let sample = |logits| Sample::of(&model.gate, &logits, 20_000, 5).unwrap();
    let (even, skewed) = (sample(Logits::Independent), sample(Logits::Skewed(1.0)));
    assert_eq!(skewed, sample(Logits::Skewed(1.0)));
    let load = |sample: &Sample| Expected::of(sample, &homes(&model, 8)).rank_picks;
    let call = 8.0 * 4096.0;
    assert!(load(&even).of_call(call) < 1.05, "{:?}", load(&even));
    assert!(load(&skewed).of_call(call) > 1.15, "{:?}", load(&skewed));
}

/// On one node: the plan's own traffic, for a routing with drops and one rank without tokens.
#[test]
fn one_node_is_the_plan_byte_for_byte() {
    let model = example("deepseek_v3");
    let sample = Sample::of(&model.gate, &Logits::Skewed(1.0), 8 * 100, 6).unwrap();
    let mut picks: Vec<Vec<i32>> = sample.indices().chunks(800).map(<[i32]>::to_vec).collect();
    picks[3].clear();
    picks[5].iter_mut().step_by(3).for_each(|pick| *pick = -1);
    let picks: Vec<&[i32]> = picks.iter().map(Vec::as_slice).collect();

    let request = Exchange {
        ranks: 8,
        experts: 256,
        zero_experts: 0,
        top_k: 8,
        hidden: 7168,
        max_tokens: 100,
        dispatch: Format::FP8_F32_128,
        layout: RowLayout::expert_major(128),
        combine: Format::BF16,
        weighted: true,
        drop: None,
        ctas_link: 20,
        ctas_local: 21,
        threads: 256,
    };
    let exchange = request.checked().unwrap();
    // The model's homes and its exchange, against an exchange that is written out.
    let (built, planned) = (Flow::of(&exchange, &picks), Flow::to(&homes(&model, 8), 8, &picks));
    assert_eq!(built, planned);
    let of_model = model.exchange(8, 100, Launch { ctas_link: 20, ctas_local: 112, threads: 256 });
    for call in Call::ALL {
        assert_eq!(LinkBytes::of(call, &of_model, &planned), LinkBytes::of(call, &exchange, &built), "{call:?}");
    }
}

const SMALL: &str = "
model small {
    hidden 64   experts 8   moe_layers 1
    gate(logits: f32[experts]) {
        let chosen = top(3, experts, by: logits)
        weights softmax(logits)[chosen]
    }
    dispatch { payload bf16   layout rank_major }
    combine  { payload bf16   reduce f32 unweighted }
}";

/// Two nodes of two ranks, two experts each; 128 bytes a row, 8 + 8 × 3 = 32 a record, one CTA.
/// Token of rank 0 with experts 1, 4, 5 (ranks 0, 2): one copy to itself, one over rail 0 to node 1, whose rank 2 is the destination.
/// Token of rank 1 with experts 4, 6, 7 (ranks 2, 3): one copy over rail 1 to rank 3, which keeps one and sends one to rank 2.
#[test]
fn two_nodes_counted_by_hand() {
    let spec = spec(SMALL);
    let model = spec.models.iter().next().unwrap().1;
    let homes = traffic::contiguous(model, 4, 2).unwrap();
    let picks: [&[i32]; 4] = [&[1, 4, 5], &[4, 6, 7], &[], &[]];
    let flow = Flow::to(&homes, 3, &picks);
    let exchange = model.exchange(4, 2, Launch::LEAST);
    let [r0, r1, r2, r3] = [0, 1, 2, 3].map(RankId);

    let dispatch = LinkBytes::of(Call::Dispatch, &exchange, &flow);
    // On the network once per pair: a count (4) and a flag (8). Inside: two counts and a flag.
    let (copy, between, inside) = (128 + 32, 4 + 8, 2 * 4 + 8);
    assert_eq!(dispatch.bytes(r0, r2), copy + between);
    assert_eq!(dispatch.bytes(r1, r3), copy + between);
    assert_eq!(dispatch.bytes(r2, r0), between);
    assert_eq!(dispatch.bytes(r0, r3), 0, "no link joins them");
    assert_eq!(dispatch.bytes(r0, r0), copy + inside);
    assert_eq!(dispatch.bytes(r0, r1), inside);
    assert_eq!(dispatch.bytes(r2, r2), copy + inside);
    assert_eq!(dispatch.bytes(r2, r3), inside);
    assert_eq!(dispatch.bytes(r3, r2), copy + inside);
    assert_eq!(dispatch.bytes(r3, r3), copy + inside);
    let topology = homes.topology();
    assert_eq!(dispatch.leaving(r3, topology, Link::Domain), copy + inside);
    assert_eq!(dispatch.leaving(r1, topology, Link::Rail), copy + between);

    let combine = LinkBytes::of(Call::Combine, &exchange, &flow);
    // Rank 2 gives its partial sum of rank 1's token to rank 3, which adds its own and sends one row home.
    assert_eq!(combine.bytes(r2, r3), 128 + 8);
    assert_eq!(combine.bytes(r3, r2), 8);
    assert_eq!(combine.bytes(r3, r1), 128 + 8);
    assert_eq!(combine.bytes(r2, r0), 128 + 8);
    assert_eq!(combine.bytes(r0, r2), 8);
    // Unweighted: gradients of weights are a call of their own, one for each pick: 4 bytes for rank 0's two on rail 0.
    let backward = LinkBytes::of(Call::CombineBackward, &exchange, &flow);
    assert_eq!(backward.bytes(r0, r2), 128 + 8);
    let weights = LinkBytes::of(Call::WeightsBackward, &exchange, &flow);
    assert_eq!(weights.bytes(r2, r0), 2 * 4 + 8);
    assert_eq!(weights.bytes(r2, r3), 4 + 8);
}

/// The same cluster with three slots a rank: ranks 0 to 3 hold experts 0 1 4, 2 3 4, 4 5 0 and 6 7 0. Three tokens of rank 0 pick
/// experts 0, 1 and 4. The first takes the first copies, all on rank 0. The second takes expert 0 on rank 2 and 4 on rank 1. The third
/// takes 0 on rank 3 and 4 on rank 2: one copy over the rail to rank 2, which sends one on.
#[test]
fn further_copies_of_experts_counted_by_hand() {
    let spec = spec(SMALL);
    let model = spec.models.iter().next().unwrap().1;
    let slots = [0, 1, 4, 2, 3, 4, 4, 5, 0, 6, 7, 0].map(ExpertId).to_vec();
    let placement = Placement::new(2, 2, 3, Some(8), [(0, slots)]).unwrap();
    let homes = traffic::placed(model, 4, 2, &placement, &placement.layers()[0]).unwrap();
    assert_eq!(homes.most_of_a_rank(), 3);
    let picks: [&[i32]; 4] = [&[0, 1, 4, 0, 1, 4, 0, 1, 4], &[], &[], &[]];
    let flow = Flow::to(&homes, 3, &picks);
    let [r0, r1, r2, r3] = [0, 1, 2, 3].map(RankId);
    assert_eq!(flow.copies(r0, r2), 2);
    assert_eq!([flow.copies(r0, r0), flow.copies(r0, r1)], [3, 1]);
    assert_eq!([flow.copies(r2, r2), flow.copies(r2, r3)], [2, 1]);
    let other = traffic::placed(model, 8, 2, &placement, &placement.layers()[0]).unwrap_err().to_string();
    assert!(
        other.starts_with("the placement is of 2 nodes × 2 GPUs, and the plan has 8 ranks on nodes of 2"),
        "{other}"
    );
}

/// Picks follow counts as far as the sample can tell: the part elsewhere is no more than what 8192 tokens scatter by chance.
#[test]
fn the_gate_picks_what_was_counted() {
    let gate = &example("deepseek_v3").gate;
    let counts: Vec<f64> = (0..256).map(|expert| 1.0 + f64::from(expert * 37 % 256) / 64.0).collect();
    let sample = Sample::of(gate, &Logits::Counted(counts.clone()), 1 << 16, 3).unwrap();
    let mut found = vec![0.0; 256];
    sample.indices().iter().for_each(|&expert| found[expert as usize] += 1.0);
    let scale = f64::from(8 * (1 << 16)) / counts.iter().sum::<f64>();
    // Tokens that were not fitted to: 2048 picks of the mean expert and 820 of the rarest, so 3.5 % noise, and what the fit's 32 × 8192 tokens have.
    for (expert, (found, count)) in found.iter().zip(&counts).enumerate() {
        assert!((found / (count * scale) - 1.0).abs() < 0.15, "expert {expert}: {found} and {}", count * scale);
    }
    // The part that is elsewhere is that of these picks.
    let off = found.iter().zip(&counts).map(|(found, count)| (found / scale - count).abs()).sum::<f64>();
    let expected = off / 2.0 / counts.iter().sum::<f64>();
    let Source::Counted { off } = *sample.source() else { panic!("{:?}", sample.source()) };
    assert!((off / expected - 1.0).abs() < 1e-9 && off < 0.03, "{off} {expected}");
    let wrong = Sample::of(gate, &Logits::Counted(vec![0.0; 256]), 64, 3).unwrap_err().to_string();
    assert!(wrong.contains("not all of them 0"), "{wrong}");
}
