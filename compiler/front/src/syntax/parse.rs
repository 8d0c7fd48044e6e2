//! From tokens to the tree.
//!
//! Invariant: every token that the grammar could not place has been reported, and the parser reaches the end of the file unless there
//! are more problems than anybody reads.

use std::cell::Cell;

use lalrpop_util::{ErrorRecovery, ParseError, lalrpop_mod};

use super::ast::{self, Expression, ExpressionKind, Operator};
use super::structure::{Located, names_something};
use crate::diagnostics::{Diagnostics, Form, Repair, SyntaxProblem, closest};
use crate::span::Span;
use crate::token::{Keyword, Scope, Token};

lalrpop_mod!(
    #[allow(clippy::all, clippy::pedantic, missing_docs, unused_imports, reason = "generated")]
    grammar,
    "/syntax/grammar.rs"
);

/// What the actions of the grammar share.
pub struct Reading<'a> {
    source: &'a str,
    tokens: &'a [Located],
    diagnostics: &'a mut Diagnostics,
    /// Set when nobody would read more problems; the tokens end there.
    enough: &'a Cell<bool>,
}

/// Reads the tree. Where the file is wrong, the tree has a gap and the problem is reported.
pub fn parse(source: &str, tokens: &[Located], diagnostics: &mut Diagnostics) -> ast::File {
    let enough = Cell::new(diagnostics.is_full());
    let mut reading = Reading { source, tokens, diagnostics, enough: &enough };
    let stream = tokens.iter().map(|token| if enough.get() { Err(()) } else { Ok(*token) });
    let parsed = grammar::FileParser::new().parse(&mut reading, stream);
    parsed.unwrap_or_else(|error| {
        if !enough.get() {
            reading.recovered(ErrorRecovery { error, dropped_tokens: Vec::new() });
        }
        ast::File::default()
    })
}

