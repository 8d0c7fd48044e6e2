//! The syntax tree: what the file says, in its own order, nothing resolved.
//!
//! Invariant: an expression is at most [`MAX_EXPRESSION_DEPTH`] deep, so that every walk may recurse.

use crate::span::Span;
use crate::token::Keyword;

/// How deep an expression may be. A chain of n operators is n deep.
pub const MAX_EXPRESSION_DEPTH: u16 = 200;

#[derive(Clone, Debug, Default)]
pub struct File {
    /// In the order of the file.
    pub items: Vec<Item>,
}

/// A word that names something, with its place.
#[derive(Clone, Debug)]
pub struct Name {
    /// As written; empty where it could not be read, which was reported.
    pub text: String,
    pub span: Span,
}

/// A number, with its unit where one is written.
#[derive(Clone, Debug)]
pub struct Quantity {
    /// As written, such as `1_000` or `25%`.
    pub number: Number,
    /// As written, such as `GB/s`.
    pub unit: Option<Name>,
    /// Number and unit.
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Number {
    /// As written, such as `1_000` or `25%`; empty where it could not be read, which was reported.
    pub text: String,
    pub span: Span,
}

/// A declaration.
#[derive(Clone, Debug)]
pub enum Item {
    /// `model NAME { … }`
    Model(Declaration<ModelSetting>),
    /// `cluster NAME { … }`
    Cluster(Declaration<ClusterSetting>),
    /// `deploy NAME of MODEL on CLUSTER { … }`
    Deploy(Deploy),
}

/// A named block.
#[derive(Clone, Debug)]
pub struct Declaration<S> {
    /// From the keyword to the closing brace.
    pub span: Span,
    pub name: Name,
    /// What it says.
    pub block: Block<S>,
}

/// `deploy NAME of MODEL on CLUSTER { … }`
#[derive(Clone, Debug)]
pub struct Deploy {
    /// From the keyword to the closing brace.
    pub span: Span,
    pub name: Name,
    /// The model that is deployed.
    pub model: Name,
    /// The cluster it is deployed on.
    pub cluster: Name,
    pub block: Block<DeploySetting>,
}

/// `{ … }`
#[derive(Clone, Debug)]
pub struct Block<S> {
    /// With both braces.
    pub span: Span,
    /// In the order of the file.
    pub settings: Vec<Setting<S>>,
    /// Whether a part could not be read; what is missing may then have been there.
    pub damaged: bool,
}

/// One setting of a block.
#[derive(Clone, Debug)]
pub struct Setting<S> {
    /// From the first word to the last.
    pub span: Span,
    /// What it says.
    pub kind: S,
}

#[derive(Clone, Debug)]
pub enum ModelSetting {
    /// `hidden 7168`
    Hidden(Quantity),
    /// `experts 256 in 8 groups { zero 512..767 }`
    Experts {
        count: Quantity,
        groups: Option<Quantity>,
        /// Experts that compute nothing.
        zero: Option<Block<ZeroRange>>,
    },
    /// `shared 1`
    Shared(Quantity),
    /// `moe_layers 58`
    MoeLayers(Quantity),
    /// `expert_ffn 2048`, `expert_ffn 3072 ungated`
    ExpertFfn {
        /// Inner width.
        width: Quantity,
        /// Whether `ungated` is written.
        ungated: bool,
    },
    /// `dense_layers 3`
    DenseLayers(Quantity),
    /// `dense_ffn 18432`, `dense_ffn 12288 beside experts`
    DenseFfn {
        /// Inner width.
        width: Quantity,
        /// Whether `beside experts` is written.
        beside_experts: bool,
    },
    /// `vocab 129280`
    Vocab(Quantity),
    /// `embeddings tied`
    Embeddings(Name),
    /// `encoder_layers 12`
    EncoderLayers(Quantity),
    /// `streams 4`
    Streams(Quantity),
    /// `attention latent { … }`, `attention grouped { … }`, `attention single { … }`
    Attention {
        /// [`Keyword::Latent`], [`Keyword::Grouped`] or [`Keyword::Single`]
        kind: Keyword,
        block: Block<AttentionSetting>,
    },
    /// `capacity 1.25 drop lowest`
    Capacity {
        /// A factor, or a number of tokens.
        limit: Quantity,
        /// Which picks are dropped.
        drop: Option<Name>,
    },
    /// `gate( … ) { … }`
    Gate(Gate),
    /// `dispatch { … }`
    Dispatch(Block<DispatchSetting>),
    /// `combine { … }`
    Combine(Block<CombineSetting>),
}

/// A number of an attention: `heads 128`, `window 128 in 18 layers`, `compress 4 in 21 layers { near 128 }`
#[derive(Clone, Debug)]
pub struct AttentionSetting {
    pub name: Keyword,
    pub value: Quantity,
    /// In how many layers, of `window`, `chunk` and `compress`.
    pub layers: Option<Quantity>,
    /// How it is compressed, and what of it is seen.
    pub block: Option<Block<AttentionSetting>>,
}

/// `zero 512..767`, both ends included.
#[derive(Clone, Debug)]
pub struct ZeroRange {
    /// The first expert.
    pub first: Quantity,
    /// The last expert.
    pub last: Quantity,
}

/// `payload fp8_e4m3 scale f32 per 128`
#[derive(Clone, Debug)]
pub struct Payload {
    /// `fp8_e4m3`
    pub format: Name,
    /// `scale f32 per 128`
    pub scale: Option<Scale>,
}

/// `scale f32 per 128`
#[derive(Clone, Debug)]
pub struct Scale {
    /// `f32`
    pub format: Name,
    /// `128`
    pub block: Quantity,
    pub span: Span,
}

/// A setting of `dispatch`.
#[derive(Clone, Debug)]
pub enum DispatchSetting {
    /// What travels.
    Payload(Payload),
    /// `layout expert_major align 128`
    Layout {
        /// `expert_major`
        name: Name,
        /// `128`
        align: Option<Quantity>,
        /// `padding any`
        padding: Option<Name>,
    },
}

/// A setting of `combine`.
#[derive(Clone, Debug)]
pub enum CombineSetting {
    /// What travels.
    Payload(Payload),
    /// `reduce f32 weighted`
    Reduce {
        /// `f32`
        accumulate: Name,
        /// `weighted`
        weighting: Name,
    },
}

#[derive(Clone, Debug)]
pub enum ClusterSetting {
    /// `nodes 8`
    Nodes(Quantity),
    /// `gpus 8 per node`
    Gpus(Quantity),
    /// `gpu "H800" { … }`
    Gpu {
        /// With its quotes.
        name: Option<Name>,
        block: Block<GpuSetting>,
    },
    /// `nvlink 160 GB/s latency 1 us`
    Nvlink {
        /// Per GPU and direction.
        bandwidth: Quantity,
        /// Of one hop.
        latency: Option<Quantity>,
    },
    /// `rdma 50 GB/s per gpu latency 5 us`
    Rdma {
        /// In one direction.
        bandwidth: Quantity,
        /// Whose bandwidth it is.
        per: RdmaShare,
        /// Of one hop.
        latency: Option<Quantity>,
    },
}

/// Whose bandwidth is stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RdmaShare {
    /// `per gpu`
    Gpu,
    /// `per node`
    Node,
}

