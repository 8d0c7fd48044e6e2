//! What is in a bundle, as `moec inspect` shows it, against the bundle itself and the programs that made it.

mod support;

use std::process::Command;

use moe_bundle::Bundle;
use serde_json::Value;
use support::{Folder, text, workspace};

fn folder() -> Folder {
    let folder = Folder::with_small();
    folder.succeeds(&["build", "small.moe", "--target", "sm_90a", "--target", "sm_100a"]);
    folder
}

fn json(folder: &Folder, bundle: &str) -> Value {
    serde_json::from_str(&folder.succeeds(&["inspect", bundle, "--format", "json"])).expect("JSON")
}

#[test]
fn everything_of_a_bundle_is_shown() {
    let folder = folder();
    let bytes = std::fs::read(folder.path("small.moeb")).expect("a bundle");
    let bundle = Bundle::from_bytes(&bytes).expect("a bundle");
    let json = json(&folder, "small.moeb");
    assert_eq!(json["bytes"], bytes.len());
    let sum = Command::new("sha256sum").arg(folder.path("small.moeb")).output().expect("sha256sum starts");
    assert_eq!(json["sha256"].as_str(), text(&sum.stdout).split(' ').next());
    assert_eq!(json["targets"], serde_json::json!(["sm_90a", "sm_100a"]));
    // As the file says.
    let exchange = &json["exchange"];
    for (name, number) in [("ranks", 4), ("experts", 8), ("experts_of_a_rank", 2), ("top_k", 3), ("hidden", 256)] {
        assert_eq!(exchange[name], number, "{name}");
    }
    assert_eq!((&exchange["max_tokens"], &exchange["layout"]), (&8.into(), &"expert_major align 8".into()));
    assert_eq!((&exchange["dispatch"], &exchange["combine"]), (&"fp8_e4m3 scale f32 per 128".into(), &"bf16".into()));
    assert_eq!(json["gate"]["parameters"], serde_json::json!(["bias"]));
    let kernels = json["kernels"].as_array().expect("kernels");
    assert_eq!(kernels.len(), bundle.manifest().kernels.len());
    let table = folder.succeeds(&["inspect", "small.moeb"]);
    for (shown, entry) in kernels.iter().zip(&bundle.manifest().kernels) {
        assert_eq!(
            (shown["name"].as_str(), shown["target"].as_str()),
            (Some(entry.kernel.name()), Some(&*entry.target))
        );
        let parameters = bundle.ptx(entry).lines().filter(|line| line.trim_start().starts_with(".param ")).count();
        // The parameters of the gate are as many as it has.
        let arguments = shown["arguments"].as_array().expect("arguments");
        assert_eq!(arguments.len(), parameters, "{}: {arguments:?}", entry.kernel.name());
        assert_eq!(shown["ptx"]["bytes"], bundle.ptx(entry).len());
        assert_eq!(shown["cubin"]["bytes"], bundle.cubin(entry).expect("machine code").len());
        assert_eq!(shown["registers"].as_u64(), entry.registers.map(u64::from));
        for hash in [&shown["ptx"]["sha256"], &shown["cubin"]["sha256"]] {
            let hash = hash.as_str().expect("a hash");
            assert!(hash.len() == 64 && table.contains(hash), "{table}");
        }
    }
}

#[test]
fn ptx_and_source_come_out_as_they_went_in() {
    let folder = folder();
    assert_eq!(folder.succeeds(&["inspect", "small.moeb", "--source"]), support::SMALL);
    let all = folder.succeeds(&["build", "small.moe", "--emit", "ptx", "--target", "sm_100a"]);
    let one = folder.succeeds(&["inspect", "small.moeb", "--ptx", "combine_send", "--target", "sm_100a"]);
    assert!(one.contains(".entry combine_send(") && one.contains(".target sm_100a"), "{one}");
    assert!(all.contains(one.trim_end()), "as `moec build --emit ptx` prints it");
    let first = folder.succeeds(&["inspect", "small.moeb", "--ptx", "combine_send"]);
    assert!(first.contains(".target sm_90a"), "{first}");
    let said = folder.fails(&["inspect", "small.moeb", "--ptx", "combine"]);
    assert!(said.contains("`--ptx`: there is no kernel `combine`; it has gate, gate_backward, "), "{said}");
    let said = folder.fails(&["inspect", "small.moeb", "--ptx", "gate", "--target", "sm_80"]);
    assert!(said.contains("`--target`: it is not built for sm_80; it is for sm_90a, sm_100a"), "{said}");
}

/// The machine code of a bundle is what ptxas makes of its PTX, the same every time.
#[test]
fn machine_code_is_that_of_the_assembler() {
    let folder = folder();
    folder.succeeds(&["build", "small.moe", "--target", "sm_90a", "--target", "sm_100a", "-o", "again.moeb"]);
    let read = |name: &str| std::fs::read(folder.path(name)).expect("a bundle");
    assert!(read("small.moeb") == read("again.moeb"), "byte for byte");
    let bundle = Bundle::from_bytes(&read("small.moeb")).expect("a bundle");
    let ptxas = workspace().join("target/cuda-tools/bin/ptxas").canonicalize().expect("installed");
    for target in ["sm_90a", "sm_100a"] {
        let entry = bundle.kernel(moe_contract::Kernel::Barrier, target).expect("there");
        folder.write("barrier.ptx", bundle.ptx(entry));
        let made =
            Command::new(&ptxas).current_dir(folder.path(".")).args(["-v", "-arch", target, "barrier.ptx"]).status();
        assert!(made.expect("ptxas starts").success());
        assert_eq!(bundle.cubin(entry), Some(&*read("elf.o")), "{target}");
    }
}

#[test]
fn a_bundle_without_machine_code_says_so() {
    let folder = Folder::with_small();
    let mut command = folder.command(&["build", "small.moe"]);
    let output = command.env("MOE_CUDA_TOOLS", folder.path("none")).output().expect("the tool starts");
    assert!(text(&output.stderr).starts_with("note: the bundle has PTX alone, which the driver compiles"));
    let shown = folder.succeeds(&["inspect", "small.moeb"]);
    assert!(shown.contains("no machine code: it was built without ptxas, and the driver compiles its PTX"), "{shown}");
    assert_eq!(json(&folder, "small.moeb")["assembler"], Value::Null);
}

#[test]
fn what_is_no_bundle_is_refused() {
    let folder = folder();
    let said = folder.fails(&["inspect", "small.moe"]);
    assert!(said.contains("a bundle is wanted here: `moec build` makes one of it"), "{said}");
    let mut bytes = std::fs::read(folder.path("small.moeb")).expect("a bundle");
    // In the machine code of the last kernel.
    *bytes.last_mut().expect("not empty") ^= 1;
    folder.write("damaged.moeb", &bytes);
    folder.write("cut.moeb", &bytes[..bytes.len() / 2]);
    for command in ["inspect", "run"] {
        assert!(folder.fails(&[command, "damaged.moeb"]).contains("the bundle is damaged: its hash is "));
        assert!(folder.fails(&[command, "cut.moeb"]).contains("the bundle is cut off: it has "));
    }
}
