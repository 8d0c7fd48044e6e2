//! What the reader of a verdict should know beside it: numbers that are none in the input, and what could not be compared.

use std::fmt;

use moe_contract::RankId;

use crate::rows::Rows;

/// One plain sentence.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remark {
    /// The input holds numbers that are none. They are data: results that depend on them hold some too.
    NotFinite(NotFinite),
    /// The device does not count bytes.
    NoTraffic,
}

/// NaNs and infinities of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct NotFinite {
    pub tensor: &'static str,
    pub nans: u64,
    /// Infinities of either sign.
    pub infinities: u64,
    /// The rank that holds the first.
    pub rank: RankId,
    pub token: usize,
    /// The same token, counted over all ranks.
    pub token_of_all: usize,
    pub element: usize,
}

impl fmt::Display for Remark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::NotFinite(found) => found.fmt(formatter),
            Remark::NoTraffic => {
                formatter.write_str("bytes on the links: not compared, this device does not count them")
            }
        }
    }
}

impl fmt::Display for NotFinite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotFinite { tensor, nans, infinities, rank, token, token_of_all, element } = self;
        let counted = |count: u64, one: &str, more: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{count} {more}")),
        };
        let kinds = [counted(*nans, "NaN", "NaNs"), counted(*infinities, "infinity", "infinities")];
        let kinds: Vec<String> = kinds.into_iter().flatten().collect();
        let (first, them) = if nans + infinities == 1 { ("at", "it") } else { ("the first at", "them") };
        write!(formatter, "{tensor} holds {}, {first} token {token_of_all}, element {element}", kinds.join(" and "))?;
        if token_of_all != token || rank.0 != 0 {
            write!(formatter, " ({rank}, token {token})")?;
        }
        write!(formatter, "; results that depend on {them} hold some too")
    }
}

/// What of the rows of all ranks is not finite; nothing if all is.
pub fn not_finite(tensor: &'static str, rows: &[Rows]) -> Option<NotFinite> {
    let mut all: Option<NotFinite> = None;
    let mut before = 0;
    for (rank, rows) in (0..).map(RankId).zip(rows) {
        for token in 0..rows.count() {
            for (element, number) in rows.elements(token).into_iter().enumerate().filter(|(_, x)| !x.is_finite()) {
                let token_of_all = before + token;
                let none = NotFinite { tensor, nans: 0, infinities: 0, rank, token, token_of_all, element };
                let all = all.get_or_insert(none);
                *(if number.is_nan() { &mut all.nans } else { &mut all.infinities }) += 1;
            }
        }
        before += rows.count();
    }
    all
}
