//! Names of places, for reports.

use std::collections::BTreeMap;

use crate::memory::Address;
use crate::memory::address::{Target, target};

/// Named ranges of device memory: start, end and name.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<(u64, u64), String>);

/// So many ranges that begin in front of a place are looked at.
const NEAR: usize = 64;

impl Names {
    pub fn add(&mut self, address: Address, bytes: u64, name: String) {
        self.0.insert((address.0, address.0 + bytes), name);
    }

    /// Forgets an allocation and its parts.
    pub fn remove(&mut self, address: Address) {
        let whole = self.0.range((address.0, 0)..=(address.0, u64::MAX)).next_back().map(|(range, _)| range.1);
        let parts: Vec<(u64, u64)> =
            self.0.range((address.0, 0)..(whole.unwrap_or(0).max(address.0), 0)).map(|(range, _)| *range).collect();
        parts.iter().for_each(|part| drop(self.0.remove(part)));
        self.0.remove(&(address.0, address.0));
    }

    /// The innermost range that a place is in.
    pub fn place(&self, address: u64) -> String {
        let before = self.0.range(..=(address, u64::MAX)).rev();
        let around = before.take(NEAR).filter(|((_, end), _)| address < *end);
        let innermost = around.min_by_key(|((start, end), _)| end - start);
        let rank = match target(address) {
            Target::Device { rank, .. } => format!(" of rank {rank}"),
            Target::Shared { .. } | Target::Local { .. } | Target::Param { .. } | Target::Nothing => String::new(),
        };
        match innermost {
            Some(((start, _), name)) => format!("{}{rank}", with_offset(name, address - start)),
            None => format!("{}{rank}", Address(address)),
        }
    }
}

/// A place in shared memory.
pub(super) fn shared(variables: &[(String, u32, u32)], dynamic: u32, offset: u32) -> String {
    let found = variables.iter().find(|(_, start, bytes)| (*start..start + bytes).contains(&offset));
    match found {
        Some((name, start, _)) => with_offset(name, (offset - start).into()),
        None if offset >= dynamic => with_offset("dynamic shared memory", (offset - dynamic).into()),
        None => with_offset("shared memory", offset.into()),
    }
}

fn with_offset(name: &str, offset: u64) -> String {
    if offset == 0 { format!("`{name}`") } else { format!("`{name}+{offset}`") }
}
