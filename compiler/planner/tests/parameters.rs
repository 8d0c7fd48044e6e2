//! What the examples count, against what their makers publish.

use moe_front::spec::Model;
use moe_planner::cost::memory::{Parameters, score_operations};

fn model(source: &[u8], name: &str) -> Model {
    let spec = moe_front::check_source(source).spec.expect("the file checks");
    spec.models[spec.model(name).expect("the model is there")].clone()
}

fn example(name: &str) -> Model {
    let path = format!("{}/../../dsl-examples/{name}.moe", env!("CARGO_MANIFEST_DIR"));
    model(&std::fs::read(path).expect("the example is there"), name)
}

/// Billions of parameters of each example as published, all and active, with how far they may be off and why.
const PUBLISHED: [(&str, f64, f64, &str); 13] = [
    ("deepseek_v2", 236.0, 0.002, "DeepSeek-V2, arXiv:2405.04434"),
    ("deepseek_v3", 671.0, 0.001, "DeepSeek-V3, arXiv:2412.19437"),
    ("deepseek_v3_3_groups", 671.0, 0.001, "DeepSeek-V3, arXiv:2412.19437"),
    (
        "kimi_k2",
        1026.4,
        0.0001,
        "the number of parameters of the checkpoint moonshotai/Kimi-K2-Instruct; the report says 1.04 T, 1.3 % more",
    ),
    ("qwen3_moe", 235.0, 0.001, "Qwen3, arXiv:2505.09388"),
    ("mixtral", 46.7, 0.001, "Mixtral of experts, arXiv:2401.04088, and its announcement"),
    ("gpt_oss", 116.83, 0.001, "model card of gpt-oss, arXiv:2508.10925, table 1; biases are not counted here"),
    ("ernie4_5", 300.0, 0.002, "ERNIE 4.5 technical report"),
    ("longcat_flash", 560.0, 0.002, "LongCat-Flash, arXiv:2509.01322"),
    ("minimax_m2", 230.0, 0.006, "announcement of MiniMax-M2, in full tens"),
    (
        "glm4_5",
        355.0,
        0.007,
        "GLM-4.5, arXiv:2508.06471, which counts the multi-token prediction layer but no embeddings",
    ),
    ("switch", 7.4, 0.005, "Switch-Base with 128 experts, table 9 of arXiv:2101.03961"),
    ("llama4", 109.0, 0.012, "announcement of Llama 4 Scout, which counts the vision encoder too"),
];

#[test]
fn an_example_has_as_many_parameters_as_its_model_publishes() {
    for (name, billions, tolerance, source) in PUBLISHED {
        let counted = Parameters::of(&example(name)).total() as f64 / 1e9;
        let off = counted / billions - 1.0;
        assert!(off.abs() <= tolerance, "{name}: {counted:.2} billion counted, {billions} published ({source})");
    }
}

/// GLM-4.5 as its report counts it: without embedding and output projection, with the layer for multi-token prediction.
#[test]
fn glm_counts_355_billion_without_embeddings_and_with_its_prediction_layer() {
    let p = Parameters::of(&example("glm4_5"));
    // The layer for multi-token prediction is a layer with experts that also projects two rows to one.
    let attention = p.attention / u64::from(p.layers());
    let layer = p.routed_layer + p.gate_and_shared_layer + attention + 2 * 5120 * 5120;
    let counted = (p.total() - p.embeddings + layer) as f64 / 1e9;
    assert_eq!(format!("{counted:.0}"), "355");
}

#[test]
fn active_parameters_are_those_that_are_published() {
    // Billions, and the part that they may be off: published in full billions, or with one digit.
    for (name, billions, tolerance) in [
        ("deepseek_v2", 21.0, 0.03),
        ("deepseek_v3", 37.0, 0.02),
        ("kimi_k2", 32.6, 0.04),
        ("qwen3_moe", 22.0, 0.03),
        ("mixtral", 12.9, 0.02),
        ("gpt_oss", 5.13, 0.01),
        ("glm4_5", 32.0, 0.06),
        ("llama4", 17.0, 0.07),
        ("minimax_m2", 10.0, 0.05),
    ] {
        let counted = Parameters::of(&example(name)).active() as f64 / 1e9;
        assert!((counted / billions - 1.0).abs() <= tolerance, "{name}: {counted:.2} counted, {billions} published");
    }
}

