//! The modifiers of a mnemonic, taken one by one. Invariant: an instruction is accepted only when all of its modifiers
//! were taken, so an unknown one can never be ignored.

use crate::memory::order::{Order, Scope};
use crate::ptx::ScalarType;

pub(super) struct Modifiers<'a> {
    words: &'a [String],
    used: Vec<bool>,
}

impl<'a> Modifiers<'a> {
    pub fn new(words: &'a [String]) -> Modifiers<'a> {
        Modifiers { words, used: vec![false; words.len()] }
    }

    /// Takes a word if it is there.
    pub fn take(&mut self, word: &str) -> bool {
        for (index, candidate) in self.words.iter().enumerate() {
            if !self.used[index] && candidate == word {
                self.used[index] = true;
                return true;
            }
        }
        false
    }

    /// Whether a word is there that has not been taken.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().zip(&self.used).any(|(candidate, used)| !used && candidate == word)
    }

    /// Takes the first of several words.
    pub fn one_of<'w>(&mut self, words: &[&'w str]) -> Option<&'w str> {
        for (index, candidate) in self.words.iter().enumerate() {
            if !self.used[index]
                && let Some(word) = words.iter().find(|word| *word == candidate)
            {
                self.used[index] = true;
                return Some(word);
            }
        }
        None
    }

    /// Takes the next type.
    pub fn element(&mut self) -> Option<ScalarType> {
        for (index, candidate) in self.words.iter().enumerate() {
            if !self.used[index]
                && let Some(element) = ScalarType::from_name(candidate)
            {
                self.used[index] = true;
                return Some(element);
            }
        }
        None
    }

    pub fn scope(&mut self) -> Option<Scope> {
        Some(match self.one_of(&["cta", "cluster", "gpu", "sys"])? {
            "cta" => Scope::Cta,
            "cluster" => Scope::Cluster,
            "gpu" => Scope::Gpu,
            _ => Scope::Sys,
        })
    }

    pub fn order(&mut self) -> Option<Order> {
        Some(match self.one_of(&["weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "sc"])? {
            "weak" => Order::Weak,
            "relaxed" => Order::Relaxed,
            "acquire" => Order::Acquire,
            "release" => Order::Release,
            "acq_rel" => Order::AcqRel,
            "volatile" => Order::Volatile,
            _ => Order::SeqCst,
        })
    }

    /// Takes cache operators and eviction and prefetch hints, which do not change the meaning. Says whether the form has
    /// a cache-policy operand.
    pub fn cache_hints(&mut self) -> bool {
        const HINTS: [&str; 19] = [
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::evict_normal",
            "L2::evict_first",
            "L2::evict_last",
            "L2::64B",
            "L2::128B",
            "L2::256B",
            "ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "unified",
        ];
        while self.one_of(&HINTS).is_some() {}
        self.take("L2::cache_hint")
    }

    /// First modifier that nobody took.
    pub fn rest(&self) -> Option<&'a str> {
        self.used.iter().position(|used| !used).map(|index| self.words[index].as_str())
    }
}
