//! What a file is, from its bytes: for who gave one kind where another is wanted.

use moe_bundle::file::MAGIC;
use moe_front::span::MAX_FILE_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing in it.
    Empty,
    /// A `.moe` file, by its first word.
    Moe,
    /// What `moec build` writes.
    Bundle,
    /// Safetensors.
    Tensors,
    /// JSON, such as a placement.
    Json,
    /// A program, an archive, a picture.
    Binary,
    /// Text that does not say what it is.
    Text,
}

impl Kind {
    /// Of a file with these bytes.
    pub fn of(bytes: &[u8]) -> Kind {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Kind::Empty;
        }
        if bytes.starts_with(&MAGIC) {
            return Kind::Bundle;
        }
        if let Some((length, header)) = bytes.split_first_chunk::<8>() {
            let length = u64::from_le_bytes(*length);
            if header.first() == Some(&b'{') && length <= header.len() as u64 {
                return Kind::Tensors;
            }
        }
        // Text in UTF-16 is left to the reader of text, which knows it.
        let utf16 = bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]);
        if bytes.contains(&0) && !utf16 {
            return Kind::Binary;
        }
        let text = after_comments(bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(bytes));
        let word = text.split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
        match (text.first(), word) {
            (Some(b'{' | b'['), _) => Kind::Json,
            (_, b"model" | b"cluster" | b"deploy") => Kind::Moe,
            _ => Kind::Text,
        }
    }

    /// As a part of a sentence; who takes it, where it is worth saying.
    fn describe(self) -> &'static str {
        match self {
            Kind::Empty => "empty",
            Kind::Moe => "a .moe file",
            Kind::Bundle => "a bundle of kernels, which `moec run` takes",
            Kind::Tensors => {
                "a file of tensors (safetensors), which `--input` of `moec run`, `gate`, `plan` and `simulate` takes"
            }
            Kind::Json => "JSON, such as `--load`, `--placement` and `--current` take",
            Kind::Binary => "not text",
            Kind::Text => "text",
        }
    }
}

/// Without blanks and `//` comments at the beginning.
fn after_comments(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        match text.strip_prefix(b"//") {
            Some(comment) => {
                let end = comment.iter().position(|&byte| byte == b'\n').unwrap_or(comment.len());
                text = &comment[end..];
            }
            None => return text,
        }
    }
}

/// What a command wants of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A `.moe` file.
    Moe,
    /// A `.moe` file or a bundle.
    Program,
    Bundle,
    /// Safetensors.
    Tensors,
    /// Expert counts: CSV or JSON.
    Counts,
    /// Where experts are: JSON.
    Placement,
    /// Measured times: CSV.
    Measurements,
    /// PTX.
    Ptx,
    /// A job for PTX: TOML.
    Job,
    /// Whatever a job names.
    Anything,
}

impl Wanted {
    fn takes(self, kind: Kind) -> bool {
        // A file of tensors that is none is for its reader to explain, as is a text that is no .moe file.
        match self {
            Wanted::Moe => matches!(kind, Kind::Moe | Kind::Text),
            Wanted::Program => matches!(kind, Kind::Moe | Kind::Text | Kind::Bundle),
            // A damaged one is for its reader to explain.
            Wanted::Bundle => matches!(kind, Kind::Bundle | Kind::Binary),
            Wanted::Tensors => matches!(kind, Kind::Tensors | Kind::Binary | Kind::Text),
            Wanted::Counts => matches!(kind, Kind::Json | Kind::Text),
            Wanted::Placement => matches!(kind, Kind::Json | Kind::Text),
            Wanted::Measurements | Wanted::Ptx => matches!(kind, Kind::Text),
            // TOML may begin with the name of a table.
            Wanted::Job => matches!(kind, Kind::Text | Kind::Json),
            Wanted::Anything => true,
        }
    }

    /// As a part of a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Wanted::Moe => "a .moe file",
            Wanted::Program => "a .moe file or a bundle",
            Wanted::Bundle => "a bundle",
            Wanted::Tensors => "a file of tensors (safetensors)",
            Wanted::Counts => "a table of counts (CSV or JSON)",
            Wanted::Placement => "a placement (JSON, as `moec place -o` writes it)",
            Wanted::Measurements => "a table of measured times (CSV)",
            Wanted::Ptx => "PTX",
            Wanted::Job => "a job (TOML)",
            Wanted::Anything => "a file",
        }
    }

    /// The most bytes; of tensors there may be as many as memory holds.
    pub fn most(self) -> Option<u64> {
        const TABLE: u64 = 1 << 30;
        match self {
            Wanted::Moe => Some(MAX_FILE_BYTES as u64),
            Wanted::Tensors => None,
            _ => Some(TABLE),
        }
    }

    /// Why bytes are not what is wanted, if their kind says so.
    pub fn refuses(self, bytes: &[u8]) -> Option<String> {
        let kind = Kind::of(bytes);
        if self.takes(kind) {
            return None;
        }
        let advice = match (self, kind) {
            (Wanted::Moe, Kind::Bundle) => ": give the .moe file that it was built from",
            (Wanted::Bundle, Kind::Moe) => ": `moec build` makes one of it",
            (Wanted::Moe | Wanted::Program, Kind::Empty) => ": `moec init NAME` writes one to begin with",
            _ => "",
        };
        Some(format!("is {}, and {} is wanted here{advice}", kind.describe(), self.describe()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_bytes_say() {
        let tensors = [&2u64.to_le_bytes()[..], b"{}"].concat();
        for (bytes, kind) in [
            (&b""[..], Kind::Empty),
            (b" \n\t", Kind::Empty),
            (b"// a comment\n\n// another\nmodel m {}", Kind::Moe),
            ("\u{FEFF}cluster c {}".as_bytes(), Kind::Moe),
            (b"deployed", Kind::Text),
            (b"{\"layers\": []}", Kind::Json),
            (b"layer,expert,count\n0,0,1\n", Kind::Text),
            (b"\x89MOEB\r\n\x1a\x01\0\0\0", Kind::Bundle),
            (&tensors, Kind::Tensors),
            (b"\x7fELF\x02\x01\x01\0", Kind::Binary),
            (b"\xFF\xFEm\0o\0", Kind::Text),
        ] {
            assert_eq!(Kind::of(bytes), kind, "{}", bytes.escape_ascii());
        }
    }
}
