//! Every option of every command, with values that people and accidents give it: it is taken, or there is one error that says which option
//! it is, or which file. The options are those of `--help`, so that a new one is tried too.

mod support;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use support::{Folder, input, safetensors, text};

/// What is given: numbers of every size and kind, units, and no numbers.
const VALUES: &[&[u8]] = &[
    b"",
    b" ",
    b"0",
    b"-1",
    b"4294967295",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e308",
    b"-1e308",
    b"1e-320",
    b"1e999",
    b"nan",
    b"inf",
    b"-inf",
    b"0x10",
    b"1 GB",
    b"25%",
    b"1,2",
    b"ep=0",
    b"ep=18446744073709551616",
    b"ep=nan",
    b"0=0",
    b"0=nan",
    b"18446744073709551616=1",
    b"=",
    b"a\nb",
    "\u{e9}\u{202e}".as_bytes(),
    b"\xff\xfe",
    b"no/such/folder",
    b"..",
];

/// A command that does something quickly; what an option in it gives is replaced where that option is tried.
const COMMANDS: &[&[&str]] = &[
    &["check", "small.moe"],
    &["fmt", "small.moe", "--check"],
    &["build", "small.moe", "--emit=plan", "--output=out"],
    // No token: little runs.
    &["run", "small.moeb", "--forward-only", "--tokens=0"],
    &["gate", "small.moe", "--input=in.safetensors", "--output=out", "--on=reference"],
    &["plan", "small.moe", "--sample=64"],
    &["simulate", "small.moe", "--sample=64"],
    &["place", "small.moe", "--load=counts.csv"],
    &["ptx", "check", "kernels.ptx"],
    &["ptx", "run", "job.toml", "--seeds=0"],
    &["explain", "M0301"],
    &["init", "new.moe"],
    &["inspect", "small.moeb"],
    &["schema", "plan"],
    &["completions", "bash"],
    &["man", "run"],
];

const INPUTS: [&str; 6] = ["small.moe", "small.moeb", "in.safetensors", "counts.csv", "kernels.ptx", "job.toml"];

fn with_inputs() -> Folder {
    let folder = Folder::with_small();
    folder.write("in.safetensors", safetensors(&input(6)));
    let counts: String = (0..8).map(|expert| format!("0,{expert},{}\n", 10 + expert)).collect();
    folder.write("counts.csv", format!("layer,expert,count\n{counts}"));
    folder.write("kernels.ptx", include_str!("../../../tests/data/ptx/mended.ptx"));
    folder.write("job.toml", include_str!("../../../tests/data/ptx/mended.toml").replace("mended.ptx", "kernels.ptx"));
    folder.succeeds(&["build", "small.moe"]);
    folder
}

/// How many words name a command.
fn words(command: &[&str]) -> usize {
    if command[0] == "ptx" { 2 } else { 1 }
}

/// The options of a command that take a value, as its help lists them.
fn options(folder: &Folder, command: &[&str]) -> Vec<String> {
    let help = folder.succeeds(&[command, &["--help"]].concat());
    let of_line = |line: &str| {
        let (option, value) = line.trim_start().trim_start_matches("-o, ").split_once(' ')?;
        (option.starts_with("--") && value.starts_with('<')).then(|| option.to_owned())
    };
    help.lines().filter_map(of_line).collect()
}

/// Whether a message says where the value was given.
fn says_where(said: &str, option: &str, value: &[u8]) -> bool {
    let name = option.trim_start_matches('-');
    // The terminal shows a character that turns the direction of text as one that is not known.
    let as_shown = String::from_utf8_lossy(value).replace('\u{202e}', "\u{fffd}");
    [option, name, &name.replace('-', "_"), &name.replace('-', " ")].iter().any(|name| said.contains(name))
        // A file is named by its path.
        || (!as_shown.trim().is_empty() && said.contains(as_shown.as_str()))
        || said.contains(&format!("{as_shown:?}"))
}

#[test]
fn every_value_of_every_option_is_taken_or_refused_in_its_name() {
    let mut tried = 0;
    let folder = with_inputs();
    let inputs = || INPUTS.map(|name| std::fs::read(folder.path(name)).expect("an input"));
    let before = inputs();
    for arguments in COMMANDS {
        let command = &arguments[..words(arguments)];
        for option in options(&folder, command).iter().map(String::as_str).chain([""]) {
            for value in VALUES {
                let replaced = format!("{option}=");
                let mut given: Vec<OsString> = arguments.iter().map(OsString::from).collect();
                if option.is_empty() {
                    given[command.len()] = OsStr::from_bytes(value).to_owned();
                } else {
                    given.retain(|argument| !argument.as_bytes().starts_with(replaced.as_bytes()));
                    let mut argument = OsString::from(&replaced);
                    argument.push(OsStr::from_bytes(value));
                    given.push(argument);
                }
                // Status 124 where it takes longer.
                let mut limited = Command::new("timeout");
                limited.arg("60").arg(env!("CARGO_BIN_EXE_moec")).args(&given).current_dir(folder.path("."));
                let output = limited.stdin(Stdio::null()).output().expect("the tool starts");
                let said = String::from_utf8_lossy(&output.stderr);
                let what = format!("{given:?}: {:?}: {said}", output.status);
                assert!(!said.contains("panicked"), "{what}");
                match output.status.code() {
                    Some(0) => {}
                    Some(1 | 2) => {
                        assert!(said.contains("error"), "{what}");
                        assert!(said.len() < 4000, "{what}");
                        assert!(option.is_empty() || says_where(&said, option, value), "{what}");
                    }
                    _ => panic!("{what}"),
                }
                tried += 1;
                assert!(inputs() == before, "{what}");
                // What a path made, but for the inputs; each is what it was.
                for entry in std::fs::read_dir(folder.path(".")).expect("a folder") {
                    let name = entry.expect("an entry").file_name();
                    if !INPUTS.iter().any(|input| name == *input) {
                        std::fs::remove_file(folder.path(".").join(name)).expect("a file");
                    }
                }
            }
        }
    }
    assert!(tried > 1500, "{tried}");
}

/// A huge number is not written out, and one of an option is told by the name of the option.
#[test]
fn a_huge_number_is_shown_briefly() {
    let folder = with_inputs();
    let said = folder.fails(&["simulate", "small.moe", "--nic-latency", "1e308"]);
    assert_eq!(said, "error: small.moe: deploy `tiny`: nic_latency is `1e308`: give a number from 0 to 1000000 µs\n");
    let output = folder.run(&["build", "small.moe", "--gpus-per-node", "73"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("'73' for '--gpus-per-node <GPUS_PER_NODE>': 73 is not in 1..=72"));
}
