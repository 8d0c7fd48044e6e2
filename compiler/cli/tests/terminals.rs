//! Terminals of different kinds: every command on 40, 80 and 200 columns, without colour, with ASCII alone, and with nobody who listens.

mod support;

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};

use support::{Folder, input, safetensors, text, workspace};
use unicode_width::UnicodeWidthStr as _;

/// Several mistakes in one line that is wider than a terminal.
const FAULTY: &str = "model faulty { hiden 64   experts 8 in 3 groups } cluster c { nodes 1 } // × a comment that is long enough to leave it";

/// Everything that the commands below read.
fn folder() -> Folder {
    let folder = Folder::with_small();
    folder.write("faulty.moe", FAULTY);
    folder.write("unformatted.moe", support::SMALL.replace("hidden  256", "hidden 256"));
    folder.write("input", safetensors(&input(7)));
    folder.write("counts.csv", counts());
    for name in ["exchange.ptx", "exchange.toml", "mended.ptx", "mended.toml"] {
        std::fs::copy(workspace().join("tests/data/ptx").join(name), folder.path(name)).expect("copied");
    }
    let example = workspace().join("dsl-examples/deepseek_v3.moe");
    std::fs::copy(example, folder.path("large.moe")).expect("copied");
    folder.succeeds(&["build", "small.moe", "-o", "small.moeb"]);
    folder
}

fn counts() -> String {
    let rows = (0..2).flat_map(|layer| (0..8).map(move |expert| format!("{layer},{expert},{}\n", 3 + expert * expert)));
    std::iter::once("layer,expert,count\n".to_owned()).chain(rows).collect()
}

/// What a person calls, and the status: every command of the tool, well and ill.
const CALLS: [(&str, i32); 45] = [
    ("--help", 0),
    ("--version", 0),
    ("frobnicate", 2),
    ("run --help", 0),
    ("plan --help", 0),
    ("simulate --help", 0),
    ("place --help", 0),
    ("build --help", 0),
    ("check small.moe", 0),
    ("check faulty.moe", 1),
    ("check missing.moe", 1),
    ("check small.moeb", 1),
    ("fmt small.moe", 0),
    ("fmt --check unformatted.moe", 1),
    ("fmt faulty.moe", 1),
    ("build small.moe -o out.moeb", 0),
    ("build small.moe --emit plan", 0),
    ("build small.moe --emit ast", 0),
    ("build small.moe --emit spec", 0),
    ("build small.moe --emit gate", 0),
    ("build large.moe", 1),
    ("build large.moe --deploy pretrain", 1),
    ("inspect small.moeb", 0),
    ("inspect small.moe", 1),
    ("run small.moe", 0),
    ("run small.moeb --forward-only --schedule random", 0),
    ("run small.moe --tokens 100000", 1),
    ("gate small.moe --input input --output routing", 0),
    ("gate small.moe --input small.moe --output routing", 1),
    ("plan large.moe --deploy pretrain --sample 512", 0),
    ("plan large.moe --deploy pretrain --sample 512 --compare ep=16,32,64,128", 0),
    ("plan small.moe", 0),
    ("plan small.moe --set ep=3", 1),
    ("simulate small.moe --slow-nic 1=0.5", 0),
    ("place small.moe --load counts.csv", 0),
    ("place small.moe --load input", 1),
    ("ptx check mended.ptx exchange.ptx", 0),
    ("ptx check small.moe", 1),
    ("ptx run mended.toml --seeds 1", 0),
    ("ptx run exchange.toml --seeds 1", 1),
    ("ptx run small.moeb", 1),
    ("explain M0606", 0),
    ("explain M9999", 1),
    ("init new.moe", 0),
    ("man frobnicate", 1),
];

/// A call on a terminal that is none: `COLUMNS` says how wide it is, if anything does.
fn call(folder: &Folder, call: &str, columns: Option<usize>, locale: &str) -> Output {
    let arguments: Vec<&str> = call.split(' ').collect();
    let mut command = folder.command(&arguments);
    for name in ["COLUMNS", "LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
        command.env_remove(name);
    }
    command.env("LANG", locale);
    if let Some(columns) = columns {
        command.env("COLUMNS", columns.to_string());
    }
    // `init` leaves a file that is there as it is.
    let _ = std::fs::remove_file(folder.path("new.moe"));
    command.output().expect("the tool starts")
}

/// Everything that is said, line by line, and that the status is the expected one.
fn said(output: &Output, status: i32, call: &str) -> String {
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{call}: {said}");
    assert!(!said.contains("panicked"), "{call}: {said}");
    said
}

/// Lines that are wider, but those that are one word, which nobody can wrap.
fn wider(said: &str, columns: usize) -> Vec<&str> {
    said.lines().filter(|line| line.width() > columns && line.trim().contains(' ')).collect()
}

