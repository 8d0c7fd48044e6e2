//! `moec inspect`: what is in a bundle. Nothing of it is run or compiled.
//!
//! Invariant: everything that is shown stands in the bundle, or is what the contract says of its numbers; the JSON has all of it.

use clap::{Args, ValueEnum};
use moe_bundle::file::VERSION;
use moe_bundle::{Bundle, Digest, KernelEntry};
use moe_contract::{Argument, Exchange, Grid};
use moe_front::text::{Column, Page, Table};
use moe_planner::human_bytes;
use schemars::JsonSchema;
use serde::Serialize;

use crate::failure::Failure;
use crate::files::{InputPath, Wanted};
use crate::terminal::{self, Terminal};

#[derive(Args)]
pub struct Inspect {
    /// The bundle, `-` for standard input
    pub file: InputPath,
    /// Print the PTX of this kernel, and nothing else
    #[arg(long, value_name = "KERNEL", conflicts_with = "source")]
    pub ptx: Option<String>,
    /// For which GPU architecture, such as `sm_90a` [default: the first of the bundle]
    #[arg(long, requires = "ptx")]
    pub target: Option<String>,
    /// Print the .moe file that it was built from, and nothing else
    #[arg(long)]
    pub source: bool,
    /// How the contents are printed
    #[arg(long, value_enum, default_value_t = InspectFormat::Table, conflicts_with_all = ["ptx", "source"])]
    pub format: InspectFormat,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum InspectFormat {
    Table,
    Json,
}

/// What is in a bundle.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Contents {
    /// Of this form; other forms get other numbers.
    #[schemars(extend("const" = 1))]
    schema: u32,
    /// Version of the format of the file.
    version: u32,
    /// Bytes of the file.
    bytes: u64,
    /// SHA-256 of the whole file, as `sha256sum` says.
    sha256: String,
    /// Name and version of the compiler.
    compiler: String,
    /// Name and version of the assembler that made the machine code; null where there was none.
    assembler: Option<String>,
    /// Name of the model.
    model: String,
    /// Name of the deploy.
    deploy: Option<String>,
    /// GPU architectures.
    targets: Vec<String>,
    /// Lines of the .moe file that it was built from.
    source_lines: usize,
    /// What the kernels are specialised to.
    exchange: Numbers,
    /// What a caller passes for the gate beside the logits.
    gate: GateNumbers,
    /// Every kernel for every target.
    kernels: Vec<KernelContents>,
}

/// What the kernels are specialised to.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Numbers {
    /// Ranks.
    ranks: u32,
    /// Experts that are sent to.
    experts: u32,
    /// Experts of the fullest rank.
    experts_of_a_rank: u32,
    /// Experts that compute nothing.
    zero_experts: u32,
    /// Picks of a token.
    top_k: u32,
    /// Elements of a row.
    hidden: u32,
    /// Most tokens of a rank in one call.
    max_tokens: u32,
    /// Format of a row to the experts, as in a .moe file.
    dispatch: String,
    /// Layout in front of the experts, as in a .moe file.
    layout: String,
    /// Format of a row back, as in a .moe file.
    combine: String,
    /// Whether combine weighs.
    weighted: bool,
    /// CTAs of every kernel that sends.
    ctas_link: u32,
    /// CTAs, at most, of every kernel that places or reduces.
    ctas_local: u32,
    /// Threads of a CTA.
    threads: u32,
    /// Symmetric memory of a rank, in bytes.
    symmetric_bytes: u64,
    /// Arrays of a rank that exist once, in bytes.
    fixed_bytes: u64,
    /// Arrays of a handle, in bytes.
    handle_bytes: u64,
    /// The experts' input with its scales in the worst case, in bytes.
    expert_input_bytes: u64,
    /// The experts' output in the worst case, in bytes.
    expert_output_bytes: u64,
}

/// The gate as its caller sees it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GateNumbers {
    /// Name of the logits.
    logits: String,
    /// Names of the other parameters, in the order of the kernel's arguments.
    parameters: Vec<String>,
    /// Groups of experts; 1 without groups.
    groups: u32,
}

/// One kernel for one target.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KernelContents {
    /// Its name, and that of its entry point.
    name: &'static str,
    /// GPU architecture.
    target: String,
    /// Its arguments in order.
    arguments: Vec<&'static str>,
    /// CTAs of a launch, or for how many tokens there is one.
    grid: GridContents,
    /// Threads of a CTA.
    threads: u32,
    /// Dynamic shared memory of a CTA, in bytes; what the PTX declares is not counted.
    shared_bytes: u32,
    /// Registers of a thread; null where there was no assembler.
    registers: Option<u32>,
    /// Its text.
    ptx: Part,
    /// Its machine code; null where there was no assembler.
    cubin: Option<Part>,
}

