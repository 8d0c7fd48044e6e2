//! Any bytes are an error or a bundle that is written back as the same bytes; `cargo +nightly fuzz run read` in `runtime/bundle`.
//!
//! Hardly any change of a file leaves its hash right, so that the same bytes are tried with a header that fits them too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_bundle::Bundle;
use sha2::{Digest as _, Sha256};

/// Bytes before the manifest: magic, version, lengths of manifest and PTX, hash.
const HEADER: usize = 56;

fn with_right_header(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut file = bytes.to_vec();
    let body = file.len().checked_sub(HEADER)?;
    let manifest = u32::from_le_bytes(file[12..16].try_into().ok()?).min(body as u32);
    file[..8].copy_from_slice(b"\x89MOEB\r\n\x1a");
    file[8..12].copy_from_slice(&1u32.to_le_bytes());
    file[12..16].copy_from_slice(&manifest.to_le_bytes());
    file[16..24].copy_from_slice(&(body as u64 - u64::from(manifest)).to_le_bytes());
    let hash = Sha256::new().chain_update(&file[..24]).chain_update(&file[HEADER..]).finalize();
    file[24..HEADER].copy_from_slice(&hash);
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
