//! The kernel under construction: blocks, structured control flow, variables, parameters.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

use melior::ir::attribute::{Attribute, DenseI32ArrayAttribute, IntegerAttribute, StringAttribute, TypeAttribute};
use melior::ir::operation::OperationBuilder;
use melior::ir::r#type::IntegerType;
use melior::ir::{Block, BlockLike, BlockRef, Identifier, Location, Operation, Region, RegionLike, Type, ValueLike};
use melior::{Context, dialect};

use super::memory::{Global, Pointer, Space};
use super::shared::{self, SharedPart};
use super::value::{Element, Pred, U32, Value};
use crate::context::Lease;

/// A finished kernel: its name, and a `gpu.module` that holds it, as MLIR text free of any context.
#[derive(Clone, Debug)]
pub struct DeviceCode {
    name: String,
    body: String,
    parts: Vec<SharedPart>,
    waits_for_grid: bool,
}

impl DeviceCode {
    /// The entry point.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The parts of its dynamic shared memory, one behind the other.
    pub fn shared_parts(&self) -> &[SharedPart] {
        &self.parts
    }

    /// Bytes of dynamic shared memory of a launch.
    pub fn dynamic_shared(&self) -> u32 {
        self.parts.last().map_or(0, |part| part.start + part.bytes)
    }

    /// Whether it waits by itself for the end of the launch before it in its stream, so that it may begin earlier.
    pub fn waits_for_grid(&self) -> bool {
        self.waits_for_grid
    }

    /// The operations of its module (globals and the function), as MLIR text.
    pub(crate) fn body(&self) -> &str {
        &self.body
    }
}

/// Builds one kernel.
pub struct Builder {
    region: Region<'static>,
    /// Holds every stack slot, so that LLVM turns all of them into registers.
    entry: BlockRef<'static, 'static>,
    current: Cell<BlockRef<'static, 'static>>,
    exit: BlockRef<'static, 'static>,
    name: String,
    globals: RefCell<Vec<Operation<'static>>>,
    /// Bytes of the variables in static shared memory.
    statics: Cell<u32>,
    parts: RefCell<Vec<SharedPart>>,
    waits_for_grid: Cell<bool>,
    /// Last, so that it ends when nothing of its context is left.
    lease: Lease,
}

/// The parameters of a kernel, taken in order.
pub struct Parameters<'k> {
    builder: &'k Builder,
    types: Vec<Type<'static>>,
}

impl<'k> Parameters<'k> {
    /// The next parameter: a pointer to global memory.
    pub fn pointer<T: Element>(&mut self) -> Pointer<'k, Global, T> {
        Pointer::new(self.builder, self.next(Global::pointer_type(self.builder.context())))
    }

    /// The next parameter: a number.
    pub fn value<T: Element>(&mut self) -> Value<'k, T> {
        Value::new(self.builder, self.next(T::mlir(self.builder.context())))
    }

    fn next(&mut self, ty: Type<'static>) -> mlir_sys::MlirValue {
        self.types.push(ty);
        self.builder.entry.add_argument(ty, self.builder.location()).to_raw()
    }
}

impl Builder {
    /// Builds a kernel with CTAs of `threads` threads.
    pub fn kernel(name: &str, threads: u32, body: impl for<'k> FnOnce(&'k Builder, &mut Parameters<'k>)) -> DeviceCode {
        let region = Region::new();
        let block = || {
            let raw = region.append_block(Block::new(&[])).to_raw();
            // SAFETY: the block belongs to `region`, which the builder keeps as long as the reference.
            unsafe { BlockRef::from_raw(raw) }
        };
        let (entry, first, exit) = (block(), block(), block());
        let builder = Builder {
            entry,
            current: Cell::new(first),
            exit,
            name: name.to_owned(),
            globals: RefCell::default(),
            statics: Cell::new(0),
            parts: RefCell::default(),
            waits_for_grid: Cell::new(false),
            region,
            lease: Lease::take(),
        };
        let mut parameters = Parameters { builder: &builder, types: Vec::new() };
        body(&builder, &mut parameters);
        let types = parameters.types;
        builder.finish(&types, threads, first)
    }

