//! Whatever is a module can be run: its kernels end, or an error says why not. `cargo +nightly fuzz run run` in
//! `runtime/vgpu`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_vgpu::{Argument, Cluster, Config, Launch, Module, RankId};

fuzz_target!(|bytes: &[u8]| {
    let Ok(module) = Module::parse(&String::from_utf8_lossy(bytes)) else { return };
    for name in module.kernels() {
        let kernel = module.kernel(name).expect("the kernel is in the list");
        let config = Config { sms: 1, instruction_limit: 2_000, ..Config::default() };
        let mut cluster = Cluster::new(config).expect("a cluster of one");
        let memory = cluster.allocate(RankId(0), 4096, "memory").expect("memory");
        cluster.write(memory, &[1; 4096]).expect("the memory is there");
        let argument = |bytes: u32| if bytes == 8 { memory.into() } else { Argument::Bytes(vec![1; bytes as usize]) };
        let arguments = kernel.parameters().iter().map(|parameter| argument(parameter.bytes)).collect();
        let stream = cluster.stream(RankId(0)).expect("a stream");
        // What cannot be launched, and what ends with a fault or a deadlock, is told; that is all that is asked.
        if cluster.launch(stream, &kernel, Launch::linear(2, 64, arguments)).is_ok() {
            let _ = cluster.run().map_err(|error| error.to_string());
        }
    }
});
