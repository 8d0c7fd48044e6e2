"""DeepEP's low-latency calls, over a bundle of layout ``batched`` whose combine weighs.

Invariants:
* nothing waits for the device, and nothing depends on how many rows arrive: what is returned has memory for all that can;
* a call is launched as a whole, in the current stream. The hook that receives lets the stream of its caller wait for that.

The interface has the weights at combine, and the kernels take them with the tokens: without ``topk_weights`` at dispatch, combine sends the
routing again, with rows of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..communicator import Communicator
from ..errors import refuse
from ..routing import Routing, Rows
from ..torch import TYPES
from .checks import INTEGERS, matrix, same_device, unknown
from .events import EventHandle, EventOverlap, after
from .layers import Layer, Source, fits, hardware, mismatch
from .travel import PACKED, columns


@dataclass(frozen=True, eq=False)
class LowLatencyHandle:
    """A low-latency dispatch that can be combined."""

    comm: Communicator
    rows: Rows
    weighs: bool
    """Whether its rows have the weights already."""


class LowLatency:
    """The calls, of a buffer."""

    source: Source
    group: Any
    group_size: int
    num_sms: int

    @staticmethod
    def get_low_latency_rdma_size_hint(num_max_dispatch_tokens_per_rank: int, hidden: int, num_ranks: int, num_experts: int) -> int:
        """0: the memory of a buffer is the bundle's."""
        return 0

    def clean_low_latency_buffer(self, num_max_dispatch_tokens_per_rank: int, hidden: int, num_experts: int) -> None:
        """Nothing: each mode has memory of its own."""

    def low_latency_update_mask_buffer(self, rank_to_mask: int, mask: bool = False) -> None:
        """Refuses to leave a rank out: every rank takes part in every call."""
        if mask:
            raise refuse("mask", f"rank {rank_to_mask} cannot be left out: a rank that does not come stops the others with an error")

    def low_latency_query_mask_buffer(self, mask_status: Tensor) -> None:
        """Fills i32 ``[ranks]`` with 0: no rank is left out."""
        mask_status.zero_()

    def low_latency_clean_mask_buffer(self) -> None:
        """Nothing: no rank is left out."""

    @torch.no_grad()
    def low_latency_dispatch(
        self,
        x: Tensor,
        topk_idx: Tensor,
        num_max_dispatch_tokens_per_rank: int,
        num_experts: int,
        cumulative_local_expert_recv_stats: Tensor | None = None,
        dispatch_wait_recv_cost_stats: Tensor | None = None,
        use_fp8: bool = True,
        round_scale: bool = False,
        use_ue8m0: bool = False,
        async_finish: bool = False,
        return_recv_hook: bool = False,
        topk_weights: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor | tuple[Tensor, Tensor], Tensor, LowLatencyHandle, EventOverlap, Callable[[], None] | None]:
        """Sends every token to each of its experts.

        ``x``: bf16 ``[tokens, hidden]``. ``topk_idx``: int64 or int32 ``[tokens, top_k]``, −1 for none. With ``M`` = ranks × the most tokens of one,
        gives rows ``[local_experts, M, hidden]``; with ``use_fp8`` elements and scales ``[local_experts, M, hidden / 128]``, f32 or, with
        ``use_ue8m0``, four to an int32, columns first in memory; i32 ``[local_experts]``: rows of each; a handle; an event; a hook or None.

        ``topk_weights`` (here only): those of the combine, if they are known already. They travel with the tokens then.
        """
        given = {"dispatch_wait_recv_cost_stats": dispatch_wait_recv_cost_stats, **others}
        unknown("low_latency_dispatch", given)
        if use_ue8m0 and not round_scale:
            raise refuse("use_ue8m0", "scales of that type are powers of two: pass round_scale=True as well")
        tokens = matrix("x", x, (torch.bfloat16, torch.float16, torch.float32))
        picks = matrix("topk_idx", topk_idx, INTEGERS, tokens.shape[0])
        same_device("topk_idx", picks, tokens)
        if use_ue8m0 and tokens.shape[1] % (128 * PACKED):
            raise refuse("use_ue8m0", f"scales of a row of {tokens.shape[1]} elements fill no whole number of int32")
        payload = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}[tokens.dtype]
        if use_fp8:
            payload = f"fp8_e4m3 scale {'ue8m0' if round_scale else 'f32'} per 128"
        layer = Layer(
            self.group_size,
            num_experts,
            picks.shape[1],
            tokens.shape[1],
            num_max_dispatch_tokens_per_rank,
            payload,
            layout="batched",
            sms=self.num_sms,
            **hardware(),
        )
        comm = self.source.communicator(layer, self.group)
        plan = comm.plan
        fits(layer, plan, tokens.shape[0])
        if num_max_dispatch_tokens_per_rank != plan.most_tokens:
            raise mismatch("num_max_dispatch_tokens_per_rank", num_max_dispatch_tokens_per_rank, plan.most_tokens)
        matrix("x", tokens, (TYPES[plan.token_number],))
        weights = _weights(topk_weights, picks)
        rows = comm.dispatch(tokens, Routing(picks, weights))
        if cumulative_local_expert_recv_stats is not None:
            cumulative_local_expert_recv_stats += rows.counts
        shape = (plan.local_experts, plan.most_rows // plan.local_experts)
        received: Tensor | tuple[Tensor, Tensor] = rows.payload.view(*shape, plan.hidden)
        if use_fp8:
            received = (rows.payload.view(*shape, plan.hidden), columns(rows.scales.view(*shape, -1), packed=use_ue8m0))
        handle = LowLatencyHandle(comm, rows, topk_weights is not None)
        return received, rows.counts, handle, after(async_finish), _hook(return_recv_hook)

    @torch.no_grad()
    def low_latency_combine(
        self,
        x: Tensor,
        topk_idx: Tensor,
        topk_weights: Tensor,
        handle: LowLatencyHandle,
        use_logfmt: bool = False,
        zero_copy: bool = False,
        async_finish: bool = False,
        return_recv_hook: bool = False,
        out: Tensor | None = None,
        combine_wait_recv_cost_stats: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, EventOverlap, Callable[[], None] | None]:
        """Brings rows back, multiplies each by its weight and adds those of each token in f32.

        ``x``: ``[local_experts, M, hidden]`` in the type of the bundle's combine. ``topk_idx``, ``topk_weights``: picks of the dispatch, and f32 weights,
        ``[tokens, top_k]``. ``out``: where the result goes. ``use_logfmt`` and ``zero_copy`` change nothing. Gives ``[tokens, hidden]``; an event; a
        hook or None.
        """
        unknown("low_latency_combine", {"combine_wait_recv_cost_stats": combine_wait_recv_cost_stats, **others})
        comm = self._low_latency(handle)
        plan, rows = comm.plan, handle.rows
        output = TYPES[plan.output_number]
        shape = (plan.local_experts, plan.most_rows // plan.local_experts, plan.hidden)
        if not isinstance(x, Tensor) or tuple(x.shape) != shape or not x.is_contiguous():
            found = f"{list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise refuse("x", f"it is {found}; pass a contiguous tensor {list(shape)}, a row for each of the dispatch")
        flat = matrix("x", x.view(-1, plan.hidden), (output,))
        tokens = rows.tokens[0]
        picks = matrix("topk_idx", topk_idx, INTEGERS, tokens, plan.top_k)
        weights = matrix("topk_weights", topk_weights, (torch.float32,), tokens, plan.top_k)
        for what, value in (("topk_idx", picks), ("topk_weights", weights)):
            same_device(what, value, flat)
        if out is not None:
            matrix("out", out, (output,), tokens, plan.hidden)
            same_device("out", out, flat)
        if not handle.weighs:
            nothing = torch.zeros((tokens, plan.hidden), dtype=TYPES[plan.token_number], device=flat.device)
            rows = comm.dispatch(nothing, Routing(picks, weights))
        result = comm.combine(flat, rows)
        if out is not None:
            result = out.copy_(result)
        return result, after(async_finish), _hook(return_recv_hook)

    def get_next_low_latency_combine_buffer(self, handle: LowLatencyHandle) -> Tensor:
        """Memory ``[local_experts, M, hidden]`` for the rows of a combine."""
        plan, like = self._low_latency(handle).plan, handle.rows.payload
        shape = (plan.local_experts, plan.most_rows // plan.local_experts, plan.hidden)
        return torch.zeros(shape, dtype=TYPES[plan.output_number], device=like.device)

    def _low_latency(self, handle: Any) -> Communicator:
        """The communicator of a handle, which must be one of this buffer's."""
        if not isinstance(handle, LowLatencyHandle):
            raise refuse("handle", f"pass what low_latency_dispatch gave, not {type(handle).__name__}")
        return self.source.owner(handle.comm, self.group)


def _weights(given: Tensor | None, picks: Tensor) -> Tensor:
    if given is None:
        return torch.ones(picks.shape, device=picks.device)
    same_device("topk_weights", given, picks)
    return matrix("topk_weights", given, (torch.float32,), picks.shape[0], picks.shape[1])


def _hook(asked: bool) -> Callable[[], None] | None:
    return EventHandle().current_stream_wait if asked else None
