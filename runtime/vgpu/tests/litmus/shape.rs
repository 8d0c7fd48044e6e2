//! A shape as a line of a table: what its threads do, an outcome, and whether the model allows it.
//!
//! `name :: verdict :: source :: initial values :: outcome :: threads`. A thread is `rank.cta: statement; …`, threads are apart by `||`, and
//! those at one place are warps of one CTA. Statements are PTX without state space and type: `st.release.gpu x 1`, `ld.weak r0 x`,
//! `atom.relaxed.sys.cas r0 x 0 1`, `fence.sc.cta`, `bar.sync 1 2` (barrier 1, two threads), `mov`, `add`, `beq r0 r1 L`, `goto L`, `L:`.
//! In an outcome `1:r0` is a register of thread 1 and `x` what a variable holds at the end.

use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Forbidden,
}

#[derive(Debug, Clone)]
pub struct Thread {
    pub rank: u32,
    pub cta: u32,
    pub code: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
pub struct Shape {
    pub name: String,
    pub verdict: Verdict,
    pub source: String,
    pub initial: BTreeMap<String, u32>,
    pub outcome: Formula,
    pub threads: Vec<Thread>,
}

/// A variable, a register of a thread, or a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    Register(usize, String),
    Variable(String),
    Number(u32),
}

#[derive(Debug, Clone)]
pub enum Formula {
    Equal(Term, Term),
    Not(Box<Formula>),
    And(Box<Formula>, Box<Formula>),
    Or(Box<Formula>, Box<Formula>),
}

impl Formula {
    /// Whether it is so; none if it needs what is not known.
    pub fn holds(&self, value: &impl Fn(&Term) -> Option<u32>) -> Option<bool> {
        Some(match self {
            Formula::Equal(a, b) => value(a)? == value(b)?,
            Formula::Not(one) => !one.holds(value)?,
            Formula::And(a, b) => {
                let (a, b) = (a.holds(value)?, b.holds(value)?);
                a && b
            }
            Formula::Or(a, b) => {
                let (a, b) = (a.holds(value)?, b.holds(value)?);
                a || b
            }
        })
    }
}

/// Reads a table; empty lines and those that begin with `#` are left out.
pub fn table(text: &str) -> Vec<Shape> {
    text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(shape).collect()
}

pub fn shape(line: &str) -> Shape {
    let parts: Vec<&str> = line.splitn(6, " :: ").map(str::trim).collect();
    let [name, verdict, source, initial, outcome, threads] = parts[..] else { panic!("six columns: {line}") };
    let verdict = match verdict {
        "allowed" => Verdict::Allowed,
        "forbidden" => Verdict::Forbidden,
        other => panic!("{name}: no verdict: {other}"),
    };
    let values = initial.split_whitespace().filter(|word| *word != "-").map(|word| {
        let (name, value) = word.split_once('=').expect("an initial value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    let thread = |text: &str| {
        let (place, code) = text.trim().split_once(':').expect("a place");
        let (rank, cta) = place.split_once('.').expect("a rank and a CTA");
        let words = |statement: &str| statement.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let code = code.split(';').map(words).filter(|words| !words.is_empty()).collect();
        Thread { rank: rank.parse().expect("a rank"), cta: cta.parse().expect("a CTA"), code }
    };
    Shape {
        name: name.to_owned(),
        verdict,
        source: source.to_owned(),
        initial: values.collect(),
        outcome: formula(outcome),
        threads: threads.split("||").map(thread).collect(),
    }
}

/// `|` binds least, then `&`, then `!`.
pub fn formula(text: &str) -> Formula {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let length = match rest.as_bytes()[0] {
            b'!' if rest[1..].starts_with('=') => 2,
            b'(' | b')' | b'&' | b'|' | b'=' | b'!' => 1,
            _ => rest.find(|c: char| !c.is_ascii_alphanumeric() && c != ':' && c != '_').unwrap_or(rest.len()),
        };
        assert!(length > 0, "{text}");
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    let mut at = 0;
    let found = either(&tokens, &mut at);
    assert_eq!(at, tokens.len(), "{text}");
    found
}

fn either(tokens: &[&str], at: &mut usize) -> Formula {
    let mut found = both(tokens, at);
    while tokens.get(*at) == Some(&"|") {
        *at += 1;
        found = Formula::Or(Box::new(found), Box::new(both(tokens, at)));
    }
    found
}

fn both(tokens: &[&str], at: &mut usize) -> Formula {
    let mut found = single(tokens, at);
    while tokens.get(*at) == Some(&"&") {
        *at += 1;
        found = Formula::And(Box::new(found), Box::new(single(tokens, at)));
    }
    found
}

fn single(tokens: &[&str], at: &mut usize) -> Formula {
    *at += 1;
    match tokens[*at - 1] {
        "!" => Formula::Not(Box::new(single(tokens, at))),
        "(" => {
            let found = either(tokens, at);
            assert_eq!(tokens.get(*at), Some(&")"));
            *at += 1;
            found
        }
        first => {
            let (operator, second) = (tokens[*at], tokens[*at + 1]);
            *at += 2;
            let equal = Formula::Equal(term(first), term(second));
            match operator {
                "=" => equal,
                "!=" => Formula::Not(Box::new(equal)),
                other => panic!("{other} is no comparison"),
            }
        }
    }
}

fn term(text: &str) -> Term {
    if let Some((thread, register)) = text.split_once(':') {
        return Term::Register(thread.parse().expect("a thread"), register.to_owned());
    }
    text.parse().map_or_else(|_| Term::Variable(text.to_owned()), Term::Number)
}
