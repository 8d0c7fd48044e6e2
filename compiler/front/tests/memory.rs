//! The check of a GPU's memory, against the plan that the kernels and the runtime use.

use moe_contract::{Exchange, Format, RowLayout};
use moe_front::check_source;
use moe_front::diagnostics::Code;

/// The diagnostics of a model on one node whose GPUs have so much memory.
fn codes(hidden: u32, picks: u32, dispatch: &str, combine: &str, ranks: u32, tokens: u32, memory: u64) -> Vec<Code> {
    let source = format!(
        "model m {{ hidden {hidden} experts 64
            gate(logits: f32[experts]) {{
                let chosen = top({picks}, experts, by: logits)
                weights softmax(logits[chosen]) }}
            dispatch {{ payload {dispatch} }}
            combine {{ payload {combine} }} }}
        cluster c {{ nodes 1 gpus {ranks} per node gpu {{ target sm_90a sms 132 memory {memory} B }} nvlink 160 GB/s }}
        deploy d of m on c {{ ep {ranks} tokens {tokens} per gpu }}"
    );
    check_source(source.as_bytes()).diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

#[test]
fn what_the_plan_places_is_what_the_checker_counts() {
    let fp8 = ("fp8_e4m3 scale f32 per 128", Format::FP8_F32_128);
    let bf16 = ("bf16", Format::BF16);
    let f32 = ("f32", Format::F32);
    let cases = [
        (7168, 8, fp8, bf16, 8, 4096),
        (7168, 8, bf16, bf16, 64, 1024),
        (2048, 1, bf16, f32, 4, 10_000),
        (1024, 3, f32, bf16, 2, 5000),
        (128, 5, fp8, bf16, 8, 65_536),
    ];
    for (hidden, top_k, dispatch, combine, ranks, tokens) in cases {
        let request = Exchange {
            ranks,
            experts: 64,
            zero_experts: 0,
            top_k,
            hidden,
            max_tokens: tokens,
            dispatch: dispatch.1,
            layout: RowLayout::expert_major(1),
            combine: combine.1,
            weighted: true,
            drop: None,
            ctas_link: 20,
            ctas_local: 21,
            threads: 512,
        };
        let placed = request.checked().expect("the request keeps every limit").symmetric_bytes();
        let codes = |memory| codes(hidden, top_k, dispatch.0, combine.0, ranks, tokens, memory);
        assert_eq!(codes(placed), [], "{request:?}");
        // Flags and counters, and the gaps between regions, are the only thing that the checker leaves out.
        assert_eq!(codes(placed - placed / 1000 - 8192), [Code::Memory], "{request:?}");
    }
}

/// A layout with room for all that can come has that room on the GPU too.
#[test]
fn the_experts_rows_of_a_layout_with_fixed_room_are_counted() {
    // 4 ranks of 1000 tokens, each for any of 16 local experts: 64000 rows, 4096 bytes in and 4096 out.
    let rows = 4 * 1000 * 16 * (4096 + 4096);
    let codes = |layout, memory| codes(2048, 4, &format!("bf16 layout {layout}"), "bf16", 4, 1000, memory);
    assert_eq!(codes("batched", rows), [Code::Memory], "receive buffers come on top");
    assert_eq!(codes("batched", 2 * rows), [], "which are smaller than that");
    assert_eq!(codes("expert_major", rows), []);
}
