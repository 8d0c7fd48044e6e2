//! What can be shown: the only place where width, colour and characters of a terminal are decided.
//!
//! | what | decides |
//! |---|---|
//! | width | `COLUMNS`, else the terminal, else 80 |
//! | width of prose | the same, but no more than 100 of a terminal that is wider |
//! | colour | `--color`, else `NO_COLOR`, else `CLICOLOR_FORCE`, else whether it is a terminal that is not `dumb` and `CLICOLOR` is not 0 |
//! | characters | UTF-8 if the first of `LC_ALL`, `LC_CTYPE` and `LANG` that says something says so, else ASCII |
//!
//! Invariant: nothing else in this program reads these variables or asks for the size of a terminal.

use std::env;
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd};

use clap::ValueEnum;
use moe_front::text::Screen;

/// Whether there is colour, as the command line says it.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// Columns where nobody says how many there are.
const USUAL: usize = 80;
/// Fewer cannot be read, and are told by terminals that do not know their size.
const FEWEST: usize = 20;
/// Longer lines of prose are hard to read.
const LONGEST_PROSE: usize = 100;

/// A stream that people may see.
pub trait Stream: IsTerminal + AsFd {}

impl<S: IsTerminal + AsFd> Stream for S {}

/// Of a stream, by the command line and the environment.
pub fn of(stream: &impl Stream, color: Color) -> Screen {
    let (width, prose) = match asked() {
        Some(columns) => (columns, columns),
        None => {
            let width = columns(stream).unwrap_or(USUAL);
            (width, width.min(LONGEST_PROSE))
        }
    };
    Screen { width, prose, colour: colour(stream, color), ascii: !speaks_utf8() }
}

/// Whether a terminal can move its cursor, as a bar of progress does.
pub fn can_move(stream: &impl Stream) -> bool {
    stream.is_terminal() && !is_dumb()
}

fn asked() -> Option<usize> {
    let columns: usize = env::var("COLUMNS").ok()?.trim().parse().ok()?;
    (columns > 0).then_some(columns.max(FEWEST))
}

fn columns(stream: &impl Stream) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the call writes one `winsize`, which is there.
    let told = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col).max(FEWEST))
}

fn colour(stream: &impl Stream, color: Color) -> bool {
    let said = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if said("NO_COLOR").is_some() => false,
        Color::Auto if said("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        Color::Auto => can_move(stream) && said("CLICOLOR").is_none_or(|value| value != "0"),
    }
}

fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb")
}

fn speaks_utf8() -> bool {
    let said = |name| env::var_os(name).filter(|value| !value.is_empty());
    let locale = said("LC_ALL").or_else(|| said("LC_CTYPE")).or_else(|| said("LANG")).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.ends_with("utf-8") || locale.ends_with("utf8") || locale.contains("utf-8@") || locale.contains("utf8@")
}
