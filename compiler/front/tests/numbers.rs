//! Every number of the language, with every kind of value that people and accidents write: it is taken, or refused at its place in
//! words that say why. The snapshot is what they see.

use moe_front::check_source;
use moe_front::diagnostics::{Diagnostic, Severity};

/// Where a number stands: the setting with `#` for the number, and a number that is right there.
type Row = (&'static str, &'static str);

const MODEL: &[Row] = &[
    ("hidden #", "1024"),
    ("experts # in 8 groups", "64"),
    ("experts 64 in # groups", "8"),
    ("experts 64 in 8 groups { zero #..63 }", "60"),
    ("experts 64 in 8 groups { zero 0..# }", "3"),
    ("shared #", "1"),
    ("moe_layers #", "30"),
    ("expert_ffn #", "2048"),
    ("dense_layers # dense_ffn 64", "2"),
    ("dense_layers 2 dense_ffn #", "64"),
    ("vocab #", "1000"),
    ("attention latent { heads # key_value_rank 64 rope 8 nope 16 value 16 }", "8"),
    ("attention latent { heads 8 query_rank # key_value_rank 64 rope 8 nope 16 value 16 }", "64"),
    ("attention latent { heads 8 key_value_rank # rope 8 nope 16 value 16 }", "64"),
    ("attention latent { heads 8 key_value_rank 64 rope # nope 16 value 16 }", "0"),
    ("attention latent { heads 8 key_value_rank 64 rope 8 nope # value 16 }", "16"),
    ("attention latent { heads 8 key_value_rank 64 rope 8 nope 16 value # }", "16"),
    ("attention grouped { heads # key_value_heads 1 head 16 }", "8"),
    ("attention grouped { heads 8 key_value_heads # head 16 }", "2"),
    ("attention grouped { heads 8 key_value_heads 2 head # }", "16"),
    ("attention grouped { heads 8 key_value_heads 2 head 16 window # in 1 layers }", "128"),
    ("attention grouped { heads 8 key_value_heads 2 head 16 window 128 in # layers }", "1"),
    ("attention grouped { heads 8 key_value_heads 2 head 16 chunk # in 1 layers }", "8192"),
    ("attention single { heads # head 16 }", "8"),
    ("attention single { heads 8 query_rank # head 16 }", "64"),
    ("attention single { heads 8 head # }", "16"),
    ("attention single { heads 8 head 16 output_rank # }", "16"),
    ("attention single { heads 8 head 16 output_rank 16 output_groups # }", "4"),
    ("attention single { heads 8 head 16 compress # in 1 layers }", "4"),
    ("attention single { heads 8 head 16 compress 4 in # layers { near 128 } }", "1"),
    ("attention single { heads 8 head 16 compress 4 in 1 layers { near # } }", "128"),
    ("attention single { heads 8 head 16 compress 4 in 1 layers { pieces # } }", "2"),
    ("attention single { heads 8 head 16 compress 4 in 1 layers { index_heads # index_head 16 top 9 } }", "64"),
    ("attention single { heads 8 head 16 compress 4 in 1 layers { index_heads 8 index_head # top 9 } }", "16"),
    ("attention single { heads 8 head 16 compress 4 in 1 layers { index_heads 8 index_head 16 top # } }", "512"),
    ("encoder_layers # attention grouped { heads 8 key_value_heads 2 head 16 }", "12"),
    ("streams # attention grouped { heads 8 key_value_heads 2 head 16 }", "4"),
    ("capacity # drop lowest", "1.25"),
    ("capacity # tokens drop position", "512"),
    ("dispatch { layout expert_major align # }", "128"),
    ("dispatch { payload fp8_e4m3 scale f32 per # }", "128"),
];

const GATE: &[Row] = &[
    ("weights logits[top(#, experts, by: logits)]", "2"),
    ("weights logits[top(2, experts in top(#, groups, by: max(group(logits))), by: logits)]", "3"),
    ("weights logits[top(2, experts in top(3, groups, by: sum(top(#, logits))), by: logits)]", "2"),
    ("weights logits[top(2, experts in top(3, groups, by: max(group(logits))), by: logits, fill: #)]", "0.5"),
    ("weights normalize(logits[top(2, experts, by: logits)], eps: #)", "1e-20"),
    ("weights logits[top(2, experts, by: logits * #)]", "2.5"),
];

const TABLE: &[Row] = &[("i32[#, 6]", "1000"), ("i32[1000, #]", "6")];

const CLUSTER: &[Row] = &[
    ("nodes #", "4"),
    ("gpus # per node", "8"),
    ("gpu { target sm_90a sms # memory 80 GB }", "132"),
    ("gpu { target sm_90a sms 132 memory # GB }", "80"),
    ("nvlink # GB/s", "160"),
    ("nvlink 160 GB/s latency # us", "1"),
    ("rdma # Gb/s per gpu", "400"),
    ("rdma # GB/s per node", "400"),
    ("rdma 50 GB/s per gpu latency # ns", "5000"),
];

