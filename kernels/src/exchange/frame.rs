//! What every kernel of an exchange has: its arguments by meaning, places in symmetric memory, status, publish and wait.

use moe_bundle::{Argument, Exchange, Kernel, LocalBuffer, Tensor};

use crate::device::{Builder, Element, Global, Parameters, Pointer, Pred, U8, U32, U64, Value};

/// Nanoseconds between two looks at a flag.
const PAUSE: u32 = 64;

/// The arguments of one kernel under construction, and what it is specialised to.
pub(super) struct Frame<'k, 'x> {
    pub k: &'k Builder,
    pub exchange: &'x Exchange,
    arguments: Vec<(Argument, Bound<'k>)>,
}

#[derive(Clone, Copy)]
enum Bound<'k> {
    Pointer(Pointer<'k, Global, U8>),
    Word(Value<'k, U32>),
    Long(Value<'k, U64>),
}

/// A wait with a name: what is waited for, and how it is reported.
pub(super) struct Wait<'k> {
    /// Offset of u64 `[ranks]` in symmetric memory.
    pub flags: u64,
    /// What each flag must reach.
    pub at_least: Value<'k, U64>,
    /// Code in [`LocalBuffer::Status`] when the deadline passes.
    pub code: u64,
}

impl<'k, 'x> Frame<'k, 'x> {
    pub fn bind(k: &'k Builder, parameters: &mut Parameters<'k>, kernel: Kernel, exchange: &'x Exchange) -> Self {
        let bind = |argument: Argument| {
            let bound = match argument {
                Argument::Buffer(_) | Argument::Symmetric | Argument::Tensor(_) | Argument::GateParameter(_) => {
                    Bound::Pointer(parameters.pointer())
                }
                Argument::Rank | Argument::Tokens | Argument::Capacity => Bound::Word(parameters.value()),
                Argument::Epoch | Argument::GradientEpoch | Argument::Deadline => Bound::Long(parameters.value()),
            };
            (argument, bound)
        };
        Frame { k, exchange, arguments: kernel.arguments().into_iter().map(bind).collect() }
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

    pub fn buffer<T: Element>(&self, buffer: LocalBuffer) -> Pointer<'k, Global, T> {
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
    pub fn symmetric(&self, offset: u64) -> Pointer<'k, Global, U8> {
        self.pointer::<U8>(Argument::Symmetric).bytes(self.k.u64(offset))
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

    pub fn epoch(&self) -> Value<'k, U64> {
        self.long(Argument::Epoch)
    }

    pub fn gradient_epoch(&self) -> Value<'k, U64> {
        self.long(Argument::GradientEpoch)
    }

    /// Parity of the epoch.
    pub fn half(&self) -> Value<'k, U32> {
        self.epoch().low_word() & 1
    }

    /// The symmetric memory of rank `rank`. One load.
    pub fn peer(&self, rank: Value<'k, U32>) -> Value<'k, U64> {
        self.buffer::<U64>(LocalBuffer::Peers).at(rank).load()
    }

    /// Number of slot `slot` of `source` in the regions of slots, in the half of this epoch.
    pub fn slot(&self, source: Value<'k, U32>, slot: Value<'k, U32>) -> Value<'k, U64> {
        let list = self.half() * self.exchange.ranks + source;
        list.wide() * u64::from(self.exchange.max_tokens) + slot.wide()
    }

    /// First expert of this rank, and how many it has: [`Exchange::experts_of`].
    pub fn experts_of(&self, rank: Value<'k, U32>) -> (Value<'k, U32>, Value<'k, U32>) {
        let (each, more) = (self.exchange.experts / self.exchange.ranks, self.exchange.experts % self.exchange.ranks);
        let larger = rank.less(self.k.u32(more)).as_u32();
        (rank * each + rank.min(self.k.u32(more)), larger + each)
    }

    /// Groups of 32 ranks: a lane stands for one rank of each group.
    pub fn rank_groups(&self) -> u32 {
        self.exchange.ranks.div_ceil(32)
    }

    /// Warps of a CTA.
    pub fn warps(&self) -> u32 {
        self.exchange.threads / 32
    }

