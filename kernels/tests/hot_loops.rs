//! What the loops that move most bytes cost, in instructions of the machine: those of one warp for one unit of 2 KiB, as ptxas makes them.
//!
//! The way through a loop leaves out what is not done for each unit (what comes with the next copy or token): it takes every forward branch
//! that jumps over no sum, no look at a unit and no load.

use moe_contract::{Exchange, Format, Kernel, RowLayout};
use moe_kernels::assemble::assemble;
use moe_kernels::exchange::device_code;
use moe_kernels::ptx::{Chip, Target};

/// One node of DeepSeek-V3.
const DEEPSEEK_V3: Exchange = Exchange {
    ranks: 8,
    experts: 256,
    zero_experts: 0,
    top_k: 8,
    hidden: 7168,
    max_tokens: 4096,
    dispatch: Format::FP8_F32_128,
    layout: RowLayout::expert_major(128),
    combine: Format::BF16,
    weighted: true,
    drop: None,
    ctas_link: 24,
    ctas_local: 108,
    threads: 256,
};

/// Instructions, and where labels stand among them.
struct Sass<'t> {
    instructions: Vec<&'t str>,
    labels: Vec<(&'t str, usize)>,
}

impl<'t> Sass<'t> {
    fn of(text: &'t str) -> Sass<'t> {
        let (mut instructions, mut labels) = (Vec::new(), Vec::new());
        for line in text.lines().map(str::trim) {
            if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L_x_")) {
                labels.push((label, instructions.len()));
            } else if let Some((_, instruction)) = line.strip_prefix("/*").and_then(|line| line.split_once("*/"))
                && let Some((instruction, _)) = instruction.split_once(';')
            {
                instructions.push(instruction.trim());
            }
        }
        Sass { instructions, labels }
    }

    /// Where a branch goes.
    fn target(&self, at: usize) -> Option<usize> {
        let (_, place) = self.instructions[at].split_once("BRA")?;
        let (_, label) = place.split_once("`(")?;
        let (label, _) = label.split_once(')')?;
        self.labels.iter().find(|(known, _)| *known == label).map(|(_, place)| *place)
    }

    /// The innermost loop with sums, as it is gone through for one unit.
    fn round(&self) -> Vec<&'t str> {
        let has = |from: usize, to: usize, what: &[&str]| {
            self.instructions[from..to].iter().any(|instruction| what.iter().any(|what| instruction.contains(what)))
        };
        let loops = (0..self.instructions.len()).filter_map(|end| Some((self.target(end)?, end)));
        let sums = loops.filter(|(start, end)| start <= end && has(*start, *end, &["FADD"]));
        let (start, end) = sums.min_by_key(|(start, end)| end - start).expect("a loop with sums");
        let (mut round, mut at) = (Vec::new(), start);
        while at <= end {
            round.push(self.instructions[at]);
            let over = self.target(at).filter(|target| (at + 1..=end).contains(target));
            let over = over.filter(|target| !has(at + 1, *target, &["FADD", "LDS", "SYNCS", "UBLKCP"]));
            at = over.unwrap_or(at + 1);
        }
        round
    }
}

#[test]
fn a_unit_of_a_sum_costs_so_many_instructions() {
    let exchange = DEEPSEEK_V3.checked().expect("it keeps its limits");
    // 32 numbers of a lane; instructions in all, today 165 and 125.
    for (kernel, products, budget) in [(Kernel::CombineSend, 32, 170), (Kernel::CombineReduce, 0, 130)] {
        for chip in Chip::ALL {
            let ptx = device_code(kernel, &exchange).ptx(Target::of(chip)).expect("it translates");
            let sass = assemble(&ptx, chip).and_then(|assembled| assembled.sass()).expect("it assembles");
            let round = Sass::of(&sass).round();
            let count = |what: &str| round.iter().filter(|instruction| instruction.contains(what)).count();
            let counts = ["FADD", "FMUL", "LDS.128", "UBLKCP"].map(count);
            assert_eq!(counts, [32, products, 4, 1], "{} for {chip}: {round:#?}", kernel.name());
            assert!(count("LDL") + count("STL") == 0, "{} for {chip}", kernel.name());
            let found = round.len();
            assert!(
                found <= budget && found > budget - 20,
                "{} for {chip}: {found} instructions a unit",
                kernel.name()
            );
        }
    }
}

/// Two CTAs fit on a multiprocessor, with the kilobyte that the system takes for each.
#[test]
fn rings_leave_room_for_a_second_cta() {
    let most = 228 * 1024 / 2 - 1024;
    for threads in [32, 64, 128, 256, 512, 768, 1024] {
        for hidden in [8, 1024, 2880, 7168] {
            let exchange = Exchange { hidden, threads, dispatch: Format::BF16, ..DEEPSEEK_V3 };
            let exchange = exchange.checked().expect("it keeps its limits");
            for kernel in [Kernel::CombineSend, Kernel::CombineReduce] {
                let shared = device_code(kernel, &exchange).dynamic_shared();
                assert!(shared > 0 && shared + 1024 <= most, "{}, {threads}, {hidden}: {shared}", kernel.name());
            }
        }
    }
}
