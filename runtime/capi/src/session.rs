//! Calls of a communicator over memory of the caller: what every other language binds.
//!
//! Invariants:
//! * tensors lie where the ranks compute: on GPUs in the memory of the GPU, which is borrowed, and no call waits; on virtual GPUs in the
//!   memory of this process, which is copied unless a node has it too, and each call has finished when it returns;
//! * everything that the caller says of a tensor is checked before anything is read or launched.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moe_bundle::{Bundle, ParameterKind};
use moe_contract::memory::WORD_BYTES;
use moe_contract::{Buffer, Exchange, Number, RankId, Tensor};
use moe_runtime::communicator::{CallerParameter, CombineGradient, Received, handle_bytes};
use moe_runtime::device::{Address, Memory};
use moe_runtime::node::{HostMemory, NodeDevice, NodeOptions};
use moe_runtime::tensor::Distributed;
use moe_runtime::{
    Bootstrap, Capture, Communicator, CudaDevice, CudaOptions, Device, Error, GateParameters, Handle, Options,
    Parameters, Policy, Routing, VirtualDevice, VirtualOptions, World,
};

use crate::failure::{Failure, Result};
use crate::view::{Part, View};

/// Reads a bundle.
///
/// # Errors
/// When there is none, or not of this version.
pub fn open_bundle(path: &Path) -> Result<Bundle> {
    Bundle::read(path).map_err(|problem| Failure::Bundle { path: path.into(), problem })
}

/// What the ranks of a world are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// Virtual GPUs in this process; the seed chooses a schedule, 0 the plain one.
    Virtual {
        /// Of the schedule.
        seed: u64,
    },
    /// GPUs of this machine, through the CUDA driver.
    Cuda,
}

/// What the ranks of this process are, in a world whose others are in other processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Virtual GPUs of a node.
    Virtual(NodeOptions),
    /// Ranks on one GPU, by the driver's number of it.
    Cuda {
        /// Of this process.
        mine: Range<u32>,
        /// The GPU.
        gpu: u32,
    },
}

/// The ranks of a bundle that are in this process.
#[derive(Clone)]
pub struct Ranks {
    world: Arc<World>,
    /// Where there are GPUs.
    cuda: Option<Arc<CudaDevice>>,
    /// Where ranks are virtual GPUs of a node.
    node: Option<Arc<NodeDevice>>,
}

impl Ranks {
    /// Makes the ranks and loads the kernels.
    ///
    /// # Errors
    /// When the bundle does not fit the hardware.
    pub fn new(bundle: &Bundle, hardware: Hardware) -> Result<Ranks> {
        let ranks = bundle.manifest().exchange.ranks;
        let (device, cuda): (Arc<dyn Device>, _) = match hardware {
            Hardware::Virtual { seed } => {
                let policy = if seed == 0 { Policy::RoundRobin } else { Policy::Random };
                let options = VirtualOptions { policy, seed, ..VirtualOptions::default() };
                (Arc::new(VirtualDevice::new(ranks, &options).map_err(Error::from)?), None)
            }
            Hardware::Cuda => {
                let device = Arc::new(CudaDevice::new(ranks, &CudaOptions::default()).map_err(Error::from)?);
                (Arc::<CudaDevice>::clone(&device), Some(device))
            }
        };
        Ok(Ranks { world: World::new(device, bundle)?, cuda, node: None })
    }

    /// The ranks of this process, of a world whose others are in other processes: all of them call this together, each with its part.
    ///
    /// # Errors
    /// Who did not come; when the bundle does not fit, or is not the same everywhere.
    pub fn join(bundle: &Bundle, bootstrap: Arc<dyn Bootstrap>, membership: &Membership) -> Result<Ranks> {
        let (device, cuda, node): (Arc<dyn Device>, _, _) = match membership {
            Membership::Virtual(node) => {
                let device = Arc::new(NodeDevice::attach(node).map_err(Error::from)?);
                (Arc::<NodeDevice>::clone(&device), None, Some(device))
            }
            Membership::Cuda { mine, gpu } => {
                let ranks = bundle.manifest().exchange.ranks;
                let device = CudaDevice::of_process(ranks, mine.clone(), *gpu, &CudaOptions::default());
                let device = Arc::new(device.map_err(Error::from)?);
                (Arc::<CudaDevice>::clone(&device), Some(device), None)
            }
        };
        Ok(Ranks { world: World::join(bootstrap, device, bundle)?, cuda, node })
    }

