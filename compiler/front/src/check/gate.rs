//! Checks a gate and lowers it to Gate IR.
//!
//! Invariant: an operation is pushed only after its operands were judged here, in the user's words; [`Program::push`] then accepts it.

mod functions;

use std::collections::HashMap;

use moe_gate::ir::{Binary, Gate, InputId, InputKind, Op, Program, Type, Unary, ValueId};

use super::Checker;
use super::model::{Experts, reserved};
use crate::diagnostics::{ModelProblem, NameProblem, TypeProblem, closest};
use crate::span::Span;
use crate::spec::limits;
use crate::syntax::ast::{self, Expression, ExpressionKind, Name, Number, Operator, Parameter, Statement};
use crate::units::{Decimal, nearest_f32, well_formed};

/// What an expression is while it is checked.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// Numbers; `at` is the choice that they were gathered at.
    Numbers { id: ValueId, at: Option<ValueId> },
    /// Chosen experts, or chosen groups.
    Choice(ValueId),
    /// `top(n, v)` or `group(v)`: several numbers per group, still to be reduced.
    PerGroup { of: ValueId, top: Option<u32> },
    /// A parameter `i32[vocab, k]`.
    Table(InputId),
    /// A parameter `i32`.
    TokenId(InputId),
}

struct Binding {
    /// Nothing when its definition was wrong and has been reported.
    value: Option<Value>,
    place: Span,
    used: bool,
    parameter: bool,
}

/// A gate under construction.
struct Lowering<'c, 'r> {
    checker: &'c mut Checker<'r>,
    program: Program,
    experts: Experts,
    bindings: HashMap<String, Binding>,
    /// In the order of definition, for warnings.
    order: Vec<String>,
    /// Where each choice was made, for errors.
    choices: HashMap<ValueId, Span>,
    /// Whether parameters could not be read: then an unknown name may be one of them.
    damaged: bool,
}

impl Checker<'_> {
    /// Nothing is returned when an error was reported.
    pub(super) fn gate(
        &mut self,
        gate: &ast::Gate,
        place: Span,
        experts: &Experts,
        vocab: Option<u32>,
        vocab_given: bool,
    ) -> Option<Gate> {
        let head = Span::new(place.start, gate.body.span.start);
        let mut lowering = Lowering {
            checker: self,
            program: Program::new(experts.count, experts.groups),
            experts: experts.clone(),
            bindings: HashMap::new(),
            order: Vec::new(),
            choices: HashMap::new(),
            damaged: gate.damaged,
        };
        for parameter in &gate.parameters {
            lowering.parameter(parameter, vocab, vocab_given);
        }
        if !gate.damaged && !lowering.bindings.contains_key("logits") {
            lowering.checker.report(TypeProblem::NoLogits { span: head });
        }
        let mut result = None;
        let mut weights_at: Option<Span> = None;
        for setting in &gate.body.settings {
            if let Some(weights) = weights_at {
                lowering.checker.report(TypeProblem::AfterWeights { span: setting.span, weights });
                continue;
            }
            match &setting.kind {
                Statement::Let { name, value } => {
                    let value = lowering.expression(value);
                    lowering.define(name, value, false);
                }
                Statement::Weights { value, before_experts } => {
                    weights_at = Some(setting.span);
                    result = lowering.weights(value).map(|(choice, weights)| (choice, weights, *before_experts));
                }
            }
        }
        if weights_at.is_none() && !gate.body.damaged {
            lowering.checker.report(TypeProblem::NoWeights { span: head });
        }
        // After an error, an unused value is most likely a consequence of it.
        let (choice, weights, before_experts) = result?;
        lowering.unused();
        Some(Gate { program: lowering.program, choice, weights, before_experts })
    }
}

impl Lowering<'_, '_> {
    /// Appends an operation that was judged before.
    fn push(&mut self, op: Op) -> Option<ValueId> {
        let pushed = self.program.push(op);
        debug_assert!(pushed.is_ok(), "judged before: {pushed:?}");
        pushed.ok()
    }

    fn define(&mut self, name: &Name, value: Option<Value>, parameter: bool) {
        if functions::is_reserved(&name.text) {
            self.checker.report(reserved(name));
            return;
        }
        if let Some(binding) = self.bindings.get(&name.text) {
            let (span, first) = (name.span, binding.place);
            self.checker.report(NameProblem::DefinedTwice { span, name: name.text.clone(), first });
            return;
        }
        self.order.push(name.text.clone());
        self.bindings.insert(name.text.clone(), Binding { value, place: name.span, used: false, parameter });
    }

    fn unused(&mut self) {
        for name in &self.order {
            let binding = &self.bindings[name];
            if binding.used {
                continue;
            }
            let (span, name) = (binding.place, name.clone());
            self.checker.report(if binding.parameter {
                NameProblem::UnusedParameter { span, name }
            } else {
                NameProblem::UnusedValue { span, name }
            });
        }
    }

    fn parameter(&mut self, parameter: &Parameter, vocab: Option<u32>, vocab_given: bool) {
        let value = self.parameter_value(parameter, vocab, vocab_given);
        self.define(&parameter.name, value, true);
    }

