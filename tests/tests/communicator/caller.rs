//! Memory of the caller: tensors, gate parameters, an allocator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use moe_contract::{Element, Number, RankId, Tensor};
use moe_runtime::communicator::CallerParameter;
use moe_runtime::device::{Address, Allocator, Memory, StreamId};
use moe_runtime::{CallerPart, Communicator, Device, DeviceError, Error, Policy};

use crate::layer::every_call;
use crate::support::{Input, LAYERS, RANKS, WEIGHTED, assert_same, bundle, communicator, device, on};

/// Memory that this test has, one allocation for each rank.
fn own(device: &Arc<dyn Device>, parts: &[Vec<u8>]) -> Vec<Memory> {
    let of_rank = |(rank, part): (u32, &Vec<u8>)| {
        let memory = Memory::new(device, RankId(rank), part.len() as u64, "of the caller").expect("memory");
        memory.write(part).expect("written");
        memory
    };
    (0..).zip(parts).map(of_rank).collect()
}

fn parts(memory: &[Memory], row_bytes: u64, number: Number) -> Vec<CallerPart> {
    let part = |memory: &Memory| CallerPart { address: memory.address(), rows: memory.bytes() / row_bytes, number };
    memory.iter().map(part).collect()
}

fn bytes<T: bytemuck::Pod>(values: &[Vec<T>]) -> Vec<Vec<u8>> {
    values.iter().map(|values| bytemuck::cast_slice(values).to_vec()).collect()
}

#[test]
fn calls_read_and_write_tensors_that_the_caller_has() {
    let bundle = bundle(WEIGHTED);
    let virtual_device = device(Policy::RoundRobin, 0);
    let mut moe = on(&virtual_device, &bundle);
    let shared = Arc::clone(moe.device());
    let exchange = *moe.exchange();
    let counts = [3usize, 0, 8, 1];
    let input = Input::new(&exchange, &counts, 5);
    let f32 = Number::Element(Element::F32);
    let bf16 = Number::Element(Element::Bf16);

    let logits = own(&shared, &bytes(&input.logits));
    let bias = own(&shared, &vec![bytemuck::cast_slice(&input.bias).to_vec(); RANKS]);
    let rows = own(&shared, &input.tokens);
    let empty = |kind: Tensor| -> Vec<Memory> {
        let sizes = counts.map(|tokens| vec![0; tokens * exchange.tensor_row_bytes(kind) as usize]);
        own(&shared, &sizes)
    };
    let (indices, weights, combined) = (empty(Tensor::Indices), empty(Tensor::Weights), empty(Tensor::Combined));

    let borrow = |moe: &Communicator, kind: Tensor, memory: &[Memory], number| {
        let parts = parts(memory, exchange.tensor_row_bytes(kind), number);
        // SAFETY: the memory lives until the end of this function, after the last call has been waited for.
        unsafe { moe.borrow(kind, &parts) }.expect("tensors of the caller")
    };
    let parameter = CallerParameter { name: "bias".into(), parts: parts(&bias, 4, f32) };
    // SAFETY: as above.
    let parameters = unsafe { moe.borrow_parameters(std::slice::from_ref(&parameter)) }.expect("of the caller");
    let routing = moe_runtime::Routing {
        indices: borrow(&moe, Tensor::Indices, &indices, Number::I32),
        weights: borrow(&moe, Tensor::Weights, &weights, f32),
    };
    let logits = borrow(&moe, Tensor::Logits, &logits, f32);
    moe.gate_into(&logits, &parameters, &routing).expect("launched");
    let tokens = borrow(&moe, Tensor::Tokens, &rows, bf16);
    let dispatched = moe.dispatch(&tokens, &routing).expect("launched");
    let output = moe.apply_experts(&dispatched, |_, input, output| output.copy_from_slice(input)).expect("experts");
    let result = borrow(&moe, Tensor::Combined, &combined, bf16);
    moe.combine_into(&dispatched.handle, &output, &result).expect("launched");
    moe.synchronise().expect("they run");

    // The same with tensors of the communicator.
    let mut other = communicator(&bundle);
    let own_logits = other.upload(Tensor::Logits, &input.logits).expect("uploaded");
    let own_parameters = other.upload_parameters(&input.parameters()).expect("uploaded");
    let own_routing = other.gate(&own_logits, &own_parameters).expect("launched");
    let own_tokens = other.upload(Tensor::Tokens, &input.tokens).expect("uploaded");
    let dispatched = other.dispatch(&own_tokens, &own_routing).expect("launched");
    let output = other.apply_experts(&dispatched, |_, input, output| output.copy_from_slice(input)).expect("experts");
    let expected = other.combine(&dispatched.handle, &output).expect("launched");
    let expected: Vec<Vec<u8>> = other.download(&expected).expect("a result");
    for (memory, expected) in combined.iter().zip(&expected) {
        let found: Vec<u8> = memory.read(0..expected.len()).expect("written");
        assert!(found == *expected);
    }
    assert!(expected.iter().any(|rows| rows.iter().any(|&byte| byte != 0)), "something was computed");

    let wrong = parts(&rows, exchange.tensor_row_bytes(Tensor::Tokens), f32);
    // SAFETY: as above.
    let refused = unsafe { moe.borrow(Tensor::Tokens, &wrong) }.expect_err("another type");
    assert_eq!(refused.to_string(), "tokens of f32 were passed, and this bundle has them in bf16");
    let mut crooked = parts(&rows, exchange.tensor_row_bytes(Tensor::Tokens), bf16);
    crooked[2].address = crooked[2].address.offset(2);
    // SAFETY: as above.
    let refused = unsafe { moe.borrow(Tensor::Tokens, &crooked) }.expect_err("crooked");
    assert!(matches!(refused, Error::Alignment { rank: RankId(2), .. }), "{refused}");
    let short = CallerParameter { parts: parts(&bias[..], 8, f32), ..parameter };
    // SAFETY: as above.
    let refused = unsafe { moe.borrow_parameters(&[short]) }.expect_err("too few");
    assert_eq!(
        refused.to_string(),
        "the gate's parameter `bias` has 4 × f32 on rank 0; it must have 8 × f32 on rank 0"
    );
}

