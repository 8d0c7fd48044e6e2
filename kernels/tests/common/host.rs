//! The host as a kernel on a rank of its own: it watches the status of ranks and writes it while their kernels run, with system scope.
#![allow(dead_code, reason = "each test uses a part of this")]

use moe_vgpu::{Address, Launch, Module};

const TEXT: &str = "
.version 8.6
.target sm_90a
.address_size 64
.visible .entry watch(.param .u64 status) {
    .reg .pred %p<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [status];
again:
    ld.relaxed.sys.global.u64 %rd2, [%rd1];
    setp.eq.u64 %p1, %rd2, 0;
    @%p1 bra again;
    ret;
}
.visible .entry stop(.param .u64 status, .param .u64 code, .param .u32 after) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [status];
    ld.param.u64 %rd2, [code];
    ld.param.u32 %r1, [after];
    nanosleep.u32 %r1;
    st.relaxed.sys.global.u64 [%rd1], %rd2;
    ret;
}";

/// What the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// It looks at the status until that is set.
    Watches,
    /// It writes that it has given up, after so many nanoseconds.
    Stops { after: u32 },
}

impl Host {
    /// As a launch, for the status of a rank.
    pub fn launch(self, status: Address) -> (moe_vgpu::Kernel, Launch) {
        let module = Module::parse(TEXT).expect("the text above");
        let kernel = |name| module.kernel(name).expect("it is there");
        match self {
            Host::Watches => (kernel("watch"), Launch::linear(1, 1, vec![status.into()])),
            Host::Stops { after } => {
                let code = moe_contract::status::STOPPED;
                (kernel("stop"), Launch::linear(1, 1, vec![status.into(), code.into(), after.into()]))
            }
        }
    }
}
