//! The compact form of a kernel: what the engine runs. Operands are byte offsets into a warp's register file; constants,
//! special registers and symbol addresses are rows of that file, filled when a warp starts.

use std::sync::Arc;

use crate::memory::order::{Order, Proxy, Scope};
use crate::memory::tensor::MapField;
use crate::ptx::ScalarType;
use crate::ptx::ast::{ClusterLimits, VariableSpace};
use crate::semantics::lanes::{AluFn, Args};
use crate::semantics::matrix::{Fragment, Product};
pub(crate) use crate::semantics::shuffle::{ShuffleMode, Sources};

pub(crate) const NO_GUARD: u32 = u32::MAX;
/// Flag of a negated guard.
pub(crate) const GUARD_NOT: u32 = 1 << 31;

/// A register: byte offset of its row and width of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reg {
    pub row: u32,
    pub bytes: u32,
}

pub(crate) struct Step {
    /// Predicate index, possibly with [`GUARD_NOT`], or [`NO_GUARD`].
    pub guard: u32,
    /// Among the splits of a warp, the one with the least runs first.
    pub order: u32,
    pub op: Op,
}

pub(crate) type ScalarFn = Box<dyn Fn(&[u64; 4]) -> u64 + Send + Sync>;

/// A rare register instruction: lane values as zero-extended integers.
pub(crate) struct ScalarOp {
    pub run: ScalarFn,
    pub sources: Vec<Reg>,
    pub target: Reg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    /// Of the thread's CTA.
    Shared,
    /// Of any CTA of its cluster.
    Cluster,
    Local,
    Param,
}

pub(crate) struct Place {
    pub space: Space,
    pub base: Option<Reg>,
    pub offset: i64,
}

/// The registers of a load or store, one per element; `None` is `_`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elements {
    registers: [Option<Reg>; 8],
    count: usize,
}

impl Elements {
    /// At most eight.
    pub fn new(list: &[Option<Reg>]) -> Elements {
        let count = list.len().min(8);
        let mut registers = [None; 8];
        registers[..count].copy_from_slice(&list[..count]);
        Elements { registers, count }
    }
}

impl std::ops::Deref for Elements {
    type Target = [Option<Reg>];

    fn deref(&self) -> &[Option<Reg>] {
        &self.registers[..self.count]
    }
}

impl std::ops::DerefMut for Elements {
    fn deref_mut(&mut self) -> &mut [Option<Reg>] {
        &mut self.registers[..self.count]
    }
}

pub(crate) struct MemoryOp {
    pub place: Place,
    /// Bytes of one element.
    pub bytes: u32,
    pub signed: bool,
    pub registers: Elements,
    /// All registers exist and are as wide as the elements.
    pub exact: bool,
    pub order: Order,
    pub scope: Scope,
    pub proxy: Proxy,
}

