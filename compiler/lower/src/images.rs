//! From device code to PTX, and what the assembler says of it.

use moe_bundle::{Bundle, KernelImage, Manifest};
use moe_contract::Kernel;
use moe_front::spec::Target;
use moe_kernels::assemble::{Assembled, Usage, assemble, version};
use moe_kernels::audit::audit;
use moe_kernels::ptx;
use rayon::prelude::*;

use crate::error::LowerError;
use crate::kernels::{KernelCode, Kernels, chip};
use crate::plan::Planned;

/// A plan with the PTX of all its kernels for all its targets.
#[derive(Clone, Debug)]
pub struct Images {
    pub planned: Planned,
    /// Target by target, in the order of [`Kernel::ALL`].
    pub images: Vec<KernelImage>,
    /// Which assembler has made the machine code of all of them and counted their registers; none has made that of some.
    pub assembler: Option<String>,
}

impl Kernels {
    /// Translates every kernel for every target, on all cores. Text that breaks a rule of [`mod@moe_kernels::audit`] is refused.
    ///
    /// # Errors
    /// When a kernel cannot be translated or breaks a rule, which is a bug.
    pub fn ptx(self) -> Result<Images, LowerError> {
        let work: Vec<(Target, &KernelCode)> = self
            .planned
            .layer
            .targets
            .iter()
            .flat_map(|&target| self.codes.iter().map(move |code| (target, code)))
            .collect();
        let images = work.into_par_iter().map(|(target, code)| image(target, code)).collect::<Result<_, _>>()?;
        Ok(Images { planned: self.planned, images, assembler: None })
    }
}

fn image(target: Target, kernel: &KernelCode) -> Result<KernelImage, LowerError> {
    let ptx = kernel.code.ptx(ptx::Target::of(chip(target)))?;
    if let Some(finding) = audit(&ptx).first() {
        return Err(LowerError::Audit { kernel: kernel.kernel, finding: finding.to_string() });
    }
    Ok(KernelImage {
        kernel: kernel.kernel,
        target: target.text().into(),
        block: kernel.block,
        grid: kernel.grid,
        shared: kernel.code.dynamic_shared(),
        programmatic: kernel.code.waits_for_grid(),
        registers: None,
        ptx,
        cubin: None,
    })
}

/// What the assembler says of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelUsage {
    pub kernel: Kernel,
    pub target: Target,
    /// What it takes.
    pub usage: Usage,
}

impl Images {
    /// Assembles everything on all cores and keeps the machine code and the registers of all kernels, or of none: what is kept does not depend
    /// on which of them failed first.
    ///
    /// # Errors
    /// When ptxas is missing, or refuses a text, which is a bug.
    pub fn assemble(&mut self) -> Result<Vec<KernelUsage>, LowerError> {
        let assembled = |image: &KernelImage| {
            let target = target(&image.target);
            let Assembled { usage, cubin } = assemble(&image.ptx, chip(target))?;
            Ok((KernelUsage { kernel: image.kernel, target, usage }, cubin))
        };
        let all: Vec<(KernelUsage, Vec<u8>)> =
            self.images.par_iter().map(assembled).collect::<Result<_, LowerError>>()?;
        self.assembler = Some(version()?);
        let with_image = |(image, (used, cubin)): (&mut KernelImage, (KernelUsage, Vec<u8>))| {
            (image.registers, image.cubin) = (Some(used.usage.registers), Some(cubin));
            used
        };
        Ok(self.images.iter_mut().zip(all).map(with_image).collect())
    }

    /// All kernels for all targets, as PTX.
    pub fn text(&self) -> String {
        let title = |image: &KernelImage| format!("// {} for {}\n", image.kernel.name(), image.target);
        self.images.iter().map(|image| title(image) + image.ptx.trim_end() + "\n\n").collect()
    }

    /// All kernels for all targets, as machine code.
    ///
    /// # Errors
    /// When ptxas or nvdisasm is missing, or refuses a text, which is a bug.
    pub fn sass(&self) -> Result<String, LowerError> {
        let sass = |image: &KernelImage| -> Result<String, LowerError> {
            let sass = assemble(&image.ptx, chip(target(&image.target)))?.sass()?;
            Ok(format!("// {} for {}\n{}\n\n", image.kernel.name(), image.target, sass.trim_end()))
        };
        let texts: Vec<String> = self.images.par_iter().map(sass).collect::<Result<_, _>>()?;
        Ok(texts.concat())
    }

    /// Puts everything into a bundle; `source` is the text that it was compiled from.
    ///
    /// # Errors
    /// When kernels and plan contradict each other, which is a bug.
    pub fn bundle(&self, source: &str) -> Result<Bundle, LowerError> {
        let Planned { layer, exchange, gate } = &self.planned;
        let manifest = Manifest {
            compiler: concat!("moec ", env!("CARGO_PKG_VERSION")).into(),
            assembler: self.assembler.clone(),
            model: layer.model.clone(),
            deploy: layer.deploy.clone(),
            source: source.into(),
            exchange: *exchange,
            gate: gate.clone(),
            capacity: layer.capacity,
            kernels: vec![],
        };
        Ok(Bundle::new(manifest, &self.images)?)
    }
}

/// The images were made for targets of the language.
fn target(name: &str) -> Target {
    if name == Target::Sm100a.text() { Target::Sm100a } else { Target::Sm90a }
}
