//! Syntax tree of a PTX module. Names are unresolved strings; every node that can be wrong later carries its line.

use super::{PtxError, ScalarType};

/// One PTX module.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// The names after `.target`.
    pub targets: Vec<String>,
    /// Source files, by the number that `.loc` uses.
    pub files: Vec<(u32, String)>,
    /// Module-level variables, in order.
    pub variables: Vec<Variable>,
    /// Entries and functions, in order; a prototype has no body.
    pub functions: Vec<Function>,
}

/// State space of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the PTX ISA")]
pub enum VariableSpace {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable or parameter declaration.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    /// Where it lives.
    pub space: VariableSpace,
    /// Alignment in bytes, a power of two.
    pub align: u32,
    pub element: ScalarType,
    /// Size in bytes of the whole variable; 0 for an unsized `.extern` array.
    pub bytes: u64,
    /// An `.extern` declaration.
    pub external: bool,
    /// Initialiser, element by element; empty if none.
    pub initial: Vec<Initial>,
    /// Line of the declaration.
    pub line: u32,
}

/// One element of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub enum Initial {
    /// Bits of an integer, not yet cut to the element width.
    Integer(i128),
    /// A floating-point value.
    Float(f64),
    /// Bits of a `0f` literal.
    Bits32(u32),
    /// Bits of a `0d` literal.
    Bits64(u64),
    /// Address of a symbol plus an offset.
    Symbol(String, i64),
}

/// `.entry` or `.func`.
#[derive(Debug, Clone)]
pub struct Function {
    /// A kernel (`.entry`) rather than a device function.
    pub entry: bool,
    pub name: String,
    /// Return parameters of a device function.
    pub returns: Vec<FunctionParameter>,
    pub parameters: Vec<FunctionParameter>,
    /// `.maxntid`, product of the extents given.
    pub max_threads: Option<u32>,
    /// `.reqntid`, missing extents are 1.
    pub required_threads: Option<[u32; 3]>,
    /// What the header says of clusters.
    pub clusters: ClusterLimits,
    /// Body; `None` for a prototype.
    pub body: Option<Vec<Statement>>,
    /// Why the body cannot be read. It is empty then.
    pub malformed: Option<PtxError>,
    /// Line of the header.
    pub line: u32,
}

/// Which clusters of CTAs a kernel may be launched in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterLimits {
    /// `.reqnctapercluster`, missing extents are 1.
    pub required: Option<[u32; 3]>,
    /// `.explicitcluster`: the launch, or `.reqnctapercluster`, says it.
    pub explicit: bool,
    /// `.maxclusterrank`
    pub most: Option<u32>,
}

/// A formal parameter: in parameter space, or (device functions only) a register.
#[derive(Debug, Clone)]
pub enum FunctionParameter {
    /// `.param` declaration.
    Memory(Variable),
    /// `.reg` declaration.
    Register(ScalarType, String),
}

/// One statement of a body.
#[derive(Debug, Clone)]
pub enum Statement {
    /// `{ … }`: a scope of its own.
    Block(Vec<Statement>),
    /// `name:`
    Label(String, u32),
    /// `.reg` declarations: type and names; a count stands for `name<count>`.
    Registers(ScalarType, Vec<(String, Option<u32>)>, u32),
    /// A variable declared inside the body.
    Variable(Variable),
    Instruction(Instruction),
    /// `.loc`: number of the source file and line, of what follows.
    Location(u32, u32),
    /// `name: .branchtargets a, b;`
    BranchTargets(String, Vec<String>, u32),
    /// `name: .callprototype (returns) _ (parameters);`
    Prototype(String, Vec<FunctionParameter>, Vec<FunctionParameter>, u32),
}

/// One instruction with its guard and operands.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// `@p` or `@!p`: name and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// First part of the mnemonic.
    pub opcode: String,
    /// The other parts, in order, without dots.
    pub modifiers: Vec<String>,
    /// Operands, in order.
    pub operands: Vec<Operand>,
    /// Line where the instruction starts.
    pub line: u32,
}

impl Instruction {
    /// Mnemonic with its modifiers.
    pub fn form(&self) -> String {
        let mut text = self.opcode.clone();
        for modifier in &self.modifiers {
            text.push('.');
            text.push_str(modifier);
        }
        text
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register, symbol, label or special register (`%tid.x` is one name).
    Name(String),
    /// `!name`
    Not(String),
    /// Symbol plus constant, outside brackets.
    Offset(String, i64),
    /// Integer literal.
    Integer(i128),
    /// Decimal floating-point literal.
    Float(f64),
    /// `0f…` literal.
    Bits32(u32),
    /// `0d…` literal.
    Bits64(u64),
    /// `[base + offset]`; no base for an absolute address.
    Address(Option<String>, i64),
    /// `[base + offset, {c0, c1, …}]`: a tensor map and coordinates.
    Tensor(Box<Operand>, Vec<Operand>),
    /// `{a, b, …}`
    Vector(Vec<Operand>),
    /// `a|b`
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b, …)` of a call.
    List(Vec<Operand>),
    /// `_`
    Sink,
}
