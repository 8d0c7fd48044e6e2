//! From loose tokens to tokens that the grammar can trust.
//!
//! Invariants of the result:
//! * brackets are balanced (missing ones are inserted, stray ones removed, each with a report) and nested at most [`MAX_DEPTH`] deep;
//! * a word is a keyword exactly where its block knows it;
//! * brackets that no setting announces are one [`Token::Group`], so that the parser can skip them as a whole.

use super::lexer::Lexed;
use crate::diagnostics::{Diagnostics, Repair, SyntaxProblem, closest};
use crate::span::Span;
use crate::token::{Keyword, Scope, Token};

/// How deep brackets may nest. A gate of any published model needs 6.
pub const MAX_DEPTH: usize = 64;

/// A token between two places, the form that the parser reads.
pub type Located = (u32, Token, u32);

struct Frame {
    open: Span,
    closer: Token,
    scope: Scope,
    /// What a `{` would open here.
    announced: Option<Scope>,
}

struct Structure<'a> {
    source: &'a str,
    diagnostics: &'a mut Diagnostics,
    frames: Vec<Frame>,
    announced: Option<Scope>,
    tokens: Vec<Located>,
    closers: Vec<u32>,
}

/// Balances brackets and marks keywords. Returns nothing when the file nests too deeply to be read at all, or
/// when nobody would read more problems.
pub fn structure(source: &str, lexed: &Lexed, diagnostics: &mut Diagnostics) -> Option<Vec<Located>> {
    let mut structure = Structure {
        source,
        diagnostics,
        frames: Vec::new(),
        announced: None,
        tokens: Vec::with_capacity(lexed.tokens.len()),
        closers: matching_closers(lexed),
    };
    let mut index = 0;
    while let Some(&(token, span)) = lexed.tokens.get(index) {
        index += 1;
        if structure.diagnostics.is_full() {
            return None;
        }
        if token.closer().is_some() {
            if structure.frames.len() >= MAX_DEPTH {
                structure.diagnostics.report(SyntaxProblem::TooDeep { span, limit: MAX_DEPTH });
                return None;
            }
            index = structure.open(token, span, lexed, index);
        } else if token.closes() {
            structure.close(token, span);
        } else if token == Token::Word {
            let follower = lexed.tokens.get(index).map(|(next, _)| *next);
            structure.word(span, follower);
        } else {
            structure.push(token, span);
        }
    }
    let end = source.len() as u32;
    while let Some(frame) = structure.frames.pop() {
        structure.unclosed(&frame, end);
    }
    Some(structure.tokens)
}

