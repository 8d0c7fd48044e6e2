//! A rank that does not send is named by those who wait for it; a launch that fails on one rank stops the others at once; and the
//! communicator can be used again. On virtual GPUs, and on a GPU where there is one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moe_contract::{Kernel, RankId, Tensor};
use moe_runtime::device::{Address, EventId, FunctionId, GraphId, Launch, Residency, StreamId};
use moe_runtime::{
    Communicator, CudaDevice, CudaOptions, Device, DeviceError, Error, LinkBytes, Options, Parameters, Result,
    VirtualDevice, VirtualOptions, World,
};

use crate::support::{EXPERTS, HIDDEN, WEIGHTED, bundle};

/// GPUs, of which one launches fewer CTAs of some kernel than it is told, or refuses to.
struct Faulty {
    device: Box<dyn Device>,
    fault: Mutex<Option<Fault>>,
    functions: Mutex<BTreeMap<u32, (RankId, String)>>,
}

#[derive(Clone, Copy)]
struct Fault {
    rank: RankId,
    kernel: &'static str,
    /// None: the launch is refused.
    ctas: Option<u32>,
}

impl Device for Faulty {
    fn description(&self) -> String {
        self.device.description()
    }
    fn ranks(&self) -> u32 {
        self.device.ranks()
    }
    fn choose_target<'t>(&self, targets: &[&'t str]) -> Option<&'t str> {
        self.device.choose_target(targets)
    }
    fn allocate(&self, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        self.device.allocate(rank, bytes, name)
    }
    fn free(&self, rank: RankId, address: Address) {
        self.device.free(rank, address);
    }
    fn label(&self, rank: RankId, address: Address, bytes: u64, label: &str, writer: Option<RankId>) {
        self.device.label(rank, address, bytes, label, writer);
    }
    fn write(&self, rank: RankId, address: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.write(rank, address, bytes)
    }
    fn read(&self, rank: RankId, address: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.device.read(rank, address, bytes)
    }
    fn load(&self, rank: RankId, ptx: &str, name: &str) -> Result<FunctionId, DeviceError> {
        let function = self.device.load(rank, ptx, name)?;
        self.functions.lock().expect("unpoisoned").insert(function.0, (rank, name.into()));
        Ok(function)
    }
    fn residency(&self, function: FunctionId, block: u32, shared: u32) -> Result<Residency, DeviceError> {
        self.device.residency(function, block, shared)
    }
    fn stream(&self, rank: RankId) -> Result<StreamId, DeviceError> {
        self.device.stream(rank)
    }
    fn launch(&self, stream: StreamId, launch: &Launch) -> Result<(), DeviceError> {
        let functions = self.functions.lock().expect("unpoisoned");
        let (rank, name) = &functions[&launch.function.0];
        let fault = self.fault.lock().expect("unpoisoned").filter(|fault| fault.rank == *rank && fault.kernel == name);
        match fault {
            None => self.device.launch(stream, launch),
            Some(Fault { ctas: None, .. }) => Err(DeviceError::Refused { problem: "out of order".into() }),
            Some(Fault { ctas: Some(0), .. }) => Ok(()),
            Some(Fault { ctas: Some(ctas), .. }) => {
                self.device.launch(stream, &Launch { grid: ctas, ..launch.clone() })
            }
        }
    }
    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError> {
        self.device.record(stream)
    }
    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        self.device.wait(stream, event)
    }
    fn rank_of(&self, stream: StreamId) -> Option<RankId> {
        self.device.rank_of(stream)
    }
    fn begin_capture(&self, stream: StreamId) -> Result<(), DeviceError> {
        self.device.begin_capture(stream)
    }
    fn end_capture(&self, stream: StreamId) -> Result<GraphId, DeviceError> {
        self.device.end_capture(stream)
    }
    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), DeviceError> {
        self.device.replay(stream, graph)
    }
    fn forget_graph(&self, graph: GraphId) {
        self.device.forget_graph(graph);
    }
    fn synchronise(&self, streams: &[StreamId], patience: Duration) -> Result<(), DeviceError> {
        self.device.synchronise(streams, patience)
    }
    fn abandon(&self) -> Result<(), DeviceError> {
        self.device.abandon()
    }
    fn traffic(&self) -> Option<LinkBytes> {
        self.device.traffic()
    }
}

fn communicator(deadline: Option<Duration>) -> (Arc<Faulty>, Communicator) {
    let device = VirtualDevice::new(4, &VirtualOptions::default()).expect("virtual GPUs");
    communicator_on(Box::new(device), deadline)
}

