//! The native module of the Python package `moe_runtime`: numbers in, numbers out. Types, shapes and memory are the Python side's.
//!
//! Invariants:
//! * the lock of the interpreter is released before anything that takes a lock or waits: other ranks may be threads of the same interpreter;
//! * an error becomes an exception of `moe_runtime.errors`, made there; a panic becomes one too.

mod picks;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moe_bundle::Bundle;
use moe_capi::session::{GateParameter, HandleView, InputView, Membership, Recording, RoutingView};
use moe_capi::view::NUMBERS;
use moe_capi::{Failure, Hardware, Kind, Part, Ranks, Session, View, open_bundle};
use moe_contract::{Call, Exchange, Flow, LinkBytes, RankId, Tensor};
use moe_runtime::communicator::{handle_bytes, handle_places};
use moe_runtime::node::{HostMemory, Node, NodeOptions, Stay};
use moe_runtime::{Bootstrap, BootstrapError, Error, VirtualOptions};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::json;

/// A tensor as Python passes it: name of the number, bytes of a row, and address and rows on each rank.
type Given = (String, u64, Vec<(u64, u64)>);

fn raise(py: Python<'_>, failure: &Failure) -> PyErr {
    let kind = match failure.kind() {
        Kind::Argument => "argument",
        Kind::Input => "input",
        Kind::Bundle => "bundle",
        Kind::Deadline => "deadline",
        Kind::Stopped => "stopped",
        Kind::Device => "device",
        Kind::Bug => "bug",
    };
    let made = py
        .import("moe_runtime.errors")
        .and_then(|errors| errors.call_method1("from_native", (kind, failure.json().to_string())));
    made.map_or_else(|problem| problem, PyErr::from_value)
}

fn view(given: &Given) -> Result<View, Failure> {
    let (name, row_bytes, parts) = given;
    let number = NUMBERS.into_iter().find(|number| number.name() == name);
    let number = number.ok_or_else(|| Failure::argument("number", format!("`{name}` is none of this runtime")))?;
    let parts = parts.iter().map(|&(address, rows)| Part { address, rows }).collect();
    Ok(View { number, row_bytes: *row_bytes, parts })
}

fn parameters(given: &[(String, Given)]) -> Result<Vec<GateParameter>, Failure> {
    given.iter().map(|(name, numbers)| Ok(GateParameter { name: name.clone(), view: view(numbers)? })).collect()
}

/// A bundle that was read.
#[pyclass(frozen, module = "moe_runtime._native")]
struct NativeBundle(Bundle);

#[pymethods]
impl NativeBundle {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<NativeBundle> {
        py.detach(|| open_bundle(&path)).map(NativeBundle).map_err(|failure| raise(py, &failure))
    }

    /// Everything that it says about itself, as JSON.
    fn manifest(&self) -> PyResult<String> {
        serde_json::to_string(self.0.manifest()).map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }

    /// What follows from its numbers for whoever has the tensors, as JSON.
    fn plan(&self) -> String {
        plan(&self.0.manifest().exchange).to_string()
    }

    /// What each call launches and sends, as JSON.
    fn calls(&self) -> String {
        let exchange = &self.0.manifest().exchange;
        let calls = Call::ALL.map(|call| {
            let kernels: Vec<&str> = call.kernels(exchange).map(moe_contract::Kernel::name).collect();
            (call.name().to_owned(), json!(kernels))
        });
        json!(serde_json::Map::from_iter(calls)).to_string()
    }

