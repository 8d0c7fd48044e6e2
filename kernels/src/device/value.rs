//! Values: what a thread holds in registers.

use std::marker::PhantomData;

use melior::Context;
use melior::ir::Type;
use melior::ir::r#type::IntegerType;

use super::Builder;

/// A type of values and of elements of memory.
pub trait Element: Copy + 'static {
    /// Bytes in memory.
    const BYTES: u32;

    fn mlir(context: &'static Context) -> Type<'static>;
}

fn integer<const BITS: u32>(context: &'static Context) -> Type<'static> {
    IntegerType::new(context, BITS).into()
}

macro_rules! elements {
    ($($(#[$doc:meta])* $name:ident, $bytes:expr, $mlir:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
        impl Element for $name {
            const BYTES: u32 = $bytes;

            fn mlir(context: &'static Context) -> Type<'static> {
                $mlir(context)
            }
        }
    )*};
}

elements! {
    /// A truth value.
    Pred, 1, integer::<1>;
    /// A byte.
    U8, 1, integer::<8>;
    /// 16 bits.
    U16, 2, integer::<16>;
    /// An unsigned 32-bit integer; −1 is `u32::MAX`.
    U32, 4, integer::<32>;
    /// An unsigned 64-bit integer.
    U64, 8, integer::<64>;
    /// binary32
    F32, 4, Type::float32;
    /// 16 bytes: what one thread moves at once.
    Chunk, 16, |context| Type::vector(&[4], integer::<32>(context));
}

/// A value of type `T` in every thread.
pub struct Value<'k, T> {
    pub(super) builder: &'k Builder,
    pub(super) raw: mlir_sys::MlirValue,
    element: PhantomData<T>,
}

impl<T> Clone for Value<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Value<'_, T> {}

impl<'k, T> Value<'k, T> {
    pub(super) fn new(builder: &'k Builder, raw: mlir_sys::MlirValue) -> Self {
        Value { builder, raw, element: PhantomData }
    }

    /// The builder that it belongs to.
    pub fn builder(self) -> &'k Builder {
        self.builder
    }
}
