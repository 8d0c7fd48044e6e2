//! What is planned is what is built: random legal deploys, planned, and decided as a build does.

use moe_decide::{Choice, Decision};
use moe_front::check_source;
use moe_front::spec::Spec;
use moe_planner::cost::memory::Kind;
use moe_planner::{Options, Planner, Report};
use proptest::prelude::*;
use proptest::sample::select;

/// A payload with the bits of an element, worked out from its name.
const PAYLOADS: [(&str, u64); 7] = [
    ("bf16", 16),
    ("f16", 16),
    ("f32", 32),
    ("fp8_e4m3 scale f32 per 128", 8),
    ("fp8_e4m3 scale ue8m0 per 128", 8),
    ("fp8_e4m3 scale ue8m0 per 32", 8),
    ("fp4_e2m1 scale e4m3 per 16", 4),
];

#[derive(Clone, Debug)]
struct Written {
    hidden: u32,
    per_node: u32,
    nodes: u32,
    experts_of_rank: u32,
    picks: u32,
    tokens: u32,
    sms: Option<u32>,
    latency: bool,
    payload: (&'static str, u64),
    layout: &'static str,
    combine: (&'static str, u64),
    weighted: bool,
    memory: u32,
}

impl Written {
    fn ranks(&self) -> u32 {
        self.per_node * self.nodes
    }

    fn source(&self) -> String {
        let Written { hidden, per_node, nodes, tokens, memory, layout, .. } = self;
        let (ranks, experts) = (self.ranks(), self.ranks() * self.experts_of_rank);
        let (payload, combine) = (self.payload.0, self.combine.0);
        let picks = self.picks.min(experts);
        let weighted = if self.weighted { "weighted" } else { "unweighted" };
        let sms = self.sms.map_or_else(String::new, |sms| format!("sms {sms}"));
        let mode = if self.latency { "mode latency" } else { "" };
        format!(
            "model m {{ hidden {hidden} experts {experts} moe_layers 2 expert_ffn 256
                 attention grouped {{ heads 8 key_value_heads 2 head 64 }} vocab 1000
                 gate(logits: f32[experts]) {{ weights softmax(logits[top({picks}, experts, by: logits)]) }}
                 dispatch {{ payload {payload} layout {layout} }} combine {{ payload {combine} reduce f32 {weighted} }} }}
             cluster c {{ nodes {nodes} gpus {per_node} per node gpu {{ target sm_90a sms 132 memory {memory} GB }}
                 nvlink 160 GB/s rdma 50 GB/s per gpu }}
             deploy d of m on c {{ ep {ranks} tokens {tokens} per gpu {sms} {mode} }}"
        )
    }
}

fn written() -> impl Strategy<Value = Written> {
    let shape = (select(vec![128_u32, 256, 1024, 7168]), select(vec![1_u32, 2, 4, 8]), select(vec![1_u32, 1, 2, 4]));
    let model = (1..=8_u32, 1..=8_u32, select(PAYLOADS.to_vec()), select(PAYLOADS[..3].to_vec()), any::<bool>());
    let deploy = (1..=16_384_u32, proptest::option::of(1..=131_u32), any::<bool>(), 2..=80_u32);
    let layout = select(vec!["rank_major", "expert_major align 1", "expert_major align 128", "batched"]);
    (shape, model, deploy, layout).prop_map(|(shape, model, deploy, layout)| {
        let (experts_of_rank, picks, payload, combine, weighted) = model;
        let (tokens, sms, latency, memory) = deploy;
        let (hidden, per_node, nodes) = shape;
        let weighted = weighted && layout != "rank_major";
        Written {
            hidden,
            per_node,
            nodes,
            experts_of_rank,
            picks,
            tokens,
            sms,
            latency,
            payload,
            layout,
            combine,
            weighted,
            memory,
        }
    })
}

/// As it is planned, and as it is decided for a build.
fn both(spec: &Spec) -> (Report, Decision) {
    let id = spec.deploy("d").expect("the deploy");
    let options = Options { sampled_tokens: 64, ..Options::default() };
    let mut planner = Planner::new(spec, id, options).expect("a planner");
    let parallel = planner.parallel(moe_planner::Change::default()).expect("a plan");
    let report = planner.report(&parallel).expect("a report");
    (report, Decision::of(spec, id, &Choice::default()).expect("as it is written"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_plan_that_fits_has_room_for_what_is_built(written in written()) {
        // What does not fit by its receive regions alone is refused before it is planned.
        let Some(spec) = check_source(written.source().as_bytes()).spec else { return Ok(()) };
        let (report, decision) = both(&spec);
        let codes: Vec<_> = decision.not_built.iter().map(|problem| problem.code).collect();
        prop_assert_eq!(report.not_built.iter().map(|problem| problem.code).collect::<Vec<_>>(), codes);
        prop_assert_eq!((report.parallel.sms, report.protocol), (decision.launch.ctas_link, decision.protocol));
        let memory = report.memory.as_ref().expect("everything is said");
        let counted = memory.parts.iter().find(|part| part.kind == Kind::Communication).expect("a part").bytes.0;
        // A row for each token of each rank, twice: whatever the kernels are.
        let row = u64::from(written.hidden) * written.payload.1.max(written.combine.1) / 8;
        prop_assert!(counted >= 2 * u64::from(written.ranks()) * u64::from(written.tokens) * row);
        if let Ok(exchange) = decision.built() && report.fits == Some(true) {
            let sizes = exchange.sizes();
            prop_assert!(counted >= sizes.symmetric + sizes.fixed + sizes.handle, "{} and {:?}", counted, sizes);
        }
    }
}
