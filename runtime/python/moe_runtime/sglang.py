"""SGLang's dispatchers, over a communicator. SGLang itself is not imported: its base class is given.

    from sglang.srt.layers.moe.token_dispatcher.base import BaseDispatcher
    dispatcher = moe_runtime.sglang.make_low_latency(BaseDispatcher)(comm)

What they give and take looks as that of SGLang's own dispatchers for DeepEP, whose experts therefore run behind them: ``make_normal`` over a bundle of
layout ``rank_major``, combine ``unweighted`` (waits for the number of rows), ``make_low_latency`` over ``batched`` and ``weighted`` (waits for nothing).
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .communicator import Communicator
from .deep_ep.travel import PACKED, columns, local_rows, sized, waited
from .errors import refuse
from .routing import Routing, Rows


class NormalOutput(NamedTuple):
    """Rows by source rank and token; lists as SGLang's experts take them apart."""

    hidden_states: Tensor
    """``[n, hidden]``"""
    hidden_states_scale: Tensor | None
    topk_ids: Tensor
    """``[n, top_k]``: local experts, −1 for those of other ranks."""
    topk_weights: Tensor
    """f32 ``[n, top_k]``, 0 there."""
    num_recv_tokens_per_expert: list[int]


class LowLatencyOutput(NamedTuple):
    """Rows in groups of fixed size; lists as SGLang's experts take them apart."""

    hidden_states: Tensor
    """``[local_experts, ranks × tokens, hidden]``"""
    hidden_states_scale: Tensor | None
    topk_ids: Tensor
    topk_weights: Tensor
    masked_m: Tensor
    """i32 ``[local_experts]``: rows of each."""
    expected_m: int
    """Rows of an expert, if all had as many."""


class _Ours:
    """What both have in common."""

    layout, weighs, name = "", False, ""
    theirs: Any = None
    """SGLang's module of the base class."""
    output: Any = None
    """What a dispatch gives, with SGLang's format."""

    def __init__(self, comm: Communicator) -> None:
        super().__init__()
        plan = comm.plan
        plan.expect("comm", self.layout, weighs=self.weighs)
        if not comm.single:
            raise refuse("comm", "a worker is one rank: pass a communicator of one")
        self.comm = comm
        self.local = plan.last_experts[comm.ranks.start] - plan.first_experts[comm.ranks.start]
        self.sent: Rows | None = None

    def _send(self, hidden_states: Tensor, topk_output: Any) -> Rows:
        if self.sent is not None:
            raise refuse("dispatch", "the rows of the last call were not combined")
        self.sent = self.comm.dispatch(hidden_states, Routing(topk_output.topk_ids, topk_output.topk_weights))
        return self.sent

    @torch.no_grad()
    def combine(self, combine_input: Any) -> Tensor:
        """Rows as the experts give them, with ``format`` that of the dispatch: ``[tokens, hidden]``."""
        expected = self.theirs.CombineInputFormat[self.name]
        if combine_input.format is not expected:
            raise refuse("combine_input", f"its format is {combine_input.format}; pass one of {expected}")
        if self.sent is None:
            raise refuse("combine", "nothing was dispatched")
        rows, self.sent = self.sent, None
        plan = self.comm.plan
        given = combine_input.hidden_states.reshape(-1, plan.hidden)
        result: Tensor = self.comm.combine(sized(given, plan.most_rows), rows)
        return result


class Normal(_Ours):
    """Rows by source rank and token; the experts weigh. Every count is given as a multiple of ``expert_alignment``."""

    layout, weighs, name = "rank_major", False, "DEEPEP_NORMAL"

    def __init__(self, comm: Communicator, expert_alignment: int = 1) -> None:
        super().__init__(comm)
        if expert_alignment < 1:
            raise refuse("expert_alignment", f"it is {expert_alignment}; pass at least 1")
        self.expert_alignment = expert_alignment

    @torch.no_grad()
    def dispatch(self, hidden_states: Tensor, topk_output: Any) -> Any:
        """Sends ``[tokens, hidden]`` and waits for the number of rows."""
        rows = self._send(hidden_states, topk_output)
        given, counts = waited(rows, self.local)
        picks, weights = local_rows(rows, given)
        scales = None if rows.scales is None else rows.scales[:given]
        whole = [-(-count // self.expert_alignment) * self.expert_alignment for count in counts]
        return self.output(rows.payload[:given], scales, picks.to(topk_output.topk_ids.dtype), weights, whole)


class LowLatency(_Ours):
    """Rows in groups of fixed size; combine weighs."""

    layout, weighs, name = "batched", True, "DEEPEP_LL"

    @torch.no_grad()
    def dispatch(self, hidden_states: Tensor, topk_output: Any) -> Any:
        """Sends ``[tokens, hidden]`` and the weights with it."""
        rows, plan = self._send(hidden_states, topk_output), self.comm.plan
        shape = (plan.local_experts, plan.most_rows // plan.local_experts, -1)
        scales = None
        if rows.scales is not None:
            packed = plan.scale_number == "ue8m0" and rows.scales.shape[1] % PACKED == 0
            scales = columns(rows.scales.view(*shape), packed=packed)[: self.local]
        tokens = hidden_states.shape[0] * plan.ranks * plan.top_k
        return self.output(
            rows.payload.view(*shape)[: self.local],
            scales,
            topk_output.topk_ids,
            topk_output.topk_weights,
            rows.counts[: self.local],
            (tokens + plan.experts) // plan.experts,
        )


def _mixed(ours: type[_Ours], fields: type, base: type) -> Any:
    theirs = sys.modules[base.__module__]
    # A tuple with the member of their enumeration, which they compare by identity.
    output = type(fields.__name__, (fields,), {"__slots__": (), "format": theirs.DispatchOutputFormat[ours.name]})
    return type(f"MoeRuntime{ours.__name__}", (ours, base), {"theirs": theirs, "output": output, "__doc__": ours.__doc__})


def make_normal(base: type) -> Any:
    """The class for prefill. ``base``: SGLang's ``BaseDispatcher``."""
    return _mixed(Normal, NormalOutput, base)


def make_low_latency(base: type) -> Any:
    """The class for decode. ``base``: SGLang's ``BaseDispatcher``."""
    return _mixed(LowLatency, LowLatencyOutput, base)
