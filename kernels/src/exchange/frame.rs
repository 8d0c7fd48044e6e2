//! What every kernel of an exchange has: its arguments by meaning, places in symmetric memory, epochs, status, wait.

use moe_contract::{Argument, Buffer, Exchange, Fault, Flag, Grid, Kernel, Region, Tensor};

use super::row::Part;
use crate::device::{Builder, Element, Global, Parameters, Pointer, Pred, U8, U32, U64, Value};

/// Nanoseconds between two looks at a flag.
const PAUSE: u32 = 64;

/// The arguments of one kernel under construction, and what it is specialised to.
pub(super) struct Frame<'k, 'x> {
    pub k: &'k Builder,
    pub exchange: &'x Exchange,
    kernel: Kernel,
    arguments: Vec<(Argument, Bound<'k>)>,
    /// The epoch of this call, of each flag that the kernel uses.
    epochs: Vec<(Flag, Value<'k, U64>)>,
}

#[derive(Clone, Copy)]
enum Bound<'k> {
    Pointer(Pointer<'k, Global, U8>),
    Word(Value<'k, U32>),
    Long(Value<'k, U64>),
}

/// An entry of a region: [`moe_contract::memory`].
#[derive(Clone, Copy)]
pub(super) struct Slot<'k> {
    pub list: Value<'k, U32>,
    pub index: Value<'k, U32>,
}

/// What warps take: rows, or parts of rows.
#[derive(Clone, Copy)]
pub(super) struct Items<'k> {
    pub count: Value<'k, U32>,
    /// Parts of a row.
    of: Option<Value<'k, U32>>,
}

impl<'k> Items<'k> {
    /// The row of an item, and which part of it.
    pub fn split(self, item: Value<'k, U32>) -> (Value<'k, U32>, Option<Part<'k>>) {
        let Some(of) = self.of else { return (item, None) };
        let row = item / of;
        (row, Some(Part { number: item - row * of, of }))
    }
}

impl<'k, 'x> Frame<'k, 'x> {
    /// Binds the arguments, and loads the epochs: one load for each flag.
    pub fn bind(k: &'k Builder, parameters: &mut Parameters<'k>, kernel: Kernel, exchange: &'x Exchange) -> Self {
        let bind = |&argument: &Argument| {
            let bound = match argument {
                Argument::Buffer(_) | Argument::Symmetric | Argument::Tensor(_) | Argument::GateParameters => {
                    Bound::Pointer(parameters.pointer())
                }
                Argument::Rank | Argument::Tokens | Argument::Capacity => Bound::Word(parameters.value()),
                Argument::Deadline => Bound::Long(parameters.value()),
            };
            (argument, bound)
        };
        let arguments = kernel.row().arguments.iter().map(bind).collect();
        let mut frame = Frame { k, exchange, kernel, arguments, epochs: vec![] };
        let epoch = |flag: Flag| frame.buffer::<U64>(Buffer::Calls).at_constant(flag.epoch_word()).load() + 1u64;
        frame.epochs = kernel.epochs(exchange).map(|flag| (flag, epoch(flag))).collect();
        frame
    }

    fn find(&self, argument: Argument) -> Bound<'k> {
        let found = self.arguments.iter().find(|(known, _)| *known == argument);
        found.unwrap_or_else(|| panic!("the contract gives this kernel no {argument:?}")).1
    }

    fn pointer<T: Element>(&self, argument: Argument) -> Pointer<'k, Global, T> {
        let Bound::Pointer(pointer) = self.find(argument) else { unreachable!("bound by its kind") };
        pointer.cast()
    }

