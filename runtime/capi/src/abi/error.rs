//! What a call answers, and where its details are.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::failure::{Failure, Kind, Result};

/// What a call answers. Details: `moe_error_message`, `moe_error_code`, `moe_error_json`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoeStatus {
    /// It has done what it says.
    Ok = 0,
    /// An argument was refused, and nothing was launched: pass another.
    Argument = 1,
    /// A kernel refused numbers of a tensor, such as a pick that is no expert; the communicator has stopped.
    Input = 2,
    /// The file is no bundle that this library can use.
    Bundle = 3,
    /// A rank did not come before the deadline, or cannot; the communicator has stopped.
    Deadline = 4,
    /// An error came before: `moe_world_recover`.
    Stopped = 5,
    /// The device cannot, or a kernel did what it must not.
    Device = 6,
    /// A bug of this library.
    Bug = 7,
}

impl From<Kind> for MoeStatus {
    fn from(kind: Kind) -> MoeStatus {
        match kind {
            Kind::Argument => MoeStatus::Argument,
            Kind::Input => MoeStatus::Input,
            Kind::Bundle => MoeStatus::Bundle,
            Kind::Deadline => MoeStatus::Deadline,
            Kind::Stopped => MoeStatus::Stopped,
            Kind::Device => MoeStatus::Device,
            Kind::Bug => MoeStatus::Bug,
        }
    }
}

#[derive(Default)]
struct Last {
    message: CString,
    code: CString,
    json: CString,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// A text for C; a zero byte in it, which no message has, would end it.
pub(super) fn text(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Runs a call, keeps what goes wrong for this thread, and lets no panic out.
pub(super) fn guard(call: impl FnOnce() -> Result<()>) -> MoeStatus {
    let outcome = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(bug(panic.as_ref())));
    let Err(failure) = outcome else { return MoeStatus::Ok };
    let data = failure.json();
    let code = text(data["code"].as_str().unwrap_or_default());
    let last = Last { message: text(&failure.to_string()), code, json: text(&data.to_string()) };
    LAST.with(|place| place.replace(last));
    failure.kind().into()
}

fn bug(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Failure::Bug { message: text.unwrap_or_else(|| "a panic without a message".into()) }
}

/// What went wrong in the last call of this thread that failed, as a sentence: empty before the first, never `NULL`. It is there until the
/// next that fails.
#[unsafe(no_mangle)]
pub extern "C" fn moe_error_message() -> *const c_char {
    LAST.with_borrow(|last| last.message.as_ptr())
}

/// The same as a word to compare with: `rows`, `deadline`, `foreign`, …
#[unsafe(no_mangle)]
pub extern "C" fn moe_error_code() -> *const c_char {
    LAST.with_borrow(|last| last.code.as_ptr())
}

/// The same as JSON: `{"code": …, "fields": {…}, "message": …}`.
#[unsafe(no_mangle)]
pub extern "C" fn moe_error_json() -> *const c_char {
    LAST.with_borrow(|last| last.json.as_ptr())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn a_panic_becomes_a_status() {
        let status = guard(|| panic!("at the disco {}", 1));
        assert_eq!(status, MoeStatus::Bug);
        // SAFETY: a text of this thread, and no other call is made.
        let message = unsafe { CStr::from_ptr(moe_error_message()) };
        assert_eq!(message.to_str(), Ok("this is a bug of moe: at the disco 1"));
    }
}
