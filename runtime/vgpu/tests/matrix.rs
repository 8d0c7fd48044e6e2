//! Matrix instructions against plain products of matrices. Where elements lie in registers is stated here once more, shape by shape, as the
//! PTX ISA draws it; `ldmatrix` and `mma` have to agree about it too.

use moe_random::Random;
use moe_vgpu::{Cluster, Config, Launch, Module, RankId};

const HEADER: &str = ".version 8.7\n.target sm_90a\n.address_size 64\n";

/// Runs `k(in, out)` with so many threads.
fn run(text: &str, threads: u32, input: &[u8], output: usize) -> Result<Vec<u8>, String> {
    let module = Module::parse(text).map_err(|error| error.to_string())?;
    let kernel = module.kernel("k").expect("the kernel");
    let mut cluster = Cluster::new(Config { ranks: 1, ..Config::default() }).expect("a cluster of one");
    let from = cluster.allocate(RankId(0), input.len() as u64, "in").expect("memory");
    let to = cluster.allocate(RankId(0), output as u64, "out").expect("memory");
    cluster.write(from, input).expect("memory");
    cluster.write(to, &vec![0; output]).expect("memory");
    let stream = cluster.stream(RankId(0)).expect("a stream");
    cluster.launch(stream, &kernel, Launch::linear(1, threads, vec![from.into(), to.into()])).expect("a launch");
    cluster.run().map_err(|error| error.to_string())?;
    let mut bytes = vec![0; output];
    cluster.read(to, &mut bytes).expect("results");
    Ok(bytes)
}

/// Lane, and byte in its registers.
type Place = fn(usize, usize) -> (usize, usize);

/// What a product needs, and where its elements lie.
struct Shape {
    name: &'static str,
    rows: usize,
    depth: usize,
    /// Bits of an element of the factors. Those of 4 bits count half bytes.
    bits: usize,
    /// Bytes of the registers of each operand, by lane: a, b, c.
    bytes: [usize; 3],
    a: Place,
    b: Place,
    c: Place,
}

/// 16 × 8 sums of 32 bits: c0 and c1 are columns 2t and 2t + 1 of row g, c2 and c3 those of row g + 8.
fn words16(row: usize, column: usize) -> (usize, usize) {
    let number = if row < 8 { column % 2 } else { 2 + column % 2 };
    ((row % 8) * 4 + column / 2, number * 4)
}

/// 8 × 8 sums of 32 bits.
fn words8(row: usize, column: usize) -> (usize, usize) {
    (row * 4 + column / 2, column % 2 * 4)
}

/// Element of a factor of 16 rows with `each` elements side by side in a register: a register for row g, one for row g + 8, and again for
/// the second half of the depth.
fn beside(row: usize, inner: usize, each: usize) -> (usize, usize) {
    let lane = (row % 8) * 4 + inner / each % 4;
    let register = match (row < 8, inner < 4 * each) {
        (true, true) => 0,
        (false, true) => 1,
        (true, false) => 2,
        (false, false) => 3,
    };
    (lane, register * each + inner % each)
}

