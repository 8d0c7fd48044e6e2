//! Reading and checking a `.moe` file, and what is said of it.

use clap::Args;
use moe_decide::choose_deploy;
use moe_front::check_source;
use moe_front::diagnostics::Diagnostics;
use moe_front::spec::{Declaration, DeployId, ModelId, Spec};

use crate::failure::Failure;
use crate::files::{InputPath, Wanted};
use crate::source::Source;
use crate::terminal::Terminal;

impl Source {
    /// Reads a `.moe` file.
    pub fn read(path: &InputPath) -> Result<Source, Failure> {
        Source::read_as(path, Wanted::Moe)
    }

    /// Reads a file.
    pub fn read_as(path: &InputPath, wanted: Wanted) -> Result<Source, Failure> {
        Ok(Source { name: path.to_string(), bytes: path.read(wanted)?.into() })
    }

    /// Its meaning; errors are the failure.
    pub fn check(&self) -> Result<Checked<'_>, Failure> {
        let checked = check_source(&self.bytes);
        match checked.spec {
            Some(spec) => Ok(Checked { source: self, spec, diagnostics: checked.diagnostics }),
            None => Err(Failure::File(self.clone(), checked.diagnostics)),
        }
    }
}

/// A file without errors. What it means is had by saying what of it is used; the warnings of that, and of nothing else, are said then.
pub struct Checked<'s> {
    source: &'s Source,
    spec: Spec,
    diagnostics: Diagnostics,
}

impl Checked<'_> {
    /// One deploy is used, with its model and its cluster: the one of that name, or the only one.
    pub fn deploy(
        self,
        name: Option<&str>,
        warnings: &Warnings,
        terminal: &Terminal,
    ) -> Result<(Spec, DeployId), Failure> {
        let id = choose_deploy(&self.spec, name).map_err(|error| Failure::of_lowering(self.source, error.into()))?;
        Ok((self.warned(warnings, terminal, Some(Declaration::Deploy(id)))?, id))
    }

    /// One model is used.
    pub fn model(
        self,
        warnings: &Warnings,
        terminal: &Terminal,
        choose: impl FnOnce(&Spec) -> Result<ModelId, Failure>,
    ) -> Result<(Spec, ModelId), Failure> {
        let id = choose(&self.spec)?;
        Ok((self.warned(warnings, terminal, Some(Declaration::Model(id)))?, id))
    }

    /// Everything is used.
    pub fn whole(self, warnings: &Warnings, terminal: &Terminal) -> Result<Spec, Failure> {
        self.warned(warnings, terminal, None)
    }

    fn warned(self, warnings: &Warnings, terminal: &Terminal, used: Option<Declaration>) -> Result<Spec, Failure> {
        let mut said = Diagnostics::default();
        let concerns = |place| used.is_none_or(|used| self.spec.concerns(place, used));
        self.diagnostics.iter().filter(|found| concerns(found.place())).for_each(|found| said.report(found.clone()));
        terminal.diagnostics(self.source, &said);
        warnings.denied(&self.source.name, &said)?;
        Ok(self.spec)
    }
}

/// What warnings do.
#[derive(Args)]
pub struct Warnings {
    /// Fail where there is a warning, as if it were an error
    #[arg(long = "deny-warnings")]
    pub deny: bool,
}

impl Warnings {
    /// The failure, if warnings are one and there are some.
    pub fn denied(&self, name: &str, diagnostics: &Diagnostics) -> Result<(), Failure> {
        match diagnostics.warnings() {
            0 => Ok(()),
            _ if !self.deny => Ok(()),
            1 => Err(Failure::Message(format!("{name}: a warning, and `--deny-warnings` is given"))),
            many => Err(Failure::Message(format!("{name}: {many} warnings, and `--deny-warnings` is given"))),
        }
    }
}
