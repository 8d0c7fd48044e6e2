//! What a run tells: as a table for people, as JSON for tools. Both say the same.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};
use moe_judge::Check;
use moe_planner::report::human_bytes;
use serde::Serialize;

/// Everything about a run.
#[derive(Debug, Serialize)]
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
    /// Whether all of it holds.
    pub verified: bool,
}

/// How the kernels came to be.
#[derive(Debug, Serialize)]
pub struct CompiledReport {
    /// Milliseconds of each stage.
    pub stages: Vec<StageReport>,
    /// From the text to the PTX of all kernels.
    pub text_to_ptx_milliseconds: f64,
    /// Why there are no registers, if there are none.
    pub assembler: Option<String>,
}

/// One stage of the compilation.
#[derive(Debug, Serialize)]
pub struct StageReport {
    /// Its name.
    pub stage: &'static str,
    /// Wall-clock time.
    pub milliseconds: f64,
}

/// One kernel.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
pub struct ReceivedReport {
    /// Tokens that were sent there.
    pub copies: u64,
    /// Rows of the experts' input, padding included.
    pub rows: u64,
    /// Of them, padding.
    pub padding: u64,
}

/// Bytes of one phase.
#[derive(Debug, Serialize)]
pub struct LinkReport {
    /// Its name.
    pub phase: &'static str,
    /// `bytes[from][to]`
    pub bytes: Vec<Vec<u64>>,
    /// Over all links.
    pub total: u64,
}

/// What virtual GPUs did.
#[derive(Debug, Serialize)]
pub struct WorkReport {
    /// Warp instructions.
    pub instructions: u64,
    /// Virtual time.
    pub nanoseconds: u64,
}

/// Wall-clock seconds.
#[derive(Debug, Default, Serialize)]
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
const WHAT_IS_COMPARED: &str = "\
the experts are stand-ins on the host, a factor and a rotation each: what is judged is the layer around them
the reference computes from the input alone, in plain Rust that shares no code with the kernels, in the order of sums that they promise";

