//! Random gates over every operation, and random inputs, from a list of random numbers (so that a failure shrinks).

use moe_gate::inputs::Tensor;
use moe_gate::ir::{Binary, Gate, InputId, InputKind, Masked, Op, Program, Reduction, Type, Unary, ValueId};
use moe_random::Random;

/// A list of random numbers that is read once; zero after its end.
pub struct Draws<'a>(pub std::slice::Iter<'a, u32>);

impl Draws<'_> {
    pub fn below(&mut self, end: u32) -> u32 {
        self.0.next().copied().unwrap_or(0) % end
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }
}

const REDUCTION: [Reduction; 3] = [Reduction::Sum, Reduction::Max, Reduction::Mean];

/// A gate with `steps` random operations. Those that are not legal are left out.
pub fn gate(draws: &mut Draws, steps: u32) -> Gate {
    let groups = draws.of(&[None, Some(1), Some(2), Some(4), Some(5), Some(8)]);
    let size = draws.of(&[1, 2, 3, 4, 7, 8, 13, 16, 20, 32, 37]);
    let experts = groups.unwrap_or(1) * size;
    let mut program = Program::new(experts, groups);
    let table_k = 1 + draws.below(experts.min(6));
    let mut kinds = vec![InputKind::Logits, InputKind::ScalarParameter, InputKind::ExpertParameter];
    kinds.extend(groups.map(|_| InputKind::GroupParameter));
    let mut values: Vec<ValueId> = Vec::new();
    for kind in kinds {
        let input = program.declare(format!("{kind}"), kind);
        values.push(program.push(Op::Input(input)).expect("inputs can be read"));
    }
    let table = program.declare("table", InputKind::Table { vocabulary: 5, k: table_k });
    let token = program.declare("token_id", InputKind::TokenId);
    for _ in 0..steps {
        let op = operation(draws, &program, &values, (table, token));
        if let Ok(value) = program.push(op) {
            values.push(value);
        }
    }
    let is_choice = |value: &&ValueId| matches!(program.type_of(**value), Type::ExpertChoice(_));
    let choice = match values.iter().rev().find(is_choice) {
        Some(&choice) => choice,
        None => {
            let count = 1 + draws.below(experts.min(40));
            let op = Op::ChooseExperts { by: values[0], count, within: None };
            program.push(op).expect("logits can be ranked")
        }
    };
    let Type::ExpertChoice(k) = program.type_of(choice) else { unreachable!("this is a choice of experts") };
    let is_weight = |value: &&ValueId| program.type_of(**value) == Type::Picks(k);
    let weights = match values.iter().rev().find(is_weight) {
        Some(&weights) => weights,
        None => {
            let is_vector = |value: &&ValueId| program.type_of(**value) == Type::Experts;
            let of = *values.iter().rev().find(is_vector).expect("there are logits");
            program.push(Op::Gather { of, at: choice }).expect("this can be gathered")
        }
    };
    Gate { program, choice, weights, before_experts: false }
}

fn operation(draws: &mut Draws, program: &Program, values: &[ValueId], (table, token): (InputId, InputId)) -> Op {
    // Half of the operands are recent, so that programs become deep.
    let recent = values.len().saturating_sub(3);
    let value = |draws: &mut Draws| {
        if draws.below(2) == 0 { draws.of(values) } else { draws.of(&values[recent..]) }
    };
    let of_type = |draws: &mut Draws, is_wanted: &dyn Fn(Type) -> bool| {
        let wanted: Vec<ValueId> = values.iter().copied().filter(|&value| is_wanted(program.type_of(value))).collect();
        if wanted.is_empty() { values[0] } else { draws.of(&wanted) }
    };
    let experts = |draws: &mut Draws| of_type(draws, &|ty| ty == Type::Experts);
    let size = program.group_size().unwrap_or(1);
    let all = program.experts();
    match draws.below(16) {
        0..=3 => Op::Unary(draws.of(Unary::ALL), value(draws)),
        4..=6 => Op::Binary(draws.of(Binary::ALL), value(draws), value(draws)),
        7 => Op::Softmax(value(draws)),
        8 => Op::Reduce(draws.of(&REDUCTION), value(draws)),
        9 => {
            let top = if draws.below(3) == 0 { None } else { Some(1 + draws.below(size)) };
            Op::GroupReduce { of: experts(draws), top, reduction: draws.of(&REDUCTION) }
        }
        10 => {
            let by = of_type(draws, &|ty| ty == Type::Groups);
            Op::ChooseGroups { by, count: 1 + draws.below(program.groups().unwrap_or(1)) }
        }
        11 => {
            let within = of_type(draws, &|ty| matches!(ty, Type::GroupChoice(_)));
            let masked = draws.of(&[Masked::Infinity, Masked::Fill(0.0), Masked::Fill(-1.5)]);
            let within = matches!(program.type_of(within), Type::GroupChoice(_)).then_some((within, masked));
            Op::ChooseExperts { by: experts(draws), count: 1 + draws.below(all.min(40)), within }
        }
        12 => match draws.below(4) {
            0 => Op::LookUp { table, token },
            1 => Op::Spread(of_type(draws, &|ty| ty == Type::Groups)),
            _ => Op::LargestMask { of: value(draws), count: 1 + draws.below(all.min(9)) },
        },
        13 => Op::Gather { of: experts(draws), at: of_type(draws, &|ty| matches!(ty, Type::ExpertChoice(_))) },
        14 => Op::Scatter {
            of: of_type(draws, &|ty| matches!(ty, Type::Picks(_))),
            at: of_type(draws, &|ty| matches!(ty, Type::ExpertChoice(_))),
        },
        _ => Op::GroupLargestMask { of: experts(draws), count: 1 + draws.below(size) },
    }
}

