//! What is said on standard error, for people or for tools, and what is written to standard output.

use std::io::{self, Write as _};

use clap::ValueEnum;
use moe_front::diagnostics::Diagnostics;
use moe_front::diagnostics::render::{json, render};
use moe_front::text::{Page, Screen, sentence};
use schemars::JsonSchema;
use serde::Serialize;

use crate::failure::Failure;
use crate::files::{self, OutputPath};
use crate::screen::{self, Color};
use crate::source::Source;

/// Who diagnostics are for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MessageFormat {
    Human,
    Json,
}

/// How things are said.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    format: MessageFormat,
    /// Of standard output.
    results: Screen,
    /// Of standard error.
    messages: Screen,
    is_watched: bool,
}

impl Terminal {
    /// From the command line and the environment.
    pub fn new(format: MessageFormat, color: Color) -> Terminal {
        Terminal {
            format,
            results: screen::of(&io::stdout(), color),
            messages: screen::of(&io::stderr(), color),
            is_watched: matches!(format, MessageFormat::Human) && screen::can_move(&io::stderr()),
        }
    }

    /// Whether a person watches standard error.
    pub fn is_watched(self) -> bool {
        self.is_watched
    }

    /// What standard error can show.
    pub fn messages(self) -> Screen {
        self.messages
    }

    /// Writes a result for people to standard output.
    pub fn show(self, page: &Page) -> Result<(), Failure> {
        print(&page.show(&self.results))
    }

    /// Says what was found in a file.
    pub fn diagnostics(self, source: &Source, diagnostics: &Diagnostics) {
        if diagnostics.is_empty() {
            return;
        }
        say(&match self.format {
            MessageFormat::Human => render(&source.name, &source.bytes, diagnostics, &self.messages),
            MessageFormat::Json => json(&source.name, &source.bytes, diagnostics),
        });
    }

    /// Says what is worth knowing and no fault.
    pub fn note(self, note: &str) {
        self.sentence(Tone::Note, note);
    }

    fn sentence(self, severity: Tone, title: &str) {
        say(&match self.format {
            MessageFormat::Human => sentence(&format!("{}: {title}", severity.word()), &self.messages),
            // Two strings always have a JSON form.
            MessageFormat::Json => serde_json::to_string(&Sentence { severity, title }).unwrap_or_default() + "\n",
        });
    }

    /// Says why a command failed.
    pub fn fail(self, failure: &Failure) {
        match failure {
            Failure::File(source, diagnostics) => self.diagnostics(source, diagnostics),
            Failure::Message(message) => self.sentence(Tone::Error, message),
            Failure::Said => {}
        }
    }
}

/// Writes a result to standard output as it is.
pub fn print(text: &str) -> Result<(), Failure> {
    Ok(files::write(&OutputPath::standard(), text.as_bytes())?)
}

/// There is nobody left to tell when standard error is closed.
pub fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// What is said of no place in a file, for tools.
#[derive(Serialize, JsonSchema)]
pub struct Sentence<'a> {
    /// How bad it is.
    severity: Tone,
    /// The sentence.
    title: &'a str,
}

/// How bad a sentence is.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Tone {
    /// Worth knowing and no fault.
    Note,
    /// Why the command failed.
    Error,
}

impl Tone {
    fn word(self) -> &'static str {
        match self {
            Tone::Note => "note",
            Tone::Error => "error",
        }
    }
}
