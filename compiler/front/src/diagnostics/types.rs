//! Problems of types in a gate. Types are given as the text that the user would write.

use super::{Code, Diagnostic, quoted};
use crate::span::Span;

/// An expression that does not have the type its place needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeProblem {
    /// Two operands whose shapes do not fit.
    Mismatch {
        operator: String,
        /// The left operand and its type.
        left: (Span, String),
        /// The right operand and its type.
        right: (Span, String),
    },
    /// An argument of the wrong type.
    Argument {
        /// The argument.
        span: Span,
        function: String,
        /// Its type.
        found: String,
        /// The type it should have.
        wanted: &'static str,
    },
    /// Too few or too many arguments.
    ArgumentCount {
        span: Span,
        function: String,
        /// How many were given without a name; nothing when an `in` is what does not belong.
        found: Option<usize>,
        form: &'static str,
    },
    /// A gate without `weights`.
    NoWeights {
        /// The gate.
        span: Span,
    },
    /// `weights` of something that is not one number per chosen expert.
    Weights {
        span: Span,
        /// Its type.
        found: String,
    },
    /// A statement after `weights`.
    AfterWeights {
        /// The statement.
        span: Span,
        /// The `weights` statement.
        weights: Span,
    },
    /// `a[b]` where `a` is not `f32[experts]`, or `b` is not a choice of experts.
    Index {
        /// The part that is wrong.
        span: Span,
        /// Its type.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// `top(n, v)` that is not reduced.
    NotReduced { span: Span },
    /// A count that is not written as a number.
    NotConstant {
        span: Span,
        /// What it counts.
        what: &'static str,
    },
    /// Numbers gathered at two different choices.
    OtherChoice {
        /// Gathered at one choice.
        left: Span,
        /// Gathered at the other.
        right: Span,
    },
    /// A gate that has no logits.
    NoLogits {
        /// The gate.
        span: Span,
    },
    /// Logits of the wrong type.
    Logits {
        /// The parameter.
        span: Span,
        /// Its type.
        found: String,
    },
    /// A parameter type that no gate can read.
    Parameter {
        /// The type.
        span: Span,
        found: String,
    },
    /// Groups are used, but the experts are not in groups.
    NoGroups {
        /// The use.
        span: Span,
        /// The count of experts of the model.
        experts: Span,
    },
    /// Arithmetic on something that is not a number.
    NotNumbers {
        /// The operand.
        span: Span,
        /// Its type.
        found: String,
    },
    /// A constant above the largest f32.
    ConstantTooLarge { span: Span, number: String },
    /// A constant that is not zero but rounds to it.
    ConstantVanishes { span: Span, number: String },
    /// A table indexed by something else than a token id.
    TableIndex {
        /// The index.
        span: Span,
        /// Its type.
        found: String,
    },
    /// `experts in x` where x is not a choice of groups.
    Within {
        /// What follows `in`.
        span: Span,
        /// Its type.
        found: String,
    },
}

