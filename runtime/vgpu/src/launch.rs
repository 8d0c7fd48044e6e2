//! Launches and their arguments. Invariant: a parameter block has exactly the layout of the kernel's parameters.

use crate::error::ClusterError;
use crate::memory::Address;
use crate::module::Kernel;

/// A kernel argument. Its size must be that of the parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// 4 bytes.
    U32(u32),
    /// 8 bytes.
    U64(u64),
    /// 4 bytes.
    F32(f32),
    /// 8 bytes.
    Pointer(Address),
    /// A struct by value.
    Bytes(Vec<u8>),
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Argument::U32(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Argument::U64(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Argument::F32(value)
    }
}

impl From<Address> for Argument {
    fn from(value: Address) -> Self {
        Argument::Pointer(value)
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// CTAs along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a CTA along x, y and z; at most 1024.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// CTAs of a cluster along x, y and z; as the kernel says if it is not said, and else one.
    pub cluster: Option<[u32; 3]>,
    /// In order of the parameters.
    pub arguments: Vec<Argument>,
}

impl Launch {
    /// A launch along x alone, without dynamic shared memory.
    pub fn linear(grid: u32, block: u32, arguments: Vec<Argument>) -> Launch {
        Launch { grid: [grid, 1, 1], block: [block, 1, 1], shared: 0, cluster: None, arguments }
    }

    /// The parameter block of a kernel.
    pub(crate) fn parameter_block(&self, kernel: &Kernel) -> Result<Vec<u8>, ClusterError> {
        let fail = |reason| Err(ClusterError::Launch { kernel: kernel.name().to_owned(), reason });
        let parameters = kernel.parameters();
        if self.arguments.len() != parameters.len() {
            return fail(format!("it has {} parameters, not {}", parameters.len(), self.arguments.len()));
        }
        let mut block = vec![0; kernel.code().parameter_bytes as usize];
        for (argument, parameter) in self.arguments.iter().zip(parameters) {
            let mut bytes = [0; 8];
            let bytes = match argument {
                Argument::U32(value) => fill(&mut bytes, &value.to_le_bytes()),
                Argument::F32(value) => fill(&mut bytes, &value.to_le_bytes()),
                Argument::U64(value) => fill(&mut bytes, &value.to_le_bytes()),
                Argument::Pointer(address) => fill(&mut bytes, &address.0.to_le_bytes()),
                Argument::Bytes(bytes) => bytes,
            };
            if bytes.len() != parameter.bytes as usize {
                return fail(format!(
                    "parameter `{}` has {} bytes, the argument has {}",
                    parameter.name,
                    parameter.bytes,
                    bytes.len()
                ));
            }
            block[parameter.offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(block)
    }
}

fn fill<'b>(buffer: &'b mut [u8; 8], bytes: &[u8]) -> &'b [u8] {
    buffer[..bytes.len()].copy_from_slice(bytes);
    &buffer[..bytes.len()]
}
