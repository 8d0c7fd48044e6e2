//! What happens when the system gives no more memory: a sentence, status 1 and no temporary files, instead of an abort.
//!
//! Everything that asks for memory comes here: Rust's collections through the global allocator, LLVM and MLIR through the handlers that C++
//! and LLVM have for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::scratch;

/// The system's allocator, which never says no.
struct Insistent;

#[global_allocator]
static ALLOCATOR: Insistent = Insistent;

// SAFETY: every call is that of the system's allocator with the same arguments; what it gives is given on, and never null.
unsafe impl GlobalAlloc for Insistent {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the promises of this very function.
        there(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        there(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        there(unsafe { System.realloc(place, layout, size) }, size)
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

fn there(place: *mut u8, bytes: usize) -> *mut u8 {
    if place.is_null() { exhausted(Some(bytes)) } else { place }
}

unsafe extern "C" {
    /// `std::set_new_handler` of C++.
    #[link_name = "_ZSt15set_new_handlerPFvvE"]
    fn set_new_handler(handler: extern "C" fn()) -> *const c_void;
    /// `llvm::install_bad_alloc_error_handler`.
    #[link_name = "_ZN4llvm31install_bad_alloc_error_handlerEPFvPvPKcbES0_"]
    fn install_bad_alloc_error_handler(handler: extern "C" fn(*mut c_void, *const c_char, bool), data: *mut c_void);
}

extern "C" fn of_cpp() {
    exhausted(None)
}

extern "C" fn of_llvm(_: *mut c_void, _: *const c_char, _: bool) {
    exhausted(None)
}

/// Whether messages are for tools.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on, memory that C++ does not get ends the process in the same way; `as_json` is how the sentence is written.
pub fn say_when_exhausted(as_json: bool) {
    AS_JSON.store(as_json, Ordering::Relaxed);
    // SAFETY: both functions take a function of exactly this type, which lives as long as the program and does not return to its caller.
    // They are called once, before any other thread is there.
    unsafe {
        set_new_handler(of_cpp);
        install_bad_alloc_error_handler(of_llvm, std::ptr::null_mut());
    }
}

/// Has all threads allocate from one arena: each would set aside so much of the address space that little is left of a limited one.
pub fn spare_address_space() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a setting of the allocator, made before other threads compute.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Ends the process. Nothing here asks for memory, but for the removal of temporary files, which may fail.
fn exhausted(bytes: Option<usize>) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    thread_local! {
        static HERE: Cell<bool> = const { Cell::new(false) };
    }
    if !ENDING.swap(true, Ordering::SeqCst) {
        HERE.set(true);
        let mut text = [0u8; 256];
        let mut rest = &mut text[..];
        let (before, after) = if AS_JSON.load(Ordering::Relaxed) {
            (r#"{"severity":"error","title":""#, "\"}\n")
        } else {
            ("error: ", "\n")
        };
        // 256 bytes are enough for all of it.
        let _ = write!(rest, "{before}no memory is left");
        if let Some(bytes) = bytes {
            let _ = write!(rest, " for {bytes} bytes more");
        }
        let _ =
            write!(rest, ": ask for less, or raise the limit of this process (`ulimit -v`, its control group){after}");
        let free = rest.len();
        let length = text.len() - free;
        // SAFETY: the bytes are there for the length that is given.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), length) };
        scratch::discard_all();
    } else if !HERE.get() {
        // Another thread is about to end the process.
        loop {
            std::thread::park();
        }
    }
    // SAFETY: ends the process at once, whatever the other threads do.
    unsafe { libc::_exit(1) }
}
