//! Which kernels are mutated: those of every example, each in the smallest exchange that has the same one, and those of odd shapes.
//!
//! Two kernels are the same here when they order the same: the same strong accesses, barriers and fences, one after the other. Each mutant of
//! one is then a mutant of the other. A [`Likeness::Skeleton`] asks for more.

use std::collections::{BTreeMap, HashMap};
use std::iter::repeat;

use moe_contract::{Drop, Exchange, Format, Kernel, RowLayout};
use moe_decide::{Choice, Decision};
use moe_kernels::exchange::kernels;

use crate::common::files;
use crate::world::text;

/// Tokens, so that places are worked out in several rounds of a warp.
const TOKENS: u32 = 44;

/// A kernel, with all that have it.
pub struct Class {
    pub kernel: Kernel,
    /// In which it runs.
    pub exchange: Exchange,
    pub text: String,
    /// Of which it is: `deepseek_v3, one_node`.
    pub of: Vec<String>,
}

/// An exchange with a name.
struct Named {
    name: String,
    exchange: Exchange,
}

/// When two kernels count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// They order the same.
    Orders,
    /// They also have the same plain accesses, exchanges of registers and jumps, and differ in numbers and arithmetic only.
    Skeleton,
}

impl Likeness {
    /// What two texts have in common.
    pub fn key(self, text: &str) -> String {
        let mut labels: HashMap<&str, usize> = HashMap::new();
        let mut key = String::new();
        for line in text.lines() {
            let code = line.split("//").next().unwrap_or_default().trim();
            let mut number = |label| {
                let next = labels.len();
                *labels.entry(label).or_insert(next)
            };
            if let Some(label) = code.strip_suffix(':') {
                if self == Likeness::Skeleton {
                    key += &format!("{}:\n", number(label));
                }
                continue;
            }
            let (guard, code) = match code.strip_prefix('@').and_then(|code| code.split_once(char::is_whitespace)) {
                Some((_, code)) => ("@", code.trim()),
                None => ("", code),
            };
            let mut words = code.trim_end_matches(';').split_whitespace();
            let opcode = words.next().unwrap_or_default();
            let parts: Vec<&str> = opcode.split('.').collect();
            let orders = match parts[0] {
                "ld" | "st" => ["sys", "gpu", "cluster", "cta"].iter().any(|scope| parts.contains(scope)),
                "atom" | "red" | "bar" | "barrier" | "fence" | "membar" => true,
                _ => false,
            };
            let is_more = ["ld", "st", "shfl", "vote", "match", "redux", "bra", "ret"].contains(&parts[0]);
            if orders || self == Likeness::Skeleton && is_more && !opcode.starts_with("ld.param") {
                let target = if parts[0] == "bra" { words.next().map(|label| number(label).to_string()) } else { None };
                key += &format!("{guard}{opcode} {}\n", target.unwrap_or_default());
            }
        }
        key
    }
}

/// Some kernels of all exchanges, each once.
pub fn classes(likeness: Likeness, wanted: impl Fn(Kernel) -> bool) -> Vec<Class> {
    let mut classes: BTreeMap<(Kernel, String), Class> = BTreeMap::new();
    for (Named { name, exchange }, is_example) in
        examples().into_iter().zip(repeat(true)).chain(odd().into_iter().zip(repeat(false)))
    {
        let smaller = if is_example { smaller(&exchange) } else { vec![exchange] };
        for kernel in kernels(&exchange).into_iter().filter(|kernel| wanted(*kernel)) {
            let key = likeness.key(&text(kernel, &exchange));
            let class = || {
                let mut texts = smaller.iter().map(|exchange| (*exchange, text(kernel, exchange)));
                let same = texts.find(|(_, text)| likeness.key(text) == key);
                let (exchange, text) = same.expect("the exchange itself is the last of them");
                Class { kernel, exchange, text, of: vec![] }
            };
            classes.entry((kernel, key.clone())).or_insert_with(class).of.push(name.clone());
        }
    }
    classes.into_values().collect()
}

/// Every deploy of every example, on one node.
fn examples() -> Vec<Named> {
    let mut all = Vec::new();
    for path in files("dsl-examples", "moe") {
        let checked = moe_front::check_source(&std::fs::read(&path).expect("the file is there"));
        let spec = checked.spec.unwrap_or_else(|| panic!("{} has an error", path.display()));
        for (id, deploy) in spec.deploys.iter() {
            let per_node = spec.clusters[deploy.cluster].gpus_per_node.min(deploy.ep);
            let choice = Choice { nodes: Some(1), gpus_per_node: Some(per_node), ..Choice::default() };
            let built = Decision::of(&spec, id, &choice).ok().and_then(|decision| decision.built().ok());
            let name = format!("{}, {}", spec.models[deploy.model].name, deploy.name);
            match built {
                Some(exchange) => all.push(Named { name, exchange }),
                None => eprintln!("{name}: there are no kernels for one node"),
            }
        }
    }
    assert!(all.len() >= 15, "examples are missing");
    all
}

