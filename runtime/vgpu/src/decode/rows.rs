//! Places in the register file. Compilers write a register once and never again, so that a kernel names many hundreds of
//! which few hold a value at a time: registers that never do so together share a row, and a warp's file fits a cache.
//!
//! Invariants:
//! * at every step, what a thread may still read, what the step reads and what it writes are in different rows. A thread is
//!   one lane of each row, and no step writes lanes that do not execute it, so that diverged lanes do not disturb each other:
//!   they are at different steps, and the rows are free at different times. Therefore only registers of one width share a row,
//!   as a lane has another place in a row of another width;
//! * a file starts with the constants, then come the registers that a thread may read before it has written them, which start
//!   as zero: the first `initial_bytes` are all that a warp needs at its start;
//! * the register that a polled value is compared with has a row of its own, for reports, and so has each of a function that may come back
//!   to itself: what a thread keeps of it during a call is not among what steps read and write.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::flow;
use super::graph::{Block, blocks};
use super::op::{KernelCode, NO_GUARD, PREDICATE_FLAG, Reg, Slot, StepOperands};

/// Bits of all sets of live registers. Beyond it no register shares a row: no compiler writes such kernels.
const MOST_BITS: usize = 1 << 28;

/// Room for 32 lanes of a width, in rows of 128 bytes.
pub(super) fn row_bytes(width: u32) -> u32 {
    (width.max(1) * 32).next_multiple_of(128)
}

/// Where a register is needed: the first and the last step.
#[derive(Clone, Copy)]
struct Range {
    first: usize,
    last: usize,
}

/// Gives every register of a kernel its row. So far each has one of its own. `names` are those of rows and flagged predicates.
pub(super) fn share(
    code: &mut KernelCode,
    registers: &[Reg],
    names: &HashMap<u32, String>,
    uses: &[Box<[u32]>],
    defines: &[Box<[u32]>],
) {
    let number_of: HashMap<u32, usize> = registers.iter().enumerate().map(|(number, reg)| (reg.row, number)).collect();
    // Predicates have numbers behind those of the registers.
    let numbers = |rows: &[u32]| -> Vec<usize> {
        let number = |row: &u32| match *row & PREDICATE_FLAG {
            0 => number_of[row],
            _ => registers.len() + (*row & !PREDICATE_FLAG) as usize,
        };
        rows.iter().map(number).collect()
    };
    let uses_of: Vec<Vec<usize>> = uses.iter().map(|rows| numbers(rows)).collect();
    let defines_of: Vec<Vec<usize>> = defines.iter().map(|rows| numbers(rows)).collect();

    let mut places: Vec<Option<u32>> = vec![None; registers.len()];
    let mut end = 0;
    for (reg, _) in &code.constants {
        let number = number_of[&reg.row];
        places[number] = Some(end);
        end += row_bytes(registers[number].bytes);
    }
    let named = registers.len() + code.predicates as usize;
    let (mut ranges, entering) = ranges(code, named, &uses_of, &defines_of);
    ranges.truncate(registers.len());
    for comparison in &code.comparisons {
        ranges[number_of[&comparison.other.row]] = Some(Range { first: 0, last: usize::MAX });
    }
    for reg in code.frames.iter().flat_map(|frame| &frame.registers) {
        ranges[number_of[&reg.row]] = Some(Range { first: ENTRY, last: usize::MAX });
    }
    let mut order: Vec<(usize, Range)> = ranges
        .into_iter()
        .enumerate()
        .filter(|(number, _)| places[*number].is_none())
        .filter_map(|(number, range)| range.map(|range| (number, range)))
        .collect();
    order.sort_by_key(|(_, range)| range.first);
    (code.zeroed_from, code.initial_bytes) = (end, end);
    // Rows in use by the last step of their register, and free ones by width. The row that was freed last comes first: it is
    // the most likely to be in a cache.
    let mut used = BinaryHeap::new();
    let mut free: HashMap<u32, Vec<u32>> = HashMap::new();
    for (number, range) in order {
        while let Some(&Reverse((last, place, width))) = used.peek()
            && last < range.first
        {
            used.pop();
            free.entry(width).or_default().push(place);
        }
        let width = registers[number].bytes;
        let place = free.get_mut(&width).and_then(Vec::pop).unwrap_or_else(|| {
            end += row_bytes(width);
            end - row_bytes(width)
        });
        if range.first == ENTRY {
            code.initial_bytes = end;
        }
        used.push(Reverse((range.last, place, width)));
        places[number] = Some(place);
    }
    code.file_bytes = end;

    let new = |row: u32| places[number_of[&row]].unwrap_or_default();
    let slot = |number: usize| match registers.get(number) {
        Some(reg) => Slot::Register(Reg { row: new(reg.row), bytes: reg.bytes }),
        None => Slot::Predicate((number - registers.len()) as u32),
    };
    let slots = |numbers: &[usize]| numbers.iter().map(|number| slot(*number)).collect();
    let operands = uses_of.iter().zip(&defines_of);
    code.operands =
        operands.map(|(uses, defines)| StepOperands { uses: slots(uses), defines: slots(defines) }).collect();
    let name = |number: usize| match registers.get(number) {
        Some(reg) => names.get(&reg.row),
        None => names.get(&((number - registers.len()) as u32 | PREDICATE_FLAG)),
    };
    // What has no name is made by the decoder, which writes it first.
    code.unwritten = entering.iter().filter_map(|number| Some((slot(number), name(number)?.clone()))).collect();
    for ((step, uses), defines) in code.steps.iter_mut().zip(uses).zip(defines) {
        flow::rename(&mut step.op, uses, defines, new);
    }
    code.constants.iter_mut().for_each(|(reg, _)| reg.row = new(reg.row));
    code.frames.iter_mut().flat_map(|frame| &mut frame.registers).for_each(|reg| reg.row = new(reg.row));
    code.comparisons.iter_mut().for_each(|comparison| comparison.other.row = new(comparison.other.row));
}

