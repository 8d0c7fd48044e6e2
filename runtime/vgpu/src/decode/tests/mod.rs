mod evaluate;
mod forms;
mod hostile;
mod instructions;
mod llvm;
mod refused;
mod targets;

use std::sync::atomic::{AtomicUsize, Ordering};

/// What `ptxas` says of a text: the set-up script installs it beside the build, or `MOE_PTXAS` names it.
fn assembler(name: &str, text: &str, chip: &str) -> (bool, String) {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/cuda-tools/bin/ptxas");
    let ptxas = std::env::var("MOE_PTXAS").unwrap_or_else(|_| installed.into());
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("moe-vgpu-{name}-{}-{number}.ptx", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let run = std::process::Command::new(&ptxas).args(["-arch", chip, "-o", "/dev/null"]).arg(&file).output();
    let run = run.unwrap_or_else(|error| panic!("{ptxas}: {error}; `make setup` installs it, MOE_PTXAS names it"));
    std::fs::remove_file(&file).unwrap();
    (run.status.success(), format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr)))
}

/// Assembles a text for its own target.
fn assemble(name: &str, text: &str) {
    let target = text.lines().find_map(|line| line.strip_prefix(".target ")).expect("a target");
    let (success, said) = assembler(name, text, target);
    assert!(success, "{said}");
}