impl MemoryOp {
    /// Bytes of all elements: a power of two, at most 32.
    #[inline(always)]
    pub fn size(&self) -> u32 {
        self.bytes * self.registers.count as u32
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomicKind {
    Add,
    And,
    Or,
    Xor,
    Min,
    Max,
    Inc,
    Dec,
    Exchange,
    CompareSwap,
}

pub(crate) struct AtomicOp {
    pub place: Place,
    pub kind: AtomicKind,
    pub element: ScalarType,
    /// Where the old values go, one per element.
    pub targets: Elements,
    /// `b` of each element, or `b` and `c` of a compare-and-swap.
    pub sources: Vec<Reg>,
    pub order: Order,
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

/// A product of matrices, and the registers of its operands in each lane.
pub(crate) struct MatrixOp {
    pub product: Product,
    pub targets: Vec<Reg>,
    pub first: Vec<Reg>,
    pub second: Vec<Reg>,
    pub sum: Vec<Reg>,
}

/// An instruction with a member mask.
pub(crate) enum WarpOp {
    Barrier,
    Multiply(Box<MatrixOp>),
    Shuffle {
        mode: ShuffleMode,
        target: Option<Reg>,
        valid: Option<u32>,
        a: Reg,
        b: u32,
        c: u32,
        /// Where the lanes read from, if `b` and `c` are literals.
        sources: Option<Sources>,
    },
    Vote {
        mode: VoteMode,
        target: u32,
        source: u32,
        negated: bool,
    },
    Match {
        all: bool,
        target: u32,
        valid: Option<u32>,
        a: Reg,
    },
    Reduce {
        kind: AtomicKind,
        element: ScalarType,
        target: u32,
        a: u32,
    },
    Elect {
        target: Option<Reg>,
        elected: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierMode {
    Sync,
    Arrive,
    Popc(Reg),
    And(u32),
    Or(u32),
}

pub(crate) struct BarrierOp {
    pub mode: BarrierMode,
    /// All lanes of a warp have to execute the same one.
    pub aligned: bool,
    pub number: u32,
    pub count: Option<u32>,
    /// Source predicate of a reduction and whether it is negated.
    pub predicate: Option<(u32, bool)>,
}

/// `barrier.cluster`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterBarrierOp {
    /// It arrives, or else it waits.
    pub arrives: bool,
    /// An arrival that releases. What waits always acquires.
    pub releases: bool,
    /// All lanes of a warp have to execute the same one.
    pub aligned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockKind {
    Clock,
    ClockHigh,
    Clock64,
    Timer,
    TimerLow,
    TimerHigh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MbarrierKind {
    Init {
        count: u32,
    },
    Invalidate,
    /// Arrive by `count` (1 if absent), after adding `expect` to the transaction count.
    Arrive {
        count: Option<u32>,
        expect: Option<u32>,
        drop: bool,
        state: Option<Reg>,
        complete: bool,
    },
    ExpectTransactions {
        bytes: u32,
    },
    CompleteTransactions {
        bytes: u32,
    },
    /// Tests a state token or a parity into a predicate.
    Test {
        state: Option<Reg>,
        parity: Option<u32>,
        target: u32,
    },
}

pub(crate) struct MbarrierOp {
    pub place: Place,
    pub kind: MbarrierKind,
    pub order: Order,
    pub scope: Scope,
}

pub(crate) struct BulkOp {
    pub from: Space,
    pub to: Space,
    pub target: Reg,
    pub target_offset: i64,
    pub source: Reg,
    pub source_offset: i64,
    pub size: u32,
    /// Mbarrier address, or a bulk group.
    pub mbarrier: Option<(Reg, i64)>,
    /// CTAs of the cluster that get it, a bit for each.
    pub multicast: Option<Reg>,
    /// Bytes of each 16 that are copied, a bit for each.
    pub byte_mask: Option<Reg>,
    /// `cp.reduce.async.bulk`
    pub reduce: Option<(AtomicKind, ScalarType)>,
}

/// `cp.async.bulk.tensor` and `cp.reduce.async.bulk.tensor`
pub(crate) struct TensorOp {
    pub map: Reg,
    pub map_offset: i64,
    pub coordinates: Vec<Reg>,
    /// From global to shared memory.
    pub loads: bool,
    /// The space of the address in shared memory.
    pub space: Space,
    pub shared: Reg,
    pub shared_offset: i64,
    pub mbarrier: Option<(Reg, i64)>,
    pub multicast: Option<Reg>,
    pub reduce: Option<AtomicKind>,
}

/// What is done to a tensor map in memory.
pub(crate) enum MapOp {
    /// `tensormap.replace`
    Replace { place: Place, field: MapField, value: Reg },
    /// `fence.proxy.tensormap::generic.acquire`
    Acquire { place: Place, scope: Scope },
    /// `tensormap.cp_fenceproxy`, by whole warps.
    CopyAndRelease { target: Place, source: Place, scope: Scope, members: u32 },
}

/// `st.async` and `red.async`
pub(crate) struct AsyncStoreOp {
    pub place: Place,
    /// Bytes of one element.
    pub bytes: u32,
    pub registers: Elements,
    pub reduce: Option<(AtomicKind, ScalarType)>,
    /// Mbarrier that counts the bytes.
    pub mbarrier: Option<Reg>,
    pub mbarrier_offset: i64,
    pub order: Order,
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MultimemKind {
    /// Loads what all copies are combined to.
    LoadReduce(AtomicKind),
    Store,
    Reduce(AtomicKind),
}

/// `multimem.ld_reduce`, `multimem.st` and `multimem.red`
pub(crate) struct MultimemOp {
    pub place: Place,
    pub kind: MultimemKind,
    /// Of what is combined: one of two that are packed.
    pub unit: ScalarType,
    /// Bytes of one register.
    pub bytes: u32,
    pub registers: Elements,
    /// The floats of 8 bits that it has, if it does; a unit is one of them.
    pub small: Option<Fragment>,
    /// Sums of 16 and of 8 bits are rounded once.
    pub wide: bool,
    pub order: Order,
    pub scope: Scope,
}

/// `st.bulk`
pub(crate) struct FillOp {
    pub place: Place,
    pub size: Reg,
}

pub(crate) struct CopyOp {
    pub target: Reg,
    pub target_offset: i64,
    pub source: Reg,
    pub source_offset: i64,
    pub bytes: u32,
    /// Bytes really copied; the rest is zero.
    pub source_bytes: Option<u32>,
    /// Predicate that makes the copy write zeros.
    pub ignore: Option<u32>,
}

/// What a fence orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FenceKind {
    /// `fence.ORDER` and `membar`.
    Memory(Order),
    /// `fence.mbarrier_init.release.cluster`
    MbarrierInit,
    /// `fence.proxy.alias`
    ProxyAlias,
    /// `fence.proxy.tensormap::generic.release`
    TensorMap,
    /// `fence.proxy.async`, of all spaces or of one.
    ProxyAsync(Option<Space>),
}

/// A function that the CUDA driver provides to every module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SystemFunction {
    /// `vprintf(format, arguments) -> s32`
    Print,
    /// `__assertfail(message, file, line, function, character size)`
    AssertFail,
}

/// A call of a system function. Arguments and result are in local memory: offset and size.
pub(crate) struct SystemCall {
    pub function: SystemFunction,
    pub arguments: Vec<(u32, u32)>,
    pub result: Option<(u32, u32)>,
}

/// What a function has while it runs, which a call that may come back to it would change.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub function: String,
    pub registers: Vec<Reg>,
    pub predicates: Vec<u32>,
    /// Local memory: offset and size.
    pub local: Vec<(u32, u32)>,
}

/// A call of a function that is not there.
pub(crate) struct NoFunction {
    /// The address, if the call is one through a register.
    pub pointer: Option<Reg>,
    pub text: String,
}

/// One decoded operation.
pub(crate) enum Op {
    Alu {
        run: AluFn,
        args: Args,
    },
    Scalar(Box<ScalarOp>),
    Load(Box<MemoryOp>),
    Store(Box<MemoryOp>),
    Atomic(Box<AtomicOp>),
    Branch {
        target: u32,
    },
    BranchIndexed {
        index: u32,
        targets: Box<[u32]>,
    },
    /// Writes the number of the next step into `return_row` of the active lanes, then goes to `target`.
    Call {
        target: u32,
        return_row: u32,
    },
    System(Box<SystemCall>),
    /// Ends the run.
    NoFunction(Box<NoFunction>),
    /// Puts a frame of [`KernelCode::frames`] on the stack of the thread.
    Save {
        frame: u32,
    },
    /// Takes it back.
    Restore {
        frame: u32,
    },
    Return {
        return_row: u32,
    },
    /// Copies bytes inside the thread's local memory: arguments and results of calls.
    CopyLocal {
        from: u32,
        to: u32,
        bytes: u32,
    },
    Exit,
    Trap,
    Warp {
        members: u32,
        /// The members are all lanes, by a literal.
        all: bool,
        op: Box<WarpOp>,
    },
    ActiveMask {
        target: u32,
    },
    Barrier(Box<BarrierOp>),
    ClusterBarrier(ClusterBarrierOp),
    Clock {
        target: Reg,
        kind: ClockKind,
    },
    Sleep {
        nanoseconds: u32,
    },
    Fence {
        kind: FenceKind,
        scope: Scope,
    },
    Mbarrier(Box<MbarrierOp>),
    Bulk(Box<BulkOp>),
    AsyncStore(Box<AsyncStoreOp>),
    Tensor(Box<TensorOp>),
    Map(Box<MapOp>),
    Multimem(Box<MultimemOp>),
    Fill(Box<FillOp>),
    CommitBulk,
    WaitBulk {
        groups: u32,
        read: bool,
    },
    Copy(Box<CopyOp>),
    CommitCopies,
    WaitCopies {
        groups: u32,
    },
    CopyArrive {
        place: Box<Place>,
        no_increment: bool,
    },
    /// Lets the launch behind this one begin.
    LaunchDependents,
    /// Waits for the launch before this one in its stream.
    GridWait,
    /// No effect on memory or registers: prefetches, cache policies, register hints.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    WarpCount,
    SmId,
    SmCount,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicShared,
    TotalShared,
    /// Of the cluster in the grid of clusters, by axis, and the extents of that.
    ClusterId(u8),
    ClusterCount(u8),
    /// Of the CTA in its cluster, by axis, and the extents of that.
    CtaInCluster(u8),
    ClusterExtent(u8),
    /// Number of the CTA in its cluster, and how many there are.
    CtaRank,
    ClusterSize,
    /// Whether the launch or the kernel says how large clusters are.
    ExplicitCluster,
    /// `%envreg1` and `%envreg2`: the high and the low half of the address of a cooperative launch's workspace, else 0.
    WorkspaceHigh,
    WorkspaceLow,
}

/// Value of a constant row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u128),
    Special(Special),
    /// Address of a module variable plus an offset.
    Global(u32, i64),
    /// Offset of the dynamic shared memory plus an offset.
    DynamicShared(i64),
    /// Base of the generic window of this CTA's shared memory.
    SharedWindow,
    /// Base of the generic window of this thread's local memory.
    LocalWindow,
}

/// A decoded module.
pub(crate) struct Program {
    /// Module variables; [`Constant::Global`] is an index here.
    pub variables: Vec<GlobalVariable>,
    /// Kernels, in the order of the text.
    pub kernels: Vec<KernelCode>,
}

/// A module variable. Those in shared memory are here only to keep the numbering.
pub(crate) struct GlobalVariable {
    pub name: String,
    pub space: VariableSpace,
    pub bytes: u64,
    /// The first bytes; the rest of an initialised or plain variable is zero.
    pub initial: Vec<u8>,
    /// Addresses to store, 8 bytes each, once the variables have them.
    pub relocations: Vec<Relocation>,
}

/// `*(u64 *)(variable + at) = address of target + offset`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relocation {
    pub at: u64,
    pub target: u32,
    pub offset: i64,
}

/// A kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name in the PTX.
    pub name: String,
    /// Offset in the parameter block.
    pub offset: u32,
    /// Size in bytes.
    pub bytes: u32,
}

/// A comparison of what a step loads.
pub(crate) struct Comparison {
    pub load: u32,
    /// The step that compares.
    pub step: u32,
    /// What the value is compared with.
    pub other: Reg,
}

/// What a step reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Register(Reg),
    Predicate(u32),
}

