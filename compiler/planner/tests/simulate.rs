//! The simulation against what can be worked out by hand.

use moe_front::units::{Bytes, BytesPerSecond, Microseconds};
use moe_planner::simulate::{
    Demand, Fault, GpuId, Link, LinkKind, Network, Options, Order, Outcome, Scenario, ScenarioError, Spine, simulate,
};

/// DeepSeek-V3 on nodes of 8: 4096 tokens, 4 nodes a token, FP8 out and BF16 back.
fn pod(nodes: u32, group_ranks: u32) -> Scenario {
    Scenario {
        network: Network {
            nodes,
            gpus_per_node: 8,
            nvlink: BytesPerSecond(160_000_000_000),
            nic: BytesPerSecond(50_000_000_000),
            nvlink_latency: Microseconds(1.0),
            nic_latency: Microseconds(5.0),
            spine: None,
        },
        demand: Demand {
            group_ranks,
            tokens_per_gpu: 4096,
            nodes_per_token: 4.0,
            ranks_per_copy: 1.5,
            dispatch_bytes: Bytes(7392),
            combine_bytes: Bytes(14_336),
            rank_load: Vec::new(),
            expert_time: Some(Microseconds(100.0)),
        },
        faults: Vec::new(),
        options: Options::default(),
    }
}

fn run(scenario: &Scenario) -> Outcome {
    simulate(scenario).expect("the scenario makes sense")
}

fn assert_near(found: f64, expected: f64, relative: f64) {
    assert!((found - expected).abs() <= relative * expected, "{found} is not within {relative} of {expected}");
}

/// One chunk on two GPUs of one node: a closed form to the picosecond.
#[test]
fn a_single_chunk_takes_the_time_of_its_wire() {
    let mut scenario = pod(1, 2);
    scenario.network.gpus_per_node = 2;
    scenario.demand = Demand {
        nodes_per_token: 1.0,
        ranks_per_copy: 1.0,
        tokens_per_gpu: 64,
        rank_load: vec![0.0, 1.0],
        ..scenario.demand
    };
    let outcome = run(&scenario);
    // 64 tokens of 7392 B at 160 GB/s stream through both ports of the wire together, 1 us further away.
    assert_near(outcome.dispatch.time.max.0, 64.0 * 7392.0 / 160e3 + 1.0, 1e-6);
    // GPU 1 has both chunks and twice the mean load, then 64 tokens of 14336 B come back.
    let back = 64.0 * 14_336.0 / 160e3 + 1.0;
    assert_near(outcome.total.unwrap().0, outcome.dispatch.time.max.0 + 200.0 + back, 1e-6);
}

#[test]
fn a_chunk_between_nodes_streams_through_the_rail_and_is_stored_once() {
    let mut scenario = pod(2, 4);
    scenario.network.gpus_per_node = 2;
    // Every copy goes to GPU 3: from GPU 0 over the NICs to GPU 2, then over NVLink.
    scenario.demand = Demand {
        nodes_per_token: 1.0,
        ranks_per_copy: 1.0,
        tokens_per_gpu: 64,
        rank_load: vec![0.0, 0.0, 0.0, 1.0],
        expert_time: Some(Microseconds(0.0)),
        ..scenario.demand
    };
    let outcome = run(&scenario);
    let (nic, nvlink) = (64.0 * 7392.0 / 50e3 + 5.0, 64.0 * 7392.0 / 160e3 + 1.0);
    assert_near(outcome.dispatch.time.max.0, nic + nvlink, 1e-6);
}

