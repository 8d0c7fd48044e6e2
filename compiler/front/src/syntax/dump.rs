//! The tree as text, one node a line, without places: two files mean the same exactly when their dumps are equal.

use std::fmt::{Display, Write as _};

use super::ast::{
    AttentionSetting, Block, ClusterSetting, CombineSetting, DeploySetting, DispatchSetting, Expression,
    ExpressionKind, File, Gate, GpuSetting, Item, ModelSetting, Name, Payload, Quantity, RdmaShare, Statement,
    ZeroRange,
};

pub fn dump(file: &File) -> String {
    let mut dump = Dump { out: String::new(), depth: 0 };
    for item in &file.items {
        match item {
            Item::Model(model) => dump.node(format_args!("model {}", model.name.text), |dump| {
                dump.block(&model.block, Dump::model_setting);
            }),
            Item::Cluster(cluster) => dump.node(format_args!("cluster {}", cluster.name.text), |dump| {
                dump.block(&cluster.block, Dump::cluster_setting);
            }),
            Item::Deploy(deploy) => {
                let (name, model, cluster) = (&deploy.name.text, &deploy.model.text, &deploy.cluster.text);
                dump.node(format_args!("deploy {name} of {model} on {cluster}"), |dump| {
                    dump.block(&deploy.block, Dump::deploy_setting);
                });
            }
        }
    }
    dump.out
}

struct Dump {
    out: String,
    depth: usize,
}

impl Dump {
    fn line(&mut self, text: impl Display) {
        let depth = self.depth * 2;
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{:depth$}{text}", "");
    }

    fn node(&mut self, head: impl Display, inside: impl FnOnce(&mut Dump)) {
        self.line(head);
        self.depth += 1;
        inside(self);
        self.depth -= 1;
    }

    fn block<S>(&mut self, block: &Block<S>, setting: impl Fn(&mut Dump, &S)) {
        for one in &block.settings {
            setting(self, &one.kind);
        }
    }

    fn model_setting(&mut self, setting: &ModelSetting) {
        match setting {
            ModelSetting::Hidden(value) => self.value("hidden", value),
            ModelSetting::Experts { count, groups, zero } => self.node("experts", |dump| {
                dump.value("count", count);
                dump.optional("groups", groups.as_ref());
                if let Some(zero) = zero {
                    dump.node("zero", |dump| {
                        dump.block(zero, |dump, ZeroRange { first, last }| {
                            dump.value("first", first);
                            dump.value("last", last);
                        });
                    });
                }
            }),
            ModelSetting::Shared(value) => self.value("shared", value),
            ModelSetting::MoeLayers(value) => self.value("moe_layers", value),
            ModelSetting::ExpertFfn { width, ungated } => {
                self.value(if *ungated { "expert_ffn ungated" } else { "expert_ffn" }, width);
            }
            ModelSetting::DenseLayers(value) => self.value("dense_layers", value),
            ModelSetting::DenseFfn { width, beside_experts } => {
                self.value(if *beside_experts { "dense_ffn beside experts" } else { "dense_ffn" }, width);
            }
            ModelSetting::Vocab(value) => self.value("vocab", value),
            ModelSetting::Embeddings(word) => self.name("embeddings", Some(word)),
            ModelSetting::EncoderLayers(value) => self.value("encoder_layers", value),
            ModelSetting::Streams(value) => self.value("streams", value),
            ModelSetting::Attention { kind, block } => self.node(format_args!("attention {}", kind.text()), |dump| {
                dump.attention(block);
            }),
            ModelSetting::Capacity { limit, drop } => self.node("capacity", |dump| {
                dump.value("limit", limit);
                dump.name("drop", drop.as_ref());
            }),
            ModelSetting::Gate(gate) => self.gate(gate),
            ModelSetting::Dispatch(block) => self.node("dispatch", |dump| {
                dump.block(block, |dump, setting| match setting {
                    DispatchSetting::Payload(payload) => dump.payload(payload),
                    DispatchSetting::Layout { name, align, padding } => dump.node("layout", |dump| {
                        dump.name("name", Some(name));
                        dump.optional("align", align.as_ref());
                        if padding.is_some() {
                            dump.name("padding", padding.as_ref());
                        }
                    }),
                });
            }),
            ModelSetting::Combine(block) => self.node("combine", |dump| {
                dump.block(block, |dump, setting| match setting {
                    CombineSetting::Payload(payload) => dump.payload(payload),
                    CombineSetting::Reduce { accumulate, weighting } => dump.node("reduce", |dump| {
                        dump.name("accumulate", Some(accumulate));
                        dump.name("weighting", Some(weighting));
                    }),
                });
            }),
        }
    }

    fn payload(&mut self, payload: &Payload) {
        self.node("payload", |dump| {
            dump.name("format", Some(&payload.format));
            if let Some(scale) = &payload.scale {
                dump.name("scale", Some(&scale.format));
                dump.value("per", &scale.block);
            }
        });
    }

