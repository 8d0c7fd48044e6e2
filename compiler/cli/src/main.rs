//! The command-line tool of the moe language.
fn main() {}