impl Report {
    /// For tools.
    pub fn json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let deploy = self.deploy.as_ref().map_or(String::new(), |deploy| format!(", deploy {deploy}"));
        let _ = writeln!(out, "{}{deploy}, on {}", self.model, self.device);
        let all: usize = self.tokens.iter().sum();
        let _ = writeln!(out, "{all} tokens on {} ranks, seed {}\n", self.tokens.len(), self.seed);
        self.kernels(&mut out);
        self.experts(&mut out);
        self.ranks(&mut out);
        self.links(&mut out);
        self.verdict(&mut out);
        out
    }

    fn kernels(&self, out: &mut String) {
        if let Some(compiled) = &self.compiled {
            let stages: Vec<String> =
                compiled.stages.iter().map(|stage| format!("{} {:.1} ms", stage.stage, stage.milliseconds)).collect();
            let _ = writeln!(out, "compiled: {}", stages.join(", "));
            let _ = writeln!(
                out,
                "text to PTX of {} kernels: {:.1} ms",
                self.kernels.len(),
                compiled.text_to_ptx_milliseconds
            );
            if let Some(missing) = &compiled.assembler {
                let _ = writeln!(out, "no registers: {missing}");
            }
        } else if self.assembler.is_none() {
            let _ = writeln!(out, "no registers: the bundle was built without ptxas");
        }
        let timed = self.kernels.iter().any(|kernel| kernel.microseconds.is_some());
        let mut header = vec!["kernel", "target", "threads", "registers", "spills", "PTX"];
        header.extend(timed.then_some("µs, all ranks"));
        let mut table = table(&header);
        for kernel in &self.kernels {
            let asked = |number: Option<u32>| number.map_or("–".to_owned(), |number| number.to_string());
            let time = kernel.microseconds.map_or("–".to_owned(), |time| format!("{time:.1}"));
            let mut row = vec![
                Cell::new(kernel.name),
                Cell::new(&kernel.target),
                right(kernel.threads),
                right(asked(kernel.registers)),
                right(asked(kernel.spilled_bytes)),
                right(human_bytes(kernel.ptx_bytes as f64)),
            ];
            row.extend(timed.then(|| right(time)));
            table.add_row(row);
        }
        let _ = writeln!(out, "{table}\n");
    }

    fn experts(&self, out: &mut String) {
        let counts = &self.tokens_per_expert;
        let (least, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
        let mean = counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64;
        let _ =
            writeln!(out, "tokens per expert: {} experts, mean {mean:.1}, least {least}, most {most}", counts.len());
        const PER_LINE: usize = 32;
        const LINES: usize = 12;
        for (line, counts) in counts.chunks(PER_LINE).enumerate().take(LINES) {
            let numbers: Vec<String> = counts.iter().map(|count| format!("{count:>3}")).collect();
            let _ = writeln!(out, "  {:>4}  {}", line * PER_LINE, numbers.join(" "));
        }
        if counts.len() > PER_LINE * LINES {
            let _ = writeln!(
                out,
                "        … and {} more experts (`--format json` has all)",
                counts.len() - PER_LINE * LINES
            );
        }
        out.push('\n');
    }

    fn ranks(&self, out: &mut String) {
        let mut table = table(&["rank", "tokens", "copies received", "rows", "of them padding"]);
        for (rank, (received, tokens)) in self.received.iter().zip(&self.tokens).enumerate() {
            table.add_row(vec![
                right(rank),
                right(tokens),
                right(received.copies),
                right(received.rows),
                right(received.padding),
            ]);
        }
        let _ = writeln!(out, "{table}\n");
    }

    fn links(&self, out: &mut String) {
        if self.links.is_empty() {
            let _ = writeln!(out, "bytes on the links: this device does not count them\n");
            return;
        }
        const WIDEST: usize = 16;
        for link in &self.links {
            let _ = writeln!(out, "{}: {} on the links", link.phase, human_bytes(link.total as f64));
            if link.bytes.len() > WIDEST || !["dispatch", "combine"].contains(&link.phase) {
                continue;
            }
            let header: Vec<String> = std::iter::once("from \\ to".into())
                .chain((0..link.bytes.len()).map(|rank| rank.to_string()))
                .collect();
            let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
            for (from, row) in link.bytes.iter().enumerate() {
                let cells = row
                    .iter()
                    .enumerate()
                    .map(|(to, &bytes)| right(if from == to { "·".into() } else { human_bytes(bytes as f64) }));
                table.add_row(std::iter::once(right(from)).chain(cells).collect::<Vec<_>>());
            }
            let _ = writeln!(out, "{table}");
        }
        out.push('\n');
    }

    fn verdict(&self, out: &mut String) {
        if let Some(work) = &self.work {
            let _ = writeln!(
                out,
                "virtual GPUs: {:.1} M warp instructions, {:.1} µs of virtual time",
                work.instructions as f64 / 1e6,
                work.nanoseconds as f64 / 1e3
            );
        }
        let Seconds { device, reference, run, total } = self.seconds;
        let _ = writeln!(
            out,
            "run phase {run:.2} s (device {device:.2} s, reference beside it {reference:.2} s); everything {total:.2} s\n"
        );
        let mut table = table(&["compared", "with", "numbers", "how", "result"]);
        for check in &self.checks {
            let result = match (&check.difference, &check.figure) {
                (None, None) => "equal".into(),
                (None, Some(figure)) => figure.clone(),
                (Some(difference), _) => difference.to_string(),
            };
            table.add_row(vec![
                Cell::new(&check.what),
                Cell::new(check.against),
                right(check.compared),
                Cell::new(&check.criterion),
                Cell::new(result),
            ]);
        }
        let _ = writeln!(out, "{table}");
        let _ = writeln!(out, "{WHAT_IS_COMPARED}");
        for remark in &self.remarks {
            let _ = writeln!(out, "note: {remark}");
        }
        let _ = writeln!(
            out,
            "{}",
            if self.verified { "verified" } else { "NOT VERIFIED: the run differs from the reference" }
        );
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(header.to_vec());
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
