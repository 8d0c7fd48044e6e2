//! What a step reads and writes, from its form. Register instructions say it themselves.

use super::op::*;

/// An operand in the register file or among the predicates.
pub(super) enum Operand<'o> {
    /// Offset of a row that is read.
    Read(&'o mut u32),
    /// Offset of a row that is written.
    Write(&'o mut u32),
    /// Index of a predicate that is read.
    Test(u32),
    /// Index of a predicate that is written.
    Set(u32),
}

/// Registers (row offsets) and predicates (index with [`PREDICATE_FLAG`]) that an operation reads and writes.
pub(super) fn of(op: &mut Op) -> (Vec<u32>, Vec<u32>) {
    let (mut uses, mut defines) = (Vec::new(), Vec::new());
    operands(op, &mut |operand| match operand {
        Operand::Read(row) => uses.push(*row),
        Operand::Write(row) => defines.push(*row),
        Operand::Test(predicate) => uses.push(predicate | PREDICATE_FLAG),
        Operand::Set(predicate) => defines.push(predicate | PREDICATE_FLAG),
    });
    (uses, defines)
}

/// Gives the rows of an operation new offsets. `uses` and `defines` are what it reads and writes.
pub(super) fn rename(op: &mut Op, uses: &[u32], defines: &[u32], new: impl Fn(u32) -> u32) {
    if let Op::Alu { args, .. } = op {
        for place in [&mut args.d, &mut args.a, &mut args.b, &mut args.c] {
            // What is not among them is no row, but a predicate or unused.
            if uses.contains(place) || defines.contains(place) {
                *place = new(*place);
            }
        }
    }
    operands(op, &mut |operand| match operand {
        Operand::Read(row) | Operand::Write(row) => *row = new(*row),
        Operand::Test(_) | Operand::Set(_) => {}
    });
}

type Each<'e> = &'e mut dyn FnMut(Operand<'_>);

fn read(reg: &mut Reg, each: Each<'_>) {
    each(Operand::Read(&mut reg.row));
}

fn read_row(row: &mut Option<u32>, each: Each<'_>) {
    row.iter_mut().for_each(|row| each(Operand::Read(row)));
}

fn write(reg: &mut Option<Reg>, each: Each<'_>) {
    reg.iter_mut().for_each(|reg| each(Operand::Write(&mut reg.row)));
}

fn set(predicate: Option<u32>, each: Each<'_>) {
    predicate.into_iter().for_each(|predicate| each(Operand::Set(predicate)));
}

fn place(place: &mut Place, each: Each<'_>) {
    place.base.iter_mut().for_each(|base| each(Operand::Read(&mut base.row)));
}

fn operands(op: &mut Op, each: Each<'_>) {
    match op {
        Op::Alu { .. }
        | Op::Branch { .. }
        | Op::System(_)
        | Op::CopyLocal { .. }
        | Op::Save { .. }
        | Op::Restore { .. }
        | Op::Exit
        | Op::Trap
        | Op::ClusterBarrier(_)
        | Op::Fence { .. }
        | Op::CommitBulk
        | Op::WaitBulk { .. }
        | Op::CommitCopies
        | Op::WaitCopies { .. }
        | Op::LaunchDependents
        | Op::GridWait
        | Op::Nothing => {}
        Op::NoFunction(op) => {
            if let Some(reg) = &mut op.pointer {
                read(reg, each);
            }
        }
        Op::Scalar(op) => {
            op.sources.iter_mut().for_each(|reg| read(reg, each));
            each(Operand::Write(&mut op.target.row));
        }
        Op::Load(op) => {
            place(&mut op.place, each);
            op.registers.iter_mut().for_each(|reg| write(reg, each));
        }
        Op::Store(op) => {
            place(&mut op.place, each);
            op.registers.iter_mut().flatten().for_each(|reg| read(reg, each));
        }
        Op::Atomic(op) => {
            place(&mut op.place, each);
            op.sources.iter_mut().for_each(|reg| read(reg, each));
            op.targets.iter_mut().for_each(|reg| write(reg, each));
        }
        Op::BranchIndexed { index, .. } => each(Operand::Read(index)),
        Op::Call { return_row, .. } => each(Operand::Write(return_row)),
        Op::Return { return_row } => each(Operand::Read(return_row)),
        Op::Warp { members, op, .. } => {
            each(Operand::Read(members));
            warp(op, each);
        }
        Op::ActiveMask { target } => each(Operand::Write(target)),
        Op::Barrier(op) => barrier(op, each),
        Op::Clock { target, .. } => each(Operand::Write(&mut target.row)),
        Op::Sleep { nanoseconds } => each(Operand::Read(nanoseconds)),
        Op::Mbarrier(op) => mbarrier(op, each),
        Op::Bulk(op) => {
            read(&mut op.target, each);
            read(&mut op.source, each);
            each(Operand::Read(&mut op.size));
            if let Some((reg, _)) = &mut op.mbarrier {
                read(reg, each);
            }
            op.multicast.iter_mut().chain(&mut op.byte_mask).for_each(|reg| read(reg, each));
        }
        Op::AsyncStore(op) => {
            place(&mut op.place, each);
            op.registers.iter_mut().flatten().for_each(|reg| read(reg, each));
            op.mbarrier.iter_mut().for_each(|reg| read(reg, each));
        }
        Op::Tensor(op) => {
            read(&mut op.map, each);
            read(&mut op.shared, each);
            op.coordinates.iter_mut().chain(&mut op.multicast).for_each(|reg| read(reg, each));
            if let Some((reg, _)) = &mut op.mbarrier {
                read(reg, each);
            }
        }
        Op::Map(op) => match &mut **op {
            MapOp::Replace { place: at, value, .. } => {
                place(at, each);
                read(value, each);
            }
            MapOp::Acquire { place: at, .. } => place(at, each),
            MapOp::CopyAndRelease { target, source, members, .. } => {
                place(target, each);
                place(source, each);
                each(Operand::Read(members));
            }
        },
        Op::Multimem(op) => {
            place(&mut op.place, each);
            let loads = matches!(op.kind, MultimemKind::LoadReduce(_));
            for reg in op.registers.iter_mut() {
                if loads {
                    write(reg, each);
                } else {
                    reg.iter_mut().for_each(|reg| read(reg, each));
                }
            }
        }
        Op::Fill(op) => {
            place(&mut op.place, each);
            read(&mut op.size, each);
        }
        Op::Copy(op) => {
            read(&mut op.target, each);
            read(&mut op.source, each);
            read_row(&mut op.source_bytes, each);
            op.ignore.into_iter().for_each(|predicate| each(Operand::Test(predicate)));
        }
        Op::CopyArrive { place: at, .. } => place(at, each),
    }
}

fn warp(op: &mut WarpOp, each: Each<'_>) {
    match op {
        WarpOp::Barrier => {}
        WarpOp::Multiply(op) => {
            let sources = op.first.iter_mut().chain(&mut op.second).chain(&mut op.sum);
            sources.for_each(|reg| read(reg, each));
            op.targets.iter_mut().for_each(|reg| each(Operand::Write(&mut reg.row)));
        }
        WarpOp::Shuffle { target, valid, a, b, c, .. } => {
            read(a, each);
            each(Operand::Read(b));
            each(Operand::Read(c));
            write(target, each);
            set(*valid, each);
        }
        WarpOp::Vote { mode, target, source, .. } => {
            each(Operand::Test(*source));
            match mode {
                VoteMode::Ballot => each(Operand::Write(target)),
                _ => each(Operand::Set(*target)),
            }
        }
        WarpOp::Match { target, valid, a, .. } => {
            read(a, each);
            each(Operand::Write(target));
            set(*valid, each);
        }
        WarpOp::Reduce { target, a, .. } => {
            each(Operand::Read(a));
            each(Operand::Write(target));
        }
        WarpOp::Elect { target, elected } => {
            write(target, each);
            set(Some(*elected), each);
        }
    }
}

fn barrier(op: &mut BarrierOp, each: Each<'_>) {
    each(Operand::Read(&mut op.number));
    read_row(&mut op.count, each);
    if let Some((predicate, _)) = op.predicate {
        each(Operand::Test(predicate));
    }
    match &mut op.mode {
        BarrierMode::Sync | BarrierMode::Arrive => {}
        BarrierMode::Popc(reg) => each(Operand::Write(&mut reg.row)),
        BarrierMode::And(predicate) | BarrierMode::Or(predicate) => each(Operand::Set(*predicate)),
    }
}

fn mbarrier(op: &mut MbarrierOp, each: Each<'_>) {
    place(&mut op.place, each);
    match &mut op.kind {
        MbarrierKind::Init { count } => each(Operand::Read(count)),
        MbarrierKind::Invalidate => {}
        MbarrierKind::Arrive { count, expect, state, .. } => {
            read_row(count, each);
            read_row(expect, each);
            write(state, each);
        }
        MbarrierKind::ExpectTransactions { bytes } | MbarrierKind::CompleteTransactions { bytes } => {
            each(Operand::Read(bytes));
        }
        MbarrierKind::Test { state, parity, target } => {
            state.iter_mut().for_each(|reg| each(Operand::Read(&mut reg.row)));
            read_row(parity, each);
            each(Operand::Set(*target));
        }
    }
}
