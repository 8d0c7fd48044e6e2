//! What a screen cannot show, in other words.
//!
//! Invariant: what comes out holds no control character but the end of a line and a tabulator, so that no file name and no comment of a file
//! can colour, move or erase what is on a terminal.

use super::{Text, width};

/// What stands for a character in ASCII.
const WORDS: [(char, &str); 36] = [
    ('×', "x"),
    ('·', "."),
    ('•', "*"),
    ('−', "-"),
    ('–', "-"),
    ('—', "-"),
    ('…', "..."),
    ('→', "->"),
    ('µ', "u"),
    ('μ', "u"),
    ('±', "+-"),
    ('≤', "<="),
    ('≥', ">="),
    ('≠', "!="),
    ('÷', "/"),
    ('∞', "inf"),
    ('Σ', "sum"),
    ('∂', "d"),
    ('√', "sqrt"),
    ('½', "1/2"),
    ('²', "^2"),
    ('³', "^3"),
    ('⁴', "^4"),
    ('⁸', "^8"),
    ('⁻', "^-"),
    ('¹', "^1"),
    ('₁', "_1"),
    ('₂', "_2"),
    ('ₖ', "_k"),
    ('⟨', "<"),
    ('⟩', ">"),
    ('“', "\""),
    ('”', "\""),
    ('‘', "'"),
    ('’', "'"),
    ('✓', "ok"),
];

/// Words as a screen can show them.
pub fn plain(text: &str, ascii: bool) -> Text<'_> {
    if !needs(text, ascii) {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        match WORDS.iter().find(|(known, _)| *known == c) {
            Some((_, words)) if ascii => shown.push_str(words),
            Some(_) | None => one(c, ascii, &mut shown),
        }
    }
    shown.into()
}

/// The same, each character in as many columns as before: for what stands above or below something.
pub fn within(text: &str, ascii: bool) -> Text<'_> {
    if !needs(text, ascii) {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        let columns = width(c.encode_utf8(&mut [0; 4]));
        match WORDS.iter().find(|(known, words)| *known == c && words.len() == columns) {
            Some((_, words)) if ascii => shown.push_str(words),
            Some(_) | None => one(c, ascii, &mut shown),
        }
    }
    shown.into()
}

/// The text of a file, every byte in its place, without what a terminal would obey.
pub fn harmless(text: Text<'_>) -> Text<'_> {
    let obeyed = |c: char| is_instruction(c) && c != '\r';
    if !text.contains(obeyed) {
        return text;
    }
    let stand_in = |c: char| match c.len_utf8() {
        1 => '?',
        2 => '¿',
        // No such character is longer.
        _ => char::REPLACEMENT_CHARACTER,
    };
    text.chars().map(|c| if obeyed(c) { stand_in(c) } else { c }).collect::<String>().into()
}

fn needs(text: &str, ascii: bool) -> bool {
    text.chars().any(|c| ascii && !c.is_ascii() || is_instruction(c))
}

/// Characters that a terminal obeys instead of showing them: control characters, and those that change the direction of what follows.
fn is_instruction(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\n' && c != '\t') || turns
}

fn one(c: char, ascii: bool, shown: &mut String) {
    let unknown = is_instruction(c) || (ascii && !c.is_ascii());
    match (unknown, ascii) {
        (false, _) => shown.push(c),
        (true, true) => (0..width(c.encode_utf8(&mut [0; 4])).max(1)).for_each(|_| shown.push('?')),
        (true, false) => shown.push('\u{fffd}'),
    }
}
