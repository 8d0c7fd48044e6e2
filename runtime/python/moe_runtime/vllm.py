"""vLLM's prepare and finalize, over a communicator. vLLM itself is not imported: its base class is given.

    from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEPrepareAndFinalizeModular
    prepare_and_finalize = moe_runtime.vllm.make_batched(FusedMoEPrepareAndFinalizeModular)(comm)

``make_batched`` is for experts over groups of rows (a bundle of layout ``batched``, combine ``weighted``) and waits for nothing; ``make_standard`` for
experts over rows with picks (``rank_major``, ``unweighted``), and waits for the number of rows.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from .communicator import Communicator
from .deep_ep.travel import local_rows, sized, waited
from .errors import refuse
from .routing import Routing, Rows

Prepared = tuple[Tensor, Tensor | None, Any, Tensor | None, Tensor | None]
"""Rows, their scales, what vLLM calls ``ExpertTokensMetadata``, and for rows by token their experts and weights."""


def _micro_batch() -> int:
    """Which of two overlapping batches the calling thread computes."""
    ubatching = sys.modules.get("vllm.v1.worker.ubatching")
    return 0 if ubatching is None else int(ubatching.dbo_current_ubatch_id())


class _Ours:
    """What both have in common."""

    layout = ""
    weighs = False
    theirs: Any = None
    """vLLM's module of the base class."""

    def __init__(self, comm: Communicator) -> None:
        super().__init__()
        plan = comm.plan
        plan.expect("comm", self.layout, weighs=self.weighs)
        if not comm.single:
            raise refuse("comm", "a worker is one rank: pass a communicator of one")
        self.comm = comm
        self.first = plan.first_experts[comm.ranks.start]
        self.local = plan.last_experts[comm.ranks.start] - self.first
        self.sent: dict[int, Rows] = {}

    def topk_indices_dtype(self) -> torch.dtype | None:
        return torch.int32

    def num_dispatchers(self) -> int:
        return self.comm.plan.ranks

    def output_is_reduced(self) -> bool:
        return True

    def _send(
        self, a1: Tensor, topk_weights: Tensor, topk_ids: Tensor, num_experts: int, on_input: bool, quant_config: Any, deferred: bool
    ) -> Rows:
        plan = self.comm.plan
        if num_experts != plan.experts:
            raise refuse("num_experts", f"it is {num_experts}, and the bundle has {plan.experts}: compile a bundle for the model")
        if plan.scale_block is not None:
            block = getattr(quant_config, "block_shape", None)
            if deferred or block is None or block[1] != plan.scale_block:
                raise refuse("quant_config", f"rows come as {plan.input_number} with a scale for {plan.scale_block} elements; these experts want others")
        elif not deferred and getattr(quant_config, "quant_dtype", None) is not None:
            raise refuse("quant_config", f"rows come as {plan.input_number}: take experts that scale their input, or a bundle whose payload has scales")
        if on_input:
            if plan.top_k != 1:
                raise refuse("apply_router_weight_on_input", f"it needs one expert for each token, and there are {plan.top_k}")
            a1, topk_weights = a1 * topk_weights.to(a1.dtype), torch.ones_like(topk_weights)
        slot = _micro_batch()
        if slot in self.sent:
            raise refuse("prepare", "the rows of the last call were not finalized")
        self.sent[slot] = self.comm.dispatch(a1, Routing(topk_ids, topk_weights))
        return self.sent[slot]

    def _sent(self) -> Rows:
        rows = self.sent.pop(_micro_batch(), None)
        if rows is None:
            raise refuse("finalize", "nothing was prepared")
        return rows


