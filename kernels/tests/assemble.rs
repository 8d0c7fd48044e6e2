//! The real assembler, on texts whose figures are known beforehand.

use std::process::{Command, Output};

use moe_kernels::assemble::{AssembleError, FOLDER_VARIABLE, assemble};
use moe_kernels::ptx::Chip;

fn kernel(chip: Chip, directives: &str, body: &str) -> String {
    format!(
        ".version 8.6\n.target {chip}\n.address_size 64\n.visible .entry k(.param .u64 p) {directives}\n{{\n\
         .reg .b64 %rd<8>;\n.reg .b32 %r<80>;\n.reg .pred %p<2>;\nld.param.b64 %rd1, [p];\nmov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    )
}

#[test]
fn a_small_kernel_takes_little() {
    for chip in Chip::ALL {
        let body = ".shared .align 16 .b8 s[512];\nst.shared.b32 [s], %r1;\nbar.sync 0;\nld.shared.b32 %r2, [s+4];\nst.global.b32 [%rd1], %r2;";
        let assembled = assemble(&kernel(chip, ".reqntid 128", body), chip).expect("sound");
        let usage = assembled.usage;
        assert!(usage.stays_in_registers());
        assert!((4..=16).contains(&usage.registers), "{usage:?}");
        assert_eq!(usage.shared & !1023, 0, "at most the array and what the system reserves: {usage:?}");
        assert!(usage.shared >= 512, "{usage:?}");
        assert_eq!(assembled.cubin[..4], *b"\x7fELF");
        let sass = assembled.sass().expect("it disassembles");
        assert!(sass.contains("BAR.SYNC") && sass.contains("EXIT"), "{sass}");
    }
}

#[test]
fn a_frame_and_spills_are_seen() {
    let chip = Chip::Sm90a;
    let array = ".local .align 4 .b8 a[256];\nmov.u64 %rd2, a;\nand.b32 %r2, %r1, 63;\nmul.wide.u32 %rd3, %r2, 4;\nadd.s64 %rd4, %rd2, %rd3;\n\
                 st.local.b32 [%rd4], %r1;\nld.local.b32 %r3, [a+8];\nst.global.b32 [%rd1], %r3;";
    let usage = assemble(&kernel(chip, "", array), chip).expect("sound").usage;
    assert_eq!(usage.stack_frame, 256);
    assert!(!usage.stays_in_registers());

    // 64 numbers that live at once, in 24 registers.
    let loads: String = (0..64).map(|i| format!("ld.volatile.global.b32 %r{}, [%rd1+{}];\n", i + 2, 4 * i)).collect();
    let stores: String = (0..64).map(|i| format!("st.volatile.global.b32 [%rd1+{}], %r{};\n", 4 * i, 65 - i)).collect();
    let usage = assemble(&kernel(chip, ".maxnreg 24", &(loads + &stores)), chip).expect("sound").usage;
    assert!(usage.spill_stores > 0 && usage.spill_loads > 0, "{usage:?}");
}

#[test]
fn what_ptxas_refuses_is_told() {
    let error = assemble(&kernel(Chip::Sm90a, "", "frobnicate %r1;"), Chip::Sm90a).expect_err("no such instruction");
    let text = error.to_string();
    assert!(matches!(error, AssembleError::Refused { tool: "ptxas", .. }), "{text}");
    assert!(text.contains("frobnicate") && text.contains("line 11"), "{text}");
    let error = assemble(".version 8.6\n.target sm_90a\n.address_size 64\n", Chip::Sm90a).expect_err("no kernel");
    assert!(matches!(error, AssembleError::Unreadable { .. }), "{error}");
}

/// Set where this program was started by one of its own tests.
const CHILD: &str = "MOE_TEST_ASSEMBLE_CHILD";

/// What a process of its own does: environment variables belong to a process.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        for body in ["st.global.b32 [%rd1], %r1;", "frobnicate;"] {
            match assemble(&kernel(Chip::Sm90a, "", body), Chip::Sm90a) {
                Ok(assembled) => println!("sass of {} bytes", assembled.sass().expect("it disassembles").len()),
                Err(error) => println!("error: {error}"),
            }
        }
    }
}

fn start_child(variable: &str, value: &std::path::Path) -> String {
    let program = std::env::current_exe().expect("a test runs from a file");
    let mut command = Command::new(program);
    command.args(["--exact", "child", "--nocapture"]).env(CHILD, "1").env(variable, value);
    let Output { stdout, status, .. } = command.output().expect("it starts");
    assert!(status.success());
    String::from_utf8(stdout).expect("text")
}

#[test]
fn nothing_is_left_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = start_child("TMPDIR", folder.path());
    assert!(said.contains("sass of") && said.contains("error: ptxas refuses"), "{said}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_missing_tool_says_how_to_get_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = start_child(FOLDER_VARIABLE, folder.path());
    let expected = format!(
        "error: ptxas is not in {} (${FOLDER_VARIABLE}): run `.ci/bootstrap`, which installs it into target/cuda-tools",
        folder.path().display()
    );
    assert!(said.contains(&expected), "{said}");
}
