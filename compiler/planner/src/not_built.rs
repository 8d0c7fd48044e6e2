//! What of a plan there are no kernels for.

use moe_front::diagnostics::{Code, Diagnostic, Severity};
use schemars::JsonSchema;
use serde::Serialize;

/// What of a plan is planned and not built, as `moec check` and `moec build` say it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NotBuilt {
    /// Such as `M0704`.
    #[schemars(with = "String")]
    pub code: Code,
    /// One sentence.
    pub title: String,
    /// What to do instead.
    pub help: Option<String>,
}

impl NotBuilt {
    /// Of what was decided.
    pub fn of(problem: &Diagnostic) -> NotBuilt {
        NotBuilt { code: problem.code, title: problem.title.clone(), help: problem.help.clone() }
    }

    /// In one line.
    pub fn told(&self) -> String {
        let help = self.help.as_ref().map_or_else(String::new, |help| format!(": {help}"));
        let what = match self.code.severity() {
            Severity::Error => "planned, not built",
            Severity::Note | Severity::Warning => "built another way",
        };
        format!("{what} ({}): {}{help}", self.code, self.title)
    }
}
