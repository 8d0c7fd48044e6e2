//! Front end and typed specification of the `.moe` language.
//!
//! A `.moe` file says *what* a Mixture-of-Experts layer routes (`model`), *where* it may run (`cluster`) and *how* it is laid out
//! there (`deploy`); `docs/language.md` is its reference. The way through this crate, one type per stage:
//!
//! ```text
//! bytes ──syntax──▶ syntax tree ──check──▶ Spec
//!                  └── diagnostics ──┘
//! ```
//!
//! | to | call | gives |
//! |---|---|---|
//! | check a file | [`check_source`] | a [`Checked`]: the [`spec::Spec`], or errors |
//! | format it | [`format_source`] | its canonical text |
//! | see its tree | [`dump_source`] | text, `--emit ast` |
//! | see what it means | `Display` of [`spec::Spec`] | text, `--emit spec`; `Display` of [`spec::Model::gate`] is Gate IR |
//! | show problems | [`diagnostics::render::render`], [`diagnostics::render::json`] | text for people, one JSON object a line for tools |
//! | explain a code | [`explain`] | its page of `docs/errors/` |
//! | ask what can be built | [`not_built_yet`], [`several_nodes_not_built_yet`] | diagnostics of legal files |
//!
//! Invariants: whatever the bytes, nothing here panics, hangs or overflows the stack; every problem is a
//! [`diagnostics::Diagnostic`] with a stable code; a [`spec::Spec`] comes out only when there is no error, and then keeps every
//! promise of [`spec`].
//!
//! ```
//! let checked = moe_compiler::check_source(b"model m { hidden 64 }");
//! assert!(checked.spec.is_none());
//! let codes: Vec<&str> = checked.diagnostics.iter().map(|diagnostic| diagnostic.code.id()).collect();
//! assert_eq!(codes, ["M0208", "M0208"]); // no experts, no gate
//! ```

mod check;
pub mod diagnostics;
pub mod spec;
pub mod syntax;
pub mod units;

pub use diagnostics::explain;
use diagnostics::{BuildProblem, Diagnostic, Diagnostics};
use moe_contract::{Format, RowLayout};
use spec::{DeployId, Model, Spec};

/// A file that was checked.
#[derive(Debug)]
pub struct Checked {
    /// What it means; nothing if it has an error.
    pub spec: Option<Spec>,
    /// What is to be said of it, in the order of the file.
    pub diagnostics: Diagnostics,
}

/// Reads and checks a file.
pub fn check_source(source: &[u8]) -> Checked {
    let mut diagnostics = Diagnostics::default();
    let text = match syntax::lexer::decode(source) {
        Ok(text) => text,
        Err(problem) => {
            diagnostics.report(problem);
            return Checked { spec: None, diagnostics };
        }
    };
    let parsed = syntax::parse(text, &mut diagnostics);
    let damaged = diagnostics.has_errors();
    let spec = check::check(&parsed.file, damaged, &mut diagnostics);
    diagnostics.sort();
    Checked { spec: spec.filter(|_| !diagnostics.has_errors()), diagnostics }
}

/// The canonical text of a file.
///
/// # Errors
/// If the file cannot be read; what it means does not matter.
pub fn format_source(source: &[u8]) -> Result<String, Diagnostics> {
    let (text, parsed) = parse_source(source)?;
    Ok(syntax::format::format(text, &parsed.file, &parsed.comments))
}

/// The syntax tree of a file as text.
///
/// # Errors
/// If the file cannot be read; what it means does not matter.
pub fn dump_source(source: &[u8]) -> Result<String, Diagnostics> {
    parse_source(source).map(|(_, parsed)| syntax::dump::dump(&parsed.file))
}

fn parse_source(source: &[u8]) -> Result<(&str, syntax::Parsed), Diagnostics> {
    let mut diagnostics = Diagnostics::default();
    let text = match syntax::lexer::decode(source) {
        Ok(text) => text,
        Err(problem) => {
            diagnostics.report(problem);
            return Err(diagnostics);
        }
    };
    let parsed = syntax::parse(text, &mut diagnostics);
    if diagnostics.has_errors() { Err(diagnostics) } else { Ok((text, parsed)) }
}

/// What of a legal model cannot be built yet.
pub fn not_built_yet(model: &Model) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let (payload, layout) = (model.dispatch.payload, model.dispatch.layout);
    if payload.format().is_none() {
        let (span, known) = (model.places.dispatch_payload, Format::KNOWN.iter().map(|known| known.name).collect());
        problems.push(BuildProblem::Rows { span, what: "payload", written: payload.text().to_owned(), known }.into());
    }
    if layout.rows().is_none() {
        let (span, known) = (model.places.layout, RowLayout::KNOWN.iter().map(|known| known.name()).collect());
        problems.push(BuildProblem::Rows { span, what: "layout", written: layout.text(), known }.into());
    }
    let later = |zero: &u32| (zero + 1..model.experts).find(|&expert| !model.is_zero_expert(expert));
    let zero = model.zero_experts.iter().map(|range| range.last).find_map(|zero| Some((zero, later(&zero)?)));
    if let Some((zero, computes)) = zero {
        let span = model.places.zero_experts;
        problems.push(BuildProblem::ZeroExperts { span, zero, computes }.into());
    }
    problems
}

/// Says that the ranks of a legal deploy are on several nodes, which cannot be built yet.
pub fn several_nodes_not_built_yet(spec: &Spec, deploy: DeployId) -> Option<Diagnostic> {
    let deploy = &spec.deploys[deploy];
    let per_node = spec.clusters[deploy.cluster].gpus_per_node;
    let nodes = deploy.ep.div_ceil(per_node);
    let problem = BuildProblem::Nodes { span: deploy.place, ranks: deploy.ep, nodes, per_node };
    (nodes > 1).then(|| problem.into())
}
