//! What of a whole file there are no kernels for.

use moe_front::diagnostics::Diagnostic;
use moe_front::spec::Spec;

use crate::built::of_model;
use crate::decision::Decision;
use crate::numbers::Numbers;

/// What of a file is planned and not built, each model and deploy once, in the order of the file.
pub fn not_built(spec: &Spec) -> Vec<Diagnostic> {
    let of_models = spec.models.iter().flat_map(|(_, model)| of_model(model)).map(Diagnostic::from);
    let mut problems: Vec<Diagnostic> = of_models.collect();
    for (id, deploy) in spec.deploys.iter() {
        let of_deploy = Decision::with(spec, id, &Numbers::of(deploy, &spec.clusters[deploy.cluster])).not_built;
        of_deploy.into_iter().for_each(|problem| {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        });
    }
    problems.sort_by_key(Diagnostic::place);
    problems
}
