//! The tree as nested heads and values, the form in which it is laid out.

use crate::span::Span;
use crate::syntax::ast::{
    Argument, AttentionSetting, Block, ClusterSetting, CombineSetting, DeploySetting, DispatchSetting, Expression,
    ExpressionKind, File, GpuSetting, Item, ModelSetting, Name, Payload, Quantity, RdmaShare, Scale, Setting,
    Statement, ZeroRange,
};

/// What aligns with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `hidden 7168`, and blocks.
    Plain,
    /// `let name = value`
    Let,
    /// `weights value`
    Weights,
    /// A block that is never on one line.
    Tall,
}

/// A setting: `head rest { body }`.
pub(super) struct Node<'a> {
    pub(super) span: Span,
    pub(super) head: String,
    pub(super) rest: String,
    pub(super) shape: Shape,
    pub(super) body: Option<Body<'a>>,
    pub(super) expression: Option<&'a Expression>,
}

/// The inside of a block.
pub(super) struct Body<'a> {
    pub(super) span: Span,
    pub(super) nodes: Vec<Node<'a>>,
}

/// A setting before its span is known.
struct Part<'a> {
    head: &'static str,
    rest: String,
    body: Option<Body<'a>>,
}

pub(super) fn outline(file: &File) -> Vec<Node<'_>> {
    file.items.iter().map(item).collect()
}

fn item(item: &Item) -> Node<'_> {
    match item {
        Item::Model(model) => tall(model.span, format!("model {}", model.name.text), body(&model.block, model_setting)),
        Item::Cluster(cluster) => {
            tall(cluster.span, format!("cluster {}", cluster.name.text), body(&cluster.block, plain(cluster_setting)))
        }
        Item::Deploy(deploy) => {
            let head = format!("deploy {} of {} on {}", deploy.name.text, deploy.model.text, deploy.cluster.text);
            tall(deploy.span, head, body(&deploy.block, plain(deploy_setting)))
        }
    }
}

fn tall(span: Span, head: String, body: Body<'_>) -> Node<'_> {
    Node { span, head, rest: String::new(), shape: Shape::Tall, body: Some(body), expression: None }
}

fn body<'a, S>(block: &'a Block<S>, node: impl Fn(&'a Setting<S>) -> Node<'a>) -> Body<'a> {
    Body { span: block.span, nodes: block.settings.iter().map(node).collect() }
}

fn plain<'a, S: 'a>(part: impl Fn(&'a S) -> Part<'a>) -> impl Fn(&'a Setting<S>) -> Node<'a> {
    move |setting| {
        let Part { head, rest, body } = part(&setting.kind);
        let head = head.to_owned();
        Node { span: setting.span, head, rest, shape: Shape::Plain, body, expression: None }
    }
}

fn leaf(head: &'static str, rest: String) -> Part<'static> {
    Part { head, rest, body: None }
}

fn model_setting(setting: &Setting<ModelSetting>) -> Node<'_> {
    if let ModelSetting::Gate(gate) = &setting.kind {
        let parameters: Vec<String> = gate
            .parameters
            .iter()
            .map(|parameter| {
                let dimensions: Vec<&str> = parameter.dimensions.iter().map(|name| name.text.as_str()).collect();
                let shape = if dimensions.is_empty() { String::new() } else { format!("[{}]", dimensions.join(", ")) };
                format!("{}: {}{shape}", parameter.name.text, parameter.element.text)
            })
            .collect();
        let head = format!("gate({})", parameters.join(", "));
        return tall(setting.span, head, body(&gate.body, statement));
    }
    plain(|kind| match kind {
        ModelSetting::Hidden(value) => leaf("hidden", quantity(value)),
        ModelSetting::Experts { count, groups, zero } => {
            let groups = groups.as_ref().map_or(String::new(), |groups| format!(" in {} groups", quantity(groups)));
            let rest = format!("{}{groups}", quantity(count));
            Part { head: "experts", rest, body: zero.as_ref().map(|zero| body(zero, plain(zero_range))) }
        }
        ModelSetting::Shared(value) => leaf("shared", quantity(value)),
        ModelSetting::MoeLayers(value) => leaf("moe_layers", quantity(value)),
        ModelSetting::ExpertFfn { width, ungated } => {
            leaf("expert_ffn", format!("{}{}", quantity(width), if *ungated { " ungated" } else { "" }))
        }
        ModelSetting::DenseLayers(value) => leaf("dense_layers", quantity(value)),
        ModelSetting::DenseFfn { width, beside_experts } => {
            leaf("dense_ffn", format!("{}{}", quantity(width), if *beside_experts { " beside experts" } else { "" }))
        }
        ModelSetting::Vocab(value) => leaf("vocab", quantity(value)),
        ModelSetting::Embeddings(word) => leaf("embeddings", word.text.clone()),
        ModelSetting::EncoderLayers(value) => leaf("encoder_layers", quantity(value)),
        ModelSetting::Streams(value) => leaf("streams", quantity(value)),
        ModelSetting::Attention { kind, block } => {
            Part { head: "attention", rest: kind.text().to_owned(), body: Some(body(block, plain(attention_setting))) }
        }
        ModelSetting::Capacity { limit, drop } => {
            let drop = drop.as_ref().map_or(String::new(), |drop| format!(" drop {}", drop.text));
            leaf("capacity", format!("{}{drop}", quantity(limit)))
        }
        ModelSetting::Gate(_) => leaf("gate", String::new()),
        ModelSetting::Dispatch(block) => {
            Part { head: "dispatch", rest: String::new(), body: Some(body(block, plain(dispatch_setting))) }
        }
        ModelSetting::Combine(block) => {
            Part { head: "combine", rest: String::new(), body: Some(body(block, plain(combine_setting))) }
        }
    })(setting)
}

fn zero_range(range: &ZeroRange) -> Part<'_> {
    leaf("zero", format!("{}..{}", quantity(&range.first), quantity(&range.last)))
}

fn attention_setting(setting: &AttentionSetting) -> Part<'_> {
    let layers = setting.layers.as_ref().map_or(String::new(), |layers| format!(" in {} layers", quantity(layers)));
    let body = setting.block.as_ref().map(|block| body(block, plain(attention_setting)));
    Part { head: setting.name.text(), rest: format!("{}{layers}", quantity(&setting.value)), body }
}

