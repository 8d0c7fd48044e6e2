//! `moec ptx`: PTX that this tool did not write, on the virtual GPU.
//!
//! Invariant: what is checked is what would be run; a kernel that cannot be run concerns no other one of its module.

use clap::{Args, Subcommand, ValueEnum};
use moe_front::text::Page;
use moe_vgpu::job::{Found, Job, Outcome, RunOptions};
use moe_vgpu::{Module, Refused, demangled};
use schemars::JsonSchema;
use serde::Serialize;

use crate::failure::Failure;
use crate::files::{InputPath, Wanted};
use crate::planning::pretty;
use crate::progress::Progress;
use crate::terminal::{self, Terminal};

#[derive(Args)]
pub struct Ptx {
    #[command(subcommand)]
    pub command: PtxCommand,
}

#[derive(Subcommand)]
pub enum PtxCommand {
    /// Say of every kernel whether the virtual GPU can run it, and otherwise why not
    Check(PtxCheck),
    /// Run a job (TOML): kernels under many schedules with a judge of memory order, and what must come out
    Run(PtxRun),
}

#[derive(Args)]
pub struct PtxCheck {
    /// Files of PTX, `-` for standard input
    #[arg(required = true)]
    pub files: Vec<InputPath>,
    /// How the verdicts are printed
    #[arg(long, value_enum, default_value_t = PtxFormat::Text)]
    pub format: PtxFormat,
}

#[derive(Args)]
pub struct PtxRun {
    /// The job, `-` for standard input
    pub job: InputPath,
    /// Seeds of each of the policies `random`, `adversarial` and `weak`
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    pub seeds: u64,
    /// Leave memory order alone
    #[arg(long)]
    pub no_judge: bool,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = PtxFormat::Text)]
    pub format: PtxFormat,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PtxFormat {
    Text,
    Json,
}

/// Which kernels the virtual GPU can run.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PtxVerdicts {
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = 1))]
    schema: u32,
    /// Every kernel of every file.
    kernels: Vec<KernelVerdict>,
}

/// Whether the virtual GPU can run a kernel.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KernelVerdict {
    /// The file.
    file: String,
    /// Its name in the PTX.
    name: String,
    /// Its name in the source.
    source_name: String,
    /// Why not, and the line in the file; null if it can.
    refused: Option<Reason>,
    /// What ends a run if it gets there: calls of functions that the file only declares.
    remarks: Vec<Reason>,
}

/// What is said of a line.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reason {
    /// Line in the file.
    line: u32,
    /// In words.
    why: String,
}

/// What came of a job.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JobReport {
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = 1))]
    schema: u32,
    /// Whether what the job says is so.
    holds: bool,
    /// The failure that the job expects; null if it expects none.
    fails: Option<String>,
    /// Schedules that it was run under.
    schedules: u64,
    /// Of them, those under which something was wrong.
    failed: u64,
    /// Warp instructions in all.
    instructions: u64,
    /// What was wrong, each thing once.
    found: Vec<JobFinding>,
    /// Warnings and findings that are accepted.
    accepted: Vec<String>,
    /// What kernels printed under the first schedule.
    printed: Vec<String>,
}

/// Something that was wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub struct JobFinding {
    /// Policy of the first schedule under which it was.
    policy: String,
    /// Seed of that schedule.
    seed: u64,
    /// In words.
    text: String,
}

/// Checks files or runs a job.
pub fn ptx(arguments: &Ptx, terminal: &Terminal) -> Result<(), Failure> {
    match &arguments.command {
        PtxCommand::Check(arguments) => check(arguments, terminal),
        PtxCommand::Run(arguments) => run(arguments, terminal),
    }
}

fn check(arguments: &PtxCheck, terminal: &Terminal) -> Result<(), Failure> {
    let mut verdicts = PtxVerdicts { schema: 1, kernels: Vec::new() };
    for file in &arguments.files {
        let name = file.to_string();
        let text = text(file.read(Wanted::Ptx)?, &name)?;
        let (module, refused) =
            Module::parse_supported(&text).map_err(|error| Failure::Message(format!("{name}: {error}")))?;
        let remark = |(line, function): &(u32, String)| Reason {
            line: *line,
            why: format!("`{}` is only declared here: a run ends where it is called", demangled(function)),
        };
        let verdict = |kernel: &str, refused: Option<&Refused>| KernelVerdict {
            file: name.clone(),
            name: kernel.to_owned(),
            source_name: demangled(kernel),
            refused: refused.map(|refused| Reason { line: refused.error.line, why: refused.error.message.clone() }),
            remarks: module
                .kernel(kernel)
                .map(|kernel| kernel.missing_functions().iter().map(remark).collect())
                .unwrap_or_default(),
        };
        verdicts.kernels.extend(module.kernels().map(|kernel| verdict(kernel, None)));
        verdicts.kernels.extend(refused.iter().map(|refused| verdict(&refused.kernel, Some(refused))));
    }
    let refused = verdicts.kernels.iter().filter(|kernel| kernel.refused.is_some()).count();
    match arguments.format {
        PtxFormat::Json => terminal::print(&pretty(&serde_json::json!(verdicts)))?,
        PtxFormat::Text => {
            let mut page = Page::default();
            for KernelVerdict { file, source_name, refused, remarks, .. } in &verdicts.kernels {
                page.paragraph(match refused {
                    None => format!("{file}: `{source_name}` can be run"),
                    Some(Reason { line, why }) => format!("{file}:{line}: `{source_name}` cannot be run: {why}"),
                });
                for Reason { line, why } in remarks {
                    page.paragraph(format!("{file}:{line}: {why}"));
                }
            }
            page.paragraph(format!(
                "{} of {} kernels can be run",
                verdicts.kernels.len() - refused,
                verdicts.kernels.len()
            ));
            terminal.show(&page)?;
        }
    }
    if refused == 0 { Ok(()) } else { Err(Failure::Message(format!("{refused} kernels cannot be run"))) }
}