    /// Runs `body` for each number below `count`, one warp for each; neighbours go to different CTAs.
    pub fn for_each_by_warps(&self, count: Value<'k, U32>, body: impl FnOnce(Value<'k, U32>)) {
        let (k, ctas) = (self.k, self.exchange.ctas);
        k.for_each(k.warp() * ctas + k.cta(), count, k.u32(ctas * self.warps()), body);
    }

    /// Ends every thread when an earlier kernel has found an error. Only where no CTA of *this* kernel can set the status: all
    /// threads must see the same.
    pub fn end_on_error(&self) {
        let status = self.buffer::<U64>(LocalBuffer::Status);
        self.k.exit_when(status.load().differs(self.k.u64(0)));
    }

    /// Ends the CTA when there is an error. Where CTAs of this kernel set the status, its threads could see different things: one looks
    /// for all. One CTA barrier.
    pub fn end_together_on_error(&self) {
        let k = self.k;
        let seen = k.shared::<U32>(1);
        k.when(k.thread().equals(k.u32(0)), || seen.store(self.sees_error().as_u32()));
        k.cta_barrier();
        k.exit_when(seen.load().differs(k.u32(0)));
    }

    /// Whether this thread sees an error. Threads may differ where CTAs of this kernel set the status.
    pub fn sees_error(&self) -> Value<'k, Pred> {
        self.buffer::<U64>(LocalBuffer::Status).load_relaxed_gpu().differs(self.k.u64(0))
    }

    /// Sets the status unless there is an error already.
    pub fn report(&self, code: u64, words: [Value<'k, U64>; 3]) {
        let (k, status) = (self.k, self.buffer::<U64>(LocalBuffer::Status));
        let found = status.compare_and_swap_relaxed_gpu(k.u64(0), k.u64(code));
        k.when(found.equals(k.u64(0)), || {
            for (place, word) in (1..).zip(words) {
                status.at_constant(place).store(word);
            }
        });
    }

    /// Adds 1 to this rank's flag on every rank: all that this thread wrote, or the CTA wrote before its last barrier, precedes.
    /// `ranks` × 8 bytes on the links.
    pub fn publish(&self, flags: u64) {
        let k = self.k;
        let mine = self.rank().wide() * 8u64 + flags;
        k.for_each(k.thread(), k.u32(self.exchange.ranks), k.u32(self.exchange.threads), |rank| {
            (self.peer(rank) + mine).to_pointer::<U64>().red_release_sys_add(k.u64(1));
        });
    }

    /// Waits for the flags of all sources, a thread for each. Gives whether this thread has seen an error: an earlier one, or the
    /// deadline. What the sources released is visible to this thread; to others after a barrier.
    pub fn wait(&self, wait: &Wait<'k>) -> Value<'k, Pred> {
        let k = self.k;
        let deadline = self.long(Argument::Deadline);
        let has_deadline = deadline.differs(k.u64(0));
        let failed = k.variable(self.sees_error());
        k.for_each(k.thread(), k.u32(self.exchange.ranks), k.u32(self.exchange.threads), |source| {
            let flag: Pointer<Global, U64> = self.symmetric(wait.flags).cast().at(source);
            let found = k.variable(flag.load_acquire_sys());
            let waits = || found.get().less(wait.at_least) & !failed.get();
            let start = k.variable(k.u64(0));
            k.when(waits() & has_deadline, || start.set(k.global_timer()));
            k.repeat_while(waits, || {
                k.pause(PAUSE);
                found.set(flag.load_acquire_sys());
                k.when(found.get().less(wait.at_least) & has_deadline, || {
                    k.when((k.global_timer() - start.get()).at_least(deadline), || {
                        self.report(wait.code, [source.wide(), wait.at_least, found.get()]);
                        failed.set(k.truth(true));
                    });
                });
            });
        });
        failed.get()
    }

    /// [`Frame::wait`] for the whole CTA: when it goes on, everything that the sources released is visible to all threads; when one
    /// of them has failed, all end.
    pub fn wait_together(&self, wait: &Wait<'k>) {
        let failed = self.wait(wait);
        self.k.exit_when(self.k.cta_any(failed));
    }

    /// What a flag is when every CTA of its sender has published `epoch` times.
    pub fn arrivals(&self, epoch: Value<'k, U64>) -> Value<'k, U64> {
        epoch * u64::from(self.exchange.ctas)
    }
}
