//! Checks what surrounds the experts of a model: said whole, or not at all.

use super::Checker;
use super::settings::{Owner, Slot};
use crate::diagnostics::{ModelProblem, WordKind};
use crate::spec::{Attention, Dense, Heads, Local, Reach, Surroundings, limits};
use crate::syntax::Span;
use crate::syntax::ast::{AttentionSetting, Block, ModelSetting};
use crate::syntax::token::Keyword;

/// The settings of a model that say what surrounds its experts.
pub(super) struct Around {
    attention: Slot<Seen>,
    dense_layers: Slot<u32>,
    dense_ffn: Slot<(u32, bool)>,
    tied_embeddings: Slot<bool>,
}

/// An attention, and where the number of layers of each of its local ones stands.
struct Seen {
    attention: Attention,
    places: Vec<Span>,
}

impl Around {
    pub(super) fn new() -> Around {
        Around {
            attention: Slot::new("attention"),
            dense_layers: Slot::new("dense_layers"),
            dense_ffn: Slot::new("dense_ffn"),
            tied_embeddings: Slot::new("embeddings"),
        }
    }

    /// Takes a setting, if it is one of these.
    pub(super) fn take(&mut self, checker: &mut Checker<'_>, setting: &ModelSetting, span: Span) {
        match setting {
            ModelSetting::Attention { kind, block } => {
                let value = checker.attention(*kind, block, span);
                self.attention.set(checker, span, value);
            }
            ModelSetting::DenseLayers(value) => {
                let count = checker.count(value, "dense_layers", 1, limits::LAYERS);
                self.dense_layers.set(checker, span, count);
            }
            ModelSetting::DenseFfn { width, beside_experts } => {
                let width = checker.count(width, "dense_ffn", 1, limits::FFN);
                self.dense_ffn.set(checker, span, width.map(|width| (width, *beside_experts)));
            }
            ModelSetting::Embeddings(word) => {
                let tied = checker.word(word, WordKind::Embeddings, &["tied", "separate"], &[true, false]);
                self.tied_embeddings.set(checker, span, tied);
            }
            _ => {}
        }
    }

    /// Whether the file says any of it.
    pub(super) fn said(&self) -> bool {
        let places =
            [self.attention.place(), self.dense_layers.place(), self.dense_ffn.place(), self.tied_embeddings.place()];
        places.iter().any(Option::is_some)
    }

    /// All of it; nothing where an error was reported.
    pub(super) fn finish(
        self,
        checker: &mut Checker<'_>,
        owner: &Owner,
        vocab: Option<u32>,
        moe_layers: u32,
    ) -> Option<Surroundings> {
        let attention =
            self.attention.needed(checker, owner, "attention grouped { heads 64   key_value_heads 8   head 128 }");
        let ffn_given = self.dense_ffn.place().is_some();
        let beside_experts = self.dense_ffn.value().is_some_and(|(_, beside)| *beside);
        let layers_needed = ffn_given && !beside_experts;
        let ffn_needed = self.dense_layers.place().is_some();
        let layers = if layers_needed {
            self.dense_layers.needed(checker, owner, "dense_layers 3")
        } else {
            self.dense_layers.or(0)
        };
        let ffn = if ffn_needed {
            self.dense_ffn.needed(checker, owner, "dense_ffn 18432")
        } else {
            self.dense_ffn.optional()
        };
        let (Seen { attention, places }, layers) = (attention?, layers?);
        let all = moe_layers.saturating_add(layers);
        let mut left = all;
        for (local, span) in attention.local.iter().zip(places) {
            if local.layers > left {
                checker.report(ModelProblem::LocalLayers { span, layers: local.layers, left, all });
            }
            left = left.saturating_sub(local.layers);
        }
        Some(Surroundings {
            attention,
            dense: ffn.map(|(ffn, _)| Dense { layers, ffn, beside_experts }),
            vocab: vocab?,
            tied_embeddings: self.tied_embeddings.or(false)?,
        })
    }
}

impl Checker<'_> {
    fn attention(&mut self, kind: Keyword, block: &Block<AttentionSetting>, span: Span) -> Option<Seen> {
        let mut heads = Slot::new("heads");
        let mut query_rank = Slot::new("query_rank");
        let mut key_value_rank = Slot::new("key_value_rank");
        let mut rope = Slot::new("rope");
        let mut nope = Slot::new("nope");
        let mut value = Slot::new("value");
        let mut key_value_heads = Slot::new("key_value_heads");
        let mut head = Slot::new("head");
        let (mut local, mut places) = (Vec::new(), Vec::new());
        for setting in &block.settings {
            let AttentionSetting { name, value: number, layers } = &setting.kind;
            let (slot, least, most) = match name {
                Keyword::Heads => (&mut heads, 1, limits::HEADS),
                Keyword::KeyValueHeads => (&mut key_value_heads, 1, limits::HEADS),
                Keyword::QueryRank => (&mut query_rank, 1, limits::WIDTH),
                Keyword::KeyValueRank => (&mut key_value_rank, 1, limits::WIDTH),
                Keyword::Rope => (&mut rope, 0, limits::WIDTH),
                Keyword::Nope => (&mut nope, 0, limits::WIDTH),
                Keyword::Value => (&mut value, 1, limits::WIDTH),
                Keyword::Head => (&mut head, 1, limits::WIDTH),
                _ => {
                    let tokens = self.count(number, name.text(), 1, limits::COUNT);
                    let count = layers.as_ref().and_then(|layers| self.count(layers, "layers", 1, limits::LAYERS));
                    if let (Some(tokens), Some(layers), Some(written)) = (tokens, count, layers) {
                        let reach = if *name == Keyword::Window { Reach::Window(tokens) } else { Reach::Chunk(tokens) };
                        local.push(Local { reach, layers });
                        places.push(written.span);
                    }
                    continue;
                }
            };
            let count = self.count(number, name.text(), least, most);
            slot.set(self, setting.span, count);
        }
        let described = format!("this `attention {}`", kind.text());
        let owner = Owner { span: Span::new(span.start, block.span.start), described, damaged: block.damaged };
        let count = heads.needed(self, &owner, "heads 64");
        let heads = if kind == Keyword::Latent {
            let key_value_rank = key_value_rank.needed(self, &owner, "key_value_rank 512");
            let rope = rope.needed(self, &owner, "rope 64");
            let nope = nope.needed(self, &owner, "nope 128");
            let value = value.needed(self, &owner, "value 128");
            Heads::Latent {
                heads: count?,
                query_rank: query_rank.optional(),
                key_value_rank: key_value_rank?,
                rope: rope?,
                nope: nope?,
                value: value?,
            }
        } else {
            let place = key_value_heads.place();
            let key_value_heads = key_value_heads.needed(self, &owner, "key_value_heads 8");
            let head = head.needed(self, &owner, "head 128");
            let (heads, key_value_heads) = (count?, key_value_heads?);
            if let Some(span) = place
                && !heads.is_multiple_of(key_value_heads)
            {
                self.report(ModelProblem::UnevenHeads { span, heads, key_value_heads });
            }
            Heads::Grouped { heads, key_value_heads, head: head? }
        };
        Some(Seen { attention: Attention { heads, local }, places })
    }
}