impl From<TypeProblem> for Diagnostic {
    fn from(problem: TypeProblem) -> Diagnostic {
        match problem {
            TypeProblem::Mismatch { operator, left, right } => {
                Diagnostic::new(Code::Mismatch, format!("{} needs two values of one shape", quoted(&operator)))
                    .label(right.0, format!("this is {}", quoted(&right.1)))
                    .label(left.0, format!("this is {}", quoted(&left.1)))
                    .help(mismatch_help(&left.1, &right.1))
            }
            TypeProblem::Argument { span, function, found, wanted } => {
                Diagnostic::new(Code::Argument, format!("{} takes {wanted}", quoted(&function)))
                    .label(span, format!("this is {}", quoted(&found)))
                    .help(repair(&found, wanted))
            }
            TypeProblem::ArgumentCount { span, function, found, form } => {
                let given = match found {
                    None => "only `top(k, experts in best, by: v)` has an `in`".to_owned(),
                    Some(1) => "1 value is given without a name".to_owned(),
                    Some(found) => format!("{found} values are given without a name"),
                };
                // `f` stands for the function.
                let form = form.strip_prefix("f(").map_or(form.to_owned(), |values| format!("{function}({values}"));
                Diagnostic::new(Code::ArgumentCount, format!("{} does not take these arguments", quoted(&function)))
                    .label(span, given)
                    .help(format!("write it as `{form}`"))
            }
            TypeProblem::NoWeights { span } => {
                Diagnostic::new(Code::NoWeights, "the gate does not say its weights")
                    .label(span, "no `weights` statement")
                    .help("end the gate with `weights …`, one number per chosen expert, such as `weights score[chosen]`")
            }
            TypeProblem::Weights { span, found } => {
                Diagnostic::new(Code::Weights, "weights are one number per chosen expert")
                    .label(span, format!("this is {}", quoted(&found)))
                    .help("gather at the chosen experts: `score[chosen]`")
            }
            TypeProblem::AfterWeights { span, weights } => {
                Diagnostic::new(Code::AfterWeights, "`weights` is the last statement of a gate")
                    .label(span, "this follows it")
                    .label(weights, "the result is stated here")
                    .help("move this line up, or remove it")
            }
            TypeProblem::Index { span, found, wanted } => {
                Diagnostic::new(Code::Index, "`v[chosen]` gathers a number for each chosen expert")
                    .label(span, format!("this is {}, not {wanted}", quoted(&found)))
                    .help("`v` is `f32[experts]`, and `chosen` comes from `top(k, experts, by: …)` or from a table")
            }
            TypeProblem::NotReduced { span } => {
                Diagnostic::new(Code::NotReduced, "the largest of each group are not one number per group yet")
                    .label(span, "several numbers per group")
                    .help("put it inside `sum(…)`, `max(…)` or `mean(…)`")
            }
            TypeProblem::NotConstant { span, what } => {
                Diagnostic::new(Code::NotConstant, format!("{what} must be written as a number"))
                    .label(span, "not a number")
                    .help("kernels are made for one count: write it out, such as `top(8, …)`")
            }
            TypeProblem::OtherChoice { left, right } => {
                Diagnostic::new(Code::OtherChoice, "these numbers belong to different chosen experts")
                    .label(right, "gathered at another choice")
                    .label(left, "gathered at one choice")
                    .help("gather both at the same choice")
            }
            TypeProblem::NoLogits { span } => Diagnostic::new(Code::NoLogits, "the gate reads no logits")
                .label(span, "no parameter `logits`")
                .help("declare it: `gate(logits: f32[experts])`"),
            TypeProblem::Logits { span, found } => {
                Diagnostic::new(Code::Logits, "`logits` has one number per expert")
                    .label(span, format!("this is {}", quoted(&found)))
                    .help("write `logits: f32[experts]`")
            }
            TypeProblem::Parameter { span, found } => {
                Diagnostic::new(Code::Parameter, format!("a gate cannot read {}", quoted(&found)))
                    .label(span, "not a type of a parameter")
                    .help("parameters are `f32`, `f32[experts]`, `f32[groups]`, `i32` for a token id, and `i32[vocab, 6]` for a table")
            }
            TypeProblem::NoGroups { span, experts } => {
                Diagnostic::new(Code::NoGroups, "the experts of this model are not in groups")
                    .label(span, "groups are used here")
                    .label(experts, "no groups are declared here")
                    .help("declare them: `experts 256 in 8 groups`")
            }
            TypeProblem::NotNumbers { span, found } => {
                Diagnostic::new(Code::NotNumbers, "this is not something to calculate with")
                    .label(span, format!("this is {}", quoted(&found)))
                    .help("calculate with `f32` values; to read values at chosen experts, gather them: `score[chosen]`")
            }
            TypeProblem::ConstantTooLarge { span, number } => {
                Diagnostic::new(Code::ConstantTooLarge, format!("{} is larger than any f32", quoted(&number)))
                    .label(span, "at most 3.4e38")
                    .help("gates calculate in f32; choose a smaller number")
            }
            TypeProblem::ConstantVanishes { span, number } => {
                Diagnostic::new(Code::ConstantVanishes, format!("{} is zero in f32", quoted(&number)))
                    .label(span, "the smallest positive f32 is 1.4e-45")
                    .help("gates calculate in f32; choose a larger number, such as `1e-20`, or write `0`")
            }
            TypeProblem::TableIndex { span, found } => {
                Diagnostic::new(Code::TableIndex, "a table is read at a token id")
                    .label(span, format!("this is {}", quoted(&found)))
                    .help("declare a parameter `token_id: i32` and write `table[token_id]`")
            }
            TypeProblem::Within { span, found } => {
                Diagnostic::new(Code::Within, "`experts in …` needs chosen groups")
                    .label(span, format!("this is {}", quoted(&found)))
                    .help("choose groups first: `let best = top(4, groups, by: …)`")
            }
        }
    }
}

fn mismatch_help(left: &str, right: &str) -> String {
    let per_expert = |ty: &str| ty == "f32[experts]";
    let chosen = |ty: &str| ty.starts_with("f32[") && ty.as_bytes().get(4).is_some_and(u8::is_ascii_digit);
    if per_expert(left) && chosen(right) || chosen(left) && per_expert(right) {
        "gather the value of all experts first: `v[chosen]`".to_owned()
    } else {
        "a single number fits every shape; two vectors must have the same one".to_owned()
    }
}

/// How to make what a function takes of a value of the type `found`.
fn repair(found: &str, wanted: &str) -> String {
    match found {
        "f32" if wanted.contains("expert") => {
            "name a value that has a number for each expert, such as `logits`".to_owned()
        }
        "f32" if wanted.contains("vector") => "name a value of many numbers, such as `logits`".to_owned(),
        "f32" | "f32[experts]" if wanted.contains("group") => {
            "reduce it to one number per group: `max(group(v))` or `sum(top(2, v))`".to_owned()
        }
        "f32[groups]" if wanted.contains("expert") => {
            "this has a number for each group: choose groups with it, `top(4, groups, by: g)`".to_owned()
        }
        choice if choice.starts_with("choice") => "a choice is not numbers: gather them, `score[chosen]`".to_owned(),
        picks if picks.starts_with("f32[") && wanted.contains("expert") => {
            "this has a number for each chosen expert: use the value before it is gathered, without `[chosen]`"
                .to_owned()
        }
        _ => format!("give it {wanted}"),
    }
}
