//! Settings that stop in the middle: what is said shows the whole setting, and writing that mends it.

use moe_front::check_source;

/// A setting, where it stops.
const MODEL: &[&str] = &[
    "hidden",
    "experts",
    "experts 64 in",
    "experts 64 in 8",
    "shared",
    "moe_layers",
    "expert_ffn",
    "dense_layers",
    "dense_ffn",
    "dense_ffn 64 beside",
    "vocab",
    "embeddings",
    "attention",
    "attention grouped",
    "attention grouped { heads }",
    "attention grouped { window 128 }",
    "attention grouped { window 128 in }",
    "attention grouped { window 128 in 18 }",
    "attention latent { query_rank }",
    "attention single",
    "attention single { output_rank }",
    "attention single { compress }",
    "attention single { compress 4 in }",
    "attention single { compress 4 in 2 layers { near } }",
    "attention single { compress 4 in 2 layers { top } }",
    "encoder_layers",
    "streams",
    "capacity",
    "capacity 1.5 drop",
    "dispatch",
    "dispatch { payload }",
    "dispatch { payload fp8_e4m3 scale }",
    "dispatch { payload fp8_e4m3 scale f32 }",
    "dispatch { payload fp8_e4m3 scale f32 per }",
    "dispatch { layout }",
    "dispatch { layout expert_major align }",
    "dispatch { layout expert_major align 8 padding }",
    "combine",
    "combine { reduce }",
    "combine { reduce f32 }",
];
const CLUSTER: &[&str] = &[
    "nodes",
    "gpus",
    "gpus 8",
    "gpus 8 per",
    "gpu",
    "gpu { target }",
    "gpu { sms }",
    "gpu { memory }",
    "nvlink",
    "nvlink 160 GB/s latency",
    "rdma",
    "rdma 50 GB/s",
    "rdma 50 GB/s per",
    "rdma 50 GB/s per gpu latency",
];
const DEPLOY: &[&str] =
    &["ep", "pp", "dp", "tp", "zero", "tokens", "tokens 128", "tokens 128 per", "mode", "sms", "sms_local"];

/// The codes of problems of structure, in a file with `setting` in such a block.
fn problems(block: &str, setting: &str) -> Vec<(String, String)> {
    let head = if block == "deploy" { "deploy d of m on c".to_owned() } else { format!("{block} m") };
    let source = format!("{head} {{\n{setting}\n}}");
    let checked = check_source(source.as_bytes());
    let structure = checked.diagnostics.iter().filter(|found| found.code.id().starts_with("M01"));
    structure.map(|found| (format!("{} {}", found.code, found.title), found.help.clone().unwrap_or_default())).collect()
}

#[test]
fn a_setting_that_stops_in_the_middle_is_shown_whole() {
    let mut shown = String::new();
    for (block, settings) in [("model", MODEL), ("cluster", CLUSTER), ("deploy", DEPLOY)] {
        for setting in settings {
            let found = problems(block, setting);
            let [(title, help)] = &found[..] else { panic!("one problem of `{setting}`: {found:?}") };
            shown.push_str(&format!("{setting:<45} {title} | {help}\n"));
            // The advice, in the place of the setting that it completes.
            let whole = help.split('`').nth(1).unwrap_or_else(|| panic!("`{setting}` is answered by {help}"));
            let word = whole.split(' ').next().unwrap_or_default();
            let begin = setting.find(word).unwrap_or_else(|| panic!("`{setting}` is answered by {help}"));
            let mended = format!("{}{whole}", &setting[..begin]);
            let open = mended.matches('{').count() - mended.matches('}').count();
            let mended = mended + &" }".repeat(open);
            assert_eq!(problems(block, &mended), [], "`{setting}` is answered by {help}");
        }
    }
    insta::assert_snapshot!(shown);
}
