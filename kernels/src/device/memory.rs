//! Memory: pointers with address space and element type, weak accesses, and accesses with order and scope in their names.

use std::marker::PhantomData;

use melior::Context;
use melior::dialect;
use melior::ir::attribute::{DenseI32ArrayAttribute, TypeAttribute};
use melior::ir::{Identifier, Type};

use super::value::{Element, U32, U64, Value};
use super::{Builder, U8};

/// An address space.
pub trait Space: Copy + 'static {
    /// Its number in LLVM.
    const NUMBER: u32;

    /// The type of pointers into it.
    fn pointer_type(context: &'static Context) -> Type<'static> {
        dialect::llvm::r#type::pointer(context, Self::NUMBER)
    }
}

/// Memory of a GPU, this one's or a peer's.
#[derive(Clone, Copy, Debug)]
pub enum Global {}

/// Memory of the CTA.
#[derive(Clone, Copy, Debug)]
pub enum Shared {}

impl Space for Global {
    const NUMBER: u32 = 1;
}

impl Space for Shared {
    const NUMBER: u32 = 3;
}

/// A pointer to elements `T` in space `S`, aligned to the size of an element.
pub struct Pointer<'k, S, T> {
    pub(super) builder: &'k Builder,
    pub(super) raw: mlir_sys::MlirValue,
    target: PhantomData<(S, T)>,
}

impl<S, T> Clone for Pointer<'_, S, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, T> Copy for Pointer<'_, S, T> {}

impl<'k, S: Space, T: Element> Pointer<'k, S, T> {
    pub(super) fn new(builder: &'k Builder, raw: mlir_sys::MlirValue) -> Self {
        Pointer { builder, raw, target: PhantomData }
    }

    /// The element at `index`, counted in elements.
    pub fn at(self, index: Value<'k, U32>) -> Self {
        self.bytes(index.wide() * u64::from(T::BYTES)).cast()
    }

    /// The element at a constant index.
    pub fn at_constant(self, index: u32) -> Self {
        self.bytes(self.builder.u64(u64::from(index) * u64::from(T::BYTES))).cast()
    }

    /// The byte at a distance.
    pub fn bytes(self, distance: Value<'k, U64>) -> Pointer<'k, S, U8> {
        let builder = self.builder;
        let pointer = builder
            .operation("llvm.getelementptr", &[self.raw, distance.raw], Some(S::pointer_type(builder.context())))
            .add_attributes(&[
                (
                    Identifier::new(builder.context(), "elem_type"),
                    TypeAttribute::new(U8::mlir(builder.context())).into(),
                ),
                // The index is an operand.
                (
                    Identifier::new(builder.context(), "rawConstantIndices"),
                    DenseI32ArrayAttribute::new(builder.context(), &[i32::MIN]).into(),
                ),
            ]);
        Pointer::new(builder, builder.result(pointer))
    }

    /// The same address for another element type, to which it must be aligned.
    pub fn cast<U: Element>(self) -> Pointer<'k, S, U> {
        Pointer::new(self.builder, self.raw)
    }

    /// Weak load.
    pub fn load(self) -> Value<'k, T> {
        let builder = self.builder;
        let load = builder.operation("llvm.load", &[self.raw], Some(T::mlir(builder.context())));
        Value::new(builder, builder.result(load.add_attributes(&self.access_attributes())))
    }

    /// Weak store.
    pub fn store(self, value: Value<'k, T>) {
        let store = self.builder.operation("llvm.store", &[value.raw, self.raw], None);
        self.builder.append(store.add_attributes(&self.access_attributes()));
    }

    fn access_attributes(self) -> [(Identifier<'static>, melior::ir::Attribute<'static>); 2] {
        [self.builder.number("ordering", 64, 0), self.builder.number("alignment", 64, i64::from(T::BYTES))]
    }
}

impl<'k> Pointer<'k, Shared, U32> {
    /// Adds to a counter of the CTA. Relaxed: order comes from a barrier.
    pub fn red_relaxed_cta_add(self, value: Value<'k, U32>) {
        let text = "red.relaxed.cta.shared.add.u32 [$0], $1;";
        self.builder.inline(text, "r,r,~{memory}", &[self.raw, value.raw], None);
    }
}