class Batched(_Ours):
    """Rows in groups of fixed size, ``[local_experts, ranks × tokens, hidden]``; combine weighs."""

    layout, weighs = "batched", True

    @property
    def activation_format(self) -> Any:
        return self.theirs.FusedMoEActivationFormat.BatchedExperts

    def max_num_tokens_per_rank(self) -> int | None:
        return self.comm.plan.most_tokens

    @torch.no_grad()
    def prepare(
        self,
        a1: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        num_experts: int,
        expert_map: Tensor | None,
        apply_router_weight_on_input: bool,
        quant_config: Any,
        defer_input_quant: bool = False,
    ) -> Prepared:
        """Sends ``a1`` ``[tokens, hidden]``, and the weights with it."""
        rows = self._send(a1, topk_weights, topk_ids, num_experts, apply_router_weight_on_input, quant_config, defer_input_quant)
        plan = self.comm.plan
        shape = (plan.local_experts, plan.most_rows // plan.local_experts, -1)
        scales = None if rows.scales is None else rows.scales.view(*shape)[: self.local]
        meta = self.theirs.ExpertTokensMetadata(expert_num_tokens=rows.counts[: self.local], expert_num_tokens_cpu=None)
        return rows.payload.view(*shape)[: self.local], scales, meta, None, None

    @torch.no_grad()
    def finalize(
        self,
        output: Tensor,
        fused_expert_output: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        apply_router_weight_on_input: bool,
        weight_and_reduce_impl: Any,
    ) -> None:
        """Weighs rows ``[local_experts, ranks × tokens, hidden]``, adds them, and writes ``output`` ``[tokens, hidden]``."""
        if type(weight_and_reduce_impl).__name__ != "TopKWeightAndReduceDelegate":
            raise refuse("weight_and_reduce_impl", f"combine weighs and adds; {type(weight_and_reduce_impl).__name__} would do it again")
        plan = self.comm.plan
        flat = fused_expert_output.reshape(-1, plan.hidden)
        output.copy_(self.comm.combine(sized(flat, plan.most_rows), self._sent()))


class Standard(_Ours):
    """Rows by source rank and token, ``[n, hidden]``, with their experts and weights."""

    layout, weighs = "rank_major", False

    @property
    def activation_format(self) -> Any:
        return self.theirs.FusedMoEActivationFormat.Standard

    def max_num_tokens_per_rank(self) -> int | None:
        return None

    @torch.no_grad()
    def prepare(
        self,
        a1: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        num_experts: int,
        expert_map: Tensor | None,
        apply_router_weight_on_input: bool,
        quant_config: Any,
        defer_input_quant: bool = False,
    ) -> Prepared:
        """Sends ``a1`` ``[tokens, hidden]``, and waits for the number of rows. Experts of other ranks appear as one of them, with weight 0."""
        rows = self._send(a1, topk_weights, topk_ids, num_experts, apply_router_weight_on_input, quant_config, defer_input_quant)
        given, numbers = waited(rows, self.local)
        counts = torch.tensor(numbers, dtype=torch.int32)
        picks, weights = local_rows(rows, given)
        elsewhere = num_experts - 1 if self.first == 0 else 0
        meta = self.theirs.ExpertTokensMetadata(expert_num_tokens=rows.counts[: self.local], expert_num_tokens_cpu=counts)
        scales = None if rows.scales is None else rows.scales[:given]
        return rows.payload[:given], scales, meta, torch.where(picks < 0, elsewhere, picks + self.first), weights

    @torch.no_grad()
    def finalize(
        self,
        output: Tensor,
        fused_expert_output: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        apply_router_weight_on_input: bool,
        weight_and_reduce_impl: Any,
    ) -> None:
        """Adds rows ``[n, hidden]`` for each token and writes ``output`` ``[tokens, hidden]``.

        Experts that leave weighing to us give ``[n, top_k, hidden]``, with the experts and weights that ``prepare`` gave.
        """
        rows, plan = self._sent(), self.comm.plan
        reduced = fused_expert_output
        if type(weight_and_reduce_impl).__name__ == "TopKWeightAndReduceDelegate":
            parts = reduced.reshape(-1, plan.top_k, plan.hidden).float()
            factors = torch.ones_like(topk_weights) if apply_router_weight_on_input else topk_weights.float()
            here = (topk_ids >= self.first) & (topk_ids < self.first + self.local)
            # What nobody computed may be anything, and 0 times it as well.
            reduced = torch.where(here[..., None], parts * factors[..., None], 0.0).sum(1).to(fused_expert_output.dtype)
        elif reduced.numel() > 0:
            reduced = weight_and_reduce_impl.apply(
                output=None,
                fused_expert_output=reduced,
                topk_weights=topk_weights,
                topk_ids=topk_ids,
                apply_router_weight_on_input=apply_router_weight_on_input,
            )
        output.copy_(self.comm.combine(sized(reduced.reshape(-1, plan.hidden), plan.most_rows), rows))


def _mixed(ours: type[_Ours], base: type) -> Any:
    return type(f"MoeRuntime{ours.__name__}", (ours, base), {"theirs": sys.modules[base.__module__], "__doc__": ours.__doc__})


def make_batched(base: type) -> Any:
    """The class for experts over groups of rows. ``base``: vLLM's ``FusedMoEPrepareAndFinalizeModular``."""
    return _mixed(Batched, base)


def make_standard(base: type) -> Any:
    """The class for experts over rows with picks. ``base``: vLLM's ``FusedMoEPrepareAndFinalizeModular``."""
    return _mixed(Standard, base)
