//! Limits of the system: of memory, threads and processor time. Whatever is missing, there is a sentence and status 1; nobody is aborted.

mod support;

use std::os::unix::process::ExitStatusExt as _;
use std::process::Output;

use support::{Folder, PICKS, f32s, input, numbers, safetensors, text};

/// The tool with its parameters, started by a shell that sets limits first.
fn limited(folder: &Folder, limits: &str, command: &str) -> Output {
    let script = format!("{limits}; exec {} {command}", env!("CARGO_BIN_EXE_moec"));
    std::process::Command::new("sh")
        .env("COLUMNS", "100000")
        .args(["-c", &script])
        .current_dir(folder.path("."))
        .env("TMPDIR", folder.path("temporary"))
        // A trace that cannot be written for want of memory would hide what is looked for.
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("a shell")
}

fn with_inputs() -> Folder {
    let folder = Folder::with_small();
    std::fs::create_dir(folder.path("temporary")).expect("a folder");
    let gradients = f32s("grad_weights", vec![6, PICKS], &numbers(6 * PICKS));
    folder.write("in.safetensors", safetensors(&input(6).into_iter().chain([gradients]).collect::<Vec<_>>()));
    let counts: String = (0..8).map(|expert| format!("0,{expert},{}\n", 10 + expert)).collect();
    folder.write("counts.csv", format!("layer,expert,count\n{counts}"));
    folder.succeeds(&["build", "small.moe"]);
    folder
}

/// All is well, or there is a sentence; nothing is left behind either way.
fn assert_sound(folder: &Folder, limits: &str, command: &str) -> bool {
    let before = folder.files();
    let output = limited(folder, limits, command);
    let said = text(&output.stderr);
    let what = format!("{limits}; moec {command}: {:?}: {said}", output.status);
    assert_eq!(output.status.signal(), None, "{what}");
    match output.status.code() {
        Some(0) => {}
        Some(1) => {
            let last = said.lines().last().unwrap_or_default();
            assert!(last.starts_with("error: ") && !said.contains("panicked"), "{what}");
            assert_eq!(folder.files(), before, "{what}");
        }
        _ => panic!("{what}"),
    }
    assert_eq!(std::fs::read_dir(folder.path("temporary")).expect("a folder").count(), 0, "{what}");
    for name in ["out", "out.svg"] {
        let _ = std::fs::remove_file(folder.path(name));
    }
    output.status.success()
}

/// From a limit that is just enough to start, step by step to one that is enough for everything. The process was aborted by Rust, by C++ or
/// by LLVM, whichever asked first.
#[test]
fn a_limit_of_memory_aborted_the_process() {
    let folder = with_inputs();
    const MEGABYTE: usize = 1024;
    const STEP: usize = 16;
    let starts = |megabytes: &usize| {
        limited(&folder, &format!("ulimit -v {}", megabytes * MEGABYTE), "check small.moe").status.success()
    };
    let least = (8..2000).step_by(STEP).find(starts).expect("enough to start");
    for command in [
        "check small.moe",
        "build small.moe -o out",
        "build small.moe --emit llvm",
        "run small.moe --output out --picture out.svg",
        "run small.moeb --forward-only",
        "gate small.moe --input in.safetensors --output out --on reference",
        "gate small.moe --input in.safetensors --output out --on host",
        "gate small.moe --input in.safetensors --output out --on virtual",
        "plan small.moe",
        "plan small.moe --sample 1000000",
        "simulate small.moe",
        "place small.moe --load counts.csv -o out",
        "--message-format json run small.moe",
    ] {
        let mut enough = false;
        for step in 0..40 {
            let megabytes = least + step * STEP;
            let limits = format!("ulimit -v {}", megabytes * MEGABYTE);
            if command.starts_with("--message-format") {
                let output = limited(&folder, &limits, command);
                let said = text(&output.stderr);
                for line in said.lines() {
                    let message: serde_json::Value = serde_json::from_str(line).expect(line);
                    assert_eq!(message["severity"], "error", "{said}");
                }
                enough = output.status.success();
            } else {
                enough = assert_sound(&folder, &limits, command);
            }
            if enough {
                break;
            }
        }
        assert!(enough, "{command} never has enough");
    }
}

