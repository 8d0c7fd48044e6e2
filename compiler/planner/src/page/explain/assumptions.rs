//! What was assumed, where the file says nothing.

use moe_contract::Protocol;
use moe_front::spec::Mode;

use crate::cost::Planner;
use crate::sample::Source;

/// What was assumed, one sentence each.
pub(crate) fn assumptions(planner: &Planner<'_>, protocol: Protocol) -> Vec<String> {
    let options = &planner.options;
    let source = match planner.sample.source() {
        Source::Independent => "independent standard normal logits, gate biases zero".to_owned(),
        Source::Skewed { deviation } => {
            format!("standard normal logits with an offset per expert of standard deviation {deviation}")
        }
        Source::Observed => "the logits of the given file".to_owned(),
        Source::Counted { off } => format!(
            "standard normal logits with an offset per expert, so that picks are those of the given counts ({:.1} % of them elsewhere)",
            off * 100.0
        ),
    };
    let mut list = vec![
        format!(
            "routing: {} tokens through the gate, {source}, seed {}",
            planner.sample.tokens(),
            planner.sample.seed()
        ),
        match &options.placed {
            None => "experts lie in contiguous blocks on the ranks; no pick is dropped for capacity".to_owned(),
            Some(placed) => format!(
                "experts lie as the placement of layer {} says, {} slots on a GPU; a token takes each copy of an expert equally often, near or \
                 far; no pick is dropped for capacity",
                placed.layer,
                placed.placement.slots_per_gpu()
            ),
        },
        format!("kernel times: profile {} ({}), link rates of the file", planner.profile.name, planner.profile.source),
        match protocol {
            Protocol::Direct => {
                "one copy of a token to each GPU that has one of its experts, as the kernels that are built send it"
            }
            Protocol::Hybrid => "between nodes: one copy per token and node over the rail, then NVLink",
            Protocol::Messages => "between nodes: every pick is a message of its own over the rail",
        }
        .to_owned(),
    ];
    if !planner.missing.is_empty() {
        return list;
    }
    list.push("attention, dense layers and embeddings: as the file says".to_owned());
    if planner.model.surroundings.as_ref().is_some_and(|around| around.encoder_layers > 0) {
        list.push(
            "as many tokens go through the encoder as through the decoder; one of each is counted as a token"
                .to_owned(),
        );
    }
    match planner.deploy.mode {
        Mode::Throughput => {
            list.push(format!(
                "compute: {:.0} % of the dense bf16 peak on the SMs that communication leaves; sequences of {} tokens; selective recomputation \
                 takes no time",
                options.efficiency * 100.0,
                options.sequence
            ));
            list.push(
                "dispatch and combine hide behind compute with DualPipe only; traffic among replicas hides nowhere"
                    .to_owned(),
            );
            let precision = options.precision;
            list.push(format!(
                "bytes per parameter: weight {}, gradient {}, master {}, moments {}",
                precision.weight, precision.gradient, precision.master, precision.moments,
            ));
            list.push("stages have equal numbers of layers, rounded up; micro-batches of one call's tokens".to_owned());
        }
        Mode::Latency => {
            list.push("memory: weights and receive regions; caches of keys and values are not counted".to_owned());
        }
    }
    list
}