const F16_16: Shape = Shape {
    name: "m16n8k16",
    rows: 16,
    depth: 16,
    bits: 16,
    bytes: [16, 8, 16],
    // a0 a1: row g, columns 2t, 2t+1; a2 a3: row g+8; a4 a5: row g, columns 2t+8, 2t+9; a6 a7: row g+8.
    a: |row, k| {
        let (lane, number) = beside(row, k, 2);
        (lane, number * 2)
    },
    // b0 b1: rows 2t, 2t+1 of column g; b2 b3: rows 2t+8, 2t+9.
    b: |column, k| (column * 4 + k % 8 / 2, (k / 8 * 2 + k % 2) * 2),
    c: words16,
};
const F16_8: Shape = Shape { name: "m16n8k8", depth: 8, bytes: [8, 4, 16], ..F16_16 };
const S8_32: Shape = Shape {
    name: "m16n8k32",
    rows: 16,
    depth: 32,
    bits: 8,
    bytes: [16, 8, 16],
    a: |row, k| beside(row, k, 4),
    b: |column, k| (column * 4 + k % 16 / 4, k / 16 * 4 + k % 4),
    c: words16,
};
const S8_16: Shape = Shape { name: "m16n8k16", depth: 16, bytes: [8, 4, 16], ..S8_32 };
const S8_8_16: Shape = Shape {
    name: "m8n8k16",
    rows: 8,
    depth: 16,
    bytes: [4, 4, 8],
    a: |row, k| (row * 4 + k / 4, k % 4),
    c: words8,
    ..S8_32
};
const S4_64: Shape = Shape {
    name: "m16n8k64",
    depth: 64,
    bits: 4,
    a: |row, k| beside(row, k, 8),
    b: |column, k| (column * 4 + k % 32 / 8, k / 32 * 8 + k % 8),
    ..S8_32
};
const TF32_8: Shape = Shape {
    name: "m16n8k8",
    rows: 16,
    depth: 8,
    bits: 32,
    bytes: [16, 8, 16],
    // a0: (g, t), a1: (g+8, t), a2: (g, t+4), a3: (g+8, t+4).
    a: |row, k| ((row % 8) * 4 + k % 4, (row / 8 + k / 4 * 2) * 4),
    b: |column, k| (column * 4 + k % 4, k / 4 * 4),
    c: words16,
};
const F64_4: Shape = Shape {
    name: "m8n8k4",
    rows: 8,
    depth: 4,
    bits: 64,
    bytes: [8, 8, 16],
    a: |row, k| (row * 4 + k, 0),
    b: |column, k| (column * 4 + k, 0),
    c: |row, column| (row * 4 + column / 2, column % 2 * 8),
};
const F64_16: Shape = Shape {
    name: "m16n8k16",
    rows: 16,
    depth: 16,
    bits: 64,
    bytes: [64, 32, 32],
    a: |row, k| ((row % 8) * 4 + k % 4, (row / 8 + k / 4 * 2) * 8),
    b: |column, k| (column * 4 + k % 4, k / 4 * 8),
    c: |row, column| {
        let (lane, byte) = words16(row, column);
        (lane, byte * 2)
    },
};

/// A kernel that loads the operands of each lane, one after the other, multiplies, and stores the result.
fn kernel(shape: &Shape, types: &str) -> String {
    let width = if shape.bits == 64 { 8 } else { 4 };
    let bits = 8 * width;
    let stride: usize = shape.bytes.iter().sum();
    let mut at = 0;
    let (mut text, mut lists) = (String::new(), Vec::new());
    for (operand, bytes) in ["a", "b", "c"].iter().zip(shape.bytes) {
        let names: Vec<String> = (0..bytes / width).map(|number| format!("%{operand}{number}")).collect();
        for name in &names {
            text += &format!(".reg .b{bits} {name};\nld.global.b{bits} {name}, [%in+{at}];\n");
            at += width;
        }
        lists.push(format!("{{{}}}", names.join(", ")));
    }
    let stores: String = (0..shape.bytes[2] / width)
        .map(|number| format!("st.global.b{bits} [%out+{}], %c{number};\n", number * width))
        .collect();
    format!(
        "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n.reg .b32 %lane;\n.reg .b64 %in, %out;\nld.param.u64 %in, \
         [in];\nld.param.u64 %out, [out];\nmov.u32 %lane, %laneid;\nmad.wide.u32 %in, %lane, {stride}, %in;\nmad.wide.u32 %out, \
         %lane, {}, %out;\n{text}mma.sync.aligned.{}.row.col.{types} {c}, {}, {}, {c};\n{stores}ret;\n}}\n",
        shape.bytes[2],
        shape.name,
        lists[0],
        lists[1],
        c = lists[2],
    )
}

/// The bits of an integer in a type, which has it exactly.
type Encode = fn(i64) -> u64;

fn put(bytes: &mut [u8], at: usize, bits: usize, value: u64) {
    match bits {
        4 => bytes[at / 2] |= ((value & 15) as u8) << (at % 2 * 4),
        _ => bytes[at..at + bits / 8].copy_from_slice(&value.to_le_bytes()[..bits / 8]),
    }
}

