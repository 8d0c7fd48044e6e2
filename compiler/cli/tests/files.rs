//! Files that a command line names: nothing that is read is ever overwritten, whatever its name; a file of another kind is called what it
//! is; `-` is standard input and output.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use support::{Folder, SMALL, input, safetensors, text};

/// A folder with an input of every kind.
fn with_everything() -> Folder {
    let folder = Folder::with_small();
    folder.write("in.safetensors", safetensors(&input(6)));
    let counts: String = (0..8).map(|expert| format!("0,{expert},{}\n", 10 + expert)).collect();
    folder.write("counts.csv", format!("layer,expert,count\n{counts}"));
    folder.succeeds(&["build", "small.moe"]);
    folder.succeeds(&["place", "small.moe", "--load", "counts.csv", "-o", "placement.json"]);
    folder
}

/// Every file of a folder with its bytes.
fn contents(folder: &Folder) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| std::fs::read(folder.path(&name)).ok().map(|bytes| (name, bytes));
    folder.files().into_iter().filter_map(read).collect()
}

fn refuses(folder: &Folder, arguments: &[&str]) -> String {
    let before = contents(folder);
    let said = folder.fails(arguments);
    assert!(contents(folder) == before, "{arguments:?} changed a file");
    said
}

/// Each option that writes, with each one that reads, under the same name.
#[test]
fn an_output_that_is_an_input_destroyed_it() {
    let folder = with_everything();
    for (arguments, output, read) in [
        (&["build", "small.moe", "-o", "small.moe"][..], "--output small.moe", "FILE small.moe"),
        (&["build", "small.moe", "--emit", "ptx", "-o", "small.moe"], "--output small.moe", "FILE small.moe"),
        (&["run", "small.moe", "--output", "small.moe"], "--output small.moe", "FILE small.moe"),
        (&["run", "small.moeb", "--picture", "small.moeb"], "--picture small.moeb", "FILE small.moeb"),
        (
            &["run", "small.moe", "--input", "in.safetensors", "--output", "in.safetensors"],
            "--output in.safetensors",
            "--input in.safetensors",
        ),
        (
            &["run", "small.moe", "--input", "in.safetensors", "--picture", "in.safetensors"],
            "--picture in.safetensors",
            "--input in.safetensors",
        ),
        (
            &["gate", "small.moe", "--input", "in.safetensors", "--output", "in.safetensors"],
            "--output in.safetensors",
            "--input in.safetensors",
        ),
        (
            &["gate", "small.moe", "--input", "in.safetensors", "--output", "small.moe"],
            "--output small.moe",
            "FILE small.moe",
        ),
        (
            &["place", "small.moe", "--load", "counts.csv", "-o", "counts.csv"],
            "--output counts.csv",
            "--load counts.csv",
        ),
        (
            &["place", "small.moe", "--load", "counts.csv", "--current", "placement.json", "-o", "placement.json"],
            "--output placement.json",
            "--current placement.json",
        ),
        (&["place", "small.moe", "--load", "counts.csv", "-o", "small.moe"], "--output small.moe", "FILE small.moe"),
    ] {
        let said = refuses(&folder, arguments);
        let expected = format!(
            "error: `{output}` is the file that `{read}` reads, and would overwrite it: give the output another name\n"
        );
        assert_eq!(said, expected, "{arguments:?}");
    }
}

/// The same file by a path, a link of either kind, a descriptor, and a name that a file system may take for the same.
#[test]
fn another_name_of_an_input_destroyed_it_too() {
    let folder = with_everything();
    std::fs::create_dir(folder.path("sub")).expect("a folder");
    symlink("../in.safetensors", folder.path("sub/soft")).expect("a link");
    symlink("soft", folder.path("sub/softer")).expect("a link to a link");
    symlink(folder.path("sub"), folder.path("elsewhere")).expect("a link to a folder");
    std::fs::hard_link(folder.path("in.safetensors"), folder.path("hard")).expect("a hard link");
    let absolute = folder.path("in.safetensors");
    let absolute = absolute.to_str().expect("a name");
    for name in
        ["./in.safetensors", "sub/../in.safetensors", "sub/soft", "sub/softer", "elsewhere/soft", "hard", absolute]
    {
        for arguments in [
            ["gate", "small.moe", "--input", "in.safetensors", "--output", name],
            ["gate", "small.moe", "--input", name, "--output", "in.safetensors"],
            ["run", "small.moe", "--input", name, "--output", "in.safetensors"],
            ["run", "small.moe", "--input", "in.safetensors", "--picture", name],
        ] {
            assert!(refuses(&folder, &arguments).contains("would overwrite it"), "{arguments:?}");
        }
    }
}

