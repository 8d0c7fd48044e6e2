//! Which module may know which: the planner's modules have no circle, and numbers know nothing of words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules in groups; each knows its own group's earlier modules and all earlier groups.
const LAYERS: [&str; 23] = [
    "setting",
    "units",
    "missing",
    "not_built",
    "sample",
    "groups",
    "traffic",
    "time",
    "calibrate",
    "placement",
    "cost::parallel",
    "cost::memory",
    "cost::step",
    // The planner of one deploy, with the parts that are methods of it.
    "cost",
    "simulate",
    "page::explain",
    "page::report",
    "page::plans",
    "page::simulation",
    "page::placement",
    "page::table",
    "page::picture",
    // What others see of it.
    "page",
];

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

/// The layer that a path of modules is in: the longest that it begins with.
fn layer(path: &str) -> Option<&'static str> {
    let of = |layer: &&&str| path == **layer || path.starts_with(&format!("{layer}::"));
    LAYERS.iter().filter(of).max_by_key(|layer| layer.len()).copied()
}

/// The modules that a file of a module names by `crate::` and `super::`, with what of them.
fn named(module: &str, text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (marker, base) in [("crate::", ""), ("super::", module.rsplit_once("::").map_or("", |(parent, _)| parent))] {
        for (at, _) in code.match_indices(marker) {
            let rest = &code[at + marker.len()..];
            let path: String = rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
            let list = rest[path.len()..].strip_prefix('{').and_then(|list| list.split_once('}')).map(|(list, _)| list);
            for item in list.map_or(vec![""], |list| list.split(',').map(str::trim).collect()) {
                let path = format!("{base}::{path}{item}");
                found.insert(path.trim_start_matches("::").trim_end_matches("::").to_owned());
            }
        }
    }
    found
}

#[test]
fn modules_know_only_what_is_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    assert!(all.len() > 60, "{} files", all.len());
    let place = |layer: &str| LAYERS.iter().position(|other| *other == layer).expect("a layer");
    let (mut wrong, mut seen) = (Vec::new(), BTreeMap::<&str, usize>::new());
    for file in all {
        let path = file.strip_prefix(&source).expect("below the source").with_extension("");
        let module = path.to_string_lossy().replace(['/', '\\'], "::");
        // What the crate shows is of no module.
        if module == "lib" {
            continue;
        }
        let module = module.trim_end_matches("::mod").to_owned();
        let here = layer(&module).unwrap_or_else(|| panic!("{module} is in no layer: give it a place"));
        *seen.entry(here).or_default() += 1;
        let text = std::fs::read_to_string(&file).expect("text");
        for used in named(&module, &text) {
            if let Some(there) = layer(&used)
                && place(there) > place(here)
            {
                wrong.push(format!("{module}, of {here}, knows {used}, of {there}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    for layer in LAYERS {
        assert!(seen.contains_key(layer), "{layer} has no file");
    }
}

/// What the test above would find.
#[test]
fn a_circle_would_be_found() {
    let text = "use crate::page::Report;\nuse super::memory::{Memory, Recompute};\n// use crate::page::explain;\nlet x = crate::sample::Sample::of();";
    let found = named("cost::step", text);
    let expected = ["cost::memory::Memory", "cost::memory::Recompute", "page::Report", "sample::Sample::of"];
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(
        [layer("page::Report"), layer("cost::step::replicas"), layer("cost::search")],
        [Some("page"), Some("cost::step"), Some("cost")]
    );
}
