//! Checks what surrounds the experts of a model: said whole, or not at all.

use super::Checker;
use super::settings::{Owner, Slot};
use crate::diagnostics::{ModelProblem, WordKind};
use crate::span::Span;
use crate::spec::{Attention, Compression, Dense, Heads, Index, Local, Reach, Surroundings, limits};
use crate::syntax::ast::{AttentionSetting, Block, ModelSetting};
use crate::token::Keyword;

/// The settings of a model that say what surrounds its experts.
pub(super) struct Around {
    attention: Slot<Seen>,
    encoder_layers: Slot<(u32, Span)>,
    streams: Slot<u32>,
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
            encoder_layers: Slot::new("encoder_layers"),
            streams: Slot::new("streams"),
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
            ModelSetting::EncoderLayers(value) => {
                let count = placed(checker.count(value, "encoder_layers", 1, 2 * limits::LAYERS), value.span);
                self.encoder_layers.set(checker, span, count);
            }
            ModelSetting::Streams(value) => {
                let count = checker.count(value, "streams", 1, limits::STREAMS);
                self.streams.set(checker, span, count);
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
        let places = [
            self.attention.place(),
            self.encoder_layers.place(),
            self.streams.place(),
            self.dense_layers.place(),
            self.dense_ffn.place(),
            self.tied_embeddings.place(),
        ];
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
        let encoder_layers = match self.encoder_layers.place() {
            None => 0,
            Some(_) => {
                let (layers, span) = self.encoder_layers.optional()?;
                if layers > all {
                    checker.report(ModelProblem::EncoderLayers { span, layers, all });
                }
                layers
            }
        };
        let mut left = all.saturating_sub(encoder_layers);
        for (local, span) in attention.local.iter().zip(places) {
            if local.layers > left {
                let problem =
                    ModelProblem::LocalLayers { span, layers: local.layers, left, all, encoder: encoder_layers };
                checker.report(problem);
            }
            left = left.saturating_sub(local.layers);
        }
        Some(Surroundings {
            attention,
            encoder_layers,
            streams: self.streams.or(1)?,
            dense: ffn.map(|(ffn, _)| Dense { layers, ffn, beside_experts }),
            vocab: vocab?,
            tied_embeddings: self.tied_embeddings.or(false)?,
        })
    }
}

fn placed(count: Option<u32>, span: Span) -> Option<(u32, Span)> {
    count.map(|count| (count, span))
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
        let mut output_rank = Slot::new("output_rank");
        let mut output_groups = Slot::new("output_groups");
        let (mut local, mut places) = (Vec::new(), Vec::new());
        for setting in &block.settings {
            let AttentionSetting { name, value: number, layers, block } = &setting.kind;
            let (slot, least, most) = match name {
                Keyword::Heads => (&mut heads, 1, limits::HEADS),
                Keyword::KeyValueHeads => (&mut key_value_heads, 1, limits::HEADS),
                Keyword::QueryRank => (&mut query_rank, 1, limits::WIDTH),
                Keyword::KeyValueRank => (&mut key_value_rank, 1, limits::WIDTH),
                Keyword::Rope => (&mut rope, 0, limits::WIDTH),
                Keyword::Nope => (&mut nope, 0, limits::WIDTH),
                Keyword::Value => (&mut value, 1, limits::WIDTH),
                Keyword::Head => (&mut head, 1, limits::WIDTH),
                Keyword::OutputRank => (&mut output_rank, 1, limits::WIDTH),
                Keyword::OutputGroups => (&mut output_groups, 1, limits::HEADS),
                _ => {
                    let tokens = self.count(number, name.text(), 1, limits::COUNT);
                    let count = layers.as_ref().and_then(|layers| self.count(layers, "layers", 1, limits::LAYERS));
                    let reach = tokens.and_then(|tokens| match name {
                        Keyword::Window => Some(Reach::Window(tokens)),
                        Keyword::Chunk => Some(Reach::Chunk(tokens)),
                        _ => self.compression(tokens, block.as_ref(), setting.span).map(Reach::Compressed),
                    });
                    if let (Some(reach), Some(layers), Some(written)) = (reach, count, layers) {
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
        let heads = if kind == Keyword::Single {
            let head = head.needed(self, &owner, "head 512");
            let groups_given = output_groups.place();
            let (rank, groups) = (
                if groups_given.is_some() {
                    output_rank.needed(self, &owner, "output_rank 1024")
                } else {
                    output_rank.optional()
                },
                output_groups.or(1),
            );
            let (heads, groups) = (count?, groups?);
            if let Some(span) = groups_given
                && !heads.is_multiple_of(groups)
            {
                self.report(ModelProblem::OutputGroups { span, heads, groups });
            }
            Heads::Single {
                heads,
                query_rank: query_rank.optional(),
                head: head?,
                output_rank: rank,
                output_groups: groups,
            }
        } else if kind == Keyword::Latent {
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
    /// `compress 4 in 21 layers { … }`
    fn compression(&mut self, ratio: u32, block: Option<&Block<AttentionSetting>>, span: Span) -> Option<Compression> {
        let mut near = Slot::new("near");
        let mut pieces = Slot::new("pieces");
        let mut heads = Slot::new("index_heads");
        let mut head = Slot::new("index_head");
        let mut top = Slot::new("top");
        for setting in block.into_iter().flat_map(|block| &block.settings) {
            let AttentionSetting { name, value: number, .. } = &setting.kind;
            let (slot, most) = match name {
                Keyword::Pieces => (&mut pieces, limits::PIECES),
                Keyword::IndexHeads => (&mut heads, limits::HEADS),
                Keyword::IndexHead => (&mut head, limits::WIDTH),
                Keyword::Top => (&mut top, limits::COUNT),
                _ => (&mut near, limits::COUNT),
            };
            let count = self.count(number, name.text(), 1, most);
            slot.set(self, setting.span, count);
        }
        // What chooses is said whole, or not at all.
        let chosen = [&heads, &head, &top].iter().any(|slot| slot.place().is_some());
        let index = if chosen {
            let owner = Owner {
                span: Span::new(span.start, block.map_or(span.end, |block| block.span.start)),
                described: "what chooses among the keys of this `compress`".to_owned(),
                damaged: block.is_some_and(|block| block.damaged),
            };
            let heads = heads.needed(self, &owner, "index_heads 64");
            let head = head.needed(self, &owner, "index_head 128");
            let top = top.needed(self, &owner, "top 512");
            Some(Index { heads: heads?, head: head?, top: top? })
        } else {
            None
        };
        Some(Compression { ratio, pieces: pieces.or(1)?, near: near.optional(), index })
    }
}
