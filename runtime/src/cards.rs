//! What the processes of a world tell each other when they meet.
//!
//! Invariant: all of them see the same cards, and so all find the same thing wrong, or nothing. A process that could not prepare itself says
//! so on its card, instead of keeping the others waiting.

use std::ops::Range;

use moe_bundle::{Bundle, Digest};
use moe_contract::RankId;
use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::error::{Error, Result};

/// The one of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Card {
    /// Of this crate: what follows is only read where it is the same.
    version: String,
    bundle: String,
    ranks: u32,
    pub mine: Range<u32>,
    pub prepared: Result<Shared, String>,
}

/// What a process shares, as its device exports it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Shared {
    /// Of each of its ranks: its symmetric memory.
    pub symmetric: Vec<Vec<u8>>,
    /// Of each of its ranks: its status.
    pub status: Vec<Vec<u8>>,
    /// Where the process says why it stopped.
    pub notice: Vec<u8>,
}

/// What can be read of the card of any version.
#[derive(Deserialize)]
struct Head {
    version: String,
    mine: Range<u32>,
}

impl Card {
    pub fn new(bundle: &Bundle, mine: Range<u32>, prepared: Result<Shared, String>) -> Card {
        let ranks = bundle.manifest().exchange.ranks;
        let bundle = Digest::of(&bundle.to_bytes()).to_string();
        Card { version: env!("CARGO_PKG_VERSION").into(), bundle, ranks, mine, prepared }
    }

    /// What it shares; nothing, where it could not prepare itself.
    pub fn shared(&self) -> Shared {
        self.prepared.clone().unwrap_or_default()
    }

    /// Those of all processes; waits for all of them.
    pub fn exchange(&self, bootstrap: &dyn Bootstrap) -> Result<Vec<Card>> {
        let own = serde_json::to_vec(self).map_err(unreadable)?;
        let gathered = bootstrap.all_gather(&own)?;
        let heads: Vec<Head> =
            gathered.iter().map(|card| serde_json::from_slice(card)).collect::<Result<_, _>>().map_err(unreadable)?;
        let versions = heads.into_iter().map(|Head { version, mine }| (RankId(mine.start), version));
        same("version", versions)?;
        gathered.iter().map(|card| serde_json::from_slice(card)).collect::<Result<_, _>>().map_err(unreadable)
    }
}

/// Tells all processes what went wrong in this one, and gives what went wrong in another; waits for all of them.
pub(crate) fn tell(bootstrap: &dyn Bootstrap, cards: &[Card], problem: Option<String>) -> Result<()> {
    let ours = problem.is_some();
    let told = bootstrap.all_gather(problem.unwrap_or_default().as_bytes())?;
    match told.iter().zip(cards).find(|(problem, _)| !problem.is_empty()) {
        Some((problem, card)) if !ours => {
            let cause = String::from_utf8_lossy(problem).into_owned();
            Err(Error::Elsewhere { rank: RankId(card.mine.start), cause })
        }
        Some(_) | None => Ok(()),
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    BootstrapError::Other(format!("what a process says about itself cannot be read: {error}")).into()
}

/// Refuses processes that do not belong together. The cards of all, in the order of processes.
pub(crate) fn agree(cards: &[Card]) -> Result<()> {
    let of = |value: fn(&Card) -> String| cards.iter().map(move |card| (RankId(card.mine.start), value(card)));
    same("number of ranks", of(|card| card.ranks.to_string()))?;
    same("bundle", of(|card| card.bundle.clone()))?;
    for card in cards {
        if let Err(cause) = &card.prepared {
            return Err(Error::Elsewhere { rank: RankId(card.mine.start), cause: cause.clone() });
        }
    }
    for rank in (0..cards.first().map_or(0, |card| card.ranks)).map(RankId) {
        let whose = (0..).zip(cards).filter(|(_, card)| card.mine.contains(&rank.0)).map(|(process, _)| process);
        let processes: Vec<u32> = whose.collect();
        if processes.len() != 1 {
            return Err(Error::Owners { rank, processes });
        }
    }
    Ok(())
}

/// Refuses two that differ, and names both.
fn same(what: &'static str, mut of_processes: impl Iterator<Item = (RankId, String)>) -> Result<()> {
    let Some((first, expected)) = of_processes.next() else { return Ok(()) };
    match of_processes.find(|(_, found)| *found != expected) {
        None => Ok(()),
        Some((other, found)) => Err(Error::Mismatch { what, ranks: [first, other], values: [expected, found] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(mine: Range<u32>) -> Card {
        let prepared = Ok(Shared::default());
        Card { version: "1".into(), bundle: "b7".into(), ranks: 4, mine, prepared }
    }

    fn refused(cards: &[Card]) -> String {
        agree(cards).expect_err("they do not belong together").to_string()
    }

    #[test]
    fn processes_that_do_not_belong_together_are_named() {
        let parts = [card(0..1), card(1..3), card(3..4)];
        assert_eq!(agree(&parts), Ok(()));
        let with = |change: &dyn Fn(&mut Card)| {
            let mut cards = parts.clone();
            change(&mut cards[2]);
            refused(&cards)
        };
        assert_eq!(with(&|card| card.bundle = "c1".into()), "the bundle of rank 0 is b7, and that of rank 3 is c1");
        assert_eq!(with(&|card| card.ranks = 8), "the number of ranks of rank 0 is 4, and that of rank 3 is 8");
        assert_eq!(with(&|card| card.prepared = Err("no room".into())), "stopped by the process of rank 3: no room");
        assert_eq!(with(&|card| card.mine = 2..4), "rank 2 is of processes 1, 2: each needs a process of its own");
        assert_eq!(refused(&parts[..2]), "rank 3 is of no process: each needs a process of its own");
    }

    #[test]
    fn a_card_of_another_version_need_not_be_read() {
        struct Two(Vec<u8>);
        impl Bootstrap for Two {
            fn process(&self) -> u32 {
                0
            }
            fn processes(&self) -> u32 {
                2
            }
            fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BootstrapError> {
                Ok(vec![bytes.to_vec(), self.0.clone()])
            }
        }
        let other = br#"{"version": "2", "mine": {"start": 1, "end": 4}, "new": 7}"#;
        let error = card(0..1).exchange(&Two(other.to_vec())).expect_err("another version");
        assert_eq!(error.to_string(), "the version of rank 0 is 1, and that of rank 1 is 2");
    }
}