/// Multiplies integers of a range, and compares all elements. Of sums: their bits and their size.
fn check(
    shape: &Shape,
    types: &str,
    range: std::ops::Range<i64>,
    encode: [Encode; 2],
    (of_sum, size): (Encode, usize),
) {
    let mut random = Random::stream(11, shape.depth as u64);
    let mut drawn = |range: std::ops::Range<i64>| range.start + random.below((range.end - range.start) as u64) as i64;
    let (rows, depth) = (shape.rows, shape.depth);
    let mut table = |rows: usize, columns: usize, range: &std::ops::Range<i64>| -> Vec<Vec<i64>> {
        (0..rows).map(|_| (0..columns).map(|_| drawn(range.clone())).collect()).collect()
    };
    let (a, b, c) = (table(rows, depth, &range), table(8, depth, &range), table(rows, 8, &(-100..100)));
    let stride: usize = shape.bytes.iter().sum();
    let mut input = vec![0u8; 32 * stride];
    let [of_a, of_b, of_c] = shape.bytes;
    for k in 0..depth {
        for (row, values) in a.iter().enumerate() {
            let (lane, at) = (shape.a)(row, k);
            put(&mut input[lane * stride..][..of_a], at, shape.bits, encode[0](values[k]));
        }
        for (column, values) in b.iter().enumerate() {
            let (lane, at) = (shape.b)(column, k);
            put(&mut input[lane * stride + of_a..][..of_b], at, shape.bits, encode[1](values[k]));
        }
    }
    for (row, values) in c.iter().enumerate() {
        for (column, value) in values.iter().enumerate() {
            let (lane, at) = (shape.c)(row, column);
            put(&mut input[lane * stride + of_a + of_b..], at, size * 8, of_sum(*value));
        }
    }
    let found = run(&kernel(shape, types), 32, &input, 32 * of_c).unwrap_or_else(|error| panic!("{error}"));
    for row in 0..rows {
        for column in 0..8 {
            let sum = c[row][column] + a[row].iter().zip(&b[column]).map(|(x, y)| x * y).sum::<i64>();
            let (lane, at) = (shape.c)(row, column);
            let bytes = &found[lane * of_c + at..][..size];
            assert_eq!(bytes, &of_sum(sum).to_le_bytes()[..size], "{} {types}: row {row}, column {column}", shape.name);
        }
    }
}

fn f16(value: i64) -> u64 {
    half::f16::from_f64(value as f64).to_bits().into()
}

fn bf16(value: i64) -> u64 {
    half::bf16::from_f64(value as f64).to_bits().into()
}

fn f32(value: i64) -> u64 {
    (value as f32).to_bits().into()
}

fn f64(value: i64) -> u64 {
    (value as f64).to_bits()
}

/// −2 to 2 in e4m3 and e5m2: 1.0 is 0x38 and 0x3c, 2.0 is 0x40 in both.
fn e4m3(value: i64) -> u64 {
    [0, 0x38, 0x40][value.unsigned_abs() as usize] | if value < 0 { 0x80 } else { 0 }
}

fn e5m2(value: i64) -> u64 {
    [0, 0x3c, 0x40][value.unsigned_abs() as usize] | if value < 0 { 0x80 } else { 0 }
}

fn integer(value: i64) -> u64 {
    value.cast_unsigned()
}

#[test]
fn products_are_those_of_matrices() {
    let (words, halves, longs): ((Encode, usize), (Encode, usize), (Encode, usize)) = ((f32, 4), (f16, 2), (f64, 8));
    check(&F16_16, "f32.f16.f16.f32", -60..60, [f16, f16], words);
    check(&F16_8, "f32.f16.f16.f32", -60..60, [f16, f16], words);
    check(&F16_16, "f32.bf16.bf16.f32", -60..60, [bf16, bf16], words);
    check(&F16_8, "f32.bf16.bf16.f32", -60..60, [bf16, bf16], words);
    check(&TF32_8, "f32.tf32.tf32.f32", -500..500, [f32, f32], words);
    let tf32_4 = Shape { name: "m16n8k4", depth: 4, bytes: [8, 4, 16], ..TF32_8 };
    check(&tf32_4, "f32.tf32.tf32.f32", -500..500, [f32, f32], words);
    check(&F64_4, "f64.f64.f64.f64", -9999..9999, [f64, f64], longs);
    check(&F64_16, "f64.f64.f64.f64", -9999..9999, [f64, f64], longs);
    let f64_8 = Shape { name: "m16n8k8", depth: 8, bytes: [32, 16, 32], ..F64_16 };
    check(&f64_8, "f64.f64.f64.f64", -99..99, [f64, f64], longs);
    check(&S8_32, "f32.e4m3.e5m2.f32", -2..3, [e4m3, e5m2], words);
    check(&S8_16, "f32.e5m2.e4m3.f32", -2..3, [e5m2, e4m3], words);
    // Sums of f16: c0 and c1 are in one register, those of row g + 8 in the next.
    let packed: Place = |row, column| {
        let (lane, byte) = words16(row, column);
        (lane, byte / 2)
    };
    let small: [Encode; 2] = [f16, f16];
    check(&Shape { bytes: [16, 8, 8], c: packed, ..F16_16 }, "f16.f16.f16.f16", -8..8, small, halves);
    check(&Shape { bytes: [16, 8, 8], c: packed, ..S8_32 }, "f16.e4m3.e4m3.f16", -2..3, [e4m3, e4m3], halves);
}