    /// Bytes that a call writes from each rank to each, given the picks of all ranks, `[tokens, top_k]` one behind the other.
    fn traffic(&self, py: Python<'_>, call: &str, indices: Vec<Vec<i32>>) -> PyResult<Vec<Vec<u64>>> {
        let exchange = &self.0.manifest().exchange;
        let found = Call::ALL.into_iter().find(|known| known.name() == call);
        let known = || Call::ALL.map(Call::name).join(", ");
        let call = found
            .ok_or_else(|| Failure::argument("call", format!("`{call}` is none; there are {}", known())))
            .map_err(|failure| raise(py, &failure))?;
        let links =
            LinkBytes::of(call, exchange, &Flow::of(exchange, &indices.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        let ranks = || (0..exchange.ranks).map(RankId);
        Ok(ranks().map(|writer| ranks().map(|owner| links.bytes(writer, owner)).collect()).collect())
    }
}

fn plan(exchange: &Exchange) -> serde_json::Value {
    let number = |tensor| exchange.tensor_number(tensor).map(moe_contract::Number::name);
    let places = handle_places(exchange);
    let places: serde_json::Map<String, serde_json::Value> =
        places.into_iter().map(|(buffer, place)| (buffer.name().into(), json!([place.start, place.end]))).collect();
    json!({
        "ranks": exchange.ranks,
        "experts": exchange.experts,
        "local_experts": exchange.local_experts_max(),
        "first_experts": (0..exchange.ranks).map(|rank| exchange.experts_of(rank).start).collect::<Vec<u32>>(),
        "last_experts": (0..exchange.ranks).map(|rank| exchange.experts_of(rank).end).collect::<Vec<u32>>(),
        "top_k": exchange.top_k,
        "hidden": exchange.hidden,
        "most_tokens": exchange.max_tokens,
        "gate_width": exchange.gate_width(),
        "weights_per_row": exchange.weights_per_row(),
        "combine_weighs": exchange.weighted,
        "layout": exchange.layout.name(),
        "by_expert": exchange.layout.by_expert(),
        "most_rows": exchange.output_rows_max(),
        "token_number": number(Tensor::Tokens),
        "input_number": number(Tensor::ExpertInput),
        "scale_number": number(Tensor::ExpertInputScales),
        "scale_block": exchange.dispatch.scales.map(|scales| scales.block),
        "output_number": number(Tensor::ExpertOutput),
        "handle_bytes": handle_bytes(exchange),
        "handle_places": places,
    })
}

/// All ranks of a bundle in this process.
#[pyclass(frozen, module = "moe_runtime._native")]
struct NativeWorld(Ranks);

#[pymethods]
impl NativeWorld {
    #[new]
    fn new(py: Python<'_>, bundle: &NativeBundle, device: &str, seed: u64) -> PyResult<NativeWorld> {
        let hardware = match device {
            "virtual" => Ok(Hardware::Virtual { seed }),
            "cuda" => Ok(Hardware::Cuda),
            other => Err(Failure::argument("device", format!("`{other}` is neither `virtual` nor `cuda`"))),
        };
        let made = py.detach(|| hardware.and_then(|hardware| Ranks::new(&bundle.0, hardware)));
        made.map(NativeWorld).map_err(|failure| raise(py, &failure))
    }

    /// The ranks `ranks.0` to `ranks.1` in a world whose others are in other processes, of which this one is `process.0` of `process.1`. `gather`
    /// takes bytes and gives those of every process; `node` is its name and, in one of them, what starts it.
    #[staticmethod]
    fn join(
        py: Python<'_>,
        bundle: &NativeBundle,
        ranks: (u32, u32),
        process: (u32, u32),
        gather: Py<PyAny>,
        node: (String, Option<Vec<String>>),
        patience: f64,
    ) -> PyResult<NativeWorld> {
        let ((first, end), ranks) = (ranks, bundle.0.manifest().exchange.ranks);
        let group = Arc::new(Group { process: process.0, processes: process.1, gather });
        let (name, start) = node;
        let start = start.map(|command| command.into_iter().map(Into::into).collect());
        let made = py.detach(|| {
            let patience = Duration::try_from_secs_f64(patience)
                .map_err(|_| Failure::argument("deadline", "it is no number of seconds"))?;
            let node = NodeOptions { name, ranks, mine: first..end, patience, start };
            Ranks::join(&bundle.0, group, &Membership::Virtual(node))
        });
        made.map(NativeWorld).map_err(|failure| raise(py, &failure))
    }

    /// As [`NativeWorld::join`], on a GPU of this machine.
    #[staticmethod]
    fn join_cuda(
        py: Python<'_>,
        bundle: &NativeBundle,
        ranks: (u32, u32),
        process: (u32, u32),
        gather: Py<PyAny>,
        gpu: u32,
    ) -> PyResult<NativeWorld> {
        let membership = Membership::Cuda { mine: ranks.0..ranks.1, gpu };
        let group = Arc::new(Group { process: process.0, processes: process.1, gather });
        let made = py.detach(|| Ranks::join(&bundle.0, group, &membership));
        made.map(NativeWorld).map_err(|failure| raise(py, &failure))
    }

    fn recover(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.recover()).map_err(|failure| raise(py, &failure))
    }
}

/// Processes that a function of Python gathers bytes of.
struct Group {
    process: u32,
    processes: u32,
    gather: Py<PyAny>,
}

impl Bootstrap for Group {
    fn process(&self) -> u32 {
        self.process
    }

