//! Every kernel of many exchanges through the real assembler, for both targets: no spill, no stack frame, whatever the shape.

use std::path::{Path, PathBuf};
use std::process::Command;

use moe_contract::{Drop, Exchange, Format, Kernel, RowLayout};
use moe_kernels::exchange::{device_code, kernels};
use moe_kernels::ptx::{Chip, Target};

/// One node of DeepSeek-V3.
const DEEPSEEK_V3: Exchange = Exchange {
    ranks: 8,
    experts: 256,
    zero_experts: 0,
    top_k: 8,
    hidden: 7168,
    max_tokens: 4096,
    dispatch: Format::FP8_F32_128,
    layout: RowLayout::expert_major(128),
    combine: Format::BF16,
    weighted: true,
    drop: None,
    ctas_link: 24,
    ctas_local: 25,
    threads: 512,
};

/// Where the bootstrap puts it, or what `MOE_PTXAS` says.
fn ptxas() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-tools/bin/ptxas");
    std::env::var_os("MOE_PTXAS").map_or(installed, PathBuf::from)
}

/// What the assembler says about a kernel.
fn assemble(kernel: Kernel, exchange: &Exchange, chip: Chip) -> String {
    let ptx = device_code(kernel, exchange).ptx(Target::of(chip)).unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let file = folder.path().join("kernel.ptx");
    std::fs::write(&file, &ptx).expect("it can be written");
    let output = Command::new(ptxas())
        .args(["-v", "-arch", chip.name(), "-o"])
        .arg(folder.path().join("kernel.cubin"))
        .arg(&file)
        .output()
        .expect("ptxas runs");
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{kernel:?} of {exchange:?}: {report}\n{ptx}");
    report
}

fn assemble_all(request: &Exchange) {
    let exchange = request.checked().expect("it keeps its limits");
    for chip in Chip::ALL {
        for kernel in kernels(&exchange) {
            let report = assemble(kernel, &exchange, chip);
            assert!(
                report.contains("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"),
                "{kernel:?} of {exchange:?}: {report}"
            );
        }
    }
}

#[test]
fn deepseek_v3_with_every_size_of_cta() {
    for threads in [32, 256, 512, 768, 1024] {
        assemble_all(&Exchange { threads, ..DEEPSEEK_V3 });
    }
}

/// Scales of a byte: as words (56 of a row), and as bytes (90 of a row).
#[test]
fn powers_of_two_as_scales() {
    for (dispatch, hidden) in [(Format::FP8_UE8M0_128, 7168), (Format::MXFP8, 2880)] {
        for threads in [32, 512, 1024] {
            assemble_all(&Exchange { dispatch, hidden, threads, ..DEEPSEEK_V3 });
        }
    }
}

#[test]
fn most_ranks_and_picks() {
    let request = Exchange { ranks: 72, experts: 1000, zero_experts: 24, top_k: 32, ..DEEPSEEK_V3 };
    assemble_all(&Exchange { max_tokens: 512, drop: Some(Drop::Lowest), threads: 1024, ..request });
}

#[test]
fn rank_major_without_weights() {
    let request = Exchange { layout: RowLayout::RankMajor, weighted: false, drop: Some(Drop::Position), ..DEEPSEEK_V3 };
    for (dispatch, combine) in [(Format::F16, Format::F16), (Format::F32, Format::F32)] {
        assemble_all(&Exchange { dispatch, combine, hidden: 2880, top_k: 5, threads: 1024, ..request });
    }
}

#[test]
fn batched_with_either_kind_of_weights() {
    for weighted in [true, false] {
        assemble_all(&Exchange { layout: RowLayout::Batched, weighted, max_tokens: 128, threads: 512, ..DEEPSEEK_V3 });
    }
}

#[test]
fn rows_of_one_chunk() {
    let request = Exchange { hidden: 8, ranks: 1, experts: 3, top_k: 1, ctas_link: 1, ctas_local: 1, ..DEEPSEEK_V3 };
    for payload in [Format::BF16, Format::F16, Format::F32] {
        assemble_all(&Exchange { dispatch: payload, combine: payload, ..request });
    }
}

/// As small as an exchange can be and still have everything: two ranks, one chunk a row, one warp a CTA.
const SMALL: Exchange = Exchange {
    ranks: 2,
    experts: 2,
    top_k: 1,
    hidden: 8,
    max_tokens: 4,
    dispatch: Format::BF16,
    drop: Some(Drop::Position),
    ctas_link: 1,
    ctas_local: 1,
    threads: 32,
    ..DEEPSEEK_V3
};

/// The texts of some kernels, so that a change of a body, of the builder or of LLVM is seen. Each assembles for both targets.
fn look_like(name: &str, request: &Exchange, kernels: &[Kernel]) {
    let exchange = request.checked().expect("it keeps its limits");
    for &kernel in kernels {
        assert!(kernel.is_of(&exchange), "{kernel:?}");
        Chip::ALL.into_iter().for_each(|chip| drop(assemble(kernel, &exchange, chip)));
        let ptx = device_code(kernel, &exchange).ptx(Target::of(Chip::Sm90a)).unwrap_or_else(|error| panic!("{error}"));
        insta::assert_snapshot!(format!("{name}{}", kernel.name()), ptx);
    }
}

/// Every kernel of an exchange that weighs in combine, and those that are there only where experts weigh.
#[test]
fn what_every_kernel_looks_like() {
    let weighted = kernels(&SMALL);
    look_like("", &SMALL, &weighted);
    let experts_weigh = Exchange { weighted: false, ..SMALL };
    let others: Vec<Kernel> = kernels(&experts_weigh).into_iter().filter(|kernel| !weighted.contains(kernel)).collect();
    look_like("", &experts_weigh, &others);
    let all: Vec<Kernel> = Kernel::ALL.iter().copied().filter(|kernel| kernel.grid(&SMALL).is_some()).collect();
    assert_eq!(weighted.len() + others.len(), all.len(), "every kernel but those of the gate");
}

/// What layouts and formats make of the kernels that know of them.
#[test]
fn what_layouts_and_scales_look_like() {
    let rank_major = Exchange { layout: RowLayout::RankMajor, weighted: false, ..SMALL };
    look_like("rank_major_", &rank_major, &[Kernel::DispatchPlace, Kernel::CombineSend]);
    look_like("batched_", &Exchange { layout: RowLayout::Batched, ..SMALL }, &[Kernel::DispatchPlace]);
    let scaled = |dispatch, hidden| Exchange { dispatch, hidden, layout: RowLayout::Batched, ..SMALL };
    look_like("f32_scales_", &scaled(Format::FP8_F32_128, 128), &[Kernel::DispatchSendCached]);
    // One scale of a byte, which is no word.
    look_like("mxfp8_", &scaled(Format::MXFP8, 32), &[Kernel::DispatchSendCached, Kernel::DispatchPlaceCached]);
}
