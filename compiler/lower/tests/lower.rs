//! From files to plans, kernels and bundles; what cannot be built is said before anything is generated.

use moe_contract::{Drop, Format, Kernel, RowLayout};
use moe_front::check_source;
use moe_front::spec::{Spec, Target};
use moe_lower::{Choice, Layer, LowerError, Planned, compile};

fn spec(source: &str) -> Spec {
    check_source(source.as_bytes()).spec.expect("a legal file")
}

fn plan(source: &str, choice: &Choice) -> Result<Planned, LowerError> {
    Layer::select(&spec(source), choice)?.plan()
}

fn example(name: &str) -> String {
    let path = format!("{}/../../dsl-examples/{name}.moe", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("an example")
}

fn one_node() -> Choice {
    Choice { deploy: Some("one_node".into()), ..Choice::default() }
}

/// Model and deploy of a few lines; `more` goes into the model, `deploy` into the deploy.
fn file(more: &str, deploy: &str) -> String {
    format!(
        "model small {{ hidden 128 experts 8 {more}
            gate(logits: f32[experts]) {{ let chosen = top(2, experts, by: logits) weights softmax(logits[chosen]) }} }}
         cluster node {{ nodes 2 gpus 4 per node gpu \"H800\" {{ target sm_100a sms 132 memory 80 GB }} nvlink 160 GB/s rdma 50 GB/s per gpu }}
         deploy one of small on node {{ {deploy} }}"
    )
}

#[test]
fn a_plan_says_where_everything_is() {
    insta::assert_snapshot!(plan(&example("deepseek_v3"), &one_node()).expect("a plan"));
}

#[test]
fn the_file_decides_formats_and_layouts() {
    let planned = plan(&example("longcat_flash"), &one_node()).expect("a plan").exchange;
    assert_eq!((planned.experts, planned.zero_experts), (512, 256));
    let dispatch = "dispatch { payload f16 layout rank_major } combine { payload f32 reduce f32 unweighted }";
    let planned = plan(&file(dispatch, "ep 4 tokens 16 per gpu sms 3"), &Choice::default()).expect("a plan");
    let exchange = planned.exchange;
    assert_eq!((exchange.dispatch, exchange.combine), (Format::F16, Format::F32));
    assert_eq!(exchange.layout, RowLayout::RankMajor);
    assert!(!exchange.weighted);
    assert_eq!((exchange.ranks, exchange.max_tokens, exchange.ctas_link), (4, 16, 3));
    assert_eq!(planned.layer.targets, [Target::Sm100a]);
    let capacity =
        plan(&file("capacity 1.5 drop lowest", "ep 4 tokens 16 per gpu"), &Choice::default()).expect("a plan");
    assert_eq!(capacity.exchange.drop, Some(Drop::Lowest));
    assert_eq!(
        capacity.layer.capacity.map(|capacity| capacity.picks(16, &capacity_gate())),
        Some(6),
        "16 × 2 ÷ 8 × 1.5"
    );
}

fn capacity_gate() -> moe_bundle::GateDescription {
    plan(&file("", "ep 4 tokens 16 per gpu"), &Choice::default()).expect("a plan").gate
}

#[test]
fn the_command_line_changes_ranks_and_tokens() {
    let source = file("", "ep 8 tokens 16 per gpu");
    let on_one_node = Choice { nodes: Some(1), ..Choice::default() };
    assert_eq!(plan(&source, &on_one_node).expect("a plan").exchange.ranks, 4);
    let three = Choice { nodes: Some(1), gpus_per_node: Some(3), tokens: Some(5), ..Choice::default() };
    let exchange = plan(&source, &three).expect("a plan").exchange;
    assert_eq!((exchange.ranks, exchange.max_tokens), (3, 5));
    let error = plan(&source, &Choice { tokens: Some(17), ..on_one_node }).expect_err("too many");
    assert_eq!(
        error.to_string(),
        "17 tokens per rank, but deploy `one` says `tokens 16 per gpu`: ask for at most 16, or change the deploy"
    );
}

#[test]
fn what_cannot_be_built_is_a_diagnostic_at_its_place() {
    let codes = |source: &str| match plan(source, &Choice::default()) {
        Err(LowerError::File(diagnostics)) => {
            diagnostics.iter().map(|diagnostic| diagnostic.code.id()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    let deploy = "ep 4 tokens 16 per gpu";
    assert_eq!(codes(&file("dispatch { payload fp4_e2m1 scale e4m3 per 16 }", deploy)), ["M0701"]);
    assert_eq!(codes(&file("", deploy).replace("experts 8", "experts 8 { zero 2..3 }")), ["M0703"]);
    assert_eq!(codes(&file("", "ep 8 tokens 16 per gpu")), ["M0704"]);
}

#[test]
fn the_deploy_has_to_be_chosen_where_there_are_several() {
    let says = |source: &str, deploy: Option<&str>| {
        let choice = Choice { deploy: deploy.map(str::to_owned), ..Choice::default() };
        plan(source, &choice).expect_err("no deploy").to_string()
    };
    let v3 = example("deepseek_v3");
    assert_eq!(says(&v3, None), "the file has 2 deploys: choose one with `--deploy`, `pretrain`, `one_node`");
    assert_eq!(says(&v3, Some("two")), "the file has no deploy `two`; it has `pretrain`, `one_node`");
    let model = v3.split("cluster").next().expect("a model");
    assert!(says(model, None).starts_with("the file has no deploy, so that nothing says how many ranks"));
}

#[test]
fn a_bundle_has_the_kernels_that_its_plan_needs() {
    let kernels = |source: &str| -> Vec<Kernel> {
        let bundle =
            compile(source, &Choice { targets: vec![Target::Sm90a], ..Choice::default() }).expect("a bundle").bundle;
        bundle.manifest().kernels.iter().map(|entry| entry.kernel).collect()
    };
    let expert_major = "dispatch { payload bf16 layout expert_major align 8 }";
    let deploy = "ep 4 tokens 16 per gpu";
    let without = |left_out: &[Kernel]| -> Vec<Kernel> {
        Kernel::ALL.iter().copied().filter(|kernel| !left_out.contains(kernel)).collect()
    };
    assert_eq!(
        kernels(&file(&format!("capacity 2 drop position {expert_major}"), deploy)),
        without(&[Kernel::WeightGradientSend])
    );
    let combine_weighs = [Kernel::Capacity, Kernel::WeightGradientSend];
    assert_eq!(kernels(&file(expert_major, deploy)), without(&combine_weighs));
    let rank_major = "dispatch { payload bf16 layout rank_major }";
    assert_eq!(kernels(&file(rank_major, deploy)), without(&[Kernel::Capacity]));
}

#[test]
fn a_file_with_an_error_is_not_compiled() {
    let Err(LowerError::File(diagnostics)) = compile("model m { hidden 64 }", &Choice::default()) else {
        panic!("it has no gate");
    };
    assert!(diagnostics.has_errors());
}