/// CTAs of a launch.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GridContents {
    /// Always so many.
    Fixed(u32),
    /// So many, or fewer where ranks share a GPU.
    UpTo(u32),
    /// One for so many tokens of the rank, at least one.
    PerTokens(u32),
}

/// A part of the file.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Part {
    /// Its length.
    bytes: u64,
    /// SHA-256 of it.
    sha256: String,
}

/// Shows what is in a bundle.
pub fn inspect(arguments: &Inspect, terminal: &Terminal) -> Result<(), Failure> {
    let wrong = |problem: String| Failure::Message(format!("{}: {problem}", arguments.file));
    let bytes = arguments.file.read(Wanted::Bundle)?;
    let bundle = Bundle::from_bytes(&bytes).map_err(|error| wrong(error.to_string()))?;
    if let Some(name) = &arguments.ptx {
        let entry = find(&bundle, name, arguments.target.as_deref()).map_err(wrong)?;
        return terminal::print(bundle.ptx(entry));
    }
    if arguments.source {
        return terminal::print(&bundle.manifest().source);
    }
    let contents = Contents::of(&bundle, &bytes);
    match arguments.format {
        InspectFormat::Table => terminal.show(&contents.page()),
        InspectFormat::Json => terminal::print(&crate::planning::pretty(&serde_json::json!(contents))),
    }
}

fn find<'b>(bundle: &'b Bundle, name: &str, target: Option<&str>) -> Result<&'b KernelEntry, String> {
    let kernels = &bundle.manifest().kernels;
    let targets = bundle.manifest().targets();
    if let Some(target) = target.filter(|target| !targets.contains(target)) {
        return Err(format!("`--target`: it is not built for {target}; it is for {}", targets.join(", ")));
    }
    let wanted =
        |entry: &&KernelEntry| entry.kernel.name() == name && target.is_none_or(|target| entry.target == target);
    kernels.iter().find(wanted).ok_or_else(|| {
        let first = |entry: &&KernelEntry| Some(&*entry.target) == targets.first().copied();
        let names: Vec<&str> = kernels.iter().filter(first).map(|entry| entry.kernel.name()).collect();
        format!("`--ptx`: there is no kernel `{name}`; it has {}", names.join(", "))
    })
}

impl Contents {
    fn of(bundle: &Bundle, bytes: &[u8]) -> Contents {
        let manifest = bundle.manifest();
        Contents {
            schema: 1,
            version: VERSION,
            bytes: bytes.len() as u64,
            sha256: Digest::of(bytes).to_string(),
            compiler: manifest.compiler.clone(),
            assembler: manifest.assembler.clone(),
            model: manifest.model.clone(),
            deploy: manifest.deploy.clone(),
            targets: manifest.targets().into_iter().map(str::to_owned).collect(),
            source_lines: manifest.source.lines().count(),
            exchange: Numbers::of(&manifest.exchange),
            gate: GateNumbers {
                logits: manifest.gate.logits.clone(),
                parameters: manifest.gate.parameters.iter().map(|parameter| parameter.name.clone()).collect(),
                groups: manifest.gate.groups,
            },
            kernels: manifest.kernels.iter().map(KernelContents::of).collect(),
        }
    }

    fn page(&self) -> Page {
        let mut page = Page::default();
        let deploy = self.deploy.as_ref().map_or(String::new(), |deploy| format!(", deploy {deploy}"));
        page.line(format!("bundle of {}{deploy}, for {}", self.model, self.targets.join(" and ")));
        let assembler = match &self.assembler {
            Some(assembler) => format!("{assembler} has made its machine code"),
            None => "no machine code: it was built without ptxas, and the driver compiles its PTX".to_owned(),
        };
        page.line(format!(
            "version {}, {}, by {}; {assembler}",
            self.version,
            human_bytes(self.bytes as f64),
            self.compiler
        ));
        page.line(format!("source: {} lines (`--source` prints them)", self.source_lines));
        page.line(format!("SHA-256 {}", self.sha256));
        page.gap();
        self.exchange.show(&mut page);
        let parameters: Vec<&str> =
            std::iter::once(&self.gate.logits).chain(&self.gate.parameters).map(|name| &**name).collect();
        page.line(format!("gate: {}; groups {}", parameters.join(", "), self.gate.groups));
        page.gap();
        // One target is said above.
        let several = self.targets.len() > 1;
        let numbers = ["grid", "threads", "shared", "registers", "PTX", "cubin"].map(Column::numbers);
        let words = [Some("kernel"), several.then_some("target")].into_iter().flatten().map(Column::words);
        let mut table = Table::new(words.chain(numbers));
        for kernel in &self.kernels {
            let asked = |number: Option<String>| number.unwrap_or_else(|| "–".to_owned());
            let words = [Some(kernel.name.to_owned()), several.then(|| kernel.target.clone())];
            let numbers = [
                kernel.grid.told(),
                kernel.threads.to_string(),
                kernel.shared_bytes.to_string(),
                asked(kernel.registers.map(|registers| registers.to_string())),
                human_bytes(kernel.ptx.bytes as f64),
                asked(kernel.cubin.as_ref().map(|cubin| human_bytes(cubin.bytes as f64))),
            ];
            table.row(words.into_iter().flatten().chain(numbers));
        }
        page.table(table);
        page.line("  grid: CTAs of a launch, or tokens of a CTA; shared: bytes beside those that the PTX declares");
        page.gap();
        page.line("arguments, and SHA-256 of PTX and machine code");
        for kernel in &self.kernels {
            page.line(format!("  {} ({}): {}", kernel.name, kernel.target, kernel.arguments.join(", ")));
            page.line(format!("    PTX   {}", kernel.ptx.sha256));
            if let Some(cubin) = &kernel.cubin {
                page.line(format!("    cubin {}", cubin.sha256));
            }
        }
        page
    }
}

