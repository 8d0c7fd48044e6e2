//! Tokens and keywords.
//!
//! Invariant: keywords are contextual. A word is a keyword only inside the kind of block ([`Scope`]) where it begins or joins
//! the parts of a setting, so `hidden` or `scale` are fine names inside a gate.

use logos::Logos;

/// What the grammar sees. The text of a token is read from the source by its span.
#[derive(Logos, Clone, Copy, Debug, PartialEq, Eq)]
#[logos(skip r"[ \t\r\n\x0C]+")]
pub enum Token {
    /// From `//` to the end of the line. Never reaches the grammar.
    #[regex(r"//[^\n]*", allow_greedy = true)]
    Comment,
    /// A name, or a word whose meaning depends on its place.
    #[regex(r"[A-Za-z_][A-Za-z0-9_]*")]
    Word,
    /// `7168`, `1_000`, `1e-20`, `2.5`, `25%`
    #[regex(r"[0-9][0-9_]*(\.[0-9][0-9_]*)?([eE][+-]?[0-9][0-9_]*)?%?")]
    Number,
    /// `"H800"`
    #[regex(r#""[^"\n]*""#)]
    Text,
    /// A string without its closing quote. Never reaches the grammar.
    #[regex(r#""[^"\n]*"#)]
    OpenText,
    /// A word right after a number of a setting: `GB`.
    Unit,
    /// A bracketed part that no setting announces: the grammar refuses it as a whole.
    Group,
    /// A word that the grammar knows in its block.
    Keyword(Keyword),
    /// `{`
    #[token("{")]
    OpenBrace,
    /// `}`
    #[token("}")]
    CloseBrace,
    /// `(`
    #[token("(")]
    OpenParenthesis,
    /// `)`
    #[token(")")]
    CloseParenthesis,
    /// `[`
    #[token("[")]
    OpenBracket,
    /// `]`
    #[token("]")]
    CloseBracket,
    /// `,`
    #[token(",")]
    Comma,
    /// `:`
    #[token(":")]
    Colon,
    /// `;`, which the language does not use, known for a better error.
    #[token(";")]
    Semicolon,
    /// `=`
    #[token("=")]
    Equals,
    /// `+`
    #[token("+")]
    Plus,
    /// `-`
    #[token("-")]
    Minus,
    /// `*`
    #[token("*")]
    Star,
    /// `/`
    #[token("/")]
    Slash,
    /// `..`
    #[token("..")]
    Range,
    /// `.`, which the language does not use, known for a better error.
    #[token(".")]
    Dot,
    /// `/*`, which the language does not use, known for a better error.
    #[token("/*")]
    BlockComment,
}

impl Token {
    /// The bracket that closes this one.
    pub fn closer(self) -> Option<Token> {
        match self {
            Token::OpenBrace => Some(Token::CloseBrace),
            Token::OpenParenthesis => Some(Token::CloseParenthesis),
            Token::OpenBracket => Some(Token::CloseBracket),
            _ => None,
        }
    }

    /// Whether this is a closing bracket.
    pub fn closes(self) -> bool {
        matches!(self, Token::CloseBrace | Token::CloseParenthesis | Token::CloseBracket)
    }
}

/// The kind of block that a word stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Outside of all blocks.
    File,
    /// `model … { }`
    Model,
    /// The parameters and the body of `gate( ) { }`
    Gate,
    /// `experts … { }`
    Experts,
    /// `attention latent { }`
    Latent,
    /// `attention grouped { }`
    Grouped,
    /// `attention single { }`
    Single,
    /// `compress … { }`
    Compress,
    /// `dispatch { }`
    Dispatch,
    /// `combine { }`
    Combine,
    /// `cluster … { }`
    Cluster,
    /// `gpu … { }`
    Gpu,
    /// `deploy … { }`
    Deploy,
}

impl Scope {
    /// What a reader calls such a block.
    pub fn described(self) -> &'static str {
        match self {
            Scope::File => "the file",
            Scope::Model => "a model",
            Scope::Gate => "a gate",
            Scope::Experts => "an `experts` block",
            Scope::Latent => "an `attention latent` block",
            Scope::Grouped => "an `attention grouped` block",
            Scope::Single => "an `attention single` block",
            Scope::Compress => "a `compress` block",
            Scope::Dispatch => "a `dispatch` block",
            Scope::Combine => "a `combine` block",
            Scope::Cluster => "a cluster",
            Scope::Gpu => "a `gpu` block",
            Scope::Deploy => "a deploy",
        }
    }
}