/// A source that is called like a bundle would have become one.
#[test]
fn a_bundle_without_a_name_of_its_own_destroyed_its_source() {
    let folder = Folder::new();
    folder.write("layer.moeb", SMALL);
    let said = refuses(&folder, &["build", "layer.moeb"]);
    assert_eq!(
        said,
        "error: the output would be layer.moeb, which is the input and would be overwritten: name another one with `-o`\n"
    );
    std::fs::hard_link(folder.path("layer.moeb"), folder.path("layer.moe")).expect("a link");
    refuses(&folder, &["build", "layer.moe"]);
}

#[test]
fn two_outputs_with_one_name_lost_one() {
    let folder = with_everything();
    symlink("picture.svg", folder.path("link")).expect("a link");
    for (output, picture) in [("out", "out"), ("out", "./out"), ("out", "OUT"), ("small.svg", "Small.SVG")] {
        let said = refuses(&folder, &["run", "small.moe", "--output", output, "--picture", picture]);
        assert!(said.contains("are the same file, or may be: give them different names"), "{said}");
    }
}

/// What a shell opens is an output too.
#[test]
fn standard_output_that_goes_to_an_input_spoilt_it() {
    let folder = with_everything();
    for (stream, arguments) in [
        ("standard output", &["build", "small.moe", "--emit", "ptx"][..]),
        ("standard output", &["plan", "small.moe"]),
        ("standard output", &["fmt", "small.moe"]),
        ("standard error", &["check", "small.moe"]),
    ] {
        let appended = std::fs::OpenOptions::new().append(true).open(folder.path("small.moe")).expect("a file");
        let mut command = folder.command(arguments);
        if stream == "standard output" {
            command.stdout(appended)
        } else {
            command.stderr(appended)
        };
        let output = command.output().expect("the tool starts");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        if stream == "standard output" {
            let said = text(&output.stderr);
            assert!(said.starts_with("error: standard output goes to the file that `FILE"), "{said}");
            assert_eq!(std::fs::read_to_string(folder.path("small.moe")).expect("text"), SMALL);
        }
    }
}

/// Nothing is in the way of what destroys nothing.
#[test]
fn devices_and_new_names_are_no_conflict() {
    let folder = with_everything();
    folder.succeeds(&["run", "small.moe", "--output", "/dev/null", "--picture", "/dev/null"]);
    folder.succeeds(&["build", "small.moe", "-o", "SMALL.moe"]);
    symlink("nowhere", folder.path("dangling")).expect("a link");
    folder.succeeds(&["build", "small.moe", "-o", "dangling"]);
    assert_eq!(std::fs::read_to_string(folder.path("small.moe")).expect("text"), SMALL);
}

#[test]
fn a_read_only_output_was_replaced() {
    let folder = with_everything();
    let kept = folder.write("kept", "precious");
    let mut permissions = kept.metadata().expect("a file").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&kept, permissions).expect("read-only");
    for arguments in [
        &["build", "small.moe", "-o", "kept"][..],
        &["run", "small.moe", "--picture", "kept"],
        &["gate", "small.moe", "--input", "in.safetensors", "--output", "kept"],
        &["place", "small.moe", "--load", "counts.csv", "-o", "kept"],
    ] {
        assert_eq!(refuses(&folder, arguments), "error: cannot write kept: permission denied\n", "{arguments:?}");
    }
}

/// Every command that reads a file, with every kind of file that it does not take.
#[test]
fn a_file_of_another_kind_was_a_riddle() {
    let folder = with_everything();
    folder.write("empty", "");
    folder.write("blank", " \n\n");
    folder.write("program", [&b"\x7fELF\x02\x01\x01"[..], &[0; 4096]].concat());
    let mut said = String::new();
    let other = ["small.moeb", "in.safetensors", "placement.json", "empty", "blank", "program", ".", "missing"];
    for file in other {
        let answers: Vec<String> = [
            &["check", file][..],
            &["fmt", file],
            &["build", file, "-o", "out"],
            &["gate", file, "--input", "in.safetensors", "--output", "out"],
            &["plan", file],
            &["simulate", file],
            &["place", file, "--load", "counts.csv"],
        ]
        .map(|arguments| refuses(&folder, arguments))
        .to_vec();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
        said.push_str(&format!("a .moe file: {}", answers[0]));
        if file != "small.moeb" {
            said.push_str(&format!("run: {}", refuses(&folder, &["run", file])));
        }
    }
    for (option, files) in [
        (&["gate", "small.moe", "--output", "out", "--input"][..], &["small.moe", "small.moeb", "empty", "."][..]),
        (&["run", "small.moe", "--input"], &["small.moe", "placement.json"]),
        (&["plan", "small.moe", "--input"], &["small.moe", "counts.csv", "."]),
        (&["simulate", "small.moe", "--input"], &["small.moeb"]),
        (&["plan", "small.moe", "--load"], &["small.moe", "in.safetensors", "empty"]),
        (&["plan", "small.moe", "--placement"], &["small.moe", "small.moeb", "program"]),
        (&["plan", "small.moe", "--calibrate"], &["placement.json", "small.moeb"]),
        (&["place", "small.moe", "--load"], &["small.moe", "in.safetensors"]),
        (&["place", "small.moe", "--load", "counts.csv", "--current"], &["small.moe", "empty"]),
    ] {
        for file in files {
            said.push_str(&format!("{}: {}", option.join(" "), refuses(&folder, &[option, &[file]].concat())));
        }
    }
    insta::assert_snapshot!(said);
}

