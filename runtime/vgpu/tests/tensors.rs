//! Copies of tensors: every tile against elements that are counted out one by one, with the swizzle as tables; and what is said of maps
//! and copies that are wrong.

mod support;

use insta::assert_snapshot;
use moe_vgpu::{
    Address, Argument, Cluster, Config, Judge, Launch, Missing, Module, OutOfBounds, Policy, RankId, Swizzle,
    TensorElement, TensorMap,
};
use support::{POLICIES, stream, zeroed};

/// A kernel of one CTA of 32 threads with a map as a parameter, `%map` its address; `out` is in `%out`, `other` in `%other`. The tile is
/// in `tile`, of 16 KiB, `%tile` its address; `gate` is an mbarrier, of which thread 0 has made one arrival with `%bytes` expected.
fn text(bytes: u64, body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\
         .visible .entry k(.param .align 64 .b8 map[128], .param .u64 out, .param .u64 other)\n{{\n\
         .reg .pred %p<10>;\n.reg .b16 %h<4>;\n.reg .b32 %r<40>, %t, %tile, %gate, %bytes;\n.reg .b64 %d<20>, %out, %other, %map;\n\
         .shared .align 1024 .b8 tile[16384];\n.shared .align 128 .b8 copy[128];\n.shared .align 8 .b64 gate;\n\
         ld.param.u64 %out, [out];\nld.param.u64 %other, [other];\nmov.b64 %map, map;\ncvta.param.u64 %map, %map;\n\
         mov.u32 %t, %tid.x;\nmov.u32 %tile, tile;\nmov.u32 %gate, gate;\nmov.u32 %bytes, {bytes};\n\
         setp.eq.u32 %p1, %t, 0;\n@%p1 mbarrier.init.shared::cta.b64 [%gate], 1;\n@%p1 fence.mbarrier_init.release.cluster;\n\
         bar.sync 0;\n{body}\nret;\n}}\n"
    )
}

const WAIT: &str = "\
wait:
mbarrier.try_wait.parity.shared::cta.b64 %p4, [%gate], 0;
@!%p4 bra wait;
";

/// Thread 0 loads the tile, all wait, and `count` bytes of it go to `out` as they are.
fn loads(dimensions: usize, coordinates: &[i32], count: u64, map: &str) -> String {
    let coordinates: Vec<String> = coordinates.iter().map(i32::to_string).collect();
    format!(
        "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%gate], %bytes;\n\
         @%p1 cp.async.bulk.tensor.{dimensions}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%tile], [{map}, {{{}}}], [%gate];\n\
         {WAIT}mov.u32 %r1, %t;\n\
         more:\nsetp.ge.u32 %p5, %r1, {count};\n@%p5 bra done;\nadd.u32 %r2, %tile, %r1;\nld.shared.u8 %r3, [%r2];\n\
         cvt.u64.u32 %d1, %r1;\nadd.u64 %d1, %out, %d1;\nst.global.u8 [%d1], %r3;\nadd.u32 %r1, %r1, 32;\nbra more;\ndone:",
        coordinates.join(", ")
    )
}

struct Run {
    cluster: Cluster,
    data: Address,
    out: Address,
    judge: Judge,
}

const BYTES: usize = 1 << 15;

/// Memory of a tensor: byte `at` is `at * 7 + at / 256`, cut.
fn content() -> Vec<u8> {
    (0..BYTES).map(|at| (at * 7 + at / 256) as u8).collect()
}

fn prepared(text: &str, map: impl Fn(Address) -> TensorMap, policy: Policy, seed: u64) -> Run {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let mut cluster = Cluster::new(Config { policy, seed, instruction_limit: 5_000_000, ..Config::default() }).unwrap();
    let judge = Judge::default();
    cluster.observe(Box::new(judge.clone()));
    let data = cluster.allocate(RankId(0), BYTES as u64, "data").unwrap();
    cluster.write(data, &content()).unwrap();
    let out = zeroed(&mut cluster, 0, BYTES, "out");
    let other = zeroed(&mut cluster, 0, BYTES, "other");
    let map = map(data).encode().unwrap();
    cluster.write(other, &map).unwrap();
    let stream = stream(&mut cluster, 0);
    let arguments = vec![Argument::Bytes(map.to_vec()), out.into(), other.into()];
    cluster.launch(stream, &module.kernel("k").unwrap(), Launch::linear(1, 32, arguments)).unwrap();
    Run { cluster, data, out, judge }
}