#[derive(Clone, Debug)]
pub enum GpuSetting {
    /// `target sm_90a`
    Target(Name),
    /// `sms 132`
    Sms(Quantity),
    /// `memory 80 GB`
    Memory(Quantity),
}

#[derive(Clone, Debug)]
pub enum DeploySetting {
    /// `ep 64`
    Ep(Quantity),
    /// `pp 16`
    Pp(Quantity),
    /// `dp 128`
    Dp(Quantity),
    /// `tp 2`
    Tp(Quantity),
    /// `zero 1`
    Zero(Quantity),
    /// `tokens 4096 per gpu`
    Tokens(Quantity),
    /// `mode throughput`
    Mode(Name),
    /// `sms 20`
    Sms(Quantity),
    /// `sms_local 112`
    SmsLocal(Quantity),
}

/// `gate(logits: f32[experts]) { … }`
#[derive(Clone, Debug)]
pub struct Gate {
    /// What it reads.
    pub parameters: Vec<Parameter>,
    pub body: Block<Statement>,
    /// Whether its parameters could not be read.
    pub damaged: bool,
}

/// `bias: f32[experts]`
#[derive(Clone, Debug)]
pub struct Parameter {
    pub name: Name,
    /// `f32`
    pub element: Name,
    /// `[experts]`
    pub dimensions: Vec<Name>,
    pub span: Span,
}

