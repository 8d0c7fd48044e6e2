mod evaluate;
mod forms;
mod hostile;
mod instructions;
mod llvm;
mod refused;

/// Runs `ptxas`, which the set-up script installs beside the build, or which `MOE_PTXAS` names.
fn assemble(name: &str, text: &str) {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/cuda-tools/bin/ptxas");
    let ptxas = std::env::var("MOE_PTXAS").unwrap_or_else(|_| installed.into());
    let file = std::env::temp_dir().join(format!("moe-vgpu-{name}-{}.ptx", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let run = std::process::Command::new(&ptxas).args(["-arch=sm_90a", "-o", "/dev/null"]).arg(&file).output();
    let run = run.unwrap_or_else(|error| panic!("{ptxas}: {error}; `make setup` installs it, MOE_PTXAS names it"));
    std::fs::remove_file(&file).unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
}
