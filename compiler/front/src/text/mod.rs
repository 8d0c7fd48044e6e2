//! Text for a terminal: prose is wrapped, tables fit.
//!
//! Invariants: no line of a [`Page`] is wider than its [`Screen`], unless a single word is; on a screen of ASCII no other character is
//! written; nothing that a file holds is taken for an instruction to the terminal. Width is counted in columns, not in characters.

mod ascii;
mod table;
mod wrap;

pub use ascii::{harmless, plain, within};
pub use table::{Column, Table};
pub use wrap::{width, wrap, wrap_coloured};

use std::borrow::Cow;
use std::fmt;

/// What can be shown where a text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Columns of a line.
    pub width: usize,
    /// Columns of a line of prose, which is hard to read when it is long.
    pub prose: usize,
    /// Whether colours are.
    pub colour: bool,
    /// Whether ASCII is all that is.
    pub ascii: bool,
}

impl Screen {
    /// As wide as the text: nothing is wrapped.
    pub const ENDLESS: Screen = Screen { width: usize::MAX, prose: usize::MAX, colour: false, ascii: false };
}

/// Text from top to bottom.
#[derive(Clone, Debug, Default)]
pub struct Page {
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
enum Block {
    /// Words, and how far the lines after the first are indented.
    Prose(String, usize),
    Table(Table),
    Verbatim(String),
}

impl Page {
    /// A line of its own, wrapped where it is long. What it begins with in blanks, all its lines do.
    pub fn line(&mut self, words: impl Into<String>) {
        let words = words.into();
        for line in words.split('\n') {
            let indent = line.len() - line.trim_start_matches(' ').len();
            self.blocks.push(Block::Prose(line.to_owned(), indent + 2));
        }
    }

    /// Part of a running text, which the next line goes on with.
    pub fn paragraph(&mut self, words: impl Into<String>) {
        self.blocks.push(Block::Prose(words.into(), 0));
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.blocks.push(Block::Prose(String::new(), 0));
    }

    /// An item of a list.
    pub fn item(&mut self, words: &str) {
        self.blocks.push(Block::Prose(format!("  • {words}"), 4));
    }

    pub fn table(&mut self, table: Table) {
        self.blocks.push(Block::Table(table));
    }

    /// A line that is code, left as it is.
    pub fn verbatim(&mut self, line: impl Into<String>) {
        self.blocks.push(Block::Verbatim(line.into()));
    }

    /// As text for a screen.
    pub fn show(&self, screen: &Screen) -> String {
        let mut text = String::new();
        for block in &self.blocks {
            match block {
                Block::Prose(words, hang) => {
                    for line in wrap(&plain(words, screen.ascii), screen.prose, *hang) {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
                Block::Table(table) => table.show(screen, &mut text),
                Block::Verbatim(line) => {
                    text.push_str(&within(line, screen.ascii));
                    text.push('\n');
                }
            }
        }
        text
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show(&Screen::ENDLESS))
    }
}

/// One statement, such as an error, as lines for a screen.
pub fn sentence(words: &str, screen: &Screen) -> String {
    let mut page = Page::default();
    page.line(words);
    page.show(screen)
}

/// Either the text or a copy.
type Text<'t> = Cow<'t, str>;