#[test]
fn integer_products_wrap_or_stay_at_the_limit() {
    let sums: (Encode, usize) = (integer, 4);
    check(&S8_32, "s32.s8.s8.s32", -128..128, [integer, integer], sums);
    check(&S8_16, "s32.s8.s8.s32", -128..128, [integer, integer], sums);
    check(&S8_8_16, "s32.u8.u8.s32", 0..256, [integer, integer], sums);
    check(&S4_64, "s32.s4.s4.s32", -8..8, [integer, integer], sums);
    let s4_32 = Shape { name: "m16n8k32", depth: 32, bytes: [8, 4, 16], ..S4_64 };
    check(&s4_32, "s32.u4.u4.s32", 0..16, [integer, integer], sums);
    // All elements are −128: 32 products of 16384 on top of the largest number.
    let wrapped = i32::MAX.wrapping_add(32 << 14);
    for (saturates, expected) in [("", wrapped), ("satfinite.", i32::MAX)] {
        let largest = i32::MAX.to_le_bytes().repeat(4);
        let lane: Vec<u8> = std::iter::repeat_n(0x80, 24).chain(largest).collect();
        let text = kernel(&S8_32, &format!("{saturates}s32.s8.s8.s32"));
        let found = run(&text, 32, &lane.repeat(32), 32 * 16).unwrap_or_else(|error| panic!("{error}"));
        assert!(found.as_chunks::<4>().0.iter().all(|word| i32::from_le_bytes(*word) == expected), "{saturates}");
    }
}

/// Bits of two words that count.
type Count = fn(u32, u32) -> u32;

/// The bits that two rows of 128 have together, or that differ.
#[test]
fn products_of_bits_count_them() {
    let shape = Shape { name: "m8n8k128", depth: 128, bits: 1, ..S8_8_16 };
    let mut random = Random::stream(12, 0);
    let rows: Vec<[u32; 4]> = (0..16).map(|_| std::array::from_fn(|_| random.bits() as u32)).collect();
    let counts: [Count; 2] = [|a, b| (a ^ b).count_ones(), |a, b| (a & b).count_ones()];
    for (operation, count) in ["xor", "and"].into_iter().zip(counts) {
        let text = kernel(&shape, &format!("s32.b1.b1.s32.{operation}.popc"));
        // Lane 4g + t has the 32 bits from 32t on, of row g and of column g.
        let mut input = Vec::new();
        for lane in 0..32 {
            input.extend(rows[lane / 4][lane % 4].to_le_bytes());
            input.extend(rows[8 + lane / 4][lane % 4].to_le_bytes());
            input.extend([0; 8]);
        }
        let found = run(&text, 32, &input, 32 * 8).unwrap_or_else(|error| panic!("{error}"));
        for (row, column) in (0..8).flat_map(|row| (0..8).map(move |column| (row, column))) {
            let expected: u32 = rows[row].iter().zip(&rows[8 + column]).map(|(a, b)| count(*a, *b)).sum();
            let (lane, at) = words8(row, column);
            assert_eq!(found[lane * 8 + at..][..4], expected.to_le_bytes(), "{operation}: row {row}, column {column}");
        }
    }
}

