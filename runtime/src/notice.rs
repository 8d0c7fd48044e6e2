//! Where a process says why it stopped, for the others to read.
//!
//! Invariant: what is there is whole, or nothing: the text is written before anybody is told to look.

use crate::device::{DeviceError, Memory};

/// Its bytes: how long the text is, and the text.
pub(crate) const BYTES: u64 = 4096;

const LENGTH: usize = 8;

/// As much of a text as there is room for.
pub(crate) fn put(memory: &Memory, text: &str) -> Result<(), DeviceError> {
    let text = &text[..text.floor_char_boundary(BYTES as usize - LENGTH)];
    memory.write(&[&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat())
}

/// What is there, if anything.
pub(crate) fn take(memory: &Memory) -> Result<Option<String>, DeviceError> {
    let length = memory.read::<u64>(0..1)?[0] as usize;
    if length == 0 || length > BYTES as usize - LENGTH {
        return Ok(None);
    }
    let text = memory.read::<u8>(LENGTH..LENGTH + length)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}