/// An allocator that takes from the device and counts.
struct Counting {
    device: Arc<dyn Device>,
    live: Mutex<BTreeMap<Address, (RankId, String)>>,
    most: Mutex<usize>,
}

impl Allocator for Counting {
    fn allocate(&self, stream: StreamId, rank: RankId, bytes: u64, name: &str) -> Result<Address, DeviceError> {
        let address = self.device.allocate_in(stream, rank, bytes, name)?;
        let mut live = self.live.lock().expect("unpoisoned");
        assert!(live.insert(address, (rank, name.into())).is_none(), "nobody has it");
        let mut most = self.most.lock().expect("unpoisoned");
        *most = (*most).max(live.len());
        Ok(address)
    }

    fn free(&self, stream: StreamId, rank: RankId, address: Address) {
        let known = self.live.lock().expect("unpoisoned").remove(&address);
        assert_eq!(known.map(|known| known.0), Some(rank), "it was allocated on that rank");
        self.device.free_in(stream, rank, address);
    }
}

#[test]
fn tensors_and_handles_come_from_the_allocator_and_go_back() {
    for layer in LAYERS {
        let bundle = bundle(layer);
        let mut moe = communicator(&bundle);
        let counting =
            Arc::new(Counting { device: Arc::clone(moe.device()), live: Mutex::default(), most: Mutex::default() });
        moe.use_allocator(Arc::<Counting>::clone(&counting));
        let input = Input::new(moe.exchange(), &[3, 0, 8, 1], 5);
        let found = every_call(&mut moe, &input, 9).expect("with the allocator");
        assert_same(layer, &found, &every_call(&mut communicator(&bundle), &input, 9).expect("without"));
        assert!(*counting.most.lock().expect("unpoisoned") > 10 * RANKS, "it gave the memory");
        assert_eq!(*counting.live.lock().expect("unpoisoned"), BTreeMap::new(), "all of it is back");
    }
}