    fn finish(self, types: &[Type<'static>], threads: u32, first: BlockRef<'static, 'static>) -> DeviceCode {
        self.branch(self.exit);
        self.current.set(self.entry);
        self.branch(first);
        self.current.set(self.exit);
        self.append(OperationBuilder::new("llvm.return", self.location()));
        let text: Vec<_> = types.iter().map(ToString::to_string).collect();
        // In `llvm.func` types the dialect prefix is left out.
        let signature = format!("!llvm.func<void ({})>", text.join(", "));
        let signature = Type::parse(self.context(), &signature).expect("a signature of known types parses");
        let name = |text| Identifier::new(self.context(), text);
        let unit = Attribute::unit(self.context());
        let function = OperationBuilder::new("llvm.func", self.location())
            .add_attributes(&[
                (name("sym_name"), StringAttribute::new(self.context(), &self.name).into()),
                (name("function_type"), TypeAttribute::new(signature).into()),
                (name("gpu.kernel"), unit),
                (name("nvvm.kernel"), unit),
                // One CTA per SM is enough: otherwise ptxas spills to leave room for a second one.
                (name("nvvm.minctasm"), IntegerAttribute::new(IntegerType::new(self.context(), 32).into(), 1).into()),
                (name("nvvm.reqntid"), DenseI32ArrayAttribute::new(self.context(), &[threads as i32]).into()),
            ])
            .add_regions([self.region])
            .build()
            .expect("a function has a name, a type and a body");
        let parts = self.parts.take();
        shared::check(&self.name, self.statics.get(), &parts);
        let mut body: String = self.globals.borrow().iter().map(|global| format!("{global}\n")).collect();
        body.push_str(&function.to_string());
        let waits_for_grid = self.waits_for_grid.get();
        DeviceCode { name: self.name, body, parts, waits_for_grid }
    }

    pub(super) fn context(&self) -> &'static Context {
        self.lease.context()
    }

