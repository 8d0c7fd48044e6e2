//! Every payload in every layout with every way of weighing, on one to four ranks, from the file to the judge: checked, built for one
//! target or the other, and run on virtual GPUs with every call verified. Tokens are uneven, and picks are dropped.

mod support;

use moe_contract::{Element, Format, RowLayout};
use moe_random::Random;
use safetensors::Dtype;
use serde_json::Value;
use support::{Folder, Named, f32s, safetensors};

const EXPERTS: usize = 6;
const PICKS: usize = 2;

/// Where the weights take part, as a file says it: behind the gate's weights, and in combine.
const WEIGHINGS: [(&str, &str); 3] = [("", "weighted"), ("", "unweighted"), (" before experts", "unweighted")];

/// One layer.
struct Case {
    format: Format,
    layout: RowLayout,
    weighing: (&'static str, &'static str),
    ranks: usize,
    hidden: usize,
    /// Of all ranks together.
    tokens: usize,
    capacity: &'static str,
}

fn cases() -> Vec<Case> {
    let mut random = Random::new(5);
    let mut cases = Vec::new();
    for known in Format::KNOWN {
        for layout in RowLayout::KNOWN.iter().map(|layout| layout.aligned(4)) {
            for weighing in WEIGHINGS {
                // A row of several experts cannot be weighed by combine.
                if !layout.by_expert() && weighing.1 == "weighted" {
                    continue;
                }
                let ranks = 1 + cases.len() % 4;
                // An odd number of blocks: the scales of a row need not be whole words.
                let hidden = known.format.scales.map_or(24, |scales| 3 * scales.block as usize);
                // With fewer tokens than ranks, the last have none.
                let tokens = [ranks - 1, 5 * ranks + 2, 1 + random.index(6 * ranks)][cases.len() % 3].max(1);
                let capacity = ["capacity 0.75 drop lowest", "", "capacity 1 tokens drop position"][random.index(3)];
                cases.push(Case { format: known.format, layout, weighing, ranks, hidden, tokens, capacity });
            }
        }
    }
    cases
}

impl Case {
    fn source(&self) -> String {
        let Case { layout, weighing: (weights, reduce), ranks, hidden, capacity, .. } = self;
        let payload = self.format.name().expect("it is known");
        // The way back has no scales.
        let back = if self.format.scales.is_some() { "bf16" } else { payload };
        format!(
            "model m {{ hidden {hidden} experts {EXPERTS} {capacity}
                gate(logits: f32[experts]) {{
                    let chosen = top({PICKS}, experts, by: logits)
                    weights softmax(logits[chosen]){weights}
                }}
                dispatch {{ payload {payload} layout {layout} }}
                combine {{ payload {back} reduce f32 {reduce} }} }}
             cluster c {{ nodes 1 gpus {ranks} per node
                gpu \"H800\" {{ target sm_90a sms 132 memory 80 GB }} nvlink 160 GB/s }}
             deploy d of m on c {{ ep {ranks} tokens 8 per gpu sms 2 }}"
        )
    }

    fn input(&self, random: &mut Random) -> Vec<u8> {
        let logits: Vec<f32> = (0..self.tokens * EXPERTS).map(|_| random.normal()).collect();
        let numbers: Vec<f32> = (0..self.tokens * self.hidden).map(|_| random.normal()).collect();
        let source = self.format.source();
        let dtype = match source.element {
            Element::Bf16 => Dtype::BF16,
            Element::F16 => Dtype::F16,
            Element::F32 => Dtype::F32,
            Element::E4m3 | Element::E2m1 => panic!("the tokens of a format with scales are bf16"),
        };
        safetensors(&[
            f32s("logits", vec![self.tokens, EXPERTS], &logits),
            Named("x", dtype, vec![self.tokens, self.hidden], source.store(&numbers).elements),
        ])
    }
}

fn compared(report: &Value, what: &str) -> u64 {
    let checks = report["checks"].as_array().expect("checks");
    let check = checks.iter().find(|check| check["what"] == what);
    let check = check.unwrap_or_else(|| panic!("{what} is not in {report:#}"));
    check["compared"].as_u64().expect("a number")
}

#[test]
fn every_payload_layout_and_weighing_from_file_to_judge() {
    let folder = Folder::new();
    let mut random = Random::new(6);
    let cases = cases();
    assert!(cases.iter().any(|case| case.tokens < case.ranks), "a rank without tokens");
    assert!(cases.iter().any(|case| case.capacity.contains("lowest")), "dropped picks");
    for (case, target) in cases.into_iter().zip(["sm_90a", "sm_100a"].into_iter().cycle()) {
        let source = case.source();
        folder.write("m.moe", &source);
        folder.write("x.safetensors", case.input(&mut random));
        folder.succeeds(&["check", "m.moe"]);
        folder.succeeds(&["build", "m.moe", "--target", target, "-o", "m.moeb"]);
        let schedule = ["round-robin", "random", "adversarial"][random.index(3)];
        let run = ["run", "m.moeb", "--input", "x.safetensors", "--schedule", schedule, "--format", "json"];
        let report: Value = serde_json::from_str(&folder.succeeds(&run)).expect("JSON");
        assert_eq!(report["verified"], true, "{source}\n{report:#}");
        let (tokens, hidden) = (case.tokens as u64, case.hidden as u64);
        assert_eq!(compared(&report, "combined result"), tokens * hidden, "{source}");
        assert_eq!(compared(&report, "gradient of tokens"), tokens * hidden, "{source}");
        assert_eq!(compared(&report, "gradient of weights"), tokens * PICKS as u64, "{source}");
        assert_eq!(compared(&report, "gradient of logits"), (tokens as usize * EXPERTS) as u64, "{source}");
        for cached in ["experts' input", "experts' input, cached routing"] {
            // Whole rows, each with its scales.
            let row = hidden + u64::from(case.format.scales_per_row(case.hidden as u32));
            assert!(compared(&report, cached).is_multiple_of(row), "{source}");
        }
    }
}
