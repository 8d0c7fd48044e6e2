//! Checks a model.

use moe_contract::{Format, Padding, RowLayout, Scales};

use super::Checker;
use super::settings::{Owner, Slot, described};
use super::surroundings::Around;
use crate::diagnostics::{ModelProblem, NameProblem, UnitProblem, WordKind};
use crate::span::Span;
use crate::spec::{Capacity, CapacityLimit, Combine, Dispatch, DropRule, ExpertRange, Model, ModelPlaces, limits};
use crate::syntax::ast::{
    self, Block, CombineSetting, Declaration, DispatchSetting, ModelSetting, Name, Quantity, ZeroRange,
};
use crate::units::{Dimension, Tokens, nearest_f32, well_formed};

/// What stands between the element and the scales in the name of a format.
const SCALE: &str = " scale ";

/// The experts of a model, as declared.
#[derive(Clone)]
pub(super) struct Experts {
    pub(super) count: u32,
    pub(super) groups: Option<u32>,
    pub(super) zero: Vec<ExpertRange>,
    /// Where the count stands.
    pub(super) place: Span,
    /// Where those that compute nothing stand.
    pub(super) zero_place: Span,
}

/// A value and where it stands.
#[derive(Clone, Copy)]
struct Placed<T> {
    value: T,
    place: Span,
}

struct DispatchParts {
    payload: Option<Placed<Format>>,
    layout: Option<Placed<RowLayout>>,
}

struct CombineParts {
    payload: Option<Placed<Format>>,
    weighted: Option<Placed<bool>>,
}