fn schedules() -> impl Iterator<Item = (Policy, u64)> {
    POLICIES
        .into_iter()
        .flat_map(|policy| (0..if policy == Policy::RoundRobin { 1 } else { 4 }).map(move |seed| (policy, seed)))
}

/// The bytes of `out` after a run, the same under every schedule, of which the judge says nothing.
fn right(text: &str, map: impl Fn(Address) -> TensorMap, count: usize) -> Vec<u8> {
    let mut all: Option<Vec<u8>> = None;
    for (policy, seed) in schedules() {
        let mut run = prepared(text, &map, policy, seed);
        run.cluster.run().unwrap_or_else(|error| panic!("{error}"));
        let found: Vec<String> = run.judge.found().iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{policy}, seed {seed}: {found:#?}");
        let mut bytes = vec![0; count];
        run.cluster.read(run.out, &mut bytes).unwrap();
        assert_eq!(all.get_or_insert(bytes.clone()), &bytes, "{policy}, seed {seed}");
    }
    all.unwrap_or_default()
}

fn judged(text: &str, map: impl Fn(Address) -> TensorMap) -> Vec<(Missing, String)> {
    let mut first = None;
    for (policy, seed) in schedules() {
        let mut run = prepared(text, &map, policy, seed);
        let ended = run.cluster.run();
        let found: Vec<_> = run.judge.found().into_iter().map(|one| (one.missing.clone(), one.to_string())).collect();
        assert!(ended.is_err() || !found.is_empty(), "{policy}, seed {seed}");
        if !found.is_empty() {
            first.get_or_insert(found);
        }
    }
    first.unwrap_or_default()
}

fn error(text: &str, map: impl Fn(Address) -> TensorMap) -> String {
    prepared(text, map, Policy::RoundRobin, 0).cluster.run().unwrap_err().to_string()
}

/// In which chunk of 16 bytes of a line of 128 each chunk is, by the number of the line.
const CHUNKS_128: [[usize; 8]; 8] = [
    [0, 1, 2, 3, 4, 5, 6, 7],
    [1, 0, 3, 2, 5, 4, 7, 6],
    [2, 3, 0, 1, 6, 7, 4, 5],
    [3, 2, 1, 0, 7, 6, 5, 4],
    [4, 5, 6, 7, 0, 1, 2, 3],
    [5, 4, 7, 6, 1, 0, 3, 2],
    [6, 7, 4, 5, 2, 3, 0, 1],
    [7, 6, 5, 4, 3, 2, 1, 0],
];
const CHUNKS_64: [[usize; 8]; 4] =
    [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6], [2, 3, 0, 1, 6, 7, 4, 5], [3, 2, 1, 0, 7, 6, 5, 4]];
const CHUNKS_32: [[usize; 8]; 2] = [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6]];

fn swizzled(swizzle: Swizzle, at: usize) -> usize {
    let (line, chunk, byte) = (at / 128, at % 128 / 16, at % 16);
    let chunk = match swizzle {
        Swizzle::None => chunk,
        Swizzle::Bytes32 => CHUNKS_32[line % 2][chunk],
        Swizzle::Bytes64 => CHUNKS_64[line % 4][chunk],
        Swizzle::Bytes128 => CHUNKS_128[line % 8][chunk],
    };
    line * 128 + chunk * 16 + byte
}

fn width(element: TensorElement) -> usize {
    match element {
        TensorElement::U8 => 1,
        TensorElement::U16 | TensorElement::F16 | TensorElement::Bf16 => 2,
        TensorElement::U32 | TensorElement::S32 | TensorElement::F32 => 4,
        TensorElement::U64 | TensorElement::S64 | TensorElement::F64 => 8,
    }
}

/// Where each element of a tile is: in the tensor, if it is in it, and in shared memory, counted from the start of both.
fn elements(map: &TensorMap, coordinates: &[i32]) -> Vec<(Option<usize>, usize)> {
    let width = width(map.element);
    let mut all: Vec<(Option<usize>, Vec<u32>)> = vec![(Some(0), vec![])];
    // The outermost dimension first, so that the innermost one changes fastest.
    for axis in (0..map.dims.len()).rev() {
        let step = if axis == 0 { 1 } else { map.element_strides[axis] };
        all = all
            .into_iter()
            .flat_map(|(at, path)| {
                (0..map.tile[axis]).step_by(step as usize).map(move |offset| {
                    let place = i64::from(coordinates[axis]) + i64::from(offset);
                    let bytes = if axis == 0 { width as i64 } else { map.strides[axis - 1] as i64 };
                    let inside = place >= 0 && place < map.dims[axis] as i64;
                    (
                        at.filter(|_| inside).map(|at| at + (place * bytes) as usize),
                        [path.clone(), vec![offset]].concat(),
                    )
                })
            })
            .collect();
    }
    all.into_iter().enumerate().map(|(index, (at, _))| (at, swizzled(map.swizzle, index * width))).collect()
}