impl Reading<'_> {
    pub(super) fn name(&self, span: Span) -> ast::Name {
        // A unit may be written with blanks, `GB / s`; its name has none.
        let text = span.text(self.source).split_whitespace().collect();
        let text = if span.text(self.source).starts_with('"') { span.text(self.source).to_owned() } else { text };
        ast::Name { text, span }
    }

    pub(super) fn number(&self, span: Span) -> ast::Number {
        ast::Number { text: span.text(self.source).to_owned(), span }
    }

    pub(super) fn binary(&mut self, left: Expression, operator: Operator, right: Expression, span: Span) -> Expression {
        let kind = ExpressionKind::Binary { left: Box::new(left), operator, right: Box::new(right) };
        self.expression(kind, span)
    }

    pub(super) fn expression(&mut self, kind: ExpressionKind, span: Span) -> Expression {
        Expression::new(kind, span).unwrap_or_else(|ast::TooDeep| {
            self.report(SyntaxProblem::LongExpression { span, limit: ast::MAX_EXPRESSION_DEPTH });
            Expression::broken(span)
        })
    }

    /// Reports what is wrong in the head of a block, and stands for the name that it should have.
    pub(super) fn head(&mut self, recovery: ErrorRecovery<u32, Token, ()>) -> ast::Name {
        let span = self.recovered(recovery);
        ast::Name { text: String::new(), span }
    }

    /// Reports what is wrong in the head of a block, and stands for the number that it should have.
    pub(super) fn unread(&mut self, recovery: ErrorRecovery<u32, Token, ()>) -> ast::Quantity {
        let ast::Name { text, span } = self.head(recovery);
        ast::Quantity { number: ast::Number { text, span }, unit: None, span }
    }

    /// Reports what could not be read, and says where.
    pub(super) fn recovered(&mut self, recovery: ErrorRecovery<u32, Token, ()>) -> Span {
        let (token, span, expected) = match recovery.error {
            ParseError::UnrecognizedToken { token: (start, token, end), expected } => {
                (Some(token), Span::new(start, end), expected)
            }
            ParseError::ExtraToken { token: (start, token, end) } => (Some(token), Span::new(start, end), Vec::new()),
            ParseError::UnrecognizedEof { location, expected } => (None, Span::new(location, location), expected),
            ParseError::InvalidToken { location } => (None, Span::new(location, location), Vec::new()),
            ParseError::User { error: () } => (None, Span::default(), Vec::new()),
        };
        let expected = Expected::new(&expected);
        let problem = self.problem(token, span, &expected);
        self.report(problem);
        for &(start, dropped, end) in &recovery.dropped_tokens {
            let other = Span::new(start, end);
            if dropped == Token::Word && start > span.start && expected.settings() && self.first_on_line(start) {
                let problem = self.unknown_setting(other, &expected);
                self.report(problem);
            }
        }
        span
    }

    fn report(&mut self, problem: SyntaxProblem) {
        self.diagnostics.report(problem);
        self.enough.set(self.diagnostics.is_full());
    }

    fn problem(&self, token: Option<Token>, span: Span, expected: &Expected) -> SyntaxProblem {
        let found = span.text(self.source).to_owned();
        let previous = self.before(span.start);
        if let Some(run) = token.and_then(|_| self.instead_of_a_name(span)) {
            return SyntaxProblem::BadName { span: run, found: run.text(self.source).to_owned() };
        }
        match token {
            None => SyntaxProblem::UnexpectedEnd { span: previous.unwrap_or(span), expected: expected.described() },
            Some(Token::Word) if expected.settings() => self.unknown_setting(span, expected),
            Some(Token::Keyword(_)) if expected.settings() => self.unknown_setting(span, expected),
            Some(Token::Comma | Token::Semicolon) if expected.settings() => SyntaxProblem::Separator { span, found },
            Some(Token::Equals | Token::Colon) if expected.value() => {
                let form = self.part(span.start).map_or(Form::Unknown, |(_, form)| form);
                SyntaxProblem::Assignment { span, found, form }
            }
            Some(Token::Minus) if expected.value() => {
                let number = self.tokens.get(self.tokens.partition_point(|token| token.0 <= span.start));
                let end = number.filter(|token| token.1 == Token::Number).map_or(span.end, |token| token.2);
                let (at, form) = self.part(span.start).unwrap_or((span, Form::Unknown));
                let setting = at.text(self.source).to_owned();
                SyntaxProblem::Negative { span: Span::new(span.start, end), setting, form }
            }
            Some(Token::Keyword(_) | Token::CloseBrace) if expected.value() => {
                let last = previous.unwrap_or(span);
                let (begin, form) = self.part(span.start).unwrap_or((last, Form::Unknown));
                let written = begin.to(last).text(self.source).to_owned();
                SyntaxProblem::MissingValue {
                    span: last,
                    written,
                    begun: begin != last,
                    form,
                    expected: expected.described(),
                }
            }
            Some(token) => {
                let repair = self.repair(token, span, expected);
                SyntaxProblem::Unexpected { span, found, expected: expected.described(), repair }
            }
        }
    }

    /// Where a name is due and something else stands: all of that, up to a blank.
    fn instead_of_a_name(&self, span: Span) -> Option<Span> {
        let tokens = self.tokens;
        let part = |token: &Located| !matches!(token.1, Token::OpenBrace | Token::CloseBrace | Token::Group);
        // Characters that are no tokens were reported; they do not end a name.
        let blank = |left: &Located, right: &Located| {
            Span::new(left.2, right.0).text(self.source).contains(|c: char| c.is_whitespace() || c == '/')
        };
        let joined = |left: &Located, right: &Located| !blank(left, right) && part(left) && part(right);
        let at = tokens.partition_point(|token| token.0 < span.start);
        let here = tokens.get(at).filter(|token| part(token))?;
        // Nobody means more than a few joined tokens as a name.
        const LONGEST: usize = 16;
        let left = tokens[..=at].windows(2).rev().take(LONGEST).take_while(|pair| joined(&pair[0], &pair[1])).count();
        let right = tokens[at..].windows(2).take(LONGEST).take_while(|pair| joined(&pair[0], &pair[1])).count();
        let before = tokens.get((at - left).checked_sub(1)?)?.1;
        let named = matches!(before, Token::Keyword(keyword) if names_something(keyword));
        named.then(|| Span::new(tokens[at - left].0, tokens.get(at + right).unwrap_or(here).2))
    }

    fn repair(&self, token: Token, span: Span, expected: &Expected) -> Option<Repair> {
        let value = matches!(token, Token::Word | Token::Number);
        let previous = self.before(span.start).filter(|_| value);
        let argument = previous.map(|at| (at, at.text(self.source)));
        if let Some((at, name @ ("by" | "fill" | "eps" | "floor"))) = argument {
            return Some(Repair::Colon { argument: name.to_owned(), end: at.end });
        }
        if value && expected.others.iter().any(|other| other == ",") {
            return Some(Repair::Before(","));
        }
        // `on` is not a misspelt `of`.
        let misspelt = !matches!(token, Token::Keyword(Keyword::Of | Keyword::On));
        let keywords = expected.keywords.iter().filter(|_| misspelt).map(|keyword| keyword.text());
        if let Some(meant) = closest(span.text(self.source), keywords) {
            return Some(Repair::Word(meant));
        }
        self.part(span.start).map(|(_, form)| Repair::Like(form))
    }

    /// The setting or declaration that stands before `place` and is not closed: where its word is, and which form it has.
    fn part(&self, place: u32) -> Option<(Span, Form)> {
        let before = &self.tokens[..self.tokens.partition_point(|token| token.0 < place)];
        let open = before.iter().rev().take_while(|token| token.1 != Token::CloseBrace);
        let mut keywords = open.filter_map(|&(start, token, end)| match token {
            // A kind of attention joins `attention`, and has a form of its own.
            Token::Keyword(keyword) if !keyword.joins() || keyword.opens().is_some() => {
                Some((Span::new(start, end), keyword))
            }
            _ => None,
        });
        let (at, keyword) = keywords.next()?;
        let owner = keywords.map(|(_, other)| other).find(|other| *other != Keyword::Zero);
        // A stage of ZeRO, or experts that compute nothing.
        let stage = keyword == Keyword::Zero && owner != Some(Keyword::Experts);
        Some((at, if stage { Form::ZeroStage } else { Form::Of(keyword) }))
    }

    fn unknown_setting(&self, span: Span, expected: &Expected) -> SyntaxProblem {
        let found = span.text(self.source);
        let scope = expected.scope();
        let suggestion = match scope {
            Scope::Gate if self.after(span.end) == Some(Token::Equals) => Some(format!("let {found}")),
            Scope::Gate if found == "return" => Some("weights".to_owned()),
            _ => closest(found, expected.keywords.iter().map(|keyword| keyword.text())).map(str::to_owned),
        };
        SyntaxProblem::UnknownSetting { span, found: found.to_owned(), scope, suggestion }
    }

    /// The token that ends before `place`.
    fn before(&self, place: u32) -> Option<Span> {
        let index = self.tokens.partition_point(|token| token.0 < place);
        let &(start, _, end) = self.tokens.get(index.checked_sub(1)?)?;
        Some(Span::new(start, end))
    }

    /// The token that begins at or after `place`.
    fn after(&self, place: u32) -> Option<Token> {
        self.tokens.get(self.tokens.partition_point(|token| token.0 < place)).map(|token| token.1)
    }

    fn first_on_line(&self, place: u32) -> bool {
        self.source[..place as usize]
            .bytes()
            .rev()
            .take_while(|byte| *byte != b'\n')
            .all(|byte| byte.is_ascii_whitespace())
    }
}

