//! Calls of a communicator. On virtual GPUs each has finished when it returns; on others, when `moe_synchronise` does.

use std::ffi::c_void;
use std::sync::PoisonError;

use moe_contract::RankId;
use moe_runtime::Handle;

use super::error::{MoeStatus, guard};
use super::given::{MoeParameter, MoeTensor, array, parameters, perhaps_tensor, place, tensor};
use super::objects::{
    CAPTURES, COMMUNICATORS, HANDLES, MoeCapture, MoeCommunicator, MoeHandle, add_capture, add_handle,
};
use crate::failure::{Failure, Result};
use crate::session::{InputView, RoutingView, Session};

fn with(communicator: MoeCommunicator, call: impl FnOnce(&mut Session) -> Result<()>) -> MoeStatus {
    guard(|| {
        let session = COMMUNICATORS.get(communicator.id)?;
        // A call that panicked has told so; whatever it left, the world knows whether it runs.
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = call(&mut session);
        if outcome.is_err() {
            session.forget_refused();
        }
        outcome
    })
}

fn with_handle(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    call: impl FnOnce(&mut Session, &Handle) -> Result<()>,
) -> MoeStatus {
    with(communicator, |session| call(session, &HANDLES.get(handle.id)?))
}

/// Chooses experts and weights of every token: logits f32 `[tokens, gate width]` to indices i32 and weights f32 `[tokens, top_k]`.
///
/// # Safety
/// Pointers are `NULL` or what their types say, and so are the parts of tensors; so of every function here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_gate(
    communicator: MoeCommunicator,
    logits: *const MoeTensor,
    gate_parameters: *const MoeParameter,
    parameter_count: u64,
    indices: *const MoeTensor,
    weights: *const MoeTensor,
) -> MoeStatus {
    // SAFETY: as the caller promises, here and below.
    with(communicator, |session| unsafe {
        let parameters = parameters(gate_parameters, parameter_count)?;
        let (indices, weights) = (tensor("indices", indices)?, tensor("weights", weights)?);
        session.gate(&tensor("logits", logits)?, &parameters, RoutingView { indices: &indices, weights: &weights })
    })
}

/// Gradients of the logits, given those of the weights.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_gate_backward(
    communicator: MoeCommunicator,
    logits: *const MoeTensor,
    gate_parameters: *const MoeParameter,
    parameter_count: u64,
    of_weights: *const MoeTensor,
    of_logits: *const MoeTensor,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with(communicator, |session| unsafe {
        let parameters = parameters(gate_parameters, parameter_count)?;
        let (given, result) = (tensor("of_weights", of_weights)?, tensor("of_logits", of_logits)?);
        session.gate_backward(&tensor("logits", logits)?, &parameters, &given, &result)
    })
}

/// Sends every token `[tokens, hidden]` to the ranks of its experts. Indices ascend in each row, −1 for none. The experts' input has room for
/// `moe_plan.most_rows` rows, and scales where the format has some, else `NULL`. The handle is to be destroyed.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_dispatch(
    communicator: MoeCommunicator,
    tokens: *const MoeTensor,
    indices: *const MoeTensor,
    weights: *const MoeTensor,
    input: *const MoeTensor,
    scales: *const MoeTensor,
    handle: *mut MoeHandle,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with(communicator, |session| unsafe {
        let out = place("handle", handle)?;
        let (indices, weights) = (tensor("indices", indices)?, tensor("weights", weights)?);
        let (rows, scales) = (tensor("input", input)?, perhaps_tensor("scales", scales)?);
        let routing = RoutingView { indices: &indices, weights: &weights };
        let input = InputView { rows: &rows, scales: scales.as_ref() };
        *out = add_handle(session.dispatch(&tensor("tokens", tokens)?, routing, input)?);
        Ok(())
    })
}

/// Sends other tokens the way of an earlier dispatch.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_dispatch_cached(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    tokens: *const MoeTensor,
    input: *const MoeTensor,
    scales: *const MoeTensor,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with_handle(communicator, handle, |session, handle| unsafe {
        let (rows, scales) = (tensor("input", input)?, perhaps_tensor("scales", scales)?);
        let input = InputView { rows: &rows, scales: scales.as_ref() };
        session.dispatch_cached(handle, &tensor("tokens", tokens)?, input)
    })
}

/// Brings the experts' output `[most_rows, hidden]` back and sums it for every token: `[tokens, hidden]`.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_combine(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    output: *const MoeTensor,
    combined: *const MoeTensor,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with_handle(communicator, handle, |session, handle| unsafe {
        session.combine(handle, &tensor("output", output)?, &tensor("combined", combined)?)
    })
}

/// Gradients of the tokens, given those of the experts' input, which are in the format of the experts' output.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_dispatch_backward(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    of_input: *const MoeTensor,
    of_tokens: *const MoeTensor,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with_handle(communicator, handle, |session, handle| unsafe {
        session.dispatch_backward(handle, &tensor("of_input", of_input)?, &tensor("of_tokens", of_tokens)?)
    })
}

