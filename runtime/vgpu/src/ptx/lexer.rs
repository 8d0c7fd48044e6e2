//! PTX text → tokens with their lines. Invariant: every byte is part of a token, white space or a comment. What is no PTX is a token too,
//! which nobody accepts: it may cost less than the module.

use super::PtxError;

/// The most tokens of one module; a bound on memory, far above what a compiler writes.
const MAX_TOKENS: usize = 8 << 20;

/// One token. Words borrow from the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// A name: register, symbol, label or mnemonic.
    Word(&'a str),
    /// A name after a dot, such as `global` or `L1::no_allocate`.
    Dot(&'a str),
    /// Any other sign.
    Punct(char),
    /// A string, as it is written between its quotes.
    Text(&'a str),
    /// An integer literal without its sign.
    Integer(u64),
    /// A decimal floating-point literal.
    Float(f64),
    /// `0f` and eight digits.
    Bits32(u32),
    /// `0d` and sixteen digits.
    Bits64(u64),
    /// A sign that PTX does not have.
    Unknown(char),
    /// What begins as a number and is none.
    NoNumber(&'a str),
}

/// Cuts a text into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, PtxError> {
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, line: 1 };
    let mut out = Vec::new();
    while let Some(token) = lexer.token()? {
        if out.len() == MAX_TOKENS {
            return Err(PtxError::new(lexer.line, "the module is too large"));
        }
        out.push((token, lexer.line));
    }
    Ok(out)
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'$' | b'%')
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')
}

impl<'a> Lexer<'a> {
    fn byte(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, PtxError> {
        Err(PtxError::new(self.line, message))
    }

    fn space(&mut self) -> Result<(), PtxError> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (b'\n', _) => {
                    self.line = self.line.saturating_add(1);
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => {
                    while self.at < self.bytes.len() && self.byte(0) != b'\n' {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => {
                    let start = self.line;
                    self.at += 2;
                    while (self.byte(0), self.byte(1)) != (b'*', b'/') {
                        if self.at >= self.bytes.len() {
                            return Err(PtxError::new(start, "this comment is never closed"));
                        }
                        self.line = self.line.saturating_add(u32::from(self.byte(0) == b'\n'));
                        self.at += 1;
                    }
                    self.at += 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let start = self.at;
        self.at += 1;
        while continues_word(self.byte(0)) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn token(&mut self) -> Result<Option<Token<'a>>, PtxError> {
        self.space()?;
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let token = match self.byte(0) {
            byte if starts_word(byte) => Token::Word(self.word()),
            b'.' if continues_word(self.byte(1)) => {
                self.at += 1;
                let start = self.at;
                self.word();
                while self.byte(0) == b':' && self.byte(1) == b':' && continues_word(self.byte(2)) {
                    self.at += 2;
                    self.word();
                }
                Token::Dot(&self.text[start..self.at])
            }
            byte if byte.is_ascii_digit() => self.number(),
            b'"' => self.string()?,
            byte if b";,{}()[]<>+-!|@:=".contains(&byte) => {
                self.at += 1;
                Token::Punct(char::from(byte))
            }
            _ => {
                // Only ASCII was consumed, so this is a character boundary.
                let found = self.text[self.at..].chars().next().unwrap_or('\u{fffd}');
                self.at += found.len_utf8();
                Token::Unknown(found)
            }
        };
        Ok(Some(token))
    }

    fn string(&mut self) -> Result<Token<'a>, PtxError> {
        self.at += 1;
        let start = self.at;
        while self.byte(0) != b'"' {
            if self.at >= self.bytes.len() || self.byte(0) == b'\n' {
                return self.error("this string is never closed");
            }
            self.at += 1 + usize::from(self.byte(0) == b'\\' && self.byte(1) != b'\n');
        }
        self.at += 1;
        Ok(Token::Text(self.text.get(start..self.at - 1).unwrap_or_default()))
    }

    fn number(&mut self) -> Token<'a> {
        let start = self.at;
        while continues_word(self.byte(0)) {
            self.at += 1;
        }
        let whole = &self.text[start..self.at];
        if whole.bytes().all(|byte| byte.is_ascii_digit()) && self.byte(0) == b'.' && self.byte(1).is_ascii_digit() {
            self.at += 1;
            while continues_word(self.byte(0)) {
                self.at += 1;
                let exponent = matches!(self.bytes[self.at - 1], b'e' | b'E') && matches!(self.byte(0), b'+' | b'-');
                self.at += usize::from(exponent);
            }
            let literal = &self.text[start..self.at];
            return literal.parse().map_or(Token::NoNumber(literal), Token::Float);
        }
        let digits = whole.strip_suffix(['U', 'u']).unwrap_or(whole);
        let value = match (digits.get(..2), digits.get(2..)) {
            (Some("0x" | "0X"), Some(digits)) => u64::from_str_radix(digits, 16).map(Token::Integer),
            (Some("0b" | "0B"), Some(digits)) => u64::from_str_radix(digits, 2).map(Token::Integer),
            (Some("0f" | "0F"), Some(digits)) if digits.len() == 8 => {
                u32::from_str_radix(digits, 16).map(Token::Bits32)
            }
            (Some("0d" | "0D"), Some(digits)) if digits.len() == 16 => {
                u64::from_str_radix(digits, 16).map(Token::Bits64)
            }
            _ if digits.len() > 1 && digits.starts_with('0') => u64::from_str_radix(digits, 8).map(Token::Integer),
            _ => digits.parse::<u64>().map(Token::Integer),
        };
        value.unwrap_or(Token::NoNumber(whole))
    }
}