/// Stands for the time before the first step; steps are counted from 1 in ranges.
const ENTRY: usize = 0;

/// Where each register is needed; nowhere if no step names it. The end of a range is not too early and its start not too late,
/// but in between there may be steps where the register is not needed.
/// Also those that a thread may read before it writes them.
fn ranges(
    code: &KernelCode,
    registers: usize,
    uses: &[Vec<usize>],
    defines: &[Vec<usize>],
) -> (Vec<Option<Range>>, Set) {
    let mut ranges: Vec<Option<Range>> = vec![None; registers];
    let mut extend = |register: usize, time: usize| {
        let range = ranges[register].get_or_insert(Range { first: time, last: time });
        range.first = range.first.min(time);
        range.last = range.last.max(time);
    };
    let blocks = blocks(code);
    if blocks.len().saturating_mul(registers) > MOST_BITS {
        for register in uses.iter().chain(defines).flatten() {
            extend(*register, ENTRY);
            extend(*register, usize::MAX);
        }
        return (ranges, Set::new(registers));
    }
    let mut entering = live_at_entry(code, &blocks, registers, uses, defines);
    for register in entering[0].iter() {
        extend(register, ENTRY);
    }
    for (block, live) in blocks.iter().zip(&entering) {
        for register in live.iter() {
            extend(register, block.steps.start + 1);
        }
        for successor in &block.successors {
            for register in entering[*successor as usize].iter() {
                extend(register, block.steps.end);
            }
        }
        for step in block.steps.clone() {
            for register in uses[step].iter().chain(&defines[step]) {
                extend(*register, step + 1);
            }
        }
    }
    (ranges, entering.swap_remove(0))
}

/// Registers that a thread at the start of each block may read before it writes them.
fn live_at_entry(
    code: &KernelCode,
    blocks: &[Block],
    registers: usize,
    uses: &[Vec<usize>],
    defines: &[Vec<usize>],
) -> Vec<Set> {
    let mut entering = vec![Set::new(registers); blocks.len()];
    let mut predecessors: Vec<Vec<u32>> = vec![Vec::new(); blocks.len()];
    for (number, block) in blocks.iter().enumerate() {
        block.successors.iter().for_each(|successor| predecessors[*successor as usize].push(number as u32));
    }
    let mut waiting: Vec<u32> = (0..blocks.len() as u32).collect();
    let mut waits = vec![true; blocks.len()];
    while let Some(number) = waiting.pop() {
        let number = number as usize;
        waits[number] = false;
        let mut live = Set::new(registers);
        blocks[number].successors.iter().for_each(|successor| live.add_all(&entering[*successor as usize]));
        for step in blocks[number].steps.clone().rev() {
            // Under a guard some threads keep what they have.
            if code.steps[step].guard == NO_GUARD {
                defines[step].iter().for_each(|register| live.remove(*register));
            }
            uses[step].iter().for_each(|register| live.add(*register));
        }
        if live == entering[number] {
            continue;
        }
        entering[number] = live;
        for predecessor in &predecessors[number] {
            if !std::mem::replace(&mut waits[*predecessor as usize], true) {
                waiting.push(*predecessor);
            }
        }
    }
    entering
}

/// A set of registers by number.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(registers: usize) -> Set {
        Set(vec![0; registers.div_ceil(64)])
    }

    fn add(&mut self, register: usize) {
        self.0[register / 64] |= 1 << (register % 64);
    }

    fn remove(&mut self, register: usize) {
        self.0[register / 64] &= !(1 << (register % 64));
    }

    fn add_all(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                Some(at * 64 + bit)
            })
        })
    }
}