/// How hostile the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Random, without ties.
    Tame,
    /// Few different numbers: ties everywhere.
    Ties,
    /// Infinities, zeros of both signs, subnormal and huge numbers.
    Extreme,
    /// As before, now and then NaN and table rows that are no choice.
    Faulty,
}

/// The numbers of all inputs of a program (or its derivative).
pub struct Numbers {
    floats: Vec<Vec<f32>>,
    integers: Vec<Vec<i32>>,
}

impl Numbers {
    pub fn draw(program: &Program, tokens: usize, mood: Mood, seed: u32) -> Numbers {
        let mut random = Random::new(u64::from(seed));
        // 31 bits.
        let mut next = move || (random.bits() >> 33) as u32;
        let number = |next: &mut dyn FnMut() -> u32| {
            let tame = (next() as f32 / (1u32 << 30) as f32 - 1.0) * 3.0;
            match mood {
                Mood::Tame => tame,
                Mood::Ties => [-1.0, -0.0, 0.0, 0.5, 1.0, 1.0][next() as usize % 6],
                Mood::Extreme | Mood::Faulty => match next() % 24 {
                    0 => f32::INFINITY,
                    1 => f32::NEG_INFINITY,
                    2 => -0.0,
                    3 => 0.0,
                    4 => f32::from_bits(next() % (1 << 23)),
                    5 => -f32::from_bits(next() % (1 << 23)),
                    6 => tame * 1e38,
                    7 if mood == Mood::Faulty && next().is_multiple_of(16) => f32::NAN,
                    8 => tame * 30.0,
                    _ => tame,
                },
            }
        };
        let mut numbers = Numbers { floats: Vec::new(), integers: Vec::new() };
        for (index, input) in program.inputs().iter().enumerate() {
            let rows = if input.kind.is_per_token() { tokens } else { 1 };
            let count = rows * program.length_of_input(InputId(index as u32)) as usize;
            let (mut floats, mut integers) = (Vec::new(), Vec::new());
            match input.kind {
                InputKind::TokenId => {
                    integers.extend((0..count).map(|_| match mood {
                        Mood::Faulty if next().is_multiple_of(32) => [-1, 5, i32::MAX, i32::MIN][next() as usize % 4],
                        _ => (next() % 5) as i32,
                    }));
                }
                InputKind::Table { vocabulary, k } => {
                    for _ in 0..vocabulary {
                        // Neighbours, from anywhere, in reverse.
                        let first = next() % program.experts();
                        let expert = |place: u32| ((first + k - place) % program.experts()) as i32;
                        integers.extend((0..k).map(expert));
                        if mood == Mood::Faulty && next().is_multiple_of(4) {
                            let last = integers.len() - 1;
                            let first = integers[last + 1 - k as usize];
                            integers[last] = [first, -1, program.experts() as i32][next() as usize % 3];
                        }
                    }
                }
                _ => floats.extend((0..count).map(|_| number(&mut next))),
            }
            numbers.floats.push(floats);
            numbers.integers.push(integers);
        }
        numbers
    }

    pub fn tensors(&self, program: &Program) -> Vec<Tensor<'_>> {
        let both = self.floats.iter().zip(&self.integers);
        program
            .inputs()
            .iter()
            .zip(both)
            .map(
                |(input, (floats, integers))| {
                    if input.kind.is_integer() { Tensor::I32(integers) } else { Tensor::F32(floats) }
                },
            )
            .collect()
    }
}
