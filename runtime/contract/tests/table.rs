//! The table of kernels: what follows from it, held against the protocol as it is meant.

use moe_contract::kernel::steps;
use moe_contract::{Buffer, Call, Exchange, Fault, Flag, Format, Grid, Kernel, RowLayout, Status};

fn exchange(weighted: bool) -> Exchange {
    Exchange {
        ranks: 3,
        experts: 8,
        zero_experts: 1,
        top_k: 3,
        hidden: 16,
        max_tokens: 12,
        dispatch: Format::BF16,
        layout: RowLayout::expert_major(4),
        combine: Format::BF16,
        weighted,
        drop: None,
        ctas_link: 5,
        ctas_local: 6,
        threads: 64,
    }
}

fn names(call: Call, exchange: &Exchange) -> Vec<&'static str> {
    call.kernels(exchange).map(Kernel::name).collect()
}

#[test]
fn the_kernels_of_every_call_in_order() {
    let (combine_weighs, experts_weigh) = (exchange(true), exchange(false));
    for exchange in [&combine_weighs, &experts_weigh] {
        assert_eq!(names(Call::Gate, exchange), ["gate"]);
        assert_eq!(names(Call::Dispatch, exchange), ["route", "dispatch_send", "dispatch_count", "dispatch_place"]);
        assert_eq!(names(Call::DispatchCached, exchange), ["dispatch_send_cached", "dispatch_place_cached"]);
        assert_eq!(names(Call::Combine, exchange), ["combine_send", "combine_reduce"]);
        assert_eq!(names(Call::DispatchBackward, exchange), ["combine_send_unweighted", "combine_reduce"]);
    }
    let backward = ["combine_backward_send", "combine_backward_place", "weight_gradient_collect"];
    assert_eq!(names(Call::CombineBackward, &combine_weighs), backward);
    assert_eq!(names(Call::CombineBackward, &experts_weigh), backward[..2]);
    assert_eq!(names(Call::WeightsBackward, &combine_weighs), [""; 0]);
    assert_eq!(names(Call::WeightsBackward, &experts_weigh), ["weight_gradient_send", "weight_gradient_collect"]);
    let dropping = Exchange { drop: Some(moe_contract::Drop::Lowest), ..combine_weighs };
    assert_eq!(names(Call::Gate, &dropping), ["gate", "capacity"]);
}

#[test]
fn in_every_call_a_flag_is_published_before_it_is_waited_for_and_its_epoch_ends_once_at_the_last_use() {
    for exchange in [exchange(true), exchange(false)] {
        for call in Call::ALL {
            let kernels: Vec<Kernel> = call.kernels(&exchange).collect();
            for flag in Flag::ALL {
                let place = |is: &dyn Fn(Kernel) -> bool| kernels.iter().position(|&kernel| is(kernel));
                let published = place(&|kernel| kernel.publishes(&exchange) == Some(flag));
                let waited = place(&|kernel| kernel.row().waits == Some(flag));
                assert_eq!(published.is_some(), waited.is_some(), "{call:?}, {flag:?}");
                assert!(published <= waited, "{call:?}, {flag:?}");
                let uses = |kernel: Kernel| kernel.epochs(&exchange).any(|used| used == flag);
                let ends: Vec<usize> =
                    (0..kernels.len()).filter(|&at| kernels[at].ends(&exchange).any(|ended| ended == flag)).collect();
                let last = (0..kernels.len()).rev().find(|&at| uses(kernels[at]));
                assert_eq!(ends, last.into_iter().collect::<Vec<_>>(), "{call:?}, {flag:?}");
            }
        }
    }
}

#[test]
fn every_kernel_that_publishes_a_flag_takes_as_many_steps() {
    for exchange in [exchange(true), exchange(false)] {
        for &kernel in Kernel::ALL.iter().filter(|kernel| kernel.is_of(&exchange)) {
            if let (Some(flag), Some(grid)) = (kernel.publishes(&exchange), kernel.grid(&exchange)) {
                let Grid::Fixed(ctas) = grid else { panic!("{}: peers count its CTAs", kernel.name()) };
                assert_eq!(u64::from(ctas), steps(flag, &exchange), "{}", kernel.name());
            }
        }
        assert_eq!(Flag::ALL.map(|flag| steps(flag, &exchange)), [5, 5, 5, 1]);
    }
}

#[test]
fn what_a_kernel_uses_is_among_its_arguments() {
    use moe_contract::Argument as A;
    for &kernel in Kernel::ALL {
        let row = kernel.row();
        let has = |argument| row.arguments.contains(&argument);
        assert!(has(A::Buffer(Buffer::Status)), "{}", row.name);
        let epochs = row.waits.or(row.reads).is_some() || row.publishes.is_some();
        assert_eq!(has(A::Buffer(Buffer::Calls)), epochs, "{}", row.name);
        assert_eq!(has(A::Buffer(Buffer::Peers)), row.publishes.is_some(), "{}", row.name);
        assert_eq!(has(A::Symmetric), row.waits.or(row.reads).is_some(), "{}", row.name);
        assert_eq!(has(A::Deadline), row.waits.is_some(), "{}", row.name);
        assert!(row.sends.is_empty() || row.publishes.is_some(), "{}: who would know that it came", row.name);
    }
}

#[test]
fn names_and_codes_are_each_their_own() {
    let distinct = |mut all: Vec<String>| {
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    };
    distinct(Kernel::ALL.iter().map(|kernel| kernel.name().to_owned()).collect());
    distinct(Call::ALL.iter().map(|call| call.name().to_owned()).collect());
    distinct(Buffer::ALL.iter().map(|buffer| buffer.name().to_owned()).collect());
    for flag in Flag::ALL {
        assert_eq!(Status::of(flag.deadline_code()), Some(Status::Deadline(flag)));
    }
    for fault in Fault::ALL {
        assert_eq!(Status::of(fault.code()), Some(Status::Fault(fault)));
    }
    assert_eq!((Status::of(0), Status::of(9)), (Some(Status::Fine), None));
}