fn payload(payload: &Payload) -> Part<'static> {
    let scale = |scale: &Scale| format!(" scale {} per {}", scale.format.text, quantity(&scale.block));
    leaf("payload", format!("{}{}", payload.format.text, payload.scale.as_ref().map_or(String::new(), scale)))
}

fn dispatch_setting(setting: &DispatchSetting) -> Part<'_> {
    match setting {
        DispatchSetting::Payload(value) => payload(value),
        DispatchSetting::Layout { name, align, padding } => {
            let align = align.as_ref().map_or(String::new(), |align| format!(" align {}", quantity(align)));
            let padding = padding.as_ref().map_or(String::new(), |padding| format!(" padding {}", padding.text));
            leaf("layout", format!("{}{align}{padding}", name.text))
        }
    }
}

fn combine_setting(setting: &CombineSetting) -> Part<'_> {
    match setting {
        CombineSetting::Payload(value) => payload(value),
        CombineSetting::Reduce { accumulate, weighting } => {
            leaf("reduce", format!("{} {}", accumulate.text, weighting.text))
        }
    }
}

fn cluster_setting(setting: &ClusterSetting) -> Part<'_> {
    match setting {
        ClusterSetting::Nodes(value) => leaf("nodes", quantity(value)),
        ClusterSetting::Gpus(value) => leaf("gpus", format!("{} per node", quantity(value))),
        ClusterSetting::Gpu { name, block } => Part {
            head: "gpu",
            rest: name.as_ref().map_or(String::new(), |name| name.text.clone()),
            body: Some(body(block, plain(gpu_setting))),
        },
        ClusterSetting::Nvlink { bandwidth, latency: hop } => {
            leaf("nvlink", format!("{}{}", quantity(bandwidth), latency(hop.as_ref())))
        }
        ClusterSetting::Rdma { bandwidth, per, latency: hop } => {
            let per = match per {
                RdmaShare::Gpu => "gpu",
                RdmaShare::Node => "node",
            };
            leaf("rdma", format!("{} per {per}{}", quantity(bandwidth), latency(hop.as_ref())))
        }
    }
}

fn latency(latency: Option<&Quantity>) -> String {
    latency.map_or(String::new(), |latency| format!(" latency {}", quantity(latency)))
}

fn gpu_setting(setting: &GpuSetting) -> Part<'_> {
    match setting {
        GpuSetting::Target(name) => leaf("target", name.text.clone()),
        GpuSetting::Sms(value) => leaf("sms", quantity(value)),
        GpuSetting::Memory(value) => leaf("memory", quantity(value)),
    }
}

