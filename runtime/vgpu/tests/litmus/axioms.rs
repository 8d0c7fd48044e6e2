//! The axioms of the PTX memory consistency model (PTX ISA, chapter "Memory Consistency Model"; Lustig, Sahasrabuddhe and Giroux, ASPLOS
//! 2019), on every candidate execution of a shape. It shares nothing with the virtual GPU: relations are sets of pairs, and an execution is
//! kept if no axiom is violated.
//!
//! Shapes without branches and compare-and-swap; a barrier is passed once by all threads that it counts.

use std::collections::BTreeMap;

use super::shape::{Shape, Term};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Fence,
    Barrier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Cta,
    Gpu,
    Sys,
}

/// Where what is written comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    Number(u32),
    /// What another event has read.
    Read(usize),
    Sum(usize, u32),
}

#[derive(Debug, Clone)]
struct Event {
    /// None: what memory holds at first.
    thread: Option<usize>,
    kind: Kind,
    /// Variable, or number of a barrier.
    place: String,
    strong: bool,
    acquires: bool,
    releases: bool,
    sequential: bool,
    scope: Scope,
    source: Source,
    /// The read of the same atomic access.
    read: Option<usize>,
}

/// Pairs of events: row by row, a bit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Relation(Vec<u64>);

impl Relation {
    fn of(count: usize, holds: impl Fn(usize, usize) -> bool) -> Relation {
        let row = |a| (0..count).filter(|b| holds(a, *b)).fold(0, |bits, b| bits | 1 << b);
        Relation((0..count).map(row).collect())
    }

    fn has(&self, a: usize, b: usize) -> bool {
        self.0[a] >> b & 1 == 1
    }

    fn or(&self, other: &Relation) -> Relation {
        Relation(self.0.iter().zip(&other.0).map(|(a, b)| a | b).collect())
    }

    fn and(&self, other: &Relation) -> Relation {
        Relation(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    fn then(&self, other: &Relation) -> Relation {
        let through = |row: &u64| (0..self.0.len()).filter(|b| row >> b & 1 == 1).fold(0, |bits, b| bits | other.0[b]);
        Relation(self.0.iter().map(through).collect())
    }

    fn optional(&self) -> Relation {
        Relation(self.0.iter().enumerate().map(|(at, row)| row | 1 << at).collect())
    }

    fn closed(&self) -> Relation {
        let mut all = self.clone();
        loop {
            let more = all.or(&all.then(self));
            if more == all {
                return all;
            }
            all = more;
        }
    }

    fn is_irreflexive(&self) -> bool {
        self.0.iter().enumerate().all(|(at, row)| row >> at & 1 == 0)
    }
}

/// What the model says of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Some execution has the outcome.
    pub allowed: bool,
    /// Some execution has a data race.
    pub races: bool,
}

struct Model<'s> {
    shape: &'s Shape,
    events: Vec<Event>,
    /// The event whose value each register of a thread has at the end, or its number.
    registers: BTreeMap<(usize, String), Source>,
}

/// None if the shape has what is not looked at here.
pub fn judge(shape: &Shape) -> Option<Judgement> {
    Model::new(shape)?.judge()
}

