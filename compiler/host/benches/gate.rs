//! `cargo bench -p moe-host`: tokens per second of DeepSeek-V3's gate on 1 and 2 threads.

use moe_host::bench::tokens_per_second;

fn main() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dsl-examples/deepseek_v3.moe");
    let checked = moe_front::check_source(&std::fs::read(path).expect("the example is there"));
    let spec = checked.spec.expect("the example has no error");
    let (_, model) = spec.models.iter().next().expect("the example has a model");
    for threads in [1, 2] {
        let rate = tokens_per_second(&model.gate, 4096, threads, 201);
        let (median, best) = (rate.median / 1e6, rate.best / 1e6);
        println!("host gate, deepseek_v3, 4096 tokens, {threads} threads: {median:.2} M tokens/s (best run {best:.2})");
    }
}
