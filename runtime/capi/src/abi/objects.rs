//! Bundles, worlds, communicators and handles, each known by a number.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moe_bundle::Bundle;
use moe_contract::{Number, Tensor};
use moe_runtime::node::NodeOptions;
use moe_runtime::{Error, Handle, Torchrun};

use super::error::{MoeStatus, guard, text};
use super::given::{MoeNumber, Sized32, place, read, words};
use crate::failure::{Failure, Result};
use crate::session::{Hardware, Membership, Ranks, Recording, Session, open_bundle};

/// A bundle that was read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeBundle {
    /// 0 is none.
    pub id: u64,
}

/// All ranks of a bundle.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeWorld {
    /// 0 is none.
    pub id: u64,
}

/// Some ranks of a world, which make their calls together.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeCommunicator {
    /// 0 is none.
    pub id: u64,
}

/// A routing that has been dispatched.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeHandle {
    /// 0 is none.
    pub id: u64,
}

/// Calls that were captured.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoeCapture {
    /// 0 is none.
    pub id: u64,
}

/// What there is of one kind, by number.
pub(super) struct Table<T> {
    what: &'static str,
    there: Mutex<BTreeMap<u64, T>>,
}

impl<T: Clone> Table<T> {
    const fn new(what: &'static str) -> Table<T> {
        Table { what, there: Mutex::new(BTreeMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, T>> {
        // Objects are put in and taken out whole.
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, object: T) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, object);
        id
    }

    pub fn get(&self, id: u64) -> Result<T> {
        self.lock().get(&id).cloned().ok_or_else(|| self.gone(id))
    }

    fn remove(&self, id: u64) -> Result<T> {
        self.lock().remove(&id).ok_or_else(|| self.gone(id))
    }

    fn gone(&self, id: u64) -> Failure {
        let problem = match id {
            0 => "it was never made: a call that makes one writes it here".to_owned(),
            id => format!("there is no {} {id}: it was destroyed, or is of another kind", self.what),
        };
        Failure::argument(self.what, problem)
    }
}

pub(super) static BUNDLES: Table<Arc<Bundle>> = Table::new("bundle");
pub(super) static WORLDS: Table<Ranks> = Table::new("world");
pub(super) static COMMUNICATORS: Table<Arc<Mutex<Session>>> = Table::new("communicator");
pub(super) static CAPTURES: Table<Arc<Recording>> = Table::new("capture");
pub(super) static HANDLES: Table<Handle> = Table::new("handle");

pub(super) fn add_capture(recording: Recording) -> MoeCapture {
    MoeCapture { id: CAPTURES.add(Arc::new(recording)) }
}

pub(super) fn add_handle(handle: Handle) -> MoeHandle {
    MoeHandle { id: HANDLES.add(handle) }
}

/// What the numbers of a bundle are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MoePlan {
    /// `sizeof(moe_plan)`.
    pub struct_size: u32,
    /// Ranks of the world.
    pub ranks: u32,
    /// Experts of all ranks.
    pub experts: u32,
    /// Experts of the rank that has most.
    pub local_experts: u32,
    /// Picks of a token.
    pub top_k: u32,
    /// Elements of a row.
    pub hidden: u32,
    /// Tokens of a rank and call at most.
    pub most_tokens: u32,
    /// Width of the logits.
    pub gate_width: u32,
    /// Weights of a row of the experts' input.
    pub weights_per_row: u32,
    /// 1 if combine multiplies by the weights, 0 if the experts do.
    pub combine_weighs: u32,
    /// 1 if a row belongs to one expert, 0 if it has picks.
    pub by_expert: u32,
    /// A `moe_number`: of the tokens.
    pub token_number: u32,
    /// A `moe_number`: of the experts' input.
    pub input_number: u32,
    /// A `moe_number`: of its scales; 0 without.
    pub scale_number: u32,
    /// A `moe_number`: of the experts' output and of the result.
    pub output_number: u32,
    /// Not used.
    pub reserved: u32,
    /// Rows of the experts' input for which there must be room on each rank.
    pub most_rows: u64,
    /// Bytes of a row of tokens.
    pub token_row_bytes: u64,
    /// Bytes of a row of the experts' input.
    pub input_row_bytes: u64,
    /// Bytes of the scales of a row.
    pub scale_row_bytes: u64,
    /// Bytes of a row of the experts' output.
    pub output_row_bytes: u64,
}