#[test]
fn nothing_is_wider_than_80_columns_where_nobody_says_how_wide_it_is() {
    let folder = folder();
    for (words, status) in CALLS {
        let said = said(&call(&folder, words, None, "C.UTF-8"), status, words);
        assert!(said.contains(' ') || said.is_empty(), "{words}: {said}");
        assert_eq!(wider(&said, 80), [""; 0], "{words}");
    }
}

#[test]
fn without_utf8_everything_is_ascii_and_still_fits() {
    let folder = folder();
    for locale in ["C", "POSIX", "de_DE.ISO-8859-1", "en_US"] {
        for (words, status) in CALLS {
            if locale != "C" && !words.starts_with("plan small") && !words.starts_with("check") {
                continue;
            }
            let said = said(&call(&folder, words, None, locale), status, words);
            assert!(said.is_ascii(), "{locale}: {words}: {said}");
            assert_eq!(wider(&said, 80), [""; 0], "{words}");
        }
    }
    for locale in ["C.UTF-8", "en_US.utf8", "de_DE.UTF-8@euro"] {
        let said = said(&call(&folder, "plan small.moe", None, locale), 0, "plan");
        assert!(said.contains('•'), "{locale}: {said}");
    }
}

#[test]
fn forty_columns_can_be_read() {
    let folder = folder();
    for (words, status) in CALLS {
        // Code stays as it is written, and the help of options is the business of another library.
        if ["--emit", "explain M0606", "--help", "frobnicate"].iter().any(|code| words.contains(code)) {
            continue;
        }
        let said = said(&call(&folder, words, Some(40), "C.UTF-8"), status, words);
        assert_eq!(wider(&said, 40), [""; 0], "{words}");
    }
}

/// Each number of the report is there at any width.
#[test]
fn a_narrow_terminal_hides_no_number() {
    let folder = folder();
    let numbers = |columns| -> Vec<String> {
        let said =
            said(&call(&folder, "plan large.moe --deploy pretrain --sample 512", Some(columns), "C.UTF-8"), 0, "");
        let table = said.split("in words").next().expect("tables come first");
        let mut numbers: Vec<String> = table
            .split(|c: char| c.is_whitespace() || c == ';')
            .filter(|word| word.parse::<f64>().is_ok())
            .map(str::to_owned)
            .collect();
        numbers.sort();
        numbers.dedup();
        numbers
    };
    let all = numbers(400);
    assert!(all.len() > 60, "{all:?}");
    assert_eq!(numbers(80), all);
    assert_eq!(numbers(40), all);
}

/// A terminal of so many columns, both of whose ends are here.
fn terminal(columns: u16) -> (OwnedFd, OwnedFd) {
    let size = libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: both descriptors are written where there is room for one each; a name and attributes are not asked for.
    let made = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            (&raw const size).cast_mut(),
        )
    };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: both were just opened and belong to nobody else.
    unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// What is on a terminal after a call.
fn on_terminal(folder: &Folder, words: &str, columns: u16, environment: &[(&str, &str)]) -> String {
    let (ours, theirs) = terminal(columns);
    let arguments: Vec<&str> = words.split(' ').collect();
    let mut command = folder.command(&arguments);
    for name in ["COLUMNS", "NO_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm").envs(environment.iter().copied());
    let again = || Stdio::from(theirs.try_clone().expect("a descriptor"));
    let mut child = command.stdin(Stdio::null()).stdout(again()).stderr(again()).spawn().expect("the tool starts");
    drop((command, theirs));
    let mut shown = Vec::new();
    // The terminal ends with an error when nobody writes to it any more.
    let _ = File::from(ours).read_to_end(&mut shown);
    child.wait().expect("the tool ends");
    text(&shown).replace("\r\n", "\n")
}

#[test]
fn a_real_terminal_says_how_wide_it_is() {
    let folder = folder();
    for columns in [40, 80] {
        for words in ["plan small.moe", "simulate small.moe", "check faulty.moe", "check missing.moe"] {
            let shown = on_terminal(&folder, words, columns, &[("NO_COLOR", "1"), ("TERM", "dumb")]);
            assert!(shown.lines().count() > 1 || words.contains("missing"), "{words}: {shown}");
            assert_eq!(wider(&shown, columns.into()), [""; 0], "{words}");
        }
    }
    // Prose stays legible on a wide one; tables take what they need.
    let shown = on_terminal(&folder, "plan small.moe", 200, &[]);
    let words = shown.split("in words").nth(1).expect("words");
    assert_eq!(wider(words, 100), [""; 0]);
    assert!(words.lines().any(|line| line.width() > 80), "{words}");
    // A terminal that does not know its size.
    let shown = on_terminal(&folder, "plan small.moe", 0, &[]);
    assert_eq!(wider(&shown, 80), [""; 0]);
}

