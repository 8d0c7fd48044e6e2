//! Barriers, warp-collective instructions, fences and mbarriers.

use super::memory::Strength;
use super::modifiers::Modifiers;
use super::op::*;
use super::{Decoded, Decoder};
use crate::memory::order::{Order, Scope};
use crate::ptx::ScalarType;
use crate::ptx::ast::Operand;
use crate::semantics::float;
use crate::semantics::lanes::Args;
use crate::semantics::shuffle;

/// Instructions that are decoded here.
pub(super) const OPCODES: &[&str] = &[
    "bar",
    "barrier",
    "shfl",
    "vote",
    "match",
    "redux",
    "elect",
    "activemask",
    "fence",
    "membar",
    "mbarrier",
    "cp",
    "tensormap",
];

impl Decoder<'_> {
    pub(super) fn synchronisation(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        match opcode {
            "bar" | "barrier" => self.barrier(opcode, m, operands),
            "shfl" => self.shuffle(m, operands),
            "vote" => self.vote(m, operands),
            "match" => self.match_values(m, operands),
            "redux" => self.reduce(m, operands),
            "elect" => self.elect(m, operands),
            "activemask" => {
                self.only_type(m, ScalarType::B32)?;
                self.expect_count(operands, 1)?;
                let target = self.target(&operands[0], 4)?.row;
                self.emit(Op::ActiveMask { target });
                Ok(())
            }
            "fence" => self.fence(m, operands),
            "membar" => self.membar(m, operands),
            "mbarrier" => self.mbarrier(m, operands),
            "tensormap" => self.tensor_map(m, operands),
            _ => self.copy(m, operands),
        }
    }

    fn needs_sync(&self, m: &mut Modifiers) -> Decoded<()> {
        if m.take("sync") { Ok(()) } else { self.fail("needs .sync: the forms without it are gone since sm_70") }
    }

    /// An instruction with a member mask: the operand and the row it is in.
    fn warp(&mut self, mask: &Operand, members: u32, op: WarpOp) {
        let all = matches!(mask, Operand::Integer(-1 | 0xffff_ffff));
        self.emit(Op::Warp { members, all, op: Box::new(op) });
    }

    fn word(&mut self, operand: &Operand) -> Decoded<u32> {
        Ok(self.source(operand, ScalarType::B32)?.row)
    }

    fn barrier(&mut self, opcode: &str, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        if m.take("warp") {
            self.needs_sync(m)?;
            self.expect_count(operands, 1)?;
            let members = self.word(&operands[0])?;
            self.warp(&operands[0], members, WarpOp::Barrier);
            return Ok(());
        }
        if m.take("cluster") {
            if opcode == "bar" {
                return self.fail("a cluster has a `barrier.cluster`");
            }
            return self.cluster_barrier(m, operands);
        }
        m.take("cta");
        let aligned = m.take("aligned") || opcode == "bar";
        let Some(kind) = m.one_of(&["sync", "arrive", "red"]) else {
            return self.fail("needs .sync, .arrive or .red");
        };
        if kind != "red" {
            let arrive = kind == "arrive";
            if operands.is_empty() || operands.len() > 2 || (arrive && operands.len() != 2) {
                return self.fail("takes a barrier and a number of threads");
            }
            let number = self.word(&operands[0])?;
            let count = operands.get(1).map(|operand| self.word(operand)).transpose()?;
            let mode = if arrive { BarrierMode::Arrive } else { BarrierMode::Sync };
            self.emit(Op::Barrier(Box::new(BarrierOp { mode, aligned, number, count, predicate: None })));
            return Ok(());
        }
        let Some(reduction) = m.one_of(&["popc", "and", "or"]) else { return self.fail("needs .popc, .and or .or") };
        let element = self.need_element(m)?;
        if operands.len() != 3 && operands.len() != 4 {
            return self.fail("takes 3 or 4 operands");
        }
        let number = self.word(&operands[1])?;
        let count = if operands.len() == 4 { Some(self.word(&operands[2])?) } else { None };
        let predicate = Some(self.source_predicate(&operands[operands.len() - 1])?);
        let mode = match (reduction, element) {
            ("popc", ScalarType::U32) => BarrierMode::Popc(self.target(&operands[0], 4)?),
            ("and", ScalarType::Pred) => BarrierMode::And(self.target_predicate(&operands[0])?),
            ("or", ScalarType::Pred) => BarrierMode::Or(self.target_predicate(&operands[0])?),
            _ => return self.unsupported(element),
        };
        self.emit(Op::Barrier(Box::new(BarrierOp { mode, aligned, number, count, predicate })));
        Ok(())
    }

    /// `barrier.cluster.arrive{.release|.relaxed}{.aligned}`, `barrier.cluster.wait{.acquire}{.aligned}`
    fn cluster_barrier(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let Some(kind) = m.one_of(&["arrive", "wait"]) else { return self.fail("needs .arrive or .wait") };
        let arrives = kind == "arrive";
        let order = m.order();
        let possible = match order {
            None => true,
            Some(Order::Release | Order::Relaxed) => arrives,
            Some(Order::Acquire) => !arrives,
            Some(Order::Weak | Order::Volatile | Order::AcqRel | Order::SeqCst) => false,
        };
        if !possible {
            return self.fail("this memory order is not possible here");
        }
        let aligned = m.take("aligned");
        self.expect_count(operands, 0)?;
        let releases = order != Some(Order::Relaxed);
        self.emit(Op::ClusterBarrier(ClusterBarrierOp { arrives, releases, aligned }));
        Ok(())
    }

    /// `d` or `d|p`.
    fn value_and_predicate(&mut self, operand: &Operand) -> Decoded<(Option<Reg>, Option<u32>)> {
        match operand {
            Operand::Pair(value, predicate) => {
                Ok((self.wide_target(value, 4)?, Some(self.target_predicate(predicate)?)))
            }
            value => Ok((self.wide_target(value, 4)?, None)),
        }
    }

    fn shuffle(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        self.needs_sync(m)?;
        let mode = match m.one_of(&["up", "down", "bfly", "idx"]) {
            Some("up") => ShuffleMode::Up,
            Some("down") => ShuffleMode::Down,
            Some("bfly") => ShuffleMode::Butterfly,
            Some(_) => ShuffleMode::Index,
            None => return self.fail("needs .up, .down, .bfly or .idx"),
        };
        self.only_type(m, ScalarType::B32)?;
        self.expect_count(operands, 5)?;
        let a = self.source(&operands[1], ScalarType::B32)?;
        let b = self.word(&operands[2])?;
        let c = self.word(&operands[3])?;
        let members = self.word(&operands[4])?;
        let (target, valid) = self.value_and_predicate(&operands[0])?;
        let sources = match operands[2..4] {
            [Operand::Integer(b), Operand::Integer(c)] => {
                Some(shuffle::sources(mode, &[b as u32; 32], &[c as u32; 32]))
            }
            _ => None,
        };
        let shuffle = WarpOp::Shuffle { mode, target, valid, a, b, c, sources };
        self.warp(&operands[4], members, shuffle);
        Ok(())
    }

    fn vote(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        self.needs_sync(m)?;
        let mode = match m.one_of(&["all", "any", "uni", "ballot"]) {
            Some("all") => VoteMode::All,
            Some("any") => VoteMode::Any,
            Some("uni") => VoteMode::Uniform,
            Some(_) => VoteMode::Ballot,
            None => return self.fail("needs .all, .any, .uni or .ballot"),
        };
        let ballot = mode == VoteMode::Ballot;
        self.only_type(m, if ballot { ScalarType::B32 } else { ScalarType::Pred })?;
        self.expect_count(operands, 3)?;
        let (source, negated) = self.source_predicate(&operands[1])?;
        let members = self.word(&operands[2])?;
        let target = if ballot { self.target(&operands[0], 4)?.row } else { self.target_predicate(&operands[0])? };
        self.warp(&operands[2], members, WarpOp::Vote { mode, target, source, negated });
        Ok(())
    }

    fn match_values(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let Some(kind) = m.one_of(&["any", "all"]) else { return self.fail("needs .any or .all") };
        self.needs_sync(m)?;
        let element = self.need_element(m)?;
        if !matches!(element, ScalarType::B32 | ScalarType::B64) {
            return self.unsupported(element);
        }
        self.expect_count(operands, 3)?;
        let a = self.source(&operands[1], element)?;
        let members = self.word(&operands[2])?;
        let all = kind == "all";
        let (target, valid) = match &operands[0] {
            Operand::Pair(value, predicate) if all => (self.target(value, 4)?, Some(self.target_predicate(predicate)?)),
            Operand::Pair(..) => return self.fail("only .all has a predicate"),
            value => (self.target(value, 4)?, None),
        };
        self.warp(&operands[2], members, WarpOp::Match { all, target: target.row, valid, a });
        Ok(())
    }

    fn reduce(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        self.needs_sync(m)?;
        let kind = match m.one_of(&["add", "min", "max", "and", "or", "xor"]) {
            Some("add") => AtomicKind::Add,
            Some("min") => AtomicKind::Min,
            Some("max") => AtomicKind::Max,
            Some("and") => AtomicKind::And,
            Some("or") => AtomicKind::Or,
            Some(_) => AtomicKind::Xor,
            None => return self.fail("the operation is missing"),
        };
        let (abs, nan) = (m.take("abs"), m.take("NaN"));
        let element = self.need_element(m)?;
        if element == ScalarType::F32 && matches!(kind, AtomicKind::Min | AtomicKind::Max) {
            return self.reduce_floats(kind, abs, nan, operands);
        }
        if abs || nan {
            return self.fail("`.abs` and `.NaN` belong to .f32");
        }
        let bitwise = matches!(kind, AtomicKind::And | AtomicKind::Or | AtomicKind::Xor);
        let possible = match element {
            ScalarType::B32 => bitwise,
            ScalarType::U32 | ScalarType::S32 => !bitwise,
            _ => false,
        };
        if !possible {
            return self.unsupported(element);
        }
        self.expect_count(operands, 3)?;
        let a = self.word(&operands[1])?;
        let members = self.word(&operands[2])?;
        let target = self.target(&operands[0], 4)?.row;
        self.warp(&operands[2], members, WarpOp::Reduce { kind, element, target, a });
        Ok(())
    }

    /// The least or the greatest f32, by way of integers that are ordered as they are. A NaN is beyond all others where it wins, and before all
    /// where it loses.
    fn reduce_floats(&mut self, kind: AtomicKind, abs: bool, nan: bool, operands: &[Operand]) -> Decoded<()> {
        self.expect_count(operands, 3)?;
        let a = self.source(&operands[1], ScalarType::F32)?;
        let members = self.word(&operands[2])?;
        let target = self.target(&operands[0], 4)?;
        let (key, result) = (self.temporary(4)?, self.temporary(4)?);
        let above = (kind == AtomicKind::Max) == nan;
        let args = Args { d: key.row, a: a.row, p: u32::from(abs) | u32::from(above) << 1, ..Args::default() };
        self.emit_alu(uniform!(u32, |a, n| float::ordered(a, n & 1 == 1, n & 2 == 2)), args, &[a.row], &[key.row]);
        let op = WarpOp::Reduce { kind, element: ScalarType::S32, target: result.row, a: key.row };
        self.warp(&operands[2], members, op);
        self.alu(unary!(u32 => u32, float::of_ordered), target, &[result]);
        Ok(())
    }

    fn elect(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        self.needs_sync(m)?;
        self.expect_count(operands, 2)?;
        let Operand::Pair(value, predicate) = &operands[0] else { return self.fail("expected `d|p`") };
        let members = self.word(&operands[1])?;
        let target = self.wide_target(value, 4)?;
        let elected = self.target_predicate(predicate)?;
        self.warp(&operands[1], members, WarpOp::Elect { target, elected });
        Ok(())
    }

    fn fence(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        self.expect_count(operands, if m.has("tensormap::generic") && m.has("acquire") { 2 } else { 0 })?;
        let (kind, scope) = if m.take("mbarrier_init") {
            if m.order() != Some(Order::Release) || m.scope() != Some(Scope::Cluster) {
                return self.fail("needs .release.cluster");
            }
            (FenceKind::MbarrierInit, Scope::Cluster)
        } else if m.take("proxy") {
            if m.take("tensormap::generic") {
                return self.map_fence(m, operands);
            }
            match m.one_of(&["alias", "async", "async::generic"]) {
                Some("alias") => (FenceKind::ProxyAlias, Scope::Sys),
                Some("async::generic") => {
                    self.restricted(m)?;
                    (FenceKind::ProxyAsync(Some(Space::Shared)), Scope::Cta)
                }
                Some(_) => {
                    let space = match self.state_space(m)? {
                        Space::Generic => None,
                        Space::Global => Some(Space::Global),
                        Space::Shared | Space::Cluster => Some(Space::Shared),
                        _ => return self.fail("only .global and .shared have an async proxy"),
                    };
                    (FenceKind::ProxyAsync(space), Scope::Cta)
                }
                None => return self.fail("needs .alias or .async"),
            }
        } else {
            if m.has("sync_restrict::shared::cta") || m.has("sync_restrict::shared::cluster") {
                let order = self.restricted(m)?;
                self.emit(Op::Fence { kind: FenceKind::Memory(order), scope: Scope::Cluster });
                return Ok(());
            }
            let order = m.order().unwrap_or(Order::AcqRel);
            if !matches!(order, Order::SeqCst | Order::AcqRel | Order::Acquire | Order::Release) {
                return self.fail("this memory order is not possible here");
            }
            let Some(scope) = m.scope() else { return self.fail("the scope is missing") };
            (FenceKind::Memory(order), scope)
        };
        self.emit(Op::Fence { kind, scope });
        Ok(())
    }

    /// `.acquire.sync_restrict::shared::cluster.cluster`, `.release.sync_restrict::shared::cta.cluster`
    fn restricted(&mut self, m: &mut Modifiers) -> Decoded<Order> {
        let order = m.order();
        let space = m.one_of(&["sync_restrict::shared::cta", "sync_restrict::shared::cluster"]);
        let order =
            match (order, space) {
                (Some(Order::Acquire), Some("sync_restrict::shared::cluster")) => Order::Acquire,
                (Some(Order::Release), Some("sync_restrict::shared::cta")) => Order::Release,
                _ => return self.fail(
                    "needs .acquire with .sync_restrict::shared::cluster, or .release with .sync_restrict::shared::cta",
                ),
            };
        if m.scope() != Some(Scope::Cluster) {
            return self.fail("needs .cluster");
        }
        Ok(order)
    }

    fn membar(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        self.expect_count(operands, 0)?;
        let scope = match m.one_of(&["cta", "gl", "sys"]) {
            Some("cta") => Scope::Cta,
            Some("gl") => Scope::Gpu,
            Some(_) => Scope::Sys,
            None => return self.fail("needs .cta, .gl or .sys"),
        };
        // Since sm_70 a membar is the sequentially consistent fence of its scope.
        self.emit(Op::Fence { kind: FenceKind::Memory(Order::SeqCst), scope });
        Ok(())
    }

    fn mbarrier(&mut self, m: &mut Modifiers, operands: &[Operand]) -> Decoded<()> {
        let kinds = ["init", "inval", "arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait"];
        let Some(kind) = m.one_of(&kinds) else { return self.fail("an unknown mbarrier operation") };
        let expect = m.take("expect_tx");
        let incomplete = m.take("noComplete");
        let parity = m.take("parity");
        let order = m.order();
        let scope = m.scope();
        let space @ (Space::Generic | Space::Shared | Space::Cluster) = self.state_space(m)? else {
            return self.fail("an mbarrier is in shared memory");
        };
        if space == Space::Cluster && matches!(kind, "init" | "inval" | "test_wait" | "try_wait") {
            return self.fail("this is done by threads of the CTA that has the mbarrier: needs .shared::cta");
        }
        if !matches!(scope, None | Some(Scope::Cta | Scope::Cluster)) {
            return self.fail("the scope is .cta or .cluster");
        }
        if incomplete && (space == Space::Cluster || scope == Some(Scope::Cluster)) {
            return self.fail("`.noComplete` is for .shared::cta and .cta");
        }
        if kind != "expect_tx" && kind != "complete_tx" || order.is_none() {
            self.only_type(m, ScalarType::B64)?;
        } else {
            // `mbarrier.expect_tx.relaxed.cta…` is written with and without the type.
            m.element();
        }
        let waits = matches!(kind, "test_wait" | "try_wait");
        let arrives = matches!(kind, "arrive" | "arrive_drop");
        if (expect || incomplete) && !arrives || parity && !waits {
            return self.fail("modifiers of another mbarrier operation");
        }
        let strength = match (kind, order) {
            ("arrive" | "arrive_drop", None | Some(Order::Release)) => {
                Strength { order: Order::Release, scope: scope.unwrap_or(Scope::Cta) }
            }
            ("test_wait" | "try_wait", None | Some(Order::Acquire)) => {
                Strength { order: Order::Acquire, scope: scope.unwrap_or(Scope::Cta) }
            }
            (_, Some(Order::Relaxed)) => Strength { order: Order::Relaxed, scope: scope.unwrap_or(Scope::Cta) },
            ("init" | "inval", None) => Strength { order: Order::Weak, scope: Scope::Cta },
            ("expect_tx" | "complete_tx", None) => {
                Strength { order: Order::Relaxed, scope: scope.unwrap_or(Scope::Cta) }
            }
            _ => return self.fail("this memory order is not possible here"),
        };
        let (place, kind) = match kind {
            "init" => {
                self.expect_count(operands, 2)?;
                (self.place(&operands[0], space)?, MbarrierKind::Init { count: self.word(&operands[1])? })
            }
            "inval" => {
                self.expect_count(operands, 1)?;
                (self.place(&operands[0], space)?, MbarrierKind::Invalidate)
            }
            "expect_tx" | "complete_tx" => {
                self.expect_count(operands, 2)?;
                let place = self.place(&operands[0], space)?;
                let bytes = self.word(&operands[1])?;
                let expects = kind == "expect_tx";
                let kind = if expects {
                    MbarrierKind::ExpectTransactions { bytes }
                } else {
                    MbarrierKind::CompleteTransactions { bytes }
                };
                (place, kind)
            }
            "test_wait" | "try_wait" => self.mbarrier_wait(kind == "try_wait", parity, space, operands)?,
            _ => self.mbarrier_arrive(kind == "arrive_drop", expect, incomplete, space, operands)?,
        };
        self.emit(Op::Mbarrier(Box::new(MbarrierOp { place, kind, order: strength.order, scope: strength.scope })));
        Ok(())
    }

    fn mbarrier_wait(
        &mut self,
        may_suspend: bool,
        parity: bool,
        space: Space,
        operands: &[Operand],
    ) -> Decoded<(Place, MbarrierKind)> {
        // The fourth operand of a try_wait is a hint in nanoseconds for how long it may suspend.
        if operands.len() != 3 && !(may_suspend && operands.len() == 4) {
            return self.fail("takes a predicate, an address and a state or parity");
        }
        if let Some(hint) = operands.get(3) {
            self.word(hint)?;
        }
        let place = self.place(&operands[1], space)?;
        let (state, parity) = if parity {
            (None, Some(self.word(&operands[2])?))
        } else {
            (Some(self.source(&operands[2], ScalarType::B64)?), None)
        };
        let target = self.target_predicate(&operands[0])?;
        Ok((place, MbarrierKind::Test { state, parity, target }))
    }

    fn mbarrier_arrive(
        &mut self,
        drop: bool,
        expects: bool,
        incomplete: bool,
        space: Space,
        operands: &[Operand],
    ) -> Decoded<(Place, MbarrierKind)> {
        // With or without a state: `arrive state, [address]{, n}` or `arrive [address]{, n}`.
        let (state, rest) = match operands {
            [Operand::Address(..), ..] => (None, operands),
            [Operand::Sink, rest @ ..] => (None, rest),
            [_, ..] if space == Space::Cluster => {
                return self.fail("an arrival in another CTA returns no state: the first operand is `_`");
            }
            [state, rest @ ..] => (Some(self.target(state, 8)?), rest),
            [] => return self.fail("the address is missing"),
        };
        let (Some(address), true) = (rest.first(), rest.len() <= 2) else {
            return self.fail("takes a state, an address and a number");
        };
        let place = self.place(address, space)?;
        let number = rest.get(1).map(|operand| self.word(operand)).transpose()?;
        if (expects || incomplete) && number.is_none() {
            return self.fail("the number is missing");
        }
        let (count, expect) = if expects { (None, number) } else { (number, None) };
        Ok((place, MbarrierKind::Arrive { count, expect, drop, state, complete: !incomplete }))
    }
}
