//! Who hears of what a machine does.
//!
//! Invariant: weak memory hears of an event before the observers.

use crate::observer::{Access, Event, Observer, Row};
use crate::weak::WeakMemory;

/// All observers of a cluster, in the order in which they came, and weak memory if there is that.
pub(crate) struct Observers {
    list: Vec<Box<dyn Observer + Send>>,
    weak: Option<Box<WeakMemory>>,
    is_empty: bool,
}

impl Observers {
    pub fn new(weak: Option<WeakMemory>) -> Observers {
        Observers { list: Vec::new(), is_empty: weak.is_none(), weak: weak.map(Box::new) }
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// What decides about the values of reads, if memory is weak.
    #[inline]
    pub fn weak(&mut self) -> Option<&mut WeakMemory> {
        self.weak.as_deref_mut()
    }

    pub fn add(&mut self, observer: Box<dyn Observer + Send>) {
        self.list.push(observer);
        self.is_empty = false;
        if let Some(weak) = &mut self.weak {
            weak.observed = true;
        }
    }

    pub fn access(&mut self, access: &Access) {
        self.list.iter_mut().for_each(|observer| observer.access(access));
    }

    pub fn row(&mut self, row: &Row) {
        self.list.iter_mut().for_each(|observer| observer.row(row));
    }

    /// Tells an event, which is made only if somebody hears it.
    #[inline]
    pub fn tell(&mut self, event: impl FnOnce() -> Event) {
        if !self.is_empty {
            let event = event();
            if let Some(weak) = &mut self.weak {
                weak.event(&event);
            }
            self.list.iter_mut().for_each(|observer| observer.event(&event));
        }
    }
}