fn deploy_setting(setting: &DeploySetting) -> Part<'_> {
    match setting {
        DeploySetting::Ep(value) => leaf("ep", quantity(value)),
        DeploySetting::Pp(value) => leaf("pp", quantity(value)),
        DeploySetting::Dp(value) => leaf("dp", quantity(value)),
        DeploySetting::Tp(value) => leaf("tp", quantity(value)),
        DeploySetting::Zero(value) => leaf("zero", quantity(value)),
        DeploySetting::Tokens(value) => leaf("tokens", format!("{} per gpu", quantity(value))),
        DeploySetting::Mode(name) => leaf("mode", name.text.clone()),
        DeploySetting::Sms(value) => leaf("sms", quantity(value)),
        DeploySetting::SmsLocal(value) => leaf("sms_local", quantity(value)),
    }
}

fn statement(setting: &Setting<Statement>) -> Node<'_> {
    let (head, mut rest, shape, value) = match &setting.kind {
        Statement::Let { name, value } => (format!("let {}", name.text), "= ".to_owned(), Shape::Let, value),
        Statement::Weights { value, .. } => ("weights".to_owned(), String::new(), Shape::Weights, value),
    };
    expression(value, 0, &mut rest);
    if matches!(setting.kind, Statement::Weights { before_experts: true, .. }) {
        rest.push_str(" before experts");
    }
    Node { span: setting.span, head, rest, shape, body: None, expression: Some(value) }
}

fn quantity(quantity: &Quantity) -> String {
    let unit = quantity.unit.as_ref().map_or(String::new(), |Name { text, .. }| format!(" {text}"));
    format!("{}{unit}", quantity.number.text)
}

/// Writes an expression with the parentheses that its place needs: `least` is the weakest operator that may stand bare.
fn expression(value: &Expression, least: u8, out: &mut String) {
    const PREFIX: u8 = 3;
    const POSTFIX: u8 = 4;
    let precedence = match &value.kind {
        ExpressionKind::Binary { operator, .. } => operator.precedence(),
        ExpressionKind::Negate(_) => PREFIX,
        _ => POSTFIX,
    };
    if precedence < least {
        out.push('(');
    }
    match &value.kind {
        ExpressionKind::Number(number) => out.push_str(&number.text),
        ExpressionKind::Name(name) => out.push_str(&name.text),
        ExpressionKind::Negate(inner) => {
            out.push('-');
            expression(inner, PREFIX, out);
        }
        ExpressionKind::Binary { left, operator, right } => {
            expression(left, precedence, out);
            out.push(' ');
            out.push_str(operator.text());
            out.push(' ');
            expression(right, precedence + 1, out);
        }
        ExpressionKind::Call { function, arguments } => {
            out.push_str(&function.text);
            out.push('(');
            for (index, part) in arguments.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                argument(part, out);
            }
            out.push(')');
        }
        ExpressionKind::Index { base, index } => {
            expression(base, POSTFIX, out);
            out.push('[');
            expression(index, 0, out);
            out.push(']');
        }
        ExpressionKind::Broken => out.push_str("()"),
    }
    if precedence < least {
        out.push(')');
    }
}

fn argument(argument: &Argument, out: &mut String) {
    if let Some(label) = &argument.label {
        out.push_str(&label.text);
        out.push_str(": ");
    }
    expression(&argument.value, 0, out);
    if let Some(within) = &argument.within {
        out.push_str(" in ");
        expression(within, 0, out);
    }
}

/// `flat`, the text of a statement whose value is `value`, with the arguments of its outermost call on lines of their own.
pub(super) fn wrapped(value: &Expression, flat: &str, indent: usize) -> String {
    let mut text = String::new();
    expression(value, 0, &mut text);
    let mut call = value;
    while let ExpressionKind::Binary { left, .. } = &call.kind {
        call = left;
    }
    let ExpressionKind::Call { function, arguments } = &call.kind else {
        return flat.to_owned();
    };
    let mut folded = String::new();
    expression(call, 0, &mut folded);
    let mut unfolded = format!("{}(\n", function.text);
    for part in arguments {
        unfolded.push_str(&" ".repeat(indent + 4));
        argument(part, &mut unfolded);
        unfolded.push_str(",\n");
    }
    unfolded.push_str(&" ".repeat(indent));
    unfolded.push(')');
    flat.replacen(&folded, &unfolded, 1)
}
