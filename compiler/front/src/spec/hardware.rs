//! What is known of GPUs and network cards: the one place that knows it.
//!
//! Invariant: every number is the most that any variant of a GPU has, so that more than it is what nobody has.

use std::fmt;

use super::Target;
use crate::units::{Bytes, BytesPerSecond};

/// A GPU, of which there may be variants.
#[derive(Clone, Copy, Debug)]
pub struct KnownGpu {
    /// A word of its name.
    pub name: &'static str,
    /// What code for it is compiled for.
    pub architecture: &'static str,
    /// Multiprocessors.
    pub sms: u32,
    pub memory: Bytes,
    /// NVLink in one direction: half of what data sheets state.
    pub nvlink: BytesPerSecond,
    /// Where these numbers are published.
    pub source: &'static str,
}

const fn gpu(
    name: &'static str,
    architecture: &'static str,
    sms: u32,
    gigabytes: u64,
    nvlink: u64,
    source: &'static str,
) -> KnownGpu {
    let (memory, nvlink) = (Bytes(gigabytes * 1_000_000_000), BytesPerSecond(nvlink * 1_000_000_000));
    KnownGpu { name, architecture, sms, memory, nvlink, source }
}

/// Every GPU that is known. Architectures: developer.nvidia.com/cuda-gpus.
pub const GPUS: &[KnownGpu] = &[
    gpu("H100", "sm_90a", 132, 94, 450, "NVIDIA H100 data sheet, SXM and NVL"),
    gpu("H800", "sm_90a", 132, 94, 200, "NVIDIA H100 data sheet; its NVLink: arXiv:2505.09343, section 2"),
    gpu("H200", "sm_90a", 132, 141, 450, "NVIDIA H200 data sheet"),
    gpu("H20", "sm_90a", 78, 141, 450, "NVIDIA H20 product brief, with 96 GB or 141 GB"),
    gpu("GH200", "sm_90a", 132, 144, 450, "NVIDIA GH200 data sheet, with 96 GB or 144 GB"),
    gpu("B200", "sm_100a", 148, 192, 900, "NVIDIA Blackwell data sheet, with 180 GB to 192 GB"),
    gpu("GB200", "sm_100a", 160, 192, 900, "NVIDIA GB200 NVL72 data sheet; SMs of the whole chip"),
    gpu("B300", "sm_103a", 160, 288, 900, "NVIDIA Blackwell Ultra data sheet"),
    gpu("GB300", "sm_103a", 160, 288, 900, "NVIDIA GB300 NVL72 data sheet"),
];

/// The fastest network that a GPU has for itself, and whose it is.
pub const NETWORK: (BytesPerSecond, &str) =
    (BytesPerSecond(100_000_000_000), "NVIDIA ConnectX-8 SuperNIC data sheet: 800 Gb/s");

/// The GPU that `name` names with one of its words: `NVIDIA H100 80GB HBM3` is an H100.
pub fn known(name: &str) -> Option<&'static KnownGpu> {
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| GPUS.iter().find(|gpu| gpu.name.eq_ignore_ascii_case(word)))
}

/// The most that any known GPU of this target has.
pub fn largest(target: Target) -> KnownGpu {
    let of_target = GPUS.iter().filter(|gpu| gpu.architecture == target.text());
    let none = gpu("GPU", target.text(), 0, 0, 0, "the data sheets of all known GPUs of this target");
    of_target.fold(none, |most, gpu| KnownGpu {
        sms: most.sms.max(gpu.sms),
        memory: Bytes(most.memory.0.max(gpu.memory.0)),
        nvlink: BytesPerSecond(most.nvlink.0.max(gpu.nvlink.0)),
        ..most
    })
}

impl fmt::Display for KnownGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KnownGpu { name, architecture, sms, memory, nvlink, source } = self;
        write!(f, "{name}: {architecture}, at most {sms} SMs, {memory}, NVLink {nvlink} in one direction ({source})")
    }
}