impl Numbers {
    fn of(exchange: &Exchange) -> Numbers {
        let sizes = exchange.sizes();
        let format = |format: moe_contract::Format| format.name().unwrap_or("without a name").to_owned();
        Numbers {
            ranks: exchange.ranks,
            experts: exchange.experts,
            experts_of_a_rank: exchange.local_experts_max(),
            zero_experts: exchange.zero_experts,
            top_k: exchange.top_k,
            hidden: exchange.hidden,
            max_tokens: exchange.max_tokens,
            dispatch: format(exchange.dispatch),
            layout: exchange.layout.to_string(),
            combine: format(exchange.combine),
            weighted: exchange.weighted,
            ctas_link: exchange.ctas_link,
            ctas_local: exchange.ctas_local,
            threads: exchange.threads,
            symmetric_bytes: sizes.symmetric,
            fixed_bytes: sizes.fixed,
            handle_bytes: sizes.handle,
            expert_input_bytes: sizes.expert_input,
            expert_output_bytes: sizes.expert_output,
        }
    }

    fn show(&self, page: &mut Page) {
        let zero = match self.zero_experts {
            0 => String::new(),
            zero => format!(" and {zero} that compute nothing"),
        };
        page.line(format!(
            "{} ranks, {} experts{zero}, at most {} on a rank, {} picks of a token",
            self.ranks, self.experts, self.experts_of_a_rank, self.top_k
        ));
        page.line(format!("at most {} tokens of a rank in a call, {} elements each", self.max_tokens, self.hidden));
        let weighs = if self.weighted { "weighted" } else { "unweighted" };
        page.line(format!("dispatch {}, {}; combine {}, {weighs}", self.dispatch, self.layout, self.combine));
        page.line(format!(
            "launches of {} CTAs that send and up to {} that place and reduce, with {} threads",
            self.ctas_link, self.ctas_local, self.threads
        ));
        let bytes = |bytes: u64| human_bytes(bytes as f64);
        page.line(format!(
            "memory of a rank: symmetric {}, fixed {}, each handle {}; at worst the experts' input {} and output {}",
            bytes(self.symmetric_bytes),
            bytes(self.fixed_bytes),
            bytes(self.handle_bytes),
            bytes(self.expert_input_bytes),
            bytes(self.expert_output_bytes)
        ));
    }
}

impl KernelContents {
    fn of(entry: &KernelEntry) -> KernelContents {
        KernelContents {
            name: entry.kernel.name(),
            target: entry.target.clone(),
            arguments: entry.kernel.row().arguments.iter().map(|&argument| name(argument)).collect(),
            grid: match entry.grid {
                Grid::Fixed(ctas) => GridContents::Fixed(ctas),
                Grid::UpTo(ctas) => GridContents::UpTo(ctas),
                Grid::PerTokens(tokens) => GridContents::PerTokens(tokens),
            },
            threads: entry.block,
            shared_bytes: entry.shared,
            registers: entry.registers,
            ptx: Part { bytes: entry.ptx_bytes, sha256: entry.sha256.to_string() },
            cubin: entry.cubin.as_ref().map(|cubin| Part { bytes: cubin.bytes, sha256: cubin.sha256.to_string() }),
        }
    }
}

impl GridContents {
    fn told(self) -> String {
        match self {
            GridContents::Fixed(ctas) => ctas.to_string(),
            GridContents::UpTo(ctas) => format!("up to {ctas}"),
            GridContents::PerTokens(1) => "1 a token".to_owned(),
            GridContents::PerTokens(tokens) => format!("1 for {tokens}"),
        }
    }
}

fn name(argument: Argument) -> &'static str {
    match argument {
        Argument::Buffer(buffer) => buffer.name(),
        Argument::Symmetric => "symmetric memory",
        Argument::Tensor(tensor) => tensor.name(),
        Argument::Rank => "rank",
        Argument::Tokens => "number of tokens",
        Argument::Deadline => "deadline",
        Argument::Capacity => "capacity",
        Argument::GateParameters => "gate parameters",
    }
}
