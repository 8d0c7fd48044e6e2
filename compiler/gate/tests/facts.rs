//! Facts about gates against the gates themselves, asked with random logits.

#[path = "common/golden.rs"]
#[allow(dead_code)]
mod golden;

use moe_gate::facts;
use moe_gate::inputs::{Inputs, Tensor};
use moe_gate::interpret::{Value, evaluate, route_token};
use moe_gate::ir::{Gate, InputId, InputKind, Op, ValueId};

/// The gate of a model with this head and body.
fn gate(head: &str, body: &str) -> Gate {
    let source = format!("model m {{\n hidden 64\n {head}\n gate({body} }}\n}}\n");
    let checked = moe_front::check_source(source.as_bytes());
    let spec = checked.spec.unwrap_or_else(|| panic!("{source}\n{:?}", checked.diagnostics));
    spec.models.iter().next().expect("there is a model").1.gate.clone()
}

struct Random(u64);

impl Random {
    /// From −1 to 1.
    fn number(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f32 / (1u32 << 30) as f32 - 1.0
    }
}

/// The most groups that a token reaches, and whether one reaches an expert outside of the groups that were chosen for it.
fn reached(gate: &Gate, tokens: usize, mut logit: impl FnMut() -> f32) -> (u32, bool) {
    let program = &gate.program;
    let Op::ChooseExperts { within: Some((best, _)), .. } = *program.op(gate.choice) else {
        panic!("it has no groups")
    };
    let size = program.group_size().expect("there are groups");
    let mut random = Random(7);
    let (mut most, mut outside) = (0, false);
    for _ in 0..tokens {
        let rows: Vec<Vec<f32>> = (0..program.inputs().len() as u32)
            .map(|input| match program.input(InputId(input)).kind {
                InputKind::Logits => (0..program.experts()).map(|_| logit()).collect(),
                _ => (0..program.length_of_input(InputId(input))).map(|_| random.number()).collect(),
            })
            .collect();
        let tensors = rows.iter().map(|row| Tensor::F32(row)).collect();
        let inputs = Inputs::new(program, 1, tensors).expect("they fit");
        let values = evaluate(program, &inputs, 0).expect("no fault");
        let ids = |value: ValueId| match &values[value.0 as usize] {
            Value::Choice(ids) => ids.clone(),
            Value::Numbers(_) => panic!("it is a choice"),
        };
        let best = ids(best);
        let mut groups: Vec<u32> = ids(gate.choice).iter().map(|expert| expert / size).collect();
        groups.dedup();
        most = most.max(groups.len() as u32);
        outside |= groups.iter().any(|group| !best.contains(group));
    }
    (most, outside)
}

/// What every key is compared with, and whether it can be below: a fill that no key is below limits nothing.
const KEYS: [(&str, &[(&str, bool)]); 14] = [
    ("logits", &[("", true), (", fill: 0.0", false), (", fill: -4.5", false)]),
    ("logits + bias", &[("", true), (", fill: 0.0", false)]),
    (
        "softmax(logits)",
        &[("", true), (", fill: 0.0", true), (", fill: -1.0", true), (", fill: 1e-3", false), (", fill: 0.5", false)],
    ),
    ("sigmoid(logits)", &[("", true), (", fill: 0.0", true), (", fill: 0.25", false), (", fill: 1.0", false)]),
    ("sigmoid(logits) + bias", &[("", true), (", fill: 0.0", false)]),
    ("1.0 - sigmoid(logits)", &[("", true), (", fill: 0.0", true), (", fill: 0.5", false)]),
    ("tanh(logits)", &[("", true), (", fill: -1.0", true), (", fill: -2.0", true), (", fill: -0.5", false)]),
    ("sqrt(softplus(logits))", &[("", true), (", fill: 0.0", true), (", fill: 0.75", false)]),
    ("exp(logits) / temperature", &[("", true), (", fill: 0.0", false)]),
    ("exp(logits) * exp(logits)", &[("", true), (", fill: 0.0", true)]),
    ("relu(logits)", &[("", true), (", fill: -0.5", true), (", fill: 0.0", false)]),
    ("relu(logits) + 1.0", &[("", true), (", fill: 0.5", true), (", fill: 1.0", false)]),
    ("max(logits, -0.5)", &[("", true), (", fill: -0.75", true), (", fill: -0.5", false)]),
    ("logits / temperature", &[("", true)]),
];

/// A token reaches so many groups and no more; where there is no limit, it reaches others than those that were chosen.
#[test]
fn the_group_limit_is_what_random_tokens_reach() {
    for (key, fills) in KEYS {
        for &(fill, limits) in fills {
            let mut is_left = false;
            for (chosen, picks) in [(1, 3), (3, 6), (2, 8), (5, 2)] {
                let gate = gate(
                    "experts 48 in 6 groups",
                    &format!(
                        "logits: f32[experts], bias: f32[experts], temperature: f32) {{
                            let key    = {key}
                            let best   = top({chosen}, groups, by: sum(top(2, key)))
                            let chosen = top({picks}, experts in best, by: key{fill})
                            weights logits[chosen] + bias[chosen] * temperature"
                    ),
                );
                let limit = gate.facts().group_limit;
                assert_eq!(limit, limits.then_some(chosen), "{key}{fill}: top {chosen}");
                // Wide enough that every fill is tried, and not so much that a score rounds to what it approaches.
                let mut random = Random(11);
                let spreads = [(1.0f32, 0.0f32), (6.0, 0.0), (1.0, -2.0), (1.0, 2.0), (3.0, -3.0)];
                let reached = spreads.map(|(width, middle)| reached(&gate, 150, || width * random.number() + middle));
                let most = reached.iter().map(|(most, _)| *most).max();
                is_left |= reached.iter().any(|(_, outside)| *outside);
                if limits {
                    assert_eq!(most, Some(chosen.min(picks)), "{key}{fill}: top {chosen}, {picks} picks");
                }
            }
            assert_eq!(is_left, !limits, "{key}{fill}");
        }
    }
}