impl Keyword {
    /// Whether this word joins the parts of a setting or declaration that another one began.
    pub fn joins(self) -> bool {
        use Keyword::{Align, Beside, Drop, Grouped, Groups, In, Latent, Layers, Node, Of, On, Per, Single, Ungated};
        matches!(
            self,
            Of | On | In | Groups | Drop | Per | Align | Node | Latent | Grouped | Single | Layers | Beside | Ungated
        )
    }
}

macro_rules! keywords {
    ($($name:ident $text:literal in $($scope:ident)+ $(: opens $opens:ident)?;)*) => {
        /// A word with a meaning of its own inside some kinds of block.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is its own spelling")]
        pub enum Keyword { $($name),* }

        impl Keyword {
            pub const ALL: &[Keyword] = &[$(Keyword::$name),*];

            pub fn text(self) -> &'static str {
                match self { $(Keyword::$name => $text),* }
            }

            /// The keyword that `text` is inside a block of kind `scope`.
            pub fn find(text: &str, scope: Scope) -> Option<Keyword> {
                match text {
                    $($text if matches!(scope, $(Scope::$scope)|+) => Some(Keyword::$name),)*
                    _ => None,
                }
            }

            /// The kinds of block that know this word.
            pub fn scopes(self) -> &'static [Scope] {
                match self { $(Keyword::$name => &[$(Scope::$scope),+]),* }
            }

            /// The kind of block that may follow this word.
            pub fn opens(self) -> Option<Scope> {
                match self {
                    $($(Keyword::$name => Some(Scope::$opens),)?)*
                    _ => None,
                }
            }
        }
    };
}

keywords! {
    Model "model" in File: opens Model;
    Cluster "cluster" in File: opens Cluster;
    Deploy "deploy" in File: opens Deploy;
    Of "of" in File;
    On "on" in File;
    Hidden "hidden" in Model;
    Experts "experts" in Model: opens Experts;
    In "in" in Model Gate Latent Grouped Single;
    Groups "groups" in Model;
    Zero "zero" in Experts Deploy;
    Shared "shared" in Model;
    MoeLayers "moe_layers" in Model;
    ExpertFfn "expert_ffn" in Model;
    Ungated "ungated" in Model;
    DenseLayers "dense_layers" in Model;
    DenseFfn "dense_ffn" in Model;
    Beside "beside" in Model;
    EncoderLayers "encoder_layers" in Model;
    Streams "streams" in Model;
    Vocab "vocab" in Model;
    Embeddings "embeddings" in Model;
    Attention "attention" in Model;
    Latent "latent" in Model: opens Latent;
    Grouped "grouped" in Model: opens Grouped;
    Single "single" in Model: opens Single;
    Heads "heads" in Latent Grouped Single;
    QueryRank "query_rank" in Latent Single;
    KeyValueRank "key_value_rank" in Latent;
    Rope "rope" in Latent;
    Nope "nope" in Latent;
    Value "value" in Latent;
    KeyValueHeads "key_value_heads" in Grouped;
    Head "head" in Grouped Single;
    OutputRank "output_rank" in Single;
    OutputGroups "output_groups" in Single;
    Window "window" in Latent Grouped Single;
    Chunk "chunk" in Latent Grouped Single;
    Compress "compress" in Single: opens Compress;
    Near "near" in Compress;
    Pieces "pieces" in Compress;
    IndexHeads "index_heads" in Compress;
    IndexHead "index_head" in Compress;
    Top "top" in Compress;
    Layers "layers" in Latent Grouped Single;
    Capacity "capacity" in Model;
    Drop "drop" in Model;
    Gate "gate" in Model: opens Gate;
    Dispatch "dispatch" in Model: opens Dispatch;
    Combine "combine" in Model: opens Combine;
    Let "let" in Gate;
    Weights "weights" in Gate;
    Before "before" in Gate;
    Payload "payload" in Dispatch Combine;
    Scale "scale" in Dispatch Combine;
    Per "per" in Dispatch Combine Cluster Deploy;
    Layout "layout" in Dispatch;
    Align "align" in Dispatch;
    Padding "padding" in Dispatch;
    Reduce "reduce" in Combine;
    Nodes "nodes" in Cluster;
    Node "node" in Cluster;
    Gpus "gpus" in Cluster;
    Gpu "gpu" in Cluster Deploy: opens Gpu;
    Nvlink "nvlink" in Cluster;
    Rdma "rdma" in Cluster;
    Latency "latency" in Cluster;
    Target "target" in Gpu;
    Sms "sms" in Gpu Deploy;
    SmsLocal "sms_local" in Deploy;
    Memory "memory" in Gpu;
    Ep "ep" in Deploy;
    Pp "pp" in Deploy;
    Dp "dp" in Deploy;
    Tp "tp" in Deploy;
    Tokens "tokens" in Deploy;
    Mode "mode" in Deploy;
}