/// What the grammar could have read next.
struct Expected {
    keywords: Vec<Keyword>,
    others: Vec<String>,
}

impl Expected {
    fn new(names: &[String]) -> Expected {
        let mut expected = Expected { keywords: Vec::new(), others: Vec::new() };
        for name in names {
            let bare = name.trim_matches('"');
            match Keyword::ALL.iter().find(|keyword| keyword.text() == bare) {
                Some(keyword) => expected.keywords.push(*keyword),
                None => expected.others.push(bare.to_owned()),
            }
        }
        expected
    }

    /// Whether a whole setting, statement or declaration could begin here.
    fn settings(&self) -> bool {
        let begins = |keyword: &&Keyword| {
            matches!(
                keyword,
                Keyword::Model
                    | Keyword::Shared
                    | Keyword::Payload
                    | Keyword::Nodes
                    | Keyword::Target
                    | Keyword::Ep
                    | Keyword::Let
                    | Keyword::Heads
            )
        };
        self.keywords.iter().any(|keyword| begins(&keyword)) || self.keywords == [Keyword::Zero]
    }

    /// Whether a number or a word is due.
    fn value(&self) -> bool {
        self.keywords.is_empty() && self.others.iter().any(|other| matches!(other.as_str(), "number" | "word"))
    }

    fn scope(&self) -> Scope {
        let has = |keyword| self.keywords.contains(&keyword);
        if has(Keyword::Model) {
            Scope::File
        } else if has(Keyword::Let) {
            Scope::Gate
        } else if has(Keyword::Shared) {
            Scope::Model
        } else if has(Keyword::Layout) {
            Scope::Dispatch
        } else if has(Keyword::Reduce) {
            Scope::Combine
        } else if has(Keyword::Nodes) {
            Scope::Cluster
        } else if has(Keyword::Target) {
            Scope::Gpu
        } else if has(Keyword::Ep) {
            Scope::Deploy
        } else if has(Keyword::Compress) {
            Scope::Single
        } else if has(Keyword::Pieces) {
            Scope::Compress
        } else if has(Keyword::QueryRank) {
            Scope::Latent
        } else if has(Keyword::KeyValueHeads) {
            Scope::Grouped
        } else {
            Scope::Experts
        }
    }

    /// For example ``a number or `}` ``.
    fn described(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        let operators = self.others.iter().any(|other| other == "*");
        if operators {
            parts.push("an operator".to_owned());
        }
        for other in &self.others {
            parts.push(match other.as_str() {
                "word" => "a name".to_owned(),
                "number" => "a number".to_owned(),
                "text" => "a text in quotes".to_owned(),
                "unit" => "a unit".to_owned(),
                "group" | ";" => continue,
                "+" | "-" | "*" | "/" | "[" | "(" | ":" if operators => continue,
                symbol => format!("`{symbol}`"),
            });
        }
        parts.extend(self.keywords.iter().map(|keyword| format!("`{}`", keyword.text())));
        match parts.split_last() {
            None => "the end of the file".to_owned(),
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        }
    }
}