#[test]
fn colour_is_for_those_who_see_it() {
    let folder = folder();
    let coloured =
        |environment: &[(&str, &str)]| on_terminal(&folder, "check faulty.moe", 80, environment).contains("\u{1b}[");
    assert!(coloured(&[]));
    assert!(coloured(&[("NO_COLOR", "")]), "an empty one says nothing");
    assert!(!coloured(&[("NO_COLOR", "1")]));
    assert!(!coloured(&[("TERM", "dumb")]));
    assert!(!coloured(&[("CLICOLOR", "0")]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    let piped = |environment: &[(&str, &str)], option: &str| {
        let mut command = folder.command(&["check", "faulty.moe", "--color", option]);
        text(&command.envs(environment.iter().copied()).output().expect("the tool starts").stderr).contains("\u{1b}[")
    };
    assert!(!piped(&[], "auto"));
    assert!(piped(&[("CLICOLOR_FORCE", "1")], "auto"));
    assert!(!piped(&[("CLICOLOR_FORCE", "0")], "auto"));
    assert!(piped(&[("NO_COLOR", "1")], "always"), "whoever asks for it gets it");
    let mut command = folder.command(&["check", "faulty.moe", "--color", "always"]);
    let said = text(&command.env("LC_ALL", "C").output().expect("the tool starts").stderr);
    assert!(said.contains("\u{1b}[") && said.is_ascii(), "{said}");
}

/// A bar that is drawn anew needs a terminal that can go back.
#[test]
fn a_dumb_terminal_is_never_told_to_go_back() {
    let folder = folder();
    for words in ["run small.moe", "simulate small.moe", "check faulty.moe"] {
        let shown = on_terminal(&folder, words, 80, &[("TERM", "dumb")]);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\r'), "{words}: {shown:?}");
    }
}

#[test]
fn a_file_cannot_tell_the_terminal_anything() {
    let folder = Folder::new();
    let name = "\u{1b}[31mred.moe";
    folder.write(name, "model m { \u{1b}[2J }");
    for arguments in [["check", name], ["check", "\u{1b}[31mmissing.moe"]] {
        let said = text(&folder.run(&arguments).stderr);
        assert!(said.contains("red.moe") || said.contains("missing.moe"), "{said}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
}

/// A shell that redirects, with the tool's status as the last line of its standard error.
fn redirected(folder: &Folder, call: &str, redirection: &str) -> (Option<i32>, String) {
    let script = format!("{} {call} {redirection}", env!("CARGO_BIN_EXE_moec"));
    let output = Command::new("sh").args(["-c", &script]).current_dir(folder.path(".")).output().expect("a shell");
    assert_eq!(output.status.signal(), None, "{script}");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn nobody_listens_and_the_status_is_right() {
    let folder = folder();
    let before = folder.files();
    for (words, status) in CALLS {
        if words.starts_with("plan large") || words.starts_with("init") || words.contains("out") {
            continue;
        }
        for redirection in [">&-", "2>&-", ">&- 2>&-", "<&-", "2> /dev/full"] {
            let (found, said) = redirected(&folder, words, redirection);
            assert_eq!(found, Some(status), "{words} {redirection}: {said}");
            assert!(!said.contains("panicked"), "{words} {redirection}: {said}");
        }
    }
    assert_eq!(folder.files(), before, "nothing is left over");
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let folder = folder();
    let before = folder.files();
    for words in [
        "--help",
        "--version",
        "build small.moe --emit plan",
        "build small.moe -o -",
        "run small.moe",
        "plan small.moe --format json",
        "simulate small.moe",
        "place small.moe --load counts.csv",
        "explain M0301",
        "inspect small.moeb",
        "ptx check mended.ptx",
        "ptx run mended.toml --seeds 1",
        "schema run",
        "man",
        "completions bash",
        "fmt --check unformatted.moe",
        "gate small.moe --input input --output -",
        "init -",
    ] {
        let (status, said) = redirected(&folder, words, "> /dev/full");
        assert_eq!(status, Some(1), "{words}: {said}");
        assert!(said.contains("error: cannot write <stdout>: "), "{words}: {said}");
    }
    assert_eq!(folder.files(), before, "nothing is left over");
}

/// What `docs/cli.md` says is looked at here is looked at: every command of the tool.
#[test]
fn every_command_is_called_here() {
    let help = Folder::new().succeeds(&["--help"]);
    let of_tool = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    for name in of_tool.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next()) {
        // What these print is read by a shell, or by `man`; `serve` says one line and stays.
        if ["help", "completions", "schema", "serve"].contains(&name) {
            continue;
        }
        assert!(CALLS.iter().any(|(words, _)| words.split(' ').next() == Some(name)), "{name}");
    }
}
