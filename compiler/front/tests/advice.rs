//! Advice is right: what is changed as a diagnostic says never has the same problem in the same place.

use std::sync::LazyLock;

use moe_front::check_source;
use moe_front::diagnostics::{Code, Diagnostic, Diagnostics, Fix};
use proptest::prelude::*;

static EXAMPLES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).expect("an example")).collect()
});

fn apply(source: &str, fix: &Fix) -> String {
    format!("{}{}{}", &source[..fix.start as usize], fix.text, &source[fix.end as usize..])
}

/// Applies every fix of a file, one at a time; each leaves no such problem where it was made.
fn fixes_hold(source: &str) {
    let before = check_source(source.as_bytes()).diagnostics;
    for problem in &before {
        let Some(fix) = &problem.fix else { continue };
        let (start, end) = (fix.start as usize, fix.end as usize);
        assert!(source.is_char_boundary(start) && source.is_char_boundary(end) && start <= end, "{fix:?} in {source}");
        let after = apply(source, fix);
        let changed = fix.start..=fix.start + fix.text.len() as u32;
        let same = |other: &&Diagnostic| {
            other.code == problem.code && other.title == problem.title && changed.contains(&other.place().start)
        };
        let found = check_source(after.as_bytes()).diagnostics;
        if let Some(again) = found.iter().find(same) {
            panic!("{} {}: {fix:?} gives it again: {again:?}\n{source}", problem.code, problem.title);
        }
        // What can be read can be read afterwards too.
        let unread = |diagnostics: &Diagnostics| diagnostics.iter().any(|found| found.code.id().starts_with("M01"));
        assert!(unread(&before) || !unread(&found), "{fix:?} breaks the file: {found:?}\n{source}");
    }
}

/// Mistakes that people make with a word or a number, each applied to one of an example.
fn mistake() -> impl Strategy<Value = String> {
    let kinds = 0..14_usize;
    (0..EXAMPLES.len(), any::<prop::sample::Index>(), kinds, any::<prop::sample::Index>()).prop_map(
        |(example, at, kind, letter)| {
            let source = &EXAMPLES[example];
            let words: Vec<(usize, &str)> = source
                .split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.'))
                .filter(|word| !word.is_empty())
                .map(|word| (word.as_ptr() as usize - source.as_ptr() as usize, word))
                .collect();
            let (start, word) = words[at.index(words.len())];
            let split = letter.index(word.len());
            let changed = match kind {
                0 => format!("{}{}", &word[..split], &word[split + 1..]),
                1 => format!("{}x{}", &word[..split], &word[split..]),
                2 => format!("{word} ="),
                3 => format!("{word},"),
                4 => format!("{word};"),
                5 => word.to_uppercase(),
                6 => format!("-{word}"),
                7 => format!("{word} GB"),
                8 => format!("{word}%"),
                9 => format!("{word}-{word}"),
                10 => format!("{word}00"),
                11 => format!("{word} Gbps"),
                12 => "3".to_owned(),
                _ => "×".to_owned(),
            };
            format!("{}{changed}{}", &source[..start], &source[start + word.len()..])
        },
    )
}

/// A deploy of experts on a cluster, as numbers.
#[derive(Clone, Debug)]
struct Layout {
    experts: u32,
    groups: u32,
    layers: u32,
    nodes: u32,
    gpus: u32,
    ep: u32,
    pp: u32,
    dp: Option<u32>,
    tp: u32,
    tokens: u32,
}

impl Layout {
    fn source(&self) -> String {
        let Layout { experts, groups, layers, nodes, gpus, ep, pp, dp, tp, tokens } = self;
        let dp = dp.map_or(String::new(), |dp| format!("dp {dp}"));
        let chosen = (groups / 2).max(1);
        format!(
            "model m {{ hidden 4096 experts {experts} in {groups} groups moe_layers {layers}
                gate(logits: f32[experts]) {{
                    let best = top({chosen}, groups, by: max(group(logits)))
                    weights softmax(logits[top(1, experts in best, by: logits)]) }} }}
            cluster c {{ nodes {nodes} gpus {gpus} per node gpu {{ target sm_90a sms 132 memory 80 GB }}
                nvlink 160 GB/s rdma 50 GB/s per gpu }}
            deploy d of m on c {{ ep {ep} pp {pp} {dp} tp {tp} tokens {tokens} per gpu }}"
        )
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    let experts = (1..=8_u32, 1..=40_u32);
    let cluster = (1..=12_u32, prop::sample::select(vec![1, 2, 4, 6, 8, 9]));
    let ranks = (1..=96_u32, prop::sample::select(vec![1, 1, 1, 2, 3, 8, 40]), prop::option::of(1..=64_u32), 1..=3_u32);
    let rest = (1..=30_u32, prop::sample::select(vec![1, 128, 4096, 1 << 20]));
    (experts, cluster, ranks, rest).prop_map(|((groups, size), (nodes, gpus), (ep, pp, dp, tp), (layers, tokens))| {
        Layout { experts: groups * size, groups, layers, nodes, gpus, ep, pp, dp, tp, tokens }
    })
}

