//! The ring of buffers that a warp fills by bulk copies, in kernels of its own: the right bytes under every policy, nothing for the judge to
//! say, and every order that it keeps is needed.

#[path = "common/mutants.rs"]
mod mutants;

use moe_kernels::assemble::assemble;
use moe_kernels::audit::audit;
use moe_kernels::device::ring::{Extent, Ring, Shape, Source};
use moe_kernels::device::shared::MOST;
use moe_kernels::device::{Builder, DeviceCode, F32, Global, Parameters, Pointer, Pred, U8, U32, U64, Value, Variable};
use moe_kernels::ptx::{Chip, Target};
use moe_vgpu::{Address, Cluster, Config, Judge, Launch, Module, Policy, RankId, Rule, Rules, Severity};
use mutants::mutants;

const WARPS: u32 = 4;
const CTAS: u32 = 2;
const UNITS: u32 = 3;
/// Bytes of a unit: as many chunks as lanes.
const UNIT: u32 = 512;
/// The last unit of a row is not whole.
const ROW: u32 = 3 * UNIT - 32;
/// Not a multiple of the warps, and some have more units than their ring and some have none.
const ROWS: u32 = 13;

/// The units of every row of a warp, one row after the other.
struct Rows<'k> {
    k: &'k Builder,
    from: Pointer<'k, Global, U8>,
    rows: Value<'k, U32>,
    row: Variable<'k, U32>,
    start: Variable<'k, U32>,
}

fn bytes_at<'k>(k: &'k Builder, start: Value<'k, U32>) -> Value<'k, U32> {
    (k.u32(ROW) - start).min(k.u32(UNIT))
}

impl<'k> Source<'k> for Rows<'k> {
    fn more(&self) -> Value<'k, Pred> {
        self.row.get().less(self.rows)
    }

    fn next(&self) -> Extent<'k> {
        // Lanes that meet here, as in sources that exchange registers, know no more of each other's accesses for that.
        let (k, row, start) = (self.k, self.row.get().of_lane(self.k.u32(0)), self.start.get());
        let after = start + UNIT;
        let over = after.at_least(k.u32(ROW));
        self.start.set(k.u32(0).when(over, after));
        self.row.set((row + CTAS * WARPS).when(over, row));
        Extent { start: self.from.bytes((row * ROW + start).wide()), bytes: bytes_at(k, start) }
    }
}

/// Runs `body` with a ring over all rows, then for each row of the warp and each unit of it.
fn over_rows<'k>(
    k: &'k Builder,
    from: Pointer<'k, Global, U8>,
    rows: Value<'k, U32>,
    body: impl FnOnce(&Ring<'k, Rows<'k>>, Value<'k, U32>, Value<'k, U32>),
) {
    let first = k.warp() * CTAS + k.cta();
    let source = Rows { k, from, rows, row: k.variable(first), start: k.variable(k.u32(0)) };
    let shape = Shape { warps: WARPS, units: UNITS, bytes: UNIT };
    Ring::run(k, shape, source, |ring| {
        k.for_each(first, rows, k.u32(CTAS * WARPS), |row| {
            k.for_each(k.u32(0), k.u32(ROW), k.u32(UNIT), |start| body(ring, row, start));
        });
    });
}

/// Every number of every row, twice.
fn doubling() -> DeviceCode {
    Builder::kernel("doubling", 32 * WARPS, |k: &Builder, parameters: &mut Parameters| {
        let from: Pointer<Global, U8> = parameters.pointer();
        let to: Pointer<Global, U8> = parameters.pointer();
        let flag: Pointer<Global, U64> = parameters.pointer();
        let rows = parameters.value::<U32>();
        k.grid_wait();
        over_rows(k, from, rows, |ring, row, start| {
            let chunks = bytes_at(k, start) >> 4;
            let chunk = ring.next(|unit| unit.chunk(k.lane().min(chunks - 1)));
            let doubled = chunk.words().map(|word| {
                let number: Value<F32> = word.bits_to_f32();
                (number + number).bits()
            });
            k.when(k.lane().less(chunks), || {
                to.bytes((row * ROW + start + k.lane() * 16).wide()).cast().store(k.chunk(doubled));
            });
        });
        k.cta_barrier();
        k.when(k.thread().equals(k.u32(0)), || flag.red_release_sys_add(k.u64(1)));
    })
}