/// As in a pipeline: the source comes in, the result goes out, and no file is made.
#[test]
fn a_dash_is_standard_input_and_output() {
    let folder = with_everything();
    let before = folder.files();
    let piped = |arguments: &[&str], stdin: &[u8]| {
        let output = folder.run_with(arguments, stdin);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        output.stdout
    };
    let tensors = safetensors(&input(6));
    let (bundle, counts) = (read(&folder, "small.moeb"), read(&folder, "counts.csv"));
    assert_eq!(piped(&["check", "-"], SMALL.as_bytes()), b"");
    let untidy = SMALL.replace("    hidden  256", " hidden 256");
    assert_eq!(text(&piped(&["fmt", "-"], untidy.as_bytes())), SMALL);
    assert_eq!(text(&piped(&["fmt", "-"], SMALL.as_bytes())), SMALL);
    assert!(piped(&["build", "-", "-o", "-"], SMALL.as_bytes()) == bundle);
    assert!(text(&piped(&["build", "-", "--emit", "ptx"], SMALL.as_bytes())).contains(".entry dispatch_send("));
    assert!(text(&piped(&["run", "-"], SMALL.as_bytes())).contains("verified"));
    assert!(text(&piped(&["run", "-", "--forward-only"], &bundle)).contains("verified"));
    assert!(text(&piped(&["run", "small.moe", "--input", "-"], &tensors)).contains("verified"));
    assert!(text(&piped(&["plan", "-"], SMALL.as_bytes())).contains("deploy tiny"));
    assert!(text(&piped(&["simulate", "-"], SMALL.as_bytes())).contains("tiny"));
    let placed = piped(&["place", "small.moe", "--load", "-", "--format", "json"], &counts);
    assert_eq!(placed, read(&folder, "placement.json"));
    folder.succeeds(&["gate", "small.moe", "--input", "in.safetensors", "--output", "out"]);
    let gated = piped(&["gate", "-", "--input", "in.safetensors", "--output", "-"], SMALL.as_bytes());
    assert!(gated == read(&folder, "out"));
    std::fs::remove_file(folder.path("out")).expect("removed");
    assert_eq!(folder.files(), before);
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).expect("a file")
}

#[test]
fn what_a_dash_cannot_be_is_said() {
    let folder = with_everything();
    let case = |arguments: &[&str], stdin: &[u8], status| {
        let before = folder.files();
        let output = folder.run_with(arguments, stdin);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert_eq!(folder.files(), before, "{arguments:?}");
        said.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        case(&["build", "-"], SMALL.as_bytes(), 1),
        "error: standard input has no name that the output could have: name the output with `-o`"
    );
    assert_eq!(
        case(&["gate", "-", "--input", "-", "--output", "out"], SMALL.as_bytes(), 1),
        "error: `FILE <stdin>` and `--input <stdin>`: standard input can be read once only"
    );
    for option in ["--output", "--picture"] {
        assert!(
            case(&["run", "small.moe", option, "-"], b"", 2).contains("standard output is for what the command prints")
        );
    }
    assert!(case(&["place", "small.moe", "--load", "counts.csv", "-o", "-"], b"", 2).contains("name a file"));
    assert_eq!(
        case(&["check", "-"], b"", 1),
        "error: <stdin> is empty, and a .moe file is wanted here: `moec init NAME` writes one to begin with"
    );
    let wrong = case(&["check", "-"], SMALL.replace("sigmoid", "sigmod").as_bytes(), 1);
    assert!(wrong.contains("M0"), "{wrong}");
}

/// The file that a shell has opened as standard input is an input like any other.
#[test]
fn an_output_that_is_standard_input_destroyed_it() {
    let folder = with_everything();
    for arguments in [&["build", "-", "-o", "small.moe"][..], &["run", "-", "--picture", "./small.moe"]] {
        let before = contents(&folder);
        let mut command = folder.command(arguments);
        let output = command.stdin(open(&folder.path("small.moe"))).output().expect("the tool starts");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains("would overwrite it"), "{}", text(&output.stderr));
        assert!(contents(&folder) == before);
    }
}

fn open(path: &Path) -> Stdio {
    std::fs::File::open(path).expect("a file").into()
}