fn communicator_on(device: Box<dyn Device>, deadline: Option<Duration>) -> (Arc<Faulty>, Communicator) {
    let device = Arc::new(Faulty { device, fault: Mutex::default(), functions: Mutex::default() });
    let options = Options { deadline };
    let communicator =
        Communicator::new(Arc::<Faulty>::clone(&device), &bundle(WEIGHTED), options).expect("a communicator");
    (device, communicator)
}

/// Gate to result, three tokens on every rank.
fn layer(moe: &mut Communicator) -> Result<Vec<Vec<u8>>> {
    let logits: Vec<f32> = (0..3 * EXPERTS).map(|number| (number as f32).sin()).collect();
    let logits = vec![logits; 4];
    let logits = moe.upload(Tensor::Logits, &logits)?;
    let tokens = moe.upload(Tensor::Tokens, &vec![vec![half::bf16::ONE; 3 * HIDDEN]; 4])?;
    let bias = moe.upload_parameters(&Parameters::none().f32("bias", &[0.0; EXPERTS]))?;
    let routing = moe.gate(&logits, &bias)?;
    let dispatched = moe.dispatch_counted(&tokens, &routing)?;
    let output = moe.apply_experts(&dispatched, |expert, input, output| {
        output.iter_mut().zip(input).for_each(|(output, input)| *output = expert.0 as f32 * input);
    })?;
    let combined = moe.combine(&dispatched.handle, &output)?;
    moe.barrier()?;
    moe.download(&combined)
}

#[test]
fn a_rank_that_does_not_send_is_named_after_the_deadline() {
    let (device, mut moe) = communicator(Some(Duration::from_secs(10)));
    let good = layer(&mut moe).expect("all is well");
    for (kernel, rank, ctas, message) in [
        (
            "dispatch_send",
            2,
            0,
            "rank 0, dispatch.arrive, waits for rank 2: has 0 of 2 after 10s; 3 other ranks wait too",
        ),
        (
            "dispatch_send",
            3,
            1,
            "rank 0, dispatch.arrive, waits for rank 3: has 1 of 2 after 10s; 3 other ranks wait too",
        ),
        (
            "combine_send",
            1,
            1,
            "rank 0, combine.arrive, waits for rank 1: has 1 of 2 after 10s; 3 other ranks wait too",
        ),
    ] {
        *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(rank), kernel, ctas: Some(ctas) });
        let start = std::time::Instant::now();
        let error = layer(&mut moe).expect_err("nobody sends");
        assert_eq!(error.to_string(), message);
        assert!(start.elapsed() < Duration::from_secs(10), "deadlines pass in virtual time");
        assert_eq!(layer(&mut moe).expect_err("stopped"), Error::Stopped { cause: Box::new(error) });

        *device.fault.lock().expect("unpoisoned") = None;
        moe.recover().expect("usable again");
        assert!(layer(&mut moe).expect("all is well again") == good);
    }
}

#[test]
fn a_rank_that_does_not_come_to_the_barrier_is_named() {
    let (device, mut moe) = communicator(Some(Duration::from_millis(1)));
    *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(3), kernel: "barrier", ctas: Some(0) });
    let error = layer(&mut moe).expect_err("nobody comes");
    assert_eq!(
        error.to_string(),
        "rank 0, barrier.arrive, waits for rank 3: has 0 of 1 after 1ms; 2 other ranks wait too"
    );
}

/// The same on GPUs, in real time, where this machine has any; without a driver, that is what it says.
#[test]
fn a_rank_that_does_not_send_is_named_on_a_gpu_too() {
    let device = match CudaDevice::new(4, &CudaOptions::default()) {
        Ok(device) => device,
        Err(error @ (DeviceError::NoDriver | DeviceError::NoGpu)) => {
            eprintln!("nothing was tested on a GPU: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let (device, mut moe) = communicator_on(Box::new(device), Some(Duration::from_millis(200)));
    let good = layer(&mut moe).expect("all is well");
    for (kernel, rank, ctas, found) in [
        ("dispatch_send", 2, 0, "rank 2: has 0 of 2"),
        ("combine_send", 1, 1, "rank 1: has 1 of 2"),
        ("barrier", 3, 0, "rank 3: has 0 of 1"),
    ] {
        *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(rank), kernel, ctas: Some(ctas) });
        let cause = layer(&mut moe).expect_err("nobody sends");
        let error = cause.to_string();
        assert!(error.contains(found) && error.contains("after 200ms"), "{kernel}: {error}");
        assert_eq!(layer(&mut moe).expect_err("stopped"), Error::Stopped { cause: Box::new(cause) });

        *device.fault.lock().expect("unpoisoned") = None;
        moe.recover().expect("usable again");
        assert!(layer(&mut moe).expect("all is well again") == good, "{kernel}");
    }
    let (_, mut on_virtual) = communicator(None);
    assert!(good == layer(&mut on_virtual).expect("virtual GPUs"), "the GPU and the virtual GPUs give the same bits");
}

/// Without a deadline the virtual GPUs themselves see that nothing can happen any more.
#[test]
fn a_wait_without_a_deadline_is_a_deadlock_with_a_name() {
    let (device, mut moe) = communicator(None);
    *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(2), kernel: "dispatch_send", ctas: Some(1) });
    let error = layer(&mut moe).expect_err("nobody sends");
    assert!(matches!(error, Error::Device(DeviceError::Deadlock { .. })), "{error:?}");
    let report = error.to_string();
    for part in ["kernel `dispatch_count`", "`dispatch.arrive[rank 2]`", "found 1", "with 2", "to be written by rank 2"]
    {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
}

