//! A `.moe` file as it was read.

use std::sync::Arc;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// As the user calls it.
    pub name: String,
    /// What is in it.
    pub bytes: Arc<[u8]>,
}

impl Source {
    /// As text; a file that was checked is text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