/// A model whose layers alternate: every second one is dense (config.json of meta-llama/Llama-4-Maverick-17B-128E).
#[test]
fn llama_4_maverick_counts_400_billion() {
    let source = b"model maverick {
        hidden 5120 experts 128 shared 1 moe_layers 24 expert_ffn 8192 dense_layers 24 dense_ffn 16384 vocab 202048
        attention grouped { heads 40 key_value_heads 8 head 128 chunk 8192 in 36 layers }
        gate(logits: f32[experts]) {
            let chosen = top(1, experts, by: logits)
            weights sigmoid(logits)[chosen] before experts
        }
    }";
    let p = Parameters::of(&model(source, "maverick"));
    assert!((p.total() as f64 / 400e9 - 1.0).abs() < 0.002, "{p:?}");
    assert_eq!(p.layers(), 48);
}

/// The two examples of DeepSeek-V4-Flash are one model, with one embedding and one output: 284 billion, 13 active (arXiv:2606.19348).
#[test]
fn the_layers_of_deepseek_v4_are_284_billion_together() {
    let [learned, hash] = ["deepseek_v4", "deepseek_v4_hash"].map(|name| Parameters::of(&example(name)));
    assert_eq!((learned.layers() + hash.layers(), learned.embeddings), (43, hash.embeddings));
    let total = (learned.total() + hash.total() - hash.embeddings) as f64 / 1e9;
    assert!((total / 284.0 - 1.0).abs() < 0.002, "{total}");
    let active = (learned.active() + hash.active() - (hash.embeddings - hash.looked_up)) as f64 / 1e9;
    assert_eq!(format!("{active:.0}"), "13");
}

/// The shapes of the tensors of a layer of DeepSeek-V4-Flash, one by one, as github.com/ROCm/ATOM/issues/664 lists them.
#[test]
fn a_compressed_attention_counts_its_tensors() {
    let (h, heads, head, rank) = (4096, 64, 512, 1024);
    let window = h * rank + rank + rank * heads * head + h * head + head + heads * head * rank + 8 * rank * h;
    // Value, weight and place in the piece, and a norm.
    let heavily = 2 * h * head + 128 * head + head;
    let sparse = 2 * h * 2 * head + 4 * 2 * head + head;
    let index = rank * 64 * 128 + h * 64 + 2 * h * 2 * 128 + 4 * 2 * 128 + 128;
    // Two norms, and twice 24 numbers from 4 rows, a bias and a scale for each kind of them.
    let rest = 2 * h + 2 * (24 * 4 * h + 24 + 3);
    let learned = 40 * (window + rest) + 20 * heavily + 20 * (sparse + index);
    assert_eq!(Parameters::of(&example("deepseek_v4")).attention, learned);
    let hash = 3 * (window + rest) + sparse + index;
    assert_eq!(Parameters::of(&example("deepseek_v4_hash")).attention, hash);
}

/// An encoder and a decoder: bytes of the checkpoints of google/switch-base-16 and google/switch-base-32, in f32.
#[test]
fn smaller_switch_transformers_fill_their_checkpoints() {
    let path = format!("{}/../../dsl-examples/switch.moe", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(path).expect("the example is there");
    for (experts, gigabytes) in [(16, "4.29"), (32, "7.91")] {
        let smaller = source.replace("experts        128", &format!("experts        {experts}"));
        let counted = Parameters::of(&model(smaller.as_bytes(), "switch")).total();
        assert_eq!(format!("{:.2}", 4.0 * counted as f64 / 1e9), gigabytes, "{experts} experts");
    }
}

#[test]
fn an_expert_without_a_gate_has_two_matrices() {
    assert_eq!(Parameters::of(&example("switch")).expert, 2 * 768 * 3072);
}

#[test]
fn renaming_a_model_changes_nothing_that_is_counted() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples/deepseek_v3.moe");
    let source = std::fs::read_to_string(path).expect("the example is there");
    let renamed = source.replace("deepseek_v3", "my_model");
    assert_eq!(Parameters::of(&model(renamed.as_bytes(), "my_model")), Parameters::of(&example("deepseek_v3")));
}

