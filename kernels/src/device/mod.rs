//! A small typed builder of device code over MLIR's `llvm` dialect, in which a kernel reads like its algorithm.
//!
//! Invariants:
//! * a [`Value`] knows its element type, a [`Pointer`] its address space and element: mixing them up does not compile;
//! * plain loads and stores are *weak*; an access with an order carries order and scope in its name (`load_acquire_sys`,
//!   `red_release_sys_add`), and there is no other way to build one;
//! * warp- and CTA-collective operations are LLVM intrinsics, which are convergent; inline PTX is used for single-thread
//!   instructions only (LLVM may duplicate it into both arms of a branch);
//! * an asynchronous copy is started, and waited for, by methods whose names say so; [`ring::Ring`] puts them together in the only order that
//!   is right;
//! * no pointer is `noalias`, no arithmetic is contracted: what is written is what runs.
//!
//! ```
//! use moe_kernels::device::{Builder, Global, Parameters, Pointer, U32};
//!
//! // out[i] = i × 2 for i < count
//! let kernel = Builder::kernel("double", 128, |k: &Builder, parameters: &mut Parameters| {
//!     let out: Pointer<Global, U32> = parameters.pointer();
//!     let count = parameters.value::<U32>();
//!     let first = k.cta() * 128 + k.thread();
//!     k.for_each(first, count, k.ctas() * 128, |i| out.at(i).store(i * 2));
//! });
//! assert_eq!(kernel.name(), "double");
//! ```

mod builder;
mod bulk;
mod collective;
mod convert;
mod extrema;
mod grid;
mod mbarrier;
mod memory;
mod number;
pub mod ring;
pub mod shared;
mod value;

pub use builder::{Builder, DeviceCode, Parameters, Variable};
pub use bulk::CachePolicy;
pub use mbarrier::Mbarrier;
pub use memory::{Global, Pointer, Shared, Space};
pub use value::{Chunk, Element, F32, Pred, U8, U16, U32, U64, Value};