/// What the fact is not: in f32 a score underflows to the fill, and then a masked expert ties with it.
#[test]
fn a_score_that_underflows_ties_with_masked_experts() {
    let gate = gate(
        "experts 8 in 4 groups",
        "logits: f32[experts]) {
            let score  = softmax(logits)
            let best   = top(2, groups, by: max(group(score)))
            let chosen = top(3, experts in best, by: score, fill: 0.0)
            weights score[chosen]",
    );
    assert_eq!(gate.facts().group_limit, Some(2));
    let logits = [-1e9, -1e9, -1e9, -1e9, 2.0, -1e9, 1.0, -1e9];
    let inputs = Inputs::new(&gate.program, 1, vec![Tensor::F32(&logits)]).expect("they fit");
    assert_eq!(route_token(&gate, &inputs, 0).expect("no fault").0, [0, 4, 6]);
}

/// More picks than the chosen groups have experts must come from outside.
#[test]
fn too_few_experts_inside_are_no_limit() {
    let body = |picks: u32| {
        format!(
            "logits: f32[experts]) {{
                let score  = softmax(logits)
                let best   = top(2, groups, by: max(group(score)))
                let chosen = top({picks}, experts in best, by: score, fill: 0.0)
                weights score[chosen]"
        )
    };
    let mut random = Random(3);
    for (picks, limit) in [(4, Some(2)), (5, None)] {
        let gate = gate("experts 8 in 4 groups", &body(picks));
        assert_eq!(gate.facts().group_limit, limit);
        let expected = if limit.is_some() { (2, false) } else { (3, true) };
        assert_eq!(reached(&gate, 300, || random.number()), expected);
    }
}

/// By their papers: DeepSeek-V2 routes to 3 of 8 groups, DeepSeek-V3 to 4 of 8; the others have no groups, or use all.
#[test]
fn what_the_examples_limit() {
    let mut limits = Vec::new();
    for path in golden::files("dsl-examples", "moe") {
        for (name, gate) in golden::gates(&path) {
            let facts = gate.facts();
            assert_eq!(facts.treats_experts_alike, facts.group_limit.is_none(), "{name}");
            assert_eq!(facts::most_picks(&gate.program), gate.top_k(), "{name}");
            // A selection bias is one number per expert.
            let bias = gate.program.inputs().iter().any(|input| input.name == "bias");
            assert_eq!(facts.learned, if bias { u64::from(gate.program.experts()) } else { 0 }, "{name}");
            limits.extend(facts.group_limit.map(|limit| (name, limit)));
        }
    }
    let limits: Vec<(&str, u32)> = limits.iter().map(|(name, limit)| (name.as_str(), *limit)).collect();
    assert_eq!(limits, [("deepseek_v2", 3), ("deepseek_v3", 4), ("deepseek_v3_3_groups", 3)]);
}

/// Groups that are there but decide nothing, or that a token's weights are made of, leave all experts alike.
#[test]
fn experts_are_alike_where_groups_do_not_choose() {
    let alike = |body: &str| {
        let body = format!("logits: f32[experts], group_bias: f32[groups]) {{ {body}");
        gate("experts 8 in 4 groups", &body).facts().treats_experts_alike
    };
    assert!(alike("let chosen = top(2, experts, by: softmax(logits))\n weights logits[chosen] * sum(group_bias)"));
    assert!(alike("let chosen = top(2, experts, by: logits)\n weights logits[chosen] * max(max(group(logits)))"));
    assert!(!alike(
        "let chosen = top(2, experts, by: logits * max(max(group(logits))))\n weights logits[chosen] * sum(group_bias)"
    ));
    assert!(!alike(
        "let best = top(1, groups, by: group_bias)\n let chosen = top(2, experts in best, by: logits)\n weights logits[chosen]"
    ));
}

#[test]
fn a_token_id_has_a_row_in_every_table() {
    let gate = gate(
        "experts 8\n vocab 100",
        "logits: f32[experts], id: i32, table: i32[vocab, 2], small: i32[10, 2]) {
            let first  = table[id]
            let chosen = small[id]
            weights logits[chosen] * sum(logits[first])",
    );
    assert_eq!(facts::vocabulary(&gate.program), Some(10));
    assert_eq!(facts::most_picks(&gate.program), 2);
}

/// Where a sum can vanish, by the real numbers: √softplus never does, relu does for all negative logits.
#[test]
fn which_sums_can_vanish() {
    for (score, vanishes) in [
        ("sigmoid(logits)", false),
        ("softmax(logits)", false),
        ("sqrt(softplus(logits))", false),
        ("exp(logits) + 1.0", false),
        ("relu(logits) + 1e-3", false),
        ("max(logits, 0.5)", false),
        ("1.0 - sigmoid(logits)", false),
        ("relu(logits)", true),
        ("relu(logits) * 2.0", true),
        ("min(sigmoid(logits), relu(logits))", true),
        ("abs(logits)", true),
        ("logits", true),
    ] {
        let gate = gate(
            "experts 8",
            &format!("logits: f32[experts]) {{ let chosen = top(2, experts, by: logits)\n weights ({score})[chosen]"),
        );
        assert_eq!(facts::may_vanish(&gate.program, gate.weights), vanishes, "{score}");
    }
}