#[test]
fn a_model_that_does_not_say_its_attention_is_counted_by_experts_and_gate() {
    let source = b"model m { hidden 64 experts 8 shared 1 moe_layers 5 expert_ffn 32
        gate(logits: f32[experts], bias: f32[experts]) { weights logits[top(2, experts, by: logits + bias)] } }";
    let p = Parameters::of(&model(source, "m"));
    assert_eq!((p.attention, p.embeddings, p.dense_layers), (0, 0, 0));
    assert_eq!(p.total(), 5 * (9 * 3 * 64 * 32 + 8 * (64 + 1)));
}

/// What a small model of one layer counts, by hand.
#[test]
fn every_setting_around_the_experts_counts() {
    let count = |settings: &str| {
        let source = format!(
            "model m {{ hidden 64 experts 4 expert_ffn 32 vocab 1000 {settings}
                gate(logits: f32[experts], bias: f32[experts], temperature: f32) {{
                    let chosen = top(2, experts, by: logits / temperature + bias)
                    weights softmax(logits[chosen]) }} }}"
        );
        Parameters::of(&model(source.as_bytes(), "m"))
    };
    let grouped = "attention grouped { heads 8 key_value_heads 2 head 16 }";
    let experts_and_gate = 4 * 3 * 64 * 32 + 4 * 64 + 4 + 1;
    let attention = 2 * 64 * 128 + 2 * 64 * 32 + 2 * 64;
    let ends = 2 * 1000 * 64 + 64;
    assert_eq!(count("").total(), experts_and_gate);
    assert_eq!(count(grouped).total(), experts_and_gate + attention + ends);
    let tied = count(&format!("{grouped} embeddings tied"));
    assert_eq!(tied.total(), experts_and_gate + attention + ends - 1000 * 64);
    // The output projection multiplies, whether it is the embedding or not.
    assert_eq!(tied.active(), count(grouped).active());
    let dense = count(&format!("{grouped} dense_layers 3 dense_ffn 96"));
    assert_eq!(dense.total(), experts_and_gate + 4 * attention + 3 * (3 * 64 * 96) + ends);
    let beside = count(&format!("{grouped} dense_layers 3 dense_ffn 96 beside experts"));
    assert_eq!(beside.total(), dense.total() + 3 * 64 * 96);
    // Queries of 8 × (16 + 16), then keys and values compressed to 24, then the output.
    let latent = 64 * 256 + 64 * (24 + 16) + 24 * 8 * (16 + 12) + 24 + 8 * 12 * 64 + 2 * 64;
    let plain = count("attention latent { heads 8 key_value_rank 24 rope 16 nope 16 value 12 }");
    assert_eq!(plain.total(), experts_and_gate + latent + ends);
    // Queries of 8 × 16, one key of 16, and outputs, plain or compressed to 12 in each of 4 groups.
    let single = count("attention single { heads 8 head 16 }");
    assert_eq!(single.attention, 64 * 128 + 64 * 16 + 16 + 128 * 64 + 2 * 64);
    let grouped_outputs = count("attention single { heads 8 head 16 output_rank 12 output_groups 4 }");
    assert_eq!(grouped_outputs.attention, single.attention - 128 * 64 + 4 * 32 * 12 + 4 * 12 * 64);
    let ranked = count("attention single { heads 8 query_rank 20 head 16 }");
    assert_eq!(ranked.attention, single.attention - 64 * 128 + 64 * 20 + 20 + 20 * 128);
    // Two layers of a decoder, of three.
    let crossing = count(&format!("{grouped} dense_layers 2 dense_ffn 96 encoder_layers 1"));
    assert_eq!(crossing.attention, 3 * attention + 2 * (attention - 64));
    let streams = count(&format!("{grouped} streams 2"));
    assert_eq!(streams.attention, attention + 2 * (8 * 2 * 64 + 8 + 3));
    assert_eq!(streams.embeddings, ends + 2 * 2 * 64 + 2 + 1);
    let compressed = count("attention latent { heads 8 query_rank 20 key_value_rank 24 rope 16 nope 16 value 12 }");
    assert_eq!(compressed.total(), plain.total() - 64 * 256 + 64 * 20 + 20 * 256 + 20);
}

