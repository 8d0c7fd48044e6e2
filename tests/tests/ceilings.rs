//! The kernels that measure what a multiprocessor can do: ptxas takes them, and on virtual GPUs, under every policy and with a judge of memory
//! order, they leave what they should.

#[path = "../benches/ceilings/kernels.rs"]
mod kernels;
#[allow(dead_code, reason = "what a GPU is given, and what a table shows, is for the program")]
#[path = "../benches/ceilings/measure.rs"]
mod measure;

use measure::{Sizes, measure};
use moe_kernels::assemble::assemble;
use moe_kernels::ptx::Chip;
use moe_runtime::{Policy, VirtualDevice, VirtualOptions};
use moe_vgpu::Judge;

#[test]
fn the_kernels_leave_what_they_should() {
    let sizes = Sizes { ctas: vec![1, 3], bytes_per_cta: 100_000, launches: 1, rounds: 20 };
    for policy in Policy::ALL {
        let device = VirtualDevice::new(1, &VirtualOptions { policy, seed: 3, ..VirtualOptions::default() }).unwrap();
        let judge = Judge::default();
        device.observe(Box::new(judge.clone()));
        let lines = measure(&device, &sizes, |_| {}).unwrap_or_else(|error| panic!("{policy}: {error}"));
        assert_eq!(lines.len(), 4 * 2 * 2 + 7 * 2 + 4 + 2, "{policy}");
        let found: Vec<String> = judge.found().iter().map(ToString::to_string).collect();
        assert_eq!(found, Vec::<String>::new(), "{policy}");
    }
}

#[test]
fn ptxas_takes_them_without_spills() {
    let mut kernels = vec![kernels::store(), kernels::store_bulk(), kernels::nothing()];
    kernels.extend([2, 4, 8, 16].map(kernels::load));
    kernels.extend([2048, 4096, 14_336].map(kernels::load_bulk));
    kernels.extend([false, true].map(kernels::hand_over));
    for ptx in kernels {
        let assembled = assemble(&ptx, Chip::Sm90a).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
        assert!(assembled.usage.stays_in_registers(), "{:?}\n{ptx}", assembled.usage);
    }
}