    pub(super) fn location(&self) -> Location<'static> {
        Location::unknown(self.context())
    }

    /// Appends an operation to the current block.
    pub(super) fn append(&self, operation: OperationBuilder<'static>) -> Option<mlir_sys::MlirValue> {
        append_to(self.current.get(), operation)
    }

    /// Appends an operation with one result.
    pub(super) fn result(&self, operation: OperationBuilder<'static>) -> mlir_sys::MlirValue {
        self.append(operation).expect("the caller adds one result")
    }

    /// An operation by name, its operands and result type.
    pub(super) fn operation(
        &self,
        name: &str,
        operands: &[mlir_sys::MlirValue],
        result: Option<Type<'static>>,
    ) -> OperationBuilder<'static> {
        let operands: Vec<_> = operands.iter().map(|&raw| value(raw)).collect();
        let operation = OperationBuilder::new(name, self.location()).add_operands(&operands);
        match result {
            Some(ty) => operation.add_results(&[ty]),
            None => operation,
        }
    }

    pub(super) fn attribute(&self, name: &str, text: &str) -> (Identifier<'static>, Attribute<'static>) {
        let attribute = Attribute::parse(self.context(), text).expect("the attributes in this folder parse");
        (Identifier::new(self.context(), name), attribute)
    }

    /// An integer attribute.
    pub(super) fn number(&self, name: &str, bits: u32, value: i64) -> (Identifier<'static>, Attribute<'static>) {
        let ty = IntegerType::new(self.context(), bits).into();
        (Identifier::new(self.context(), name), IntegerAttribute::new(ty, value).into())
    }

    /// Calls an LLVM intrinsic.
    pub(super) fn intrinsic(
        &self,
        name: &str,
        operands: &[mlir_sys::MlirValue],
        result: Option<Type<'static>>,
    ) -> Option<mlir_sys::MlirValue> {
        let sizes = [operands.len() as i32, 0];
        self.append(self.operation("llvm.call_intrinsic", operands, result).add_attributes(&[
            (Identifier::new(self.context(), "intrin"), StringAttribute::new(self.context(), name).into()),
            (
                Identifier::new(self.context(), "operandSegmentSizes"),
                DenseI32ArrayAttribute::new(self.context(), &sizes).into(),
            ),
            (
                Identifier::new(self.context(), "op_bundle_sizes"),
                DenseI32ArrayAttribute::new(self.context(), &[]).into(),
            ),
        ]))
    }

    /// Inline PTX of a single-thread instruction. `constraints` are LLVM's: `=l,l,r,~{memory}`.
    pub(super) fn inline(
        &self,
        text: &str,
        constraints: &str,
        operands: &[mlir_sys::MlirValue],
        result: Option<Type<'static>>,
    ) -> Option<mlir_sys::MlirValue> {
        let side_effects = constraints.contains("~{memory}");
        let mut attributes = vec![
            (Identifier::new(self.context(), "asm_string"), StringAttribute::new(self.context(), text).into()),
            (Identifier::new(self.context(), "constraints"), StringAttribute::new(self.context(), constraints).into()),
        ];
        if side_effects {
            attributes.push((Identifier::new(self.context(), "has_side_effects"), Attribute::unit(self.context())));
        }
        let returned = result.unwrap_or_else(|| dialect::llvm::r#type::void(self.context()));
        let raw = self.append(self.operation("llvm.inline_asm", operands, Some(returned)).add_attributes(&attributes));
        result.and(raw)
    }

    pub(super) fn integer(&self, bits: u32, value: i64) -> mlir_sys::MlirValue {
        let ty = IntegerType::new(self.context(), bits).into();
        let constant = IntegerAttribute::new(ty, value).into();
        let name = Identifier::new(self.context(), "value");
        self.result(self.operation("llvm.mlir.constant", &[], Some(ty)).add_attributes(&[(name, constant)]))
    }

    fn block(&self) -> BlockRef<'static, 'static> {
        let raw = self.region.append_block(Block::new(&[])).to_raw();
        // SAFETY: the block belongs to `region`, which the builder keeps as long as the reference.
        unsafe { BlockRef::from_raw(raw) }
    }

    fn branch(&self, to: BlockRef<'static, 'static>) {
        self.append(self.operation("llvm.br", &[], None).add_successors(&[&to]));
    }

    fn branch_if(&self, condition: Value<'_, Pred>, yes: BlockRef<'static, 'static>, no: BlockRef<'static, 'static>) {
        let sizes = DenseI32ArrayAttribute::new(self.context(), &[1, 0, 0]).into();
        self.append(
            self.operation("llvm.cond_br", &[condition.raw], None)
                .add_successors(&[&yes, &no])
                .add_attributes(&[(Identifier::new(self.context(), "operandSegmentSizes"), sizes)]),
        );
    }

    /// Runs `body` where `condition` holds.
    pub fn when(&self, condition: Value<'_, Pred>, body: impl FnOnce()) {
        self.when_else(condition, body, || {});
    }

    /// Runs `yes` where `condition` holds, `no` elsewhere.
    pub fn when_else(&self, condition: Value<'_, Pred>, yes: impl FnOnce(), no: impl FnOnce()) {
        let (yes_block, no_block, after) = (self.block(), self.block(), self.block());
        self.branch_if(condition, yes_block, no_block);
        self.current.set(yes_block);
        yes();
        self.branch(after);
        self.current.set(no_block);
        no();
        self.branch(after);
        self.current.set(after);
    }

    /// Ends the thread where `condition` holds. Must not be reached by a thread that others wait for.
    pub fn exit_when(&self, condition: Value<'_, Pred>) {
        let after = self.block();
        self.branch_if(condition, self.exit, after);
        self.current.set(after);
    }

    /// Runs `body` as long as `condition`, which is evaluated before each round, holds.
    pub fn repeat_while<'k>(&'k self, condition: impl FnOnce() -> Value<'k, Pred>, body: impl FnOnce()) {
        let (test, inside, after) = (self.block(), self.block(), self.block());
        self.branch(test);
        self.current.set(test);
        let holds = condition();
        self.branch_if(holds, inside, after);
        self.current.set(inside);
        body();
        self.branch(test);
        self.current.set(after);
    }

    /// Runs `body` for `first`, `first + step`, … below `end`. The sum must not overflow.
    pub fn for_each<'k>(
        &'k self,
        first: Value<'k, U32>,
        end: Value<'k, U32>,
        step: Value<'k, U32>,
        body: impl FnOnce(Value<'k, U32>),
    ) {
        let index = self.variable(first);
        self.repeat_while(
            || index.get().less(end),
            || {
                let now = index.get();
                body(now);
                index.set(now + step);
            },
        );
    }

    /// A place for a value that changes. LLVM makes it a register.
    pub fn variable<'k, T: Element>(&'k self, initial: Value<'k, T>) -> Variable<'k, T> {
        let inside = self.current.replace(self.entry);
        let one = self.integer(32, 1);
        let pointer = dialect::llvm::r#type::pointer(self.context(), 0);
        let element = TypeAttribute::new(T::mlir(self.context())).into();
        let slot = self.result(
            self.operation("llvm.alloca", &[one], Some(pointer))
                .add_attributes(&[(Identifier::new(self.context(), "elem_type"), element)]),
        );
        self.current.set(inside);
        let variable = Variable { builder: self, slot, element: PhantomData };
        variable.set(initial);
        variable
    }

    /// A symbol of the kernel's own.
    pub(super) fn symbol(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// Adds a variable in shared memory to the module.
    pub(super) fn declare_shared(&self, symbol: &str, bytes: u32, alignment: u32, linkage: &str) {
        let array = Type::parse(self.context(), &format!("!llvm.array<{bytes} x i8>"));
        let name = |text| Identifier::new(self.context(), text);
        let global = OperationBuilder::new("llvm.mlir.global", self.location())
            .add_attributes(&[
                (name("sym_name"), StringAttribute::new(self.context(), symbol).into()),
                (name("global_type"), TypeAttribute::new(array.expect("an array of bytes")).into()),
                self.number("addr_space", 32, 3),
                self.number("alignment", 64, i64::from(alignment)),
                self.attribute("linkage", linkage),
            ])
            .add_regions([Region::new()])
            .build()
            .expect("a global has a name and a type");
        self.globals.borrow_mut().push(global);
    }

    /// How many variables the module has so far.
    pub(super) fn variables(&self) -> usize {
        self.globals.borrow().len()
    }

    /// How many bytes of static shared memory there are so far, and so many more.
    pub(super) fn static_shared(&self) -> &Cell<u32> {
        &self.statics
    }

    pub(super) fn shared_layout(&self) -> &RefCell<Vec<SharedPart>> {
        &self.parts
    }

    pub(super) fn note_grid_wait(&self) {
        self.waits_for_grid.set(true);
    }
}