const DEPLOY: &[Row] = &[
    ("ep # dp 32", "8"),
    ("ep 8 pp # dp 32", "1"),
    ("ep 8 dp #", "32"),
    ("ep 8 dp 32 tp #", "1"),
    ("ep 8 zero #", "1"),
    ("ep 8 tokens # per gpu", "128"),
    ("ep 8 sms #", "20"),
];

const VALUES: &[&str] = &[
    "0",
    "1",
    "2147483648",
    "4294967296",
    "9007199254740992",
    "18446744073709551616",
    "99999999999",
    "1e300",
    "1e-300",
    "1e99999999999",
    "-1",
    "-1e300",
    "1.5",
    "25%",
    "1_0",
];

fn has(text: &str, setting: &str) -> bool {
    text.split_whitespace().any(|word| word == setting)
}

/// The settings that `given` leaves out, of these.
fn rest(given: &str, needed: &[&str]) -> String {
    let missing = needed.iter().filter(|setting| setting.split(' ').next() != given.split(' ').next());
    missing.copied().collect::<Vec<_>>().join(" ")
}

fn model(settings: &str, table: &str, body: &str) -> String {
    let needed = ["hidden 1024", "experts 64 in 8 groups", "moe_layers 30"];
    // An attention needs a vocabulary, and what surrounds the experts an attention.
    let around = ["attention", "dense_layers"].iter().any(|setting| has(settings, setting));
    let attention = "attention grouped { heads 8 key_value_heads 2 head 16 }";
    let attention = if around && !has(settings, "attention") { attention } else { "" };
    let vocab = if around && !has(settings, "vocab") { "vocab 1000" } else { "" };
    let parameters = if table.is_empty() { String::new() } else { format!(", token_id: i32, table: {table}") };
    let rest = rest(settings, &needed);
    format!("model m {{ {settings} {rest} {attention} {vocab} gate(logits: f32[experts]{parameters}) {{ {body} }} }}")
}

const PICKS: &str = "weights softmax(logits[top(2, experts, by: logits)])";

/// A file around a setting.
fn file(kind: &str, setting: &str) -> String {
    let cluster = |settings: &str| {
        let needed = [
            "nodes 4",
            "gpus 8 per node",
            "gpu { target sm_90a sms 132 memory 80 GB }",
            "nvlink 160 GB/s",
            "rdma 50 GB/s per gpu",
        ];
        format!("cluster c {{ {settings} {} }}", rest(settings, &needed))
    };
    match kind {
        "model" => model(setting, "", PICKS),
        "gate" => model("", "", setting),
        "table" => model("", setting, "weights softmax(logits[table[token_id]])"),
        "cluster" => cluster(setting),
        _ => {
            let tokens = if has(setting, "tokens") { "" } else { "tokens 128 per gpu" };
            format!("{} {} deploy d of m on c {{ {setting} {tokens} }}", model("", "", PICKS), cluster(""))
        }
    }
}

fn said(diagnostic: &Diagnostic) -> String {
    let Diagnostic { code, title, labels, help, .. } = diagnostic;
    format!("{code} {title} | {} | {}", labels[0].text, help.as_deref().unwrap_or_default())
}

#[test]
fn every_number_of_the_language_is_checked() {
    let mut shown = String::new();
    for (kind, rows) in [("model", MODEL), ("gate", GATE), ("table", TABLE), ("cluster", CLUSTER), ("deploy", DEPLOY)] {
        for (setting, right) in rows {
            let with = |value: &str| {
                let setting = setting.replace('#', value);
                let source = file(kind, &setting);
                let at = source.find(&setting).expect("it is there") + setting.find('#').unwrap_or(0);
                let at = at
                    + rows
                        .iter()
                        .find(|row| row.0.replace('#', value) == setting)
                        .map_or(0, |row| row.0.find('#').unwrap_or(0));
                (source, at)
            };
            let (source, _) = with(right);
            let checked = check_source(source.as_bytes());
            assert!(checked.diagnostics.is_empty(), "{source}\n{:?}", checked.diagnostics);
            shown.push_str(&format!("\n{kind}: {setting}\n"));
            for value in VALUES {
                let (source, at) = with(value);
                let checked = check_source(source.as_bytes());
                let all: Vec<String> = checked.diagnostics.iter().map(said).collect();
                let line = if all.is_empty() { "ok".to_owned() } else { all.join("\n    and ") };
                shown.push_str(&format!("  {value:<20} {line}\n"));
                assert_eq!(checked.spec.is_some(), !checked.diagnostics.has_errors(), "{source}");
                // What is wrong with a number is said at the number.
                let here = at as u32..(at + value.len()) as u32;
                let errors = checked.diagnostics.iter().filter(|found| found.severity == Severity::Error);
                for error in errors.filter(|error| error.code.id().starts_with("M04")) {
                    assert!(here.contains(&error.place().start), "{source}\n{}", said(error));
                }
                assert!(checked.diagnostics.errors() <= 2, "one number, one error: {source}\n{line}");
            }
        }
    }
    insta::assert_snapshot!(shown);
}