#[test]
fn an_even_load_comes_close_to_the_bound_and_never_below() {
    for order in [Order::Rotated, Order::Shuffled] {
        let mut scenario = pod(8, 64);
        scenario.options.order = order;
        let outcome = run(&scenario);
        // 3.5 of 4 copies leave the node.
        assert_near(outcome.bounds.dispatch.time.0, 4096.0 * 3.5 * 7392.0 / 50e3, 1e-9);
        for (phase, bound) in
            [(&outcome.dispatch, &outcome.bounds.dispatch), (&outcome.combine, &outcome.bounds.combine)]
        {
            // Every link carries its expected bytes within one chunk per sender: 16 chunks of 254 for the 8 of a rail.
            let ratio = phase.time.max.0 / bound.time.0;
            assert!((0.97..1.35).contains(&ratio), "{order:?}: {ratio}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome_and_another_seed_another_order() {
    let scenario = pod(8, 64);
    assert_eq!(run(&scenario), run(&scenario));
    let mut other = scenario.clone();
    other.options.seed = 2;
    assert_ne!(run(&scenario).dispatch.time, run(&other).dispatch.time);
}

#[test]
fn a_slow_nic_is_the_bottleneck_and_holds_up_others() {
    let healthy = run(&pod(8, 64));
    let mut scenario = pod(8, 64);
    scenario.faults = vec![Fault::SlowNic { gpu: GpuId(13), rate: 0.5 }];
    let outcome = run(&scenario);
    let Link::Port { gpu, .. } = outcome.bounds.dispatch.bottleneck else { panic!("no spine here") };
    assert_eq!(gpu, GpuId(13));
    assert_eq!(outcome.dispatch.busiest[0].link, outcome.bounds.dispatch.bottleneck);
    assert_near(outcome.dispatch.time.max.0 / healthy.dispatch.time.max.0, 2.0, 0.2);
    // Those of its rail that send to it wait as well.
    assert!(outcome.dispatch.time.mean.0 > 1.02 * healthy.dispatch.time.mean.0);
}

#[test]
fn a_late_gpu_delays_everyone_who_waits_for_it() {
    let healthy = run(&pod(8, 64));
    let mut scenario = pod(8, 64);
    scenario.faults = vec![Fault::Late { gpu: GpuId(0), by: Microseconds(5000.0) }];
    let outcome = run(&scenario);
    let (late, usual) = (outcome.total.unwrap().0, healthy.total.unwrap().0);
    assert!(late > usual + 4000.0, "{late} {usual}");
}

#[test]
fn an_oversubscribed_spine_is_the_bottleneck() {
    let mut scenario = pod(8, 64);
    let spine = Spine { nodes_per_pod: 4, oversubscription: 4.0, latency: Microseconds(2.0) };
    scenario.network.spine = Some(spine);
    let outcome = run(&scenario);
    assert!(matches!(outcome.bounds.dispatch.bottleneck, Link::Spine { .. }));
    // Of 4 nodes, 2 are in the other pod: 4 NICs × 4096 × 2 copies share one bundle of one NIC's rate.
    assert_near(outcome.bounds.dispatch.time.0, 4.0 * 4096.0 * 2.0 * 7392.0 / 50e3, 1e-9);
    assert_near(outcome.dispatch.time.max.0, outcome.bounds.dispatch.time.0, 0.1);
}

#[test]
fn skew_moves_the_bound_to_the_loaded_rank() {
    let mut scenario = pod(8, 64);
    scenario.demand.rank_load = (0..64).map(|rank| if rank == 9 { 8.0 } else { 1.0 }).collect();
    let outcome = run(&scenario);
    let Link::Port { kind, gpu } = outcome.bounds.dispatch.bottleneck else { panic!("no spine here") };
    assert_eq!((kind, gpu), (LinkKind::NvlinkIn, GpuId(9)));
    assert_eq!(outcome.dispatch.slowest[0].gpu, GpuId(9));
}

#[test]
fn work_grows_linearly_with_gpus() {
    let events = |nodes| run(&pod(nodes, 64)).events as f64;
    assert_near(events(32) / events(8), 4.0, 0.01);
}

#[test]
fn impossible_scenarios_say_what_to_write() {
    let mut scenario = pod(8, 60);
    assert_eq!(simulate(&scenario), Err(ScenarioError::PartialNode { ranks: 60, gpus_per_node: 8 }));
    scenario = pod(8, 64);
    scenario.demand.nodes_per_token = 9.0;
    assert_eq!(
        simulate(&scenario).unwrap_err().to_string(),
        "a token goes to 9 nodes of a group of 8; give a number above 0 and at most 8"
    );
}