impl<'s> Model<'s> {
    fn new(shape: &'s Shape) -> Option<Model<'s>> {
        let mut model = Model { shape, events: Vec::new(), registers: BTreeMap::new() };
        for (at, thread) in shape.threads.iter().enumerate() {
            for words in &thread.code {
                model.statement(at, words)?;
            }
        }
        let places: Vec<String> = {
            let accesses = model.events.iter().filter(|event| matches!(event.kind, Kind::Read | Kind::Write));
            let mut places: Vec<String> = accesses.map(|event| event.place.clone()).collect();
            places.sort();
            places.dedup();
            places
        };
        for place in places {
            let source = Source::Number(shape.initial.get(&place).copied().unwrap_or(0));
            model.events.push(Event {
                thread: None,
                kind: Kind::Write,
                place,
                strong: true,
                acquires: false,
                releases: false,
                sequential: false,
                scope: Scope::Sys,
                source,
                read: None,
            });
        }
        (model.events.len() <= 40).then_some(model)
    }

    fn value(&self, thread: usize, word: &str) -> Option<Source> {
        if word.starts_with('r') {
            let initial = || self.shape.initial.get(&format!("{thread}:{word}")).copied().unwrap_or(0);
            return Some(
                self.registers.get(&(thread, word.to_owned())).copied().unwrap_or_else(|| Source::Number(initial())),
            );
        }
        word.parse::<i64>().ok().map(|number| Source::Number(number as u32))
    }

    fn statement(&mut self, thread: usize, words: &[String]) -> Option<()> {
        let parts: Vec<&str> = words[0].split('.').collect();
        let order = *parts.get(1)?;
        let scope = match parts.get(2).copied() {
            Some("gpu") => Scope::Gpu,
            Some("sys") => Scope::Sys,
            _ => Scope::Cta,
        };
        let event = |kind, place: &str, source| Event {
            thread: Some(thread),
            kind,
            place: place.to_owned(),
            strong: order != "weak",
            acquires: kind != Kind::Write && matches!(order, "acquire" | "acq_rel" | "sc"),
            releases: kind != Kind::Read && matches!(order, "release" | "acq_rel" | "sc"),
            sequential: kind == Kind::Fence && order == "sc",
            scope,
            source,
            read: None,
        };
        let next = self.events.len();
        match parts[0] {
            "ld" => {
                self.events.push(event(Kind::Read, &words[2], Source::Number(0)));
                self.registers.insert((thread, words[1].clone()), Source::Read(next));
            }
            "st" => {
                let source = self.value(thread, &words[2])?;
                self.events.push(event(Kind::Write, &words[1], source));
            }
            "atom" => {
                let Source::Number(number) = self.value(thread, words.get(3)?)? else { return None };
                let source = match *parts.last()? {
                    "add" => Source::Sum(next, number),
                    "exch" => Source::Number(number),
                    _ => return None,
                };
                self.events.push(event(Kind::Read, &words[2], Source::Number(0)));
                self.events.push(Event { read: Some(next), ..event(Kind::Write, &words[2], source) });
                self.registers.insert((thread, words[1].clone()), Source::Read(next));
            }
            "fence" => self.events.push(event(Kind::Fence, "", Source::Number(0))),
            "bar" if parts[1] == "sync" => {
                let Source::Number(number) = self.value(thread, &words[1])? else { return None };
                let counted: usize = words[2].parse().ok()?;
                let here = |other: &super::shape::Thread| {
                    let own = &self.shape.threads[thread];
                    let passes = other.code.iter().filter(|code| code[0] == "bar.sync" && code[1] == words[1]).count();
                    if (own.rank, own.cta) == (other.rank, other.cta) { passes } else { 0 }
                };
                let all: Vec<usize> = self.shape.threads.iter().map(here).collect();
                if all.iter().any(|passes| *passes > 1) || all.iter().sum::<usize>() != counted {
                    return None;
                }
                self.events.push(event(Kind::Barrier, &number.to_string(), Source::Number(0)));
            }
            "mov" => {
                let source = self.value(thread, &words[2])?;
                self.registers.insert((thread, words[1].clone()), source);
            }
            _ => return None,
        }
        Some(())
    }

    fn judge(&self) -> Option<Judgement> {
        let reads: Vec<usize> = self.every(|event| event.kind == Kind::Read);
        let fences: Vec<usize> = self.every(|event| event.sequential);
        let mut found = Judgement { allowed: false, races: false };
        let sources: Vec<Vec<usize>> = reads
            .iter()
            .map(|read| {
                let event = &self.events[*read];
                self.every(|write| write.kind == Kind::Write && write.place == event.place && write.read != Some(*read))
            })
            .collect();
        let mut places: Vec<&str> =
            self.events.iter().filter(|event| event.kind == Kind::Write).map(|event| event.place.as_str()).collect();
        places.sort_unstable();
        places.dedup();
        let orders: Vec<Vec<Vec<usize>>> = places
            .iter()
            .map(|place| {
                let of_place = |event: &Event| event.kind == Kind::Write && event.place == *place;
                let first = self.every(|event| of_place(event) && event.thread.is_none());
                let orders = permutations(&self.every(|event| of_place(event) && event.thread.is_some()));
                orders.into_iter().map(|order| [first.clone(), order].concat()).collect()
            })
            .collect();
        let sequences = permutations(&fences);
        each_choice(&sources, &mut |from| {
            let read_from: BTreeMap<usize, usize> = reads.iter().copied().zip(from.iter().copied()).collect();
            let Some(values) = self.values(&read_from) else { return };
            for sequence in &sequences {
                each_choice(&orders, &mut |coherence| {
                    self.execution(&read_from, &values, sequence, coherence, &mut found);
                });
            }
        });
        Some(found)
    }

    fn every(&self, which: impl Fn(&Event) -> bool) -> Vec<usize> {
        (0..self.events.len()).filter(|at| which(&self.events[*at])).collect()
    }

    /// What every event reads or writes; none if a value comes out of thin air.
    fn values(&self, read_from: &BTreeMap<usize, usize>) -> Option<Vec<u32>> {
        fn of(model: &Model, at: usize, read_from: &BTreeMap<usize, usize>, depth: usize) -> Option<u32> {
            if depth > model.events.len() {
                return None;
            }
            match read_from.get(&at) {
                Some(write) => of(model, *write, read_from, depth + 1),
                None => Some(match model.events[at].source {
                    Source::Number(number) => number,
                    Source::Read(read) => of(model, read, read_from, depth + 1)?,
                    Source::Sum(read, number) => of(model, read, read_from, depth + 1)?.wrapping_add(number),
                }),
            }
        }
        (0..self.events.len()).map(|at| of(self, at, read_from, 0)).collect()
    }

    fn includes(&self, a: &Event, b: &Event) -> bool {
        let (Some(first), Some(second)) = (a.thread, b.thread) else { return true };
        let (first, second) = (&self.shape.threads[first], &self.shape.threads[second]);
        match a.scope {
            Scope::Sys => true,
            Scope::Gpu => first.rank == second.rank,
            Scope::Cta => (first.rank, first.cta) == (second.rank, second.cta),
        }
    }

    #[allow(clippy::too_many_lines, reason = "the axioms, one after the other")]
    fn execution(
        &self,
        read_from: &BTreeMap<usize, usize>,
        values: &[u32],
        sequence: &[usize],
        coherence: &[Vec<usize>],
        found: &mut Judgement,
    ) {
        let events = &self.events;
        let relation = |holds: &dyn Fn(usize, usize) -> bool| Relation::of(events.len(), holds);
        let is_access = |at: usize| matches!(events[at].kind, Kind::Read | Kind::Write);
        let program = relation(&|a, b| a < b && events[a].thread.is_some() && events[a].thread == events[b].thread);
        let same_place = relation(&|a, b| is_access(a) && is_access(b) && events[a].place == events[b].place);
        let strong = |at: usize| events[at].strong && events[at].kind != Kind::Barrier;
        let morally = relation(&|a, b| {
            a != b
                && (program.has(a, b)
                    || program.has(b, a)
                    || strong(a)
                        && strong(b)
                        && self.includes(&events[a], &events[b])
                        && self.includes(&events[b], &events[a]))
                && (!(is_access(a) && is_access(b)) || same_place.has(a, b))
        });
        let reads = relation(&|a, b| read_from.get(&b) == Some(&a));
        let atomic = relation(&|a, b| events[b].read == Some(a));
        let program_here = program.and(&same_place);

        let mut observed = morally.and(&reads);
        loop {
            let more = observed.or(&observed.then(&atomic).then(&observed));
            if more == observed {
                break;
            }
            observed = more;
        }
        let strong_write = |at: usize| events[at].kind == Kind::Write && events[at].strong;
        let strong_read = |at: usize| events[at].kind == Kind::Read && events[at].strong;
        let release = relation(&|a, b| {
            strong_write(b)
                && events[a].releases
                && match events[a].kind {
                    Kind::Write => a == b || program_here.has(a, b),
                    Kind::Fence => program.has(a, b),
                    Kind::Read | Kind::Barrier => false,
                }
        });
        let acquire = relation(&|a, b| {
            strong_read(a)
                && events[b].acquires
                && match events[b].kind {
                    Kind::Read => a == b || program_here.has(a, b),
                    Kind::Fence => program.has(a, b),
                    Kind::Write | Kind::Barrier => false,
                }
        });
        let synchronises = morally.and(&release.then(&observed).then(&acquire));
        let place_in = |at: usize| sequence.iter().position(|other| *other == at);
        let in_sequence = relation(&|a, b| {
            morally.has(a, b) && matches!((place_in(a), place_in(b)), (Some(first), Some(second)) if first < second)
        });
        let barriers = relation(&|a, b| {
            let same = |a: &Event, b: &Event| {
                let cta =
                    |event: &Event| event.thread.map(|at| (self.shape.threads[at].rank, self.shape.threads[at].cta));
                a.kind == Kind::Barrier && b.kind == Kind::Barrier && a.place == b.place && cta(a) == cta(b)
            };
            a != b && same(&events[a], &events[b])
        });
        let maybe = program.optional();
        let base = maybe.then(&synchronises.or(&in_sequence).or(&barriers).then(&maybe).closed());
        let first = relation(&|a, b| events[a].thread.is_none() && events[b].thread.is_some());
        let cause = base.or(&observed.then(&base.or(&program_here))).or(&first);

        let before = |a: usize, b: usize| {
            coherence.iter().any(|order| {
                let place = |at| order.iter().position(|other| *other == at);
                matches!((place(a), place(b)), (Some(first), Some(second)) if first < second)
            })
        };
        let writes_here =
            relation(&|a, b| events[a].kind == Kind::Write && events[b].kind == Kind::Write && same_place.has(a, b));
        let chosen = relation(&|a, b| before(a, b) && (morally.has(a, b) || events[a].thread.is_none()));
        let ordered = chosen.or(&cause.and(&writes_here)).closed();
        let from_read = relation(&|a, b| read_from.get(&a).is_some_and(|write| ordered.has(*write, b)));
        let broken = !ordered.is_irreflexive()
            || !in_sequence.then(&cause).is_irreflexive()
            || morally.and(&from_read).then(&morally.and(&ordered)).and(&atomic).0.iter().any(|row| *row != 0)
            || !morally.and(&reads.or(&ordered).or(&from_read)).or(&program_here).closed().is_irreflexive()
            || !reads.or(&from_read).then(&cause).is_irreflexive();
        if broken {
            return;
        }
        let last: Vec<usize> = coherence.iter().filter_map(|order| order.last().copied()).collect();
        let is_last = last.iter().all(|at| ordered.0[*at] == 0);
        let value = |term: &Term| {
            Some(match term {
                Term::Number(number) => *number,
                Term::Variable(name) => last.iter().find(|at| events[**at].place == *name).map_or(0, |at| values[*at]),
                Term::Register(thread, name) => match self.value(*thread, name)? {
                    Source::Number(number) => number,
                    Source::Read(read) => values[read],
                    Source::Sum(read, number) => values[read].wrapping_add(number),
                },
            })
        };
        found.allowed |= is_last && self.shape.outcome.holds(&value) == Some(true);
        found.races |= (0..events.len()).any(|a| {
            (0..a).any(|b| {
                same_place.has(a, b)
                    && (events[a].kind == Kind::Write || events[b].kind == Kind::Write)
                    && !(morally.has(a, b) || cause.has(a, b) || cause.has(b, a))
            })
        });
    }
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let without = |at: usize| [&items[..at], &items[at + 1..]].concat();
    let begin = |at: usize| permutations(&without(at)).into_iter().map(move |rest| [vec![items[at]], rest].concat());
    (0..items.len()).flat_map(begin).collect()
}

/// Calls a function with every choice of one item of each list.
fn each_choice<T: Clone>(lists: &[Vec<T>], call: &mut impl FnMut(&[T])) {
    fn next<T: Clone>(lists: &[Vec<T>], chosen: &mut Vec<T>, call: &mut impl FnMut(&[T])) {
        let Some(list) = lists.get(chosen.len()) else { return call(chosen) };
        for item in list {
            chosen.push(item.clone());
            next(lists, chosen, call);
            chosen.pop();
        }
    }
    next(lists, &mut Vec::new(), call);
}
