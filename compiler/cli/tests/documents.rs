//! Every command that README.md and the pages of docs/ show works as it is written: a page's commands run in its order, in a folder like a
//! fresh clone, with nothing there but what the repository ships and what an earlier command of the page made.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Folder, text, workspace};
use unicode_width::UnicodeWidthStr as _;

/// What a page shows and this test does not run, and why.
const NOT_RUN: [(&str, &str); 5] = [
    ("make demo", "builds the tool again, optimised; its last step is the `moec run` that README shows"),
    ("make test", "is what runs this test"),
    ("make bench", "measures, for many minutes"),
    ("make judge", "runs every mutant of every kernel, for some minutes"),
    ("cargo install --path compiler/cli", "builds the tool again, optimised, and writes outside of the clone"),
];

/// Words with which a line of a block is a command.
const PROGRAMS: [&str; 4] = ["moec", "make", "cargo", "target/release/moec"];

/// A page by its path in the repository, and its text.
fn pages() -> Vec<(String, String)> {
    let docs = std::fs::read_dir(workspace().join("docs")).expect("the pages");
    let mut names: Vec<String> = docs
        .map(|entry| format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy()))
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"))
        .collect();
    names.sort();
    names.insert(0, "README.md".to_owned());
    let read = |name: String| (std::fs::read_to_string(workspace().join(&name)).expect("a page"), name);
    names.into_iter().map(read).map(|(text, name)| (name, text)).collect()
}

/// The lines of each block of a page that could be for a shell: indented by four, or fenced without another language.
fn blocks(page: &str) -> Vec<Vec<&str>> {
    let (mut blocks, mut fence, mut blank): (Vec<Vec<&str>>, Option<bool>, bool) = (Vec::new(), None, true);
    let mut open = false;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            let shell = ["", "sh", "console", "bash"].contains(&language.trim());
            fence = if fence.is_some() { None } else { Some(shell) };
            open = false;
        } else if fence == Some(true) || fence.is_none() && line.starts_with("    ") && (blank || open) {
            if !open {
                blocks.push(Vec::new());
                open = true;
            }
            blocks.last_mut().expect("one is open").push(line.trim());
        } else if !line.trim().is_empty() {
            open = false;
        }
        blank = line.trim().is_empty();
    }
    blocks
}

/// The commands of a block, each on one line; none if it is not for a shell. What is neither a command nor a comment is an error.
fn commands(page: &str, block: &[&str]) -> Vec<String> {
    let program = |line: &str| PROGRAMS.contains(&line.split(' ').next().unwrap_or_default());
    if !block.iter().any(|line| program(line)) {
        return Vec::new();
    }
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.iter().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (part, more) = line.strip_suffix('\\').map_or((*line, false), |part| (part.trim_end(), true));
        match commands.last_mut().filter(|_| goes_on) {
            Some(command) => *command += &format!(" {part}"),
            None => {
                assert!(program(line), "{page}: `{line}` stands among commands and is none");
                commands.push(part.to_owned());
            }
        }
        goes_on = more;
    }
    commands
}

/// A synopsis names what the user gives in capitals.
fn is_synopsis(block: &[&str]) -> bool {
    block.iter().any(|line| line.split(' ').any(|word| ["FILE", "FILE…", "FILE|BUNDLE"].contains(&word)))
}

/// Without its comment and the blanks before it.
fn plain(command: &str) -> &str {
    command.split(" #").next().unwrap_or_default().trim()
}

/// Files whose name a page says behind the language of a block, such as "moe layer.moe".
fn write_files(page: &str, folder: &Folder) {
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```").and_then(|fence| fence.split_once(' ')).map(|(_, name)| name) else {
            continue;
        };
        let content: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if name.contains('.') {
            std::fs::write(folder.path(name), content.join("\n") + "\n").expect("a file");
        }
    }
}

/// What a clone has that commands read.
fn clone_into(folder: &Folder) {
    for part in ["README.md", "Makefile", "docs", "dsl-examples", "tests/data"] {
        copy(&workspace().join(part), &folder.path(part));
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
    } else {
        std::fs::copy(from, to).expect("a file");
    }
}

#[test]
fn every_shown_command_works_as_it_is_written() {
    let tool = PathBuf::from(env!("CARGO_BIN_EXE_moec"));
    let mut folders = vec![tool.parent().expect("a folder").to_owned()];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(folders).expect("folders of a path");
    let (mut run, mut not_run) = (0, BTreeSet::new());
    for (name, page) in pages() {
        let folder = Folder::new();
        clone_into(&folder);
        write_files(&page, &folder);
        for command in blocks(&page).iter().filter(|block| !is_synopsis(block)).flat_map(|block| commands(&name, block))
        {
            let shown = plain(&command);
            if !shown.starts_with("moec ") {
                assert!(NOT_RUN.iter().any(|(known, _)| *known == shown), "{name}: nothing is known of `{shown}`");
                not_run.insert(shown.to_owned());
                continue;
            }
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(&command).env("PATH", &path).env("LC_ALL", "C.UTF-8").env_remove("COLUMNS");
            shell.current_dir(folder.path("."));
            let output = shell.output().expect("a shell");
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{name}: {command}\n{said}");
            // A note says what is worth knowing of a deploy, such as that it is planned and not built.
            let fault = said.lines().find(|line| line.starts_with("error") || line.starts_with("warning"));
            assert_eq!(fault, None, "{name}: {command}: {said}");
            let units = text(&output.stdout).split([' ', ',', '\n']).filter(|word| *word == "us").count();
            assert_eq!(units, 0, "{name}: {command}: microseconds are µs");
            let is_for_tools = command.contains("--format") || command.contains("schema");
            let shown = text(&output.stdout);
            let wide: Vec<&str> = shown.lines().filter(|line| !is_for_tools && line.width() > 80).collect();
            assert_eq!(wide, [""; 0], "{name}: {command} is wider than 80 columns");
            run += 1;
        }
    }
    assert!(run >= 25, "{run} commands");
    let known: BTreeSet<String> = NOT_RUN.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(not_run, known, "what is not run is shown somewhere");
}

/// The overview of docs/cli.md has the commands of the tool, and options that they take.
#[test]
fn the_overview_shows_what_the_tool_has() {
    let page = std::fs::read_to_string(workspace().join("docs/cli.md")).expect("the page");
    let overview: Vec<Vec<&str>> = blocks(&page).into_iter().filter(|block| is_synopsis(block)).collect();
    let [lines] = &overview[..] else { panic!("one overview: {overview:?}") };
    let folder = Folder::new();
    let help = folder.succeeds(&["--help"]);
    let of_tool = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = of_tool.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: BTreeSet<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let shown: BTreeSet<&str> = lines.iter().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(shown, names.into_iter().filter(|name| *name != "help").collect());
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "moec", "{line}");
        let help = folder.succeeds(&[words[1], "--help"]);
        let option = |word: &str| word.trim_matches(|c: char| "[]`;,.()".contains(c)).to_owned();
        for option in words.iter().map(|word| option(word)).filter(|word| word.starts_with('-')) {
            let has = help.split([' ', ',', '\n']).any(|word| word == option);
            assert!(has, "{line}: {} has no {option}", words[1]);
        }
    }
}

/// README is read in a terminal of 80 columns first: no line wraps there, but those of tables, which Markdown has on one line each.
#[test]
fn readme_fits_eighty_columns() {
    let page = std::fs::read_to_string(workspace().join("README.md")).expect("the page");
    let wide: Vec<&str> = page.lines().filter(|line| line.width() > 80 && !line.starts_with('|')).collect();
    assert_eq!(wide, [""; 0]);
}
