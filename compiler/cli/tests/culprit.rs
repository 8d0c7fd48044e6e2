//! A rank that does not send is named by those who wait for it, and the communicator can be used again. On virtual GPUs, and on a GPU
//! where there is one.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moe_bundle::Bundle;
use moe_contract::{RankId, Tensor};
use moe_lower::{Choice, compile};
use moe_runtime::device::{Address, EventId, FunctionId, Launch, Residency, StreamId};
use moe_runtime::{
    Communicator, CudaDevice, CudaOptions, Device, DeviceError, Error, LinkBytes, Options, Parameters, Result,
    VirtualDevice, VirtualOptions,
};
use support::{EXPERTS, HIDDEN, SMALL, numbers};

/// GPUs, of which one launches fewer CTAs of some kernel than it is told.
struct Faulty {
    device: Box<dyn Device>,
    fault: Mutex<Option<Fault>>,
    functions: Mutex<BTreeMap<u32, (RankId, String)>>,
}

#[derive(Clone, Copy)]
struct Fault {
    rank: RankId,
    kernel: &'static str,
    ctas: u32,
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
            Some(Fault { ctas: 0, .. }) => Ok(()),
            Some(Fault { ctas, .. }) => self.device.launch(stream, &Launch { grid: ctas, ..launch.clone() }),
        }
    }
    fn record(&self, stream: StreamId) -> Result<EventId, DeviceError> {
        self.device.record(stream)
    }
    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), DeviceError> {
        self.device.wait(stream, event)
    }
    fn synchronise(&self) -> Result<(), DeviceError> {
        self.device.synchronise()
    }
    fn abandon(&self) -> Result<(), DeviceError> {
        self.device.abandon()
    }
    fn traffic(&self) -> Option<LinkBytes> {
        self.device.traffic()
    }
}

fn bundle() -> Bundle {
    compile(SMALL, &Choice::default()).expect("the file can be built").bundle
}

fn communicator(deadline: Option<Duration>) -> (Arc<Faulty>, Communicator) {
    let device = VirtualDevice::new(4, &VirtualOptions::default()).expect("virtual GPUs");
    communicator_on(Box::new(device), deadline)
}

fn communicator_on(device: Box<dyn Device>, deadline: Option<Duration>) -> (Arc<Faulty>, Communicator) {
    let device = Arc::new(Faulty { device, fault: Mutex::default(), functions: Mutex::default() });
    let options = Options { deadline, ..Options::default() };
    let communicator = Communicator::new(Arc::<Faulty>::clone(&device), &bundle(), options).expect("a communicator");
    (device, communicator)
}

/// Gate to result, three tokens on every rank.
fn layer(moe: &mut Communicator) -> Result<Vec<Vec<u8>>> {
    let logits = vec![numbers(3 * EXPERTS); 4];
    let logits = moe.upload(Tensor::Logits, &logits)?;
    let tokens = moe.upload(Tensor::Tokens, &vec![vec![half::bf16::ONE; 3 * HIDDEN]; 4])?;
    let routing = moe.gate(&logits, &Parameters::none().f32("bias", &[0.0; EXPERTS]))?;
    let dispatched = moe.dispatch(&tokens, &routing)?;
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
        *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(rank), kernel, ctas });
        let start = std::time::Instant::now();
        let error = layer(&mut moe).expect_err("nobody sends");
        assert_eq!(error.to_string(), message);
        assert!(start.elapsed() < Duration::from_secs(10), "deadlines pass in virtual time");
        assert_eq!(layer(&mut moe).expect_err("stopped"), Error::Stopped);

        *device.fault.lock().expect("unpoisoned") = None;
        moe.recover().expect("usable again");
        assert!(layer(&mut moe).expect("all is well again") == good);
    }
}

#[test]
fn a_rank_that_does_not_come_to_the_barrier_is_named() {
    let (device, mut moe) = communicator(Some(Duration::from_millis(1)));
    *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(3), kernel: "barrier", ctas: 0 });
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
        *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(rank), kernel, ctas });
        let error = layer(&mut moe).expect_err("nobody sends").to_string();
        assert!(error.contains(found) && error.contains("after 200ms"), "{kernel}: {error}");
        assert_eq!(layer(&mut moe).expect_err("stopped"), Error::Stopped);

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
    *device.fault.lock().expect("unpoisoned") = Some(Fault { rank: RankId(2), kernel: "dispatch_send", ctas: 1 });
    let error = layer(&mut moe).expect_err("nobody sends");
    assert!(matches!(error, Error::Device(DeviceError::Deadlock { .. })), "{error:?}");
    let report = error.to_string();
    for part in ["kernel `dispatch_count`", "`dispatch.arrive[rank 2]`", "found 1", "with 2", "to be written by rank 2"]
    {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
}
