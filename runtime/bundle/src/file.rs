//! A bundle in a file: header, manifest, PTX, machine code; nothing between, nothing behind.
//!
//! ```text
//!  0  magic        89 'M' 'O' 'E' 'B' 0D 0A 1A   (a text-mode copy or a 7-bit channel breaks it)
//!  8  version      u32
//! 12  manifest     u32, bytes of JSON
//! 16  PTX          u64, bytes of all texts
//! 24  machine code u64, bytes of all cubins; 0 where there was no assembler
//! 32  sha256       of the whole file with these 32 bytes left out
//! 64  JSON, then PTX, then machine code
//! ```
//! Numbers are little-endian. Invariants of a [`Bundle`] that was read: the hash of the file, of every PTX and of every cubin is right, every PTX
//! is UTF-8, every cubin is machine code for the GPU that its entry names, and [`Manifest::check`] holds. Lengths are compared with the bytes at
//! hand before anything is allocated.

use std::io::{self, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use moe_contract::Kernel;
use sha2::{Digest as _, Sha256};

use crate::manifest::{CubinEntry, Digest, KernelEntry, KernelImage, Manifest, ManifestError};

/// The first bytes of every bundle.
pub const MAGIC: [u8; 8] = *b"\x89MOEB\r\n\x1a";
/// The version that this crate writes and the only one it reads.
pub const VERSION: u32 = 3;
/// Bytes before the manifest.
pub const HEADER_BYTES: usize = 64;
/// Where the hash lies in the header.
const HASH: Range<usize> = 32..HEADER_BYTES;

/// A manifest with its PTX and its machine code.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    manifest: Manifest,
    ptx: String,
    cubins: Vec<u8>,
}

