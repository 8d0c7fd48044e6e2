//! What a run says of numbers that are none, and of the gradient of the router.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moe_contract::Tensor;
use moe_lower::{Choice, compile};
use moe_runtime::{Communicator, Error, Options, Parameters, VirtualDevice, VirtualOptions};
use serde_json::Value;
use support::{EXPERTS, Folder, HIDDEN, SMALL, numbers, workspace};

fn data(name: &str) -> PathBuf {
    workspace().join("tests/data").join(name)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in text")
}

/// The report of a run that is verified.
fn verified(folder: &Folder, arguments: &[&str]) -> Value {
    let printed = folder.succeeds(&[arguments, &["--format", "json"]].concat());
    let report: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(report["verified"], true, "{report:#}");
    report
}

fn check<'r>(report: &'r Value, what: &str) -> &'r Value {
    let checks = report["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("{what} is not in {report:#}"))
}

/// "Found NaN, expected NaN" was the verdict on a run whose input held one.
#[test]
fn a_run_with_nan_or_infinity_in_x_is_verified_and_says_where() {
    let folder = Folder::new();
    for (layer, input, remark) in [
        ("bf16", "nan", Some("x holds 1 NaN, at token 2, element 5; results that depend on it hold some too")),
        (
            "bf16",
            "infinity",
            Some("x holds 1 infinity, at token 2, element 5; results that depend on it hold some too"),
        ),
        ("bf16", "large", None),
        ("f32", "nan_f32", Some("x holds 1 NaN, at token 2, element 5; results that depend on it hold some too")),
    ] {
        let (layer, input) =
            (data(&format!("not_finite/{layer}.moe")), data(&format!("not_finite/{input}.safetensors")));
        for scope in [&[][..], &["--forward-only"]] {
            let arguments = [&["run", path(&layer), "--input", path(&input)], scope].concat();
            let report = verified(&folder, &arguments);
            let remarks: Vec<&str> =
                report["remarks"].as_array().expect("remarks").iter().filter_map(Value::as_str).collect();
            assert_eq!(remarks, Vec::from_iter(remark), "{arguments:?}");
            let printed = folder.succeeds(&arguments);
            let notes: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("note: ")).collect();
            assert_eq!(notes, Vec::from_iter(remark), "one plain line");
            assert!(printed.ends_with("verified\n") && !printed.contains("NOT VERIFIED"), "{printed}");
        }
    }
}

/// The gradient that went into the gate's backward was made up where combine does not weigh.
#[test]
fn the_gradient_of_the_router_comes_from_the_layer_in_every_layout() {
    let folder = Folder::new();
    for (layer, picks) in [("llama4", 1), ("rank_major", 2)] {
        let report = verified(&folder, &["run", path(&data(&format!("router_gradient/{layer}.moe")))]);
        // 8 tokens on each of 2 ranks.
        let of_weights = check(&report, "gradient of weights");
        assert_eq!(of_weights["compared"], 2 * 8 * picks, "{report:#}");
        assert_eq!(of_weights["against"], "the reference, whose experts weigh");
        let directly = check(&report, "gradient of weights, as expected");
        assert_eq!(directly["compared"], 2 * 8 * picks, "{report:#}");
        assert_eq!(directly["against"], "the whole layer computed directly, in f64");
        assert_eq!(check(&report, "gradient of logits")["compared"], 2 * 8 * 8);
        let calls: Vec<&str> =
            report["links"].as_array().expect("links").iter().filter_map(|l| l["phase"].as_str()).collect();
        assert!(calls.contains(&"weights_backward"), "{calls:?}");
        assert_eq!(report["remarks"], Value::Array(vec![]));
    }
}

/// Where combine weighs, its backward gives the gradients, and the experts have none to give.
#[test]
fn experts_that_do_not_weigh_give_no_gradients_of_weights() {
    let bundle = compile(SMALL, &Choice::default()).expect("the file can be built").bundle;
    let device = Arc::new(VirtualDevice::new(4, &VirtualOptions::default()).expect("virtual GPUs"));
    let mut moe = Communicator::new(device, &bundle, Options::default()).expect("a communicator");
    let mut run = || -> Result<(), Error> {
        let logits = moe.upload(Tensor::Logits, &vec![numbers(EXPERTS); 4])?;
        let tokens = moe.upload(Tensor::Tokens, &vec![vec![half::bf16::ONE; HIDDEN]; 4])?;
        let bias = moe.upload_parameters(&Parameters::none().f32("bias", &[0.0; EXPERTS]))?;
        let routing = moe.gate(&logits, &bias)?;
        let dispatched = moe.dispatch(&tokens, &routing)?;
        let copy = |_, input: &[f32], output: &mut [f32]| output.copy_from_slice(input);
        let output = moe.apply_experts(&dispatched, copy)?;
        let wrong = moe.apply_expert_weight_gradients(&dispatched, &output, copy, copy).expect_err("another tensor");
        assert!(matches!(wrong, Error::WrongTensor { .. }), "{wrong}");
        let gradients = moe.upload(Tensor::CombinedGradient, &vec![vec![half::bf16::ONE; HIDDEN]; 4])?;
        let backward = moe.combine_backward(&dispatched.handle, &output, &gradients)?;
        assert!(backward.weights.is_some());
        let refused =
            moe.apply_expert_weight_gradients(&dispatched, &backward.output, copy, copy).expect_err("no weights");
        assert_eq!(
            refused.to_string(),
            "apply_expert_weight_gradients is not possible: combine weighs, and combine_backward gives the gradients of \
             the weights"
        );
        Ok(())
    };
    run().unwrap_or_else(|error| panic!("{error}"));
}