/// Tiles of 16 × 16 and of 16 × 8 in `in`; the product, its two halves transposed, and the first half transposed in registers.
const THROUGH_SHARED: &str = "
.shared .align 16 .b8 tile[1024];
.reg .b32 %lane, %at, %row, %r<16>;
.reg .b64 %in, %out, %d;
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
mov.u32 %lane, %laneid;
mov.u32 %at, tile;
mad.lo.u32 %row, %lane, 24, %at;
mad.wide.u32 %d, %lane, 24, %in;
ld.global.v2.u32 {%r0, %r1}, [%d];
ld.global.v2.u32 {%r2, %r3}, [%d+8];
ld.global.v2.u32 {%r4, %r5}, [%d+16];
st.shared.v2.u32 [%row], {%r0, %r1};
st.shared.v2.u32 [%row+8], {%r2, %r3};
st.shared.v2.u32 [%row+16], {%r4, %r5};
bar.sync 0;
// Rows of 32 bytes: lanes 0 to 15 have those of the left half, 16 to 31 those of the right half.
and.b32 %r0, %lane, 15;
shr.u32 %r1, %lane, 4;
mad.lo.u32 %row, %r0, 32, %at;
mad.lo.u32 %row, %r1, 16, %row;
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%row];
// The second factor lies row by row, 16 bytes each.
mad.lo.u32 %row, %r0, 16, %at;
add.u32 %row, %row, 512;
ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r8, %r9}, [%row];
mov.u32 %r10, 0;
mov.u32 %r11, 0;
mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r10, %r11}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, {%r10, %r11};
bar.sync 0;
mad.lo.u32 %row, %r0, 16, %at;
stmatrix.sync.aligned.m8n8.x2.shared.b16 [%row], {%r10, %r11};
add.u32 %row, %row, 256;
stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%row], {%r10, %r11};
movmatrix.sync.aligned.m8n8.trans.b16 %r12, %r10;
bar.sync 0;
mad.lo.u32 %row, %lane, 16, %at;
ld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [%row];
mad.wide.u32 %d, %lane, 16, %out;
st.global.v4.u32 [%d], {%r0, %r1, %r2, %r3};
mad.wide.u32 %d, %lane, 4, %out;
st.global.u32 [%d+512], %r12;
ret;
";

#[test]
fn matrices_go_through_shared_memory() {
    let text = format!("{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{{THROUGH_SHARED}}}\n");
    let a = |row: i64, k: i64| (row * 7 + k * 3) % 11 - 5;
    let b = |k: i64, column: i64| (k * 5 + column * 2) % 9 - 4;
    let mut input: Vec<u8> = Vec::new();
    for (row, k) in (0..16).flat_map(|row| (0..16).map(move |k| (row, k))) {
        input.extend((f16(a(row, k)) as u16).to_le_bytes());
    }
    for (k, column) in (0..16).flat_map(|k| (0..8).map(move |column| (k, column))) {
        input.extend((f16(b(k, column)) as u16).to_le_bytes());
    }
    let found = run(&text, 32, &input, 640).unwrap_or_else(|error| panic!("{error}"));
    let half = |at: usize| u16::from_le_bytes([found[2 * at], found[2 * at + 1]]);
    for (row, column) in (0..16).flat_map(|row| (0..8).map(move |column| (row, column))) {
        let sum: i64 = (0..16).map(|k| a(row as i64, k) * b(k, column as i64)).sum();
        let expected = f16(sum) as u16;
        assert_eq!(half(8 * row + column), expected, "row {row}, column {column}");
        let transposed = half(128 + 64 * (row / 8) + 8 * column + row % 8);
        assert_eq!(transposed, expected, "row {row}, column {column}, transposed");
        if row < 8 {
            let lane = 4 * column + row / 2;
            assert_eq!(half(256 + 2 * lane + row % 2), expected, "row {row}, column {column}, transposed in registers");
        }
    }
}

/// Each lane writes 16 bytes of `in` to `tile`, and 16 of `tile` behind the instruction to `out`; its row is at `%row`, its registers are
/// `%r0` to `%r3`.
fn through_shared(instruction: &str) -> String {
    format!(
        ".version 8.7\n.target sm_100a\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n.shared .align 16 .b8 \
         tile[512];\n.reg .b32 %lane, %row, %r<4>;\n.reg .b64 %in, %out;\nld.param.u64 %in, [in];\nld.param.u64 %out, [out];\n\
         mov.u32 %lane, %laneid;\nmov.u32 %row, tile;\nmad.lo.u32 %row, %lane, 16, %row;\nmad.wide.u32 %in, %lane, 16, %in;\n\
         mad.wide.u32 %out, %lane, 16, %out;\nld.global.v4.u32 {{%r0, %r1, %r2, %r3}}, [%in];\n{instruction}\n\
         st.global.v4.u32 [%out], {{%r0, %r1, %r2, %r3}};\nret;\n}}\n"
    )
}