    fn processes(&self) -> u32 {
        self.processes
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BootstrapError> {
        let gathered = Python::attach(|py| self.gather.call1(py, (bytes,))?.extract::<Vec<Vec<u8>>>(py));
        gathered.map_err(|error| BootstrapError::Other(format!("the process group: {error}")))
    }
}

/// Serves virtual GPUs for the processes of one job, until they have ended.
#[pyfunction]
fn serve(py: Python<'_>, name: &str, patience: f64) -> PyResult<()> {
    let served = py.detach(|| {
        let node = Node::bind(name, &VirtualOptions::default()).map_err(Error::from)?;
        let patience = Duration::try_from_secs_f64(patience)
            .map_err(|_| Failure::argument("patience", "it is no number of seconds"))?;
        Ok::<(), Failure>(node.serve(Stay::Once(patience)).map_err(Error::from)?)
    });
    served.map_err(|failure| raise(py, &failure))
}

/// Sorts picks: `indices` are integers of so many bytes at an address, `[tokens, picks]`, and `weights` f32; `into` is where they go.
#[pyfunction]
fn ascend(
    py: Python<'_>,
    indices: (u64, u64),
    weights: u64,
    tokens: usize,
    picks: usize,
    into: (u64, u64),
) -> PyResult<()> {
    let (address, bytes) = indices;
    let count = tokens * picks;
    if count == 0 {
        return Ok(());
    }
    // SAFETY: the Python side passes addresses of contiguous arrays of these types and shapes, which it holds; the last two it has just made.
    py.detach(|| unsafe {
        let weights = picks::numbers::<f32>(weights, count);
        let into = (picks::numbers_mut::<i32>(into.0, count), picks::numbers_mut::<f32>(into.1, count));
        match bytes {
            4 => picks::ascend(picks::numbers::<i32>(address, count), weights, picks, into),
            8 => picks::ascend(picks::numbers::<i64>(address, count), weights, picks, into),
            other => return Err(Failure::argument("indices", format!("integers of {other} bytes"))),
        }
        Ok(())
    })
    .map_err(|failure| raise(py, &failure))
}

/// Memory of a rank that this process has too: `numpy.asarray` makes an array of bytes of it, which keeps it.
#[pyclass(frozen, module = "moe_runtime._native")]
struct NativeMemory(HostMemory);

#[pymethods]
impl NativeMemory {
    /// What numpy asks for.
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("typestr", "|u1")?;
        interface.set_item("shape", (self.0.bytes(),))?;
        interface.set_item("data", (self.0.base().as_ptr() as usize, false))?;
        Ok(interface)
    }
}

/// Calls that were captured.
#[pyclass(frozen, module = "moe_runtime._native")]
struct NativeCapture(Recording);

/// Some ranks of a world. Addresses are those of the caller's memory, which it keeps until the call returns and, on GPUs, until the launches
/// of its stream have finished.
#[pyclass(frozen, module = "moe_runtime._native")]
struct NativeSession(Mutex<Session>);

impl NativeSession {
    fn call(&self, py: Python<'_>, call: impl FnOnce(&mut Session) -> Result<(), Failure> + Send) -> PyResult<()> {
        // A call that panicked has told so; whatever it left, the world knows whether it runs.
        let run = || {
            let mut session = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = call(&mut session);
            if outcome.is_err() {
                session.forget_refused();
            }
            outcome
        };
        py.detach(run).map_err(|failure| raise(py, &failure))
    }

