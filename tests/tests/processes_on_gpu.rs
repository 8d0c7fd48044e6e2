//! On a machine with an NVIDIA GPU: processes that take turns on one give the bits of virtual ones. `make gpu` runs it; `cargo test` does not.

#[path = "processes/world.rs"]
mod world;

use world::{Folder, Job, Processes, RANKS};

#[test]
fn processes_on_one_gpu_give_the_bits_of_one() {
    let folder = Folder::new("gpu");
    let bundle = folder.bundle("layer.moeb", 8);
    for each in [1, 2] {
        let job = Job { processes: RANKS / each, each, ..Job::default() };
        let mut processes = Processes::run(&job, |_, command| {
            command.arg("layer").arg(&bundle).arg(folder.0.join("result")).args(["never", "20"]).env("MOE_GPU", "0");
        });
        processes.assert_right(&folder, None);
        processes.assert_nothing_left();
    }
}