/// The chunks of every unit in the other order, by copies.
fn turning() -> DeviceCode {
    Builder::kernel("turning", 32 * WARPS, |k: &Builder, parameters: &mut Parameters| {
        let from: Pointer<Global, U8> = parameters.pointer();
        let to: Pointer<Global, U8> = parameters.pointer();
        let flag: Pointer<Global, U64> = parameters.pointer();
        let rows = parameters.value::<U32>();
        k.launch_dependents();
        k.grid_wait();
        over_rows(k, from, rows, |ring, row, start| {
            let bytes = bytes_at(k, start);
            let chunks = bytes >> 4;
            let there = k.lane().less(chunks);
            let place = k.lane().min(chunks - 1);
            let turned = |draft: &moe_kernels::device::ring::Draft<'_>| {
                let chunk = draft.chunk(chunks - 1 - place);
                k.warp_barrier();
                k.when(there, || draft.set_chunk(place, chunk));
            };
            ring.next_sent(turned, Extent { start: to.bytes((row * ROW + start).wide()), bytes });
        });
        k.cta_barrier();
        k.when(k.thread().equals(k.u32(0)), || flag.red_release_sys_add(k.u64(1)));
    })
}

/// The reader on the other rank.
const TAKE: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry fill(.param .u64 to, .param .u32 words) {
    .reg .b64 %a, %b; .reg .b32 %i, %n; .reg .f32 %v; .reg .pred %p;
    ld.param.u64 %a, [to]; ld.param.u32 %n, [words];
    griddepcontrol.launch_dependents;
    mov.u32 %i, %tid.x;
again:
    mul.wide.u32 %b, %i, 4; add.u64 %b, %b, %a;
    cvt.rn.f32.u32 %v, %i; st.global.f32 [%b], %v;
    add.u32 %i, %i, 32; setp.lt.u32 %p, %i, %n; @%p bra again;
    ret;
}
.visible .entry take(.param .u64 from, .param .u64 to, .param .u64 flag, .param .u32 words) {
    .reg .b64 %a, %b, %c, %f, %w; .reg .b32 %i, %n, %v; .reg .pred %p;
    ld.param.u64 %a, [from]; ld.param.u64 %b, [to]; ld.param.u64 %f, [flag]; ld.param.u32 %n, [words];
wait:
    ld.acquire.sys.global.u64 %w, [%f]; setp.lt.u64 %p, %w, 2; @%p bra wait;
    mov.u32 %i, %tid.x;
again:
    mul.wide.u32 %c, %i, 4; add.u64 %w, %c, %a; ld.global.u32 %v, [%w];
    add.u64 %w, %c, %b; st.global.u32 [%w], %v;
    add.u32 %i, %i, 32; setp.lt.u32 %p, %i, %n; @%p bra again;
    ret;
}";

fn ptx(code: &DeviceCode, chip: Chip) -> String {
    code.ptx(Target::of(chip)).unwrap_or_else(|error| panic!("{error}"))
}

fn zeroed(cluster: &mut Cluster, rank: u32, bytes: u32, name: &str) -> Address {
    let address = cluster.allocate(RankId(rank), bytes.into(), name).expect("memory");
    cluster.write(address, &vec![0; bytes as usize]).expect("it was just allocated");
    address
}

/// What rank 1 takes of what the kernel made of its rows there. They are filled by the launch before, beside which the kernel begins.
fn run(code: &DeviceCode, text: &str, (policy, seed): (Policy, u64), judge: &Judge) -> Result<Vec<f32>, String> {
    let module = Module::parse(text).map_err(|error| error.to_string())?;
    let (others, words) = (Module::parse(TAKE).expect("the text above"), ROWS * ROW / 4);
    let silent = Rules::default().with(Rule::CopyInFlight, Severity::Error);
    let config = Config { ranks: 2, policy, seed, rules: silent, instruction_limit: 5_000_000, ..Config::default() };
    let mut cluster = Cluster::new(config).expect("a small cluster");
    let from = zeroed(&mut cluster, 0, ROWS * ROW, "from");
    let [to, out] = ["to", "out"].map(|name| zeroed(&mut cluster, 1, ROWS * ROW, name));
    let flag = zeroed(&mut cluster, 1, 8, "flag");
    cluster.observe(Box::new(judge.clone()));
    let (sender, receiver) = (cluster.stream(RankId(0)).expect("a rank"), cluster.stream(RankId(1)).expect("a rank"));
    let kernel = |module: &Module, name: &str| module.kernel(name).expect("it is there");
    let take = Launch::linear(1, 32, vec![to.into(), out.into(), flag.into(), words.into()]);
    cluster.launch(receiver, &kernel(&others, "take"), take).expect("a launch");
    cluster
        .launch(sender, &kernel(&others, "fill"), Launch::linear(1, 32, vec![from.into(), words.into()]))
        .expect("a launch");
    let arguments = vec![from.into(), to.into(), flag.into(), ROWS.into()];
    let launch = Launch { shared: code.dynamic_shared(), ..Launch::linear(CTAS, 32 * WARPS, arguments) };
    assert!(code.waits_for_grid());
    cluster.launch_dependent(sender, &kernel(&module, code.name()), launch).expect("a launch");
    cluster.run().map_err(|error| error.to_string())?;
    let mut bytes = vec![0; (ROWS * ROW) as usize];
    cluster.read(out, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes.chunks(4).map(|word| f32::from_le_bytes(word.try_into().expect("four bytes"))).collect())
}