/// Everything that a step reads and writes, its guard included.
#[derive(Debug, Default)]
pub(crate) struct StepOperands {
    pub uses: Box<[Slot]>,
    pub defines: Box<[Slot]>,
}

/// A decoded kernel.
pub(crate) struct KernelCode {
    pub name: String,
    pub steps: Vec<Step>,
    pub operands: Vec<StepOperands>,
    /// What a thread may read before it has written it, with its name.
    pub unwritten: Vec<(Slot, String)>,
    /// Line in the PTX per step.
    pub lines: Vec<u32>,
    /// Source file and line per step; line 0 where it is not known.
    pub sources: Vec<(u32, u32)>,
    /// Names of source files, by number.
    pub files: Arc<[(u32, String)]>,
    /// Index into `forms` per step.
    pub form_of: Vec<u32>,
    pub forms: Vec<String>,
    /// What loaded values are compared with, by load.
    pub comparisons: Vec<Comparison>,
    pub file_bytes: u32,
    /// The part of a file that a warp needs as it starts: constants, and from `zeroed_from` registers that are zero.
    pub initial_bytes: u32,
    pub zeroed_from: u32,
    pub predicates: u32,
    pub constants: Vec<(Reg, Constant)>,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: u32,
    pub shared_symbols: Vec<(String, u32, u32)>,
    pub shared_static: u32,
    pub dynamic_align: u32,
    pub local_bytes: u32,
    pub max_threads: Option<u32>,
    pub required_threads: Option<[u32; 3]>,
    pub clusters: ClusterLimits,
    /// Steps after a call, for the flow graph.
    pub return_sites: Vec<u32>,
    /// Of the functions that may come back to themselves.
    pub frames: Vec<Frame>,
    /// Functions that are called and not defined, with the lines of the calls.
    pub missing: Vec<(u32, String)>,
}