    fn parameter_value(&mut self, parameter: &Parameter, vocab: Option<u32>, vocab_given: bool) -> Option<Value> {
        let name = parameter.name.text.clone();
        let element = &parameter.element;
        let dimensions: Vec<&str> = parameter.dimensions.iter().map(|dimension| dimension.text.as_str()).collect();
        let type_span = parameter.dimensions.iter().map(|dimension| dimension.span).fold(element.span, Span::to);
        let found = match dimensions.as_slice() {
            [] => element.text.clone(),
            some => format!("{}[{}]", element.text, some.join(", ")),
        };
        if !matches!(element.text.as_str(), "f32" | "i32") {
            let suggestion = closest(&element.text, ["f32", "i32"]).map(str::to_owned);
            self.checker.report(NameProblem::UnknownType {
                span: element.span,
                found: element.text.clone(),
                suggestion,
            });
            return None;
        }
        for dimension in &parameter.dimensions {
            self.known_dimension(dimension)?;
        }
        let kind = match (element.text.as_str(), dimensions.as_slice()) {
            ("f32", ["experts"]) if name == "logits" => InputKind::Logits,
            _ if name == "logits" => {
                self.checker.report(TypeProblem::Logits { span: type_span, found });
                return None;
            }
            ("f32", []) => InputKind::ScalarParameter,
            ("f32", ["experts"]) => InputKind::ExpertParameter,
            ("f32", ["groups"]) => {
                if self.experts.groups.is_none() {
                    self.no_groups(type_span);
                    return None;
                }
                InputKind::GroupParameter
            }
            ("i32", []) => return Some(Value::TokenId(self.program.declare(name, InputKind::TokenId))),
            ("i32", [rows, _]) if rows == &"vocab" || starts_with_digit(rows) => {
                let rows = match *rows {
                    "vocab" if vocab.is_some() => vocab?,
                    "vocab" => {
                        if !vocab_given {
                            self.checker.report(ModelProblem::VocabMissing { span: parameter.dimensions[0].span });
                        }
                        return None;
                    }
                    rows => {
                        let span = parameter.dimensions[0].span;
                        self.checker.number(rows, span, "the number of rows", 1, limits::COUNT)?
                    }
                };
                let width = &parameter.dimensions[1];
                if !starts_with_digit(&width.text) {
                    self.checker.report(TypeProblem::NotConstant { span: width.span, what: "the number of picks" });
                    return None;
                }
                let k = self.checker.number(&width.text, width.span, "the number of picks", 1, limits::COUNT)?;
                let k = self.picks(k, width.span)?;
                let input = self.program.declare(name, InputKind::Table { vocabulary: rows, k });
                return Some(Value::Table(input));
            }
            _ => {
                self.checker.report(TypeProblem::Parameter { span: type_span, found });
                return None;
            }
        };
        let input = self.program.declare(name, kind);
        let id = self.push(Op::Input(input))?;
        Some(Value::Numbers { id, at: None })
    }

    fn known_dimension(&mut self, dimension: &Name) -> Option<()> {
        let known = ["experts", "groups", "vocab"];
        if starts_with_digit(&dimension.text) || known.contains(&dimension.text.as_str()) {
            return Some(());
        }
        let suggestion = closest(&dimension.text, known).map(str::to_owned);
        let (span, found) = (dimension.span, dimension.text.clone());
        self.checker.report(NameProblem::UnknownDimension { span, found, suggestion });
        None
    }

    /// A number of picks that the kernels and the model have.
    fn picks(&mut self, picks: u32, span: Span) -> Option<u32> {
        let experts = self.experts.count;
        if picks > experts {
            self.checker.report(ModelProblem::PicksExceedExperts { span, picks, experts });
            return None;
        }
        if picks > limits::TOP_K {
            self.checker.report(ModelProblem::TooManyPicks { span, picks, most: limits::TOP_K });
            return None;
        }
        Some(picks)
    }

    fn no_groups(&mut self, span: Span) {
        let experts = self.experts.place;
        self.checker.report(TypeProblem::NoGroups { span, experts });
    }

    fn weights(&mut self, value: &Expression) -> Option<(ValueId, ValueId)> {
        let checked = self.expression(value)?;
        if let Value::Numbers { id, at: Some(choice) } = checked {
            return Some((choice, id));
        }
        let found = self.type_text(checked);
        self.checker.report(TypeProblem::Weights { span: value.span, found });
        None
    }

    fn expression(&mut self, value: &Expression) -> Option<Value> {
        match &value.kind {
            ExpressionKind::Number(number) => self.constant(number, false),
            ExpressionKind::Name(name) => self.name(name),
            ExpressionKind::Negate(inner) => {
                if let ExpressionKind::Number(number) = &inner.kind {
                    return self.constant(number, true);
                }
                let (id, at) = self.numbers(inner)?;
                let id = self.push(Op::Unary(Unary::Negate, id))?;
                Some(Value::Numbers { id, at })
            }
            ExpressionKind::Binary { left, operator, right } => {
                let op = match operator {
                    Operator::Add => Binary::Add,
                    Operator::Subtract => Binary::Subtract,
                    Operator::Multiply => Binary::Multiply,
                    Operator::Divide => Binary::Divide,
                };
                self.binary(operator.text(), op, left, right)
            }
            ExpressionKind::Call { function, arguments } => self.call(value.span, function, arguments),
            ExpressionKind::Index { base, index } => self.index(base, index),
            ExpressionKind::Broken => None,
        }
    }

