//! A simulation as text for a terminal.
//!
//! Invariant: everything in it stands in the JSON too.

use std::fmt;

use moe_compiler::text::{Page, Table};

use super::{LinkKind, Outcome, Phase, Simulation};

fn row<const N: usize>(cells: [String; N]) -> Vec<String> {
    cells.to_vec()
}

fn many(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn us(value: moe_compiler::units::Microseconds) -> String {
    format!("{:.0}", value.0)
}

impl Phase {
    /// The part of the slowest GPU's time during which links of a kind carry bytes: on average, and the busiest of them.
    pub(crate) fn utilisation(&self, kind: LinkKind) -> Option<(f64, f64)> {
        let of_kind = self.kinds.iter().find(|of| of.kind == kind)?;
        let whole = self.time.max.0;
        (whole > 0.0).then(|| (of_kind.mean_busy.0 / whole, of_kind.max_busy.0 / whole))
    }
}

impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.page().fmt(f)
    }
}

impl Simulation {
    /// For a terminal.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        let (scenario, outcome) = (&self.scenario, &self.outcome);
        let groups = scenario.gpus() / scenario.demand.group_ranks;
        page.line(format!(
            "deploy {} of {} on {}, one dispatch and one combine, simulated",
            self.deploy, self.model, self.cluster
        ));
        page.line(format!(
            "{} GPUs in {} of {} ranks on {}, {} tokens per GPU",
            scenario.gpus(),
            many(groups, "group"),
            scenario.demand.group_ranks,
            many(scenario.group_nodes(), "node"),
            scenario.demand.tokens_per_gpu
        ));
        page.line(format!(
            "{} chunks of {} tokens, {} events, seed {}",
            outcome.chunks, scenario.options.chunk_tokens, outcome.events, scenario.options.seed
        ));
        self.headline.iter().for_each(|line| page.line(line));
        self.times(&mut page);
        self.links(&mut page);
        self.slowest(&mut page);
        page.gap();
        page.line("in words");
        self.explanation.iter().for_each(|line| page.item(line));
        page.gap();
        page.line("assumed");
        self.assumptions.iter().for_each(|line| page.item(line));
        page
    }

    fn times(&self, page: &mut Page) {
        page.gap();
        page.line("time of the GPUs, µs; no order of sending beats the busiest link");
        let heads = ["", "median", "mean", "99 %", "slowest", "busiest link", "links by plan", "call by plan"];
        let mut rows = vec![row(heads.map(str::to_owned))];
        for (name, phase, bound, planned) in self.phases() {
            rows.push(row([
                name.to_owned(),
                us(phase.time.median),
                us(phase.time.mean),
                us(phase.time.p99),
                us(phase.time.max),
                us(bound.time),
                format!("{} ({})", us(planned.links), planned.bottleneck.name()),
                format!("{} ± {:.0} %", us(planned.call), planned.uncertainty * 100.0),
            ]));
        }
        page.table(Table::headed(rows));
        if let Some(total) = self.outcome.total {
            page.line(format!("  from the first token sent to the last one back: {} µs", us(total)));
        }
    }

    fn links(&self, page: &mut Page) {
        page.gap();
        page.line("links that carry bytes, part of the slowest GPU's time");
        let heads = ["", "links", "dispatch, mean", "busiest", "combine, mean", "busiest"];
        let mut rows = vec![row(heads.map(str::to_owned))];
        let Outcome { dispatch, combine, .. } = &self.outcome;
        for kind in LinkKind::ALL {
            let of_kind = dispatch.kinds.iter().chain(&combine.kinds).find(|of| of.kind == kind);
            let Some(of_kind) = of_kind else { continue };
            let mut cells = vec![kind.name().to_owned(), of_kind.links.to_string()];
            for phase in [dispatch, combine] {
                let (mean, most) = phase.utilisation(kind).unwrap_or_default();
                cells.extend([mean, most].map(|part| format!("{:.0} %", part * 100.0)));
            }
            rows.push(cells);
        }
        page.table(Table::headed(rows));
    }

    fn slowest(&self, page: &mut Page) {
        page.gap();
        page.line("slowest GPUs and busiest links, µs");
        let mut rows = Vec::new();
        for (name, phase, ..) in self.phases() {
            for (place, (slow, busy)) in phase.slowest.iter().zip(&phase.busiest).enumerate() {
                rows.push(row([
                    if place == 0 { name } else { "" }.to_owned(),
                    format!("GPU {}", slow.gpu.0),
                    us(slow.time),
                    busy.link.to_string(),
                    us(busy.busy),
                ]));
            }
        }
        page.table(Table::bare(rows));
    }
}
