//! Published arithmetic of DeepSeek-V3, to the last published digit.

use moe_contract::Topology;
use moe_front::spec::Model;
use moe_planner::cost::memory::{OfGpu, Parameters, Share, communication};
use moe_planner::cost::parallel::{Parallel, Schedule};
use moe_planner::cost::step::{decode_bound, gpu_hours_per_trillion, tokens_per_day};

fn deepseek_v3() -> Model {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples/deepseek_v3.moe");
    let spec = moe_front::check_source(&std::fs::read(path).unwrap()).spec.unwrap();
    spec.models.iter().next().unwrap().1.clone()
}

#[track_caller]
fn prints(value: f64, decimals: usize, published: &str) {
    assert_eq!(format!("{value:.decimals$}"), published);
}

#[test]
fn parameter_counts() {
    let model = deepseek_v3();
    let parameters = Parameters::of(&model);
    prints((parameters.attention / 61 - 2 * 7168) as f64 / 1e6, 3, "187.107");
    prints(parameters.expert as f64 / 1e6, 3, "44.040");
    prints(parameters.dense_layer as f64 / 1e6, 3, "396.362");
    prints(parameters.total() as f64 / 1e9, 2, "671.03");
    prints(parameters.routed() as f64 / 1e9, 2, "653.91");
    // 37 B activated, as the report says.
    prints(parameters.active() as f64 / 1e9, 0, "37");
    assert_eq!(parameters.layers(), 61);
}

#[test]
fn tokens_of_a_day_and_hours_of_a_trillion() {
    let tokens = 15_360 * 4096;
    assert_eq!(tokens, 62_914_560);
    prints(tokens_per_day(tokens, 19.926) / 1e9, 2, "272.80");
    prints(gpu_hours_per_trillion(tokens, 19.926, 2048) / 1e3, 2, "180.18");
}

#[test]
fn decoding_bounds() {
    for (rate, us, ms) in [(50e9, "120.96", "14.76"), (900e9, "6.72", "0.82")] {
        let once = decode_bound(1.0 + 2.0, 32, 9, 7000, rate);
        prints(once.0, 2, us);
        prints(once.0 * 2.0 * 61.0 / 1e3, 2, ms);
    }
}

fn plan(ep: u32) -> Parallel {
    Parallel {
        ep,
        pp: 16,
        dp: 128,
        tp: 1,
        zero: 1,
        sms: 20,
        tokens: 4096,
        micro_batches: 120,
        schedule: Schedule::DualPipe,
    }
}

#[test]
fn replicas_and_parameters_of_a_gpu() {
    let model = deepseek_v3();
    let parameters = Parameters::of(&model);
    for (ep, replicas, experts, billions) in [(64, 2, 4, "0.639"), (128, 1, 2, "0.319")] {
        let share = Share::of(&plan(ep), model.experts / ep);
        assert_eq!(share.expert_replicas, replicas);
        assert_eq!(share.experts_per_layer, experts);
        prints(OfGpu::of(&parameters, &plan(ep), &share).expert_mean / 1e9, 3, billions);
    }
    assert_eq!(Schedule::DualPipe.parameter_copies(), 2);
}

/// 1F1B by walking through the pipeline: each stage is busy m (F + B) of the time until the last backward pass of the first stage ends.
#[test]
fn the_bubble_of_1f1b_is_that_of_a_simulated_pipeline() {
    for (stages, batches) in [(1, 3), (2, 4), (4, 8), (5, 6)] {
        let (forward, backward) = (1.0, 2.0);
        // Operation lists of 1F1B; an operation starts when its stage is free and its input is there.
        let order = |stage: usize| {
            let warm = (stages - stage).min(batches);
            let mut list: Vec<(bool, usize)> = (0..warm).map(|batch| (true, batch)).collect();
            for batch in 0..batches {
                list.push((false, batch));
                if warm + batch < batches {
                    list.push((true, warm + batch));
                }
            }
            list
        };
        let lists: Vec<_> = (0..stages).map(order).collect();
        let mut done = vec![vec![[None::<f64>; 2]; batches]; stages];
        let mut next = vec![0; stages];
        let mut free = vec![0.0_f64; stages];
        while next.iter().zip(&lists).any(|(&at, list)| at < list.len()) {
            let before = next.clone();
            for stage in 0..stages {
                let Some(&(is_forward, batch)) = lists[stage].get(next[stage]) else { continue };
                let input = match (is_forward, stage) {
                    (true, 0) => Some(0.0),
                    (true, _) => done[stage - 1][batch][0],
                    (false, last) if last + 1 == stages => done[stage][batch][0],
                    (false, _) => done[stage + 1][batch][1],
                };
                let Some(ready) = input else { continue };
                let end = free[stage].max(ready) + if is_forward { forward } else { backward };
                done[stage][batch][usize::from(!is_forward)] = Some(end);
                free[stage] = end;
                next[stage] += 1;
            }
            assert_ne!(before, next, "the pipeline is stuck");
        }
        let total = free.iter().copied().fold(0.0, f64::max);
        let bubble = total - batches as f64 * (forward + backward);
        let formula = Schedule::OneForwardOneBackward.bubble(stages as u32, forward, backward, 1.0);
        assert!((bubble - formula).abs() < 1e-9, "{stages} stages: {bubble} and {formula}");
    }
}

/// What the contract places for two nodes of four ranks, and beside it a slot and a sum for each token that comes over the rail, twice.
#[test]
fn ranks_of_several_nodes_hold_what_they_hand_on() {
    let request = moe_contract::Exchange {
        ranks: 8,
        experts: 256,
        zero_experts: 0,
        top_k: 8,
        hidden: 7168,
        max_tokens: 128,
        dispatch: moe_contract::Format::FP8_F32_128,
        layout: moe_contract::RowLayout::expert_major(128),
        combine: moe_contract::Format::BF16,
        weighted: true,
        drop: None,
        ctas_link: 20,
        ctas_local: 21,
        threads: 256,
    };
    let exchange = request.checked().unwrap();
    let sizes = exchange.sizes();
    let whole = communication(&exchange, Topology::one_domain(8)).0;
    assert_eq!(whole, sizes.symmetric + sizes.fixed + sizes.handle);
    // A row of gradients is the larger one, 14336 bytes; 56 scales of 4 bytes; a record of 8 + 64, up to 80; a sum of 14336.
    let slot = 14336 + 224 + 80 + 14336;
    assert_eq!(communication(&exchange, Topology { ranks: 8, per_domain: 4 }).0, whole + 2 * 128 * slot);
}
