//! PTX text of a test as statements, so that a test can leave one instruction out and see whether anybody notices.

/// What stands before the instruction of a statement (braces and labels), and the instruction.
fn split(statement: &str) -> (&str, &str) {
    let mut rest = statement.trim_start();
    loop {
        let word = rest.split_whitespace().next().unwrap_or_default();
        let skipped = match word.chars().next() {
            Some('{' | '}') => 1,
            Some(_) if word.ends_with(':') => word.len(),
            _ => break,
        };
        rest = rest[skipped..].trim_start();
    }
    statement.split_at(statement.len() - rest.len())
}

/// Opcode and modifiers of a statement that is an instruction, without its guard.
fn form(statement: &str) -> Option<&str> {
    let (_, instruction) = split(statement);
    let mut words = instruction.split_whitespace().skip_while(|word| word.starts_with('@'));
    words.next().filter(|word| !word.starts_with('.'))
}

/// The form of each instruction of a text.
pub fn forms(text: &str) -> Vec<&str> {
    text.split(';').filter_map(form).collect()
}

/// A text without one of its instructions; labels and braces stay.
pub fn without(text: &str, nth: usize) -> String {
    let mut instructions = 0;
    let kept = text.split(';').map(|statement| {
        instructions += usize::from(form(statement).is_some());
        let left_out = form(statement).is_some() && instructions == nth + 1;
        if left_out { split(statement).0 } else { statement }
    });
    kept.collect::<Vec<&str>>().join(";")
}

/// A text as the last lines of a body.
pub fn terminated(text: &str) -> String {
    let closed = text.rsplit(';').next().is_some_and(|last| last.trim() == "}");
    let end = if closed { "\n" } else { ";\n" };
    format!("{}{end}", text.replace("; ", ";\n"))
}
