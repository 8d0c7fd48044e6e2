//! What of a legal model there are no kernels for.

use moe_contract::Format;
use moe_front::diagnostics::BuildProblem;
use moe_front::spec::Model;

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
