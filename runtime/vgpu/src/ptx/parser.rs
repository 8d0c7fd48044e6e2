//! Tokens → syntax tree. Recursive descent with a bounded depth, so that no text can overflow the stack.
//!
//! What is wrong in the body of a function costs that function: it goes on behind the brace that closes the body, or before the next
//! function if there is none. What is wrong elsewhere costs the module.

use super::PtxError;
use super::ScalarType;
use super::ast::{
    ClusterLimits, Function, FunctionParameter, Initial, Instruction, Module, Operand, Statement, Variable,
    VariableSpace,
};
use super::lexer::{Token, tokens};

const MAX_DEPTH: u32 = 64;
const MAX_VARIABLE_BYTES: u64 = 1 << 32;

/// Parses one PTX module.
///
/// # Errors
/// The first construct that is not PTX as this crate knows it, with its line.
pub(crate) fn parse(text: &str) -> Result<Module, PtxError> {
    let parsed = tokens(text).and_then(|tokens| Parser { tokens: &tokens, at: 0 }.module());
    parsed.map_err(|error| error.with_source(text))
}

struct Parser<'a, 't> {
    tokens: &'t [(Token<'a>, u32)],
    at: usize,
}

type Result_<T> = Result<T, PtxError>;

impl<'a> Parser<'a, '_> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|token| token.0)
    }

    fn peek_second(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at + 1).map(|token| token.0)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.1)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result_<T> {
        let message = match self.peek() {
            Some(Token::Unknown(found)) => format!("`{}` has no meaning in PTX", found.escape_default()),
            Some(Token::NoNumber(found)) => format!("`{found}` is not a number of at most 64 bits"),
            Some(
                Token::Word(_)
                | Token::Dot(_)
                | Token::Punct(_)
                | Token::Text(_)
                | Token::Integer(_)
                | Token::Float(_)
                | Token::Bits32(_)
                | Token::Bits64(_),
            )
            | None => message.into(),
        };
        Err(PtxError::new(self.line(), message))
    }

    /// Goes on behind a token that means nothing here.
    fn skip(&mut self) -> Result_<()> {
        if let Some(Token::Unknown(_) | Token::NoNumber(_)) = self.peek() {
            return self.error("");
        }
        self.at += 1;
        Ok(())
    }

    fn found(&self) -> String {
        match self.peek() {
            None => "the end of the text".into(),
            Some(Token::Word(word)) => format!("`{word}`"),
            Some(Token::Dot(word)) => format!("`.{word}`"),
            Some(Token::Punct(punct)) => format!("`{punct}`"),
            Some(Token::Text(_)) => "a string".into(),
            Some(Token::Integer(value)) => format!("`{value}`"),
            Some(Token::Float(_) | Token::Bits32(_) | Token::Bits64(_)) => "a number".into(),
            Some(Token::Unknown(_) | Token::NoNumber(_)) => "what is no PTX".into(),
        }
    }

    fn accept(&mut self, punct: char) -> bool {
        let yes = self.peek() == Some(Token::Punct(punct));
        self.at += usize::from(yes);
        yes
    }

    fn expect(&mut self, punct: char) -> Result_<()> {
        if self.accept(punct) { Ok(()) } else { self.error(format!("expected `{punct}`, found {}", self.found())) }
    }

    fn accept_dot(&mut self, word: &str) -> bool {
        let yes = self.peek() == Some(Token::Dot(word));
        self.at += usize::from(yes);
        yes
    }

    fn word(&mut self, what: &str) -> Result_<&'a str> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.error(format!("expected {what}, found {}", self.found())),
        }
    }

    fn integer(&mut self, what: &str) -> Result_<i128> {
        let negative = self.accept('-');
        match self.peek() {
            Some(Token::Integer(value)) => {
                self.at += 1;
                let value = i128::from(value);
                Ok(if negative { -value } else { value })
            }
            _ => self.error(format!("expected {what}, found {}", self.found())),
        }
    }

    fn unsigned32(&mut self, what: &str) -> Result_<u32> {
        let value = self.integer(what)?;
        u32::try_from(value).or_else(|_| self.error(format!("{what} is out of range: {value}")))
    }

    fn module(mut self) -> Result_<Module> {
        let mut module = Module::default();
        if !self.accept_dot("version") {
            return self.error(format!("a PTX module starts with .version, found {}", self.found()));
        }
        match self.peek() {
            Some(Token::Float(version)) => {
                self.at += 1;
                let tenths = (version * 10.0).round() as u32;
                module.version = (tenths / 10, tenths % 10);
            }
            _ => return self.error("expected a version number such as 8.6"),
        }
        while let Some(token) = self.peek() {
            match token {
                Token::Dot("target") => {
                    self.at += 1;
                    loop {
                        module.targets.push(self.word("a target such as sm_90a")?.to_owned());
                        if !self.accept(',') {
                            break;
                        }
                    }
                }
                Token::Dot("address_size") => {
                    self.at += 1;
                    if self.integer("an address size")? != 64 {
                        return self.error("only .address_size 64 is supported");
                    }
                }
                Token::Dot("file") => {
                    let rest = self.tokens.get(self.at + 1..self.at + 3).unwrap_or_default();
                    if let [(Token::Integer(number), _), (Token::Text(name), _)] = *rest {
                        module.files.push((number as u32, name.to_owned()));
                    }
                    self.debug_directive()?;
                }
                Token::Dot("loc" | "section") => self.debug_directive()?,
                Token::Dot("pragma") => self.pragma()?,
                Token::Dot(_) => self.top_level(&mut module)?,
                Token::Punct(';') => self.at += 1,
                _ => return self.error(format!("expected a directive, found {}", self.found())),
            }
        }
        Ok(module)
    }

    fn pragma(&mut self) -> Result_<()> {
        self.at += 1;
        while let Some(Token::Text(_)) = self.peek() {
            self.at += 1;
            self.accept(',');
        }
        self.expect(';')
    }

    /// `.file`, `.loc` (to the end of their line, they have no terminator) and `.section name { … }`.
    fn debug_directive(&mut self) -> Result_<()> {
        let line = self.line();
        let section = self.peek() == Some(Token::Dot("section"));
        self.at += 1;
        if section {
            if let Some(Token::Dot(_) | Token::Word(_)) = self.peek() {
                self.at += 1;
            }
            self.expect('{')?;
            while !self.accept('}') {
                if self.peek().is_none() {
                    return Err(PtxError::new(line, "this .section is never closed"));
                }
                self.skip()?;
            }
        } else {
            while self.at < self.tokens.len() && self.tokens[self.at].1 == line {
                self.skip()?;
            }
        }
        Ok(())
    }

    fn top_level(&mut self, module: &mut Module) -> Result_<()> {
        let mut external = false;
        loop {
            match self.peek() {
                Some(Token::Dot("extern")) => external = true,
                Some(Token::Dot("visible" | "weak" | "common")) => {}
                _ => break,
            }
            self.at += 1;
        }
        match self.peek() {
            Some(Token::Dot("entry")) => {
                self.at += 1;
                let function = self.function(true)?;
                module.functions.push(function);
            }
            Some(Token::Dot("func")) => {
                self.at += 1;
                let function = self.function(false)?;
                module.functions.push(function);
            }
            Some(Token::Dot(word)) if space(word).is_some() && word != "param" && word != "local" => {
                self.variables(external, |variable| module.variables.push(variable))?;
            }
            _ => return self.error(format!("{} is not a module-level directive known here", self.found())),
        }
        Ok(())
    }

    /// One declaration statement; the space directive is the next token.
    fn variables(&mut self, external: bool, mut push: impl FnMut(Variable)) -> Result_<()> {
        let Some(space) = (match self.peek() {
            Some(Token::Dot(word)) => space(word),
            _ => None,
        }) else {
            return self.error(format!("expected a state space, found {}", self.found()));
        };
        self.at += 1;
        push(self.variable(space, external)?);
        if self.peek() == Some(Token::Punct(',')) {
            // None of the compilers known here writes several names after one type.
            return self.error("declare one variable per statement");
        }
        self.expect(';')
    }

    /// `.align n .type name[n] = init`, after the space.
    fn variable(&mut self, space: VariableSpace, external: bool) -> Result_<Variable> {
        let line = self.line();
        let mut align = None;
        let mut vector = 1u64;
        let mut element = None;
        let mut of_pointee = false;
        while let Some(Token::Dot(word)) = self.peek() {
            self.at += 1;
            match word {
                "align" => {
                    let value = self.unsigned32("an alignment")?;
                    if !value.is_power_of_two() || value > 4096 {
                        return self.error(format!("alignment {value} is not a power of two up to 4096"));
                    }
                    // After `.ptr` it is that of what the pointer points to.
                    if !of_pointee {
                        align = Some(value);
                    }
                }
                "v2" => vector = 2,
                "v4" => vector = 4,
                // Attributes of pointer parameters: they state facts, they change nothing.
                "ptr" if space == VariableSpace::Param => of_pointee = true,
                "global" | "const" | "shared" | "local" if space == VariableSpace::Param => {}
                "attribute" => {
                    self.expect('(')?;
                    while !self.accept(')') {
                        if self.peek().is_none() {
                            return self.error("this .attribute is never closed");
                        }
                        self.skip()?;
                    }
                }
                _ => match ScalarType::from_name(word) {
                    Some(found) if found != ScalarType::Pred && element.is_none() => element = Some(found),
                    _ => return self.error(format!("`.{word}` does not belong in a variable declaration")),
                },
            }
        }
        let Some(element) = element else { return self.error("this variable has no type") };
        let name = self.word("a variable name")?.to_owned();
        let unit = u64::from(element.bytes()) * vector;
        let mut bytes = unit;
        let mut unsized_array = false;
        while self.accept('[') {
            if self.accept(']') {
                unsized_array = true;
                bytes = 0;
                continue;
            }
            let count = self.integer("an array length")?;
            self.expect(']')?;
            let count = u64::try_from(count).ok();
            match count.and_then(|count| bytes.checked_mul(count)).filter(|bytes| *bytes <= MAX_VARIABLE_BYTES) {
                Some(total) => bytes = total,
                None => return self.error(format!("`{name}` is larger than 4 GiB")),
            }
        }
        let mut initial = Vec::new();
        if self.accept('=') {
            self.initialiser(&mut initial, 0)?;
            let given = initial.len() as u64 * u64::from(element.bytes());
            if unsized_array {
                bytes = given;
            } else if given > bytes {
                return self.error(format!("the initialiser of `{name}` has {given} bytes, the variable {bytes}"));
            }
        } else if unsized_array && !external {
            return self.error(format!("`{name}` has no size: only .extern arrays may be unsized"));
        }
        let align = align.unwrap_or(unit.min(16) as u32).max(1);
        Ok(Variable { name, space, align, element, bytes, external, initial, line })
    }

    fn initialiser(&mut self, out: &mut Vec<Initial>, depth: u32) -> Result_<()> {
        if depth > MAX_DEPTH {
            return self.error("this initialiser is nested too deeply");
        }
        if self.accept('{') {
            while !self.accept('}') {
                self.initialiser(out, depth + 1)?;
                if !self.accept(',') {
                    self.expect('}')?;
                    break;
                }
            }
            return Ok(());
        }
        let value = match self.peek() {
            Some(Token::Word("generic")) => {
                self.at += 1;
                self.expect('(')?;
                let (name, inner) = self.symbol_sum()?;
                self.expect(')')?;
                let outer = self.signed_offset()?;
                Initial::Symbol(name, inner.wrapping_add(outer))
            }
            Some(Token::Word(_)) => {
                let (name, offset) = self.symbol_sum()?;
                Initial::Symbol(name, offset)
            }
            Some(Token::Punct('-')) => {
                self.at += 1;
                match self.peek() {
                    Some(Token::Integer(value)) => Initial::Integer(-i128::from(value)),
                    Some(Token::Float(value)) => Initial::Float(-value),
                    _ => return self.error("expected a number after `-`"),
                }
            }
            Some(Token::Integer(value)) => Initial::Integer(i128::from(value)),
            Some(Token::Float(value)) => Initial::Float(value),
            Some(Token::Bits32(bits)) => Initial::Bits32(bits),
            Some(Token::Bits64(bits)) => Initial::Bits64(bits),
            _ => return self.error(format!("expected a value, found {}", self.found())),
        };
        if !matches!(value, Initial::Symbol(..)) {
            self.at += 1;
        }
        out.push(value);
        Ok(())
    }

    fn symbol_sum(&mut self) -> Result_<(String, i64)> {
        let name = self.word("a symbol")?.to_owned();
        let offset = self.signed_offset()?;
        Ok((name, offset))
    }

    /// `+ n`, `- n`, `+ -n`, or nothing.
    fn signed_offset(&mut self) -> Result_<i64> {
        let negative = if self.accept('+') {
            false
        } else if self.accept('-') {
            true
        } else {
            return Ok(0);
        };
        let value = self.integer("an offset")?;
        let value = if negative { -value } else { value };
        // Offsets above the signed range are how compilers write negative ones.
        i64::try_from(value)
            .or_else(|_| u64::try_from(value).map(u64::cast_signed))
            .or_else(|_| self.error(format!("offset {value} does not fit in 64 bits")))
    }

    fn function(&mut self, entry: bool) -> Result_<Function> {
        let line = self.line();
        if self.accept_dot("attribute") {
            return self.error("function attributes are not supported");
        }
        let returns = if !entry && self.peek() == Some(Token::Punct('(')) { self.formals()? } else { Vec::new() };
        let name = self.word("a function name")?.to_owned();
        let parameters = self.optional_formals()?;
        let (mut max_threads, mut required_threads) = (None, None);
        let mut clusters = ClusterLimits::default();
        loop {
            match self.peek() {
                Some(Token::Dot("maxntid")) => {
                    self.at += 1;
                    let extents = self.extents()?;
                    max_threads = Some(extents.iter().fold(1u32, |product, extent| product.saturating_mul(*extent)));
                }
                Some(Token::Dot("reqntid")) => {
                    self.at += 1;
                    required_threads = Some(self.extents()?);
                }
                Some(Token::Dot("maxclusterrank")) => {
                    self.at += 1;
                    clusters.most = Some(self.unsigned32("a number of CTAs")?);
                }
                Some(Token::Dot("minnctapersm" | "maxnreg" | "maxnctapersm")) => {
                    self.at += 1;
                    self.unsigned32("a limit")?;
                }
                Some(Token::Dot("reqnctapercluster")) => {
                    self.at += 1;
                    clusters.required = Some(self.extents()?);
                }
                Some(Token::Dot("explicitcluster")) => {
                    self.at += 1;
                    clusters.explicit = true;
                }
                Some(Token::Dot("noreturn")) => self.at += 1,
                Some(Token::Dot("pragma")) => self.pragma()?,
                Some(Token::Dot("loc" | "file")) => self.debug_directive()?,
                _ => break,
            }
        }
        let mut malformed = None;
        let body = if self.accept(';') {
            None
        } else {
            self.expect('{')?;
            let start = self.at;
            Some(self.block(0).or_else(|error| {
                self.end_of_body(start, error).map(|error| {
                    malformed = Some(error);
                    Vec::new()
                })
            })?)
        };
        if entry && body.is_none() {
            return self.error(format!("kernel `{name}` has no body"));
        }
        Ok(Function {
            entry,
            name,
            returns,
            parameters,
            max_threads,
            required_threads,
            clusters,
            body,
            malformed,
            line,
        })
    }

    /// Goes to the end of a body that starts there and cannot be read: behind its brace, or to the function that follows. If there is
    /// neither, the error is that of the module.
    fn end_of_body(&mut self, start: usize, error: PtxError) -> Result_<PtxError> {
        let mut depth = 1;
        for at in start..self.tokens.len() {
            match self.tokens[at].0 {
                Token::Punct('{') => depth += 1,
                Token::Punct('}') => depth -= 1,
                Token::Dot("entry" | "func") => {
                    let linking =
                        |token: &&(Token<'a>, u32)| matches!(token.0, Token::Dot("extern" | "visible" | "weak"));
                    self.at = at - self.tokens[start..at].iter().rev().take_while(linking).count();
                    return Ok(error);
                }
                _ => {}
            }
            if depth == 0 {
                self.at = at + 1;
                return Ok(error);
            }
        }
        Err(error)
    }

    fn extents(&mut self) -> Result_<[u32; 3]> {
        let mut extents = [1; 3];
        for extent in &mut extents {
            *extent = self.unsigned32("a number of threads")?;
            if !self.accept(',') {
                break;
            }
        }
        Ok(extents)
    }

    fn optional_formals(&mut self) -> Result_<Vec<FunctionParameter>> {
        if self.peek() == Some(Token::Punct('(')) { self.formals() } else { Ok(Vec::new()) }
    }

    fn formals(&mut self) -> Result_<Vec<FunctionParameter>> {
        self.expect('(')?;
        let mut out = Vec::new();
        while !self.accept(')') {
            if self.accept_dot("reg") {
                let Some(Token::Dot(word)) = self.peek() else { return self.error("expected a type") };
                self.at += 1;
                let Some(element) = ScalarType::from_name(word) else {
                    return self.error(format!("`.{word}` is not a type"));
                };
                out.push(FunctionParameter::Register(element, self.word("a parameter name")?.to_owned()));
            } else if self.accept_dot("param") {
                out.push(FunctionParameter::Memory(self.parameter()?));
            } else {
                return self.error(format!("expected a parameter, found {}", self.found()));
            }
            if !self.accept(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(out)
    }

    fn parameter(&mut self) -> Result_<Variable> {
        self.variable(VariableSpace::Param, false)
    }

    fn block(&mut self, depth: u32) -> Result_<Vec<Statement>> {
        if depth > MAX_DEPTH {
            return self.error("blocks are nested too deeply");
        }
        let mut out = Vec::new();
        while !self.accept('}') {
            match self.peek() {
                None => return self.error("this body is never closed"),
                Some(Token::Punct('{')) => {
                    self.at += 1;
                    out.push(Statement::Block(self.block(depth + 1)?));
                }
                Some(Token::Punct(';')) => self.at += 1,
                Some(Token::Dot("loc")) => {
                    let rest = self.tokens.get(self.at + 1..self.at + 3).unwrap_or_default();
                    if let [(Token::Integer(file), _), (Token::Integer(line), _)] = *rest {
                        out.push(Statement::Location(file as u32, line as u32));
                    }
                    self.debug_directive()?;
                }
                Some(Token::Dot("file" | "section")) => self.debug_directive()?,
                Some(Token::Dot("pragma")) => self.pragma()?,
                Some(Token::Dot("reg")) => out.push(self.registers()?),
                Some(Token::Dot("maxntid" | "minnctapersm" | "maxnreg")) => {
                    self.at += 1;
                    self.extents()?;
                }
                Some(Token::Dot("extern" | "visible" | "weak")) => self.at += 1,
                Some(Token::Dot(word)) if space(word).is_some() => {
                    let external = self.at > 0 && self.tokens[self.at - 1].0 == Token::Dot("extern");
                    self.variables(external, |variable| out.push(Statement::Variable(variable)))?;
                }
                Some(Token::Word(name)) if self.peek_second() == Some(Token::Punct(':')) => {
                    let line = self.line();
                    self.at += 2;
                    if self.accept_dot("branchtargets") || self.accept_dot("calltargets") {
                        let mut targets = vec![self.word("a label")?.to_owned()];
                        while self.accept(',') {
                            targets.push(self.word("a label")?.to_owned());
                        }
                        self.expect(';')?;
                        out.push(Statement::BranchTargets(name.to_owned(), targets, line));
                    } else if self.accept_dot("callprototype") {
                        let returns = self.optional_formals()?;
                        self.word("`_`")?;
                        let parameters = self.optional_formals()?;
                        while self.accept_dot("noreturn") {}
                        self.expect(';')?;
                        out.push(Statement::Prototype(name.to_owned(), returns, parameters, line));
                    } else {
                        out.push(Statement::Label(name.to_owned(), line));
                    }
                }
                Some(Token::Word(_) | Token::Punct('@')) => out.push(self.instruction()?),
                Some(_) => return self.error(format!("expected an instruction, found {}", self.found())),
            }
        }
        Ok(out)
    }

    fn registers(&mut self) -> Result_<Statement> {
        let line = self.line();
        self.at += 1;
        let Some(Token::Dot(word)) = self.peek() else {
            return self.error(format!("expected a register type, found {}", self.found()));
        };
        let element = match ScalarType::from_name(word) {
            Some(element) if !element.is_narrow_pair() && !matches!(element, ScalarType::Tf32 | ScalarType::F32x2) => {
                element
            }
            _ => return self.error(format!("`.{word}` is not a register type")),
        };
        self.at += 1;
        let mut names = Vec::new();
        loop {
            let name = self.word("a register name")?.to_owned();
            let count = if self.accept('<') {
                let count = self.unsigned32("a register count")?;
                self.expect('>')?;
                Some(count)
            } else {
                None
            };
            names.push((name, count));
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(Statement::Registers(element, names, line))
    }

    fn instruction(&mut self) -> Result_<Statement> {
        let line = self.line();
        let guard = if self.accept('@') {
            let negated = self.accept('!');
            Some((self.word("a predicate")?.to_owned(), negated))
        } else {
            None
        };
        let opcode = self.word("an instruction")?.to_owned();
        let mut modifiers = Vec::new();
        while let Some(Token::Dot(word)) = self.peek() {
            modifiers.push(word.to_owned());
            self.at += 1;
        }
        let mut operands = Vec::new();
        if self.peek() != Some(Token::Punct(';')) {
            loop {
                operands.push(self.operand(0)?);
                if !self.accept(',') {
                    break;
                }
            }
        }
        self.expect(';')?;
        Ok(Statement::Instruction(Instruction { guard, opcode, modifiers, operands, line }))
    }

    fn operand(&mut self, depth: u32) -> Result_<Operand> {
        if depth > 4 {
            return self.error("this operand is nested too deeply");
        }
        let first = self.simple_operand(depth)?;
        if self.accept('|') {
            let second = self.simple_operand(depth)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn list(&mut self, close: char, depth: u32) -> Result_<Vec<Operand>> {
        let mut out = Vec::new();
        while !self.accept(close) {
            out.push(self.operand(depth + 1)?);
            if !self.accept(',') {
                self.expect(close)?;
                break;
            }
        }
        Ok(out)
    }

    fn simple_operand(&mut self, depth: u32) -> Result_<Operand> {
        let Some(token) = self.peek() else { return self.error("the text ends inside an instruction") };
        match token {
            Token::Word("_") => {
                self.at += 1;
                Ok(Operand::Sink)
            }
            Token::Word(word) => {
                self.at += 1;
                let mut name = word.to_owned();
                // `%tid.x` and the parts of a register that video instructions take are one name.
                if let Some(Token::Dot(component)) = self.peek()
                    && (matches!(component, "x" | "y" | "z" | "w") || selects_parts(component))
                {
                    self.at += 1;
                    name.push('.');
                    name.push_str(component);
                }
                match self.signed_offset()? {
                    0 => Ok(Operand::Name(name)),
                    offset => Ok(Operand::Offset(name, offset)),
                }
            }
            Token::Integer(value) => {
                self.at += 1;
                Ok(Operand::Integer(i128::from(value)))
            }
            Token::Float(value) => {
                self.at += 1;
                Ok(Operand::Float(value))
            }
            Token::Bits32(bits) => {
                self.at += 1;
                Ok(Operand::Bits32(bits))
            }
            Token::Bits64(bits) => {
                self.at += 1;
                Ok(Operand::Bits64(bits))
            }
            Token::Punct('-') => {
                self.at += 1;
                if depth > 4 {
                    return self.error("this operand is nested too deeply");
                }
                match self.simple_operand(depth + 1) {
                    Ok(Operand::Integer(value)) => Ok(Operand::Integer(-value)),
                    Ok(Operand::Float(value)) => Ok(Operand::Float(-value)),
                    Ok(_) => self.error("only a number can be negated here"),
                    Err(error) => Err(error),
                }
            }
            Token::Punct('!') => {
                self.at += 1;
                Ok(Operand::Not(self.word("a predicate")?.to_owned()))
            }
            Token::Punct('[') => {
                self.at += 1;
                self.address()
            }
            Token::Punct('{') => {
                self.at += 1;
                Ok(Operand::Vector(self.list('}', depth)?))
            }
            Token::Punct('(') => {
                self.at += 1;
                Ok(Operand::List(self.list(')', depth)?))
            }
            _ => self.error(format!("expected an operand, found {}", self.found())),
        }
    }

    fn address(&mut self) -> Result_<Operand> {
        let operand = match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                let offset = self.signed_offset()?;
                Operand::Address(Some(word.to_owned()), offset)
            }
            _ => {
                let value = self.integer("an address")?;
                match i64::try_from(value).or_else(|_| u64::try_from(value).map(u64::cast_signed)) {
                    Ok(offset) => Operand::Address(None, offset),
                    Err(_) => return self.error(format!("address {value} does not fit in 64 bits")),
                }
            }
        };
        if self.accept(',') {
            self.expect('{')?;
            let coordinates = self.list('}', 0)?;
            self.expect(']')?;
            return Ok(Operand::Tensor(Box::new(operand), coordinates));
        }
        self.expect(']')?;
        Ok(operand)
    }
}

/// `b` or `h` and the numbers of at most four parts of a register.
fn selects_parts(word: &str) -> bool {
    let digits = word.strip_prefix(['b', 'h']).unwrap_or_default();
    (1..=4).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
}

fn space(word: &str) -> Option<VariableSpace> {
    Some(match word {
        "global" => VariableSpace::Global,
        "const" => VariableSpace::Const,
        "shared" => VariableSpace::Shared,
        "local" => VariableSpace::Local,
        "param" => VariableSpace::Param,
        _ => return None,
    })
}
