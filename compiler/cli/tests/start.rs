//! What somebody needs who has just installed the tool: a file to start from, completions, man pages.

mod support;

use support::{Folder, text};

#[test]
fn the_first_file_is_sound_canonical_and_runs() {
    let folder = Folder::new();
    assert!(folder.run(&["init"]).status.success());
    assert!(folder.run(&["check", "layer.moe", "--deny-warnings"]).status.success(), "no error and no warning");
    assert!(folder.run(&["fmt", "--check", "layer.moe"]).status.success(), "as `moec fmt` writes it");
    let run = folder.run(&["run", "layer.moe", "--tokens", "5"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let printed = folder.run(&["init", "-"]);
    assert_eq!(printed.stdout, std::fs::read(folder.path("layer.moe")).expect("it was written"));
}

#[test]
fn a_file_that_is_there_is_never_overwritten() {
    let folder = Folder::new();
    folder.write("mine.moe", "my work");
    let said = folder.fails(&["init", "mine.moe"]);
    assert!(said.contains("cannot write mine.moe: it is there already: name another file"), "{said}");
    assert_eq!(std::fs::read(folder.path("mine.moe")).expect("still there"), b"my work");
}

#[test]
fn every_command_has_completions_and_a_man_page() {
    let folder = Folder::new();
    let commands = [
        "check",
        "fmt",
        "build",
        "inspect",
        "run",
        "gate",
        "plan",
        "simulate",
        "place",
        "serve",
        "ptx",
        "explain",
        "init",
        "completions",
        "man",
        "schema",
    ];
    let page = text(&folder.run(&["man"]).stdout);
    for command in commands {
        assert!(page.contains(&format!("moec\\-{command}(1)")), "{command} is on the page of the tool");
        let of_command = folder.run(&["man", command]);
        assert!(of_command.status.success() && text(&of_command.stdout).contains(".TH"), "{command}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = folder.run(&["completions", shell]);
        let script = text(&script.stdout);
        for command in commands {
            assert!(script.contains(command), "{command} in {shell}");
        }
    }
    let said = folder.fails(&["man", "frobnicate"]);
    assert!(said.contains("there is no command `frobnicate`"), "{said}");
}

/// The list that `make install` goes through.
#[test]
fn make_installs_the_page_of_every_command() {
    let makefile = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Makefile")).expect("there");
    let folder = Folder::new();
    let page = text(&folder.run(&["man"]).stdout);
    let line = makefile.lines().find(|line| line.contains("for command in")).expect("the list");
    let listed: Vec<&str> =
        line.split(" in ").nth(1).and_then(|list| list.split(';').next()).expect("names").split(' ').collect();
    let on_page = page.matches("moec\\-").count();
    let known: Vec<String> = listed.iter().map(|name| format!("moec\\-{name}(1)")).collect();
    assert!(known.iter().all(|entry| page.contains(entry)), "{listed:?}");
    // The tool's own page also has `moec help`.
    assert_eq!(on_page, listed.len() + 1, "{page}");
}

#[test]
fn a_node_that_is_served_is_not_served_twice() {
    let name = format!("moe-start-{}", std::process::id());
    let _served = moe_runtime::node::Node::bind(&name, &moe_runtime::VirtualOptions::default()).expect("nobody has it");
    let said = Folder::new().fails(&["serve", "--name", &name]);
    assert!(said.contains(&format!("virtual node `{name}`: another process serves it already")), "{said}");
}