fn expected(map: &TensorMap, coordinates: &[i32], data: &[u8]) -> Vec<u8> {
    let width = width(map.element);
    let places = elements(map, coordinates);
    let mut tile = vec![0; places.len() * width];
    for (from, to) in places {
        let target = &mut tile[to..to + width];
        match from {
            Some(from) => target.copy_from_slice(&data[from..from + width]),
            None if map.out_of_bounds == OutOfBounds::Nan => {
                let nan: &[u8] = if width == 2 { &[0xff, 0x7f] } else { &[0xff, 0xff, 0xff, 0x7f] };
                target.copy_from_slice(nan);
            }
            None => {}
        }
    }
    tile
}

fn plain(data: Address) -> TensorMap {
    TensorMap {
        element: TensorElement::F16,
        address: data,
        dims: vec![70, 40],
        strides: vec![160],
        tile: vec![64, 16],
        element_strides: vec![1, 1],
        swizzle: Swizzle::Bytes128,
        out_of_bounds: OutOfBounds::Zero,
    }
}

type MakeMap = Box<dyn Fn(Address) -> TensorMap>;

#[test]
fn tiles_are_loaded_as_counted_out() {
    use TensorElement::{Bf16, F32, F64, U8, U16, U32};
    let map = |element, dims: &[u64], strides: &[u64], tile: &[u32], steps: &[u32], swizzle, out_of_bounds| {
        let (dims, strides, tile, steps) = (dims.to_vec(), strides.to_vec(), tile.to_vec(), steps.to_vec());
        move |address| TensorMap {
            element,
            address,
            dims: dims.clone(),
            strides: strides.clone(),
            tile: tile.clone(),
            element_strides: steps.clone(),
            swizzle,
            out_of_bounds,
        }
    };
    let (zero, nan) = (OutOfBounds::Zero, OutOfBounds::Nan);
    let none = Swizzle::None;
    let cases: Vec<(MakeMap, Vec<i32>)> = vec![
        (Box::new(plain), vec![0, 0]),
        (Box::new(plain), vec![3, 5]),
        (Box::new(plain), vec![-7, 33]),
        (Box::new(map(U8, &[1000], &[], &[256], &[1], none, zero)), vec![900]),
        (Box::new(map(U8, &[1000], &[], &[256], &[1], none, zero)), vec![-1]),
        (Box::new(map(U32, &[20, 30], &[96], &[16, 9], &[1, 1], Swizzle::Bytes64, zero)), vec![4, -2]),
        (Box::new(map(F32, &[20, 30], &[96], &[8, 12], &[1, 1], Swizzle::Bytes32, nan)), vec![15, 25]),
        (Box::new(map(Bf16, &[16, 9, 11], &[32, 320], &[16, 4, 3], &[1, 1, 1], Swizzle::Bytes32, nan)), vec![-2, 7, 9]),
        (
            Box::new(map(F64, &[8, 5, 4, 3], &[64, 320, 1280], &[4, 3, 2, 2], &[1, 1, 1, 1], none, zero)),
            vec![6, 3, -1, 2],
        ),
        (
            Box::new(map(
                U16,
                &[16, 4, 4, 3, 5],
                &[32, 144, 576, 1728],
                &[8, 3, 2, 2, 2],
                &[1, 1, 1, 1, 1],
                none,
                zero,
            )),
            vec![9, 2, 3, 2, -1],
        ),
        // Every second row, and every third plane.
        (
            Box::new(map(U16, &[64, 16, 12], &[128, 2048], &[64, 7, 8], &[4, 2, 3], Swizzle::Bytes128, zero)),
            vec![0, 11, 2],
        ),
        // All outside.
        (Box::new(map(F32, &[20, 30], &[96], &[8, 4], &[1, 1], none, nan)), vec![0, 30]),
    ];
    for (map, coordinates) in cases {
        let described = map(Address(0x10_0000));
        let wanted = expected(&described, &coordinates, &content());
        let text = text(wanted.len() as u64, &loads(coordinates.len(), &coordinates, wanted.len() as u64, "%map"));
        assert_eq!(right(&text, map, wanted.len()), wanted, "{described:?} at {coordinates:?}");
        assert!(wanted.iter().any(|byte| *byte != 0), "something is seen: {described:?}");
    }
}