const LOADED: &str = "st.shared.v4.u32 [%row], {%r0, %r1, %r2, %r3};\nbar.warp.sync -1;\n";

/// 512 bytes of which no two that are near are alike.
fn many_bytes() -> Vec<u8> {
    (0..512u32).map(|at| (at * 167 + at / 256 * 31) as u8).collect()
}

/// Lane 4g + t has of 16 × 16 bytes, transposed, rows 4t to 4t + 3 of columns g and g + 8: two rows in each register, those of column g
/// first.
#[test]
fn matrices_of_bytes_are_transposed() {
    let input = many_bytes();
    let load = "ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8 {%r0, %r1, %r2, %r3}, [%row];";
    let found =
        run(&through_shared(&format!("{LOADED}{load}")), 32, &input, 512).unwrap_or_else(|error| panic!("{error}"));
    let expect = |lane: usize, matrix: usize| {
        let (g, t) = (lane / 4, lane % 4);
        let at = |row: usize, column: usize| input[matrix * 256 + row * 16 + column];
        let two = |row: usize| [at(row, g), at(row + 1, g), at(row, g + 8), at(row + 1, g + 8)];
        [two(4 * t), two(4 * t + 2)].concat()
    };
    for lane in 0..32 {
        let expected = [expect(lane, 0), expect(lane, 1)].concat();
        assert_eq!(found[lane * 16..][..16], expected, "lane {lane}");
    }
    let one = load.replace("x2", "x1").replace(", %r2, %r3", "");
    let found =
        run(&through_shared(&format!("{LOADED}{one}")), 32, &input, 512).unwrap_or_else(|error| panic!("{error}"));
    for lane in 0..32 {
        assert_eq!(found[lane * 16..][..8], expect(lane, 0), "lane {lane}");
        assert_eq!(found[lane * 16 + 8..][..8], input[lane * 16 + 8..][..8], "lane {lane} keeps the others");
    }
    // Stored: of matrix j, register j of lane 4g + t goes to rows 2t and 2t + 1, columns g and g + 8.
    let back = "ld.shared.v4.u32 {%r0, %r1, %r2, %r3}, [%row];";
    let store = "stmatrix.sync.aligned.m16n8.x4.trans.shared.b8 [%row], {%r0, %r1, %r2, %r3};\nbar.warp.sync -1;\n";
    let found =
        run(&through_shared(&format!("{store}{back}")), 32, &input, 512).unwrap_or_else(|error| panic!("{error}"));
    for (matrix, row, column) in (0..512).map(|at| (at / 128, at / 16 % 8, at % 16)) {
        let lane = 4 * (column % 8) + row / 2;
        let byte = row % 2 + 2 * (column / 8);
        let expected = input[lane * 16 + 4 * matrix + byte];
        assert_eq!(found[128 * matrix + 16 * row + column], expected, "matrix {matrix}, row {row}, column {column}");
    }
    for count in [1, 2] {
        let registers = ["%r0", "%r0, %r1"][count - 1];
        let some = format!(
            "{LOADED}stmatrix.sync.aligned.m16n8.x{count}.trans.shared.b8 [%row], {{{registers}}};\nbar.warp.sync -1;\n"
        );
        let part =
            run(&through_shared(&format!("{some}{back}")), 32, &input, 512).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(part[..128 * count], found[..128 * count]);
        assert_eq!(part[128 * count..], input[128 * count..], "the others are not written");
    }
}