impl<'k> Pointer<'k, Global, U32> {
    /// Load of a word that other threads of this GPU may write, without order.
    pub fn load_relaxed_gpu(self) -> Value<'k, U32> {
        let result = Some(U32::mlir(self.builder.context()));
        let raw = self.builder.inline("ld.relaxed.gpu.global.u32 $0, [$1];", "=r,l,~{memory}", &[self.raw], result);
        Value::new(self.builder, raw.expect("it has a result"))
    }

    /// Store of a word that other threads of this GPU may read, without order.
    pub fn store_relaxed_gpu(self, value: Value<'k, U32>) {
        self.builder.inline("st.relaxed.gpu.global.u32 [$0], $1;", "l,r,~{memory}", &[self.raw, value.raw], None);
    }
}

impl<'k> Pointer<'k, Global, U64> {
    /// Load that what follows in this thread cannot overtake. Pairs with a release at system scope: what the releasing thread wrote, or
    /// had seen, before is visible afterwards. One round trip to the memory's home.
    pub fn load_acquire_sys(self) -> Value<'k, U64> {
        let result = Some(U64::mlir(self.builder.context()));
        let raw = self.builder.inline("ld.acquire.sys.global.u64 $0, [$1];", "=l,l,~{memory}", &[self.raw], result);
        Value::new(self.builder, raw.expect("it has a result"))
    }

    /// Load of a word that the host and all ranks may write, without order.
    pub fn load_relaxed_sys(self) -> Value<'k, U64> {
        let result = Some(U64::mlir(self.builder.context()));
        let raw = self.builder.inline("ld.relaxed.sys.global.u64 $0, [$1];", "=l,l,~{memory}", &[self.raw], result);
        Value::new(self.builder, raw.expect("it has a result"))
    }

    /// Add that everything this thread wrote, or saw through a barrier or an acquire, precedes. No round trip.
    pub fn red_release_sys_add(self, value: Value<'k, U64>) {
        let text = "red.release.sys.global.add.u64 [$0], $1;";
        self.builder.inline(text, "l,l,~{memory}", &[self.raw, value.raw], None);
    }

    /// Adds and gives what was there. What this thread wrote, or saw, before precedes; what it does afterwards follows, and sees what the
    /// other threads of this GPU did before their adds.
    pub fn fetch_add_acq_rel_gpu(self, value: Value<'k, U64>) -> Value<'k, U64> {
        let result = Some(U64::mlir(self.builder.context()));
        let text = "atom.acq_rel.gpu.global.add.u64 $0, [$1], $2;";
        let raw = self.builder.inline(text, "=l,l,l,~{memory}", &[self.raw, value.raw], result);
        Value::new(self.builder, raw.expect("it has a result"))
    }

    /// Stores `value` if the memory holds `expected`; gives what it held. Relaxed, among all ranks and the host.
    pub fn compare_and_swap_relaxed_sys(self, expected: Value<'k, U64>, value: Value<'k, U64>) -> Value<'k, U64> {
        let text = "atom.relaxed.sys.global.cas.b64 $0, [$1], $2, $3;";
        let operands = [self.raw, expected.raw, value.raw];
        let result = Some(U64::mlir(self.builder.context()));
        let raw = self.builder.inline(text, "=l,l,l,l,~{memory}", &operands, result);
        Value::new(self.builder, raw.expect("it has a result"))
    }
}

impl<'k, T: Element> Pointer<'k, Global, T> {
    /// Its address.
    pub fn address(self) -> Value<'k, U64> {
        let ty = Some(U64::mlir(self.builder.context()));
        Value::new(self.builder, self.builder.result(self.builder.operation("llvm.ptrtoint", &[self.raw], ty)))
    }
}

impl<'k> Value<'k, U64> {
    /// An address as a pointer to global memory.
    pub fn to_pointer<T: Element>(self) -> Pointer<'k, Global, T> {
        let ty = Some(Global::pointer_type(self.builder.context()));
        Pointer::new(self.builder, self.builder.result(self.builder.operation("llvm.inttoptr", &[self.raw], ty)))
    }
}
