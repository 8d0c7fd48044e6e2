//! The real assembler: what a kernel takes of a multiprocessor, its machine code, and its SASS.
//!
//! Invariants: files that the tools need live in a folder that is gone when a function returns, also when it fails; a tool that runs is in
//! [`RUNNING`], so that whoever ends the process can end it too.
//!
//! The tools are looked for in `$MOE_CUDA_TOOLS`, where it is set; otherwise in `target/cuda-tools/bin` above the running program or the
//! current folder, then in `$PATH`.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ptx::Chip;

/// The folder of the tools.
pub const FOLDER_VARIABLE: &str = "MOE_CUDA_TOOLS";

/// Why there is no machine code.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A tool is not installed.
    #[error("{tool} is not in {}: run `.ci/bootstrap`, which installs it into target/cuda-tools", searched.join(", "))]
    Missing {
        /// Name of the program.
        tool: &'static str,
        /// Where it was looked for.
        searched: Vec<String>,
    },
    /// A tool could not be started, or a file for it not be written.
    #[error("{tool}: {source}")]
    Io {
        /// Name of the program.
        tool: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A tool refused its input.
    #[error("{tool} refuses the kernel: {messages}")]
    Refused {
        /// Name of the program.
        tool: &'static str,
        messages: String,
    },
    /// ptxas said nothing, or other than expected, about the one kernel in the text.
    #[error("ptxas does not say what the kernel takes: {messages}")]
    Unreadable { messages: String },
}

/// What a kernel takes, as ptxas says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread writes to local memory for want of registers.
    pub spill_stores: u32,
    /// Bytes that a thread reads back.
    pub spill_loads: u32,
    /// Bytes of local memory of a thread.
    pub stack_frame: u32,
    /// Static bytes of shared memory of a CTA.
    pub shared: u32,
}

impl Usage {
    /// Whether no thread needs local memory.
    pub fn stays_in_registers(&self) -> bool {
        self.spill_stores == 0 && self.spill_loads == 0 && self.stack_frame == 0
    }
}

/// An assembled kernel.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// What it takes.
    pub usage: Usage,
    /// The machine code, an ELF file.
    pub cubin: Vec<u8>,
}

/// Assembles a text with one kernel.
///
/// # Errors
/// If ptxas is missing or refuses the text.
pub fn assemble(ptx: &str, chip: Chip) -> Result<Assembled, AssembleError> {
    let tool = "ptxas";
    let folder = Folder::new(tool)?;
    let (input, output) = (folder.path("kernel.ptx"), folder.path("kernel.cubin"));
    std::fs::write(&input, ptx).map_err(|source| AssembleError::Io { tool, source })?;
    let arguments = ["-v".as_ref(), "-arch".as_ref(), chip.name().as_ref(), input.as_os_str()];
    let said = run(tool, arguments.into_iter().chain(["-o".as_ref(), output.as_os_str()]))?;
    let messages = String::from_utf8_lossy(&said.stderr).into_owned();
    let usage = usage(&messages).ok_or(AssembleError::Unreadable { messages })?;
    let cubin = std::fs::read(&output).map_err(|source| AssembleError::Io { tool, source })?;
    Ok(Assembled { usage, cubin })
}

/// Name and version of the assembler, such as `ptxas 13.2.86`.
///
/// # Errors
/// If ptxas is missing.
pub fn version() -> Result<String, AssembleError> {
    let tool = "ptxas";
    let said = run(tool, ["--version".as_ref()])?;
    Ok(format!("{tool} {}", version_in(&String::from_utf8_lossy(&said.stdout)).unwrap_or("of unknown version")))
}

/// In `Cuda compilation tools, release 13.2, V13.2.86`.
fn version_in(said: &str) -> Option<&str> {
    let line = said.lines().find(|line| line.contains(", release "))?;
    line.rsplit_once(", V").map(|(_, version)| version.trim())
}

impl Assembled {
    /// The machine code as text.
    ///
    /// # Errors
    /// If nvdisasm is missing or refuses the file.
    pub fn sass(&self) -> Result<String, AssembleError> {
        let tool = "nvdisasm";
        let folder = Folder::new(tool)?;
        let input = folder.path("kernel.cubin");
        std::fs::write(&input, &self.cubin).map_err(|source| AssembleError::Io { tool, source })?;
        let said = run(tool, ["-c".as_ref(), input.as_os_str()])?;
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }
}