/// Exchanges whose kernels may be the same, the cheapest first, the exchange itself last.
fn smaller(exchange: &Exchange) -> Vec<Exchange> {
    let step = exchange.dispatch.scales.map_or(64, |scales| scales.block);
    let layout = match exchange.layout {
        RowLayout::ExpertMajor { align, padding } if align > 1 => RowLayout::ExpertMajor { align: 4, padding },
        other => other,
    };
    let mut all = Vec::new();
    for (ranks, threads) in [(2, 64), (4, exchange.threads), (exchange.ranks, exchange.threads)] {
        // As many experts on every rank, or not.
        let more = u32::from(!exchange.experts.is_multiple_of(exchange.ranks));
        let experts = (exchange.top_k.div_ceil(ranks) + 1) * ranks + more;
        let small = Exchange {
            ranks,
            experts,
            zero_experts: exchange.zero_experts.min(2),
            ctas_link: 2,
            ctas_local: 3,
            threads,
            layout,
            ..*exchange
        };
        let (few, picks) = (TOKENS.min(exchange.max_tokens), 132u32.div_ceil(exchange.top_k));
        let max_tokens = if exchange.drop.is_some() { few.max(picks) } else { few.min(12) };
        for hidden in [step, 2 * step, 4 * step, 8 * step, 16 * step, exchange.hidden] {
            all.push(Exchange { hidden: hidden.min(exchange.hidden), max_tokens, ..small });
        }
    }
    all.retain(|exchange| exchange.check().is_ok());
    all.dedup();
    all.push(*exchange);
    all
}

/// Shapes that no example has.
fn odd() -> Vec<Named> {
    let usual = Exchange {
        ranks: 3,
        experts: 8,
        zero_experts: 1,
        top_k: 3,
        hidden: 16,
        max_tokens: TOKENS,
        dispatch: Format::BF16,
        layout: RowLayout::expert_major(4),
        combine: Format::BF16,
        weighted: true,
        drop: None,
        ctas_link: 2,
        ctas_local: 3,
        threads: 64,
    };
    let (rank_major, batched) = (RowLayout::RankMajor, RowLayout::Batched);
    let of = |name: &str, exchange: Exchange| {
        let exchange = exchange.checked().unwrap_or_else(|error| panic!("{name}: {error}"));
        Named { name: name.to_owned(), exchange }
    };
    let mut all = vec![
        of("3 ranks, 8 experts", usual),
        of("1 rank", Exchange { ranks: 1, ..usual }),
        of("1 CTA", Exchange { ctas_link: 1, ctas_local: 1, ..usual }),
        of("1 rank, 1 CTA", Exchange { ranks: 1, ctas_link: 1, ctas_local: 1, ..usual }),
        of("1 warp a CTA", Exchange { threads: 32, ctas_link: 3, ctas_local: 3, ..usual }),
        of(
            "40 ranks",
            Exchange {
                ranks: 40,
                experts: 33,
                max_tokens: 4,
                hidden: 8,
                ctas_link: 1,
                ctas_local: 1,
                threads: 64,
                ..usual
            },
        ),
        of("rows of 35 chunks", Exchange { hidden: 280, max_tokens: 12, ..usual }),
        of("rows of 1 chunk, 1 pick", Exchange { hidden: 8, top_k: 1, ..usual }),
        of("unweighted", Exchange { weighted: false, ..usual }),
        of("capacity by position", Exchange { drop: Some(Drop::Position), ..usual }),
        of("capacity by weight", Exchange { drop: Some(Drop::Lowest), ..usual }),
        of("not aligned", Exchange { layout: RowLayout::expert_major(1), ..usual }),
    ];
    for (name, layout, weighted) in
        [("rank_major", rank_major, false), ("batched", batched, true), ("batched, unweighted", batched, false)]
    {
        all.push(of(name, Exchange { layout, weighted, ..usual }));
    }
    for known in Format::KNOWN {
        let (dispatch, step) = (known.format, known.format.scales.map_or(16, |scales| scales.block));
        let combine = if dispatch.scales.is_none() { dispatch } else { Format::BF16 };
        let shape = Exchange { dispatch, combine, hidden: 3 * step, max_tokens: 12, layout: batched, ..usual };
        all.push(of(known.name, shape));
    }
    all
}