    /// Those of this process.
    pub fn mine(&self) -> Range<u32> {
        self.world.mine()
    }

    /// The numbers of the bundle.
    pub fn exchange(&self) -> &Exchange {
        self.world.exchange()
    }

    /// Makes all of them usable again after an error. No communicator may be in a call.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn recover(&self) -> Result<()> {
        Ok(self.world.recover()?)
    }
}

/// A parameter of the gate, as the caller has it: its name and, for each rank, so many rows of one number.
#[derive(Clone, Debug)]
pub struct GateParameter {
    /// In the gate.
    pub name: String,
    /// One row is one number.
    pub view: View,
}

/// Picks and weights of every token.
#[derive(Clone, Copy, Debug)]
pub struct RoutingView<'v> {
    /// [`Tensor::Indices`]
    pub indices: &'v View,
    /// [`Tensor::Weights`]
    pub weights: &'v View,
}

/// The experts' input, with its scales where it has some.
#[derive(Clone, Copy, Debug)]
pub struct InputView<'v> {
    /// [`Tensor::ExpertInput`]
    pub rows: &'v View,
    /// [`Tensor::ExpertInputScales`]
    pub scales: Option<&'v View>,
}

/// A handle whose arrays the caller has: [`handle_bytes`] at an address of each rank, aligned to 16 bytes on GPUs.
#[derive(Clone, Copy, Debug)]
pub struct HandleView<'v> {
    /// Where it begins on each rank.
    pub addresses: &'v [u64],
    /// What was dispatched.
    pub routing: RoutingView<'v>,
}

/// A handle of the caller, in use by one call.
pub struct OpenHandle {
    /// For the call.
    pub handle: Handle,
    /// Copies of the caller's arrays, where ranks do not have those, and where these are.
    copies: Vec<(Arc<Memory>, u64)>,
}

/// A communicator and what it needs to take tensors of the caller.
///
/// # Safety
/// Of every method that takes a [`View`]: at each address there are so many rows, on GPUs until the launches of the call have finished;
/// what is written overlaps nothing else that is passed.
pub struct Session {
    ranks: Ranks,
    moe: Communicator,
    /// Of a capture, while there is one.
    recorded: Option<Vec<Step>>,
    /// Bytes of tensors and handles, so far.
    copied: u64,
}

/// Calls that were captured, with what they take of the caller and give him.
#[derive(Debug)]
pub struct Recording(Vec<Step>);

/// A call of a capture.
#[derive(Debug, Default)]
struct Step {
    taken: Vec<(Distributed, View)>,
    /// Arrays of a handle of the caller.
    handle: Vec<(Arc<Memory>, u64)>,
    fills_handle: bool,
    /// None until it has been launched.
    capture: Option<Capture>,
    given: Vec<(Distributed, View)>,
}

impl Session {
    /// Some ranks of a world.
    ///
    /// # Errors
    /// When there are no such ranks, or one has a communicator.
    pub fn new(ranks: &Ranks, those: Range<u32>, deadline: Option<Duration>) -> Result<Session> {
        let moe = Communicator::of_ranks(&ranks.world, those, Options { deadline })?;
        Ok(Session { ranks: ranks.clone(), moe, recorded: None, copied: 0 })
    }

    /// Memory of a rank that this process has too, where there is such memory: tensors that lie in it are not copied. What is there is undefined, or
    /// zero if that is asked for. It may outlive the session and the world.
    ///
    /// # Errors
    /// When the rank is not one of these, or there is not enough.
    pub fn host_memory(&self, rank: RankId, bytes: u64, zero: bool) -> Result<Option<HostMemory>> {
        if !self.moe.ranks().any(|own| own == rank) {
            return Err(Failure::argument("rank", format!("{rank} is not one of this communicator")));
        }
        let Some(node) = &self.ranks.node else { return Ok(None) };
        let mut memory = node.host_memory(rank, bytes).map_err(Error::from)?;
        if zero {
            memory.zero();
        }
        Ok(Some(memory))
    }

