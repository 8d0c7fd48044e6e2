//! What of a legal file there are no kernels for.

use moe_contract::Format;
use moe_front::diagnostics::{BuildProblem, Diagnostic};
use moe_front::spec::{Model, Spec};

use crate::decision::{Decision, Numbers};

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

/// What of a model there are no kernels for.
pub(crate) fn of_model(model: &Model) -> Vec<BuildProblem> {
    let mut problems = Vec::new();
    let payload = model.dispatch.payload;
    if !payload.has_kernels() {
        let (span, known) = (model.places.dispatch_payload, Format::KNOWN.iter().map(|known| known.name).collect());
        problems.push(BuildProblem::Rows {
            span,
            what: "payload",
            written: payload.name().unwrap_or_default().to_owned(),
            known,
        });
    }
    let later = |zero: &u32| (zero + 1..model.experts).find(|&expert| !model.is_zero_expert(expert));
    let zero = model.zero_experts.iter().map(|range| range.last).find_map(|zero| Some((zero, later(&zero)?)));
    if let Some((zero, computes)) = zero {
        let span = model.places.zero_experts;
        problems.push(BuildProblem::ZeroExperts { span, zero, computes });
    }
    problems
}
