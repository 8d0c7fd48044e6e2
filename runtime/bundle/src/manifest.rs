//! The manifest: everything a loader must know that is neither PTX nor machine code.
//!
//! Invariants, checked by [`Manifest::check`]: the [`Exchange`] keeps its limits; the gate agrees with it; a kernel occurs at most once
//! per target; every target has the same kernels; grids are those that the protocol counts on; all kernels have machine code, from an assembler
//! that is named, or none has.

use std::fmt;

use moe_contract::{Exchange, Grid, Kernel, LimitError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pairs = text.as_bytes().chunks_exact(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8));
        let bytes = pairs.collect::<Option<Vec<u8>>>().filter(|_| text.len() == 64);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Digest).ok_or_else(|| serde::de::Error::custom("a SHA-256 is 64 hexadecimal digits"))
    }
}

/// What a caller passes for a parameter of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// f32, one for all tokens.
    Scalar,
    /// f32 `[experts]`, one for all tokens; zero experts included.
    Experts,
    /// f32 `[groups]`, one for all tokens.
    Groups,
    /// i32 `[vocabulary, k]`, one for all tokens.
    Table {
        /// Rows.
        vocabulary: u32,
        /// Experts per row.
        k: u32,
    },
    /// i32 `[tokens]`, different on each rank.
    TokenId,
}

/// A parameter of the gate that is not its logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Name in the gate's parameter list, and of the tensor that carries it.
    pub name: String,
    /// Shape and role.
    pub kind: ParameterKind,
}

/// The gate as its caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateDescription {
    /// Name of the logits in the gate's parameter list.
    pub logits: String,
    /// The other parameters, in the order of the kernel's arguments ([`moe_contract::Argument::GateParameters`]).
    pub parameters: Vec<Parameter>,
    /// Width of the logits: experts and zero experts.
    pub experts: u32,
    /// Groups of experts; 1 without groups.
    pub groups: u32,
    /// Picks per token.
    pub top_k: u32,
    /// Whether the weights scale the experts' input instead of their output.
    pub before_experts: bool,
}

/// Where machine code lies in the file's last part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CubinEntry {
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Of the bytes of the image.
    pub sha256: Digest,
}

/// One kernel for one target, without its PTX and its machine code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEntry {
    /// Which kernel; its entry point is [`Kernel::name`].
    pub kernel: Kernel,
    /// GPU architecture, such as `sm_90a`.
    pub target: String,
    /// Threads of a CTA.
    pub block: u32,
    /// CTAs of a launch.
    pub grid: Grid,
    /// Dynamic shared memory in bytes; PTX declares the static one itself.
    pub shared: u32,
    /// It waits by itself for the end of the launch before it, and may begin before that.
    #[serde(default)]
    pub programmatic: bool,
    /// Registers per thread, where ptxas was asked.
    pub registers: Option<u32>,
    /// Where its PTX starts in the file's part for PTX, in bytes.
    pub ptx_start: u64,
    /// Length of its PTX in bytes.
    pub ptx_bytes: u64,
    /// Of its PTX.
    pub sha256: Digest,
    /// The same kernel as machine code, where ptxas was asked: a driver then compiles nothing.
    pub cubin: Option<CubinEntry>,
}

/// One kernel for one target, as the compiler hands it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Its row in the table of kernels.
    pub kernel: Kernel,
    /// GPU architecture, such as `sm_90a`.
    pub target: String,
    /// Threads of a CTA.
    pub block: u32,
    /// CTAs of a launch.
    pub grid: Grid,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// It waits by itself for the end of the launch before it, and may begin before that.
    pub programmatic: bool,
    /// Registers per thread, where ptxas was asked.
    pub registers: Option<u32>,
    /// The text that the driver compiles where no cubin fits.
    pub ptx: String,
    /// The same as machine code, where ptxas was asked.
    pub cubin: Option<Vec<u8>>,
}

/// Picks that an expert may keep from the tokens of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    /// A multiple of an even share.
    Factor(f64),
    /// So many, whatever the number of tokens.
    Picks(u32),
}

impl Capacity {
    /// Picks that an expert may keep from `tokens` tokens: as said, or the even share times the factor, rounded up.
    pub fn picks(self, tokens: u32, gate: &GateDescription) -> u32 {
        match self {
            Capacity::Picks(picks) => picks,
            Capacity::Factor(factor) => {
                let share = f64::from(tokens) * f64::from(gate.top_k) / f64::from(gate.experts);
                (share * factor).ceil().min(f64::from(u32::MAX)) as u32
            }
        }
    }
}

/// Everything in a bundle but the PTX and the machine code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name and version of the compiler.
    pub compiler: String,
    /// Name and version of the assembler that has counted the registers; none where there was none, and then no kernel has a number.
    #[serde(default)]
    pub assembler: Option<String>,
    /// The model's name in the source.
    pub model: String,
    /// The deploy's name in the source.
    pub deploy: Option<String>,
    /// The source text: what the kernels must mean, for a tool that checks them.
    pub source: String,
    /// What the kernels are specialised to.
    pub exchange: Exchange,
    /// The gate as its caller sees it.
    pub gate: GateDescription,
    /// `capacity` of the source.
    pub capacity: Option<Capacity>,
    /// Every kernel for every target.
    pub kernels: Vec<KernelEntry>,
}

