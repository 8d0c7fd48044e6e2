//! Advice about groups, applied to the file: it is accepted, and groups span nodes no more.

use moe_front::check_source;
use moe_front::diagnostics::Code;
use moe_planner::{Change, Options, Planner};

fn file(experts: u32, groups: u32, best: u32, picks: u32, nodes: u32) -> String {
    format!(
        "model m {{ hidden 1024 experts {experts} in {groups} groups expert_ffn 512
            gate(logits: f32[experts]) {{
                let best = top(1, groups, by: sum(top({best}, logits)))
                weights softmax(logits[top({picks}, experts in best, by: logits)]) }} }}
        cluster c {{ nodes {nodes} gpus 8 per node gpu {{ target sm_90a sms 132 memory 80 GB }}
            nvlink 160 GB/s rdma 50 GB/s per gpu }}
        deploy d of m on c {{ ep {} tokens 128 per gpu sms 20 }}",
        8 * nodes
    )
}

/// What the planner says of groups that span nodes.
fn said(source: &str) -> String {
    let checked = check_source(source.as_bytes());
    assert!(checked.diagnostics.iter().any(|found| found.code == Code::GroupSpansNodes), "{:?}", checked.diagnostics);
    let spec = checked.spec.expect("it is legal");
    let options = Options { sampled_tokens: 256, ..Options::default() };
    let mut planner = Planner::new(&spec, spec.deploy("d").expect("there is one"), options).expect("it plans");
    let parallel = planner.parallel(Change::default()).expect("the deploy is right");
    let report = planner.report(&parallel).expect("it plans");
    let words = report.explanation.into_iter().find(|words| words.contains("groups span nodes"));
    words.expect("it says so")
}

/// 3 groups of 32 experts on 4 nodes of 24 each span 2: "give the gate 6 groups" was said, and groups of 16 span 2 as well. Where experts do
/// not divide among the ranks, the first ranks hold one more: 120 experts on 48 ranks are 24 on each of 3 nodes and 16 on the others.
#[test]
fn the_number_of_groups_that_is_advised_is_accepted_and_lies_on_one_node_each() {
    for (experts, groups, nodes, advised) in [
        (256, 8, 16, 16),
        (96, 3, 4, 4),
        (96, 2, 3, 3),
        (120, 5, 6, 15),
        (144, 9, 12, 18),
        (48, 3, 2, 4),
        (40, 4, 3, 5),
    ] {
        let words = said(&file(experts, groups, 1, 2, nodes));
        assert!(words.contains(&format!("give the gate {advised} groups")), "{experts} {groups} {nodes}: {words}");
        let mended = file(experts, advised, 1, 2, nodes);
        let checked = check_source(mended.as_bytes());
        assert!(checked.spec.is_some(), "{:?}", checked.diagnostics);
        let spans = checked.diagnostics.iter().filter(|found| found.code == Code::GroupSpansNodes);
        assert_eq!(spans.count(), 0, "{mended}");
    }
}

#[test]
fn groups_that_are_too_small_for_the_gate_are_not_advised() {
    // Groups of 24 lie on one node each; the gate takes 25 experts of a group, or its 25 best.
    for (best, picks) in [(1, 25), (25, 2)] {
        let words = said(&file(96, 3, best, picks, 4));
        assert!(!words.contains("give the gate"), "{words}");
        let refused = check_source(file(96, 4, best, picks, 4).as_bytes());
        assert!(refused.spec.is_none(), "and the file would be refused");
    }
}
