//! `wmma` against plain products of integers that all types have exactly. Which lane holds what is nobody's business but that of the
//! virtual GPU: the tests see memory alone.

use moe_random::Random;
use moe_vgpu::{Cluster, Config, Judge, Launch, Module, RankId, Rules};

const HEADER: &str = ".version 8.7\n.target sm_90a\n.address_size 64\n";

/// Runs `k(in, out)` on a CTA of so many threads.
fn run(text: &str, threads: u32, input: &[u8], output: usize) -> Result<Vec<u8>, String> {
    let module = Module::parse(text).map_err(|error| error.to_string())?;
    let kernel = module.kernel("k").expect("the kernel");
    let mut cluster = Cluster::new(Config { ranks: 1, ..Config::default() }).expect("a cluster of one");
    let judge = Judge::new(Rules::default());
    cluster.observe(Box::new(judge.clone()));
    let from = cluster.allocate(RankId(0), input.len() as u64, "in").expect("memory");
    let to = cluster.allocate(RankId(0), output as u64, "out").expect("memory");
    cluster.write(from, input).expect("memory");
    cluster.write(to, &vec![0; output]).expect("memory");
    let stream = cluster.stream(RankId(0)).expect("a stream");
    cluster.launch(stream, &kernel, Launch::linear(1, threads, vec![from.into(), to.into()])).expect("a launch");
    cluster.run().map_err(|error| error.to_string())?;
    if let Some(found) = judge.found().into_iter().next() {
        return Err(found.to_string());
    }
    let mut bytes = vec![0; output];
    cluster.read(to, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// A type of elements: its bits, and how an integer is written in it.
#[derive(Clone, Copy)]
struct Element {
    name: &'static str,
    bits: usize,
    encode: fn(i64) -> u64,
}

const F16: Element = Element { name: "f16", bits: 16, encode: |x| half::f16::from_f64(x as f64).to_bits().into() };
const BF16: Element = Element { name: "bf16", bits: 16, encode: |x| half::bf16::from_f64(x as f64).to_bits().into() };
const F32: Element = Element { name: "f32", bits: 32, encode: |x| (x as f32).to_bits().into() };
const TF32: Element = Element { name: "tf32", ..F32 };
const F64: Element = Element { name: "f64", bits: 64, encode: |x| (x as f64).to_bits() };
const S32: Element = Element { name: "s32", bits: 32, encode: i64::cast_unsigned };
const S8: Element = Element { name: "s8", bits: 8, ..S32 };
const U8: Element = Element { name: "u8", ..S8 };
const S4: Element = Element { name: "s4", bits: 4, ..S32 };
const U4: Element = Element { name: "u4", ..S4 };
const B1: Element = Element { name: "b1", bits: 1, ..S32 };

/// A matrix in memory, by rows or by columns, with more between its lines than they have.
struct Matrix {
    element: Element,
    rows: usize,
    columns: usize,
    by_columns: bool,
    /// Elements from one line to the next.
    stride: usize,
}

impl Matrix {
    fn new(element: Element, rows: usize, columns: usize, by_columns: bool) -> Matrix {
        let length = if by_columns { rows } else { columns };
        // 16 bytes more; lines of few bits have those of an access.
        let stride = length + if element.bits < 8 { length } else { 128 / element.bits };
        Matrix { element, rows, columns, by_columns, stride }
    }

    fn layout(&self) -> &'static str {
        if self.by_columns { "col" } else { "row" }
    }

    fn bytes(&self) -> usize {
        let lines = if self.by_columns { self.columns } else { self.rows };
        (lines * self.stride * self.element.bits).div_ceil(8).next_multiple_of(32)
    }

    fn at(&self, row: usize, column: usize) -> usize {
        if self.by_columns { column * self.stride + row } else { row * self.stride + column }
    }

    fn write(&self, values: &[Vec<i64>]) -> Vec<u8> {
        let mut bytes = vec![0u8; self.bytes()];
        let bits = self.element.bits;
        for (row, column) in (0..self.rows).flat_map(|row| (0..self.columns).map(move |column| (row, column))) {
            let (value, at) = ((self.element.encode)(values[row][column]), self.at(row, column) * bits);
            for bit in (0..bits).filter(|bit| value >> bit & 1 == 1) {
                bytes[(at + bit) / 8] |= 1 << ((at + bit) % 8);
            }
        }
        bytes
    }
}

fn table(random: &mut Random, rows: usize, columns: usize, (low, high): (i64, i64)) -> Vec<Vec<i64>> {
    let mut drawn = || low + random.below((high - low) as u64) as i64;
    (0..rows).map(|_| (0..columns).map(|_| drawn()).collect()).collect()
}

/// How many registers of how many bits hold a matrix, as the PTX ISA says it.
fn registers(matrix: &Matrix, factor: bool) -> (usize, usize) {
    let elements = matrix.rows * matrix.columns;
    match matrix.element.bits {
        64 => (elements / 32, 64),
        16 if factor && matrix.element.name == "f16" => (8, 32),
        bits => ((elements * bits / 1024).max(1), 32),
    }
}

fn list(letter: char, (count, _): (usize, usize)) -> String {
    format!("{{{}}}", (0..count).map(|at| format!("%{letter}{at}")).collect::<Vec<_>>().join(", "))
}

fn declared(letter: char, (count, bits): (usize, usize)) -> String {
    format!(".reg .b{bits} %{letter}<{count}>;\n")
}

/// Multiplies matrices that lie in memory in all the ways that there are.
fn check(shape: (usize, usize, usize), types: [Element; 4], range: (i64, i64), suffix: &str) {
    let (rows, columns, depth) = shape;
    let [of_d, of_a, of_b, of_c] = types;
    let packed = of_a.bits < 8;
    let mut random = Random::stream(31, (rows * depth + columns) as u64);
    let a = table(&mut random, rows, depth, range);
    let b = table(&mut random, depth, columns, range);
    let c = table(&mut random, rows, columns, (-50, 50));
    let product = |row: usize, column: usize| -> i64 {
        let of_bits = |x: i64, y: i64| if suffix.contains("xor") { x ^ y } else { x & y };
        let multiplied = |x: i64, y: i64| if of_a.bits == 1 { of_bits(x, y) } else { x * y };
        c[row][column] + (0..depth).map(|k| multiplied(a[row][k], b[k][column])).sum::<i64>()
    };
    let expected: Vec<Vec<i64>> =
        (0..rows).map(|row| (0..columns).map(|column| product(row, column)).collect()).collect();
    for layouts in 0..16 {
        let by_columns = |matrix: usize| layouts >> matrix & 1 == 1;
        if packed && (by_columns(0) || !by_columns(1)) {
            continue;
        }
        let a_in = Matrix::new(of_a, rows, depth, by_columns(0));
        let b_in = Matrix::new(of_b, depth, columns, by_columns(1));
        let c_in = Matrix::new(of_c, rows, columns, by_columns(2));
        let d_out = Matrix::new(of_d, rows, columns, by_columns(3));
        let name = format!("m{rows}n{columns}k{depth}");
        let kinds = match (of_a.name, suffix) {
            ("f16", _) => format!("{}.{}", of_d.name, of_c.name),
            ("b1", _) => "s32.b1.b1.s32".to_owned(),
            (_, suffix) => format!("{}.{}.{}.{}{suffix}", of_d.name, of_a.name, of_b.name, of_c.name),
        };
        let operation = if of_a.bits == 1 { suffix } else { "" };
        let [ra, rb, rc, rd] =
            [registers(&a_in, true), registers(&b_in, true), registers(&c_in, false), registers(&d_out, false)];
        let (at_b, at_c) = (a_in.bytes(), a_in.bytes() + b_in.bytes());
        let text = format!(
            "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n.reg .b64 %in, %out;\n.reg .b32 %stride;\n{}{}{}{}\
             ld.param.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %stride, {};\n\
             wmma.load.a.sync.aligned.{}.{name}.global.{} {}, [%in], %stride;\n\
             wmma.load.b.sync.aligned.{}.{name}.{} {}, [%in+{at_b}], {};\n\
             wmma.load.c.sync.aligned.{}.{name}.global.{} {}, [%in+{at_c}], {};\n\
             wmma.mma{operation}.sync.aligned.{}.{}.{name}.{kinds} {}, {}, {}, {};\n\
             wmma.store.d.sync.aligned.{}.{name}.global.{} [%out], {}, {};\nret;\n}}\n",
            declared('a', ra),
            declared('b', rb),
            declared('c', rc),
            declared('d', rd),
            a_in.stride,
            a_in.layout(),
            of_a.name,
            list('a', ra),
            b_in.layout(),
            of_b.name,
            list('b', rb),
            b_in.stride,
            c_in.layout(),
            of_c.name,
            list('c', rc),
            c_in.stride,
            a_in.layout(),
            b_in.layout(),
            list('d', rd),
            list('a', ra),
            list('b', rb),
            list('c', rc),
            d_out.layout(),
            of_d.name,
            list('d', rd),
            d_out.stride,
        );
        let input = [a_in.write(&a), b_in.write(&b), c_in.write(&c)].concat();
        let found = run(&text, 32, &input, d_out.bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
        // What lies between the lines is not touched.
        assert_eq!(found, d_out.write(&expected), "{name} {kinds}: layouts {layouts:04b}");
    }
}

const LARGE: [(usize, usize, usize); 3] = [(16, 16, 16), (32, 8, 16), (8, 32, 16)];

#[test]
fn products_of_floating_point_are_those_of_matrices() {
    for shape in LARGE {
        for of_d in [F16, F32] {
            for of_c in [F16, F32] {
                check(shape, [of_d, F16, F16, of_c], (-9, 10), "");
            }
        }
        check(shape, [F32, BF16, BF16, F32], (-60, 60), "");
    }
    check((16, 16, 8), [F32, TF32, TF32, F32], (-500, 500), "");
    for rounding in ["", ".rn", ".rz", ".rm", ".rp"] {
        check((8, 8, 4), [F64, F64, F64, F64], (-9999, 9999), rounding);
    }
}

#[test]
fn products_of_integers_and_bits_are_those_of_matrices() {
    for shape in LARGE {
        check(shape, [S32, S8, S8, S32], (-128, 128), "");
        check(shape, [S32, U8, U8, S32], (0, 256), ".satfinite");
    }
    check((8, 8, 32), [S32, S4, S4, S32], (-8, 8), ".satfinite");
    check((8, 8, 32), [S32, U4, U4, S32], (0, 16), "");
    check((8, 8, 128), [S32, B1, B1, S32], (0, 2), ".xor.popc");
    check((8, 8, 128), [S32, B1, B1, S32], (0, 2), ".and.popc");
}

/// 1 + 2⁻⁵³ is no f64: the direction says which is next. In the second step, 2⁻⁵³ is lost again in all but one.
#[test]
fn f64_rounds_each_step_in_its_direction() {
    let up = 1.0 + f64::EPSILON;
    for (rounding, expected) in [(".rn", 1.0), (".rz", 1.0), (".rm", 1.0), (".rp", up)] {
        let text = format!(
            "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n.reg .b64 %in, %out, %a, %b, %d<2>;\nld.param.u64 %in, \
             [in];\nld.param.u64 %out, [out];\nwmma.load.a.sync.aligned.row.m8n8k4.global.f64 {{%a}}, [%in];\n\
             wmma.load.b.sync.aligned.col.m8n8k4.global.f64 {{%b}}, [%in+256];\nmov.f64 %d0, 0d3FF0000000000000;\nmov.b64 %d1, %d0;\n\
             wmma.mma.sync.aligned.row.col.m8n8k4.f64.f64.f64.f64{rounding} {{%d0, %d1}}, {{%a}}, {{%b}}, {{%d0, %d1}};\n\
             wmma.store.d.sync.aligned.row.m8n8k4.global.f64 [%out], {{%d0, %d1}};\nret;\n}}\n"
        );
        // One product of each element is not zero.
        let factor = |value: f64| (0..32).flat_map(move |at| (if at % 4 == 1 { value } else { 0.0 }).to_le_bytes());
        let input: Vec<u8> = factor(f64::EPSILON).chain(factor(0.5)).collect();
        let found = run(&text, 32, &input, 512).unwrap_or_else(|error| panic!("{error}"));
        assert!(found.as_chunks::<8>().0.iter().all(|bytes| f64::from_le_bytes(*bytes) == expected), "{rounding}");
    }
}

/// What is done to every register of a fragment is done to every element of the matrix, once.
#[test]
fn registers_of_fragments_are_elements() {
    for (rows, columns, depth) in LARGE {
        for (element, add) in [(F16, "add.f16x2"), (F32, "add.f32"), (S32, "add.s32")] {
            for layouts in 0..4 {
                let from = Matrix::new(element, rows, columns, layouts & 1 == 1);
                let to = Matrix::new(element, rows, columns, layouts & 2 == 2);
                let held = registers(&from, false);
                let doubled: String = (0..held.0).map(|at| format!("{add} %c{at}, %c{at}, %c{at};\n")).collect();
                let text = format!(
                    "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n.reg .b64 %in, %out;\n{}ld.param.u64 %in, \
                     [in];\nld.param.u64 %out, [out];\nwmma.load.c.sync.aligned.{}.m{rows}n{columns}k{depth}.global.{} {}, [%in], {};\n\
                     {doubled}wmma.store.d.sync.aligned.{}.m{rows}n{columns}k{depth}.global.{} [%out], {}, {};\nret;\n}}\n",
                    declared('c', held),
                    from.layout(),
                    element.name,
                    list('c', held),
                    from.stride,
                    to.layout(),
                    element.name,
                    list('c', held),
                    to.stride,
                );
                let values = table(&mut Random::stream(7, rows as u64), rows, columns, (-500, 500));
                let twice: Vec<Vec<i64>> = values.iter().map(|row| row.iter().map(|x| 2 * x).collect()).collect();
                let found = run(&text, 32, &from.write(&values), to.bytes()).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(found, to.write(&twice), "{rows} × {columns} of {}, {layouts:02b}", element.name);
            }
        }
    }
}

/// A kernel with 16 × 16 f16 in shared memory, of which each of 32 lanes has written half a row, and registers for a product.
fn in_shared(threads_write: &str, body: &str) -> String {
    format!(
        "{HEADER}.visible .entry k(.param .u64 in, .param .u64 out)\n{{\n.shared .align 32 .b8 tile[1024];\n.reg .pred %p;\n.reg .b32 \
         %tid, %at, %r<8>, %a<8>, %b<8>, %d<8>;\n.reg .b64 %out;\nld.param.u64 %out, [out];\nmov.u32 %tid, %tid.x;\nmov.u32 %at, tile;\n\
         mad.lo.u32 %at, %tid, 16, %at;\nmov.u32 %r0, 0x3c003c00;\nsetp.lt.u32 %p, %tid, 32;\n{threads_write}\nmov.u32 %at, tile;\n{body}\n\
         ret;\n}}\n"
    )
}

const WRITE: &str = "@%p st.shared.v4.u32 [%at], {%r0, %r0, %r0, %r0};";
const LOADS: &str = "wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%a0,%a1,%a2,%a3,%a4,%a5,%a6,%a7}, [%at], 16;\n\
                     wmma.load.b.sync.aligned.col.m16n16k16.shared::cta.f16 {%b0,%b1,%b2,%b3,%b4,%b5,%b6,%b7}, [%at];\n";
const MULTIPLY: &str = "mov.u32 %d0, 0; mov.u32 %d1, 0; mov.u32 %d2, 0; mov.u32 %d3, 0;\n\
                        wmma.mma.sync.aligned.row.col.m16n16k16.f16.f16 {%d0,%d1,%d2,%d3}, {%a0,%a1,%a2,%a3,%a4,%a5,%a6,%a7}, \
                        {%b0,%b1,%b2,%b3,%b4,%b5,%b6,%b7}, {%d0,%d1,%d2,%d3};\n";
const STORE: &str = "wmma.store.d.sync.aligned.row.m16n16k16.global.f16 [%out], {%d0,%d1,%d2,%d3};";

fn fault(text: &str, threads: u32) -> String {
    match run(text, threads, &[0; 8], 512) {
        Err(text) => text,
        Ok(_) => panic!("no fault:\n{text}"),
    }
}

#[test]
fn the_judge_sees_loads_and_stores() {
    let right = in_shared(&format!("{WRITE}\nbar.warp.sync -1;"), &format!("{LOADS}{MULTIPLY}{STORE}"));
    let found = run(&right, 32, &[0; 8], 512).unwrap_or_else(|error| panic!("{error}"));
    let sixteen = half::f16::from_f32(16.0).to_bits().to_le_bytes();
    assert!(found.as_chunks::<2>().0.iter().all(|bytes| *bytes == sixteen));
    // Without the barrier lanes read what other lanes wrote.
    let text = fault(&in_shared(WRITE, &format!("{LOADS}{MULTIPLY}{STORE}")), 32);
    assert!(text.contains("`tile") && text.contains("reads it in line"), "{text}");
    // Two warps store the same tile.
    let both = in_shared(&format!("{WRITE}\nbar.sync 0;"), &format!("{LOADS}{MULTIPLY}{STORE}"));
    let text = fault(&both, 64);
    assert!(text.contains("`out") && text.contains("writes it in line"), "{text}");
}

#[test]
fn what_is_wrong_with_fragments_is_said() {
    let undefined = in_shared("setp.lt.u32 %p, %tid, 31;", &format!("{LOADS}{MULTIPLY}{STORE}"));
    let text = fault(&undefined, 32);
    assert!(text.contains("use before initialisation") && text.contains("`tile`"), "{text}");
    let one_row = in_shared(
        &format!("setp.ne.u32 %p, %tid, 31;\n{WRITE}\nbar.warp.sync -1;"),
        &format!("{LOADS}{MULTIPLY}{STORE}"),
    );
    let text = fault(&one_row, 32);
    assert!(text.contains("use before initialisation") && text.contains("`tile+496`"), "{text}");
    // Half of a matrix is 16 bytes behind a multiple of 32.
    let text = fault(&in_shared(WRITE, &format!("bar.warp.sync -1;\nadd.u32 %at, %at, 16;\n{LOADS}")), 32);
    assert!(text.contains("misaligned: the address is not a multiple of 32"), "{text}");
    // 16 lanes hold half of the sum and have written half of the factors. Lane 1 has columns 8 and 9 in its first register.
    let text = fault(&in_shared(&format!("{WRITE}\nbar.warp.sync -1;"), &format!("{LOADS}{MULTIPLY}{STORE}")), 16);
    assert!(text.contains("`tile+288`, which was never written") && text.contains("lane 1, line"), "{text}");
    // A lane that does not come.
    let apart = format!(
        "{WRITE}\nbar.warp.sync -1;\nsetp.eq.u32 %p, %tid, 5;\n@%p bra DONE;\n{LOADS}{MULTIPLY}{STORE}\nDONE:\nbar.warp.sync -1;"
    );
    let text = fault(&in_shared("", &apart), 32);
    assert!(text.contains("deadlock: everything waits") && text.contains("waits for lanes 5 of its warp"), "{text}");
}