/// 16 elements lie in the first 12 or 8 bytes of a row, the first in the lowest bits; what is behind them may be anything.
#[test]
fn narrow_elements_become_bytes() {
    let elements = |at: usize, bits: u32| ((at * 29 + at / 16 * 7) % (1 << bits)) as u8;
    for (bits, name) in [(6, "b6x16_p32"), (4, "b4x16_p64")] {
        let mut input = vec![0xa5u8; 512];
        for row in 0..32 {
            let packed =
                (0..16).fold(0u128, |all, at| all | u128::from(elements(16 * row + at, bits)) << (bits * at as u32));
            let bytes = bits as usize * 2;
            input[16 * row..][..bytes].copy_from_slice(&packed.to_le_bytes()[..bytes]);
        }
        let load =
            format!("{LOADED}ldmatrix.sync.aligned.m8n16.x4.shared.b8x16.{name} {{%r0, %r1, %r2, %r3}}, [%row];");
        let found = run(&through_shared(&load), 32, &input, 512).unwrap_or_else(|error| panic!("{error}"));
        // Lane 4g + t has in register j the elements 4t to 4t + 3 of row g of matrix j.
        for (lane, matrix, at) in (0..512).map(|at| (at / 16, at / 4 % 4, at % 4)) {
            let element = 16 * (8 * matrix + lane / 4) + 4 * (lane % 4) + at;
            assert_eq!(
                found[16 * lane + 4 * matrix + at],
                elements(element, bits),
                "{name}: lane {lane}, matrix {matrix}"
            );
        }
        let load = format!(
            "{LOADED}ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8x16.{name} {{%r0, %r1, %r2, %r3}}, [%row];"
        );
        let found = run(&through_shared(&load), 32, &input, 512).unwrap_or_else(|error| panic!("{error}"));
        for (lane, register, at) in (0..512).map(|at| (at / 16, at / 4 % 4, at % 4)) {
            let (row, column) = (4 * (lane % 4) + 2 * (register % 2) + at % 2, lane / 4 + at / 2 * 8);
            let element = 16 * (16 * (register / 2) + row) + column;
            assert_eq!(
                found[16 * lane + 4 * register + at],
                elements(element, bits),
                "{name}: lane {lane}, register {register}"
            );
        }
    }
    // The bytes behind the elements need not be defined.
    let partly = "st.shared.v2.u32 [%row], {%r0, %r1};\nbar.warp.sync -1;\n\
                  ldmatrix.sync.aligned.m8n16.x4.shared.b8x16.b4x16_p64 {%r0, %r1, %r2, %r3}, [%row];\nadd.u32 %r0, %r0, 1;";
    run(&through_shared(partly), 32, &[0; 512], 512).unwrap_or_else(|error| panic!("{error}"));
    let text = run(&through_shared(&partly.replace("b4x16_p64", "b6x16_p32")), 32, &[0; 512], 512).unwrap_err();
    assert!(text.contains("use before initialisation") && text.contains("`tile+"), "{text}");
}

/// Row addresses are multiples of 16, and what of a factor is not defined makes its row of the result so.
#[test]
fn what_is_wrong_with_matrices_is_said() {
    let kernel = |body: &str| {
        format!(
            "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n.shared .align 16 .b8 tile[1024];\n.reg .b32 %lane, %row, \
             %r<12>;\n.reg .b64 %out;\nld.param.u64 %out, [out];\nmov.u32 %lane, %laneid;\nmov.u32 %row, tile;\nmad.lo.u32 %row, \
             %lane, 16, %row;\nmov.u32 %r6, 0;\nmov.u32 %r7, 0;\nmov.u32 %r8, 0;\nmov.u32 %r9, 0;\n{body}\nret;\n}}\n"
        )
    };
    let fault = |body: &str, threads: u32| match run(&kernel(body), threads, &[0; 8], 8) {
        Err(text) => text,
        Ok(_) => panic!("no fault: {body}"),
    };
    let text = fault("add.u32 %row, %row, 8; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%row];", 32);
    assert!(text.contains("misaligned: the address is not a multiple of 16"), "{text}");
    let product = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r6, %r7, %r8, %r9}, {%r0, %r1, %r2, %r3}, {%r6, %r7}, \
                   {%r6, %r7, %r8, %r9};\nst.global.u32 [%out], %r6;";
    let text =
        fault(&format!("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r0, %r1, %r2, %r3}}, [%row];\n{product}"), 32);
    assert!(text.contains("`tile`") && text.contains("use before initialisation"), "{text}");
    let product = "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r6, %r7}, {%r8}, {%r9}, {%r6, %r7};";
    let text = fault(&format!("{product}\nst.global.u32 [%out], %r6;"), 16);
    assert!(text.contains("which takes no part in the product"), "{text}");
}