pub(crate) const PREDICATE_FLAG: u32 = 1 << 31;
/// Predicate that is always false.
pub(crate) const FALSE: u32 = 0;
/// Predicate that is always true.
pub(crate) const TRUE: u32 = 1;
/// Shared memory starts here, so that a null pointer is not a valid address.
pub(crate) const SHARED_BASE: u32 = 1024;

/// An address in shared memory says which variable it belongs to: its offset is below, and above the number of the variable, counted from
/// 1; the dynamic shared memory has the number behind the last variable. Number 0 is no variable's.
pub(crate) const VARIABLE_SHIFT: u32 = 20;
pub(crate) const OFFSET_MASK: u32 = (1 << VARIABLE_SHIFT) - 1;
/// Further variables have no numbers.
pub(crate) const MOST_NUMBERED: usize = 1022;

/// An address that `mapa` made, of a CTA of the cluster: `1 (2 bits) | rank of the CTA (4) | variable (6) | offset (20)`. It is positive
/// as a signed one, as that of a variable is.
const MAPPED: u32 = 1 << 30;
const RANK_SHIFT: u32 = 26;
const RANK_MASK: u32 = 15;
const MAPPED_NUMBERS: u32 = 63;
/// The most CTAs of a cluster.
pub(crate) const MOST_IN_CLUSTER: u32 = RANK_MASK + 1;
/// What `mapa` makes for a rank that no cluster has.
pub(crate) const NO_RANK: u32 = 1 << 31;