/// Gradients of the experts' output and, where combine weighs, of the weights `[tokens, top_k]`, else `NULL`.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_combine_backward(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    output: *const MoeTensor,
    of_combined: *const MoeTensor,
    of_output: *const MoeTensor,
    of_weights: *const MoeTensor,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with_handle(communicator, handle, |session, handle| unsafe {
        let (output, given) = (tensor("output", output)?, tensor("of_combined", of_combined)?);
        let weights = perhaps_tensor("of_weights", of_weights)?;
        session.combine_backward(handle, &output, &given, &tensor("of_output", of_output)?, weights.as_ref())
    })
}

/// Gradients of the weights `[tokens, top_k]` where the experts weigh, given those of the weights of the rows.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_weights_backward(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    of_rows: *const MoeTensor,
    of_weights: *const MoeTensor,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with_handle(communicator, handle, |session, handle| unsafe {
        session.weights_backward(handle, &tensor("of_rows", of_rows)?, &tensor("of_weights", of_weights)?)
    })
}

/// No rank gets past it before every rank has reached it.
#[unsafe(no_mangle)]
pub extern "C" fn moe_barrier(communicator: MoeCommunicator) -> MoeStatus {
    with(communicator, Session::barrier)
}

/// From now on keeps calls in place of making them, until `moe_capture_end`. Tensors stay where they are for as long as the capture is used.
#[unsafe(no_mangle)]
pub extern "C" fn moe_capture_begin(communicator: MoeCommunicator) -> MoeStatus {
    with(communicator, Session::begin_capture)
}

/// Gives the calls that were kept.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_capture_end(communicator: MoeCommunicator, capture: *mut MoeCapture) -> MoeStatus {
    with(communicator, |session| {
        // SAFETY: as the caller promises.
        let out = unsafe { place("capture", capture)? };
        *out = add_capture(session.end_capture()?);
        Ok(())
    })
}

/// Makes captured calls, with what is now in their tensors; parameters of the gate are those of the capture. All communicators of a world replay
/// the same calls.
///
/// # Safety
/// See `moe_gate`, of all tensors of the captured calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_replay(communicator: MoeCommunicator, capture: MoeCapture) -> MoeStatus {
    // SAFETY: as the caller promises.
    with(communicator, |session| unsafe { session.replay(&*CAPTURES.get(capture.id)?) })
}

/// Waits for everything that was launched, and says what went wrong in it.
#[unsafe(no_mangle)]
pub extern "C" fn moe_synchronise(communicator: MoeCommunicator) -> MoeStatus {
    with(communicator, Session::synchronise)
}

/// Launches in these CUDA streams from now on, one for each rank.
///
/// # Safety
/// Each is a stream of the GPU of its rank, and lives until what is launched in it has finished and another is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_use_streams(
    communicator: MoeCommunicator,
    streams: *const *mut c_void,
    count: u64,
) -> MoeStatus {
    // SAFETY: as the caller promises.
    with(communicator, |session| unsafe {
        let streams = super::given::slice("streams", streams, count)?;
        session.use_streams(&streams.iter().map(|&stream| stream as u64).collect::<Vec<_>>())
    })
}

/// Reads the first bytes of an array of a handle, a `moe_array`, on a rank. Waits.
///
/// # Safety
/// See `moe_gate`; there are so many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_handle_read(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    rank: u32,
    which: u32,
    into: *mut c_void,
    bytes: u64,
) -> MoeStatus {
    with_handle(communicator, handle, |session, handle| {
        let buffer = array(which)?;
        if into.is_null() {
            return Err(Failure::argument("into", "it is NULL"));
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let read = session.read_array(handle, RankId(rank), buffer, 0..bytes)?;
        // SAFETY: as the caller promises, and no more was read.
        unsafe { std::ptr::copy_nonoverlapping(read.as_ptr(), into.cast(), read.len()) };
        Ok(())
    })
}

/// Rows of the experts' input that a rank received, padding included. Waits.
///
/// # Safety
/// See `moe_gate`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moe_handle_rows(
    communicator: MoeCommunicator,
    handle: MoeHandle,
    rank: u32,
    rows: *mut u64,
) -> MoeStatus {
    with_handle(communicator, handle, |session, handle| {
        // SAFETY: as the caller promises.
        let out = unsafe { place("rows", rows)? };
        let received = session.received(handle)?;
        let of_rank = session.communicator().ranks().zip(&received).find(|(own, _)| own.0 == rank);
        let missing = || Failure::argument("rank", format!("{} is not of this communicator", RankId(rank)));
        *out = of_rank.ok_or_else(missing)?.1.rows;
        Ok(())
    })
}
