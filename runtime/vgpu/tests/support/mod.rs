//! What the tests share: text around a kernel's body, and typed copies.
#![allow(dead_code, reason = "each test file uses a part")]

use moe_vgpu::{Address, Cluster, Config, Kernel, Module, Policy, RankId, StreamId};

pub const POLICIES: [Policy; 4] = Policy::ALL;

/// A module with one kernel. Registers: `%r<40>` (32 bits), `%rd<40>` (64), `%p<10>`, `%h<10>` (16), `%f<10>`.
pub fn module(name: &str, parameters: &str, body: &str) -> Module {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry {name}({parameters})\n{{\n.reg .pred %p<10>;\n\
         .reg .b16 %h<10>;\n.reg .b32 %r<40>;\n.reg .b64 %rd<40>;\n.reg .f32 %f<10>;\n{body}\nret;\n}}\n"
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

pub fn kernel(name: &str, parameters: &str, body: &str) -> Kernel {
    module(name, parameters, body).kernel(name).unwrap()
}

pub fn cluster(ranks: u32) -> Cluster {
    scheduled(ranks, Policy::RoundRobin, 0)
}

pub fn scheduled(ranks: u32, policy: Policy, seed: u64) -> Cluster {
    Cluster::new(Config { ranks, policy, seed, instruction_limit: 50_000_000, ..Config::default() }).unwrap()
}

pub fn stream(cluster: &mut Cluster, rank: u32) -> StreamId {
    cluster.stream(RankId(rank)).unwrap()
}

/// Zeroed memory.
pub fn zeroed(cluster: &mut Cluster, rank: u32, bytes: usize, name: &str) -> Address {
    let address = cluster.allocate(RankId(rank), bytes as u64, name).unwrap();
    cluster.write(address, &vec![0; bytes]).unwrap();
    address
}

pub fn words(cluster: &mut Cluster, address: Address, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; count * 4];
    cluster.read(address, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

pub fn write_words(cluster: &mut Cluster, address: Address, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    cluster.write(address, &bytes).unwrap();
}
