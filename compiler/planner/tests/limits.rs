//! What the time model must say whatever its parameters are.

use moe_front::spec::Mode;
use moe_planner::calibrate::{Hardware, read};
use moe_planner::time::{Call, Direction, Profile};

/// Calls of both directions on every number of nodes.
fn calls(mode: Mode) -> Vec<(Direction, Call)> {
    let mut text = String::from("node_num,hidden_size,num_token,num_topk,num_experts,");
    text += match mode {
        Mode::Throughput => {
            "dispatch_sms,dispatch_transmit_us,dispatch_notify_us,combine_sms,combine_transmit_us,combine_notify_us\n"
        }
        Mode::Latency => "dispatch_avg_t_us,combine_avg_t_us\n",
    };
    for nodes in [1, 2, 4, 8, 16, 32] {
        let rest = if mode == Mode::Throughput { "20,1,0,20,1,0" } else { "1,1" };
        text += &format!("{nodes},7168,4096,8,256,{rest}\n");
    }
    read(text.as_bytes(), &Hardware::H100).unwrap().rows.iter().map(|row| (row.direction, row.call)).collect()
}

fn time(profile: &Profile, mode: Mode, direction: Direction, call: Call) -> f64 {
    profile.predict(mode, direction, &call).transfer.0
}

#[test]
fn limits_are_those_of_the_hardware() {
    for profile in [Profile::deepep_v1_h100(), Profile::unmeasured()] {
        for mode in [Mode::Throughput, Mode::Latency] {
            for (direction, call) in calls(mode) {
                let of = |call| time(&profile, mode, direction, call);
                let nothing = profile.predict(mode, direction, &Call { tokens: 0.0, ..call });
                assert_eq!(nothing.transfer.0, nothing.latency.0, "no tokens take the start alone");
                // Of a great many, the slowest part is what counts, and it is paid once for each token.
                let many = profile.predict(mode, direction, &Call { tokens: 1e9, ..call });
                let slowest = many.copy.0.max(many.nvlink.0).max(many.network.0);
                assert!(many.transfer.0 >= slowest && many.transfer.0 < 1.15 * slowest, "{many:?}");
                assert!((of(Call { tokens: 2e9, ..call }) / many.transfer.0 - 2.0).abs() < 1e-3);
                assert_eq!(many.network.0 > 0.0, call.nodes > 1, "one node has no network");
                // More to do takes longer, more to do it with never does.
                assert!(of(Call { tokens: call.tokens + 1.0, ..call }) > of(call));
                for faster in [
                    Call { sms: call.sms + 1, ..call },
                    Call { nvlink: call.nvlink * 1.1, ..call },
                    Call { rdma: call.rdma * 1.1, ..call },
                ] {
                    assert!(of(faster) <= of(call), "{faster:?}");
                }
            }
        }
    }
}

#[test]
fn no_multiprocessors_speed_up_a_link() {
    let profile = Profile::deepep_v1_h100();
    for (direction, call) in calls(Mode::Throughput) {
        let unlimited = profile.predict(Mode::Throughput, direction, &Call { sms: 10_000, tokens: 1e6, ..call });
        let link = unlimited.nvlink.0.max(unlimited.network.0);
        assert!(unlimited.transfer.0 >= link && unlimited.transfer.0 < 1.10 * link, "{unlimited:?}");
    }
}

/// A prediction is no surer than what it was made from.
#[test]
fn uncertainty_grows_outside_of_what_was_measured() {
    let profile = Profile::deepep_v1_h100();
    let (direction, inside) = calls(Mode::Throughput)[2];
    let of = |call| profile.predict(Mode::Throughput, direction, &call).uncertainty;
    for outside in [
        Call { nodes: 64, ..inside },
        Call { sms: 60, ..inside },
        Call { tokens: 8.0, ..inside },
        Call { nvlink: 160e9, ..inside },
        Call { rdma: 25e9, ..inside },
    ] {
        assert!(of(outside) > 1.4 * of(inside), "{outside:?}");
    }
}