/// A folder for the files of one run.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(tool: &'static str) -> Result<Folder, AssembleError> {
        tempfile::tempdir().map(Folder).map_err(|source| AssembleError::Io { tool, source })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn run<'a>(tool: &'static str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Output, AssembleError> {
    let program = find(tool)?;
    let output = output(Command::new(program).args(arguments)).map_err(|source| AssembleError::Io { tool, source })?;
    if output.status.success() {
        return Ok(output);
    }
    let messages = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    Err(AssembleError::Refused { tool, messages: messages.trim().to_owned() })
}

/// Process ids of the tools that run.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<u32>> {
    // A list of numbers is whole whatever its holder did.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a process that is about to end: hands over the ids of all tools that run. None is started any more.
pub fn stop(end: impl FnMut(u32)) {
    let running = running();
    running.iter().copied().for_each(end);
    std::mem::forget(running);
}

fn output(command: &mut Command) -> io::Result<Output> {
    let mut running_now = running();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let id = child.id();
    running_now.push(id);
    drop(running_now);
    let output = child.wait_with_output();
    running().retain(|&other| other != id);
    output
}

fn find(tool: &'static str) -> Result<PathBuf, AssembleError> {
    let set = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty());
    let folders = match &set {
        Some(folder) => vec![PathBuf::from(folder)],
        None => {
            let places = [std::env::current_exe(), std::env::current_dir()].into_iter().flatten();
            let above = places.flat_map(|place| place.ancestors().map(Path::to_owned).collect::<Vec<_>>());
            let path = std::env::var_os("PATH").unwrap_or_default();
            above.map(|place| place.join("target/cuda-tools/bin")).chain(std::env::split_paths(&path)).collect()
        }
    };
    folders.iter().map(|folder| folder.join(tool)).find(|program| program.is_file()).ok_or_else(|| {
        AssembleError::Missing {
            tool,
            searched: match set {
                Some(folder) => vec![format!("{} (${FOLDER_VARIABLE})", folder.display())],
                None => vec!["target/cuda-tools/bin".into(), "$PATH".into()],
            },
        }
    })
}

/// Reads what `ptxas -v` says about a text with one kernel.
fn usage(messages: &str) -> Option<Usage> {
    if messages.matches("Compiling entry function").count() != 1 {
        return None;
    }
    // The number before a unit: `Used 8 registers, used 1 barriers, 64 bytes smem`.
    let before = |unit: &str| {
        let rest = messages[..messages.find(unit)?].trim_end();
        rest[rest.rfind(|c: char| !c.is_ascii_digit())? + 1..].parse::<u32>().ok()
    };
    Some(Usage {
        registers: before(" registers")?,
        spill_stores: before(" bytes spill stores")?,
        spill_loads: before(" bytes spill loads")?,
        stack_frame: before(" bytes stack frame")?,
        shared: before(" bytes smem").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_ptxas_is_read() {
        let said = "ptxas: NVIDIA (R) Ptx optimizing assembler\nCopyright (c) 2005-2026 NVIDIA Corporation\n\
                    Cuda compilation tools, release 13.2, V13.2.86\nBuild cuda_13.2.r13.2/compiler.1_0\n";
        assert_eq!(version_in(said), Some("13.2.86"));
        assert_eq!(version_in("another tool"), None);
    }

    #[test]
    fn the_figures_of_ptxas_are_read() {
        let said = "ptxas info    : 0 bytes gmem\n\
                    ptxas info    : Compiling entry function 'k' for 'sm_90a'\n\
                    ptxas info    : Function properties for k\n    \
                    24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads\n\
                    ptxas info    : Used 8 registers, used 1 barriers, 64 bytes smem\n";
        let usage = usage(said).expect("readable");
        let expected = Usage { registers: 8, spill_stores: 16, spill_loads: 20, stack_frame: 24, shared: 64 };
        assert_eq!(usage, expected);
        assert!(!usage.stays_in_registers());
        assert_eq!(super::usage(""), None);
        assert_eq!(super::usage(&said.repeat(2)), None, "two kernels");
    }
}
