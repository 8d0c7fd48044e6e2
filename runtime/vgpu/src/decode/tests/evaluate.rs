//! Straight-line register code without the engine: enough to test decoding and semantics of instructions alone.

use crate::decode::op::{Constant, KernelCode, NO_GUARD, Op, Reg};

/// Runs a kernel of register instructions and stores on all lanes; returns the values stored, in order.
pub fn stores(code: &KernelCode) -> Vec<u64> {
    let mut file = vec![0u128; code.file_bytes as usize / 16 + 1];
    let mut predicates = vec![0u32; code.predicates as usize];
    predicates[crate::decode::op::TRUE as usize] = u32::MAX;
    let base = file.as_mut_ptr().cast::<u8>();
    let write = |reg: Reg, lane: u32, bits: u128| {
        let at = (reg.row + lane * reg.bytes) as usize;
        // SAFETY: the decoder leaves room for 32 lanes of `bytes` at `row`.
        unsafe { std::ptr::copy_nonoverlapping(bits.to_le_bytes().as_ptr(), base.add(at), reg.bytes as usize) }
    };
    let read = |reg: Reg, lane: u32| -> u64 {
        let mut bytes = [0; 8];
        let count = (reg.bytes as usize).min(8);
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(base.add((reg.row + lane * reg.bytes) as usize), bytes.as_mut_ptr(), count);
        }
        u64::from_le_bytes(bytes)
    };
    for (reg, value) in &code.constants {
        let Constant::Bits(bits) = value else { panic!("{value:?} needs the engine") };
        (0..32).for_each(|lane| write(*reg, lane, *bits));
    }
    let mut out = Vec::new();
    for (at, step) in code.steps.iter().enumerate() {
        assert_eq!(step.guard, NO_GUARD, "guards need the engine");
        match &step.op {
            // SAFETY: the arguments are decoder-made and the file and table have the sizes it asks for.
            Op::Alu { run, args } => unsafe { run(base, predicates.as_mut_ptr(), args, u32::MAX) },
            Op::Scalar(op) => {
                for lane in 0..32 {
                    let mut sources = [0; 4];
                    for (value, reg) in sources.iter_mut().zip(&op.sources) {
                        *value = read(*reg, lane);
                    }
                    write(op.target, lane, u128::from((op.run)(&sources)));
                }
            }
            Op::Store(op) => {
                let values: Vec<u64> = op.registers.iter().flatten().map(|reg| read(*reg, 31)).collect();
                out.extend(values);
            }
            Op::Load(_) | Op::Exit => {}
            _ => panic!("`{}` needs the engine", code.form(at as u32)),
        }
    }
    out
}