const EP: [Code; 5] = [Code::TooFewGpus, Code::GpusLeftOver, Code::PartOfNode, Code::ReplicasNotWhole, Code::IdleRanks];

fn any_of(diagnostics: &Diagnostics, codes: &[Code]) -> bool {
    diagnostics.iter().any(|found| codes.contains(&found.code))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_fix_never_leaves_its_problem_where_it_was(source in mistake()) {
        fixes_hold(&source);
    }

    /// "use `ep 60` or less" of 60 experts, on nodes of 8 GPUs, was answered by the next error.
    #[test]
    fn the_ep_that_is_advised_is_accepted(layout in layout()) {
        let source = layout.source();
        let before = check_source(source.as_bytes()).diagnostics;
        fixes_hold(&source);
        for problem in &before {
            let Some(fix) = problem.fix.as_ref() else { continue };
            let after = check_source(apply(&source, fix).as_bytes()).diagnostics;
            if EP.contains(&problem.code) || problem.code == Code::GroupSpansNodes {
                prop_assert!(!any_of(&after, &EP), "{problem:?}\n{source}\n{after:?}");
                prop_assert!(problem.code != Code::GroupSpansNodes || !any_of(&after, &[Code::GroupSpansNodes]), "{source}");
            }
            if problem.code == Code::UnevenExperts {
                let wrong = [&EP[..], &[Code::UnevenExperts]].concat();
                prop_assert!(!any_of(&after, &wrong), "{problem:?}\n{source}\n{after:?}");
            }
            if problem.code == Code::TooManyStages {
                prop_assert!(!any_of(&after, &[Code::TooManyStages]), "{problem:?}\n{source}\n{after:?}");
                let fractions = any_of(&after, &[Code::ReplicasNotWhole]) && !any_of(&before, &[Code::ReplicasNotWhole]);
                prop_assert!(!fractions, "{problem:?}\n{source}\n{after:?}");
            }
        }
    }
}

#[test]
fn the_tokens_that_are_advised_fit() {
    for (hidden, ep, tokens) in [(7168, 8, 2_000_000), (4096, 4, 16_777_216), (1_048_576, 2, 16_777_216)] {
        let source = |tokens: u32| {
            format!(
                "model m {{ hidden {hidden} experts 64 gate(logits: f32[experts]) {{
                    weights softmax(logits[top(8, experts, by: logits)]) }} }}
                cluster c {{ nodes 1 gpus 8 per node gpu {{ target sm_90a sms 132 memory 80 GB }} nvlink 160 GB/s }}
                deploy d of m on c {{ ep {ep} tokens {tokens} per gpu }}"
            )
        };
        let codes = |tokens| {
            let all = check_source(source(tokens).as_bytes()).diagnostics;
            let errors = all.iter().filter(|found| found.code == Code::Memory);
            errors.map(|found| found.help.clone().unwrap_or_default()).collect::<Vec<String>>()
        };
        let [help] = &codes(tokens)[..] else { panic!("{hidden}, {tokens}: too much") };
        let advised: u32 = help.split(' ').find_map(|word| word.parse().ok()).unwrap_or_else(|| panic!("{help}"));
        assert_eq!(codes(advised), [""; 0]);
        assert_eq!(codes(advised + 1).len(), 1, "{advised} is the most");
    }
}

/// Of a row of 48 numbers of 4 bits, 48 was advised.
#[test]
fn the_row_that_is_advised_is_accepted() {
    let payloads =
        ["bf16", "f32", "fp8_e4m3 scale f32 per 128", "fp8_e4m3 scale ue8m0 per 32", "fp4_e2m1 scale e4m3 per 16"];
    let rows = [Code::RowBytes, Code::ScaleBlock];
    for dispatch in payloads {
        for combine in ["bf16", "f32"] {
            let file = |hidden: u32| {
                format!(
                    "model m {{ hidden {hidden} experts 64 gate(logits: f32[experts]) {{
                        weights softmax(logits[top(8, experts, by: logits)]) }}
                        dispatch {{ payload {dispatch} }} combine {{ payload {combine} }} }}"
                )
            };
            for hidden in (1..300).chain(1_048_500..=1_048_576) {
                let mut size = hidden;
                // Each payload may ask for more.
                for _ in 0..2 {
                    let found = check_source(file(size).as_bytes()).diagnostics;
                    let Some(problem) = found.iter().find(|found| rows.contains(&found.code)) else { break };
                    let help = problem.help.as_deref().unwrap_or_default();
                    let advised = help.split("such as ").nth(1).and_then(|rest| rest.split(',').next());
                    size = advised.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{help}"));
                }
                assert!(
                    !any_of(&check_source(file(size).as_bytes()).diagnostics, &rows),
                    "{dispatch} {combine} {hidden}"
                );
            }
        }
    }
}
