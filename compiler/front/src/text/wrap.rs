//! Words in lines.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Columns that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Lines of at most `columns`, unless a word is wider. The first keeps its indent, the others have `hang` blanks, or fewer where
/// the screen is narrow. A text that fits is left as it is.
pub fn wrap(text: &str, columns: usize, hang: usize) -> Vec<String> {
    if width(text) <= columns {
        return vec![text.trim_end().to_owned()];
    }
    let hang = hang.min(columns / 4);
    let words = text.trim_start_matches(' ');
    let mut line = " ".repeat((text.len() - words.len()).min(columns / 4));
    let (mut lines, mut used, mut empty) = (Vec::new(), line.len(), true);
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let more = width(word);
        if !empty && used + 1 + more > columns {
            lines.push(std::mem::replace(&mut line, " ".repeat(hang)));
            (used, empty) = (hang, true);
        }
        if !empty {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += more;
        empty = false;
    }
    lines.push(line);
    lines
}

/// A line with colours, wrapped: `lead` begins every line after the first. Blanks between words stay as they are, but where a line ends.
pub fn wrap_coloured(line: &str, columns: usize, lead: &str) -> String {
    let mut wrapped = String::new();
    // What is in force where the word begins, and where it ends.
    let (mut before, mut colour) = (String::new(), String::new());
    let (mut word, mut blanks) = (String::new(), 0);
    let (mut used, mut of_word, mut empty) = (0, 0, true);
    let mut characters = line.chars().chain([' ']);
    while let Some(c) = characters.next() {
        if c == '\u{1b}' {
            let mut escape = String::from(c);
            for c in characters.by_ref() {
                escape.push(c);
                if c == 'm' {
                    break;
                }
            }
            if escape == RESET {
                colour.clear();
            } else {
                colour.push_str(&escape);
            }
            word.push_str(&escape);
        } else if c != ' ' {
            word.push(c);
            of_word += c.width().unwrap_or(0);
        } else {
            if of_word > 0 {
                if !empty && used + blanks + of_word > columns {
                    wrapped.push_str(if before.is_empty() { "" } else { RESET });
                    wrapped.push('\n');
                    wrapped.push_str(lead);
                    wrapped.push_str(&before);
                    used = width(lead);
                } else {
                    wrapped.extend(std::iter::repeat_n(' ', blanks));
                    used += blanks;
                }
                used += of_word;
                (blanks, empty) = (0, false);
            }
            wrapped.push_str(&std::mem::take(&mut word));
            before.clone_from(&colour);
            of_word = 0;
            blanks += 1;
        }
    }
    wrapped
}

/// Ends every colour.
const RESET: &str = "\u{1b}[0m";
