//! Gate kernels on the virtual GPU.
#![allow(dead_code, reason = "each test uses a part of this")]

use moe_contract::{Argument, Buffer, Kernel, Tensor as X};
use moe_gate::inputs::Tensor;
use moe_gate::ir::{InputKind, Program};
use moe_kernels::gate::GateKernel;
use moe_kernels::ptx::{Chip, Target};
use moe_vgpu::{Address, Cluster, Config, Judge, Launch, Module, Policy, RankId, RunError};

use crate::host::Host;
use crate::run::Schedule;

/// What is in a tensor before the launch, so that what the kernel did not write is seen.
pub const UNTOUCHED: u32 = 0xdead_beef;

/// What a launch left.
pub struct Outcome {
    pub status: [u64; 4],
    /// Indices and weights, or only the gradient, as bits.
    pub results: Vec<Vec<u32>>,
    /// Warp instructions.
    pub instructions: u64,
}

/// A gate kernel, ready to run.
pub struct Virtual<'p> {
    kind: Kernel,
    program: &'p Program,
    kernel: GateKernel,
    pub ptx: String,
    module: Module,
}

impl<'p> Virtual<'p> {
    pub fn new(kind: Kernel, program: &'p Program, kernel: GateKernel) -> Virtual<'p> {
        let ptx = kernel.code.ptx(Target::of(Chip::Sm90a)).unwrap_or_else(|error| panic!("{error}"));
        Virtual::of_text(kind, program, kernel, ptx)
    }

    fn of_text(kind: Kernel, program: &'p Program, kernel: GateKernel, ptx: String) -> Virtual<'p> {
        let module = Module::parse(&ptx).unwrap_or_else(|error| panic!("{error}\n{ptx}"));
        Virtual { kind, program, kernel, ptx, module }
    }

    /// The same kernel with another text.
    pub fn with(&self, ptx: String) -> Virtual<'p> {
        Virtual::of_text(self.kind, self.program, self.kernel.clone(), ptx)
    }

    /// Runs it with one tensor for each input of the program. `results` are the rows' lengths of the tensors that it writes.
    pub fn run(&self, tokens: usize, tensors: &[Tensor<'_>], results: &[usize]) -> Outcome {
        self.run_from([0; 4], self.kernel.grid.ctas(tokens as u32), tokens, tensors, results)
    }

    /// The same under another schedule.
    pub fn run_scheduled(
        &self,
        (policy, seed): (Policy, u64),
        tokens: usize,
        tensors: &[Tensor<'_>],
        results: &[usize],
    ) -> Outcome {
        let config = Config { sms: 4, policy, seed, ..Config::default() };
        self.run_on(config, (None, None), [0; 4], self.kernel.grid.ctas(tokens as u32), tokens, tensors, results)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// On one CTA, so that its warps loop, if it runs to its end; beside a host that does something. With what the judge of memory order
    /// found.
    pub fn run_watched(
        &self,
        schedule: Schedule,
        host: Option<Host>,
        tokens: usize,
        tensors: &[Tensor<'_>],
        results: &[usize],
    ) -> (Result<Outcome, RunError>, Option<Judge>) {
        let judge = schedule.is_judged().then(Judge::default);
        let config = Config { ranks: 2, sms: 1, policy: schedule.policy, seed: schedule.seed, ..Config::default() };
        (self.run_on(config, (judge.as_ref(), host), [0; 4], 1, tokens, tensors, results), judge)
    }

    /// The same with a status and a number of CTAs of one's own.
    pub fn run_from(
        &self,
        status: [u64; 4],
        ctas: u32,
        tokens: usize,
        tensors: &[Tensor<'_>],
        results: &[usize],
    ) -> Outcome {
        self.run_on(Config { sms: 4, ..Config::default() }, (None, None), status, ctas, tokens, tensors, results)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    #[allow(clippy::too_many_arguments, reason = "what the runs above have in common")]
    fn run_on(
        &self,
        config: Config,
        (judge, host): (Option<&Judge>, Option<Host>),
        status: [u64; 4],
        ctas: u32,
        tokens: usize,
        tensors: &[Tensor<'_>],
        results: &[usize],
    ) -> Result<Outcome, RunError> {
        let mut cluster = Cluster::new(config).expect("a small cluster");
        let words: Vec<u8> = status.iter().flat_map(|word| word.to_le_bytes()).collect();
        let status = place(&mut cluster, "status", &words);
        let inputs: Vec<(InputKind, Address)> = self
            .program
            .inputs()
            .iter()
            .zip(tensors)
            .map(|(input, tensor)| (input.kind, place(&mut cluster, &input.name, &bytes(*tensor))))
            .collect();
        let find = |wanted: fn(InputKind) -> bool| {
            inputs.iter().find(|(kind, _)| wanted(*kind)).map_or(Address(0), |(_, address)| *address)
        };
        let blank = |width: &usize| UNTOUCHED.to_le_bytes().repeat(tokens * width);
        let outputs: Vec<Address> = results.iter().map(|width| place(&mut cluster, "result", &blank(width))).collect();
        let mut left = outputs.iter().copied();
        let mut arguments: Vec<moe_vgpu::Argument> = Vec::new();
        let is_parameter = |kind: InputKind| !matches!(kind, InputKind::Logits | InputKind::WeightGradient(_));
        let parameters = inputs.iter().filter(|(kind, _)| is_parameter(*kind)).map(|(_, address)| (*address).into());
        let parameters: Vec<moe_vgpu::Argument> = parameters.collect();
        for &argument in self.kind.row().arguments {
            arguments.push(match argument {
                Argument::Buffer(Buffer::Status) => status.into(),
                Argument::Tensor(X::Logits) => find(|kind| kind == InputKind::Logits).into(),
                Argument::Tensor(X::WeightGradients) => {
                    find(|kind| matches!(kind, InputKind::WeightGradient(_))).into()
                }
                Argument::Tensor(_) => left.next().expect("a tensor for each result").into(),
                Argument::Tokens => (tokens as u32).into(),
                Argument::GateParameters => {
                    arguments.extend(parameters.iter().cloned());
                    continue;
                }
                other => panic!("a gate has no {other:?}"),
            });
        }

        let stream = cluster.stream(RankId(0)).expect("the rank exists");
        let kernel = self.module.kernel(self.kind.name()).expect("the kernel is in its module");
        let launch = Launch::linear(ctas, self.kernel.block, arguments);
        cluster.launch(stream, &kernel, launch).unwrap_or_else(|error| panic!("{error}"));
        if let Some(judge) = judge {
            cluster.observe(Box::new(judge.clone()));
        }
        if let Some((kernel, launch)) = host.map(|host| host.launch(status)) {
            let stream = cluster.stream(RankId(1)).expect("the host has a rank");
            cluster.launch(stream, &kernel, launch).unwrap_or_else(|error| panic!("{error}"));
        }
        cluster.run()?;
        let words = read(&cluster_read(&mut cluster, status, 32));
        let status = [0, 1, 2, 3].map(|word| u64::from(words[2 * word]) | u64::from(words[2 * word + 1]) << 32);
        let results = outputs.iter().zip(results);
        let results = results.map(|(&at, width)| read(&cluster_read(&mut cluster, at, 4 * tokens * width))).collect();
        Ok(Outcome { status, results, instructions: cluster.instructions() })
    }
}

fn place(cluster: &mut Cluster, name: &str, bytes: &[u8]) -> Address {
    let address = cluster.allocate(RankId(0), bytes.len().max(16) as u64, name).expect("memory");
    cluster.write(address, bytes).expect("it was just allocated");
    address
}

fn cluster_read(cluster: &mut Cluster, address: Address, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    if cluster.read(address, &mut read).is_err() {
        // A wrong kernel has put undefined bytes there: they are no result.
        read.fill(0xa5);
    }
    read
}

fn bytes(tensor: Tensor<'_>) -> Vec<u8> {
    match tensor {
        Tensor::F32(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        Tensor::I32(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    }
}

fn read(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
}
