//! What a deploy is built and planned as.

use moe_contract::{Exchange, Launch, Protocol};
use moe_decide::{Choice, Decision, Numbers, not_built};
use moe_front::check_source;
use moe_front::spec::{Spec, Target};

fn spec(deploy: &str, sms: u32) -> Spec {
    let source = format!(
        "model small {{ hidden 128 experts 8
             gate(logits: f32[experts]) {{ let chosen = top(2, experts, by: logits) weights softmax(logits[chosen]) }} }}
         cluster pair {{ nodes 2 gpus 4 per node gpu {{ target sm_90a sms {sms} memory 80 GB }} nvlink 160 GB/s rdma 50 GB/s per gpu }}
         deploy one of small on pair {{ {deploy} }}"
    );
    check_source(source.as_bytes()).spec.expect("a legal file")
}

fn decide(deploy: &str, sms: u32, choice: &Choice) -> Decision {
    let spec = spec(deploy, sms);
    Decision::of(&spec, spec.deploy("one").expect("a deploy"), choice).expect("a choice that the file allows")
}

fn codes(decision: &Decision) -> Vec<&'static str> {
    decision.not_built.iter().map(|problem| problem.code.id()).collect()
}

#[test]
fn multiprocessors_and_threads_are_those_that_kernels_are_launched_with() {
    let launch = |deploy: &str, sms| {
        let decision = decide(deploy, sms, &Choice::default());
        let Exchange { ctas_link, ctas_local, threads, .. } = decision.built().expect("kernels");
        assert_eq!(Launch { ctas_link, ctas_local, threads }, decision.launch);
        (ctas_link, ctas_local, threads)
    };
    assert_eq!(
        launch("ep 4 tokens 4096 per gpu", 132),
        (20, 112, 512),
        "20 and the others, with 16 warps for 205 tokens"
    );
    assert_eq!(
        launch("ep 4 tokens 100 per gpu", 132),
        (20, 50, 256),
        "8 warps for 5 tokens, and one for each of 400 copies"
    );
    assert_eq!(launch("ep 4 tokens 100 per gpu mode latency", 132), (20, 25, 512));
    assert_eq!(launch("ep 4 tokens 4096 per gpu sms 3", 132), (3, 129, 512));
    assert_eq!(launch("ep 4 tokens 4096 per gpu sms 100", 132), (100, 100, 512), "never fewer than send");
    assert_eq!(launch("ep 4 tokens 4096 per gpu sms 20 sms_local 8", 132), (20, 8, 512));
    assert_eq!(launch("ep 4 tokens 4096 per gpu", 16), (8, 8, 512), "half of a small GPU");
}

#[test]
fn a_protocol_follows_from_nodes_and_mode_and_says_whether_it_is_built() {
    let decided = |deploy: &str, choice: &Choice| {
        let decision = decide(deploy, 132, choice);
        assert_eq!(decision.built().is_ok(), decision.protocol == Protocol::Direct, "{deploy}");
        (decision.protocol, codes(&decision))
    };
    let written = Choice::default();
    assert_eq!(decided("ep 4 tokens 16 per gpu", &written), (Protocol::Direct, vec![]));
    assert_eq!(decided("ep 4 tokens 16 per gpu mode latency", &written), (Protocol::Direct, vec!["M0705"]));
    assert_eq!(decided("ep 8 tokens 16 per gpu", &written), (Protocol::Hybrid, vec!["M0704"]));
    assert_eq!(decided("ep 8 tokens 16 per gpu mode latency", &written), (Protocol::Messages, vec!["M0704"]));
    let together = Choice { nodes: Some(1), ..Choice::default() };
    assert_eq!(decided("ep 8 tokens 16 per gpu", &together), (Protocol::Direct, vec![]));
}

#[test]
fn what_several_nodes_lack_is_said_for_the_mode() {
    let notes = |deploy: &str| {
        let decision = decide(deploy, 132, &Choice::default());
        let [problem] = &decision.not_built[..] else { panic!("{:?}", decision.not_built) };
        problem.notes.clone()
    };
    let there = "what is there: any number of ranks in one node; what is not: ";
    let throughput = notes("ep 8 tokens 16 per gpu");
    assert_eq!(throughput, [format!("{there}one copy of a token to each of its nodes over RDMA")]);
    assert_eq!(notes("ep 8 tokens 16 per gpu mode latency"), [format!("{there}a message for each pick over RDMA")]);
}

#[test]
fn what_a_file_says_of_all_its_deploys_is_what_each_decision_says() {
    let spec = spec("ep 8 tokens 16 per gpu", 132);
    let id = spec.deploy("one").expect("a deploy");
    let numbers = Numbers::of(&spec.deploys[id], &spec.clusters[spec.deploys[id].cluster]);
    assert_eq!(not_built(&spec), Decision::with(&spec, id, &numbers).not_built);
    // A plan with other numbers is judged by those.
    assert_eq!(codes(&Decision::with(&spec, id, &Numbers { ranks: 4, ..numbers })), Vec::<&str>::new());
}

#[test]
fn targets_of_the_command_line_stand_once() {
    let targets = vec![Target::Sm100a, Target::Sm90a, Target::Sm100a];
    let decision = decide("ep 4 tokens 16 per gpu", 132, &Choice { targets, ..Choice::default() });
    assert_eq!(decision.targets, [Target::Sm100a, Target::Sm90a]);
    assert_eq!(decide("ep 4 tokens 16 per gpu", 132, &Choice::default()).targets, [Target::Sm90a]);
}
