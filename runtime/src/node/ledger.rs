//! Memory of a node that several of its processes use.
//!
//! Invariant: it is freed when whoever allocated it has freed it and nobody who imported it still has it; what a process imported it gives
//! back when it goes, however it does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use moe_contract::RankId;

use crate::device::{Address, DeviceError};

/// What is shared, and by whom.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<Address, Entry>>);

#[derive(Debug)]
struct Entry {
    rank: RankId,
    /// Sessions that have imported it, and how often.
    users: BTreeMap<u64, u32>,
    /// Whoever allocated it needs it no more.
    freed: bool,
}

impl Ledger {
    pub fn share(&self, rank: RankId, address: Address) {
        self.entries().insert(address, Entry { rank, users: BTreeMap::new(), freed: false });
    }

    /// Memory that one process alone has, as long as it does.
    pub fn lend(&self, session: u64, rank: RankId, address: Address) {
        self.entries().insert(address, Entry { rank, users: BTreeMap::from([(session, 1)]), freed: true });
    }

    pub fn import(&self, session: u64, address: Address) -> Result<(), DeviceError> {
        let mut entries = self.entries();
        let missing = || DeviceError::Refused { problem: format!("nobody shares memory at {:#x}", address.0) };
        let entry = entries.get_mut(&address).filter(|entry| !entry.freed).ok_or_else(missing)?;
        *entry.users.entry(session).or_default() += 1;
        Ok(())
    }

    /// Whoever allocated some memory frees it: whether it goes now.
    #[must_use]
    pub fn free(&self, address: Address) -> bool {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&address) {
            entry.freed = true;
        }
        Ledger::unused(&mut entries, address).is_some() || !entries.contains_key(&address)
    }

    /// What one import less sets free.
    #[must_use]
    pub fn close(&self, session: u64, address: Address) -> Option<RankId> {
        let mut entries = self.entries();
        let entry = entries.get_mut(&address)?;
        if let Some(count) = entry.users.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                entry.users.remove(&session);
            }
        }
        Ledger::unused(&mut entries, address)
    }

    /// What a process that goes sets free.
    #[must_use]
    pub fn leave(&self, session: u64) -> Vec<(RankId, Address)> {
        let mut entries = self.entries();
        for entry in entries.values_mut() {
            entry.users.remove(&session);
        }
        let over = |_: &Address, entry: &mut Entry| entry.freed && entry.users.is_empty();
        entries.extract_if(.., over).map(|(address, entry)| (entry.rank, address)).collect()
    }

    /// Takes out what nobody needs.
    fn unused(entries: &mut BTreeMap<Address, Entry>, address: Address) -> Option<RankId> {
        let over = entries.get(&address).is_some_and(|entry| entry.freed && entry.users.is_empty());
        if over { entries.remove(&address).map(|entry| entry.rank) } else { None }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Address, Entry>> {
        // Entries change as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Address = Address(0x100);

    #[test]
    fn shared_memory_goes_with_the_last_who_needs_it() {
        let ledger = Ledger::default();
        assert!(ledger.free(A), "nobody shares it");
        ledger.share(RankId(3), A);
        ledger.import(7, A).expect("it is shared");
        ledger.import(7, A).expect("once more");
        ledger.import(8, A).expect("by another");
        assert!(!ledger.free(A), "others use it");
        assert!(ledger.import(9, A).is_err(), "it is about to go");
        assert_eq!((ledger.close(7, A), ledger.leave(8)), (None, vec![]));
        assert_eq!(ledger.close(7, A), Some(RankId(3)));
        assert_eq!(ledger.close(7, A), None);

        ledger.share(RankId(0), A);
        ledger.import(8, A).expect("it is shared");
        assert!(!ledger.free(A));
        assert_eq!(ledger.leave(8), [(RankId(0), A)], "a process that ends gives back what it has");
        ledger.share(RankId(0), A);
        assert!(ledger.free(A), "nobody has imported it");

        ledger.lend(7, RankId(2), A);
        assert!(ledger.import(8, A).is_err(), "it is of one process");
        assert_eq!(ledger.close(8, A), None, "of another");
        assert_eq!(ledger.close(7, A), Some(RankId(2)));
        ledger.lend(7, RankId(2), A);
        assert_eq!((ledger.leave(8), ledger.leave(7)), (vec![], vec![(RankId(2), A)]));
    }
}
