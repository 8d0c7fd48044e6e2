//! From the syntax tree to the typed specification.
//!
//! Invariant: a [`Spec`] comes out only when no error was reported, and then it keeps every promise of [`crate::spec`].
//! Checking goes on after an error wherever the rest can still be judged, so that one run shows all there is to repair.

mod cluster;
mod deploy;
mod gate;
mod model;
mod reach;
mod settings;
mod surroundings;

use std::collections::HashMap;

use crate::diagnostics::{Diagnostic, Diagnostics, NameProblem, Severity, SyntaxProblem, closest};
use crate::span::Span;
use crate::spec::{ClusterId, Declaration, ModelId, Spec};
use crate::syntax::ast::{File, Item, Name};

/// Checks a file; nothing is returned if a problem is an error. Checking ends when nobody would read more problems.
pub fn check(file: &File, damaged: bool, diagnostics: &mut Diagnostics) -> Option<Spec> {
    let mut checker =
        Checker { diagnostics, spec: Spec::default(), failed: false, samples: HashMap::new(), effort: EFFORT };
    if file.items.is_empty() && !damaged {
        checker.report(SyntaxProblem::Empty);
    }
    let mut names = Names::default();
    // A deploy may stand before what it deploys.
    for item in &file.items {
        if checker.diagnostics.is_full() {
            return None;
        }
        match item {
            Item::Model(model) => {
                checker.declare(&mut names.models, "model", &model.name);
                if let Some(checked) = checker.model(model) {
                    let id = checker.spec.models.push(checked);
                    checker.spec.declarations.push((model.span, Declaration::Model(id)));
                    names.model_ids.entry(model.name.text.clone()).or_insert(id);
                }
            }
            Item::Cluster(cluster) => {
                checker.declare(&mut names.clusters, "cluster", &cluster.name);
                if let Some(checked) = checker.cluster(cluster) {
                    let id = checker.spec.clusters.push(checked);
                    checker.spec.declarations.push((cluster.span, Declaration::Cluster(id)));
                    names.cluster_ids.entry(cluster.name.text.clone()).or_insert(id);
                }
            }
            Item::Deploy(_) => {}
        }
    }
    for item in &file.items {
        if checker.diagnostics.is_full() {
            return None;
        }
        if let Item::Deploy(deploy) = item {
            checker.declare(&mut names.deploys, "deploy", &deploy.name);
            let model =
                checker.resolve(&deploy.model, &names.models, &names.model_ids, damaged, |span, found, suggestion| {
                    NameProblem::UnknownModel { span, found, suggestion }
                });
            let cluster = checker.resolve(
                &deploy.cluster,
                &names.clusters,
                &names.cluster_ids,
                damaged,
                |span, found, suggestion| NameProblem::UnknownCluster { span, found, suggestion },
            );
            if let Some(checked) = checker.deploy(deploy, model, cluster) {
                let id = checker.spec.deploys.push(checked);
                checker.spec.declarations.push((deploy.span, Declaration::Deploy(id)));
            }
        }
    }
    (!checker.failed).then_some(checker.spec)
}

/// What the file declares, by name.
#[derive(Default)]
struct Names {
    models: HashMap<String, Span>,
    clusters: HashMap<String, Span>,
    deploys: HashMap<String, Span>,
    model_ids: HashMap<String, ModelId>,
    cluster_ids: HashMap<String, ClusterId>,
}

/// Elements that may be computed for random tokens: a hundred gates like that of DeepSeek-V3, which is a moment. A hostile file asks for more.
const EFFORT: u64 = 500_000_000;

/// The specification under construction, and where problems go.
pub(crate) struct Checker<'a> {
    diagnostics: &'a mut Diagnostics,
    spec: Spec,
    failed: bool,
    /// Where random tokens go, of the models for which that was asked; nothing where their gate cannot be run on them.
    samples: HashMap<ModelId, Option<reach::Samples>>,
    /// What may still be spent on random tokens.
    effort: u64,
}

impl Checker<'_> {
    fn report(&mut self, problem: impl Into<Diagnostic>) {
        let diagnostic: Diagnostic = problem.into();
        self.failed |= diagnostic.severity == Severity::Error;
        self.diagnostics.report(diagnostic);
    }

    fn declare(&mut self, names: &mut HashMap<String, Span>, kind: &'static str, name: &Name) {
        if name.text.is_empty() {
            return; // That it cannot be read was reported.
        }
        match names.get(&name.text) {
            Some(&first) => {
                let (span, name) = (name.span, name.text.clone());
                self.report(NameProblem::DeclaredTwice { span, kind, name, first });
            }
            None => {
                names.insert(name.text.clone(), name.span);
            }
        }
    }

    /// The id behind a name. A name that is declared but could not be checked has none, and was reported already.
    fn resolve<I: Copy>(
        &mut self,
        name: &Name,
        declared: &HashMap<String, Span>,
        ids: &HashMap<String, I>,
        damaged: bool,
        problem: impl FnOnce(Span, String, Option<String>) -> NameProblem,
    ) -> Option<I> {
        // In a damaged file the declaration may be what could not be read, and so may this name.
        if !name.text.is_empty() && !declared.contains_key(&name.text) {
            let suggestion = closest(&name.text, declared.keys().map(String::as_str)).map(str::to_owned);
            if !damaged || suggestion.is_some() {
                self.report(problem(name.span, name.text.clone(), suggestion));
            }
        }
        ids.get(&name.text).copied()
    }
}