impl Checker<'_> {
    pub(super) fn model(&mut self, model: &Declaration<ModelSetting>) -> Option<Model> {
        let mut hidden = Slot::new("hidden");
        let mut experts = Slot::new("experts");
        let mut shared = Slot::new("shared");
        let mut moe_layers = Slot::new("moe_layers");
        let mut expert_ffn = Slot::new("expert_ffn");
        let mut vocab = Slot::new("vocab");
        let mut capacity = Slot::new("capacity");
        let mut gate = Slot::new("gate");
        let mut dispatch = Slot::new("dispatch");
        let mut combine = Slot::new("combine");
        let mut around = Around::new();
        for setting in &model.block.settings {
            let span = setting.span;
            match &setting.kind {
                ModelSetting::Hidden(value) => {
                    let count = self.count(value, "hidden", 1, limits::HIDDEN);
                    let placed = count.map(|count| Placed { value: count, place: value.span });
                    hidden.set(self, span, placed);
                }
                ModelSetting::Experts { count, groups, zero } => {
                    let value = self.experts(count, groups.as_ref(), zero.as_ref());
                    experts.set(self, span, value);
                }
                ModelSetting::Shared(value) => {
                    let count = self.count(value, "shared", 0, limits::EXPERTS);
                    shared.set(self, span, count);
                }
                ModelSetting::MoeLayers(value) => {
                    let count = self.count(value, "moe_layers", 1, limits::LAYERS);
                    moe_layers.set(self, span, count);
                }
                ModelSetting::ExpertFfn { width, ungated } => {
                    let count = self.count(width, "expert_ffn", 1, limits::FFN);
                    expert_ffn.set(self, span, count.map(|width| (width, !ungated)));
                }
                ModelSetting::Vocab(value) => {
                    let count = self.count(value, "vocab", 1, limits::COUNT);
                    vocab.set(self, span, count);
                }
                ModelSetting::Capacity { limit, drop } => {
                    let value = self.capacity(span, limit, drop.as_ref());
                    capacity.set(self, span, value);
                }
                // The body is checked below, when the experts are known.
                ModelSetting::Gate(value) => gate.set(self, span, Some(value)),
                ModelSetting::Dispatch(block) => {
                    let value = self.dispatch(block);
                    dispatch.set(self, span, Some(value));
                }
                ModelSetting::Combine(block) => {
                    let value = self.combine(block);
                    combine.set(self, span, Some(value));
                }
                ModelSetting::Attention { .. }
                | ModelSetting::EncoderLayers(_)
                | ModelSetting::Streams(_)
                | ModelSetting::DenseLayers(_)
                | ModelSetting::DenseFfn { .. }
                | ModelSetting::Embeddings(_) => around.take(self, &setting.kind, span),
            }
        }
        let owner =
            Owner { span: model.name.span, described: described("model", &model.name), damaged: model.block.damaged };
        let hidden = hidden.needed(self, &owner, "hidden 7168");
        let experts = experts.needed(self, &owner, "experts 256 in 8 groups");
        let vocab_given = vocab.place().is_some();
        if around.said() {
            vocab.demand(self, &owner, "vocab 129280");
        }
        let vocab = vocab.optional();
        let moe_layers = moe_layers.or(1);
        let surroundings =
            around.said().then(|| around.finish(self, &owner, vocab, moe_layers.unwrap_or(limits::LAYERS))).flatten();
        let gate_place = gate.place();
        let gate = gate.needed(self, &owner, "gate(logits: f32[experts]) { … }");
        let checked_gate = match (gate, &experts) {
            (Some(gate), Some(experts)) => self.gate(gate, gate_place.unwrap_or_default(), experts, vocab, vocab_given),
            _ => None,
        };
        let dispatch = dispatch.or(DispatchParts { payload: None, layout: None });
        let combine = combine.or(CombineParts { payload: None, weighted: None });
        let (Some(dispatch), Some(combine)) = (dispatch, combine) else { return None };
        if let Some(hidden) = hidden {
            let rows = [("dispatch", dispatch.payload), ("combine", combine.payload)];
            for (name, payload) in rows {
                self.row(hidden, payload, name);
            }
        }
        let before_experts = checked_gate.as_ref().is_some_and(|gate| gate.before_experts);
        self.weighting(gate, combine.weighted, dispatch.layout, before_experts);
        let layout = dispatch.layout.map_or(RowLayout::expert_major(1), |layout| layout.value);
        let (hidden, experts, gate) = (hidden?, experts?, checked_gate?);
        Some(Model {
            name: model.name.text.clone(),
            hidden: hidden.value,
            experts: experts.count,
            groups: experts.groups,
            shared: shared.or(0)?,
            zero_experts: experts.zero,
            moe_layers: moe_layers?,
            expert_ffn: expert_ffn.value().map(|(width, _)| *width),
            gated: expert_ffn.value().is_none_or(|(_, gated)| *gated),
            surroundings,
            vocab,
            dispatch: Dispatch { payload: dispatch.payload.map_or(Format::BF16, |payload| payload.value), layout },
            combine: Combine {
                payload: combine.payload.map_or(Format::BF16, |payload| payload.value),
                weighted: combine
                    .weighted
                    .map_or_else(|| !gate.before_experts && layout.by_expert(), |weighted| weighted.value),
            },
            gate,
            capacity: capacity.optional(),
            places: ModelPlaces {
                name: model.name.span,
                zero_experts: experts.zero_place,
                dispatch_payload: dispatch.payload.map_or(model.name.span, |payload| payload.place),
                layout: dispatch.layout.map_or(model.name.span, |layout| layout.place),
            },
        })
    }

    fn experts(
        &mut self,
        count: &Quantity,
        groups: Option<&Quantity>,
        zero: Option<&Block<ZeroRange>>,
    ) -> Option<Experts> {
        let place = count.span;
        let experts = self.count(count, "experts", 1, limits::COUNT)?;
        if experts > limits::EXPERTS {
            self.report(ModelProblem::TooManyExperts { span: place, experts, most: limits::EXPERTS });
            return None;
        }
        let groups = match groups {
            None => None,
            Some(quantity) => {
                let groups = self.count(quantity, "groups", 1, limits::COUNT)?;
                if !experts.is_multiple_of(groups) {
                    self.report(ModelProblem::UnevenGroups { span: quantity.span, experts, groups });
                    return None;
                }
                Some(groups)
            }
        };
        let mut ranges: Vec<(ExpertRange, Span)> = Vec::new();
        for setting in zero.iter().flat_map(|block| &block.settings) {
            ranges.extend(self.zero_range(&setting.kind, setting.span, experts));
        }
        ranges.sort_by_key(|(range, _)| range.first);
        for pair in ranges.windows(2) {
            if pair[1].0.first <= pair[0].0.last {
                let (earlier, later) = (pair[0].1.min(pair[1].1), pair[0].1.max(pair[1].1));
                self.report(ModelProblem::ZeroOverlap { span: later, first: earlier });
                return None;
            }
        }
        let zero: Vec<ExpertRange> = ranges.iter().map(|(range, _)| *range).collect();
        let zero_place = ranges.iter().map(|(_, span)| *span).reduce(Span::to).unwrap_or_default();
        if zero.iter().map(|range| range.count()).sum::<u32>() == experts {
            self.report(ModelProblem::AllZero { span: zero_place });
            return None;
        }
        Some(Experts { count: experts, groups, zero, place, zero_place })
    }

    fn zero_range(&mut self, range: &ZeroRange, span: Span, experts: u32) -> Option<(ExpertRange, Span)> {
        let first = self.count(&range.first, "zero", 0, limits::COUNT)?;
        let last = self.count(&range.last, "zero", 0, limits::COUNT)?;
        if last < first {
            self.report(ModelProblem::ZeroReversed { span, first, last });
            return None;
        }
        if last >= experts {
            self.report(ModelProblem::ZeroOutside { span, last, experts });
            return None;
        }
        Some((ExpertRange { first, last }, span))
    }

    fn capacity(&mut self, span: Span, limit: &Quantity, drop: Option<&Name>) -> Option<Capacity> {
        let number = &limit.number;
        let limit = if limit.unit.is_some() {
            let tokens = self.measure(limit, "capacity", Dimension::Tokens);
            // `measure` keeps it at or below the largest count.
            tokens.and_then(|tokens| u32::try_from(tokens).ok()).map(|tokens| CapacityLimit::Tokens(Tokens(tokens)))
        } else {
            self.capacity_factor(&number.text, number.span).map(CapacityLimit::Factor)
        };
        let Some(drop) = drop else {
            self.report(ModelProblem::CapacityWithoutDrop { span });
            return None;
        };
        let rules = [DropRule::Lowest, DropRule::Position];
        let drop = self.word(drop, WordKind::Drop, &["lowest", "position"], &rules);
        Some(Capacity { limit: limit?, drop: drop? })
    }

    /// A multiple of the mean load: at most that of an expert that every token picks.
    fn capacity_factor(&mut self, text: &str, span: Span) -> Option<f32> {
        if !well_formed(text) {
            return None; // The lexer has said so.
        }
        let (factor, number) = (nearest_f32(text), text.to_owned());
        if factor == 0.0 {
            self.report(UnitProblem::Zero { span, what: "`capacity`".to_owned(), least: "a factor of 1 or more" });
            return None;
        }
        if factor > limits::EXPERTS as f32 {
            let most = format!("{}, the mean load times all experts", limits::EXPERTS);
            self.report(UnitProblem::TooLarge { span, number, most });
            return None;
        }
        if factor < 1.0 {
            self.report(ModelProblem::CapacityBelowOne { span, written: number });
        }
        Some(factor)
    }

    fn dispatch(&mut self, block: &Block<DispatchSetting>) -> DispatchParts {
        let mut payload = Slot::new("payload");
        let mut layout = Slot::new("layout");
        for setting in &block.settings {
            match &setting.kind {
                DispatchSetting::Payload(written) => {
                    let value = self.payload(written);
                    payload.set(self, setting.span, value);
                }
                DispatchSetting::Layout { name, align, padding } => {
                    let value = self.layout(name, align.as_ref());
                    let value = value.and_then(|layout| self.padding(layout, padding.as_ref()));
                    layout.set(self, setting.span, value);
                }
            }
        }
        DispatchParts { payload: payload.optional(), layout: layout.optional() }
    }

    fn padding(&mut self, layout: Placed<RowLayout>, written: Option<&Name>) -> Option<Placed<RowLayout>> {
        let Some(word) = written else { return Some(layout) };
        let padding = self.word(word, WordKind::Padding, &Padding::ALL.map(Padding::name), &Padding::ALL)?;
        let Placed { value, place } = layout;
        if value.align().is_none_or(|align| align == 1) {
            self.report(ModelProblem::UselessPadding { span: word.span, layout: value.to_string() });
            return None;
        }
        Some(Placed { value: value.padded(padding), place })
    }

    fn layout(&mut self, name: &Name, align: Option<&Quantity>) -> Option<Placed<RowLayout>> {
        let known: Vec<&'static str> = RowLayout::KNOWN.iter().map(|layout| layout.name()).collect();
        let layout = self.word(name, WordKind::Layout, &known, RowLayout::KNOWN)?;
        let place = name.span;
        let Some(written) = align else {
            return Some(Placed { value: layout, place });
        };
        if layout.align().is_none() {
            self.report(ModelProblem::UselessAlignment { span: written.span, layout: name.text.clone() });
            return None;
        }
        let align = self.count(written, "align", 1, limits::COUNT)?;
        if !align.is_power_of_two() || align > limits::ALIGNMENT {
            self.report(ModelProblem::Alignment { span: written.span, align, most: limits::ALIGNMENT });
            return None;
        }
        Some(Placed { value: layout.aligned(align), place })
    }

    fn combine(&mut self, block: &Block<CombineSetting>) -> CombineParts {
        let mut payload = Slot::new("payload");
        let mut weighted = Slot::new("reduce");
        for setting in &block.settings {
            match &setting.kind {
                CombineSetting::Payload(written) => {
                    let value = self.payload(written).filter(|placed| {
                        let precise = placed.value.scales.is_none();
                        if !precise {
                            let format = written.format.text.clone();
                            let scale = written.scale.as_ref().map_or(written.format.span, |scale| scale.span);
                            self.report(ModelProblem::CombinePayload { span: written.format.span.to(scale), format });
                        }
                        precise
                    });
                    payload.set(self, setting.span, value);
                }
                CombineSetting::Reduce { accumulate, weighting } => {
                    let sum = self.word(accumulate, WordKind::Accumulate, &["f32"], &[()]);
                    let value = self.word(weighting, WordKind::Weighting, &["weighted", "unweighted"], &[true, false]);
                    let value = sum.and(value).map(|value| Placed { value, place: weighting.span });
                    weighted.set(self, setting.span, value);
                }
            }
        }
        CombineParts { payload: payload.optional(), weighted: weighted.optional() }
    }

    fn payload(&mut self, written: &ast::Payload) -> Option<Placed<Format>> {
        let format = &written.format;
        let place = format.span;
        let elements = distinct(Format::spoken().map(|spoken| element_of(spoken.name)));
        let element = self.word(format, WordKind::Payload, &elements, &elements)?;
        let plain = Format::spoken().find(|spoken| spoken.name == element).map(|spoken| spoken.format);
        let value = match (plain, &written.scale) {
            (Some(payload), None) => payload,
            (Some(_), Some(scale)) => {
                self.report(ModelProblem::ScaleNotTaken { span: scale.span, format: format.text.clone() });
                return None;
            }
            (None, None) => {
                // The word is the beginning of a name.
                let example = Format::spoken().map(|spoken| spoken.name).find(|name| element_of(name) == element)?;
                self.report(ModelProblem::ScaleMissing { span: place, format: format.text.clone(), example });
                return None;
            }
            (None, Some(scale)) => self.scaled(element, scale)?,
        };
        Some(Placed { value, place })
    }

    fn scaled(&mut self, element: &'static str, scale: &ast::Scale) -> Option<Format> {
        let of_name = |name: &'static str| Some((element_of(name), name.split_once(SCALE)?.1));
        let scales: Vec<(&'static str, &'static str)> =
            Format::spoken().filter_map(|spoken| of_name(spoken.name)).collect();
        let words = distinct(scales.iter().filter_map(|(_, form)| form.split_whitespace().next()));
        let word = self.word(&scale.format, WordKind::Scale, &words, &words)?;
        let block = self.count(&scale.block, "scale", 1, limits::COUNT)?;
        let name = format!("{element}{SCALE}{word} per {block}");
        let found = Format::spoken().find(|spoken| spoken.name == name).map(|spoken| spoken.format);
        if found.is_none() {
            let forms =
                scales.iter().filter(|(of, _)| *of == element).map(|(_, form)| format!("scale {form}")).collect();
            self.report(ModelProblem::ScaleForm { span: scale.span, format: element.to_owned(), forms });
        }
        found
    }

    /// Rows must be made of whole blocks of scales and of 16-byte pieces.
    fn row(&mut self, hidden: Placed<u32>, payload: Option<Placed<Format>>, name: &'static str) {
        let span = hidden.place;
        let value = payload.map_or(Format::BF16, |payload| payload.value);
        let (bits, hidden) = (value.element.bits(), hidden.value);
        let pieces = limits::ROW_BYTES * 8 / bits;
        // Both are powers of two.
        let step = value.scales.map_or(pieces, |scales| scales.block.max(pieces));
        if let (Some(Scales { block, .. }), Some(payload)) = (value.scales, payload)
            && !hidden.is_multiple_of(block)
        {
            self.report(ModelProblem::ScaleBlock { span: payload.place, block, hidden, step });
        } else if !hidden.is_multiple_of(pieces) {
            self.report(ModelProblem::RowBytes { span, hidden, bits, step, payload: name });
        }
    }

    fn weighting(
        &mut self,
        gate: Option<&ast::Gate>,
        weighted: Option<Placed<bool>>,
        layout: Option<Placed<RowLayout>>,
        before_experts: bool,
    ) {
        let rank_major = layout.filter(|layout| !layout.value.by_expert());
        let weights = gate.and_then(|gate| {
            let statement =
                |setting: &&ast::Setting<ast::Statement>| matches!(setting.kind, ast::Statement::Weights { .. });
            gate.body.settings.iter().find(statement).map(|setting| setting.span)
        });
        if let (Some(weights), Some(combine)) = (weights, weighted) {
            let span = combine.place;
            match (before_experts, combine.value) {
                (false, true) => {
                    if let Some(layout) = rank_major {
                        self.report(ModelProblem::WeightedRankMajor { span, layout: layout.place });
                    }
                }
                (false, false) if rank_major.is_some() => {} // The experts see all weights of a row.
                (true, true) => self.report(ModelProblem::WeightedTwice { span, weights }),
                (false, false) => self.report(ModelProblem::WeightsUnused { span, weights }),
                _ => {}
            }
        }
    }
}

/// A name that a gate cannot define.
pub(super) fn reserved(name: &Name) -> NameProblem {
    NameProblem::Reserved { span: name.span, name: name.text.clone() }
}

/// The word for the elements in the name of a format.
fn element_of(name: &'static str) -> &'static str {
    name.split_once(SCALE).map_or(name, |(element, _)| element)
}

/// Each word once, in the order of their first places.
fn distinct(words: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    let mut distinct = Vec::new();
    for word in words {
        if !distinct.contains(&word) {
            distinct.push(word);
        }
    }
    distinct
}
