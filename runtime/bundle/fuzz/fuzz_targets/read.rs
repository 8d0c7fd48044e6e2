//! Any bytes are an error or a bundle that is written back as the same bytes; `cargo +nightly fuzz run read` in `runtime/bundle`.
//!
//! Hardly any change of a file leaves its hash right, so that the same bytes are tried with a header that fits them too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_bundle::Bundle;
use moe_bundle::file::{HEADER_BYTES as HEADER, VERSION};
use sha2::{Digest as _, Sha256};

fn with_right_header(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut file = bytes.to_vec();
    let body = file.len().checked_sub(HEADER)?;
    let manifest = u32::from_le_bytes(file[12..16].try_into().ok()?).min(body as u32);
    file[..8].copy_from_slice(b"\x89MOEB\r\n\x1a");
    file[8..12].copy_from_slice(&VERSION.to_le_bytes());
    file[12..16].copy_from_slice(&manifest.to_le_bytes());
    let code = body as u64 - u64::from(manifest);
    let ptx = u64::from_le_bytes(file[16..24].try_into().ok()?).min(code);
    file[16..24].copy_from_slice(&ptx.to_le_bytes());
    file[24..32].copy_from_slice(&(code - ptx).to_le_bytes());
    let hash = Sha256::new().chain_update(&file[..32]).chain_update(&file[HEADER..]).finalize();
    file[32..HEADER].copy_from_slice(&hash);
    Some(file)
}

fn read(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::from_bytes(bytes) {
        assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).expect("a bundle that was read can be read again"), bundle);
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if let Some(file) = with_right_header(bytes) {
        read(&file);
    }
});
