//! Problems of a model that only someone who knows Mixture-of-Experts would see.

use super::{Code, Diagnostic, any_of, quoted};
use crate::span::Span;
use crate::spec::limits;

/// A model that says something impossible or unwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelProblem {
    /// Groups of unequal size.
    UnevenGroups {
        /// The group count.
        span: Span,
        experts: u32,
        groups: u32,
    },
    /// More picks than the chosen groups hold.
    PicksExceedGroups {
        /// The count of picks.
        span: Span,
        picks: u32,
        /// Chosen groups.
        chosen: u32,
        /// Experts in each.
        group_size: u32,
        /// Where the groups are chosen.
        groups: Span,
    },
    /// More picks than experts.
    PicksExceedExperts {
        /// The count of picks.
        span: Span,
        picks: u32,
        experts: u32,
    },
    /// More picks than the kernels handle.
    TooManyPicks {
        /// The count of picks.
        span: Span,
        picks: u32,
        most: u32,
    },
    /// More experts than the kernels handle.
    TooManyExperts {
        /// The count of experts.
        span: Span,
        experts: u32,
        most: u32,
    },
    /// More chosen groups than groups.
    TooManyGroups {
        /// The count of chosen groups.
        span: Span,
        /// Chosen groups.
        chosen: u32,
        groups: u32,
    },
    /// All groups are chosen.
    AllGroups {
        /// The count of chosen groups.
        span: Span,
        groups: u32,
    },
    /// More of each group than it has.
    TopExceedsGroup {
        /// The count.
        span: Span,
        /// How many of each group.
        count: u32,
        /// Experts in a group.
        group_size: u32,
    },
    /// A block of scales that does not divide a row.
    ScaleBlock {
        /// The block size.
        span: Span,
        /// Block size.
        block: u32,
        /// Row length.
        hidden: u32,
        /// Elements that a row must be a multiple of.
        step: u32,
    },
    /// A row that 16-byte copies cannot move.
    RowBytes {
        /// The row length.
        span: Span,
        /// Row length.
        hidden: u32,
        /// Bits of an element.
        bits: u32,
        /// Elements that a row must be a multiple of.
        step: u32,
        payload: &'static str,
    },
    /// An alignment that the kernels cannot honour.
    Alignment {
        /// The alignment.
        span: Span,
        /// The alignment.
        align: u32,
        most: u32,
    },
    /// An alignment where nothing is aligned.
    UselessAlignment {
        /// The alignment.
        span: Span,
        layout: String,
    },
    /// `padding` of a layout that has none.
    UselessPadding {
        /// The word.
        span: Span,
        /// The layout.
        layout: String,
    },
    /// A scale on a format that has none.
    ScaleNotTaken {
        /// The scale.
        span: Span,
        format: String,
    },
    /// No scale on a format that needs one.
    ScaleMissing {
        /// The format.
        span: Span,
        format: String,
        example: &'static str,
    },
    /// A scale format and block that do not exist for this payload.
    ScaleForm {
        /// The scale.
        span: Span,
        /// The payload format.
        format: String,
        /// The forms that exist.
        forms: Vec<String>,
    },
    /// Combine sends a format that loses too much.
    CombinePayload {
        /// The format.
        span: Span,
        format: String,
    },
    /// A zero range outside of the experts.
    ZeroOutside {
        /// The range.
        span: Span,
        /// Its last expert.
        last: u32,
        experts: u32,
    },
    /// A zero range that ends before it begins.
    ZeroReversed {
        /// The range.
        span: Span,
        /// Its first expert.
        first: u32,
        /// Its last expert.
        last: u32,
    },
    /// Two zero ranges that overlap.
    ZeroOverlap {
        /// The second range.
        span: Span,
        /// The first range.
        first: Span,
    },
    /// Every expert is a zero expert.
    AllZero {
        /// The ranges.
        span: Span,
    },
    /// A capacity below what even a perfectly balanced gate needs.
    CapacityBelowOne {
        /// The capacity.
        span: Span,
        written: String,
    },
    /// No rule says which picks are dropped.
    CapacityWithoutDrop {
        /// The capacity.
        span: Span,
    },
    /// Weights are applied before the experts and again after them.
    WeightedTwice {
        /// The combine setting.
        span: Span,
        /// The `weights` statement.
        weights: Span,
    },
    /// Weights on rows that belong to several experts.
    WeightedRankMajor {
        /// The combine setting.
        span: Span,
        layout: Span,
    },
    /// Weights that nothing applies.
    WeightsUnused {
        /// The combine setting.
        span: Span,
        /// The `weights` statement.
        weights: Span,
    },
    /// `fill:` without `in`.
    FillWithoutGroups {
        /// The argument.
        span: Span,
    },
    /// A table over a vocabulary of unknown size.
    VocabMissing {
        /// The dimension.
        span: Span,
    },
    /// Heads that are not as many for each head of keys and values.
    UnevenHeads {
        /// The heads of keys and values.
        span: Span,
        heads: u32,
        /// Heads of keys and values.
        key_value_heads: u32,
    },
    /// A window, a chunk or compression in more layers than the model has.
    LocalLayers {
        /// The number of layers.
        span: Span,
        layers: u32,
        /// Layers that see all tokens yet.
        left: u32,
        /// Layers with experts, and dense ones.
        all: u32,
        /// Those of them that are the encoder, and always see all tokens.
        encoder: u32,
    },
    /// An encoder of more layers than the model has.
    EncoderLayers {
        /// The number of layers.
        span: Span,
        layers: u32,
        /// Layers with experts, and dense ones.
        all: u32,
    },
    /// Heads that are not as many for each group of outputs.
    OutputGroups {
        /// The number of groups.
        span: Span,
        heads: u32,
        groups: u32,
    },
    /// A division of the weights by their sum that may be a division by zero.
    SumMayVanish { span: Span },
}