    /// Bytes of tensors and handles that have been copied between the caller and the ranks so far.
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// The same tensor where the ranks have it, if all of it lies in memory of [`Session::host_memory`].
    fn in_place(&self, view: &View) -> Option<View> {
        let part = |(rank, part): (RankId, &Part)| {
            let address = self.address_of(rank, part.address, part.rows.checked_mul(view.row_bytes)?)?;
            Some(Part { address: address.0, rows: part.rows })
        };
        let parts = self.moe.ranks().zip(&view.parts).map(part).collect::<Option<Vec<Part>>>()?;
        Some(View { parts, ..view.clone() })
    }

    /// What bytes of this process are for a rank, if it has them.
    fn address_of(&self, rank: RankId, host: u64, bytes: u64) -> Option<Address> {
        let node = self.ranks.node.as_ref()?;
        if bytes == 0 {
            return Some(Address::NULL);
        }
        node.address_of(rank, host, bytes).filter(|address| address.0.is_multiple_of(WORD_BYTES))
    }

    /// From now on keeps calls for [`Session::replay`] in place of making them. Where tensors lie in the memory of this process, a replay takes
    /// what is there then; parameters of the gate stay as they are now.
    ///
    /// # Errors
    /// When there is a capture.
    pub fn begin_capture(&mut self) -> Result<()> {
        if self.recorded.is_some() {
            return Err(Failure::argument("communicator", "it is capturing: end that capture first"));
        }
        self.recorded = Some(vec![]);
        Ok(())
    }

    /// The calls since [`Session::begin_capture`].
    ///
    /// # Errors
    /// When there is no capture.
    pub fn end_capture(&mut self) -> Result<Recording> {
        self.forget_refused();
        let recorded = self.recorded.take();
        Ok(Recording(recorded.ok_or_else(|| Failure::argument("communicator", "it is not capturing"))?))
    }

    /// A call was refused: nothing of it is kept.
    pub fn forget_refused(&mut self) {
        if let Some(steps) = &mut self.recorded {
            steps.retain(|step| step.capture.is_some());
        }
    }

    /// Makes captured calls, with what is now in their tensors.
    ///
    /// # Errors
    /// When they are not of this communicator, or what a kernel refuses.
    ///
    /// # Safety
    /// See [`Session`], of every tensor of the captured calls, whose memory is still there.
    pub unsafe fn replay(&mut self, recording: &Recording) -> Result<()> {
        if self.recorded.is_some() {
            return Err(Failure::argument("communicator", "it is capturing, and a capture has no replay in it"));
        }
        for Step { taken, handle, fills_handle, capture, given } in &recording.0 {
            for (tensor, view) in taken {
                // SAFETY: as the caller promises, here and below.
                self.moe.upload_into::<u8>(tensor, &unsafe { view.bytes() })?;
            }
            for (memory, address) in handle {
                // SAFETY: as above.
                let there = unsafe { std::slice::from_raw_parts(*address as *const u8, memory.bytes() as usize) };
                memory.write(there).map_err(Error::from)?;
            }
            if let Some(capture) = capture {
                self.moe.replay(capture)?;
            }
            for (tensor, view) in given {
                // SAFETY: as above.
                unsafe { self.finish(&[(tensor, view)]) }?;
            }
            if self.on_host() && given.is_empty() {
                self.moe.synchronise()?;
            }
            if *fills_handle {
                for (memory, address) in handle {
                    // SAFETY: as above.
                    unsafe { copy_out(memory, *address) }?;
                }
            }
        }
        Ok(())
    }

    fn launch<T>(&mut self, call: impl FnOnce(&mut Communicator) -> moe_runtime::Result<T>) -> Result<T> {
        if self.recorded.is_none() {
            return Ok(call(&mut self.moe)?);
        }
        let (result, capture) = self.moe.capture(call)?;
        if let Some(step) = self.step() {
            step.capture = Some(capture);
        }
        Ok(result)
    }

    /// Of a capture, the call that has not been launched.
    fn step(&mut self) -> Option<&mut Step> {
        let steps = self.recorded.as_mut()?;
        if steps.last().is_none_or(|step| step.capture.is_some()) {
            steps.push(Step::default());
        }
        steps.last_mut()
    }

    /// The numbers of the bundle.
    pub fn exchange(&self) -> &Exchange {
        self.moe.exchange()
    }

    /// The communicator.
    pub fn communicator(&mut self) -> &mut Communicator {
        &mut self.moe
    }

