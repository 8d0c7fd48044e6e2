//! What a judge says: two accesses, and what is missing between them.

use super::scopes::{name, whom};
use crate::ids::ThreadId;
use crate::memory::{Proxy, Scope};
use crate::names::demangled;
use crate::observer::AccessKind;
use crate::rules::{Rule, Severity};

/// Who made one of the accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// The host, between runs.
    Host,
    /// A thread.
    Thread(ThreadId),
    /// An asynchronous copy that a thread issued.
    Copy(ThreadId),
    /// The start of the CTA of a thread, and its end.
    Start(ThreadId),
    #[allow(missing_docs, reason = "it is said above")]
    End(ThreadId),
}

/// One of the accesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Who.
    pub agent: Agent,
    /// Name of the kernel; empty for the host.
    pub kernel: String,
    /// What it does.
    pub kind: AccessKind,
    /// Scope of a strong access.
    pub strong: Option<Scope>,
    /// Proxy.
    pub proxy: Proxy,
    /// Line of the instruction in the PTX text.
    pub line: u32,
    /// File and line in the source, if the PTX says it.
    pub source: Option<String>,
}

/// How far apart two threads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Apart {
    /// Lanes of a warp.
    Lanes,
    /// Warps of a CTA.
    Warps,
    /// CTAs of a cluster.
    Cluster,
    /// CTAs of a rank, or launches of one.
    Ctas,
    /// Ranks, or a rank and the host.
    Ranks,
}

/// The edge that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "lines are those of the PTX text, scopes are as found and as needed")]
pub enum Missing {
    /// Nothing at all is between them.
    Everything(Apart),
    /// Both are strong, with scopes that do not include each other.
    StrongScope { scope: Scope, needed: Scope },
    /// The write that tells of the first access does not release.
    Release { line: u32 },
    /// It releases for a narrower scope.
    ReleaseScope { line: u32, scope: Scope, needed: Scope },
    /// The read that hears of the first access does not acquire.
    Acquire { line: u32 },
    /// It acquires with a narrower scope.
    AcquireScope { line: u32, scope: Scope, needed: Scope },
    /// The fence behind the read has a narrower scope.
    FenceScope { line: u32, scope: Scope, needed: Scope },
    /// They are in order, but through different proxies.
    ProxyFence { shared: bool },
    /// So they are, in a way that only the letter of the model minds, see [`Rule::StrictProxies`].
    StrictProxyFence { shared: bool },
    /// A tensor map is used that a kernel has changed, without an acquire of the change.
    TensorMapFence,
    /// The change of the map has not been released.
    TensorMapRelease,
    /// Memory that somebody writes is read through the non-coherent proxy.
    Coherence,
    /// Nobody has waited for a copy.
    CopyWait { issued: u32, bulk: bool, grouped: bool, read: bool },
    /// Shared memory of a CTA is accessed that may not have started.
    CtaStart,
    /// A CTA ends that does not know of an access to its shared memory.
    CtaEnd,
    /// A launch that need not wait for the one before it has not.
    GridWait,
}

