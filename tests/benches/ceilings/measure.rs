//! One kernel after the other: what is left in memory is compared, then it is timed.

use std::time::{Duration, Instant};

use moe_contract::RankId;
use moe_runtime::device::{Address, Device, FunctionId, Launch, StreamId, Value};

use super::kernels::{self, BULK_WARPS, SHARED, WARPS};

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const RANK: RankId = RankId(0);
const PATIENCE: Duration = Duration::from_secs(20);

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// CTAs of the kernels that store and load.
    pub ctas: Vec<u32>,
    /// Bytes that each CTA moves, about.
    pub bytes_per_cta: u64,
    /// Launches of which the median counts.
    pub launches: usize,
    /// Times that a chain of kernels is launched, and rounds of a word that is handed over.
    pub rounds: u32,
}

impl Sizes {
    /// What says something on a GPU.
    pub fn of_gpu() -> Sizes {
        Sizes { ctas: vec![1, 4, 10, 20, 40, 132], bytes_per_cta: 8 << 20, launches: 15, rounds: 2000 }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    pub what: String,
    pub ctas: u32,
    pub measured: f64,
    pub unit: &'static str,
    /// What is expected of an H100, with the reason.
    pub predicted: &'static str,
}

/// A device with memory to read and to write.
struct Bench<'d> {
    device: &'d dyn Device,
    stream: StreamId,
    sizes: &'d Sizes,
    source: Address,
    target: Address,
}

/// The word at a place of the source.
fn word(place: u64) -> u32 {
    (place as u32).wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995
}

/// Everything. What is wrong in memory is an error.
pub fn measure(device: &dyn Device, sizes: &Sizes, mut progress: impl FnMut(&str)) -> Outcome<Vec<Line>> {
    let most = u64::from(sizes.ctas.iter().copied().max().unwrap_or(1));
    // Rows are not cut, so that there may be one more for each warp.
    let bytes = most * (sizes.bytes_per_cta + u64::from(WARPS) * 57_344);
    let bench = Bench {
        device,
        stream: device.stream(RANK)?,
        sizes,
        source: device.allocate(RANK, bytes, "source")?,
        target: device.allocate(RANK, bytes, "target")?,
    };
    let words: Vec<u8> = (0..bytes / 4).flat_map(|place| word(place).to_ne_bytes()).collect();
    device.write(RANK, bench.source, &words)?;
    let mut lines = Vec::new();
    for row in [224, 2048, 7168, 14_336] {
        progress(&format!("stores of {row} bytes"));
        bench.stores(row, &mut lines)?;
    }
    for ahead in [2, 4, 8, 16] {
        progress(&format!("loads, {ahead} ahead"));
        let predicted = "in flight / 535 ns, at most 100";
        let text = kernels::load(ahead);
        let what = format!("loads into registers, {} KiB in flight", WARPS * ahead / 2);
        bench.loads(
            (&text, "load", WARPS, 0),
            (what, predicted),
            (ahead * 512, 512 * ahead, 512 * ahead),
            &mut lines,
        )?;
    }
    for unit in [2048, 4096, 14_336] {
        progress(&format!("bulk loads of {unit} bytes"));
        let text = kernels::load_bulk(unit);
        let what = format!("bulk loads of {unit} bytes");
        bench.loads((&text, "load_bulk", BULK_WARPS, SHARED), (what, "100"), (unit, unit, 512), &mut lines)?;
    }
    progress("launches");
    bench.chains(&mut lines)?;
    progress("words handed over");
    bench.hand_over(&mut lines)?;
    device.free(RANK, bench.source);
    device.free(RANK, bench.target);
    device.close_stream(bench.stream);
    Ok(lines)
}