    fn constant(&mut self, number: &Number, negative: bool) -> Option<Value> {
        if !well_formed(&number.text) {
            return None; // The lexer has said so.
        }
        let magnitude = nearest_f32(&number.text);
        let (span, text) = (number.span, number.text.clone());
        if magnitude.is_infinite() {
            self.checker.report(TypeProblem::ConstantTooLarge { span, number: text });
            return None;
        }
        if magnitude == 0.0 && !Decimal::read(&number.text).is_zero() {
            self.checker.report(TypeProblem::ConstantVanishes { span, number: text });
        }
        let id = self.push(Op::Constant(if negative { -magnitude } else { magnitude }))?;
        Some(Value::Numbers { id, at: None })
    }

    fn name(&mut self, name: &Name) -> Option<Value> {
        if let Some(binding) = self.bindings.get_mut(&name.text) {
            binding.used = true;
            return binding.value;
        }
        let known = self.bindings.keys().map(String::as_str);
        let suggestion = closest(&name.text, known).map(str::to_owned);
        if !self.damaged || suggestion.is_some() {
            self.checker.report(NameProblem::UnknownValue { span: name.span, found: name.text.clone(), suggestion });
        }
        None
    }

    /// An expression that must be numbers.
    fn numbers(&mut self, value: &Expression) -> Option<(ValueId, Option<ValueId>)> {
        match self.expression(value)? {
            Value::Numbers { id, at } => Some((id, at)),
            Value::PerGroup { .. } => {
                self.checker.report(TypeProblem::NotReduced { span: value.span });
                None
            }
            other => {
                let found = self.type_text(other);
                self.checker.report(TypeProblem::NotNumbers { span: value.span, found });
                None
            }
        }
    }

    fn binary(&mut self, operator: &str, op: Binary, left: &Expression, right: &Expression) -> Option<Value> {
        let first = self.numbers(left);
        let second = self.numbers(right);
        let ((a, a_at), (b, b_at)) = (first?, second?);
        let (a_type, b_type) = (self.program.type_of(a), self.program.type_of(b));
        if a_type != b_type && a_type != Type::Scalar && b_type != Type::Scalar {
            self.checker.report(TypeProblem::Mismatch {
                operator: operator.to_owned(),
                left: (left.span, a_type.to_string()),
                right: (right.span, b_type.to_string()),
            });
            return None;
        }
        if let (Some(one), Some(other)) = (a_at, b_at)
            && one != other
        {
            self.checker.report(TypeProblem::OtherChoice { left: left.span, right: right.span });
            return None;
        }
        let id = self.push(Op::Binary(op, a, b))?;
        Some(Value::Numbers { id, at: a_at.or(b_at) })
    }

    /// `v[chosen]`, or `table[token_id]`.
    fn index(&mut self, base: &Expression, index: &Expression) -> Option<Value> {
        let of = self.expression(base);
        let at = self.expression(index);
        let (of, at) = (of?, at?);
        if let Value::Table(table) = of {
            let Value::TokenId(token) = at else {
                let found = self.type_text(at);
                self.checker.report(TypeProblem::TableIndex { span: index.span, found });
                return None;
            };
            let choice = self.push(Op::LookUp { table, token })?;
            self.choices.insert(choice, base.span.to(index.span));
            return Some(Value::Choice(choice));
        }
        let all = match of {
            Value::Numbers { id, .. } if self.program.type_of(id) == Type::Experts => id,
            other => {
                let found = self.type_text(other);
                self.checker.report(TypeProblem::Index { span: base.span, found, wanted: "one number per expert" });
                return None;
            }
        };
        match at {
            Value::Choice(choice) if matches!(self.program.type_of(choice), Type::ExpertChoice(_)) => {
                let id = self.push(Op::Gather { of: all, at: choice })?;
                Some(Value::Numbers { id, at: Some(choice) })
            }
            other => {
                let found = self.type_text(other);
                self.checker.report(TypeProblem::Index { span: index.span, found, wanted: "a choice of experts" });
                None
            }
        }
    }

    /// The type of a value as a user would write it.
    fn type_text(&self, value: Value) -> String {
        match value {
            Value::Numbers { id, .. } | Value::Choice(id) => self.program.type_of(id).to_string(),
            Value::PerGroup { top: Some(n), .. } => format!("the {n} largest of each group"),
            Value::PerGroup { top: None, .. } => "the experts of each group".to_owned(),
            Value::Table(_) => "i32[vocab, k]".to_owned(),
            Value::TokenId(_) => "i32".to_owned(),
        }
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}
