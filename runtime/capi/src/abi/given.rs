//! What C passes: structures that know their size, texts, tensors.

use std::ffi::{CStr, c_char, c_void};

use moe_contract::{Buffer, Element, Number, ScaleElement};

use crate::failure::{Failure, Result};
use crate::session::GateParameter;
use crate::view::{Part, View};

/// What a tensor consists of.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoeNumber {
    /// 32-bit integers.
    I32 = 1,
    /// IEEE binary32.
    F32 = 2,
    /// bfloat16.
    Bf16 = 3,
    /// IEEE binary16.
    F16 = 4,
    /// OCP fp8 E4M3.
    Fp8E4m3 = 5,
    /// Powers of two in a byte: scales.
    Ue8m0 = 6,
}

/// An array of a handle.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoeArray {
    /// i32 `[local experts]`: rows of each local expert, without padding.
    ExpertCounts = 1,
    /// i32 `[local experts + 1]`: first row of each local expert, and the number of rows. Not of layout `rank_major`.
    ExpertOffsets = 2,
    /// i32 `[rows, top_k]`: local experts of a row, -1 for none. Of layout `rank_major` only.
    RowPicks = 3,
    /// f32 `[rows, weights per row]`: weights of a row. Where the experts weigh only.
    RowWeights = 4,
}

/// The part of a tensor that is on one rank.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MoePart {
    /// Where it begins: in the memory of this process on virtual GPUs, else of the rank's GPU, aligned to 16 bytes.
    pub address: *mut c_void,
    /// Rows, one behind the other.
    pub rows: u64,
}

/// A tensor: a part for each rank of the communicator.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MoeTensor {
    /// `sizeof(moe_tensor)`.
    pub struct_size: u32,
    /// A `moe_number`.
    pub number: u32,
    /// Bytes of a row.
    pub row_bytes: u64,
    /// One for each rank.
    pub parts: *const MoePart,
    /// How many.
    pub part_count: u64,
}

/// A parameter of the gate: a tensor whose rows are numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MoeParameter {
    /// Its name in the gate.
    pub name: *const c_char,
    /// Its numbers on each rank.
    pub numbers: MoeTensor,
}

/// A structure of the ABI.
///
/// # Safety
/// Of `repr(C)`, begins with its size as a u32, and is valid where all bytes are zero and with any number in its members.
pub(super) unsafe trait Sized32: Copy {
    /// For errors.
    const NAME: &'static str;
    /// Bytes that it had in the first version of this library.
    const LEAST: usize;
}

// SAFETY: see the definition.
unsafe impl Sized32 for MoeTensor {
    const NAME: &'static str = "moe_tensor";
    const LEAST: usize = 32;
}

/// What a pointer points at.
///
/// # Safety
/// If it is not null, there are so many bytes as its first four say.
pub(super) unsafe fn read<T: Sized32>(argument: &str, pointer: *const T) -> Result<T> {
    if pointer.is_null() {
        return Err(Failure::argument(argument, "it is NULL"));
    }
    // SAFETY: as the caller promises.
    let found = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    let known = size_of::<T>();
    if found < T::LEAST || found > 4096 {
        let problem = format!("struct_size is {found}: set it to sizeof({}), which is {known} here", T::NAME);
        return Err(Failure::argument(argument, problem));
    }
    // SAFETY: as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), found) };
    if bytes.iter().skip(known).any(|&byte| byte != 0) {
        let problem =
            format!("it sets a member of {} that this library, which is older than its header, does not know", T::NAME);
        return Err(Failure::argument(argument, problem));
    }
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: so many bytes are there on both sides, and any bytes are a valid T.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), found.min(known));
        Ok(value.assume_init())
    }
}

/// Where a result goes.
///
/// # Safety
/// If it is not null, nobody else uses it meanwhile.
pub(super) unsafe fn place<'p, T>(argument: &str, pointer: *mut T) -> Result<&'p mut T> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_mut() }.ok_or_else(|| Failure::argument(argument, "it is NULL"))
}

