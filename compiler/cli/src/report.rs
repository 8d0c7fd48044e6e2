//! What a run tells: as a table for people, as JSON for tools. Both say the same.

use moe_front::text::{Column, Page, Table};
use moe_judge::Check;
use moe_planner::human_bytes;
use schemars::JsonSchema;
use serde::Serialize;

/// Everything about a run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// Name of the deploy.
    pub deploy: Option<String>,
    /// Where it ran.
    pub device: String,
    /// Of the input and of the schedule.
    pub seed: u64,
    /// How often everything ran.
    pub repeat: u32,
    /// Tokens of each rank.
    pub tokens: Vec<usize>,
    /// Most tokens that the kernels are made for.
    pub max_tokens: u32,
    /// How the kernels came to be; none if a bundle was run.
    pub compiled: Option<CompiledReport>,
    /// Which assembler has counted the registers; none if a bundle was run that was built without one, or there is none here.
    pub assembler: Option<String>,
    /// Every kernel that was loaded.
    pub kernels: Vec<KernelReport>,
    /// Picks of each expert over all ranks, those that compute nothing included.
    pub tokens_per_expert: Vec<u64>,
    /// What each rank received.
    pub received: Vec<ReceivedReport>,
    /// Bytes of each phase; empty on a device that does not count.
    pub links: Vec<LinkReport>,
    /// What virtual GPUs did.
    pub work: Option<WorkReport>,
    /// How long it took.
    pub seconds: Seconds,
    /// Everything that was compared.
    pub checks: Vec<Check>,
    /// What else is to be said of the comparison, a sentence each.
    pub remarks: Vec<String>,
    /// Accesses that nothing orders, each in words; none if memory order was not judged.
    pub memory_order: Option<Vec<String>>,
    /// Whether all of it holds.
    pub verified: bool,
}

/// Findings that the page shows.
const MOST_SHOWN: usize = 20;

/// How the kernels came to be.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CompiledReport {
    /// Milliseconds of each stage.
    pub stages: Vec<StageReport>,
    /// From the text to the PTX of all kernels.
    pub text_to_ptx_milliseconds: f64,
    /// Why there are no registers, if there are none.
    pub assembler: Option<String>,
}

/// One stage of the compilation.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StageReport {
    /// Its name.
    pub stage: &'static str,
    /// Wall-clock time.
    pub milliseconds: f64,
}

/// One kernel.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KernelReport {
    /// Its name.
    pub name: &'static str,
    /// What it is compiled for.
    pub target: String,
    /// Threads of a CTA.
    pub threads: u32,
    /// Registers of a thread, where the assembler was asked.
    pub registers: Option<u32>,
    /// Spilled bytes of a thread, where the assembler was asked.
    pub spilled_bytes: Option<u32>,
    /// From the first rank's start to the last one's end on a GPU, waits included, on the GPU that took longest: the median of all launches,
    /// where the device times them.
    pub microseconds: Option<f64>,
    /// Length of the text.
    pub ptx_bytes: u64,
}

/// What a rank received.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ReceivedReport {
    /// Tokens that were sent there.
    pub copies: u64,
    /// Rows of the experts' input, padding included.
    pub rows: u64,
    /// Of them, padding.
    pub padding: u64,
}

/// Bytes of one phase.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LinkReport {
    /// Its name.
    pub phase: &'static str,
    /// `bytes[from][to]`
    pub bytes: Vec<Vec<u64>>,
    /// Over all links.
    pub total: u64,
}

/// What virtual GPUs did.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WorkReport {
    /// Warp instructions.
    pub instructions: u64,
    /// Virtual time.
    pub nanoseconds: u64,
}

/// Wall-clock seconds.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Seconds {
    /// Kernels on the device, and experts on the host.
    pub device: f64,
    /// The reference, at the same time.
    pub reference: f64,
    /// From the loaded bundle to the verdict.
    pub run: f64,
    /// Everything.
    pub total: f64,
}

