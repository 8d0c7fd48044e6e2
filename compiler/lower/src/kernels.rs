//! From a plan to device code.

use moe_contract::{Call, Grid, Kernel};
use moe_front::spec::Target;
use moe_gate::derivative::derivative;
use moe_kernels::device::DeviceCode;
use moe_kernels::gate::GateKernel;
use moe_kernels::ptx::{self, Chip};
use moe_kernels::{exchange, gate};
use rayon::prelude::*;

use crate::error::LowerError;
use crate::plan::Planned;

/// One kernel, for any target.
#[derive(Clone, Debug)]
pub struct KernelCode {
    pub kernel: Kernel,
    pub code: DeviceCode,
    /// Threads of a CTA.
    pub block: u32,
    /// CTAs of a launch.
    pub grid: Grid,
}

/// A plan with the code of all its kernels.
#[derive(Clone, Debug)]
pub struct Kernels {
    pub planned: Planned,
    /// In the order of [`Kernel::ALL`].
    pub codes: Vec<KernelCode>,
}

impl Planned {
    /// Generates every kernel that the plan needs, on all cores.
    ///
    /// # Errors
    /// When the gate exceeds what a kernel holds, which the check of a file finds before.
    pub fn kernels(self) -> Result<Kernels, LowerError> {
        let needed = Kernel::ALL.iter().copied().filter(|kernel| kernel.is_of(&self.exchange)).collect();
        self.generate(needed)
    }

    /// Generates the gate alone, with its gradient and its limit of capacity.
    ///
    /// # Errors
    /// As [`Planned::kernels`].
    pub fn gate_kernels(self) -> Result<Kernels, LowerError> {
        let needed = [Call::Gate, Call::GateBackward].iter().flat_map(|call| call.kernels(&self.exchange)).collect();
        self.generate(needed)
    }

    fn generate(self, needed: Vec<Kernel>) -> Result<Kernels, LowerError> {
        let codes: Vec<Option<KernelCode>> =
            needed.into_par_iter().map(|kernel| self.code(kernel)).collect::<Result<_, _>>()?;
        Ok(Kernels { codes: codes.into_iter().flatten().collect(), planned: self })
    }

    /// Nothing for the gradient of a gate that reads no logits.
    fn code(&self, kernel: Kernel) -> Result<Option<KernelCode>, LowerError> {
        let of_gate = |GateKernel { code, block, grid }| KernelCode { kernel, code, block, grid };
        if let Some(grid) = kernel.grid(&self.exchange) {
            let code = exchange::device_code(kernel, &self.exchange);
            return Ok(Some(KernelCode { kernel, code, block: self.exchange.threads, grid }));
        }
        if kernel == Kernel::Gate {
            return Ok(Some(of_gate(gate::device_code(&self.layer.gate)?)));
        }
        let backward = derivative(&self.layer.gate);
        Ok(backward.map(|backward| gate::backward_device_code(&backward)).transpose()?.map(of_gate))
    }
}

/// The kernels' name for a target of the language.
pub fn chip(target: Target) -> Chip {
    match target {
        Target::Sm90a => Chip::Sm90a,
        Target::Sm100a => Chip::Sm100a,
    }
}

impl Kernels {
    /// All kernels for all targets, as MLIR.
    pub fn mlir(&self) -> String {
        self.each("//", |code, target| Ok(code.mlir(target))).unwrap_or_default()
    }

    /// All kernels for all targets, as LLVM IR.
    ///
    /// # Errors
    /// When MLIR refuses one, which is a bug.
    pub fn llvm(&self) -> Result<String, LowerError> {
        self.each(";", |code, target| Ok(code.llvm(target)?))
    }

    fn each(
        &self,
        comment: &str,
        text: impl Fn(&DeviceCode, ptx::Target) -> Result<String, LowerError>,
    ) -> Result<String, LowerError> {
        let mut all = String::new();
        for &target in &self.planned.layer.targets {
            for kernel in &self.codes {
                let title = format!("{comment} {} for {}\n", kernel.kernel.name(), target.text());
                all.push_str(&title);
                all.push_str(text(&kernel.code, ptx::Target::of(chip(target)))?.trim_end());
                all.push_str("\n\n");
            }
        }
        Ok(all)
    }
}
