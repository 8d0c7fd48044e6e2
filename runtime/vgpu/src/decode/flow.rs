//! What a step reads and writes, from its form. Register instructions say it themselves.

use super::op::*;

/// Registers (row offsets) and predicates (index with [`PREDICATE_FLAG`]) that an operation reads and writes.
pub(super) fn of(op: &Op) -> (Vec<u32>, Vec<u32>) {
    let mut flow = Flow::default();
    flow.operation(op);
    (flow.uses, flow.defines)
}

#[derive(Default)]
struct Flow {
    uses: Vec<u32>,
    defines: Vec<u32>,
}

impl Flow {
    fn read(&mut self, reg: Reg) {
        self.uses.push(reg.row);
    }

    fn write(&mut self, reg: Option<Reg>) {
        self.defines.extend(reg.map(|reg| reg.row));
    }

    fn test(&mut self, predicate: u32) {
        self.uses.push(predicate | PREDICATE_FLAG);
    }

    fn set(&mut self, predicate: u32) {
        self.defines.push(predicate | PREDICATE_FLAG);
    }

    fn place(&mut self, place: &Place) {
        self.uses.extend(place.base.map(|reg| reg.row));
    }

    fn operation(&mut self, op: &Op) {
        match op {
            Op::Alu { .. }
            | Op::Branch { .. }
            | Op::System(_)
            | Op::CopyLocal { .. }
            | Op::Exit
            | Op::Trap
            | Op::Fence { .. }
            | Op::CommitBulk
            | Op::WaitBulk { .. }
            | Op::CommitCopies
            | Op::WaitCopies { .. }
            | Op::Nothing => {}
            Op::Scalar(op) => {
                self.uses.extend(op.sources.iter().map(|reg| reg.row));
                self.write(Some(op.target));
            }
            Op::Load(op) => {
                self.place(&op.place);
                op.registers.iter().for_each(|reg| self.write(*reg));
            }
            Op::Store(op) => {
                self.place(&op.place);
                op.registers.iter().flatten().for_each(|reg| self.read(*reg));
            }
            Op::Atomic(op) => {
                self.place(&op.place);
                op.sources.iter().for_each(|reg| self.read(*reg));
                self.write(op.target);
            }
            Op::BranchIndexed { index, .. } => self.uses.push(*index),
            Op::Call { return_row, .. } => self.defines.push(*return_row),
            Op::Return { return_row } => self.uses.push(*return_row),
            Op::Warp { members, op } => {
                self.uses.push(*members);
                self.warp(op);
            }
            Op::ActiveMask { target } => self.defines.push(*target),
            Op::Barrier(op) => {
                self.uses.push(op.number);
                self.uses.extend(op.count);
                if let Some((predicate, _)) = op.predicate {
                    self.test(predicate);
                }
                match op.mode {
                    BarrierMode::Sync | BarrierMode::Arrive => {}
                    BarrierMode::Popc(reg) => self.write(Some(reg)),
                    BarrierMode::And(predicate) | BarrierMode::Or(predicate) => self.set(predicate),
                }
            }
            Op::Clock { target, .. } => self.write(Some(*target)),
            Op::Sleep { nanoseconds } => self.uses.push(*nanoseconds),
            Op::Mbarrier(op) => self.mbarrier(op),
            Op::Bulk(op) => {
                self.read(op.target);
                self.read(op.source);
                self.uses.push(op.size);
                if let Some((reg, _)) = op.mbarrier {
                    self.read(reg);
                }
            }
            Op::Copy(op) => {
                self.read(op.target);
                self.read(op.source);
                self.uses.extend(op.source_bytes);
                if let Some(predicate) = op.ignore {
                    self.test(predicate);
                }
            }
            Op::CopyArrive { place, .. } => self.place(place),
        }
    }

    fn warp(&mut self, op: &WarpOp) {
        match op {
            WarpOp::Barrier => {}
            WarpOp::Shuffle { target, valid, a, b, c, .. } => {
                self.read(*a);
                self.uses.extend([*b, *c]);
                self.write(*target);
                valid.iter().for_each(|predicate| self.set(*predicate));
            }
            WarpOp::Vote { mode, target, source, .. } => {
                self.test(*source);
                match mode {
                    VoteMode::Ballot => self.defines.push(*target),
                    _ => self.set(*target),
                }
            }
            WarpOp::Match { target, valid, a, .. } => {
                self.read(*a);
                self.defines.push(*target);
                valid.iter().for_each(|predicate| self.set(*predicate));
            }
            WarpOp::Reduce { target, a, .. } => {
                self.uses.push(*a);
                self.defines.push(*target);
            }
            WarpOp::Elect { target, elected } => {
                self.write(*target);
                self.set(*elected);
            }
        }
    }

    fn mbarrier(&mut self, op: &MbarrierOp) {
        self.place(&op.place);
        match op.kind {
            MbarrierKind::Init { count } => self.uses.push(count),
            MbarrierKind::Invalidate => {}
            MbarrierKind::Arrive { count, expect, state, .. } => {
                self.uses.extend(count);
                self.uses.extend(expect);
                self.write(state);
            }
            MbarrierKind::ExpectTransactions { bytes } | MbarrierKind::CompleteTransactions { bytes } => {
                self.uses.push(bytes);
            }
            MbarrierKind::Test { state, parity, target } => {
                self.uses.extend(state.map(|reg| reg.row));
                self.uses.extend(parity);
                self.set(target);
            }
        }
    }
}