// SAFETY: see the definition.
unsafe impl Sized32 for MoePlan {
    const NAME: &'static str = "moe_plan";
    const LEAST: usize = 104;
}

/// What a world is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MoeWorldOptions {
    /// `sizeof(moe_world_options)`.
    pub struct_size: u32,
    /// A `moe_device`.
    pub device: u32,
    /// Of virtual GPUs: which schedule their threads have; 0 is the plain one.
    pub seed: u64,
}

// SAFETY: see the definition.
unsafe impl Sized32 for MoeWorldOptions {
    const NAME: &'static str = "moe_world_options";
    const LEAST: usize = 16;
}

/// How this process joins a world whose other ranks are in other processes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MoeJoinOptions {
    /// `sizeof(moe_join_options)`.
    pub struct_size: u32,
    /// A `moe_device`.
    pub device: u32,
    /// Ranks of each process; 0 for one.
    pub ranks_per_process: u32,
    /// Of CUDA: the driver's number of the GPU of this process.
    pub gpu: u32,
    /// How long other processes may take to come, in nanoseconds; 0 for a minute.
    pub patience_ns: u64,
}

// SAFETY: see the definition.
unsafe impl Sized32 for MoeJoinOptions {
    const NAME: &'static str = "moe_join_options";
    const LEAST: usize = 24;
}

/// Which device.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoeDevice {
    /// Virtual GPUs in this process: tensors lie in its memory, and every call has finished when it returns.
    Virtual = 1,
    /// GPUs of this machine: tensors lie in their memory, and calls return when everything is launched.
    Cuda = 2,
}

/// Which ranks a communicator has.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MoeCommunicatorOptions {
    /// `sizeof(moe_communicator_options)`.
    pub struct_size: u32,
    /// The first of its ranks.
    pub first_rank: u32,
    /// How many; 0 for all of this process that follow.
    pub rank_count: u32,
    /// Not used.
    pub reserved: u32,
    /// How long a kernel may wait for a rank, in nanoseconds; 0 for ever.
    pub deadline_ns: u64,
}

// SAFETY: see the definition.
unsafe impl Sized32 for MoeCommunicatorOptions {
    const NAME: &'static str = "moe_communicator_options";
    const LEAST: usize = 24;
}

/// Reads a bundle, as `moec build` writes it.
///
/// # Safety
/// Pointers are `NULL` or what their types say; so of every function here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_bundle_open(path: *const c_char, bundle: *mut MoeBundle) -> MoeStatus {
    guard(|| {
        // SAFETY: as the caller promises.
        let (path, out) = unsafe { (words("path", path)?, place("bundle", bundle)?) };
        out.id = BUNDLES.add(Arc::new(open_bundle(Path::new(&path))?));
        Ok(())
    })
}

/// Says what the numbers of a bundle are. Set `struct_size` before.
///
/// # Safety
/// See `moe_bundle_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_bundle_plan(bundle: MoeBundle, plan: *mut MoePlan) -> MoeStatus {
    guard(|| {
        // SAFETY: as the caller promises.
        let (given, out) = unsafe { (read("plan", plan.cast_const())?, place("plan", plan)?) };
        let known = BUNDLES.get(bundle.id)?;
        let exchange = &known.manifest().exchange;
        let number = |tensor| exchange.tensor_number(tensor).map_or(0, code);
        let plan = MoePlan {
            struct_size: given.struct_size,
            ranks: exchange.ranks,
            experts: exchange.experts,
            local_experts: exchange.local_experts_max(),
            top_k: exchange.top_k,
            hidden: exchange.hidden,
            most_tokens: exchange.max_tokens,
            gate_width: exchange.gate_width(),
            weights_per_row: exchange.weights_per_row(),
            combine_weighs: exchange.weighted.into(),
            by_expert: exchange.layout.by_expert().into(),
            token_number: number(Tensor::Tokens),
            input_number: number(Tensor::ExpertInput),
            scale_number: number(Tensor::ExpertInputScales),
            output_number: number(Tensor::ExpertOutput),
            reserved: 0,
            most_rows: exchange.output_rows_max(),
            token_row_bytes: exchange.tensor_row_bytes(Tensor::Tokens),
            input_row_bytes: exchange.tensor_row_bytes(Tensor::ExpertInput),
            scale_row_bytes: exchange.tensor_row_bytes(Tensor::ExpertInputScales),
            output_row_bytes: exchange.tensor_row_bytes(Tensor::ExpertOutput),
        };
        // What a caller of an older header has not got is not written.
        let bytes = (given.struct_size as usize).min(size_of::<MoePlan>());
        let (from, to) = ((&raw const plan).cast::<u8>(), std::ptr::from_mut(out).cast::<u8>());
        // SAFETY: both have so many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
        Ok(())
    })
}