    fn word(&self, argument: Argument) -> Value<'k, U32> {
        let Bound::Word(word) = self.find(argument) else { unreachable!("bound by its kind") };
        word
    }

    fn long(&self, argument: Argument) -> Value<'k, U64> {
        let Bound::Long(long) = self.find(argument) else { unreachable!("bound by its kind") };
        long
    }

    pub fn buffer<T: Element>(&self, buffer: Buffer) -> Pointer<'k, Global, T> {
        self.pointer(Argument::Buffer(buffer))
    }

    pub fn tensor<T: Element>(&self, tensor: Tensor) -> Pointer<'k, Global, T> {
        self.pointer(Argument::Tensor(tensor))
    }

    /// Row of a tensor.
    pub fn tensor_row(&self, tensor: Tensor, row: Value<'k, U32>) -> Pointer<'k, Global, U8> {
        self.tensor::<U8>(tensor).bytes(row.wide() * self.exchange.tensor_row_bytes(tensor))
    }

    /// This rank's own symmetric memory, at an offset.
    fn symmetric(&self, offset: u64) -> Pointer<'k, Global, U8> {
        self.pointer::<U8>(Argument::Symmetric).bytes(self.k.u64(offset))
    }

    /// An entry of a region of this rank, in the half of the epoch of the region's flag.
    pub fn own(&self, region: Region, slot: Slot<'k>) -> Pointer<'k, Global, U8> {
        let stride = region.shape(self.exchange).stride;
        self.symmetric(self.exchange.region_start(region)).bytes(self.entry(region, slot) * stride)
    }

    /// The first entry of a region of this rank, in that half; the others follow.
    pub fn own_first(&self, region: Region) -> Pointer<'k, Global, U8> {
        let shape = region.shape(self.exchange);
        let half = self.half(region.flag()).wide() * (shape.lists * shape.entries * shape.stride);
        self.symmetric(self.exchange.region_start(region)).bytes(half)
    }

    /// Number of an entry in its region.
    pub(super) fn entry(&self, region: Region, slot: Slot<'k>) -> Value<'k, U64> {
        let shape = region.shape(self.exchange);
        let list = self.half(region.flag()) * shape.lists as u32 + slot.list;
        list.wide() * shape.entries + slot.index.wide()
    }

    pub fn rank(&self) -> Value<'k, U32> {
        self.word(Argument::Rank)
    }

    pub fn tokens(&self) -> Value<'k, U32> {
        self.word(Argument::Tokens)
    }

    pub fn capacity(&self) -> Value<'k, U32> {
        self.word(Argument::Capacity)
    }

    /// The epoch of this call.
    fn epoch(&self, flag: Flag) -> Value<'k, U64> {
        let found = self.epochs.iter().find(|(known, _)| *known == flag);
        found.unwrap_or_else(|| panic!("the table gives {} no epoch of {flag:?}", self.kernel.name())).1
    }

    /// Parity of the epoch.
    fn half(&self, flag: Flag) -> Value<'k, U32> {
        self.epoch(flag).low_word() & 1
    }

    /// First expert of this rank, and how many it has: [`Exchange::experts_of`].
    pub fn experts_of(&self, rank: Value<'k, U32>) -> (Value<'k, U32>, Value<'k, U32>) {
        let owners = self.exchange.owners();
        let (each, more) = (owners.each(), owners.more());
        let larger = rank.less(self.k.u32(more)).as_u32();
        (rank * each + rank.min(self.k.u32(more)), larger + each)
    }

    /// All ranks in the order in which this rank turns to them: the one behind it first, itself last. A place that is none gives the last.
    pub fn rank_at(&self, place: Value<'k, U32>) -> Value<'k, U32> {
        let ranks = self.k.u32(self.exchange.ranks);
        let rank = place.min(ranks - 1) + self.rank() + 1;
        rank.min(rank - ranks)
    }

    /// Groups of 32 ranks, or places of ranks: a lane stands for one of each group.
    pub fn rank_groups(&self) -> u32 {
        self.exchange.ranks.div_ceil(32)
    }

    /// Warps of a CTA.
    pub fn warps(&self) -> u32 {
        self.exchange.threads / 32
    }

    /// CTAs of the launch.
    pub fn ctas(&self) -> Value<'k, U32> {
        match self.grid() {
            Grid::Fixed(ctas) => self.k.u32(ctas),
            Grid::UpTo(_) | Grid::PerTokens(_) => self.k.ctas(),
        }
    }

    fn grid(&self) -> Grid {
        self.kernel.grid(self.exchange).expect("a kernel of an exchange has a grid")
    }

    /// Runs `body` for each number below `count`, one warp for each; neighbours go to different CTAs.
    pub fn for_each_by_warps(&self, count: Value<'k, U32>, body: impl FnOnce(Value<'k, U32>)) {
        self.k.for_each(self.first_item(), count, self.item_step(), body);
    }

    /// Rows below `count`, or the parts of each where there are fewer rows than warps. `batches`: the most parts that a row has; no part where
    /// it has one.
    pub fn items(&self, count: Value<'k, U32>, batches: u32) -> Items<'k> {
        if batches == 1 {
            return Items { count, of: None };
        }
        let k = self.k;
        let warps = self.ctas() * self.warps();
        let of = (warps / count.max(k.u32(1))).max(k.u32(1)).min(k.u32(batches));
        Items { count: count * of, of: Some(of) }
    }

    /// The first item of this warp, as [`Frame::for_each_by_warps`] goes.
    pub fn first_item(&self) -> Value<'k, U32> {
        self.k.warp() * self.ctas() + self.k.cta()
    }

    /// How far it is to the next one.
    pub fn item_step(&self) -> Value<'k, U32> {
        self.ctas() * self.warps()
    }

    /// Runs `body` for each row below `count`, or for its parts: [`Frame::items`].
    pub fn for_each_part_by_warps(
        &self,
        count: Value<'k, U32>,
        batches: u32,
        body: impl FnOnce(Value<'k, U32>, Option<Part<'k>>),
    ) {
        let items = self.items(count, batches);
        self.for_each_by_warps(items.count, |item| {
            let (row, part) = items.split(item);
            body(row, part);
        });
    }

    /// Ends the CTA when there is an error. The host may set the status while kernels run, as may other CTAs of some kernels, so that
    /// threads could see different things: one looks for all. One CTA barrier.
    pub fn end_on_error(&self) {
        let k = self.k;
        let seen = k.shared::<U32>(1);
        k.when(k.thread().equals(k.u32(0)), || seen.store(self.sees_error().as_u32()));
        k.cta_barrier();
        k.exit_when(seen.load().differs(k.u32(0)));
    }

    /// Whether this thread sees an error; others may not see it yet. At system scope: the host is one of those that report.
    pub fn sees_error(&self) -> Value<'k, Pred> {
        self.buffer::<U64>(Buffer::Status).load_relaxed_sys().differs(self.k.u64(0))
    }

    /// Reports numbers of the caller, unless there is an error already.
    pub fn report(&self, fault: Fault, words: [Value<'k, U64>; 3]) {
        self.set_status(fault.code(), words);
    }

    fn set_status(&self, code: u64, words: [Value<'k, U64>; 3]) {
        let (k, status) = (self.k, self.buffer::<U64>(Buffer::Status));
        let found = status.compare_and_swap_relaxed_sys(k.u64(0), k.u64(code));
        k.when(found.equals(k.u64(0)), || {
            for (place, word) in (1..).zip(words) {
                status.at_constant(place).store(word);
            }
        });
    }

    /// Waits for the flags of all sources, a thread for each. Gives whether this thread has seen an error: an earlier one, one that another
    /// CTA or the host has written meanwhile, or the deadline. What the sources released is visible to this thread; to others after a barrier.
    pub fn wait(&self, flag: Flag) -> Value<'k, Pred> {
        let k = self.k;
        let at_least = self.epoch(flag) * moe_contract::kernel::steps(flag, self.exchange);
        let flags: Pointer<Global, U64> = self.symmetric(self.exchange.flag_start(flag)).cast();
        let deadline = self.long(Argument::Deadline);
        let has_deadline = deadline.differs(k.u64(0));
        let failed = k.variable(self.sees_error());
        k.for_each(k.thread(), k.u32(self.exchange.ranks), k.u32(self.exchange.threads), |source| {
            let of_source = flags.at(source);
            let found = k.variable(of_source.load_acquire_sys());
            let waits = || found.get().less(at_least) & !failed.get();
            let start = k.variable(k.u64(0));
            k.when(waits() & has_deadline, || start.set(k.global_timer()));
            k.repeat_while(waits, || {
                k.pause(PAUSE);
                found.set(of_source.load_acquire_sys());
                k.when(found.get().less(at_least), || failed.set(self.sees_error()));
                k.when(waits() & has_deadline, || {
                    k.when((k.global_timer() - start.get()).at_least(deadline), || {
                        self.set_status(flag.deadline_code(), [source.wide(), at_least, found.get()]);
                        failed.set(k.truth(true));
                    });
                });
            });
        });
        failed.get()
    }

    /// [`Frame::wait`] for the whole CTA: when it goes on, everything that the sources released is visible to all threads; when one
    /// of them has failed, all end.
    pub fn wait_together(&self, flag: Flag) {
        if !self.exchange.has_flags() {
            return self.end_on_error();
        }
        let failed = self.wait(flag);
        self.k.exit_when(self.k.cta_any(failed));
    }

    /// The end of the kernel. Where it ends the epoch of a flag, its last CTA says so for the next call; a single rank stays in its first
    /// epoch, as its stream keeps its calls apart. Every thread must have passed a
    /// CTA barrier since [`Frame::bind`], which loads the epochs: every thread of every CTA has then loaded them.
    pub fn end(&self) {
        let k = self.k;
        let ended: Vec<Flag> = self.kernel.ends(self.exchange).collect();
        if ended.is_empty() || !self.exchange.has_flags() {
            return;
        }
        let calls = self.buffer::<U64>(Buffer::Calls);
        k.when(k.thread().equals(k.u32(0)), || {
            for flag in ended {
                let end = || calls.at_constant(flag.epoch_word()).store(self.epoch(flag));
                if self.grid().ctas(0) == 1 {
                    end();
                    continue;
                }
                let ticket = calls.at_constant(flag.ticket_word());
                let before = ticket.fetch_add_acq_rel_gpu(k.u64(1));
                k.when(before.equals((self.ctas() - 1).wide()), || {
                    ticket.store(k.u64(0));
                    end();
                });
            }
        });
    }
}
