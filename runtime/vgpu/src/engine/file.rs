//! Register files. A warp has one from its first turn until it exits, and the next warp gets it while it is still in a cache.
//!
//! Invariants: what a file holds of a launch's constants is right for the launch it names, as no instruction writes them; what
//! is beyond the initial part of its kernel is left from earlier warps, and no thread reads it before it has written it.

use super::warp::Warp;
use super::{LaunchState, Machine};
use crate::decode::op::{Constant, Reg, Special};
use crate::ids::LaunchId;
use crate::memory::address::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::semantics::lanes::Row;

/// Rows of registers, and the launch whose constants they hold.
#[derive(Debug, Default)]
pub(crate) struct RegisterFile {
    rows: Vec<Row>,
    launch: Option<LaunchId>,
}

impl RegisterFile {
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a row is 128 initialised bytes, and the length is the vector's.
        unsafe { std::slice::from_raw_parts(self.rows.as_ptr().cast(), self.rows.len() * size_of::<Row>()) }
    }

    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: a row is 128 bytes of which every pattern is valid, and the length is the vector's.
        unsafe { std::slice::from_raw_parts_mut(self.rows.as_mut_ptr().cast(), self.rows.len() * size_of::<Row>()) }
    }

    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.rows.as_mut_ptr().cast()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Sets a register in all lanes.
    pub fn fill(&mut self, reg: Reg, value: impl Fn(u32) -> u128) {
        let width = reg.bytes as usize;
        let row = &mut self.bytes_mut()[reg.row as usize..][..width * 32];
        for (lane, place) in (0..).zip(row.chunks_exact_mut(width)) {
            place.copy_from_slice(&value(lane).to_le_bytes()[..width]);
        }
    }

    /// A file with the constants of a launch, which are the same for all its warps.
    pub fn of_launch(bytes: u32) -> RegisterFile {
        RegisterFile { rows: vec![Row::default(); (bytes as usize).div_ceil(size_of::<Row>())], launch: None }
    }
}

impl Machine {
    /// Gives a warp that has not run its register file.
    pub(super) fn give_file(&mut self, warp: &mut Warp) {
        let Some(state) = &self.launches[warp.launch as usize] else { return };
        let mut file = self.spare_files.pop().unwrap_or_default();
        let kernel = state.kernel.clone();
        let code = kernel.code();
        file.rows.resize((code.file_bytes as usize).div_ceil(size_of::<Row>()), Row::default());
        if file.launch == Some(warp.launch_id) {
            let zeroed = code.zeroed_from as usize / size_of::<Row>();
            file.rows[zeroed..state.template.rows.len()].fill(Row::default());
        } else {
            file.rows[..state.template.rows.len()].copy_from_slice(&state.template.rows);
            file.launch = Some(warp.launch_id);
        }
        fill_own_constants(&mut file, warp, state);
        warp.file = file;
    }

    /// Takes the register file of a warp that has exited.
    pub(super) fn take_file(&mut self, warp: &mut Warp) {
        self.spare_files.push(std::mem::take(&mut warp.file));
    }
}

/// The constants that differ between the warps of a launch.
fn fill_own_constants(file: &mut RegisterFile, warp: &Warp, state: &LaunchState) {
    let (number, cta) = (warp.number, state.cta(warp.cta_index));
    let [x, y, _] = state.block;
    for &(reg, constant) in &state.kernel.code().constants {
        match constant {
            Constant::Special(Special::Tid(axis)) => file.fill(reg, |lane| {
                let thread = number * 32 + lane;
                [thread % x, thread / x % y, thread / x / y][axis as usize].into()
            }),
            Constant::Special(Special::Ctaid(axis)) => file.fill(reg, |_| cta[axis as usize].into()),
            Constant::Special(Special::ClusterId(axis)) => {
                let axis = axis as usize;
                file.fill(reg, |_| (cta[axis] / state.cluster[axis]).into());
            }
            Constant::Special(Special::CtaInCluster(axis)) => {
                let axis = axis as usize;
                file.fill(reg, |_| (cta[axis] % state.cluster[axis]).into());
            }
            Constant::Special(Special::CtaRank) => {
                let [i, j, k] = [0, 1, 2].map(|axis| cta[axis] % state.cluster[axis]);
                let [width, height, _] = state.cluster;
                file.fill(reg, |_| ((k * height + j) * width + i).into());
            }
            Constant::Special(Special::WarpId) => file.fill(reg, |_| number.into()),
            Constant::Special(Special::SmId) => file.fill(reg, |_| warp.sm.into()),
            Constant::SharedWindow => {
                let window = SHARED_WINDOW | u64::from(warp.shared_owner()) << 32;
                file.fill(reg, |_| window.into());
            }
            Constant::LocalWindow => {
                file.fill(reg, |lane| (LOCAL_WINDOW | u64::from(warp.local_owner(lane)) << 32).into());
            }
            _ => {}
        }
    }
}