/// Below the table of comparisons.
const WHAT_IS_COMPARED: [&str; 2] = [
    "the experts are stand-ins on the host, a factor and a rotation each: what is judged is the layer around them",
    "the reference computes from the input alone, in plain Rust that shares no code with the kernels, in the order of sums that they promise",
];

impl Report {
    /// For tools.
    pub fn json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For people.
    pub fn page(&self) -> Page {
        let mut page = Page::default();
        let deploy = self.deploy.as_ref().map_or(String::new(), |deploy| format!(", deploy {deploy}"));
        page.line(format!("{}{deploy}, on {}", self.model, self.device));
        let all: usize = self.tokens.iter().sum();
        page.line(format!("{all} tokens on {} ranks, seed {}", self.tokens.len(), self.seed));
        page.gap();
        self.kernels(&mut page);
        self.experts(&mut page);
        self.ranks(&mut page);
        self.links(&mut page);
        self.verdict(&mut page);
        page
    }

    fn kernels(&self, page: &mut Page) {
        if let Some(compiled) = &self.compiled {
            let stages: Vec<String> =
                compiled.stages.iter().map(|stage| format!("{} {:.1} ms", stage.stage, stage.milliseconds)).collect();
            page.line(format!("compiled: {}", stages.join(", ")));
            page.line(format!(
                "text to PTX of {} kernels: {:.1} ms",
                self.kernels.len(),
                compiled.text_to_ptx_milliseconds
            ));
            if let Some(missing) = &compiled.assembler {
                page.line(format!("no registers: {missing}"));
            }
        } else if self.assembler.is_none() {
            page.line("no registers: the bundle was built without ptxas");
        }
        let timed = self.kernels.iter().any(|kernel| kernel.microseconds.is_some());
        let mut columns = vec![Column::words("kernel"), Column::words("target")];
        columns.extend(["threads", "registers", "spills", "PTX"].map(Column::numbers));
        columns.extend(timed.then(|| Column::numbers("µs, all ranks")));
        let mut table = Table::new(columns);
        for kernel in &self.kernels {
            let asked = |number: Option<u32>| number.map_or("–".to_owned(), |number| number.to_string());
            let time = kernel.microseconds.map_or("–".to_owned(), |time| format!("{time:.1}"));
            let mut row = vec![
                kernel.name.to_owned(),
                kernel.target.clone(),
                kernel.threads.to_string(),
                asked(kernel.registers),
                asked(kernel.spilled_bytes),
                human_bytes(kernel.ptx_bytes as f64),
            ];
            row.extend(timed.then_some(time));
            table.row(row);
        }
        page.table(table);
        page.gap();
    }