    /// A call with a handle of the caller.
    fn call_with(
        &self,
        py: Python<'_>,
        (addresses, indices, weights): HandleGiven,
        call: impl FnOnce(&mut Session, HandleView<'_>) -> Result<(), Failure> + Send,
    ) -> PyResult<()> {
        self.call(py, |session| {
            let (indices, weights) = (view(&indices)?, view(&weights)?);
            let routing = RoutingView { indices: &indices, weights: &weights };
            call(session, HandleView { addresses: &addresses, routing })
        })
    }
}

/// The arrays of a handle on each rank, and the indices and weights that were dispatched.
type HandleGiven = (Vec<u64>, Given, Given);

// SAFETY, of every method: the Python side passes addresses of tensors that it holds, after it has looked at their type, shape and device;
// whatever it says of them is checked against the bundle.
#[pymethods]
impl NativeSession {
    #[new]
    fn new(
        py: Python<'_>,
        world: &NativeWorld,
        first: u32,
        end: u32,
        deadline: Option<f64>,
    ) -> PyResult<NativeSession> {
        let deadline = deadline.map(|seconds| {
            Duration::try_from_secs_f64(seconds)
                .map_err(|_| Failure::argument("deadline", "it is no number of seconds"))
        });
        let made = py.detach(|| Session::new(&world.0, first..end, deadline.transpose()?));
        made.map(|session| NativeSession(Mutex::new(session))).map_err(|failure| raise(py, &failure))
    }

    fn use_streams(&self, py: Python<'_>, streams: Vec<u64>) -> PyResult<()> {
        // SAFETY: see above.
        self.call(py, |session| unsafe { session.use_streams(&streams) })
    }

    fn gate(
        &self,
        py: Python<'_>,
        logits: Given,
        given: Vec<(String, Given)>,
        indices: Given,
        weights: Given,
    ) -> PyResult<()> {
        self.call(py, |session| {
            let (logits, indices, weights) = (view(&logits)?, view(&indices)?, view(&weights)?);
            let routing = RoutingView { indices: &indices, weights: &weights };
            // SAFETY: see above.
            unsafe { session.gate(&logits, &parameters(&given)?, routing) }
        })
    }

    fn gate_backward(
        &self,
        py: Python<'_>,
        logits: Given,
        given: Vec<(String, Given)>,
        of_weights: Given,
        of_logits: Given,
    ) -> PyResult<()> {
        self.call(py, |session| {
            let (logits, of_weights, of_logits) = (view(&logits)?, view(&of_weights)?, view(&of_logits)?);
            // SAFETY: see above.
            unsafe { session.gate_backward(&logits, &parameters(&given)?, &of_weights, &of_logits) }
        })
    }

    fn dispatch(
        &self,
        py: Python<'_>,
        handle: HandleGiven,
        tokens: Given,
        rows: Given,
        scales: Option<Given>,
    ) -> PyResult<()> {
        self.call_with(py, handle, |session, handle| {
            let (tokens, rows) = (view(&tokens)?, view(&rows)?);
            let scales = scales.as_ref().map(view).transpose()?;
            // SAFETY: see above.
            unsafe { session.dispatch_with(handle, &tokens, InputView { rows: &rows, scales: scales.as_ref() }) }
        })
    }

