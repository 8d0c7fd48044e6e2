//! What emitted PTX must not contain, whatever made it.
//!
//! Invariants of a text that passes:
//! * every `atom`, `red` and `multimem` reduction names its order and its scope (without them PTX assumes relaxed and gpu, and LLVM drops
//!   both without a word);
//! * no load is non-coherent: whatever a kernel reads may be written during the launch, by a peer or by the kernel itself;
//! * every function that is called is defined in the text, so that nothing is left to link;
//! * no local memory: neither a frame nor an access.
//!
//! The text is taken apart by itself, with none of the code that made it.

use std::fmt;

/// What a statement breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// An atomic operation without order or scope.
    UnorderedAtomic,
    /// A load that may return what was there before the launch.
    NonCoherentLoad,
    /// A function that is not in the text.
    UnresolvedCall,
    /// Memory of a thread.
    LocalMemory,
}

impl Rule {
    fn reason(self) -> &'static str {
        match self {
            Rule::UnorderedAtomic => "an atomic operation must name its order and its scope",
            Rule::NonCoherentLoad => "a non-coherent load may miss what is written during the launch",
            Rule::UnresolvedCall => "the function is not defined in this text",
            Rule::LocalMemory => "a kernel must live in registers, without local memory",
        }
    }
}

/// A statement that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line on which the statement starts, from 1.
    pub line: usize,
    pub rule: Rule,
    /// The statement, its white space made single.
    pub statement: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}`: {}", self.line, self.statement, self.rule.reason())
    }
}

/// Everything in the text that breaks a rule, by line; nothing if all is well.
pub fn audit(ptx: &str) -> Vec<Finding> {
    let statements = statements(ptx);
    let defined: Vec<&str> =
        statements.iter().filter(|s| s.opens_body).filter_map(|s| function_name(&s.text)).collect();
    let finding = |statement: &Statement| {
        let rule = broken_rule(&statement.text, &defined)?;
        Some(Finding { line: statement.line, rule, statement: statement.text.clone() })
    };
    statements.iter().filter_map(finding).collect()
}

/// A piece of text up to a semicolon or a brace.
struct Statement {
    line: usize,
    text: String,
    /// Whether a brace follows.
    opens_body: bool,
}

fn statements(ptx: &str) -> Vec<Statement> {
    let text = without_comments(ptx);
    let mut statements = Vec::new();
    let (mut start, mut line) = (0, 1);
    // Braces within parentheses or after an equals sign are lists (`{%r1, %r2}`), not bodies; both kinds end at the same semicolon.
    for (place, c) in text.char_indices() {
        // A directive such as `.version 8.6` ends with its line.
        let is_directive_line = c == '\n' && is_line_directive(text[start..place].trim());
        if !matches!(c, ';' | '{' | '}') && !is_directive_line {
            continue;
        }
        let piece = &text[start..place];
        if c == '{' && is_instruction(piece) {
            continue;
        }
        if c == '}' && is_instruction(piece) && piece.contains('{') {
            continue;
        }
        let blank = piece.len() - piece.trim_start().len();
        let first_line = line + piece[..blank].matches('\n').count();
        line += piece.matches('\n').count() + usize::from(c == '\n');
        let words = piece.split_whitespace().collect::<Vec<_>>().join(" ");
        if !words.is_empty() {
            statements.push(Statement { line: first_line, text: words, opens_body: c == '{' });
        }
        start = place + c.len_utf8();
    }
    statements
}

fn is_line_directive(text: &str) -> bool {
    [".version", ".target", ".address_size", ".file", ".loc"].iter().any(|name| text.starts_with(name))
}

/// Whether a piece starts with an opcode rather than with a directive.
fn is_instruction(piece: &str) -> bool {
    instruction(piece.trim()).is_some()
}

/// Spaces in the place of comments; lines stay.
fn without_comments(ptx: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    let mut rest = ptx;
    while let Some(start) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        text.push_str(&rest[..start]);
        let comment = &rest[start..];
        let length = if comment.starts_with("//") {
            comment.find('\n').unwrap_or(comment.len())
        } else {
            comment.find("*/").map_or(comment.len(), |end| end + 2)
        };
        text.extend(comment[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &comment[length..];
    }
    text.push_str(rest);
    text
}

/// The opcode with its modifiers, and the operands; without labels and without the guard.
fn instruction(statement: &str) -> Option<(&str, &str)> {
    let mut rest = statement.trim_start();
    while let Some((label, after)) = rest.split_once(':')
        && !label.is_empty()
        && label.chars().all(is_name_character)
        && !after.starts_with(':')
    {
        rest = after.trim_start();
    }
    if let Some(guard) = rest.strip_prefix('@') {
        rest = guard.split_once(char::is_whitespace)?.1.trim_start();
    }
    let end = rest.find(|c: char| !(is_name_character(c) || matches!(c, '.' | ':'))).unwrap_or(rest.len());
    let (opcode, operands) = rest.split_at(end);
    opcode.starts_with(|c: char| c.is_ascii_alphabetic()).then_some((opcode, operands))
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%')
}

/// The name in `.func (.param .b32 result) name (…)`.
fn function_name(statement: &str) -> Option<&str> {
    let mut rest = statement[statement.find(".func")? + ".func".len()..].trim_start();
    if rest.starts_with('(') {
        rest = rest.split_once(')')?.1.trim_start();
    }
    let end = rest.find(|c: char| !is_name_character(c)).unwrap_or(rest.len());
    Some(&rest[..end])
}

fn broken_rule(statement: &str, defined: &[&str]) -> Option<Rule> {
    if statement.starts_with('.') {
        let mut words = statement.split(|c: char| c.is_whitespace() || c == '(');
        let has = |wanted: &str| statement.split(|c: char| c.is_whitespace() || c == '(').any(|word| word == wanted);
        if has(".func") && (has(".extern") || function_name(statement).is_none_or(|name| !defined.contains(&name))) {
            return Some(Rule::UnresolvedCall);
        }
        return words.any(|word| word == ".local").then_some(Rule::LocalMemory);
    }
    let (opcode, operands) = instruction(statement)?;
    let mut parts = opcode.split('.');
    let name = parts.next().unwrap_or(opcode);
    let modifiers: Vec<&str> = parts.flat_map(|part| part.split("::")).collect();
    let has = |wanted: &[&str]| modifiers.iter().any(|modifier| wanted.contains(modifier));
    let atomic = matches!(name, "atom" | "red") || name == "multimem" && has(&["red"]);
    if atomic && !(has(&["relaxed", "acquire", "release", "acq_rel"]) && has(&["cta", "cluster", "gpu", "sys"])) {
        return Some(Rule::UnorderedAtomic);
    }
    if name == "ldu" || name == "ld" && has(&["nc"]) {
        return Some(Rule::NonCoherentLoad);
    }
    if name == "call" {
        let is_target = |word: &&str| !word.is_empty() && !word.starts_with('%');
        let outside = match operands.trim_start().strip_prefix('(') {
            Some(results) => results.split_once(')').map_or("", |(_, rest)| rest),
            None => operands,
        };
        let target = outside.split([',', ' ', '(']).find(|word| !word.is_empty());
        return match target.filter(is_target) {
            Some(target) if defined.contains(&target) => None,
            _ => Some(Rule::UnresolvedCall),
        };
    }
    (matches!(name, "ld" | "st" | "cvta" | "atom" | "red") && has(&["local"])).then_some(Rule::LocalMemory)
}
