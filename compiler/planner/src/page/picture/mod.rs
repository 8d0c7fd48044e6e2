//! Reports as pictures: one page for a browser or a design review, or one SVG with the same charts.
//!
//! Invariants: what is drawn is what the [`Report`] says, nothing is estimated here; a page refers to nothing outside itself and runs no
//! script; every chart has a title and a description in words, and every number that a chart shows stands in a table too, with its
//! exact value in `<data value>`. Charts are as wide as a phone and stand side by side where there is room. Colours come from one table
//! (`style`), mean what the legend of their chart says, are never the only sign of anything, and follow the light or dark of the reader's
//! system.

mod bars;
mod columns;
mod experts;
mod figure;
mod front;
mod matrix;
mod page;
mod simulation;
mod style;
mod tables;
mod text;

pub use matrix::{Cell, Link, TrafficMatrix};

use crate::cost::search::Found;
use crate::page::report::Report;
use crate::page::simulation::Simulation;
use crate::placement::{Load, PlacementReport};
use figure::{Figure, Ink};
use text::Type;

/// What a page shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page<'a> {
    /// Plans, in the order of reading.
    pub plans: &'a [Report],
    /// The plans against the first, in words.
    pub comparison: &'a [String],
    /// All plans that a search evaluated.
    pub search: Option<&'a Found>,
    /// Experts placed by an observed load.
    pub placement: Option<(&'a Load, &'a PlacementReport)>,
    /// A dispatch and a combine, chunk by chunk.
    pub simulation: Option<&'a Simulation>,
}

impl Page<'_> {
    /// One self-contained page.
    pub fn html(&self) -> String {
        page::html(self)
    }

    /// The charts of the page below each other.
    pub fn svg(&self) -> String {
        page::svg(self)
    }

    fn title(&self) -> String {
        match self.plans {
            [] if let Some(of) = self.simulation => {
                format!("Simulation of {} of {} on {}", of.deploy, of.model, of.cluster)
            }
            [] if self.search.is_none() => "Placement of experts".to_owned(),
            [] => "Search for a plan".to_owned(),
            [one] => format!("Plan {} of {} on {}", one.deploy, one.model, one.cluster),
            [one, ..] => format!("{} plans of {} on {}", self.plans.len(), one.model, one.cluster),
        }
    }

    fn assumptions(&self) -> Option<&[String]> {
        let of_plans = self.plans.first().map(|report| &report.assumptions[..]);
        of_plans.or(self.simulation.map(|of| &of.assumptions[..]))
    }

    /// The charts about all plans together.
    fn shared_figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some(found) = self.search {
            let capacity = self.plans.iter().find_map(|report| report.memory.as_ref()).map(|memory| memory.capacity.0);
            figures.extend(front::figure(found, capacity));
        }
        if !self.plans.is_empty() {
            figures.push(bars::calls(self.plans));
            if self.plans.iter().any(|report| report.step.is_some()) {
                figures.push(bars::step(self.plans));
            }
            if self.plans.iter().any(|report| report.memory.is_some()) {
                figures.push(bars::memory(self.plans));
            }
        }
        figures
    }

    /// The charts of one plan.
    fn figures_of(report: &Report) -> Vec<Figure> {
        let traffic = TrafficMatrix::of_dispatch(report);
        let mut figures = vec![bars::utilisation(report)];
        if report.nodes > 1 {
            figures.push(matrix::by_node(report, &traffic));
        }
        figures.push(matrix::by_rank(report, &traffic));
        figures.push(experts::load(report));
        figures
    }
}

/// A picture of a run of one node: a title, what is to be said, and of each phase the bytes from each rank to each rank,
/// `bytes[from][to]`.
pub fn traffic(title: &str, words: &str, phases: &[(&str, Vec<Vec<u64>>)]) -> String {
    page::traffic(title, words, phases)
}

/// Which of several plans what follows is of.
fn headline(figure: &mut Figure, plans: &[Report], report: &Report) {
    if plans.len() > 1 {
        figure.lines(Type::STRONG, Ink::Plain, &name(report));
        figure.y += 3.0;
    }
}

/// A plan in a few words.
fn name(report: &Report) -> String {
    let plan = &report.parallel;
    format!("ep {} · pp {} · dp {} · zero {} · {} SMs", plan.ep, plan.pp, plan.dp, plan.zero, plan.sms)
}