    fn dispatch_cached(
        &self,
        py: Python<'_>,
        handle: HandleGiven,
        tokens: Given,
        rows: Given,
        scales: Option<Given>,
    ) -> PyResult<()> {
        self.call_with(py, handle, |session, handle| {
            let (tokens, rows) = (view(&tokens)?, view(&rows)?);
            let scales = scales.as_ref().map(view).transpose()?;
            // SAFETY: see above.
            unsafe {
                let open = session.open_handle(handle)?;
                session.dispatch_cached(&open.handle, &tokens, InputView { rows: &rows, scales: scales.as_ref() })
            }
        })
    }

    fn combine(&self, py: Python<'_>, handle: HandleGiven, output: Given, combined: Given) -> PyResult<()> {
        // SAFETY: see above.
        self.call_with(py, handle, |session, handle| unsafe {
            let open = session.open_handle(handle)?;
            session.combine(&open.handle, &view(&output)?, &view(&combined)?)
        })
    }

    fn dispatch_backward(&self, py: Python<'_>, handle: HandleGiven, of_rows: Given, of_tokens: Given) -> PyResult<()> {
        // SAFETY: see above.
        self.call_with(py, handle, |session, handle| unsafe {
            let open = session.open_handle(handle)?;
            session.dispatch_backward(&open.handle, &view(&of_rows)?, &view(&of_tokens)?)
        })
    }

    fn combine_backward(
        &self,
        py: Python<'_>,
        handle: HandleGiven,
        output: Given,
        of_combined: Given,
        of_output: Given,
        of_weights: Option<Given>,
    ) -> PyResult<()> {
        // SAFETY: see above.
        self.call_with(py, handle, |session, handle| unsafe {
            let open = session.open_handle(handle)?;
            let of_weights = of_weights.as_ref().map(view).transpose()?;
            let (output, given, result) = (view(&output)?, view(&of_combined)?, view(&of_output)?);
            session.combine_backward(&open.handle, &output, &given, &result, of_weights.as_ref())
        })
    }

    fn weights_backward(&self, py: Python<'_>, handle: HandleGiven, of_rows: Given, of_weights: Given) -> PyResult<()> {
        // SAFETY: see above.
        self.call_with(py, handle, |session, handle| unsafe {
            let open = session.open_handle(handle)?;
            session.weights_backward(&open.handle, &view(&of_rows)?, &view(&of_weights)?)
        })
    }

    /// Memory of a rank that this process has too, where there is such memory.
    fn host_memory(&self, py: Python<'_>, rank: u32, bytes: u64, zero: bool) -> PyResult<Option<NativeMemory>> {
        let mut memory = None;
        self.call(py, |session| {
            memory = session.host_memory(RankId(rank), bytes, zero)?;
            Ok(())
        })?;
        Ok(memory.map(NativeMemory))
    }

    /// Bytes of tensors and handles that were copied so far.
    fn copied(&self, py: Python<'_>) -> PyResult<u64> {
        let mut copied = 0;
        self.call(py, |session| {
            copied = session.copied();
            Ok(())
        })?;
        Ok(copied)
    }

    fn barrier(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, Session::barrier)
    }

    fn begin_capture(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, Session::begin_capture)
    }

    fn end_capture(&self, py: Python<'_>) -> PyResult<NativeCapture> {
        let mut recording = None;
        self.call(py, |session| {
            recording = Some(session.end_capture()?);
            Ok(())
        })?;
        recording.map(NativeCapture).ok_or_else(|| PyRuntimeError::new_err("nothing was captured"))
    }

    fn replay(&self, py: Python<'_>, capture: &NativeCapture) -> PyResult<()> {
        // SAFETY: see above.
        self.call(py, |session| unsafe { session.replay(&capture.0) })
    }

    fn synchronise(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, Session::synchronise)
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(serve, module)?)?;
    module.add_function(wrap_pyfunction!(ascend, module)?)?;
    module.add_class::<NativeBundle>()?;
    module.add_class::<NativeWorld>()?;
    module.add_class::<NativeCapture>()?;
    module.add_class::<NativeMemory>()?;
    module.add_class::<NativeSession>()
}