impl Bench<'_> {
    fn run(&self, launch: &Launch) -> Outcome<()> {
        self.device.launch(self.stream, launch)?;
        Ok(self.device.synchronise(&[self.stream], PATIENCE)?)
    }

    /// The median of a launch and the wait for it, as the host sees them.
    fn seconds(&self, launch: &Launch) -> Outcome<f64> {
        let mut times = Vec::new();
        for _ in 0..self.sizes.launches {
            let start = Instant::now();
            self.run(launch)?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn overhead(&self) -> Outcome<f64> {
        let function = self.device.load(RANK, &kernels::nothing(), "nothing")?;
        self.seconds(&launch(function, 1, 32, 0, vec![Value::Pointer(self.target)]))
    }

    fn words(&self, bytes: u64) -> Outcome<Vec<u32>> {
        let mut found = vec![0; bytes as usize];
        self.device.read(RANK, self.target, &mut found)?;
        Ok(found.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect())
    }

    fn stores(&self, row: u32, lines: &mut Vec<Line>) -> Outcome<()> {
        let plain = self.device.load(RANK, &kernels::store(), "store")?;
        let bulk = self.device.load(RANK, &kernels::store_bulk(), "store_bulk")?;
        let overhead = self.overhead()?;
        for &ctas in &self.sizes.ctas {
            let rows = (u64::from(ctas) * self.sizes.bytes_per_cta / u64::from(row)).max(1) as u32;
            let bytes = u64::from(rows) * u64::from(row);
            for (what, function, warps, shared) in [("16-byte", plain, WARPS, 0), ("bulk", bulk, BULK_WARPS, SHARED)] {
                let arguments = vec![Value::Pointer(self.target), Value::U32(rows), Value::U32(row)];
                let launch = launch(function, ctas, warps * 32, shared, arguments);
                self.device.write(RANK, self.target, &vec![0xff; bytes as usize])?;
                self.run(&launch)?;
                for (place, found) in (0u64..).zip(self.words(bytes)?) {
                    let number = (place * 4 / u64::from(row)) as u32;
                    let expected = if shared == 0 { number } else { number % (ctas * warps) };
                    equal(found, expected, || format!("{what} stores, row {number} of {row} bytes, {ctas} CTAs"))?;
                }
                let seconds = self.seconds(&launch)? - overhead;
                let measured = bytes as f64 / seconds / f64::from(ctas) * 1e-9;
                let what = format!("{what} stores, rows of {row} bytes");
                lines.push(Line { what, ctas, measured, unit: "GB/s each", predicted: "50, and 2700 of all together" });
            }
        }
        Ok(())
    }

    /// Loads of rows of four units, of which a lane sees of so many bytes at the front of each 16 of every 512.
    fn loads(
        &self,
        (text, name, warps, shared): (&str, &str, u32, u32),
        (what, predicted): (String, &'static str),
        (unit, step, seen): (u32, u32, u32),
        lines: &mut Vec<Line>,
    ) -> Outcome<()> {
        let function = self.device.load(RANK, text, name)?;
        let overhead = self.overhead()?;
        let row = unit * 4;
        for &ctas in &self.sizes.ctas {
            let rows = (u64::from(ctas) * self.sizes.bytes_per_cta / u64::from(row)).max(1) as u32;
            let bytes = u64::from(rows) * u64::from(row);
            let pointers = [self.source, self.target].map(Value::Pointer);
            let arguments = pointers.into_iter().chain([Value::U32(rows), Value::U32(row)]).collect();
            let launch = launch(function, ctas, warps * 32, shared, arguments);
            self.run(&launch)?;
            let all = u64::from(ctas * warps);
            // Whole rows go to a warp, or units where it copies in bulk.
            let piece = u64::from(if shared == 0 { row } else { step });
            let mut expected = vec![0u32; all as usize * 32];
            for start in (0..bytes).step_by(step as usize) {
                let warp = start / piece % all;
                for at in (0..u64::from(seen)).step_by(4) {
                    expected[(warp * 32 + at % 512 / 16) as usize] ^= word((start + at) / 4);
                }
            }
            for (place, (found, expected)) in self.words(all * 128)?.into_iter().zip(expected).enumerate() {
                equal(found, expected, || format!("{what}, warp {}, lane {}, {ctas} CTAs", place / 32, place % 32))?;
            }
            let seconds = self.seconds(&launch)? - overhead;
            let measured = bytes as f64 / seconds / f64::from(ctas) * 1e-9;
            lines.push(Line { what: what.clone(), ctas, measured, unit: "GB/s each", predicted });
        }
        Ok(())
    }

    /// Four empty kernels, one behind the other: launched one by one, as a graph, and each beside the end of the one before.
    fn chains(&self, lines: &mut Vec<Line>) -> Outcome<()> {
        let function = self.device.load(RANK, &kernels::nothing(), "nothing")?;
        for programmatic in [false, true] {
            let empty = launch(function, 1, 32, 0, vec![Value::Pointer(self.target)]);
            let empty = Launch { programmatic, ..empty };
            let chain = || (0..4).try_for_each(|_| self.device.launch(self.stream, &empty));
            self.device.begin_capture(self.stream)?;
            chain()?;
            let graph = self.device.end_capture(self.stream)?;
            for (how, predicted) in
                [("stream", "2-3, beside the end before it less than 1"), ("graph", "1.2-1.5, the same")]
            {
                let start = Instant::now();
                for _ in 0..self.sizes.rounds {
                    if how == "graph" { self.device.replay(self.stream, graph)? } else { chain()? }
                }
                self.device.synchronise(&[self.stream], PATIENCE)?;
                let measured = start.elapsed().as_secs_f64() * 1e6 / f64::from(self.sizes.rounds) / 4.0;
                let what = format!("launch in a {how}{}", if programmatic { ", programmatic" } else { "" });
                lines.push(Line { what, ctas: 1, measured, unit: "us", predicted });
            }
            self.device.forget_graph(graph);
        }
        Ok(())
    }

    fn hand_over(&self, lines: &mut Vec<Line>) -> Outcome<()> {
        for (relaxed, how) in [(false, "acquire in each look"), (true, "relaxed looks, one fence")] {
            let function = self.device.load(RANK, &kernels::hand_over(relaxed), "hand_over")?;
            let rounds = self.sizes.rounds;
            let launch = launch(function, 2, 32, 0, vec![Value::Pointer(self.target), Value::U32(rounds)]);
            let mut times = Vec::new();
            for _ in 0..self.sizes.launches {
                self.device.write(RANK, self.target, &[0; 256])?;
                let start = Instant::now();
                self.run(&launch)?;
                times.push(start.elapsed().as_secs_f64());
                let words = self.words(256)?;
                equal(words[0], rounds, || format!("{how}: the word of CTA 0"))?;
                equal(words[32], rounds, || format!("{how}: the word of CTA 1"))?;
            }
            times.sort_by(f64::total_cmp);
            let measured = times[times.len() / 2] * 1e6 / f64::from(rounds) / 2.0;
            let what = format!("a word handed over, {how}");
            lines.push(Line { what, ctas: 2, measured, unit: "us", predicted: "0.7 within a GPU" });
        }
        Ok(())
    }
}

fn launch(function: FunctionId, grid: u32, block: u32, shared: u32, arguments: Vec<Value>) -> Launch {
    Launch { function, grid, block, shared, programmatic: false, arguments }
}

fn equal(found: u32, expected: u32, what: impl Fn() -> String) -> Outcome<()> {
    if found == expected { Ok(()) } else { Err(format!("{}: {found:#x} is not {expected:#x}", what()).into()) }
}