    fn experts(&self, page: &mut Page) {
        let counts = &self.tokens_per_expert;
        let (least, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
        let mean = counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64;
        page.line(format!("tokens per expert: {} experts, mean {mean:.1}, least {least}, most {most}", counts.len()));
        const PER_LINE: usize = 16;
        const LINES: usize = 24;
        let mut rows = vec![vec![String::new(); counts.len().min(PER_LINE) + 1]];
        for (line, counts) in counts.chunks(PER_LINE).enumerate().take(LINES) {
            let first = (line * PER_LINE).to_string();
            rows.push(std::iter::once(first).chain(counts.iter().map(u64::to_string)).collect());
        }
        page.table(Table::headed(rows));
        if counts.len() > PER_LINE * LINES {
            let more = counts.len() - PER_LINE * LINES;
            page.line(format!("  … and {more} more experts (`--format json` has all)"));
        }
        page.gap();
    }

    fn ranks(&self, page: &mut Page) {
        let heads = ["rank", "tokens", "copies received", "rows", "of them padding"];
        let mut table = Table::new(heads.map(Column::numbers));
        for (rank, (received, tokens)) in self.received.iter().zip(&self.tokens).enumerate() {
            let numbers = [rank as u64, *tokens as u64, received.copies, received.rows, received.padding];
            table.row(numbers.map(|number| number.to_string()));
        }
        page.table(table);
        page.gap();
    }

    fn links(&self, page: &mut Page) {
        if self.links.is_empty() {
            page.line("bytes on the links: this device does not count them");
            page.gap();
            return;
        }
        const WIDEST: usize = 16;
        for link in &self.links {
            let whole = format!("{}: {} on the links", link.phase, human_bytes(link.total as f64));
            if link.bytes.len() > WIDEST || !["dispatch", "combine"].contains(&link.phase) {
                page.line(whole);
                continue;
            }
            let most = link.bytes.iter().flatten().copied().max().unwrap_or(0);
            let (unit, size) = prefix(most);
            page.line(format!("{whole}; from a rank to a rank, in {unit}"));
            let heads = (0..link.bytes.len()).map(|rank| format!("to {rank}"));
            let mut table = Table::new(std::iter::once("from".to_owned()).chain(heads).map(Column::numbers));
            for (from, row) in link.bytes.iter().enumerate() {
                let cell = |(to, &bytes): (usize, &u64)| if from == to { "·".into() } else { in_unit(bytes, size) };
                table.row(std::iter::once(from.to_string()).chain(row.iter().enumerate().map(cell)));
            }
            page.table(table);
        }
        page.gap();
    }

    fn verdict(&self, page: &mut Page) {
        if let Some(work) = &self.work {
            page.line(format!(
                "virtual GPUs: {:.1} M warp instructions, {:.1} µs of virtual time",
                work.instructions as f64 / 1e6,
                work.nanoseconds as f64 / 1e3
            ));
        }
        let Seconds { device, reference, run, total } = self.seconds;
        page.line(format!(
            "run phase {run:.2} s (device {device:.2} s, reference beside it {reference:.2} s); everything {total:.2} s"
        ));
        page.gap();
        let mut table = Table::new([Column::words("compared"), Column::numbers("numbers"), Column::words("result")]);
        for check in &self.checks {
            let result = match (&check.difference, &check.figure) {
                (None, None) if check.criterion == "equal" => "equal".into(),
                (None, None) => format!("equal {}", check.criterion),
                (None, Some(figure)) => format!("{}: {figure}", check.criterion),
                (Some(difference), _) => format!("NOT {}: {difference}", check.criterion),
            };
            table.row([format!("{}, with {}", check.what, check.against), count(check.compared), result]);
        }
        page.table(table);
        page.gap();
        WHAT_IS_COMPARED.iter().for_each(|line| page.line(*line));
        self.remarks.iter().for_each(|remark| page.line(format!("note: {remark}")));
        match self.memory_order.as_deref() {
            None => {}
            Some([]) => page.line("memory order: no finding"),
            Some(found) => {
                page.line(format!("memory order: {} findings", found.len()));
                found.iter().take(MOST_SHOWN).for_each(|found| page.item(found));
            }
        }
        page.line(if self.verified { "verified" } else { "NOT VERIFIED: the run differs from the reference" });
    }
}

/// A decimal unit for bytes of which these are the most, and how many bytes it is.
fn prefix(most: u64) -> (&'static str, f64) {
    match most {
        0..=9_999 => ("bytes", 1.0),
        10_000..=9_999_999 => ("kB", 1e3),
        10_000_000..=9_999_999_999 => ("MB", 1e6),
        _ => ("GB", 1e9),
    }
}

/// Bytes in a unit, in few digits; what is not nothing does not look like it.
fn in_unit(bytes: u64, size: f64) -> String {
    let value = bytes as f64 / size;
    match bytes {
        0 => "0".to_owned(),
        _ if size == 1.0 || value >= 99.95 => format!("{value:.0}"),
        _ if value < 0.05 => "<0.1".to_owned(),
        _ => format!("{value:.1}"),
    }
}

/// A number of numbers, in four digits or fewer; JSON has all of them.
fn count(numbers: u64) -> String {
    match numbers {
        0..=9_999 => numbers.to_string(),
        10_000..=9_999_999 => format!("{:.0} k", numbers as f64 / 1e3),
        _ => format!("{:.0} M", numbers as f64 / 1e6),
    }
}
