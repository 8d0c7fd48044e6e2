//! The functions of a gate.

use moe_gate::facts::may_vanish;
use moe_gate::ir::{Binary, Masked, Op, Reduction, Type, Unary, ValueId};

use super::{Lowering, Value};
use crate::diagnostics::{ModelProblem, NameProblem, TypeProblem, closest};
use crate::span::Span;
use crate::spec::limits;
use crate::syntax::ast::{Argument, Expression, ExpressionKind, Name};

/// What a name before parentheses means.
#[derive(Clone, Copy)]
enum Function {
    Each(Unary),
    /// Of two numbers each.
    Pair(Binary),
    Reduce(Reduction),
    Softmax,
    Normalize,
    Group,
    Top,
}

/// Those that are not [`Unary`] or [`Binary`] functions, which have a table of their own.
const FORMS: &[(&str, Function)] = &[
    ("softmax", Function::Softmax),
    ("sum", Function::Reduce(Reduction::Sum)),
    ("max", Function::Reduce(Reduction::Max)),
    ("mean", Function::Reduce(Reduction::Mean)),
    ("group", Function::Group),
    ("top", Function::Top),
    ("normalize", Function::Normalize),
];

/// Every function, once.
pub(super) fn names() -> Vec<&'static str> {
    let unary = Unary::ALL.iter().filter(|function| function.is_call()).map(|function| function.text());
    let binary = Binary::ALL.iter().filter(|function| function.is_call()).map(|function| function.text());
    let mut names: Vec<&str> = Vec::new();
    for name in unary.chain(binary).chain(FORMS.iter().map(|form| form.0)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What is called: `max` of two values is another function than `max` of one.
fn called(name: &str, values: usize) -> Option<(&'static str, Function)> {
    let unary = Unary::called(name).map(|function| (function.text(), Function::Each(function)));
    let binary = Binary::called(name).map(|function| (function.text(), Function::Pair(function)));
    let form = FORMS.iter().copied().find(|form| form.0 == name);
    let of_one = unary.or(form);
    if values == 2 { binary.or(of_one) } else { of_one.or(binary) }
}

/// Words that a gate cannot define.
pub(super) fn is_reserved(name: &str) -> bool {
    matches!(name, "experts" | "groups" | "vocab") || names().contains(&name)
}

/// How a call is written, for errors.
const TOP_FORM: &str = "top(k, experts, by: v)`, `top(k, groups, by: g)` or `top(n, v)";

impl Lowering<'_, '_> {
    pub(super) fn call(&mut self, span: Span, name: &Name, arguments: &[Argument]) -> Option<Value> {
        let values = arguments.iter().filter(|argument| argument.label.is_none()).count();
        let Some((known, function)) = called(&name.text, values) else {
            let suggestion = closest(&name.text, names()).map(str::to_owned);
            let (span, found) = (name.span, name.text.clone());
            self.checker.report(NameProblem::UnknownFunction { span, found, suggestion, known: names() });
            return None;
        };
        let takes: &'static [&'static str] = match function {
            Function::Normalize => &["eps", "floor"],
            Function::Top => &["by", "fill"],
            _ => &[],
        };
        let call = Call { span, function: known, arguments };
        self.labels(&call, takes)?;
        match function {
            Function::Each(unary) => {
                let [value] = self.positional(&call, "f(x)")?;
                let (id, at) = self.numbers(value)?;
                let id = self.push(Op::Unary(unary, id))?;
                Some(Value::Numbers { id, at })
            }
            Function::Pair(binary) => {
                let [left, right] = self.positional(&call, "f(a, b)")?;
                self.binary(known, binary, left, right)
            }
            Function::Reduce(reduction) => self.reduce(&call, reduction),
            Function::Softmax => {
                let [value] = self.positional(&call, "softmax(v)")?;
                let (id, at) = self.vector(&call, value)?;
                let id = self.push(Op::Softmax(id))?;
                Some(Value::Numbers { id, at })
            }
            Function::Normalize => self.normalize(&call),
            Function::Group => {
                let [value] = self.positional(&call, "group(v)")?;
                let of = self.per_expert(&call, value)?;
                if self.experts.groups.is_none() {
                    self.no_groups(span);
                    return None;
                }
                Some(Value::PerGroup { of, top: None })
            }
            Function::Top => self.top(&call),
        }
    }

    /// Named arguments must be known and given once; `in` belongs to `top` only.
    fn labels(&mut self, call: &Call<'_>, takes: &'static [&'static str]) -> Option<()> {
        let mut seen: Vec<&Name> = Vec::new();
        for argument in call.arguments {
            if let Some(within) = &argument.within
                && !(call.function == "top" && is_domain(&argument.value, "experts"))
            {
                self.checker.report(TypeProblem::ArgumentCount {
                    span: within.span,
                    function: call.function.to_owned(),
                    found: None,
                    form: if call.function == "top" { "top(k, experts in best, by: v)" } else { "f(x)" },
                });
                return None;
            }
            let Some(label) = &argument.label else { continue };
            if !takes.contains(&label.text.as_str()) {
                let suggestion = closest(&label.text, takes.iter().copied()).map(str::to_owned);
                self.checker.report(NameProblem::UnknownArgument {
                    span: label.span,
                    function: call.function.to_owned(),
                    found: label.text.clone(),
                    takes,
                    suggestion,
                });
                return None;
            }
            let excludes = |other: &&&Name| other.text == label.text || call.function == "normalize";
            if let Some(first) = seen.iter().find(excludes) {
                let (span, first) = (label.span, first.span);
                self.checker.report(NameProblem::ArgumentTwice { span, found: format!("{}:", label.text), first });
                return None;
            }
            seen.push(label);
        }
        Some(())
    }

    fn positional<'a, const N: usize>(&mut self, call: &Call<'a>, form: &'static str) -> Option<[&'a Expression; N]> {
        let given: Vec<&Expression> = call.positional().map(|argument| &argument.value).collect();
        let found = Some(given.len());
        let exact = given.try_into().ok();
        if exact.is_none() {
            let function = call.function.to_owned();
            self.checker.report(TypeProblem::ArgumentCount { span: call.span, function, found, form });
        }
        exact
    }

    /// Numbers that are not a single one.
    fn vector(&mut self, call: &Call<'_>, value: &Expression) -> Option<(ValueId, Option<ValueId>)> {
        let (id, at) = self.numbers(value)?;
        if self.program.type_of(id) == Type::Scalar {
            self.wrong_argument(call, value.span, "f32".to_owned(), "a vector");
            return None;
        }
        Some((id, at))
    }

    /// One number per expert.
    fn per_expert(&mut self, call: &Call<'_>, value: &Expression) -> Option<ValueId> {
        let (id, _) = self.numbers(value)?;
        let ty = self.program.type_of(id);
        if ty != Type::Experts {
            self.wrong_argument(call, value.span, ty.to_string(), "one number per expert, `f32[experts]`");
            return None;
        }
        Some(id)
    }

    fn wrong_argument(&mut self, call: &Call<'_>, span: Span, found: String, wanted: &'static str) {
        self.checker.report(TypeProblem::Argument { span, function: call.function.to_owned(), found, wanted });
    }

    fn reduce(&mut self, call: &Call<'_>, reduction: Reduction) -> Option<Value> {
        let form = match reduction {
            Reduction::Sum => "sum(top(2, v))",
            Reduction::Max => "max(group(v))",
            Reduction::Mean => "mean(group(v))",
        };
        let [value] = self.positional(call, form)?;
        let id = match self.expression(value)? {
            Value::PerGroup { of, top } => self.push(Op::GroupReduce { of, top, reduction })?,
            Value::Numbers { id, .. } if self.program.type_of(id) != Type::Scalar => {
                self.push(Op::Reduce(reduction, id))?
            }
            other => {
                let found = self.type_text(other);
                self.wrong_argument(call, value.span, found, "a vector, or several numbers per group");
                return None;
            }
        };
        Some(Value::Numbers { id, at: None })
    }

    /// w / (Σw + eps), w / max(Σw, floor), or w / Σw.
    fn normalize(&mut self, call: &Call<'_>) -> Option<Value> {
        let [value] = self.positional(call, "normalize(w, eps: 1e-20)")?;
        let (id, at) = self.vector(call, value)?;
        let mut sum = self.push(Op::Reduce(Reduction::Sum, id))?;
        let guard = call.named("eps").map(|eps| (Binary::Add, eps));
        let guard = guard.or_else(|| call.named("floor").map(|floor| (Binary::Max, floor)));
        match guard {
            Some((op, guard)) => {
                let (number, _) = self.numbers(&guard.value)?;
                let ty = self.program.type_of(number);
                if ty != Type::Scalar {
                    self.wrong_argument(call, guard.value.span, ty.to_string(), "a single number as its guard");
                    return None;
                }
                sum = self.push(Op::Binary(op, sum, number))?;
            }
            None if may_vanish(&self.program, id) => {
                self.checker.report(ModelProblem::SumMayVanish { span: call.span });
            }
            None => {}
        }
        let id = self.push(Op::Binary(Binary::Divide, id, sum))?;
        Some(Value::Numbers { id, at })
    }

    fn top(&mut self, call: &Call<'_>) -> Option<Value> {
        let [count, of] = self.positional(call, TOP_FORM)?;
        if is_domain(of, "groups") {
            self.choose_groups(call, count)
        } else if is_domain(of, "experts") {
            let within = call.positional().nth(1).and_then(|argument| argument.within.as_ref());
            self.choose_experts(call, count, within)
        } else {
            self.top_of_group(call, count, of)
        }
    }

    fn counted(&mut self, count: &Expression, what: &'static str) -> Option<(u32, Span)> {
        if let ExpressionKind::Number(number) = &count.kind {
            let counted = self.checker.number(&number.text, number.span, what, 1, limits::COUNT)?;
            return Some((counted, number.span));
        }
        self.checker.report(TypeProblem::NotConstant { span: count.span, what });
        None
    }

    /// The argument `by:`, which is needed here.
    fn key<'a>(&mut self, call: &Call<'a>, example: &'static str) -> Option<&'a Expression> {
        let key = call.named("by").map(|argument| &argument.value);
        if key.is_none() {
            self.checker.report(NameProblem::ArgumentMissing {
                span: call.span,
                function: "top",
                argument: "by",
                example,
            });
        }
        key
    }

    fn top_of_group(&mut self, call: &Call<'_>, count: &Expression, of: &Expression) -> Option<Value> {
        for label in ["by", "fill"] {
            if let Some(name) = call.named(label).and_then(|argument| argument.label.as_ref()) {
                self.checker.report(NameProblem::UnknownArgument {
                    span: name.span,
                    function: "top(n, v)".to_owned(),
                    found: name.text.clone(),
                    takes: &[],
                    suggestion: None,
                });
                return None;
            }
        }
        let (count, span) = self.counted(count, "how many of each group")?;
        let of = self.per_expert(call, of)?;
        let Some(groups) = self.experts.groups else {
            self.no_groups(call.span);
            return None;
        };
        let group_size = self.experts.count / groups;
        if count > group_size {
            self.checker.report(ModelProblem::TopExceedsGroup { span, count, group_size });
            return None;
        }
        Some(Value::PerGroup { of, top: Some(count) })
    }

    fn choose_groups(&mut self, call: &Call<'_>, count: &Expression) -> Option<Value> {
        if let Some(fill) = call.named("fill") {
            self.checker.report(ModelProblem::FillWithoutGroups { span: fill.span });
            return None;
        }
        let key = self.key(call, "top(4, groups, by: sum(top(2, v)))")?;
        let (count, span) = self.counted(count, "the number of chosen groups")?;
        let Some(groups) = self.experts.groups else {
            self.no_groups(call.span);
            return None;
        };
        let (by, _) = self.numbers(key)?;
        let ty = self.program.type_of(by);
        if ty != Type::Groups {
            self.wrong_argument(
                call,
                key.span,
                ty.to_string(),
                "one number per group, `f32[groups]`, to choose groups by",
            );
            return None;
        }
        if count > groups {
            self.checker.report(ModelProblem::TooManyGroups { span, chosen: count, groups });
            return None;
        }
        if count == groups {
            self.checker.report(ModelProblem::AllGroups { span, groups });
        }
        let choice = self.push(Op::ChooseGroups { by, count })?;
        self.choices.insert(choice, call.span);
        Some(Value::Choice(choice))
    }

    fn choose_experts(&mut self, call: &Call<'_>, count: &Expression, within: Option<&Expression>) -> Option<Value> {
        let key = self.key(call, "top(8, experts, by: score)")?;
        let (by, _) = self.numbers(key)?;
        let ty = self.program.type_of(by);
        if ty != Type::Experts {
            self.wrong_argument(
                call,
                key.span,
                ty.to_string(),
                "one number per expert, `f32[experts]`, to choose experts by",
            );
            return None;
        }
        let groups = match within {
            None => None,
            Some(within) => Some(self.chosen_groups(within)?),
        };
        let masked = self.mask(call, groups.is_some())?;
        let (picks, span) = self.counted(count, "the number of chosen experts")?;
        if let (Some((chosen, choice)), Masked::Infinity, Some(groups)) = (groups, masked, self.experts.groups) {
            let group_size = self.experts.count / groups;
            if picks <= self.experts.count && picks > chosen * group_size {
                let groups = self.choices.get(&choice).copied().unwrap_or_default();
                self.checker.report(ModelProblem::PicksExceedGroups { span, picks, chosen, group_size, groups });
                return None;
            }
        }
        let count = self.picks(picks, span)?;
        let within = groups.map(|(_, choice)| (choice, masked));
        let choice = self.push(Op::ChooseExperts { by, count, within })?;
        self.choices.insert(choice, call.span);
        Some(Value::Choice(choice))
    }

    fn chosen_groups(&mut self, within: &Expression) -> Option<(u32, ValueId)> {
        let value = self.expression(within)?;
        if let Value::Choice(choice) = value
            && let Type::GroupChoice(chosen) = self.program.type_of(choice)
        {
            return Some((chosen, choice));
        }
        let found = self.type_text(value);
        self.checker.report(TypeProblem::Within { span: within.span, found });
        None
    }

    fn mask(&mut self, call: &Call<'_>, masked: bool) -> Option<Masked> {
        let Some(fill) = call.named("fill") else {
            return Some(Masked::Infinity);
        };
        if !masked {
            self.checker.report(ModelProblem::FillWithoutGroups { span: fill.span });
            return None;
        }
        let (id, _) = self.numbers(&fill.value)?;
        if let Op::Constant(value) = *self.program.op(id) {
            return Some(Masked::Fill(value));
        }
        self.checker.report(TypeProblem::NotConstant { span: fill.value.span, what: "the value of masked experts" });
        None
    }
}

/// One call, as its function sees it.
struct Call<'a> {
    span: Span,
    function: &'static str,
    arguments: &'a [Argument],
}

impl<'a> Call<'a> {
    fn positional(&self) -> impl Iterator<Item = &'a Argument> + use<'a> {
        self.arguments.iter().filter(|argument| argument.label.is_none())
    }

    fn named(&self, label: &str) -> Option<&'a Argument> {
        self.arguments.iter().find(|argument| argument.label.as_ref().is_some_and(|name| name.text == label))
    }
}

/// Whether `value` is the bare word `domain`.
fn is_domain(value: &Expression, domain: &str) -> bool {
    matches!(&value.kind, ExpressionKind::Name(name) if name.text == domain)
}