/// Scores, counted token by token.
#[test]
fn a_window_and_a_chunk_are_seen_as_a_token_sees_them() {
    let around = |attention: &str| {
        let source = format!(
            "model m {{ hidden 64 experts 4 moe_layers 6 vocab 1000
                attention grouped {{ heads 8 key_value_heads 2 head 16 {attention} }}
                gate(logits: f32[experts]) {{ weights logits[top(2, experts, by: logits)] }} }}"
        );
        model(source.as_bytes(), "m").surroundings.expect("it is said")
    };
    // Two operations for each of 2 × 8 × 16 numbers of key and value.
    let operations = |seen: &dyn Fn(u32) -> u32, tokens: u32| {
        2.0 * 256.0 * (0..tokens).map(|token| f64::from(seen(token))).sum::<f64>() / f64::from(tokens)
    };
    let close = |counted: f64, exact: f64| assert!((counted / exact - 1.0).abs() < 0.002, "{counted} and {exact}");
    let tokens = 4096;
    let all = operations(&|token| token + 1, tokens);
    let window = operations(&|token| (token + 1).min(512), tokens);
    let chunk = operations(&|token| token % 1024 + 1, tokens);
    close(score_operations(&around(""), 6, 4096.0), 6.0 * all);
    close(score_operations(&around("window 512 in 4 layers"), 6, 4096.0), 2.0 * all + 4.0 * window);
    close(score_operations(&around("chunk 1024 in 6 layers"), 6, 4096.0), 6.0 * chunk);
    close(
        score_operations(&around("window 512 in 2 layers chunk 1024 in 3 layers"), 6, 4096.0),
        all + 2.0 * window + 3.0 * chunk,
    );
    close(score_operations(&around("window 9000 in 3 layers chunk 8192 in 3 layers"), 6, 4096.0), 6.0 * all);
}

/// Keys of each token, counted one by one.
#[test]
fn compressed_keys_are_seen_as_a_token_sees_them() {
    let around = |attention: &str| {
        let source = format!(
            "model m {{ hidden 64 experts 4 moe_layers 6 vocab 1000
                attention single {{ heads 8 head 16 {attention} }}
                gate(logits: f32[experts]) {{ weights logits[top(2, experts, by: logits)] }} }}"
        );
        model(source.as_bytes(), "m").surroundings.expect("it is said")
    };
    let tokens = 4096_u32;
    let mean = |of_token: &dyn Fn(u32) -> u32| (0..tokens).map(|t| f64::from(of_token(t))).sum::<f64>() / 4096.0;
    let close = |counted: f64, exact: f64| assert!((counted / exact - 1.0).abs() < 0.01, "{counted} and {exact}");
    let heavily = mean(&|token| (token + 1) / 128 + (token + 1).min(100));
    close(score_operations(&around("compress 128 in 6 layers { near 100 }"), 6, 4096.0), 6.0 * 2.0 * 256.0 * heavily);
    let sparse = mean(&|token| ((token + 1) / 4).min(50));
    let scored = mean(&|token| (token + 1) / 4);
    close(
        score_operations(&around("compress 4 in 6 layers { index_heads 3 index_head 5 top 50 }"), 6, 4096.0),
        6.0 * (2.0 * 256.0 * sparse + 2.0 * 15.0 * scored),
    );
}

/// A token of the encoder sees all; one of the decoder those before it, and all of the encoder.
#[test]
fn an_encoder_is_seen_whole() {
    let around = |encoder: &str| {
        let source = format!(
            "model m {{ hidden 64 experts 4 moe_layers 6 vocab 1000 {encoder}
                attention grouped {{ heads 8 key_value_heads 8 head 16 }}
                gate(logits: f32[experts]) {{ weights logits[top(2, experts, by: logits)] }} }}"
        );
        model(source.as_bytes(), "m").surroundings.expect("it is said")
    };
    let plain = score_operations(&around(""), 6, 512.0);
    assert_eq!(score_operations(&around("encoder_layers 6"), 6, 512.0), 2.0 * plain);
    // 2 layers that see twice as much, 4 that see it a second time, whole.
    assert_eq!(score_operations(&around("encoder_layers 2"), 6, 512.0), plain / 6.0 * (2.0 * 2.0 + 4.0 * 3.0));
}