impl Missing {
    /// The edge in a few words, for tables.
    pub fn edge(&self) -> &'static str {
        match self {
            Missing::Everything(Apart::Lanes) => "lanes without order",
            Missing::Everything(Apart::Warps) => "warps without order",
            Missing::Everything(Apart::Cluster | Apart::Ctas) => "CTAs without order",
            Missing::Everything(Apart::Ranks) => "ranks without order",
            Missing::StrongScope { .. } => "scope of an access",
            Missing::Release { .. } => "release",
            Missing::ReleaseScope { .. } => "scope of a release",
            Missing::Acquire { .. } => "acquire",
            Missing::AcquireScope { .. } => "scope of an acquire",
            Missing::FenceScope { .. } => "scope of a fence",
            Missing::ProxyFence { .. } | Missing::StrictProxyFence { .. } => "proxy fence",
            Missing::TensorMapFence | Missing::TensorMapRelease => "fence of a tensor map",
            Missing::Coherence => "coherent load",
            Missing::CopyWait { .. } => "wait for a copy",
            Missing::CtaStart => "start of a CTA",
            Missing::CtaEnd => "end of a CTA",
            Missing::GridWait => "wait for a grid",
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Missing::Everything(Apart::Lanes) => {
                write!(f, "nothing orders the lanes of a warp: a bar.warp.sync has to stand between")
            }
            Missing::Everything(Apart::Warps) => {
                write!(f, "nothing orders the warps of a CTA: a barrier has to stand between")
            }
            Missing::Everything(Apart::Cluster) => write!(
                f,
                "nothing orders them: a barrier.cluster has to stand between, or a release of scope .cluster or wider, and an acquire of what \
                 it writes"
            ),
            Missing::Everything(Apart::Ctas) => write!(
                f,
                "nothing orders them: a release of scope .gpu or wider has to follow the first, and an acquire of what it writes to come \
                 before the second"
            ),
            Missing::Everything(Apart::Ranks) => write!(
                f,
                "nothing orders them: a release of scope .sys has to follow the first, and an acquire of what it writes to come before \
                 the second"
            ),
            Missing::StrongScope { scope, needed } => write!(
                f,
                "both are strong, but one has scope {} and the other is {}: needs {}",
                name(*scope),
                whom(*needed),
                name(*needed)
            ),
            Missing::Release { line } => write!(
                f,
                "the write in line {line} that tells of the first does not release it: needs .release, or a fence in front"
            ),
            Missing::ReleaseScope { line, scope, needed } => write!(
                f,
                "the release in line {line} is {}, the reader is {}: needs {}",
                name(*scope),
                whom(*needed),
                name(*needed)
            ),
            Missing::Acquire { line } => write!(
                f,
                "the read in line {line} that hears of the first does not acquire it: needs .acquire, or a fence behind it"
            ),
            Missing::AcquireScope { line, scope, needed } => write!(
                f,
                "the acquire in line {line} is {}, the writer is {}: needs {}",
                name(*scope),
                whom(*needed),
                name(*needed)
            ),
            Missing::FenceScope { line, scope, needed } => write!(
                f,
                "the fence in line {line} is {}, the writer is {}: needs {}",
                name(*scope),
                whom(*needed),
                name(*needed)
            ),
            Missing::ProxyFence { shared } => {
                let space = if *shared { "shared::cta" } else { "global" };
                write!(
                    f,
                    "they are in order, but a fence.proxy.async.{space} has to stand between, as the copy is of another proxy"
                )
            }
            Missing::StrictProxyFence { shared } => {
                let space = if *shared { "shared::cta" } else { "global" };
                write!(
                    f,
                    "they are in order, but the PTX model wants a fence.proxy.async.{space} between, as the copy is of another proxy"
                )
            }
            Missing::TensorMapFence => write!(
                f,
                "they are in order, but a fence.proxy.tensormap::generic.acquire has to stand before the copy, as it looks at its map through \
                 another proxy"
            ),
            Missing::TensorMapRelease => write!(
                f,
                "they are in order, but a fence.proxy.tensormap::generic.release has to stand behind the change, as a copy looks at its map \
                 through another proxy"
            ),
            Missing::Coherence => write!(
                f,
                "ld.global.nc is only for what nobody writes from the beginning of the kernel to its end: needs an ordinary load"
            ),
            Missing::CopyWait { issued, bulk, grouped, read } => {
                let how = match (bulk, grouped, read) {
                    (true, true, true) => "cp.async.bulk.wait_group.read",
                    (true, true, false) => "cp.async.bulk.wait_group",
                    (true, false, _) => "a wait for the phase of its mbarrier",
                    (false, ..) => "cp.async.wait_group, or a wait for the phase of its mbarrier,",
                };
                write!(f, "the copy issued in line {issued} may be under way still: {how} has to come before")
            }
            Missing::CtaStart => write!(
                f,
                "the CTA may not have started: a barrier.cluster has to come before the access, or another message from its threads"
            ),
            Missing::CtaEnd => write!(
                f,
                "the CTA may end before: between the access and its end a barrier.cluster has to stand, or another message to its threads"
            ),
            Missing::GridWait => write!(
                f,
                "the later launch need not wait for those before it in its stream: griddepcontrol.wait has to come before its access, and before \
                 the end of launches between them"
            ),
        }
    }
}

/// Two accesses to a byte, at least one of them a write, that nothing orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The place, by name.
    pub place: String,
    /// The access that the run made first.
    pub first: Party,
    /// The other one.
    pub second: Party,
    /// What is missing between them.
    pub missing: Missing,
    /// An error or a warning.
    pub severity: Severity,
    /// Why it is accepted, if it is.
    pub accepted: Option<String>,
    /// How often it was found at this pair of lines.
    pub times: u64,
}

impl Missing {
    pub(super) fn rule(&self) -> Rule {
        if matches!(self, Missing::StrictProxyFence { .. }) { Rule::StrictProxies } else { Rule::MemoryOrder }
    }
}

impl Conflict {
    /// Whether it is neither a warning nor accepted.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error && self.accepted.is_none()
    }
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            AccessKind::Read => "reads",
            AccessKind::Write => "writes",
            AccessKind::Atomic => "changes",
        };
        let thread = |f: &mut std::fmt::Formatter<'_>, thread: &ThreadId| {
            let ThreadId { rank, launch, cta, warp, lane } = thread;
            let kernel = demangled(&self.kernel);
            write!(f, "{rank}, `{kernel}` (launch {}), CTA {cta}, warp {warp}, lane {lane}", launch.0)
        };
        match &self.agent {
            Agent::Host => return write!(f, "the host {what} it"),
            Agent::Start(who) | Agent::End(who) => {
                let (ThreadId { rank, launch, cta, .. }, kernel) = (who, demangled(&self.kernel));
                let does = if matches!(self.agent, Agent::Start(_)) { "starts" } else { "ends" };
                return write!(f, "CTA {cta} of {rank}, `{kernel}` (launch {}), {does}", launch.0);
            }
            Agent::Thread(who) => thread(f, who)?,
            Agent::Copy(who) => {
                write!(f, "a copy of ")?;
                thread(f, who)?;
            }
        }
        write!(f, " {what} it in line {}", self.line)?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        match (self.proxy, self.strong) {
            (Proxy::NonCoherent, _) => write!(f, " (non-coherent)"),
            (Proxy::TensorMap, _) => write!(f, " (as a tensor map)"),
            (Proxy::Async, _) => write!(f, " (async proxy)"),
            (Proxy::Generic, Some(scope)) => write!(f, " (strong, {})", name(scope)),
            (Proxy::Generic, None) => Ok(()),
        }
    }
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(reason) = &self.accepted {
            write!(f, "accepted ({reason}): ")?;
        } else if self.severity == Severity::Warning {
            write!(f, "warning: ")?;
        }
        write!(f, "{}: {}; {}; {}", self.place, self.first, self.second, self.missing)
    }
}