/// The others waited for their deadline, and nobody said why.
#[test]
fn a_launch_that_fails_on_one_rank_stops_the_others_at_once() {
    let (device, mut moe) = communicator(Some(Duration::from_secs(10)));
    let good = layer(&mut moe).expect("all is well");
    for (kernel, rank, of_kernel) in [
        ("dispatch_send", 2, Kernel::DispatchSend),
        ("combine_reduce", 3, Kernel::CombineReduce),
        ("barrier", 1, Kernel::Barrier),
    ] {
        *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(rank), kernel, ctas: None });
        let error = layer(&mut moe).expect_err("refused");
        let problem = DeviceError::Refused { problem: "out of order".into() };
        assert_eq!(error, Error::Launch { rank: RankId(rank), kernel: of_kernel, problem });
        assert_eq!(
            error.to_string(),
            format!("rank {rank}: kernel `{kernel}` cannot be launched: virtual GPU: out of order")
        );
        assert_eq!(moe.synchronise(), Err(Error::Stopped { cause: Box::new(error) }));

        *device.fault.lock().expect("unpoisoned") = None;
        moe.recover().expect("usable again");
        assert!(layer(&mut moe).expect("all is well again") == good, "{kernel}");
    }
}

/// Ranks 0 and 1 already wait in their kernels when the launch of rank 2 fails: they give up, and not when their deadline is over.
#[test]
fn kernels_that_wait_give_up_when_the_host_stops_them() {
    const DEADLINE: Duration = Duration::from_secs(1000);
    let virtual_device = Arc::new(VirtualDevice::new(4, &VirtualOptions::default()).expect("virtual GPUs"));
    let device: Arc<dyn Device> = Arc::<VirtualDevice>::clone(&virtual_device);
    let bundle = bundle(WEIGHTED);
    let world = World::new(Arc::clone(&device), &bundle).expect("a world");
    let options = Options { deadline: Some(DEADLINE) };
    let mut first = Communicator::of_ranks(&world, 0..2, options).expect("two ranks");
    let mut second = Communicator::of_ranks(&world, 2..4, options).expect("two ranks");
    let mut another = Communicator::new(Arc::clone(&device), &bundle, Options::default()).expect("on the same GPUs");
    first.barrier().expect("launched");
    // Lets everything run that can: the barrier of ranks 0 and 1 waits for those of 2 and 3.
    another.barrier().expect("launched");
    another.synchronise().expect("it runs");
    let waiting = virtual_device.work();
    assert!(waiting.instructions > 0);

    // A stream that has been closed takes no launch.
    let streams: Vec<StreamId> = [2, 3].map(|rank| device.stream(RankId(rank)).expect("a stream")).into();
    second.use_streams(&streams).expect("of its ranks");
    device.close_stream(streams[0]);
    let error = second.barrier().expect_err("refused");
    assert!(matches!(error, Error::Launch { rank: RankId(2), kernel: Kernel::Barrier, .. }), "{error}");
    assert_eq!(first.barrier(), Err(Error::Stopped { cause: Box::new(error) }), "ranks 0 and 1 know it too");
    drop(second);
    world.recover().expect("usable again");
    let passed = Duration::from_nanos(virtual_device.work().nanoseconds - waiting.nanoseconds);
    assert!(passed < DEADLINE / 1000, "{passed:?}");
    let mut second = Communicator::of_ranks(&world, 2..4, options).expect("two ranks");
    first.barrier().expect("launched");
    second.barrier().expect("launched");
    first.synchronise().expect("they meet");
}