#[test]
fn a_map_in_memory_does_as_well_and_what_is_none_is_told() {
    let wanted = expected(&plain(Address(0)), &[3, 5], &content());
    let load = text(2048, &loads(2, &[3, 5], 2048, "%other"));
    assert_eq!(right(&load, plain, 2048), wanted);
    assert_snapshot!(error(&load.replace("[%other, {", "[%out, {"), plain), @r"
    this is no tensor map
      access: 128 bytes at 0x0010000500000000
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 26: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error(&load.replace("[%other, {", "[%other+64, {"), plain), @r"
    this is no tensor map
      access: 128 bytes at 0x0010000900000040
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 26: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error(&load.replace("[%other, {", "[%other+8, {"), plain), @r"
    misaligned: the address is not a multiple of 64
      access: 128 bytes at 0x0010000900000008
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 26: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error(&load.replace("2d", "3d").replace("{3, 5}", "{3, 5, 0}"), plain), @r"
    a tensor of 2 dimensions and 3 coordinates
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 26: cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error(&load.replace("[%tile], [%other", "[%tile+64], [%other"), plain), @r"
    misaligned: the address is not a multiple of 128
      access: 2048 bytes at 0x0000000000100440
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 26: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // A tensor that is larger than the memory that it is in.
    let large = |data| TensorMap { dims: vec![70, 400], ..plain(data) };
    assert_snapshot!(error(&load.replace("{3, 5}", "{3, 205}"), large), @r"
    out of bounds: byte 32806 of `data` of rank 0, which has 32768 bytes
      access: 16 bytes at 0x0010000100008026
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 26: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // Nobody waits, or for another number of bytes.
    assert_snapshot!(error(&load.replace("@!%p4 bra wait;", ""), plain), @r"
    `tile` is read while the copy issued in line 26 still writes it: wait for that copy first
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 35: ld.shared.u8
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    assert_snapshot!(error(&load.replace("mov.u32 %bytes, 2048", "mov.u32 %bytes, 2064"), plain), @r"
    deadlock: everything waits, and nothing is under way that could end it
      rank 0, kernel `k`, CTA 0, warp 0, lanes 0-31, line 28: mbarrier.try_wait.parity.shared::cta.b64
        polls the mbarrier `gate`: its phase of parity 0 is not complete, 0 of 1 arrivals are missing, and 16 bytes
      schedule: round-robin, seed 0
    ");
    // What stands beyond the edge counts among the bytes.
    let edge = text(2048, &loads(2, &[60, 39], 2048, "%map"));
    assert_eq!(right(&edge, plain, 2048), expected(&plain(Address(0)), &[60, 39], &content()));
}

/// All fill a tile with their numbers, and thread 0 stores or reduces it.
fn stores(operation: &str, coordinates: &str) -> String {
    format!(
        "mov.u32 %r1, %t;\nmore:\nshl.b32 %r2, %r1, 2;\nadd.u32 %r2, %r2, %tile;\nadd.u32 %r3, %r1, 1000;\nst.shared.u32 [%r2], %r3;\n\
         add.u32 %r1, %r1, 32;\nsetp.lt.u32 %p5, %r1, 128;\n@%p5 bra more;\nfence.proxy.async.shared::cta;\nbar.sync 0;\n\
         @%p1 {operation}.bulk_group [%map, {{{coordinates}}}], [%tile];\n@%p1 cp.async.bulk.commit_group;\n@%p1 cp.async.bulk.wait_group 0;"
    )
}

#[test]
fn tiles_are_stored_and_reduced_within_the_tensor() {
    let out_map = |element| {
        move |data: Address| TensorMap {
            element,
            address: data,
            dims: vec![20, 30],
            strides: vec![96],
            tile: vec![8, 16],
            element_strides: vec![1, 1],
            swizzle: Swizzle::Bytes32,
            out_of_bounds: OutOfBounds::Zero,
        }
    };
    let run = |text: &str, map: &dyn Fn(Address) -> TensorMap| {
        let mut run = prepared(text, map, Policy::Random, 3);
        run.cluster.run().unwrap_or_else(|error| panic!("{error}"));
        assert!(run.judge.found().is_empty(), "{:?}", run.judge.found());
        run
    };
    for (coordinates, text_of) in [([3, 5], "3, 5"), ([-3, 20], "-3, 20"), ([16, -9], "16, -9")] {
        for (operation, element, combine) in [
            ("cp.async.bulk.tensor.2d.global.shared::cta", TensorElement::U32, (|_, new| new) as fn(u32, u32) -> u32),
            ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile", TensorElement::U32, |old: u32, new| {
                old.wrapping_add(new)
            }),
            ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.max", TensorElement::S32, |old, new: u32| {
                old.cast_signed().max(new.cast_signed()).cast_unsigned()
            }),
            ("cp.reduce.async.bulk.tensor.2d.global.shared::cta.xor", TensorElement::U32, |old, new| old ^ new),
        ] {
            let map = out_map(element);
            let text = text(0, &stores(operation, text_of));
            let mut done = run(&text, &map);
            let mut wanted = content();
            for (to, from) in elements(&map(Address(0)), &coordinates) {
                let Some(to) = to else { continue };
                let old = u32::from_le_bytes(wanted[to..to + 4].try_into().unwrap());
                wanted[to..to + 4].copy_from_slice(&combine(old, 1000 + from as u32 / 4).to_le_bytes());
            }
            let mut found = vec![0; BYTES];
            done.cluster.read(done.data, &mut found).unwrap();
            assert_eq!(found, wanted, "{operation} at {coordinates:?}");
        }
    }
    let none = text(0, &stores("cp.reduce.async.bulk.tensor.2d.global.shared::cta.inc", "0, 0"));
    assert_snapshot!(error(&none, out_map(TensorElement::F32)), @r"
    there is no such reduction of elements of type F32
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 36: cp.reduce.async.bulk.tensor.2d.global.shared::cta.inc.bulk_group
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // The tile is filled again before it has been read.
    let early = text(0, &stores("cp.async.bulk.tensor.2d.global.shared::cta", "0, 0"))
        .replace("@%p1 cp.async.bulk.wait_group 0;", "st.shared.u32 [tile], 1;\n@%p1 cp.async.bulk.wait_group 0;");
    assert_snapshot!(error(&early, out_map(TensorElement::U32)), @r"
    `tile` is written while the copy issued in line 36 still reads it: wait for that copy first
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 38: st.shared.u32
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    let unfenced = text(0, &stores("cp.async.bulk.tensor.2d.global.shared::cta", "0, 0"))
        .replace("fence.proxy.async.shared::cta;\n", "");
    assert_eq!(judged(&unfenced, out_map(TensorElement::U32))[0].0, Missing::ProxyFence { shared: true });
}

/// A map is copied to shared memory, changed there, and published; then it is used.
const CHANGED: &str = "\
shl.b32 %r1, %t, 2;
cvt.u64.u32 %d1, %r1;
add.u64 %d1, %map, %d1;
ld.u32 %r2, [%d1];
mov.u32 %r3, copy;
add.u32 %r4, %r3, %r1;
st.shared.u32 [%r4], %r2;
bar.warp.sync -1;
@%p1 tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%r3], 1, 10;
@%p1 tensormap.replace.tile.swizzle_mode.shared::cta.b1024.b32 [%r3], 0;
bar.warp.sync -1;
tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%other], [%r3], 128;
fence.proxy.tensormap::generic.acquire.gpu [%other], 128;
";

