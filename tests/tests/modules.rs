//! Modules of a crate that know each other in a circle are one module in several files: no crate has a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Graph = BTreeMap<String, BTreeSet<String>>;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names that stand behind `crate::`, alone or in braces; what is in comments, and in tests at the end of a file, does not count.
fn named(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, marker) in code.match_indices("crate::") {
        let rest = &code[at + marker.len()..];
        match rest.strip_prefix('{').and_then(|list| list.split_once('}')) {
            Some((list, _)) => found.extend(list.split(',').map(|item| word(item.trim()))),
            None => {
                found.insert(word(rest));
            }
        }
    }
    found
}

/// Which module directly below the root names which other.
fn graph(source: &Path) -> Graph {
    let mut all = Vec::new();
    files(source, &mut all);
    let mut graph = Graph::new();
    for file in all {
        let below = file.strip_prefix(source).expect("below the source").with_extension("");
        let module = below.iter().next().expect("a name").to_string_lossy().into_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let names = named(&std::fs::read_to_string(&file).expect("text")).into_iter().filter(|name| *name != module);
        graph.entry(module.clone()).or_default().extend(names);
    }
    graph
}

/// Modules in a circle: what is left when modules that name none of the rest are taken away, again and again.
fn circle(mut graph: Graph) -> Vec<String> {
    loop {
        let left: BTreeSet<String> = graph.keys().cloned().collect();
        let before = graph.len();
        graph.retain(|_, names| names.iter().any(|name| left.contains(name)));
        if graph.len() == before {
            return graph.into_keys().collect();
        }
    }
}

/// Every crate of the workspace, by its folder.
fn crates(root: &Path) -> Vec<PathBuf> {
    let children = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    };
    let nested = ["compiler", "runtime"].map(|folder| children(&root.join(folder))).concat();
    let all = ["kernels", "runtime", "tests"].map(|folder| root.join(folder)).into_iter().chain(nested);
    all.filter(|folder| folder.join("Cargo.toml").is_file() && folder.join("src").is_dir()).collect()
}

#[test]
fn modules_that_know_each_other_are_not_apart() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let crates = crates(root);
    assert!(crates.len() >= 14, "some are not found: {crates:?}");
    for folder in crates {
        let (graph, name) = (graph(&folder.join("src")), folder.display());
        assert!(graph.values().any(|names| !names.is_empty()) || graph.len() < 3, "{name}: nothing was read");
        assert_eq!(circle(graph), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_circle_is_found() {
    let of = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (module, text) in edges {
            graph.insert((*module).to_owned(), named(text));
        }
        graph
    };
    let line = [
        ("a", "use crate::b::B;"),
        ("b", "use crate::{c::C, d};\n// use crate::a;"),
        ("c", ""),
        ("d", "fn f() { crate::c::g() }"),
    ];
    assert_eq!(circle(of(&line)), Vec::<String>::new());
    let round = [("a", "use crate::b::B;"), ("b", "use crate::{c::C, d};"), ("c", "crate::a::g()"), ("d", "")];
    assert_eq!(circle(of(&round)), ["a", "b", "c"]);
}
