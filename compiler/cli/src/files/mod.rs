//! The files that a command line names.
//!
//! Invariants: only an [`InputPath`] can be read and only an [`OutputPath`] can be written; both come from the command line, and
//! [`conflict`] has compared all of them before a command starts, whichever command it is. So an output is never an input, and never
//! another output, by whatever path, link or case of letters it is called. Whatever is read is first looked at: a file of another kind
//! than the one that is wanted is called what it is ([`Kind`]).

#![allow(clippy::disallowed_methods, reason = "here is where files are opened, made and removed")]

mod conflict;
mod identity;
mod kind;
mod read;
mod write;

pub use conflict::conflict;
pub use kind::Wanted;
pub use write::{OutputError, check, check_binary, create, rewrite, write};

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TryMapValueParser, TypedValueParser as _, ValueParserFactory};

use crate::failure::Failure;

/// A file, or one of the standard streams, which `-` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Standard,
    File(PathBuf),
}

impl Place {
    /// `stream` has the other names of the standard stream.
    fn parse(name: OsString, streams: &[&str]) -> Result<Place, String> {
        if name.is_empty() {
            return Err("an empty name names no file".to_owned());
        }
        let standard = name == "-" || streams.iter().any(|stream| name == **stream);
        Ok(if standard { Place::Standard } else { Place::File(name.into()) })
    }
}

/// A file that is read: named on the command line, `-` for standard input.
#[derive(Clone, Debug)]
pub struct InputPath(Place);

/// A file that is written: named on the command line, or beside an input.
#[derive(Clone, Debug)]
pub struct OutputPath(Place);

impl InputPath {
    fn parse(name: OsString) -> Result<InputPath, String> {
        Place::parse(name, &["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]).map(InputPath)
    }

    /// Whether it is standard input.
    pub fn is_standard(&self) -> bool {
        self.0 == Place::Standard
    }

    /// A file that this one names: seen from its folder, from the current one if this is standard input.
    pub fn neighbour(&self, name: &str) -> Result<InputPath, String> {
        if name.is_empty() {
            return Err("an empty name names no file".to_owned());
        }
        let folder = match &self.0 {
            Place::Standard => None,
            Place::File(path) => path.parent(),
        };
        Ok(InputPath(Place::File(folder.map_or_else(|| PathBuf::from(name), |folder| folder.join(name)))))
    }
}

/// As the user calls it.
impl fmt::Display for InputPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Standard => formatter.write_str("<stdin>"),
            Place::File(path) => shown(path, formatter),
        }
    }
}

/// In quotes where one could not see where it begins and ends, or that it is on one line.
fn shown(path: &Path, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = path.to_string_lossy();
    if text.trim() == text && !text.chars().any(char::is_control) {
        write!(formatter, "{}", path.display())
    } else {
        // As a quoted text: what cannot be seen is escaped.
        write!(formatter, "{text:?}")
    }
}

impl ValueParserFactory for InputPath {
    type Parser = TryMapValueParser<OsStringValueParser, fn(OsString) -> Result<InputPath, String>>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().try_map(InputPath::parse)
    }
}

impl OutputPath {
    fn parse(name: OsString) -> Result<OutputPath, String> {
        Place::parse(name, &["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]).map(OutputPath)
    }

    /// For an output of a command that prints something else on standard output.
    pub fn parse_file(name: OsString) -> Result<OutputPath, String> {
        match OutputPath::parse(name)? {
            OutputPath(Place::Standard) => {
                Err("standard output is for what the command prints: name a file".to_owned())
            }
            file => Ok(file),
        }
    }

    /// Beside an input, with another extension.
    pub fn beside(input: &InputPath, extension: &str) -> Result<OutputPath, Failure> {
        let Place::File(path) = &input.0 else {
            return Err(Failure::Message(
                "standard input has no name that the output could have: name the output with `-o`".to_owned(),
            ));
        };
        let output = path.with_extension(extension);
        if identity::of_path(&output).is_same(&identity::of_path(path)) {
            return Err(Failure::Message(format!(
                "the output would be {}, which is the input and would be overwritten: name another one with `-o`",
                output.display()
            )));
        }
        Ok(OutputPath(Place::File(output)))
    }

    /// Standard output.
    pub fn standard() -> OutputPath {
        OutputPath(Place::Standard)
    }

    /// Whether it is standard output.
    pub fn is_standard(&self) -> bool {
        self.0 == Place::Standard
    }

    fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Standard => None,
            Place::File(path) => Some(path),
        }
    }
}

/// As the user calls it.
impl fmt::Display for OutputPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Standard => formatter.write_str("<stdout>"),
            Place::File(path) => shown(path, formatter),
        }
    }
}

impl ValueParserFactory for OutputPath {
    type Parser = TryMapValueParser<OsStringValueParser, fn(OsString) -> Result<OutputPath, String>>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().try_map(OutputPath::parse)
    }
}