/// A statement of a gate.
#[derive(Clone, Debug)]
pub enum Statement {
    /// `let score = sigmoid(logits)`
    Let { name: Name, value: Expression },
    /// `weights score[chosen] before experts`
    Weights {
        /// One number per chosen expert.
        value: Expression,
        /// Whether `before experts` is written.
        before_experts: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Expression {
    pub kind: ExpressionKind,
    /// With the parentheses around it, if any.
    pub span: Span,
    depth: u16,
}

#[derive(Clone, Debug)]
pub enum ExpressionKind {
    /// `2.5`
    Number(Number),
    /// `score`
    Name(Name),
    /// `-x`
    Negate(Box<Expression>),
    /// `a + b`
    Binary {
        /// The left side.
        left: Box<Expression>,
        /// `+`
        operator: Operator,
        /// The right side.
        right: Box<Expression>,
    },
    /// `top(4, groups, by: g)`
    Call {
        /// `top`
        function: Name,
        /// In order.
        arguments: Vec<Argument>,
    },
    /// `score[chosen]`
    Index {
        /// `score`
        base: Box<Expression>,
        /// `chosen`
        index: Box<Expression>,
    },
    /// Something that has been reported.
    Broken,
}

/// An argument of a call: `by: choice`, `experts in best`.
#[derive(Clone, Debug)]
pub struct Argument {
    /// `by`
    pub label: Option<Name>,
    /// `choice`
    pub value: Expression,
    /// `best` of `experts in best`
    pub within: Option<Expression>,
    pub span: Span,
}

/// An arithmetic operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
}

impl Operator {
    pub fn text(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
        }
    }

    /// The larger binds the tighter. All associate to the left.
    pub fn precedence(self) -> u8 {
        match self {
            Operator::Add | Operator::Subtract => 1,
            Operator::Multiply | Operator::Divide => 2,
        }
    }
}

/// An expression would be deeper than [`MAX_EXPRESSION_DEPTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep;

impl Expression {
    /// An expression, if it is not too deep.
    ///
    /// # Errors
    /// If it would be deeper than [`MAX_EXPRESSION_DEPTH`].
    pub fn new(kind: ExpressionKind, span: Span) -> Result<Expression, TooDeep> {
        let below = match &kind {
            ExpressionKind::Number(_) | ExpressionKind::Name(_) | ExpressionKind::Broken => 0,
            ExpressionKind::Negate(value) => value.depth,
            ExpressionKind::Binary { left, right, .. } => left.depth.max(right.depth),
            ExpressionKind::Index { base, index } => base.depth.max(index.depth),
            ExpressionKind::Call { arguments, .. } => arguments
                .iter()
                .flat_map(|argument| [Some(&argument.value), argument.within.as_ref()])
                .flatten()
                .map(|value| value.depth)
                .max()
                .unwrap_or(0),
        };
        if below >= MAX_EXPRESSION_DEPTH {
            return Err(TooDeep);
        }
        Ok(Expression { kind, span, depth: below + 1 })
    }

    /// The same expression, standing in more of the source: within parentheses.
    #[must_use]
    pub fn with_span(self, span: Span) -> Expression {
        Expression { span, ..self }
    }

    /// Stands for something that has been reported.
    pub fn broken(span: Span) -> Expression {
        Expression { kind: ExpressionKind::Broken, span, depth: 1 }
    }
}