#[test]
fn a_map_that_a_kernel_changes_needs_its_fences() {
    let load = text(2048, &format!("{CHANGED}{}", loads(2, &[3, 5], 2048, "%other")));
    let changed = TensorMap { dims: vec![70, 10], swizzle: Swizzle::None, ..plain(Address(0)) };
    assert_eq!(right(&load, plain, 2048), expected(&changed, &[3, 5], &content()));
    let unfenced = judged(&load.replace("fence.proxy.tensormap::generic.acquire.gpu [%other], 128;\n", ""), plain);
    assert_eq!(unfenced[0].0, Missing::TensorMapFence);
    assert_snapshot!(unfenced[0].1, @"`other` of rank 0: rank 0, `k` (launch 0), CTA 0, warp 0, lane 0 writes it in line 36; rank 0, `k` (launch 0), CTA 0, warp 0, lane 0 reads it in line 38 (as a tensor map); they are in order, but a fence.proxy.tensormap::generic.acquire has to stand before the copy, as it looks at its map through another proxy");
    // In place, by one thread.
    let in_place = text(
        2048,
        &format!(
            "@%p1 tensormap.replace.tile.global_dim.global.b1024.b32 [%other], 1, 10;\n@%p1 fence.proxy.tensormap::generic.release.cta;\n\
             @%p1 fence.proxy.tensormap::generic.acquire.cta [%other], 128;\n{}",
            loads(2, &[3, 5], 2048, "%other")
        ),
    );
    let changed = TensorMap { dims: vec![70, 10], ..plain(Address(0)) };
    assert_eq!(right(&in_place, plain, 2048), expected(&changed, &[3, 5], &content()));
    let unreleased = judged(&in_place.replace("@%p1 fence.proxy.tensormap::generic.release.cta;\n", ""), plain);
    assert_eq!(unreleased[0].0, Missing::TensorMapRelease);
    assert!(
        unreleased[0].1.contains("a fence.proxy.tensormap::generic.release has to stand behind the change"),
        "{}",
        unreleased[0].1
    );
    let unacquired =
        judged(&in_place.replace("@%p1 fence.proxy.tensormap::generic.acquire.cta [%other], 128;\n", ""), plain);
    assert_eq!(unacquired[0].0, Missing::TensorMapFence);
    // A release in front of the change is none of it.
    let too_early = in_place
        .replace("fence.proxy.tensormap::generic.release.cta", "bar.warp.sync 1")
        .replace("@%p1 tensormap.replace", "@%p1 fence.proxy.tensormap::generic.release.cta;\n@%p1 tensormap.replace");
    assert_eq!(judged(&too_early, plain)[0].0, Missing::TensorMapRelease);
    // A field that hardware would not take.
    assert_snapshot!(error(&load.replace("global_dim.shared::cta.b1024.b32 [%r3], 1, 10", "box_dim.shared::cta.b1024.b32 [%r3], 1, 300"), plain), @r"
    a dimension of a tile is from 1 to 256, not 300
      access: 128 bytes at 0x0010000900000000
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 39: cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
    // Not all lanes.
    assert_snapshot!(error(&load.replace("tensormap.cp_fenceproxy", "@%p1 tensormap.cp_fenceproxy"), plain), @r"
    all lanes of a warp have to execute this together, as it is .sync.aligned
      by: rank 0, kernel `k`, CTA 0, warp 0, lane 0, line 36: tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned
      thread: (0, 0, 0)
      schedule: round-robin, seed 0
    ");
}

#[test]
fn a_tile_is_loaded_into_every_cta_of_a_mask() {
    let body = "\
@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%gate], %bytes;
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
mov.u32 %r5, %cluster_ctarank;
setp.eq.and.u32 %p2, %r5, 1, %p1;
mov.u16 %h1, 5;
@%p2 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%tile], [%map, {3, 5}], [%gate], %h1;
setp.eq.u32 %p3, %r5, 1;
@%p3 bra done;
wait:
mbarrier.try_wait.parity.shared::cta.b64 %p4, [%gate], 0;
@!%p4 bra wait;
shl.b32 %r1, %t, 2;
add.u32 %r2, %tile, %r1;
ld.shared.u32 %r3, [%r2];
mad.lo.u32 %r4, %r5, 128, %r1;
cvt.u64.u32 %d1, %r4;
add.u64 %d1, %out, %d1;
st.global.u32 [%d1], %r3;
done:";
    let module = Module::parse(&text(2048, body)).unwrap();
    let mut cluster = support::cluster(1);
    let judge = Judge::default();
    cluster.observe(Box::new(judge.clone()));
    let data = cluster.allocate(RankId(0), BYTES as u64, "data").unwrap();
    cluster.write(data, &content()).unwrap();
    let out = zeroed(&mut cluster, 0, 512, "out");
    let stream = stream(&mut cluster, 0);
    let arguments = vec![Argument::Bytes(plain(data).encode().unwrap().to_vec()), out.into(), out.into()];
    let launch = Launch { cluster: Some([3, 1, 1]), ..Launch::linear(3, 32, arguments) };
    cluster.launch(stream, &module.kernel("k").unwrap(), launch).unwrap();
    cluster.run().unwrap();
    assert!(judge.found().is_empty(), "{:?}", judge.found());
    let mut found = vec![0; 384];
    cluster.read(out, &mut found).unwrap();
    let wanted = expected(&plain(Address(0)), &[3, 5], &content());
    assert_eq!(found, [&wanted[..128], &[0; 128], &wanted[..128]].concat());
    assert_eq!(cluster.traffic().read(RankId(0), RankId(0)), 2048, "memory is read once");
}