fn run(arguments: &PtxRun, terminal: &Terminal) -> Result<(), Failure> {
    let name = arguments.job.to_string();
    let job = text(arguments.job.read(Wanted::Job)?, &name)?;
    let job: Job = toml::from_str(&job).map_err(|error| Failure::Message(place(&name, &job, &error)))?;
    let mut load = |file: &str| {
        let file = arguments.job.neighbour(file)?;
        file.read(Wanted::Anything).map_err(|failure| match failure {
            Failure::Message(message) => message,
            Failure::File(..) | Failure::Said => format!("cannot read {file}"),
        })
    };
    let options = RunOptions { seeds: arguments.seeds, judge: !arguments.no_judge };
    let progress = Progress::new(terminal, 1 + 2 * arguments.seeds);
    let outcome = job.run(options, &mut load, |_, _| progress.say("schedules"));
    drop(progress);
    let outcome = outcome.map_err(|error| Failure::Message(format!("{name}: {error}")))?;
    let holds = outcome.holds();
    match arguments.format {
        PtxFormat::Json => terminal::print(&pretty(&serde_json::json!(report(&outcome))))?,
        PtxFormat::Text => terminal.show(&page(&outcome))?,
    }
    match (holds, &outcome.fails) {
        (true, _) => Ok(()),
        (false, Some(text)) => Err(Failure::Message(format!("{name}: not every schedule fails with \"{text}\""))),
        (false, None) => {
            Err(Failure::Message(format!("{name}: {} of {} schedules failed", outcome.failed, outcome.schedules)))
        }
    }
}

fn text(bytes: Vec<u8>, name: &str) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|_| Failure::Message(format!("{name} is no text in UTF-8")))
}

/// An error of TOML with its line.
fn place(name: &str, text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| 1 + text.get(..span.start).unwrap_or_default().matches('\n').count());
    match line {
        Some(line) => format!("{name}:{line}: {}", error.message()),
        None => format!("{name}: {}", error.message()),
    }
}

fn report(outcome: &Outcome) -> JobReport {
    let finding =
        |found: &Found| JobFinding { policy: found.policy.to_string(), seed: found.seed, text: found.text.clone() };
    JobReport {
        schema: 1,
        holds: outcome.holds(),
        fails: outcome.fails.clone(),
        schedules: outcome.schedules,
        failed: outcome.failed,
        instructions: outcome.instructions,
        found: outcome.found.iter().map(finding).collect(),
        accepted: outcome.accepted.clone(),
        printed: outcome.printed.iter().map(ToString::to_string).collect(),
    }
}

fn page(outcome: &Outcome) -> Page {
    const SHOWN: usize = 20;
    let mut page = Page::default();
    for printed in outcome.printed.iter().take(SHOWN) {
        page.line(printed.to_string());
    }
    for text in outcome.accepted.iter().flat_map(|text| text.lines()) {
        page.paragraph(text);
    }
    for (at, found) in outcome.found.iter().take(SHOWN).enumerate() {
        if at > 0 || !outcome.printed.is_empty() || !outcome.accepted.is_empty() {
            page.gap();
        }
        page.paragraph(format!("under {}, seed {}:", found.policy, found.seed));
        found.text.lines().for_each(|line| page.paragraph(line));
    }
    if !outcome.found.is_empty() {
        page.gap();
    }
    let Outcome { schedules, failed, instructions, .. } = outcome;
    let verdict = match (&outcome.fails, outcome.holds()) {
        (None, true) => "no finding".to_owned(),
        (None, false) => format!("{failed} failed"),
        (Some(_), true) => "each failed as the job says".to_owned(),
        (Some(_), false) => format!("{failed} failed, and not as the job says"),
    };
    page.paragraph(format!("{schedules} schedules, {instructions} warp instructions: {verdict}"));
    page
}
