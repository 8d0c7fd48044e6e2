//! A process that is ended from outside leaves nothing behind, and its status is what a shell expects.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Folder, text};

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGXFSZ: i32 = 25;

/// The tool, with a folder for temporary files that is empty before and has to be afterwards.
struct Watched {
    folder: Folder,
    temporary: PathBuf,
}

impl Watched {
    fn new() -> Watched {
        let folder = Folder::with_small();
        let temporary = folder.path("temporary");
        std::fs::create_dir(&temporary).expect("a folder");
        Watched { folder, temporary }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.folder.command(arguments);
        command.env("TMPDIR", &self.temporary).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A `ptxas` that does what a script says.
    fn assembler(&self, script: &str) -> PathBuf {
        let tools = self.folder.path("tools");
        std::fs::create_dir_all(&tools).expect("a folder");
        let program = self.folder.write("tools/ptxas", format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        tools
    }

    fn left_over(&self) -> Vec<String> {
        let in_folder = self.folder.files().into_iter().filter(|name| name.starts_with('.'));
        in_folder.chain(names(&self.temporary)).collect()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Every program that the system has does it the same way.
fn send(signal: i32, process: &Child) {
    let sent = Command::new("kill").arg(format!("-{signal}")).arg(process.id().to_string()).status();
    assert!(sent.expect("`kill` starts").success());
}

/// A pipe that nobody writes to: who reads it waits for ever, without a process of its own.
fn pipe(watched: &Watched) -> String {
    let path = watched.folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("`mkfifo` starts").success());
    path.display().to_string()
}

/// Until a file is there, which says how far a process is.
fn wait_for(path: &Path) {
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether there is such a process, one that has ended and was not waited for aside.
fn lives(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The assembler has begun, its folder is there, and the signal goes to the tool alone, as from `kill`: the assembler ends with it.
#[test]
fn a_signal_while_ptxas_runs_left_its_folder_and_ptxas_itself() {
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        for arguments in [&["build", "small.moe"][..], &["build", "small.moe", "--emit", "sass"], &["run", "small.moe"]]
        {
            let watched = Watched::new();
            let begun = watched.folder.path("begun");
            // As many as there are cores run at the same time, and each says who it is.
            let script =
                format!("echo $$ >> {0}.all\nmv {0}.all {0}\nread nothing < {1}", begun.display(), pipe(&watched));
            let tools = watched.assembler(&script);
            let child = watched.command(arguments).env("MOE_CUDA_TOOLS", tools).spawn().expect("the tool starts");
            wait_for(&begun);
            assert!(!names(&watched.temporary).is_empty(), "there is something to tidy up");
            send(signal, &child);
            let output = child.wait_with_output().expect("the tool ends");
            assert_eq!(output.status.signal(), Some(signal), "{arguments:?}: {}", text(&output.stderr));
            let assembler = std::fs::read_to_string(&begun).expect("its process id");
            let begin = Instant::now();
            while assembler.lines().any(lives) {
                assert!(begin.elapsed() < Duration::from_secs(10), "ptxas lives on: signal {signal}, {arguments:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(watched.left_over(), [""; 0], "signal {signal}, {arguments:?}");
            assert!(!watched.folder.path("small.moeb").exists());
        }
    }
}

/// What `$?` is in a shell.
#[test]
fn a_shell_sees_130_and_143() {
    let watched = Watched::new();
    for (signal, status) in [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129)] {
        // The assembler ends the tool that started it.
        let tools = watched.assembler(&format!("kill -{signal} $PPID\nsleep 1"));
        // As from a terminal: a script that is not the last command keeps the shell.
        let script = format!("{} build small.moe; echo $?", env!("CARGO_BIN_EXE_moec"));
        let shell = Command::new("sh")
            .args(["-c", &script])
            .current_dir(watched.folder.path("."))
            .env("TMPDIR", &watched.temporary)
            .env("MOE_CUDA_TOOLS", tools)
            .output()
            .expect("a shell");
        assert_eq!(text(&shell.stdout), format!("{status}\n"));
        assert_eq!(watched.left_over(), [""; 0]);
    }
}

/// Wherever the signal comes: at the beginning, while files are written, at the end.
#[test]
fn a_signal_at_any_moment_leaves_nothing() {
    let (mut ended, mut ran) = (0, 0);
    let watched = Watched::new();
    let whole = {
        let begin = Instant::now();
        watched.folder.succeeds(&["run", "small.moe", "--output", "out", "--picture", "picture.svg"]);
        begin.elapsed()
    };
    std::fs::remove_file(watched.folder.path("out")).expect("there");
    std::fs::remove_file(watched.folder.path("picture.svg")).expect("there");
    const MOMENTS: u32 = 24;
    for moment in 0..MOMENTS {
        let signal = [SIGINT, SIGTERM, SIGHUP][moment as usize % 3];
        let arguments = ["run", "small.moe", "--output", "out", "--picture", "picture.svg"];
        let child = watched.command(&arguments).spawn().expect("the tool starts");
        // Up to a little beyond its end.
        std::thread::sleep(whole * moment / (MOMENTS - 2));
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).output();
        let output = child.wait_with_output().expect("the tool ends");
        match output.status.signal() {
            Some(by) => {
                assert_eq!(by, signal);
                ended += 1;
            }
            None => {
                assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
                ran += 1;
            }
        }
        assert_eq!(watched.left_over(), [""; 0], "moment {moment}");
        // What is there is whole.
        for name in ["out", "picture.svg"] {
            if let Ok(bytes) = std::fs::read(watched.folder.path(name)) {
                let whole = if name == "out" {
                    safetensors::SafeTensors::deserialize(&bytes).is_ok()
                } else {
                    bytes.trim_ascii_end().ends_with(b"</svg>")
                };
                assert!(whole, "{name} at moment {moment}");
                std::fs::remove_file(watched.folder.path(name)).expect("there");
            }
        }
    }
    assert!(ended > 0, "{ended} were ended, {ran} were not");
}

/// `nohup` and a shell's background jobs have a process ignore signals; it shall not begin to heed them.
#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let watched = Watched::new();
    let begun = watched.folder.path("begun");
    let tools = watched.assembler(&format!("touch {}\nsleep 0.3\nexit 1", begun.display()));
    let script = format!("trap '' HUP; exec {} build small.moe", env!("CARGO_BIN_EXE_moec"));
    let child = Command::new("sh")
        .args(["-c", &script])
        .current_dir(watched.folder.path("."))
        .env("MOE_CUDA_TOOLS", tools)
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell");
    wait_for(&begun);
    send(SIGHUP, &child);
    let output = child.wait_with_output().expect("the tool ends");
    // The assembler refused: it was waited for.
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("ptxas refuses the kernel"), "{}", text(&output.stderr));
}

/// A limit of the size of files is a signal too, by default.
#[test]
fn a_limit_of_file_sizes_ended_the_process_half_way() {
    let watched = Watched::new();
    let old = watched.folder.write("small.moeb", "the old one");
    let script = format!("ulimit -f 1; exec {} build small.moe", env!("CARGO_BIN_EXE_moec"));
    // No assembler, which would meet the limit first.
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(watched.folder.path("."))
        .env("TMPDIR", &watched.temporary)
        .env("MOE_CUDA_TOOLS", watched.folder.path("none"))
        .output()
        .expect("a shell");
    assert_ne!(output.status.signal(), Some(SIGXFSZ));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("error: cannot write small.moeb: "), "{}", text(&output.stderr));
    assert_eq!(watched.left_over(), [""; 0]);
    assert_eq!(std::fs::read_to_string(old).expect("text"), "the old one");
}

/// Whoever reads closes the pipe: `moec … | head -1`.
#[test]
fn a_closed_pipe_leaves_nothing() {
    let watched = Watched::new();
    for arguments in [
        "build small.moe --emit ptx",
        "build small.moe -o -",
        "run small.moe --output out --picture picture.svg",
        "plan small.moe",
        "simulate small.moe",
        "fmt - < small.moe",
        "explain M0301",
        "--help",
        "check --help",
        "--message-format json check missing.moe 2>&1",
    ] {
        for reader in ["head -c 1 > /dev/null", "true", "exec 0<&-; sleep 0.1"] {
            let script = format!("( {} {arguments}; echo $? >&2 ) | ( {reader} )", env!("CARGO_BIN_EXE_moec"));
            let output = Command::new("sh")
                .arg0("sh")
                .args(["-c", &script])
                .current_dir(watched.folder.path("."))
                .env("TMPDIR", &watched.temporary)
                .output()
                .expect("a shell");
            let said = text(&output.stderr);
            assert!(!said.contains("panicked"), "{arguments}: {said}");
            let status: i32 = said.lines().last().and_then(|line| line.parse().ok()).expect("a status");
            let expected = i32::from(arguments.contains("missing"));
            assert_eq!(status, expected, "{arguments} | {reader}: {said}");
            assert_eq!(watched.left_over(), [""; 0], "{arguments} | {reader}");
        }
    }
}