fn code(number: Number) -> u32 {
    use moe_contract::{Element, ScaleElement};
    match number {
        Number::I32 => MoeNumber::I32 as u32,
        Number::Element(Element::F32) | Number::Scale(ScaleElement::F32) => MoeNumber::F32 as u32,
        Number::Element(Element::Bf16) => MoeNumber::Bf16 as u32,
        Number::Element(Element::F16) => MoeNumber::F16 as u32,
        Number::Element(Element::E4m3) => MoeNumber::Fp8E4m3 as u32,
        Number::Scale(ScaleElement::Ue8m0) => MoeNumber::Ue8m0 as u32,
        // No bundle has them: there are no kernels.
        Number::Element(Element::E2m1) | Number::Scale(ScaleElement::E4m3) => 0,
    }
}

/// Everything that a bundle says about itself, as JSON, with a zero at its end. `needed` says how many bytes that takes; nothing is written
/// where there are fewer.
///
/// # Safety
/// See `moe_bundle_open`; `json` has `bytes` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_bundle_json(
    bundle: MoeBundle,
    json: *mut c_char,
    bytes: u64,
    needed: *mut u64,
) -> MoeStatus {
    guard(|| {
        // SAFETY: as the caller promises.
        let needed = unsafe { place("needed", needed)? };
        let known = BUNDLES.get(bundle.id)?;
        let all =
            serde_json::to_string(known.manifest()).map_err(|error| Failure::Bug { message: error.to_string() })?;
        let all = text(&all);
        *needed = all.as_bytes_with_nul().len() as u64;
        if !json.is_null() && bytes >= *needed {
            // SAFETY: there are at least so many.
            unsafe { std::ptr::copy_nonoverlapping(all.as_ptr(), json, *needed as usize) };
        }
        Ok(())
    })
}

/// Makes all ranks of a bundle in this process and loads its kernels.
///
/// # Safety
/// See `moe_bundle_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_world_create(
    bundle: MoeBundle,
    options: *const MoeWorldOptions,
    world: *mut MoeWorld,
) -> MoeStatus {
    guard(|| {
        // SAFETY: as the caller promises.
        let (options, out) = unsafe { (read("options", options)?, place("world", world)?) };
        let hardware = match options.device {
            device if device == MoeDevice::Virtual as u32 => Hardware::Virtual { seed: options.seed },
            device if device == MoeDevice::Cuda as u32 => Hardware::Cuda,
            other => return Err(Failure::argument("options.device", format!("{other} is not a moe_device"))),
        };
        let known = BUNDLES.get(bundle.id)?;
        out.id = WORLDS.add(Ranks::new(&known, hardware)?);
        Ok(())
    })
}

