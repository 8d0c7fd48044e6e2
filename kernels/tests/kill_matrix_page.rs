//! The kill matrix of `docs/judge.md` is that of the kernels as they are: as many mutants of each kind, of the kernels whose text is short, and
//! none that nobody notices. `make judge` writes it.

mod common;
#[path = "common/host.rs"]
mod host;
#[path = "common/mutants.rs"]
mod mutants;
#[path = "common/run.rs"]
mod run;
#[path = "../benches/kill_matrix/shapes.rs"]
#[allow(dead_code)]
mod shapes;
#[path = "exchange/world.rs"]
#[allow(dead_code)]
mod world;

use moe_contract::Kernel;
use mutants::mutants;
use shapes::{Likeness, classes};

/// The cells of a row of a table.
fn cells(row: &str) -> Vec<&str> {
    row.trim().trim_matches('|').split('|').map(str::trim).collect()
}

#[test]
fn the_page_has_the_mutants_of_today() {
    let page = include_str!("../../docs/judge.md");
    let (_, page) = page.split_once("<!-- make judge writes from here -->").expect("where the matrix begins");
    let (page, _) = page.split_once("<!-- to here -->").expect("where it ends");
    let head = page.lines().find(|line| line.starts_with("| kernel |")).expect("the table by kernel");
    let (first, last) = (1, cells(head).iter().position(|cell| *cell == "all").expect("its sums"));
    for kernel in [Kernel::Barrier, Kernel::Route, Kernel::WeightGradientSend] {
        let start = format!("| `{}` |", kernel.name());
        let row = page.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {start}"));
        let classes = classes(Likeness::Orders, |other| other == kernel);
        let all: Vec<_> = classes.iter().flat_map(|class| mutants(&class.text).expect("all is known")).collect();
        for (kind, cell) in cells(head)[first..last].iter().zip(&cells(row)[first..last]) {
            let found = all.iter().filter(|mutant| mutant.kind.name() == *kind).count();
            assert_eq!(cell.parse().unwrap_or(0), found, "{}, {kind}: `make judge` writes the page", kernel.name());
        }
        assert_eq!(cells(row)[last], all.len().to_string(), "{}", kernel.name());
    }
    let nobody =
        page.lines().filter(|line| line.starts_with("| `")).map(|row| cells(row)[cells(row).len() - 1].to_owned());
    let nobody: Vec<String> = nobody.collect();
    assert!(nobody.len() >= 17 && nobody.iter().all(|count| count == "0"), "{nobody:?}");
}
