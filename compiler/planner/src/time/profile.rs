//! Models with numbers in them, and where they may be trusted.

use moe_front::spec::Mode;
use serde::{Deserialize, Serialize};

use super::{Call, Direction, LowLatency, Model, Notify, Parameters, Prediction, Throughput};

/// The range of the measurements behind a profile and how well it predicted those it had not seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// Root mean square relative error of groups of measurements that were left out.
    pub error: f64,
    /// The same of calls with fewer than `tokens`.
    pub error_of_few: f64,
    /// Calls with fewer are mostly latency.
    pub tokens: f64,
    /// Fewest and most nodes.
    pub nodes: (u32, u32),
    /// Fewest and most multiprocessors.
    pub sms: (u32, u32),
    /// Declared rate of NVLink, in bytes per second.
    pub nvlink: f64,
    /// Declared rate of the network, the same.
    pub rdma: f64,
}

impl Trust {
    /// Before any measurement.
    const NONE: Trust =
        Trust { error: 1.0, error_of_few: 1.0, tokens: 0.0, nodes: (1, 1), sms: (1, 1), nvlink: 0.0, rdma: 0.0 };
    /// For more nodes or multiprocessors than were measured, or fewer: a judgement.
    const OUTSIDE: f64 = 1.5;
    /// For other links than were measured: the published H800 figures of both modes differ from the profile of H100 by 1.7 times as much as
    /// groups of H100 rows that were left out.
    const OTHER_CLUSTER: f64 = 1.7;

    /// Expected relative error of a call.
    pub fn uncertainty(&self, call: &Call, counts_sms: bool) -> f64 {
        let outside = |value: u32, (low, high): (u32, u32)| value < low || value > high;
        let error = if call.tokens < self.tokens { self.error_of_few } else { self.error };
        let nodes = if outside(call.nodes, self.nodes) { Trust::OUTSIDE } else { 1.0 };
        let sms = if counts_sms && outside(call.sms, self.sms) { Trust::OUTSIDE } else { 1.0 };
        let same = Trust::alike(call.nvlink, self.nvlink) && (call.nodes == 1 || Trust::alike(call.rdma, self.rdma));
        error * nodes * sms * if same { 1.0 } else { Trust::OTHER_CLUSTER }
    }

    /// Whether a declared rate is the measured one.
    fn alike(declared: f64, measured: f64) -> bool {
        (declared / measured - 1.0).abs() < 0.01
    }
}

/// Everything fitted to the measurements of one library on one cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub name: String,
    /// Whose measurements, of what, under which licence.
    pub source: String,
    /// Throughput mode.
    pub throughput: Throughput,
    /// The notify kernels before dispatch and before combine.
    pub notify: [Notify; 2],
    /// Low-latency mode.
    pub latency: LowLatency,
    /// Of the throughput fit.
    pub throughput_trust: Trust,
    /// Of the low-latency fit.
    pub latency_trust: Trust,
}

impl Profile {
    /// DeepEP V1 on H100 nodes of 8.
    ///
    /// # Panics
    /// Never: the file is part of the program, and a test reads it.
    pub fn deepep_v1_h100() -> Profile {
        serde_json::from_str(include_str!("../../data/deepep_v1_h100.json"))
            .expect("the profile in the program is valid")
    }

    /// DeepEP V1 on H800 nodes of 8: the one of H100, moved by twelve published figures.
    ///
    /// # Panics
    /// Never: the file is part of the program, and a test reads it.
    pub fn deepep_v1_h800() -> Profile {
        serde_json::from_str(include_str!("../../data/deepep_v1_h800.json"))
            .expect("the profile in the program is valid")
    }

    /// The profile of a cluster when no other is given: that of H800 where links are declared like there, else that of H100.
    pub fn of_links(nvlink: f64, rdma: Option<f64>) -> Profile {
        let h800 = Profile::deepep_v1_h800();
        let measured = &h800.throughput_trust;
        let like_h800 =
            Trust::alike(nvlink, measured.nvlink) && rdma.is_none_or(|rdma| Trust::alike(rdma, measured.rdma));
        if like_h800 { h800 } else { Profile::deepep_v1_h100() }
    }

    /// What is plausible before any measurement.
    pub fn unmeasured() -> Profile {
        Profile {
            name: "unmeasured".to_owned(),
            source: "priors".to_owned(),
            throughput: Parameters::expected(),
            notify: Parameters::expected(),
            latency: Parameters::expected(),
            throughput_trust: Trust::NONE,
            latency_trust: Trust::NONE,
        }
    }

    /// The time of a call.
    pub fn predict(&self, mode: Mode, direction: Direction, call: &Call) -> Prediction {
        match mode {
            Mode::Throughput => Prediction::of(
                self.throughput.parts(direction, call),
                self.throughput.time(direction, call),
                self.notify.time(direction, call),
                self.throughput_trust.uncertainty(call, true),
            ),
            Mode::Latency => Prediction::of(
                self.latency.parts(direction, call),
                self.latency.time(direction, call),
                0.0,
                self.latency_trust.uncertainty(call, false),
            ),
        }
    }
}