/// The address in the CTA with a rank that corresponds to one in shared memory.
pub(crate) fn mapped(address: u32, rank: u32) -> u32 {
    if rank > RANK_MASK {
        return NO_RANK;
    }
    let number = match unmapped(address) {
        Some((_, address)) => address >> VARIABLE_SHIFT,
        None => address >> VARIABLE_SHIFT,
    };
    // Of later variables nothing is known but that they are in shared memory.
    let number = if number > MAPPED_NUMBERS { 0 } else { number };
    MAPPED | rank << RANK_SHIFT | number << VARIABLE_SHIFT | address & OFFSET_MASK
}

/// Rank of the CTA, and the address there, of what `mapa` made.
#[inline]
pub(crate) fn unmapped(address: u32) -> Option<(u32, u32)> {
    let low = VARIABLE_SHIFT + MAPPED_NUMBERS.count_ones();
    (address >> 30 == 1).then_some((address >> RANK_SHIFT & RANK_MASK, address & ((1 << low) - 1)))
}

impl KernelCode {
    /// The number of the dynamic shared memory in addresses.
    pub fn dynamic_number(&self) -> u32 {
        match self.shared_symbols.len() {
            count if count > MOST_NUMBERED => 0,
            count => count as u32 + 1,
        }
    }

    /// Where a step comes from in the source, as `file:line`.
    pub fn source(&self, pc: u32) -> Option<String> {
        let (file, line) = *self.sources.get(pc as usize)?;
        let (_, path) = self.files.iter().find(|(number, _)| *number == file)?;
        let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
        (line != 0).then(|| format!("{name}:{line}"))
    }

    /// The source of every line of the text that has one, in their order.
    pub fn source_of_lines(&self) -> Vec<(u32, String)> {
        let steps = (0u32..).zip(&self.lines);
        let mut found: Vec<(u32, String)> = steps.filter_map(|(pc, line)| Some((*line, self.source(pc)?))).collect();
        found.sort();
        found.dedup_by_key(|(line, _)| *line);
        found
    }

    pub fn form(&self, pc: u32) -> &str {
        &self.forms[self.form_of[pc as usize] as usize]
    }
}
