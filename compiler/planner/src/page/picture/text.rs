//! How wide a text is, and what is done with one that has no room.
//!
//! Invariant: no widespread font of a system's user interface is wider than [`Type::width`] says: widths are those of DejaVu Sans, the
//! widest of them, rounded up.

/// A size and weight of letters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Type {
    /// Of the style sheet.
    pub class: &'static str,
    /// Height, in the units of a figure.
    pub size: f64,
    pub bold: bool,
}

impl Type {
    pub(super) const TITLE: Type = Type { class: "title", size: 18.0, bold: true };
    pub(super) const HEADING: Type = Type { class: "heading", size: 15.0, bold: true };
    pub(super) const STRONG: Type = Type { class: "strong", size: 13.0, bold: true };
    pub(super) const PLAIN: Type = Type { class: "plain", size: 13.0, bold: false };
    pub(super) const SMALL: Type = Type { class: "small", size: 12.75, bold: false };
    /// As small as it gets: on a screen 390 wide it is 11 pixels high.
    pub(super) const NUMBER: Type = Type { class: "number", size: 12.75, bold: false };
    pub(super) const ALL: [Type; 6] =
        [Type::TITLE, Type::HEADING, Type::STRONG, Type::PLAIN, Type::SMALL, Type::NUMBER];

    /// At least as wide as the text will be.
    pub(super) fn width(self, text: &str) -> f64 {
        text.chars().map(|character| self.advance(character)).sum()
    }

    /// Lines of at most `room`; a word is cut only where it has no room on a line of its own.
    pub(super) fn wrap(self, text: &str, room: f64) -> Vec<String> {
        let mut lines = vec![String::new()];
        for word in text.split_whitespace() {
            let mut rest = word;
            while !rest.is_empty() {
                let (last, more) = match lines.last() {
                    Some(line) if !line.is_empty() => (lines.len() - 1, format!("{line} {rest}")),
                    _ => (lines.len() - 1, rest.to_owned()),
                };
                if self.width(&more) <= room {
                    lines[last] = more;
                    rest = "";
                } else if !lines[last].is_empty() {
                    lines.push(String::new());
                } else {
                    let cut = self.fitting(rest, room).max(1);
                    let end = rest.char_indices().nth(cut).map_or(rest.len(), |(end, _)| end);
                    lines[last] = rest[..end].to_owned();
                    rest = &rest[end..];
                    if !rest.is_empty() {
                        lines.push(String::new());
                    }
                }
            }
        }
        lines
    }

    /// The text, or its beginning with an ellipsis where it has no room.
    pub(super) fn elide(self, text: &str, room: f64) -> String {
        if self.width(text) <= room {
            return text.to_owned();
        }
        let kept: String = text.chars().take(self.fitting(text, room - self.width("…"))).collect();
        format!("{}…", kept.trim_end())
    }

    /// How many characters from the beginning have room.
    fn fitting(self, text: &str, room: f64) -> usize {
        let mut width = 0.0;
        text.chars()
            .take_while(|&character| {
                width += self.advance(character);
                width <= room
            })
            .count()
    }

    fn advance(self, character: char) -> f64 {
        (advance(character) + if self.bold { 0.08 } else { 0.0 }) * self.size
    }
}

/// Width of a character as a part of the height of letters.
fn advance(character: char) -> f64 {
    match character {
        '\u{202f}' => 0.21,
        'i' | 'j' | 'l' | '\'' => 0.28,
        ' ' | ',' | '.' | 'I' | 'J' | '·' | '’' => 0.33,
        '!' | '(' | ')' | '-' | '/' | ':' | ';' | '[' | '\\' | ']' | 'f' | 'r' | 't' | '|' => 0.42,
        '"' | '*' | '?' | '_' | '`' | 's' | 'z' | '–' => 0.54,
        'a'..='h' | 'k' | 'n'..='q' | 'u' | 'v' | 'x' | 'y' | '0'..='9' | '$' | '{' | '}' | 'µ' | '“' | '”' => {
            0.66
        }
        'A' | 'B' | 'C' | 'E' | 'F' | 'K' | 'L' | 'P' | 'R'..='V' | 'X'..='Z' => 0.74,
        'D' | 'G' | 'H' | 'N' | 'O' | 'Q' | '&' => 0.79,
        '#' | '+' | '<' | '=' | '>' | '^' | '~' | '×' | '±' | '−' | '≤' | '→' | '◀' | 'w' => 0.87,
        'M' => 0.92,
        // Nothing in a font is wider, East Asian characters included; what combines with others is narrower.
        _ => 1.03,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_room_and_words_stay_whole() {
        let room = Type::PLAIN.width("wide enough for words");
        let text = "wide enough for words that are short, and for one_that_is_very_much_longer_than_a_line_is too";
        let lines = Type::PLAIN.wrap(text, room);
        assert!(lines.iter().all(|line| Type::PLAIN.width(line) <= room), "{lines:?}");
        assert_eq!(lines[0], "wide enough for words");
        assert_eq!(lines.concat().replace(' ', ""), text.replace(' ', ""), "nothing is lost");
        assert_eq!(Type::PLAIN.wrap("", room), [""]);
    }

    #[test]
    fn what_has_no_room_ends_in_an_ellipsis() {
        let cut = Type::SMALL.elide("a_model_with_a_rather_long_name", 100.0);
        assert!(cut.starts_with("a_model") && cut.ends_with('…') && Type::SMALL.width(&cut) <= 100.0, "{cut}");
        assert_eq!(Type::SMALL.elide("short", 100.0), "short");
    }
}
