//! The order in which diverged lanes of a warp run, so that they meet again: a loop before what follows it, both sides of a
//! condition before the place where they join. The order of the text does not do, as compilers put a loop's last block
//! anywhere.
//!
//! This is Bourdoncle's weak topological order ("Efficient chaotic iteration strategies with widenings", 1993): a block
//! comes before those that follow it unless it closes a loop, and the blocks of a loop stand together.

use super::graph::blocks;
use super::op::KernelCode;

/// Kernels with more blocks keep the order of the text: the search below is recursive.
const MOST_BLOCKS: usize = 2000;

/// Gives every step its place.
pub(super) fn order(code: &mut KernelCode) {
    let blocks = blocks(code);
    let sequence: Vec<u32> = if blocks.len() > MOST_BLOCKS {
        (0..blocks.len() as u32).collect()
    } else {
        let successors: Vec<&[u32]> = blocks.iter().map(|block| block.successors.as_slice()).collect();
        let mut search = Search { successors, found: vec![NOT_SEEN; blocks.len()], count: 0, open: Vec::new() };
        let mut reversed = Vec::new();
        search.visit(0, &mut reversed);
        reversed.reverse();
        // Blocks that nothing leads to.
        reversed.extend((0..blocks.len() as u32).filter(|block| search.found[*block as usize] == NOT_SEEN));
        reversed
    };
    let mut place = 0;
    for block in sequence {
        for step in blocks[block as usize].steps.clone() {
            code.steps[step].order = place;
            place += 1;
        }
    }
}

const NOT_SEEN: u32 = 0;
const PLACED: u32 = u32::MAX;

struct Search<'b> {
    successors: Vec<&'b [u32]>,
    /// When the search came to each block.
    found: Vec<u32>,
    count: u32,
    /// Blocks that have not been placed, in the order in which they were found.
    open: Vec<u32>,
}

impl Search<'_> {
    /// Places a block and what has not been seen behind it, last first. The earliest open block that it leads back to.
    fn visit(&mut self, block: u32, reversed: &mut Vec<u32>) -> u32 {
        self.open.push(block);
        self.count += 1;
        let own = self.count;
        self.found[block as usize] = own;
        let mut head = own;
        let mut loops = false;
        for at in 0..self.successors[block as usize].len() {
            let next = self.successors[block as usize][at];
            let least = match self.found[next as usize] {
                NOT_SEEN => self.visit(next, reversed),
                found => found,
            };
            if least <= head {
                (head, loops) = (least, true);
            }
        }
        if head == own {
            self.found[block as usize] = PLACED;
            while let Some(last) = self.open.pop()
                && last != block
            {
                self.found[last as usize] = NOT_SEEN;
            }
            if loops {
                // The rest of the loop again, without the way back to this block.
                for at in 0..self.successors[block as usize].len() {
                    let next = self.successors[block as usize][at];
                    if self.found[next as usize] == NOT_SEEN {
                        self.visit(next, reversed);
                    }
                }
            }
            reversed.push(block);
        }
        head
    }
}