/// A place for a value that changes.
pub struct Variable<'k, T> {
    builder: &'k Builder,
    slot: mlir_sys::MlirValue,
    element: PhantomData<T>,
}

impl<T> Clone for Variable<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Variable<'_, T> {}

impl<'k, T: Element> Variable<'k, T> {
    /// What it holds now.
    pub fn get(self) -> Value<'k, T> {
        let builder = self.builder;
        let load = builder.operation("llvm.load", &[self.slot], Some(T::mlir(builder.context())));
        Value::new(builder, builder.result(load.add_attributes(&[builder.number("ordering", 64, 0)])))
    }

    /// Changes it.
    pub fn set(self, value: Value<'k, T>) {
        let store = self.builder.operation("llvm.store", &[value.raw, self.slot], None);
        self.builder.append(store.add_attributes(&[self.builder.number("ordering", 64, 0)]));
    }
}

fn append_to(block: BlockRef<'static, 'static>, operation: OperationBuilder<'static>) -> Option<mlir_sys::MlirValue> {
    let operation = operation.build().expect("operations of this folder have all operands and attributes");
    let operation = block.append_operation(operation);
    operation.result(0).ok().map(|result| result.to_raw())
}

/// The melior value of a raw one.
fn value(raw: mlir_sys::MlirValue) -> melior::ir::Value<'static, 'static> {
    // SAFETY: raw values come from operations in the region of the builder that uses them, which is alive.
    unsafe { melior::ir::Value::from_raw(raw) }
}