impl From<ModelProblem> for Diagnostic {
    fn from(problem: ModelProblem) -> Diagnostic {
        match problem {
            ModelProblem::UnevenGroups { span, experts, groups } => {
                Diagnostic::new(Code::UnevenGroups, format!("{experts} experts do not make {groups} equal groups"))
                    .label(span, format!("leaves {} over", experts % groups))
                    .help(format!("use a number of groups that divides {experts}: {}", divisors_near(experts, groups)))
            }
            ModelProblem::PicksExceedGroups { span, picks, chosen, group_size, groups } => {
                let held = u64::from(chosen) * u64::from(group_size);
                let needed = picks.div_ceil(group_size);
                Diagnostic::new(Code::PicksExceedGroups, format!("{picks} picks, but the chosen groups hold {held} experts"))
                    .label(span, format!("at most {held}"))
                    .label(groups, match chosen {
                        1 => format!("one group of {group_size} experts is chosen here"),
                        _ => format!("{chosen} groups of {group_size} experts are chosen here"),
                    })
                    .help(format!("choose at least {needed} groups, or at most {held} experts"))
            }
            ModelProblem::PicksExceedExperts { span, picks, experts } => {
                Diagnostic::new(Code::PicksExceedExperts, format!("{picks} picks from {experts} experts"))
                    .label(span, format!("at most {experts}"))
                    .help("a token goes to an expert at most once; choose fewer")
            }
            ModelProblem::TooManyPicks { span, picks, most } => {
                Diagnostic::new(Code::TooManyPicks, format!("{picks} picks per token are more than the kernels handle"))
                    .label(span, format!("at most {most}"))
                    .help(format!("choose at most {most} experts: one lane of a warp holds one pick"))
            }
            ModelProblem::TooManyExperts { span, experts, most } => {
                Diagnostic::new(Code::TooManyExperts, format!("{experts} experts are more than the kernels handle"))
                    .label(span, format!("at most {most}"))
                    .help(format!("use at most {most} experts in a layer"))
            }
            ModelProblem::TooManyGroups { span, chosen, groups } => {
                Diagnostic::new(Code::TooManyGroups, format!("{chosen} groups are chosen, but there are {groups}"))
                    .label(span, format!("at most {groups}"))
                    .help("choose fewer groups, or declare more with `experts N in G groups`")
            }
            ModelProblem::AllGroups { span, groups } => {
                Diagnostic::new(Code::AllGroups, format!("all {groups} groups are chosen, so the choice limits nothing"))
                    .label(span, "every group")
                    .help("choose fewer groups to bound the nodes of a token, or choose experts without `in`")
            }
            ModelProblem::TopExceedsGroup { span, count, group_size } => {
                Diagnostic::new(Code::TopExceedsGroup, format!("the {count} largest of a group of {group_size}"))
                    .label(span, format!("at most {group_size}"))
                    .help("take fewer, or write `group(v)` for the whole group")
            }
            ModelProblem::ScaleBlock { span, block, hidden, step } => {
                Diagnostic::new(Code::ScaleBlock, format!("blocks of {block} do not divide a row of {hidden}"))
                    .label(span, format!("leaves {} elements over", hidden.checked_rem(block).unwrap_or(hidden)))
                    .help(format!("make hidden a multiple of {step}, such as {}, or choose another payload", multiple(hidden, step)))
            }
            ModelProblem::RowBytes { span, hidden, bits, step, payload } => {
                let bytes = u64::from(hidden) * u64::from(bits);
                let bytes = if bytes.is_multiple_of(8) { (bytes / 8).to_string() } else { format!("{:.1}", bytes as f64 / 8.0) };
                Diagnostic::new(Code::RowBytes, format!("a row of the {payload} payload is not a multiple of 16 bytes"))
                    .label(span, format!("{hidden} × {bits} bits = {bytes} bytes"))
                    .note("rows are copied 16 bytes at a time")
                    .help(format!("make hidden a multiple of {step}, such as {}", multiple(hidden, step)))
            }
            ModelProblem::Alignment { span, align, most } => {
                let better = align.clamp(1, most).next_power_of_two();
                Diagnostic::new(Code::Alignment, format!("rows cannot be aligned to {align}"))
                    .label(span, format!("a power of two up to {most} is needed"))
                    .help(format!("write `align {better}`"))
                    .fix(span, better.to_string())
            }
            ModelProblem::UselessAlignment { span, layout } => {
                Diagnostic::new(Code::UselessAlignment, format!("{} aligns nothing", quoted(&layout)))
                    .label(span, "no experts to align here")
                    .help("remove `align`, or write `layout expert_major align 128`")
            }
            ModelProblem::UselessPadding { span, layout } => {
                Diagnostic::new(Code::UselessAlignment, format!("{} has no padding", quoted(&layout)))
                    .label(span, "no rows are between its experts")
                    .help("remove `padding`, or write `layout expert_major align 128 padding any`")
            }
            ModelProblem::ScaleNotTaken { span, format } => {
                Diagnostic::new(Code::ScaleNotTaken, format!("{} has no scales", quoted(&format)))
                    .label(span, "remove this")
                    .fix(span, "")
                    .help("scales belong to the formats of 8 bits and less, such as `fp8_e4m3`")
            }
            ModelProblem::ScaleMissing { span, format, example } => {
                Diagnostic::new(Code::ScaleMissing, format!("{} needs scales", quoted(&format)))
                    .label(span, "no `scale`")
                    .help(format!("write `payload {example}`"))
                    .fix(span, example)
            }
            ModelProblem::ScaleForm { span, format, forms } => {
                Diagnostic::new(Code::ScaleForm, format!("{} does not exist with these scales", quoted(&format)))
                    .label(span, "this format and block")
                    .help(format!("write {}", any_of(forms.iter().map(String::as_str))))
            }
            ModelProblem::CombinePayload { span, format } => {
                Diagnostic::new(Code::CombinePayload, format!("combine cannot send {}", quoted(&format)))
                    .label(span, "sums of experts need more precision")
                    .help("write `payload bf16`")
                    .fix(span, "bf16")
            }
            ModelProblem::ZeroOutside { span, last, experts } => {
                Diagnostic::new(Code::ZeroOutside, format!("expert {last} does not exist"))
                    .label(span, format!("experts are 0 to {}", experts.saturating_sub(1)))
                    .help("both ends of a range are expert ids, and both belong to it")
            }
            ModelProblem::ZeroReversed { span, first, last } => {
                Diagnostic::new(Code::ZeroReversed, format!("the range {first}..{last} ends before it begins"))
                    .label(span, "no expert")
                    .help(format!("write `zero {last}..{first}`"))
                    .fix(span, format!("zero {last}..{first}"))
            }
            ModelProblem::ZeroOverlap { span, first } => {
                Diagnostic::new(Code::ZeroOverlap, "two ranges of zero experts overlap")
                    .label(span, "this one")
                    .label(first, "and this one")
                    .help("name every zero expert once")
            }
            ModelProblem::AllZero { span } => Diagnostic::new(Code::AllZero, "no expert computes anything")
                .label(span, "covers all experts")
                .help("leave some experts out of the `zero` ranges"),
            ModelProblem::CapacityBelowOne { span, written } => {
                Diagnostic::new(Code::CapacityBelowOne, format!("a capacity of {written} drops picks even when the load is perfectly balanced"))
                    .label(span, "less than 1")
                    .help("write a factor of 1 or more, such as `capacity 1.25 drop lowest`")
            }
            ModelProblem::CapacityWithoutDrop { span } => {
                Diagnostic::new(Code::CapacityWithoutDrop, "it is not said which picks are dropped")
                    .label(span, "when an expert is full")
                    .help("add `drop lowest` (the smallest weights) or `drop position` (the last tokens)")
            }
            ModelProblem::WeightedTwice { span, weights } => {
                Diagnostic::new(Code::WeightedTwice, "weights would be applied twice")
                    .label(span, "here, to the output of the experts")
                    .label(weights, "and here, to their input")
                    .help("write `reduce f32 unweighted`, or remove `before experts`")
            }
            ModelProblem::WeightedRankMajor { span, layout } => {
                Diagnostic::new(Code::WeightedRankMajor, "combine cannot weigh rows that belong to several experts")
                    .label(span, "one weight per row is needed here")
                    .label(layout, "a row has all picks of its rank here")
                    .help("write `reduce f32 unweighted` and let the experts apply the weights, or `layout expert_major`")
            }
            ModelProblem::WeightsUnused { span, weights } => {
                Diagnostic::new(Code::WeightsUnused, "combine does not apply the weights")
                    .label(span, "sums the outputs as they are")
                    .label(weights, "these weights are left to the expert function")
                    .help("write `reduce f32 weighted` unless your experts multiply by the weights themselves")
            }
            ModelProblem::FillWithoutGroups { span } => {
                Diagnostic::new(Code::FillWithoutGroups, "`fill:` has nothing to fill")
                    .label(span, "no expert is masked")
                    .help("it belongs to `top(k, experts in best, by: v, fill: 0.0)`")
            }
            ModelProblem::VocabMissing { span } => {
                Diagnostic::new(Code::VocabMissing, "the size of the vocabulary is not known")
                    .label(span, "used here")
                    .help("add `vocab 129280` to the model, or write the number here")
            }
            ModelProblem::UnevenHeads { span, heads, key_value_heads } => {
                let title = format!("{heads} heads do not share {key_value_heads} heads of keys and values evenly");
                Diagnostic::new(Code::UnevenHeads, title)
                    .label(span, format!("leaves {} over", heads % key_value_heads))
                    .help(format!("use a number that divides {heads}: {}", divisors_near(heads, key_value_heads)))
            }
            ModelProblem::LocalLayers { span, layers, left, all, encoder } => {
                let of_them = match encoder {
                    0 => String::new(),
                    encoder => format!(", of which the {encoder} of the encoder see all tokens"),
                };
                Diagnostic::new(Code::LocalLayers, format!("{layers} layers are said to see part of the tokens, of {left}"))
                    .label(span, format!("at most {left}"))
                    .note(format!("the model has {all} layers, `moe_layers` and `dense_layers` together{of_them}"))
                    .help(match left {
                        0 => "remove it: it is said of every layer already what it sees".to_owned(),
                        left => format!("write `in {left} layers`, or fewer"),
                    })
            }
            ModelProblem::EncoderLayers { span, layers, all } => {
                Diagnostic::new(Code::EncoderLayers, format!("an encoder of {layers} layers, of {all} in all"))
                    .label(span, format!("at most {all}"))
                    .note(format!("the model has {all} layers, `moe_layers` and `dense_layers` together, those of the decoder included"))
                    .help(format!("write `encoder_layers {}`, or say how many layers there are", all.div_ceil(2)))
            }
            ModelProblem::OutputGroups { span, heads, groups } => {
                Diagnostic::new(Code::OutputGroups, format!("{heads} heads do not make {groups} equal groups of outputs"))
                    .label(span, format!("leaves {} over", heads % groups))
                    .help(format!("use a number of groups that divides {heads}: {}", divisors_near(heads, groups)))
            }
            ModelProblem::SumMayVanish { span } => {
                Diagnostic::new(Code::SumMayVanish, "this sum can be zero, and zero by zero is not a number")
                    .label(span, "no `eps:` and no `floor:`")
                    .note("`relu` gives zeros; when all chosen values are zero the weights are NaN, which is an error at run time")
                    .help("write `normalize(w, eps: 1e-20)` or `normalize(w, floor: 1e-12)`")
            }
        }
    }
}

/// The nearest multiple of `step`, up, or down where the language has no larger rows.
fn multiple(hidden: u32, step: u32) -> u32 {
    let up = hidden.next_multiple_of(step);
    if up <= limits::HIDDEN { up } else { limits::HIDDEN - limits::HIDDEN % step }
}

/// The nearest divisors below and above, in words.
fn divisors_near(number: u32, wanted: u32) -> String {
    let below = (1..wanted.min(number.saturating_add(1))).rev().find(|divisor| number.is_multiple_of(*divisor));
    let above = (wanted + 1..=number).find(|divisor| number.is_multiple_of(*divisor));
    let both: Vec<String> = [below, above].into_iter().flatten().map(|divisor| divisor.to_string()).collect();
    both.join(" or ")
}