impl Structure<'_> {
    fn push(&mut self, token: Token, span: Span) {
        self.tokens.push((span.start, token, span.end));
    }

    fn scope(&self) -> Scope {
        self.frames.last().map_or(Scope::File, |frame| frame.scope)
    }

    fn announced(&mut self) -> &mut Option<Scope> {
        match self.frames.last_mut() {
            Some(frame) => &mut frame.announced,
            None => &mut self.announced,
        }
    }

    /// Opens a bracket and returns the index of the next token to read: past the closing one when it is skipped as a group.
    fn open(&mut self, token: Token, span: Span, lexed: &Lexed, next: usize) -> usize {
        let scope = match (token, self.scope()) {
            (Token::OpenBrace, Scope::Gate) => None,
            (Token::OpenBrace, _) => self.announced().take(),
            (_, Scope::Gate) => Some(Scope::Gate),
            _ => self.announced().filter(|scope| *scope == Scope::Gate),
        };
        if let (Some(scope), Some(closer)) = (scope, token.closer()) {
            self.push(token, span);
            self.frames.push(Frame { open: span, closer, scope, announced: None });
            return next;
        }
        match self.closers[next - 1] as usize {
            close if close < lexed.tokens.len() => {
                self.push(Token::Group, span.to(lexed.tokens[close].1));
                close + 1
            }
            _ => {
                self.diagnostics.report(SyntaxProblem::Unclosed { open: span, text: span.text(self.source).into() });
                next
            }
        }
    }

    fn close(&mut self, token: Token, span: Span) {
        let Some(depth) = self.frames.iter().rposition(|frame| frame.closer == token) else {
            let text = span.text(self.source).into();
            self.diagnostics.report(SyntaxProblem::StrayCloser { span, text });
            return;
        };
        while self.frames.len() > depth + 1 {
            if let Some(frame) = self.frames.pop() {
                self.unclosed(&frame, span.start);
            }
        }
        self.frames.pop();
        self.push(token, span);
    }

    fn unclosed(&mut self, frame: &Frame, at: u32) {
        let text = frame.open.text(self.source).into();
        self.diagnostics.report(SyntaxProblem::Unclosed { open: frame.open, text });
        self.tokens.push((at, frame.closer, at));
    }

    fn word(&mut self, span: Span, follower: Option<Token>) {
        let text = span.text(self.source);
        // A declaration at the margin inside a block: the block was never closed.
        if !self.frames.is_empty()
            && follower == Some(Token::Word)
            && self.starts_line(span)
            && matches!(text, "model" | "cluster" | "deploy")
        {
            while let Some(frame) = self.frames.pop() {
                self.unclosed(&frame, span.start);
            }
        }
        // A statement inside of parentheses: they were never closed.
        if self.scope() == Scope::Gate
            && matches!((text, follower), ("let" | "weights", Some(Token::Word)))
            && self.first_on_line(span)
            && self.frames.iter().any(|frame| frame.closer == Token::CloseBrace && frame.scope == Scope::Gate)
        {
            while self.frames.last().is_some_and(|frame| frame.closer != Token::CloseBrace) {
                if let Some(frame) = self.frames.pop() {
                    self.unclosed(&frame, span.start);
                }
            }
        }
        let scope = self.scope();
        let previous = self.tokens.last().copied();
        let token = match previous {
            Some((_, before, _)) if self.joint(before, scope).is_some_and(|joint| nearly(text, joint)) => {
                self.meant(text, span, self.joint(before, scope))
            }
            Some((_, Token::Keyword(keyword), _)) if names_something(keyword) => Token::Word,
            // `embeddings shared`: a wrong word, not the next setting.
            Some((_, Token::Keyword(Keyword::Embeddings), end)) if self.same_line(end, span) => Token::Word,
            Some((_, Token::Keyword(Keyword::Before), _)) if text == "experts" => Token::Keyword(Keyword::Experts),
            Some((_, Token::Number, end)) if scope != Scope::Gate && self.is_unit(text, end, span) => Token::Unit,
            Some((_, Token::Slash, _)) if scope != Scope::Gate => Token::Unit,
            _ => match Keyword::find(text, scope) {
                Some(keyword) => Token::Keyword(keyword),
                None => self.corrected(text, span, scope, follower),
            },
        };
        if let Token::Keyword(keyword) = token
            && !continues_setting(keyword)
        {
            *self.announced() = keyword.opens();
        }
        self.push(token, span);
    }

    /// The one word that the language has after the last token, if the token leaves no choice.
    fn joint(&self, last: Token, scope: Scope) -> Option<Keyword> {
        let before = self.tokens.len().checked_sub(2).map(|index| self.tokens[index].1);
        match (last, before) {
            (Token::Number, Some(Token::Keyword(Keyword::In))) => match scope {
                Scope::Model => Some(Keyword::Groups),
                Scope::Latent | Scope::Grouped | Scope::Single => Some(Keyword::Layers),
                _ => None,
            },
            (Token::Keyword(Keyword::Per), Some(Token::Number)) if scope == Scope::Cluster => Some(Keyword::Node),
            (Token::Keyword(Keyword::Per), _) if scope == Scope::Deploy => Some(Keyword::Gpu),
            _ => None,
        }
    }

    /// Reports a misspelt word and reads it as what it means.
    fn meant(&mut self, text: &str, span: Span, meant: Option<Keyword>) -> Token {
        let Some(meant) = meant else { return Token::Word };
        let expected = format!("`{}`", meant.text());
        let repair = Some(Repair::Word(meant.text()));
        self.diagnostics.report(SyntaxProblem::Unexpected { span, found: text.into(), expected, repair });
        Token::Keyword(meant)
    }

    fn first_on_line(&self, span: Span) -> bool {
        let before = self.source[..span.start as usize].bytes().rev();
        before.take_while(|byte| *byte != b'\n').all(|byte| byte.is_ascii_whitespace())
    }

    fn same_line(&self, end: u32, span: Span) -> bool {
        !Span::new(end, span.start).text(self.source).contains('\n')
    }

    fn starts_line(&self, span: Span) -> bool {
        span.start == 0 || self.source.as_bytes()[span.start as usize - 1] == b'\n'
    }

    /// Whether a word after a number that ends at `end` is meant as its unit.
    fn is_unit(&self, text: &str, end: u32, span: Span) -> bool {
        let between = Span::new(end, span.start).text(self.source);
        !between.contains('\n')
            && Keyword::find(text, self.scope()).is_none()
            && (between.len() <= 1 || crate::units::Unit::known_word(text))
    }

    /// The keyword that a misspelt head of a block means, so that the block itself can still be read.
    fn corrected(&mut self, text: &str, span: Span, scope: Scope, follower: Option<Token>) -> Token {
        let starts_item = scope == Scope::File
            && follower == Some(Token::Word)
            && matches!(self.tokens.last(), None | Some((_, Token::CloseBrace, _)));
        let heads: &[Keyword] = match (scope, follower) {
            (Scope::File, _) if starts_item => &[Keyword::Model, Keyword::Cluster, Keyword::Deploy],
            (Scope::Model, Some(Token::OpenParenthesis)) => &[Keyword::Gate],
            (Scope::Model, Some(Token::OpenBrace)) => {
                &[Keyword::Dispatch, Keyword::Combine, Keyword::Latent, Keyword::Grouped, Keyword::Single]
            }
            _ => return Token::Word,
        };
        let Some(meant) = closest(text, heads.iter().map(|head| head.text())) else {
            return Token::Word;
        };
        let problem = SyntaxProblem::UnknownSetting { span, found: text.into(), scope, suggestion: Some(meant.into()) };
        self.diagnostics.report(problem);
        Keyword::find(meant, scope).map_or(Token::Word, Token::Keyword)
    }
}

/// Whether a word is a misspelling of a keyword.
fn nearly(text: &str, keyword: Keyword) -> bool {
    closest(text, [keyword.text()]).is_some()
}

/// Whether the word after this keyword is a name, whatever it spells.
pub(super) fn names_something(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::Model | Keyword::Cluster | Keyword::Deploy | Keyword::Of | Keyword::On)
}

/// Whether this keyword stands inside a setting that another one began.
fn continues_setting(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::Of | Keyword::On | Keyword::In | Keyword::Groups | Keyword::Layers)
}

/// For every opening bracket the index of the bracket that closes it, whatever its shape; [`u32::MAX`] elsewhere.
fn matching_closers(lexed: &Lexed) -> Vec<u32> {
    let mut closers = vec![u32::MAX; lexed.tokens.len()];
    let mut open = Vec::new();
    for (index, (token, _)) in lexed.tokens.iter().enumerate() {
        if token.closer().is_some() {
            open.push(index);
        } else if token.closes()
            && let Some(opener) = open.pop()
        {
            closers[opener] = index as u32;
        }
    }
    closers
}