    fn cluster_setting(&mut self, setting: &ClusterSetting) {
        match setting {
            ClusterSetting::Nodes(value) => self.value("nodes", value),
            ClusterSetting::Gpus(value) => self.value("gpus per node", value),
            ClusterSetting::Gpu { name, block } => self.node("gpu", |dump| {
                dump.name("name", name.as_ref());
                dump.block(block, |dump, setting| match setting {
                    GpuSetting::Target(name) => dump.name("target", Some(name)),
                    GpuSetting::Sms(value) => dump.value("sms", value),
                    GpuSetting::Memory(value) => dump.value("memory", value),
                });
            }),
            ClusterSetting::Nvlink { bandwidth, latency } => self.node("nvlink", |dump| {
                dump.value("bandwidth", bandwidth);
                dump.optional("latency", latency.as_ref());
            }),
            ClusterSetting::Rdma { bandwidth, per, latency } => self.node("rdma", |dump| {
                let per = match per {
                    RdmaShare::Gpu => "bandwidth per gpu",
                    RdmaShare::Node => "bandwidth per node",
                };
                dump.value(per, bandwidth);
                dump.optional("latency", latency.as_ref());
            }),
        }
    }

    fn deploy_setting(&mut self, setting: &DeploySetting) {
        match setting {
            DeploySetting::Ep(value) => self.value("ep", value),
            DeploySetting::Pp(value) => self.value("pp", value),
            DeploySetting::Dp(value) => self.value("dp", value),
            DeploySetting::Tp(value) => self.value("tp", value),
            DeploySetting::Zero(value) => self.value("zero", value),
            DeploySetting::Tokens(value) => self.value("tokens per gpu", value),
            DeploySetting::Mode(name) => self.name("mode", Some(name)),
            DeploySetting::Sms(value) => self.value("sms", value),
            DeploySetting::SmsLocal(value) => self.value("sms_local", value),
        }
    }

    fn gate(&mut self, gate: &Gate) {
        self.node("gate", |dump| {
            for parameter in &gate.parameters {
                let dimensions: Vec<&str> =
                    parameter.dimensions.iter().map(|dimension| dimension.text.as_str()).collect();
                let (name, element) = (&parameter.name.text, &parameter.element.text);
                dump.line(format_args!("parameter {name} {element} {dimensions:?}"));
            }
            dump.block(&gate.body, |dump, statement| match statement {
                Statement::Let { name, value } => {
                    dump.node(format_args!("let {}", name.text), |dump| dump.expression(value));
                }
                Statement::Weights { value, before_experts } => {
                    let place = if *before_experts { " before experts" } else { "" };
                    dump.node(format_args!("weights{place}"), |dump| dump.expression(value));
                }
            });
        });
    }

    fn expression(&mut self, value: &Expression) {
        match &value.kind {
            ExpressionKind::Number(number) => self.line(format_args!("number {}", number.text)),
            ExpressionKind::Name(name) => self.line(format_args!("name {}", name.text)),
            ExpressionKind::Negate(inner) => self.node("negate", |dump| dump.expression(inner)),
            ExpressionKind::Binary { left, operator, right } => self.node(operator.text(), |dump| {
                dump.expression(left);
                dump.expression(right);
            }),
            ExpressionKind::Call { function, arguments } => {
                self.node(format_args!("call {}", function.text), |dump| {
                    for argument in arguments {
                        dump.name("label", argument.label.as_ref());
                        dump.expression(&argument.value);
                        if let Some(within) = &argument.within {
                            dump.node("in", |dump| dump.expression(within));
                        }
                    }
                });
            }
            ExpressionKind::Index { base, index } => self.node("index", |dump| {
                dump.expression(base);
                dump.expression(index);
            }),
            ExpressionKind::Broken => self.line("broken"),
        }
    }

    fn attention(&mut self, block: &Block<AttentionSetting>) {
        self.block(block, |dump, setting| {
            dump.value(setting.name.text(), &setting.value);
            dump.optional("layers", setting.layers.as_ref());
            if let Some(block) = &setting.block {
                dump.node("of it", |dump| dump.attention(block));
            }
        });
    }

    fn value(&mut self, head: &str, quantity: &Quantity) {
        let unit = quantity.unit.as_ref().map_or("", |unit| unit.text.as_str());
        self.line(format_args!("{head} {} {unit}", quantity.number.text).to_string().trim_end());
    }

    fn optional(&mut self, head: &str, quantity: Option<&Quantity>) {
        if let Some(quantity) = quantity {
            self.value(head, quantity);
        }
    }

    fn name(&mut self, head: &str, name: Option<&Name>) {
        if let Some(name) = name {
            self.line(format_args!("{head} {}", name.text));
        }
    }
}