/// `capacity 1e300 drop lowest` was answered by the kernels, which contradicted the plan.
#[test]
fn a_capacity_that_no_f32_holds_is_refused_at_its_place() {
    let source = file("model", "capacity 1e300 drop lowest");
    let checked = check_source(source.as_bytes());
    let [error] = checked.diagnostics.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", checked.diagnostics) };
    assert_eq!(error.code.id(), "M0406");
    assert_eq!(error.place().text(&source), "1e300");
}

/// `zero 99999999999` was "not a whole number".
#[test]
fn a_number_with_many_digits_is_too_large_and_not_a_fraction() {
    for setting in ["ep 8 zero 99999999999", "ep 99999999999999999999999999999999", "ep 8 pp 1e40"] {
        let checked = check_source(file("deploy", setting).as_bytes());
        let codes: Vec<&str> = checked.diagnostics.iter().map(|found| found.code.id()).collect();
        assert_eq!(codes, ["M0406"], "{setting}");
    }
}

/// `pp` × `dp` × `tp` wrapped around.
#[test]
fn products_of_ranks_are_counted_in_full() {
    let source = file("deploy", "ep 1 pp 1048576 dp 1048576 tp 1048576").replace("moe_layers 30", "moe_layers 1024");
    let checked = check_source(source.as_bytes());
    let text = format!("{:?}", checked.diagnostics);
    assert!(text.contains("the plan uses 1152921504606846976 GPUs, the cluster has 32"), "{text}");
}

/// The largest model that the language can say: nothing wraps around in it.
#[test]
fn the_largest_model_counts_less_than_2_to_the_64() {
    let source = "model m { hidden 1048576 experts 1024 shared 1024 moe_layers 1024 expert_ffn 1048576
        dense_layers 1024 dense_ffn 1048576 beside experts vocab 16777216
        attention latent { heads 4096 query_rank 65536 key_value_rank 65536 rope 65536 nope 65536 value 65536 }
        gate(logits: f32[experts]) { weights softmax(logits[top(32, experts, by: logits)]) } }";
    let spec = check_source(source.as_bytes()).spec.expect("it is legal");
    let model = spec.models.iter().next().expect("a model").1;
    let around = model.surroundings.as_ref().expect("it is said");
    let expert = u128::from(model.expert_parameters().expect("it is said"));
    assert_eq!(expert, 3 << 40);
    let attention = u128::from(around.attention.heads.parameters(model.hidden));
    let (layers, network) = (1024, u128::from(model.network_parameters(1 << 20)));
    assert_eq!(u128::from(around.attention_parameters(model.hidden, 2048)), 2048 * (attention + (1 << 21)));
    let total =
        layers * (2048 * expert + (1 << 30)) + 2 * layers * (attention + (1 << 21)) + 2 * layers * network + (1 << 46);
    assert!(total < 1 << 64, "{total}");
}

/// The same of the attention with most settings, in as many layers and streams as there can be.
#[test]
fn the_largest_compressed_attention_counts_less_than_2_to_the_64() {
    let source =
        "model m { hidden 1048576 experts 64 moe_layers 1024 dense_layers 1024 dense_ffn 1 vocab 16777216 streams 64
        attention single { heads 4096 query_rank 65536 head 65536 output_rank 65536 output_groups 4096
            compress 16777216 in 1024 layers { near 1 pieces 64 index_heads 4096 index_head 65536 top 16777216 } }
        gate(logits: f32[experts]) { weights softmax(logits[top(32, experts, by: logits)]) } }";
    let spec = check_source(source.as_bytes()).spec.expect("it is legal");
    let model = spec.models.iter().next().expect("a model").1;
    let around = model.surroundings.as_ref().expect("it is said");
    let (h, head, all) = (1_u128 << 20, 1 << 16, 1 << 28);
    let heads = h * head + head + head * all + h * head + head + all * head + 4096 * head * h;
    let compressor = 64 * (2 * h * head + (1 << 24) * head) + head;
    let mixing = 66 * 64 * 64 * h + 66 * 64 + 3;
    let index = head * all + h * 4096 + compressor;
    let counted = 2048 * (heads + 2 * h + 2 * mixing) + 1024 * (compressor + index);
    assert!(counted < 1 << 64);
    assert_eq!(u128::from(around.attention_parameters(model.hidden, 2048)), counted);
}