/// Why a manifest contradicts itself.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum ManifestError {
    /// A number of the exchange.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The gate and the exchange differ.
    #[error("the gate has {what} {gate}, the exchange {exchange}")]
    GateDiffers { what: &'static str, gate: u32, exchange: u32 },
    /// The gate's groups do not divide its experts.
    #[error("the gate has {experts} experts in {groups} groups")]
    Groups {
        /// Width of the logits.
        experts: u32,
        groups: u32,
    },
    /// Two parameters share a name.
    #[error("the gate has two parameters named `{0}`")]
    ParameterTwice(String),
    /// A capacity without a rule for what is dropped, or the other way round, or not a positive number.
    #[error("capacity {0:?} does not fit the exchange's drop rule")]
    Capacity(Option<Capacity>),
    /// A kernel occurs twice for one target.
    #[error("kernel {} occurs twice for target {target}", kernel.name())]
    KernelTwice { kernel: Kernel, target: String },
    /// A kernel exists for one target and not for another.
    #[error("kernel {} is missing for target {target}", kernel.name())]
    KernelMissing { kernel: Kernel, target: String },
    /// Some kernels have machine code, or all have and nobody has made it.
    #[error("kernel {} ({target}) {}, and {}", kernel.name(), if *has { "has machine code" } else { "has no machine code" }, if *has { "the bundle names no assembler" } else { "others have some" })]
    MachineCode {
        kernel: Kernel,
        target: String,
        /// Whether it has some.
        has: bool,
    },
    /// A launch that the protocol does not count on.
    #[error("kernel {} has {found:?} CTAs, the exchange asks for {expected:?}", kernel.name())]
    GridDiffers {
        kernel: Kernel,
        /// In the manifest.
        found: Grid,
        /// By the exchange.
        expected: Grid,
    },
    /// A launch that no GPU can do.
    #[error("kernel {}: {threads} threads in a CTA, {grid:?}", kernel.name())]
    Launch {
        kernel: Kernel,
        /// Threads of a CTA.
        threads: u32,
        /// CTAs.
        grid: Grid,
    },
}

impl Manifest {
    /// Checks what the module documentation promises.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), ManifestError> {
        let exchange = &self.exchange;
        exchange.check()?;
        let gate = &self.gate;
        let differs = |what, gate, exchange| Err(ManifestError::GateDiffers { what, gate, exchange });
        if gate.experts != exchange.gate_width() {
            return differs("experts", gate.experts, exchange.gate_width());
        }
        if gate.top_k != exchange.top_k {
            return differs("top_k", gate.top_k, exchange.top_k);
        }
        if gate.groups == 0 || !gate.experts.is_multiple_of(gate.groups) {
            return Err(ManifestError::Groups { experts: gate.experts, groups: gate.groups });
        }
        let mut names: Vec<&str> = gate.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        names.push(&gate.logits);
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ManifestError::ParameterTwice(pair[0].into()));
        }
        let sound = match self.capacity {
            Some(Capacity::Factor(factor)) => factor > 0.0 && factor.is_finite(),
            Some(Capacity::Picks(_)) | None => true,
        };
        if !sound || self.capacity.is_some() != exchange.drop.is_some() {
            return Err(ManifestError::Capacity(self.capacity));
        }
        self.kernels.iter().try_for_each(|entry| check_launch(entry, exchange))?;
        self.check_machine_code()?;
        self.check_targets()
    }

    fn check_machine_code(&self) -> Result<(), ManifestError> {
        let some = self.kernels.iter().any(|entry| entry.cubin.is_some());
        let wrong = |entry: &&KernelEntry| some && (entry.cubin.is_none() || self.assembler.is_none());
        match self.kernels.iter().find(wrong) {
            Some(entry) => Err(ManifestError::MachineCode {
                kernel: entry.kernel,
                target: entry.target.clone(),
                has: entry.cubin.is_some(),
            }),
            None => Ok(()),
        }
    }

    fn check_targets(&self) -> Result<(), ManifestError> {
        let mut seen = std::collections::BTreeSet::new();
        for entry in &self.kernels {
            if !seen.insert((entry.target.as_str(), entry.kernel)) {
                return Err(ManifestError::KernelTwice { kernel: entry.kernel, target: entry.target.clone() });
            }
        }
        for target in self.targets() {
            if let Some(entry) = self.kernels.iter().find(|entry| !seen.contains(&(target, entry.kernel))) {
                return Err(ManifestError::KernelMissing { kernel: entry.kernel, target: target.into() });
            }
        }
        Ok(())
    }

    /// The targets, in order of first appearance.
    pub fn targets(&self) -> Vec<&str> {
        let mut targets: Vec<&str> = Vec::new();
        for entry in &self.kernels {
            if !targets.contains(&entry.target.as_str()) {
                targets.push(&entry.target);
            }
        }
        targets
    }

    /// Picks that an expert may keep from `tokens` tokens of one rank; `None` when nothing is dropped.
    pub fn capacity(&self, tokens: u32) -> Option<u32> {
        Some(self.capacity?.picks(tokens, &self.gate))
    }
}

fn check_launch(entry: &KernelEntry, exchange: &Exchange) -> Result<(), ManifestError> {
    let (kernel, grid) = (entry.kernel, entry.grid);
    if let Some(expected) = kernel.grid(exchange)
        && grid != expected
    {
        return Err(ManifestError::GridDiffers { kernel, found: grid, expected });
    }
    let (Grid::Fixed(ctas) | Grid::UpTo(ctas) | Grid::PerTokens(ctas)) = grid;
    if ctas == 0 || !moe_contract::limits::THREADS.contains(&entry.block) || !entry.block.is_multiple_of(32) {
        return Err(ManifestError::Launch { kernel, threads: entry.block, grid });
    }
    Ok(())
}