/// # Safety
/// If it is not null, it is a text with a zero at its end.
pub(super) unsafe fn words(argument: &str, pointer: *const c_char) -> Result<String> {
    if pointer.is_null() {
        return Err(Failure::argument(argument, "it is NULL"));
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    Ok(text.to_str().map_err(|_| Failure::argument(argument, "it is not UTF-8"))?.into())
}

/// # Safety
/// If there are some, there are so many.
pub(super) unsafe fn slice<'p, T>(argument: &str, pointer: *const T, count: u64) -> Result<&'p [T]> {
    const MOST: u64 = 1 << 20;
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::argument(argument, format!("it is NULL, and there are {count}"))),
        (false, MOST..) => Err(Failure::argument(argument, format!("{count} are more than there can be"))),
        // SAFETY: as the caller promises.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, count as usize) }),
    }
}

fn number(argument: &str, number: u32) -> Result<Number> {
    const KNOWN: [(MoeNumber, Number); 6] = [
        (MoeNumber::I32, Number::I32),
        (MoeNumber::F32, Number::Element(Element::F32)),
        (MoeNumber::Bf16, Number::Element(Element::Bf16)),
        (MoeNumber::F16, Number::Element(Element::F16)),
        (MoeNumber::Fp8E4m3, Number::Element(Element::E4m3)),
        (MoeNumber::Ue8m0, Number::Scale(ScaleElement::Ue8m0)),
    ];
    let known = KNOWN.iter().find(|(code, _)| *code as u32 == number);
    known.map(|known| known.1).ok_or_else(|| Failure::argument(argument, format!("{number} is not a moe_number")))
}

/// # Safety
/// As for [`read`], and the parts are there.
pub(super) unsafe fn tensor(argument: &str, pointer: *const MoeTensor) -> Result<View> {
    // SAFETY: as the caller promises.
    let (tensor, parts) = unsafe {
        let tensor = read(argument, pointer)?;
        (tensor, slice(&format!("parts of {argument}"), tensor.parts, tensor.part_count)?)
    };
    let part = |part: &MoePart| Part { address: part.address as u64, rows: part.rows };
    let number = number(argument, tensor.number)?;
    Ok(View { number, row_bytes: tensor.row_bytes, parts: parts.iter().map(part).collect() })
}

/// A tensor that may be missing.
///
/// # Safety
/// As for [`tensor`].
pub(super) unsafe fn perhaps_tensor(argument: &str, pointer: *const MoeTensor) -> Result<Option<View>> {
    // SAFETY: as the caller promises.
    if pointer.is_null() { Ok(None) } else { unsafe { tensor(argument, pointer) }.map(Some) }
}

/// # Safety
/// If there are some, there are so many, and each is as for [`words`] and [`tensor`].
pub(super) unsafe fn parameters(pointer: *const MoeParameter, count: u64) -> Result<Vec<GateParameter>> {
    // SAFETY: as the caller promises.
    unsafe {
        let read = |parameter: &MoeParameter| {
            let name = words("name of a parameter", parameter.name)?;
            let view = tensor(&format!("parameter `{name}`"), &raw const parameter.numbers)?;
            Ok(GateParameter { name, view })
        };
        slice("parameters", pointer, count)?.iter().map(read).collect()
    }
}

pub(super) fn array(array: u32) -> Result<Buffer> {
    const KNOWN: [(MoeArray, Buffer); 4] = [
        (MoeArray::ExpertCounts, Buffer::ExpertCounts),
        (MoeArray::ExpertOffsets, Buffer::ExpertOffsets),
        (MoeArray::RowPicks, Buffer::RowPicks),
        (MoeArray::RowWeights, Buffer::RowWeights),
    ];
    let known = KNOWN.iter().find(|(code, _)| *code as u32 == array);
    known.map(|known| known.1).ok_or_else(|| Failure::argument("array", format!("{array} is not a moe_array")))
}
