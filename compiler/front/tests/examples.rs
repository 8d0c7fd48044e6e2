//! Every file in `dsl-examples/` means something, without a single warning, and is in canonical form.
//! `MOE_BLESS=1 cargo test` rewrites files that are not.

use moe_front::diagnostics::render::render;
use moe_front::text::Screen;
use moe_front::{check_source, format_source};

#[test]
fn examples_check_without_a_warning() {
    insta::glob!("../../../dsl-examples", "*.moe", |path| {
        let source = std::fs::read(path).expect("the example is there");
        let checked = check_source(&source);
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let shown = render(name, &source, &checked.diagnostics, &Screen::ENDLESS);
        assert!(checked.diagnostics.is_empty(), "{shown}");
        let spec = checked.spec.expect("no error, so there is a specification");
        let deploy = spec.deploy("one_node").expect("every example has a deploy on one node");
        assert_eq!(spec.deploys[deploy].tokens.0, 128);
        assert_eq!(spec.clusters[spec.deploys[deploy].cluster].gpus(), 8);
        let several_nodes = spec.deploys.iter().filter(|(_, deploy)| spec.clusters[deploy.cluster].nodes > 1);
        assert_eq!(several_nodes.count(), 1, "and one on a cluster");
    });
}

/// Name, hidden, experts, of these computing, groups, picks, shared experts, `MoE` layers, inner width of an expert.
type Configuration = (&'static str, u32, u32, u32, Option<u32>, u32, u32, u32, u32);

/// As in the public configuration of each model: `hidden_size`, `n_routed_experts` and its other names, `num_hidden_layers` without the
/// dense ones, `moe_intermediate_size`.
const CONFIGURATIONS: [Configuration; 15] = [
    ("deepseek_v2", 5120, 160, 160, Some(8), 6, 2, 59, 1536),
    ("deepseek_v3", 7168, 256, 256, Some(8), 8, 1, 58, 2048),
    ("deepseek_v3_3_groups", 7168, 256, 256, Some(8), 8, 1, 58, 2048),
    ("deepseek_v4", 4096, 256, 256, None, 6, 1, 40, 2048),
    ("deepseek_v4_hash", 4096, 256, 256, None, 6, 1, 3, 2048),
    ("ernie4_5", 8192, 64, 64, None, 8, 0, 51, 3584),
    ("glm4_5", 5120, 160, 160, None, 8, 1, 89, 1536),
    ("gpt_oss", 2880, 128, 128, None, 4, 0, 36, 2880),
    ("kimi_k2", 7168, 384, 384, None, 8, 1, 60, 2048),
    ("llama4", 5120, 16, 16, None, 1, 1, 48, 8192),
    ("longcat_flash", 6144, 768, 512, None, 12, 0, 28, 2048),
    ("minimax_m2", 3072, 256, 256, None, 8, 0, 62, 1536),
    ("mixtral", 4096, 8, 8, None, 2, 0, 32, 14336),
    ("qwen3_moe", 4096, 128, 128, None, 8, 0, 94, 1536),
    ("switch", 768, 128, 128, None, 1, 0, 12, 3072),
];

#[test]
fn examples_have_the_numbers_of_the_public_configurations() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples");
    assert_eq!(std::fs::read_dir(folder).expect("the folder").count(), CONFIGURATIONS.len());
    for (name, hidden, experts, computing, groups, picks, shared, layers, width) in CONFIGURATIONS {
        let source = std::fs::read(format!("{folder}/{name}.moe")).expect("the example is there");
        let spec = check_source(&source).spec.expect("every example checks");
        let model = &spec.models[spec.model(name).expect("the model is called as its file")];
        assert_eq!((model.hidden, model.experts, model.stored_experts()), (hidden, experts, computing), "{name}");
        assert_eq!((model.groups, model.top_k(), model.shared), (groups, picks, shared), "{name}");
        assert_eq!((model.moe_layers, model.expert_ffn), (layers, Some(width)), "{name}");
    }
}

#[test]
fn gates_of_the_golden_vectors_check_without_a_warning() {
    insta::glob!("../../../tests/data/gates", "*.moe", |path| {
        let source = std::fs::read(path).expect("the file is there");
        let checked = check_source(&source);
        let shown = render("gate.moe", &source, &checked.diagnostics, &Screen::ENDLESS);
        assert!(checked.diagnostics.is_empty(), "{}\n{shown}", path.display());
        let spec = checked.spec.expect("no error, so there is a specification");
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        assert!(spec.model(name).is_some(), "the model is called as its file");
        canonical(path);
    });
}

#[test]
fn examples_are_in_canonical_form() {
    insta::glob!("../../../dsl-examples", "*.moe", |path| {
        canonical(path);
    });
}

/// A file is in canonical form, or becomes so.
fn canonical(path: &std::path::Path) {
    let source = std::fs::read_to_string(path).expect("the file is there");
    let formatted = format_source(source.as_bytes()).expect("the file can be read");
    if std::env::var_os("MOE_BLESS").is_some() {
        std::fs::write(path, &formatted).expect("the file can be written");
        return;
    }
    assert!(formatted == source, "{} should be written as\n{formatted}", path.display());
}