/// What would be too much is known before it is begun, and the sentence says what to ask less of.
#[test]
fn too_much_for_the_memory_is_refused_with_what_to_change() {
    let folder = with_inputs();
    let sparse = std::fs::File::create(folder.path("huge")).expect("a file");
    sparse.set_len(8 << 30).expect("a sparse file");
    let large = support::SMALL.replace("tokens 8 per gpu", "tokens 65536 per gpu").replace("256\n", "7168\n");
    folder.write("large.moe", large);
    for (command, expected) in [
        ("plan small.moe --sample 16777216", "(`--sample`)"),
        ("simulate small.moe --sample 16777216", "(`--sample`)"),
        ("run large.moe", "run fewer tokens (`--tokens`) or ranks (`--gpus-per-node`)"),
        ("run small.moe --input huge", "huge is too large: at most"),
        ("gate small.moe --input huge --output out", "huge is too large: at most"),
        ("plan small.moe --input huge", "huge is too large: at most"),
        ("plan small.moe --load huge", "huge is not text"),
        ("check huge", "huge is not text"),
        ("run huge", "huge is not text"),
        // A file without an end.
        ("check /dev/zero", "/dev/zero is not text"),
        ("run /dev/zero", "/dev/zero is not text"),
        ("gate small.moe --input /dev/zero --output out", "/dev/zero is too large: at most"),
        ("place small.moe --load /dev/zero", "/dev/zero is not text"),
        ("fmt - < /dev/zero", "<stdin> is not text"),
    ] {
        let limits = format!("ulimit -v {}", 600 * 1024);
        assert_sound(&folder, &limits, command);
        let said = text(&limited(&folder, &limits, command).stderr);
        assert!(said.contains(expected), "{command}: {said}");
    }
}

/// The same by the size of the heap, which is another limit.
#[test]
fn a_limit_of_the_heap_is_a_limit_of_memory() {
    let folder = with_inputs();
    for megabytes in [16, 32, 64, 128, 256] {
        for command in ["check small.moe", "build small.moe -o out", "run small.moe", "plan small.moe --sample 4000000"]
        {
            assert_sound(&folder, &format!("ulimit -d {}", megabytes * 1024), command);
        }
    }
}

/// Open files: what cannot be opened is said.
#[test]
fn a_limit_of_open_files_is_said() {
    let folder = with_inputs();
    for files in [4, 5, 6, 8, 10, 12, 16, 32] {
        for command in ["check small.moe", "build small.moe -o out", "run small.moe --output out", "plan small.moe"] {
            assert_sound(&folder, &format!("ulimit -n {files}"), command);
        }
    }
}

/// Bytes that a run has at most at the same time, as the system counts them.
#[expect(clippy::zombie_processes, reason = "the system is asked for more than `wait` gives")]
fn peak(folder: &Folder, arguments: &[&str]) -> f64 {
    let child = folder.command(arguments).stdout(std::process::Stdio::null()).spawn().expect("the tool starts");
    let process = libc::pid_t::try_from(child.id()).expect("a process id");
    let mut status = 0;
    // SAFETY: numbers alone, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: waits for a child that nobody else waits for, and writes into both places, which live longer.
    let ended = unsafe { libc::wait4(process, &raw mut status, 0, &raw mut usage) };
    assert_eq!((ended, status), (process, 0), "{arguments:?}");
    usage.ru_maxrss as f64 * 1024.0
}

/// The estimate was below what runs of these took: 378 MB for 559, 398 for 613, 847 for 959.
#[test]
fn a_run_takes_no_more_memory_than_was_said_and_not_much_less() {
    for example in ["mixtral", "llama4", "gpt_oss", "switch"] {
        let folder = Folder::new();
        let source = support::workspace().join(format!("dsl-examples/{example}.moe"));
        let source = source.to_str().expect("a path in UTF-8");
        folder.succeeds(&["build", source, "--deploy", "one_node", "-o", "layer.moeb"]);
        let refused = text(&limited(&folder, &format!("ulimit -v {}", 160 * 1024), "run layer.moeb").stderr);
        let said = refused.split("needs about ").nth(1).and_then(|rest| rest.split(',').next()).expect(&refused);
        let (number, unit) = said.split_once(' ').expect(said);
        let unit = ["MB", "GB"].iter().zip([1e6, 1e9]).find(|(name, _)| **name == unit).expect(said).1;
        let estimate = number.parse::<f64>().expect(said) * unit;
        let taken = peak(&folder, &["run", source, "--deploy", "one_node"]);
        assert!((taken..2.0 * taken).contains(&estimate), "{example}: {estimate} bytes are said, {taken} are taken");
    }
}