/// Makes a world with the processes that torchrun, or whoever sets its variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`,
/// `MASTER_PORT`), has started on this machine: all of them call it together. Virtual GPUs are those of the node that `MOE_NODE` names, or that
/// local rank 0 starts with `$MOEC serve`.
///
/// # Safety
/// See `moe_bundle_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_world_join(
    bundle: MoeBundle,
    options: *const MoeJoinOptions,
    world: *mut MoeWorld,
) -> MoeStatus {
    guard(|| {
        // SAFETY: as the caller promises.
        let (options, out) = unsafe { (read("options", options)?, place("world", world)?) };
        let known = BUNDLES.get(bundle.id)?;
        let told = Torchrun::from_environment().map_err(Error::from)?;
        let patience = if options.patience_ns == 0 { 60_000_000_000 } else { options.patience_ns };
        let (each, patience) = (options.ranks_per_process.max(1), Duration::from_nanos(patience));
        let mine = told.rank.saturating_mul(each)..told.rank.saturating_add(1).saturating_mul(each);
        let membership = match options.device {
            device if device == MoeDevice::Virtual as u32 => {
                let node = NodeOptions::of_torchrun(&told).map_err(Error::from)?;
                let ranks = told.world_size.saturating_mul(each);
                Membership::Virtual(NodeOptions { ranks, mine, patience, ..node })
            }
            device if device == MoeDevice::Cuda as u32 => Membership::Cuda { mine, gpu: options.gpu },
            other => return Err(Failure::argument("options.device", format!("{other} is not a moe_device"))),
        };
        let bootstrap = Arc::new(told.meet(patience).map_err(Error::from)?);
        out.id = WORLDS.add(Ranks::join(&known, bootstrap, &membership)?);
        Ok(())
    })
}

/// Says which ranks of a world are of this process: the first, and how many.
///
/// # Safety
/// See `moe_bundle_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_world_ranks(world: MoeWorld, first_rank: *mut u32, rank_count: *mut u32) -> MoeStatus {
    guard(|| {
        // SAFETY: as the caller promises.
        let (first, count) = unsafe { (place("first_rank", first_rank)?, place("rank_count", rank_count)?) };
        let mine = WORLDS.get(world.id)?.mine();
        (*first, *count) = (mine.start, mine.end - mine.start);
        Ok(())
    })
}

/// Makes a stopped world usable again. None of its communicators may be in a call; handles from before are refused after it.
#[unsafe(no_mangle)]
pub extern "C" fn moe_world_recover(world: MoeWorld) -> MoeStatus {
    guard(|| WORLDS.get(world.id)?.recover())
}

/// Gives some ranks of a world to a communicator.
///
/// # Safety
/// See `moe_bundle_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_communicator_create(
    world: MoeWorld,
    options: *const MoeCommunicatorOptions,
    communicator: *mut MoeCommunicator,
) -> MoeStatus {
    guard(|| {
        // SAFETY: as the caller promises.
        let (options, out) = unsafe { (read("options", options)?, place("communicator", communicator)?) };
        let ranks = WORLDS.get(world.id)?;
        let end = match options.rank_count {
            0 => ranks.mine().end,
            count => options.first_rank.saturating_add(count),
        };
        let deadline = (options.deadline_ns > 0).then(|| Duration::from_nanos(options.deadline_ns));
        let session = Session::new(&ranks, options.first_rank..end, deadline)?;
        out.id = COMMUNICATORS.add(Arc::new(Mutex::new(session)));
        Ok(())
    })
}

/// Forgets a bundle; worlds that were made of it stay.
#[unsafe(no_mangle)]
pub extern "C" fn moe_bundle_destroy(bundle: MoeBundle) -> MoeStatus {
    guard(|| BUNDLES.remove(bundle.id).map(drop))
}

/// Forgets a world; it goes with its last communicator.
#[unsafe(no_mangle)]
pub extern "C" fn moe_world_destroy(world: MoeWorld) -> MoeStatus {
    guard(|| WORLDS.remove(world.id).map(drop))
}

/// Forgets a communicator; its ranks are free for another.
#[unsafe(no_mangle)]
pub extern "C" fn moe_communicator_destroy(communicator: MoeCommunicator) -> MoeStatus {
    guard(|| COMMUNICATORS.remove(communicator.id).map(drop))
}

/// Forgets a handle and frees its arrays, after what was launched with them.
#[unsafe(no_mangle)]
pub extern "C" fn moe_handle_destroy(handle: MoeHandle) -> MoeStatus {
    guard(|| HANDLES.remove(handle.id).map(drop))
}

/// Forgets captured calls.
#[unsafe(no_mangle)]
pub extern "C" fn moe_capture_destroy(capture: MoeCapture) -> MoeStatus {
    guard(|| CAPTURES.remove(capture.id).map(drop))
}