    /// Whether tensors lie in the memory of this process, and calls have finished when they return.
    pub fn on_host(&self) -> bool {
        self.ranks.cuda.is_none()
    }

    /// Launches in these streams of CUDA from now on, one for each rank.
    ///
    /// # Errors
    /// When the ranks are virtual, or there is not one for each.
    ///
    /// # Safety
    /// Each is a stream of the GPU of its rank, and lives until what is launched in it has finished and another is used.
    pub unsafe fn use_streams(&mut self, streams: &[u64]) -> Result<()> {
        let Some(device) = &self.ranks.cuda else {
            return Err(Failure::argument("streams", "virtual GPUs have no streams of CUDA"));
        };
        let mut adopted = Vec::new();
        for (rank, &stream) in self.moe.ranks().zip(streams) {
            // SAFETY: as the caller promises.
            adopted.push(unsafe { device.adopt_stream(rank, stream as *mut _) }.map_err(Error::from)?);
        }
        Ok(self.moe.use_streams(&adopted)?)
    }

    /// Chooses experts and weights.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn gate(&mut self, logits: &View, parameters: &[GateParameter], routing: RoutingView<'_>) -> Result<()> {
        // SAFETY: as the caller promises, here and below.
        unsafe {
            let parameters = self.parameters(parameters)?;
            let logits = self.input(Tensor::Logits, logits)?;
            let indices = self.output(Tensor::Indices, routing.indices)?;
            let weights = self.output(Tensor::Weights, routing.weights)?;
            let chosen = Routing { indices, weights };
            self.launch(|moe| moe.gate_into(&logits, &parameters, &chosen))?;
            self.finish(&[(&chosen.indices, routing.indices), (&chosen.weights, routing.weights)])
        }
    }

    /// The gradient of the logits.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn gate_backward(
        &mut self,
        logits: &View,
        parameters: &[GateParameter],
        of_weights: &View,
        of_logits: &View,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let parameters = self.parameters(parameters)?;
            let logits = self.input(Tensor::Logits, logits)?;
            let given = self.input(Tensor::WeightGradients, of_weights)?;
            let result = self.output(Tensor::LogitGradients, of_logits)?;
            self.launch(|moe| moe.gate_backward_into(&logits, &given, &parameters, &result))?;
            self.finish(&[(&result, of_logits)])
        }
    }

    /// Sends every token to the ranks of its experts; there is room for [`Exchange::output_rows_max`] rows.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch(&mut self, tokens: &View, routing: RoutingView<'_>, input: InputView<'_>) -> Result<Handle> {
        // SAFETY: as the caller promises.
        unsafe {
            let routing = self.routing(routing)?;
            let tokens = self.input(Tensor::Tokens, tokens)?;
            let (rows, scales) = self.expert_input(input)?;
            let handle = self.launch(|moe| moe.dispatch_into(&tokens, &routing, &rows, scales.as_ref()))?;
            self.finish_input(&handle, rows, scales, input)?;
            Ok(handle)
        }
    }

    /// Sends other tokens the same way.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch_cached(&mut self, handle: &Handle, tokens: &View, input: InputView<'_>) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let tokens = self.input(Tensor::Tokens, tokens)?;
            let (rows, scales) = self.expert_input(input)?;
            self.launch(|moe| moe.dispatch_cached_into(handle, &tokens, &rows, scales.as_ref()))?;
            self.finish_input(handle, rows, scales, input)
        }
    }

    /// Makes a handle of what the caller has: filled by an earlier [`Session::dispatch_with`], or to be filled by the next.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`]. What is there came from a dispatch of this world with this routing, or is not used before one.
    pub unsafe fn open_handle(&mut self, view: HandleView<'_>) -> Result<OpenHandle> {
        let bytes = handle_bytes(self.exchange()) as usize;
        let rows = vec![self.exchange().output_rows_max(); view.addresses.len()];
        let mut copies = Vec::new();
        // SAFETY: as the caller promises; copies live as long as the handle.
        unsafe {
            let routing = self.routing(view.routing)?;
            let mut addresses: Vec<Address> = view.addresses.iter().map(|&address| Address(address)).collect();
            if self.on_host() {
                let ranks: Vec<RankId> = self.moe.ranks().collect();
                for (rank, address) in ranks.into_iter().zip(&mut addresses) {
                    if address.0 == 0 {
                        return Err(Failure::argument("handle", format!("that of {rank} is at address 0")));
                    }
                    if let Some(there) = self.address_of(rank, address.0, bytes as u64) {
                        *address = there;
                        continue;
                    }
                    let memory = Memory::new(self.moe.device(), rank, bytes as u64, "handle").map_err(Error::from)?;
                    let there = std::slice::from_raw_parts(address.0 as *const u8, bytes);
                    memory.write(there).map_err(Error::from)?;
                    self.copied += bytes as u64;
                    let copy = (Arc::new(memory), address.0);
                    *address = copy.0.address();
                    if let Some(step) = self.step() {
                        step.handle.push(copy.clone());
                    }
                    copies.push(copy);
                }
            }
            let handle = self.moe.borrow_handle(&routing, &rows, &addresses)?;
            Ok(OpenHandle { handle, copies })
        }
    }

    /// [`Session::dispatch`] with a handle of the caller, which it fills.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch_with(&mut self, view: HandleView<'_>, tokens: &View, input: InputView<'_>) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let OpenHandle { handle, copies } = self.open_handle(view)?;
            let tokens = self.input(Tensor::Tokens, tokens)?;
            let (rows, scales) = self.expert_input(input)?;
            self.launch(|moe| moe.dispatch_with(&handle, &tokens, &rows, scales.as_ref()))?;
            self.finish_input(&handle, rows, scales, input)?;
            if let Some(step) = self.recorded.as_mut().and_then(|steps| steps.last_mut()) {
                step.fills_handle = true;
                return Ok(());
            }
            self.copied += copies.iter().map(|(memory, _)| memory.bytes()).sum::<u64>();
            copies.iter().try_for_each(|(memory, address)| copy_out(memory, *address))
        }
    }

    /// Brings the experts' output back and sums it for every token.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn combine(&mut self, handle: &Handle, output: &View, combined: &View) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let output = self.input(Tensor::ExpertOutput, output)?;
            let result = self.output(Tensor::Combined, combined)?;
            self.launch(|moe| moe.combine_into(handle, &output, &result))?;
            self.finish(&[(&result, combined)])
        }
    }

    /// Gradients of the tokens, given those of the experts' input in the combine format.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn dispatch_backward(&mut self, handle: &Handle, of_input: &View, of_tokens: &View) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let given = self.input(Tensor::ExpertOutput, of_input)?;
            let result = self.output(Tensor::Combined, of_tokens)?;
            self.launch(|moe| moe.dispatch_backward_into(handle, &given, &result))?;
            self.finish(&[(&result, of_tokens)])
        }
    }

    /// Gradients of the experts' output and, where combine weighs, of the weights.
    ///
    /// # Errors
    /// When something does not fit.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn combine_backward(
        &mut self,
        handle: &Handle,
        output: &View,
        of_combined: &View,
        of_output: &View,
        of_weights: Option<&View>,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let output = self.input(Tensor::ExpertOutput, output)?;
            let given = self.input(Tensor::CombinedGradient, of_combined)?;
            let result = self.output(Tensor::ExpertOutputGradient, of_output)?;
            let weights = of_weights.map(|view| self.output(Tensor::WeightGradients, view)).transpose()?;
            let mut result = CombineGradient { output: result, weights };
            self.launch(|moe| moe.combine_backward_into(handle, &output, &given, &result))?;
            handle.fills(std::iter::once(&mut result.output));
            self.finish(&[(&result.output, of_output)])?;
            result.weights.iter().zip(of_weights).try_for_each(|pair| self.finish(&[pair]))
        }
    }

    /// Gradients of the weights where the experts weigh, given those of the weights of the rows.
    ///
    /// # Errors
    /// When something does not fit, or combine weighs.
    ///
    /// # Safety
    /// See [`Session`].
    pub unsafe fn weights_backward(&mut self, handle: &Handle, of_rows: &View, of_weights: &View) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe {
            let given = self.input(Tensor::RowWeightGradients, of_rows)?;
            let result = self.output(Tensor::WeightGradients, of_weights)?;
            self.launch(|moe| moe.weights_backward_into(handle, &given, &result))?;
            self.finish(&[(&result, of_weights)])
        }
    }

    /// All ranks meet.
    ///
    /// # Errors
    /// When it cannot be launched or, on virtual GPUs, a rank does not come.
    pub fn barrier(&mut self) -> Result<()> {
        self.launch(Communicator::barrier)?;
        if self.on_host() && self.recorded.is_none() {
            self.moe.synchronise()?;
        }
        Ok(())
    }

    /// Waits for everything that was launched.
    ///
    /// # Errors
    /// What a kernel of any rank refused, or who did not come.
    pub fn synchronise(&mut self) -> Result<()> {
        Ok(self.moe.synchronise()?)
    }

    /// What every rank received. Waits.
    ///
    /// # Errors
    /// When the handle is of another communicator, or a kernel failed.
    pub fn received(&mut self, handle: &Handle) -> Result<Vec<Received>> {
        Ok(self.moe.received(handle)?)
    }

    /// Bytes of an array of a handle on a rank. Waits.
    ///
    /// # Errors
    /// When the array has not so many, or they were never written.
    pub fn read_array(
        &mut self,
        handle: &Handle,
        rank: RankId,
        buffer: Buffer,
        bytes: Range<usize>,
    ) -> Result<Vec<u8>> {
        let has = self.exchange().buffer_bytes(buffer);
        if bytes.end as u64 > has || bytes.start > bytes.end || !self.moe.ranks().any(|own| own == rank) {
            let problem = format!("bytes {bytes:?} of {rank}: the array `{}` has {has}", buffer.name());
            return Err(Failure::argument("bytes", problem));
        }
        Ok(self.moe.inspect(handle, rank, buffer, bytes)?)
    }

    unsafe fn routing(&mut self, routing: RoutingView<'_>) -> Result<Routing> {
        // SAFETY: as the caller promises.
        unsafe {
            let indices = self.input(Tensor::Indices, routing.indices)?;
            let weights = self.input(Tensor::Weights, routing.weights)?;
            Ok(Routing { indices, weights })
        }
    }

    unsafe fn expert_input(&mut self, input: InputView<'_>) -> Result<(Distributed, Option<Distributed>)> {
        // SAFETY: as the caller promises.
        unsafe {
            let rows = self.output(Tensor::ExpertInput, input.rows)?;
            let scales = input.scales.map(|scales| self.output(Tensor::ExpertInputScales, scales)).transpose()?;
            Ok((rows, scales))
        }
    }

    unsafe fn finish_input(
        &mut self,
        handle: &Handle,
        mut rows: Distributed,
        mut scales: Option<Distributed>,
        input: InputView<'_>,
    ) -> Result<()> {
        handle.fills(std::iter::once(&mut rows).chain(&mut scales));
        // SAFETY: as the caller promises.
        unsafe {
            self.finish(&[(&rows, input.rows)])?;
            scales.iter().zip(input.scales).try_for_each(|pair| self.finish(&[pair]))
        }
    }

    /// A tensor that a call reads.
    unsafe fn input(&mut self, kind: Tensor, view: &View) -> Result<Distributed> {
        // SAFETY: as the caller promises.
        unsafe {
            match self.on_host() {
                true => {
                    let number = self.check(kind, view)?;
                    if let Some(there) = self.in_place(view) {
                        return Ok(self.moe.borrow(kind, &there.borrowed(number))?);
                    }
                    self.copied += view.total();
                    let tensor = self.moe.upload::<u8>(kind, &view.bytes())?;
                    if let Some(step) = self.step() {
                        step.taken.push((tensor.clone(), view.clone()));
                    }
                    Ok(tensor)
                }
                false => self.borrow(kind, view),
            }
        }
    }

    /// A tensor that a call writes.
    unsafe fn output(&mut self, kind: Tensor, view: &View) -> Result<Distributed> {
        if self.on_host() {
            let number = self.check(kind, view)?;
            return match self.in_place(view) {
                // SAFETY: as the caller promises; the memory is there as long as what is in it.
                Some(there) => Ok(unsafe { self.moe.borrow(kind, &there.borrowed(number)) }?),
                None => Ok(self.moe.allocate(kind, &view.rows())?),
            };
        }
        // SAFETY: as the caller promises.
        unsafe { self.borrow(kind, view) }
    }

    unsafe fn borrow(&mut self, kind: Tensor, view: &View) -> Result<Distributed> {
        let number = self.check(kind, view)?;
        // SAFETY: as the caller promises.
        Ok(unsafe { self.moe.borrow(kind, &view.borrowed(number)) }?)
    }

    fn check(&self, kind: Tensor, view: &View) -> Result<Number> {
        let ranks: Vec<RankId> = self.moe.ranks().collect();
        view.check(kind, self.exchange(), &ranks)
    }

    /// Gives a call's results to the caller: on virtual GPUs, after they have run.
    unsafe fn finish(&mut self, results: &[(&Distributed, &View)]) -> Result<()> {
        if !self.on_host() {
            return Ok(());
        }
        let copied = results.iter().filter(|(_, view)| self.in_place(view).is_none());
        let copied: Vec<(&Distributed, &View)> = copied.copied().collect();
        if let Some(step) = self.recorded.as_mut().and_then(|steps| steps.last_mut()) {
            step.given.extend(copied.into_iter().map(|(result, view)| (result.clone(), view.clone())));
            return Ok(());
        }
        if copied.len() < results.len() {
            self.moe.synchronise()?;
        }
        for (result, view) in copied {
            self.copied += view.total();
            let bytes: Vec<Vec<u8>> = self.moe.download(result)?;
            // SAFETY: as the caller promises.
            unsafe { view.fill(&bytes) };
        }
        Ok(())
    }

    unsafe fn parameters(&mut self, given: &[GateParameter]) -> Result<GateParameters> {
        for GateParameter { name, view } in given {
            let null = view.parts.iter().any(|part| part.address == 0 && part.rows > 0);
            if null || view.row_bytes != 4 || view.rows().iter().any(|&rows| rows > isize::MAX as u64 / 4) {
                let problem = "pass contiguous float32 or int32 numbers".to_owned();
                return Err(Failure::Argument { argument: format!("parameter `{name}` of the gate"), problem });
            }
        }
        if !self.on_host() {
            let of_caller = |GateParameter { name, view }: &GateParameter| {
                let parts = view.borrowed(view.number);
                CallerParameter { name: name.clone(), parts }
            };
            let parameters: Vec<CallerParameter> = given.iter().map(of_caller).collect();
            // SAFETY: as the caller promises.
            return Ok(unsafe { self.moe.borrow_parameters(&parameters) }?);
        }
        let kinds = self.moe.manifest().gate.parameters.clone();
        let mut parameters = Parameters::none();
        for GateParameter { name, view } in given {
            let kind = kinds.iter().find(|parameter| parameter.name == *name).map(|parameter| parameter.kind);
            // SAFETY: as the caller promises.
            let of_ranks = unsafe { view.bytes() };
            self.copied += view.total();
            let first = of_ranks.first().copied().unwrap_or_default();
            parameters = match (view.number, kind) {
                (Number::I32, Some(ParameterKind::TokenId)) => {
                    let ids: Vec<Vec<i32>> = of_ranks.iter().map(|bytes| numbers(bytes, i32::from_ne_bytes)).collect();
                    parameters.token_ids(name, &ids)
                }
                // The runtime gives every rank the same numbers.
                _ if of_ranks.iter().any(|bytes| *bytes != first) => {
                    return Err(Failure::argument(
                        format!("parameter `{name}` of the gate"),
                        "it must be the same on every rank",
                    ));
                }
                (Number::I32, _) => parameters.table(name, &numbers(first, i32::from_ne_bytes)),
                (Number::Element(_) | Number::Scale(_), _) => parameters.f32(name, &numbers(first, f32::from_ne_bytes)),
            };
        }
        Ok(self.moe.upload_parameters(&parameters)?)
    }
}

/// Gives a caller what is in the memory of a virtual GPU.
///
/// # Safety
/// There is room for it.
unsafe fn copy_out(memory: &Memory, address: u64) -> Result<()> {
    let bytes: Vec<u8> = memory.read(0..memory.bytes() as usize).map_err(Error::from)?;
    // SAFETY: as the caller promises; `bytes` is a fresh `Vec`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    Ok(())
}

fn numbers<T>(bytes: &[u8], number: impl Fn([u8; 4]) -> T) -> Vec<T> {
    bytes.chunks_exact(4).map(|bytes| number([bytes[0], bytes[1], bytes[2], bytes[3]])).collect()
}