fn doubled() -> Vec<f32> {
    (0..ROWS * ROW / 4).map(|index| 2.0 * index as f32).collect()
}

/// The chunks of four words of each unit, from its end to its beginning.
fn turned() -> Vec<f32> {
    let words: Vec<f32> = (0..ROWS * ROW / 4).map(|index| index as f32).collect();
    let units = words.chunks(ROW as usize / 4).flat_map(|row| row.chunks(UNIT as usize / 4));
    units.flat_map(|unit| unit.chunks(4).rev().flatten().copied().collect::<Vec<f32>>()).collect()
}

fn schedules() -> impl Iterator<Item = (Policy, u64)> {
    Policy::ALL
        .into_iter()
        .flat_map(|policy| (0..if policy == Policy::RoundRobin { 1 } else { 6 }).map(move |seed| (policy, seed)))
}

fn is_right(code: &DeviceCode, expected: &[f32]) {
    for chip in Chip::ALL {
        let text = ptx(code, chip);
        assert_eq!(audit(&text), []);
        let usage = assemble(&text, chip).unwrap_or_else(|error| panic!("{error}")).usage;
        assert!(usage.stays_in_registers(), "{usage:?}");
    }
    let text = ptx(code, Chip::Sm90a);
    for schedule in schedules() {
        let judge = Judge::default();
        let made = run(code, &text, schedule, &judge).unwrap_or_else(|error| panic!("{schedule:?}: {error}"));
        assert!(made == expected, "{schedule:?}: other numbers");
        let found: Vec<String> = judge.found().iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{schedule:?}: {found:?}");
    }
    // Each order is needed: without it somebody says so.
    for mutant in mutants(&text).unwrap_or_else(|unknown| panic!("{unknown}")) {
        let noticed = schedules().any(|schedule| {
            let judge = Judge::default();
            run(code, &mutant.text, schedule, &judge).is_ok_and(|made| made != expected)
                || run(code, &mutant.text, schedule, &judge).is_err()
                || !judge.found().is_empty()
        });
        assert!(noticed, "{}, line {}: {}: nobody notices\n{text}", mutant.kind.name(), mutant.line, mutant.what);
    }
}

#[test]
fn what_is_loaded_is_read() {
    is_right(&doubling(), &doubled());
}

#[test]
fn what_is_changed_in_place_is_sent() {
    is_right(&turning(), &turned());
}

#[test]
fn the_mutants_have_every_order_of_a_ring() {
    let kinds = |code: &DeviceCode| {
        let mut kinds: Vec<&str> =
            mutants(&ptx(code, Chip::Sm90a)).expect("all is known").iter().map(|mutant| mutant.kind.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.join(", ")
    };
    let reading =
        "barrier, early flag, expect, flag, grid wait, order, proxy fence, scope, strength, wait, warp barrier";
    assert_eq!(kinds(&doubling()), reading);
    let sending = "barrier, copy wait, early flag, expect, flag, grid wait, order, proxy fence, read wait, scope, strength, wait, warp barrier";
    assert_eq!(kinds(&turning()), sending);
}

#[test]
fn parts_of_shared_memory_lie_one_behind_the_other() {
    let code = doubling();
    let parts: Vec<(&str, u32, u32)> =
        code.shared_parts().iter().map(|part| (part.name, part.start, part.bytes)).collect();
    assert_eq!(parts, [("units of the ring", 0, 6144), ("mbarriers of the ring", 6144, 96)]);
    assert_eq!(code.dynamic_shared(), 6240);
    let of = |bytes: u32| {
        let build = move || {
            Builder::kernel("much", 32, move |k: &Builder, _: &mut Parameters| {
                k.shared::<U8>(40);
                k.shared_part::<U8>("all", bytes);
            })
        };
        std::panic::catch_unwind(build).map(|code| code.dynamic_shared())
    };
    // 40 bytes take a line.
    assert_eq!(of(MOST - 128).ok(), Some(MOST - 128));
    let refused = of(MOST - 127).expect_err("too much");
    let said = refused.downcast_ref::<String>().expect("a text");
    assert!(said.starts_with("much has 232449 bytes of shared memory, a CTA at most 232448"), "{said}");
}