/// Why a file is not a bundle that can be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Another kind of file.
    #[error("not a bundle: it does not begin as one; a bundle is what `moec build` writes")]
    Foreign,
    /// Written by another compiler generation.
    #[error("bundle of format version {found}; this program reads version {VERSION}: build it again with `moec build`")]
    OtherVersion {
        /// The file's.
        found: u32,
    },
    /// Shorter than it says.
    #[error("the bundle is cut off: it has {found} bytes of {expected}")]
    Truncated {
        /// Bytes it should have.
        expected: u128,
        /// Bytes it has.
        found: usize,
    },
    /// Longer than it says.
    #[error("the bundle has {extra} bytes behind its end")]
    Trailing { extra: u128 },
    /// Some byte differs from what was written.
    #[error("the bundle is damaged: its hash is {found}, it should be {expected}")]
    Damaged {
        /// By the header.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// The hash is right, the manifest is not one.
    #[error("the bundle's manifest cannot be understood: {0}")]
    Manifest(#[from] serde_json::Error),
    /// The manifest contradicts itself.
    #[error("the bundle's manifest is contradictory: {0}")]
    Contradiction(#[from] ManifestError),
    /// The part for PTX is not text.
    #[error("the bundle's PTX is not text: {0}")]
    NotText(#[from] std::str::Utf8Error),
    /// A kernel's PTX lies outside the part for PTX.
    #[error("the bundle's manifest places kernel {} ({target}) at bytes {start} to {start}+{bytes}, where there is no such text", kernel.name())]
    PtxRange {
        kernel: Kernel,
        target: String,
        /// Its first byte.
        start: u64,
        /// Its length.
        bytes: u64,
    },
    /// A kernel's PTX is not the one that was compiled.
    #[error("the PTX of kernel {} ({target}) does not have the hash that the manifest gives", kernel.name())]
    PtxHash { kernel: Kernel, target: String },
    /// A kernel's machine code lies outside the part for machine code.
    #[error("the bundle's manifest places machine code of kernel {} ({target}) at bytes {start} to {start}+{bytes}, where there is none", kernel.name())]
    CubinRange {
        kernel: Kernel,
        target: String,
        /// Its first byte.
        start: u64,
        /// Its length.
        bytes: u64,
    },
    /// A kernel's machine code is not the one that was assembled.
    #[error("the machine code of kernel {} ({target}) does not have the hash that the manifest gives", kernel.name())]
    CubinHash { kernel: Kernel, target: String },
    /// A kernel's machine code is none, or is for another GPU.
    #[error("the machine code of kernel {} is not for {target}: {}", kernel.name(), other(*found))]
    CubinTarget {
        kernel: Kernel,
        /// For which target it should be.
        target: String,
        /// For which it is, such as 90; none if it is no machine code.
        found: Option<u32>,
    },
}

fn other(found: Option<u32>) -> String {
    found.map_or_else(|| "it is no machine code of a GPU".to_owned(), |found| format!("it is for sm_{found}"))
}

/// Why a bundle cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what each field is")]
pub enum WriteError {
    /// The manifest contradicts itself.
    #[error("cannot write this bundle: {0}")]
    Contradiction(#[from] ManifestError),
    /// The file cannot be written. Nothing was left behind.
    #[error("cannot write {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Bundle {
    /// Puts a manifest and its kernels together; the manifest's own list of kernels is replaced.
    ///
    /// # Errors
    /// When manifest and kernels contradict each other.
    pub fn new(mut manifest: Manifest, images: &[KernelImage]) -> Result<Bundle, ManifestError> {
        let (mut ptx, mut cubins) = (String::new(), Vec::new());
        manifest.kernels.clear();
        for image in images {
            let cubin = image.cubin.as_ref().map(|cubin| CubinEntry {
                start: cubins.len() as u64,
                bytes: cubin.len() as u64,
                sha256: Digest::of(cubin),
            });
            manifest.kernels.push(KernelEntry {
                kernel: image.kernel,
                target: image.target.clone(),
                block: image.block,
                grid: image.grid,
                shared: image.shared,
                programmatic: image.programmatic,
                registers: image.registers,
                ptx_start: ptx.len() as u64,
                ptx_bytes: image.ptx.len() as u64,
                sha256: Digest::of(image.ptx.as_bytes()),
                cubin,
            });
            ptx.push_str(&image.ptx);
            cubins.extend_from_slice(image.cubin.as_deref().unwrap_or_default());
        }
        manifest.check()?;
        Ok(Bundle { manifest, ptx, cubins })
    }

    /// Everything but the PTX and the machine code.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A kernel for a target.
    pub fn kernel(&self, kernel: Kernel, target: &str) -> Option<&KernelEntry> {
        self.manifest.kernels.iter().find(|entry| entry.kernel == kernel && entry.target == target)
    }

    /// The PTX of an entry of this bundle's manifest; empty for an entry of another bundle that does not fit.
    pub fn ptx(&self, entry: &KernelEntry) -> &str {
        range_of(entry.ptx_start, entry.ptx_bytes).and_then(|range| self.ptx.get(range)).unwrap_or_default()
    }

    /// The machine code of an entry of this bundle's manifest, if the bundle was built with an assembler.
    pub fn cubin(&self, entry: &KernelEntry) -> Option<&[u8]> {
        let cubin = entry.cubin.as_ref()?;
        self.cubins.get(range_of(cubin.start, cubin.bytes)?)
    }

    /// The file's bytes. The same bundle always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A manifest is plain data with string keys and finite numbers, which JSON can always say.
        let manifest = serde_json::to_vec(&self.manifest).expect("a manifest is representable as JSON");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + manifest.len() + self.ptx.len() + self.cubins.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(manifest.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.ptx.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.cubins.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&[0; 32]);
        bytes.extend_from_slice(&manifest);
        bytes.extend_from_slice(self.ptx.as_bytes());
        bytes.extend_from_slice(&self.cubins);
        let hash = hash_of_file(&bytes);
        bytes[HASH].copy_from_slice(&hash.0);
        bytes
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// When they are anything but what [`Bundle::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Bundle, ReadError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] || bytes.is_empty() {
            return Err(ReadError::Foreign);
        }
        let truncated = |expected: u128| ReadError::Truncated { expected, found: bytes.len() };
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or_else(|| truncated(HEADER_BYTES as u128))?;
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if version != VERSION {
            return Err(ReadError::OtherVersion { found: version });
        }
        let manifest_bytes = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        let length = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (ptx_bytes, cubin_bytes) = (length(16), length(24));
        let parts = [u64::from(manifest_bytes), ptx_bytes, cubin_bytes].map(u128::from);
        let expected = HEADER_BYTES as u128 + parts.iter().sum::<u128>();
        match expected.cmp(&(bytes.len() as u128)) {
            std::cmp::Ordering::Greater => return Err(truncated(expected)),
            std::cmp::Ordering::Less => return Err(ReadError::Trailing { extra: bytes.len() as u128 - expected }),
            std::cmp::Ordering::Equal => {}
        }
        let mut stored = [0; 32];
        stored.copy_from_slice(&header[HASH]);
        let (stored, found) = (Digest(stored), hash_of_file(bytes));
        if stored != found {
            return Err(ReadError::Damaged { expected: stored, found });
        }
        let (manifest, code) = bytes[HEADER_BYTES..].split_at(manifest_bytes as usize);
        // All parts together are as long as the bytes at hand.
        let (ptx, cubins) = code.split_at(ptx_bytes as usize);
        let manifest: Manifest = serde_json::from_slice(manifest)?;
        manifest.check()?;
        let ptx = std::str::from_utf8(ptx)?;
        manifest.kernels.iter().try_for_each(|entry| check_ptx(entry, ptx))?;
        manifest.kernels.iter().try_for_each(|entry| check_cubin(entry, cubins))?;
        Ok(Bundle { manifest, ptx: ptx.into(), cubins: cubins.into() })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not a sound bundle.
    pub fn read(path: &Path) -> Result<Bundle, ReadError> {
        let bytes = std::fs::read(path).map_err(|source| ReadError::Io { path: path.into(), source })?;
        Bundle::from_bytes(&bytes)
    }

    /// Writes a file: beside its place first, then renamed, so that a reader sees the old bundle or the new one.
    ///
    /// # Errors
    /// When it cannot be written; then nothing is left behind.
    pub fn write(&self, path: &Path) -> Result<(), WriteError> {
        let io = |source| WriteError::Io { path: path.into(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            // A temporary file is for its owner alone; a bundle is a file like any other, so that the umask decides.
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut beside = builder.tempfile_in(folder).map_err(io)?;
        beside.write_all(&self.to_bytes()).map_err(io)?;
        beside.persist(path).map_err(|error| io(error.error))?;
        Ok(())
    }
}

fn hash_of_file(bytes: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(&bytes[..HASH.start]);
    hash.update(&bytes[HASH.end..]);
    Digest(hash.finalize().into())
}

fn range_of(start: u64, bytes: u64) -> Option<Range<usize>> {
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    Some(start..end)
}

fn check_ptx(entry: &KernelEntry, ptx: &str) -> Result<(), ReadError> {
    let Some(text) = range_of(entry.ptx_start, entry.ptx_bytes).and_then(|range| ptx.get(range)) else {
        return Err(ReadError::PtxRange {
            kernel: entry.kernel,
            target: entry.target.clone(),
            start: entry.ptx_start,
            bytes: entry.ptx_bytes,
        });
    };
    if Digest::of(text.as_bytes()) != entry.sha256 {
        return Err(ReadError::PtxHash { kernel: entry.kernel, target: entry.target.clone() });
    }
    Ok(())
}

fn check_cubin(entry: &KernelEntry, cubins: &[u8]) -> Result<(), ReadError> {
    let Some(cubin) = &entry.cubin else { return Ok(()) };
    let (kernel, target) = (entry.kernel, entry.target.clone());
    let Some(code) = range_of(cubin.start, cubin.bytes).and_then(|range| cubins.get(range)) else {
        return Err(ReadError::CubinRange { kernel, target, start: cubin.start, bytes: cubin.bytes });
    };
    if Digest::of(code) != cubin.sha256 {
        return Err(ReadError::CubinHash { kernel, target });
    }
    let found = machine_of(code);
    let wanted: String = target.chars().filter(char::is_ascii_digit).collect();
    if found.map(|found| found.to_string()) != Some(wanted) {
        return Err(ReadError::CubinTarget { kernel, target, found });
    }
    Ok(())
}

/// The GPU that an ELF file of CUDA is for, such as 90 for `sm_90` and `sm_90a`. It stands in the flags of its header, whose form depends on the
/// version of the format.
fn machine_of(cubin: &[u8]) -> Option<u32> {
    const CUDA: [u8; 2] = 190u16.to_le_bytes();
    /// Since this version of the format it is the second byte; before, the first.
    const SECOND_BYTE: u8 = 8;
    let header = cubin.first_chunk::<64>()?;
    let is_cuda = header.starts_with(b"\x7fELF\x02\x01") && header[18..20] == CUDA;
    let flags = &header[48..52];
    is_cuda.then_some(u32::from(if header[8] >= SECOND_BYTE { flags[1] } else { flags[0] }))
}
