"""``ElasticBuffer``: dispatch and combine of DeepEP's second interface.

Invariants:
* without ``do_expand`` rows are those of ``Buffer``: one for each token of a rank. With it they are by expert, one for each pick, over a bundle of
  layout ``expert_major`` whose combine does not weigh;
* what the handle says of the rows is on the device. The one call that waits is a dispatch with ``do_cpu_sync``, which DeepEP's default is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..communicator import Communicator
from ..errors import refuse
from ..routing import Rows
from ..torch import TYPES
from .buffer import Buffer
from .checks import matrix, same_device, unknown
from .events import EventHandle, EventOverlap, after, before
from .layers import Layer, Source, align_of, fits, hardware, mismatch, source_of
from .travel import Received, as_many, ascending, biased, local_rows, payload, routed, sized, split, tokens, weights_back

OPTIONS = {
    "num_cpu_bytes",
    "deterministic",
    "allow_hybrid_mode",
    "allow_multiple_reduction",
    "prefer_overlap_with_compute",
    "sl_idx",
    "num_allocated_qps",
    "num_cpu_timeout_secs",
    "num_gpu_timeout_secs",
    "explicitly_destroy",
}
"""Keywords of ``ElasticBuffer`` that say how its memory and its network are used. Rows always lie in one order."""


class EPHandle:
    """A dispatch that can be combined and repeated.

    ``psum_num_recv_tokens_per_scaleup_rank``: i32 ``[ranks]``: rows of all ranks up to each. ``psum_num_recv_tokens_per_expert``: i32
    ``[local_experts]``: rows up to the end of each expert, every count a multiple of ``expert_alignment``; expanded, the last of the expert itself is
    not: where its rows end. ``num_recv_tokens_per_expert_list``: those multiples, or nothing where dispatch has not waited.
    """

    def __init__(self, comm: Communicator, rows: Rows, order: Tensor, topk_idx: Tensor, numbers: dict[str, Any]) -> None:
        self.comm = comm
        self.rows = rows
        self.order = order
        self.topk_idx = topk_idx
        self.weighted: bool = numbers["weighted"]
        self.packed: bool = numbers["packed"]
        self.do_expand: bool = numbers["do_expand"]
        self.synced: bool = numbers["synced"]
        self.num_experts: int = comm.plan.experts
        self.expert_alignment: int = numbers["expert_alignment"]
        self.num_max_tokens_per_rank: int = numbers["num_max_tokens_per_rank"]
        self.num_sms: int = Buffer.num_sms
        counts = rows.counts
        whole = -(-counts // self.expert_alignment) * self.expert_alignment
        ends = whole.cumsum(0, dtype=torch.int32)
        self.num_unaligned_recv_tokens_per_expert: Tensor = counts
        self.psum_num_recv_tokens_per_expert: Tensor = ends - whole + counts if self.do_expand else ends
        self.psum_num_recv_tokens_per_scaleup_rank: Tensor = rows.received.cumsum(0, dtype=torch.int32)
        self.num_recv_tokens_per_expert_list: list[int] = []
        capacity = comm.plan.ranks * self.num_max_tokens_per_rank
        self.num_recv_tokens: int = capacity
        self.num_expanded_tokens: int = comm.plan.most_rows
        if self.synced:
            numbers_now = torch.cat([self.psum_num_recv_tokens_per_scaleup_rank[-1:], whole.to(torch.int32)]).tolist()
            self.num_recv_tokens, self.num_recv_tokens_per_expert_list = numbers_now[0], numbers_now[1:]
            self.num_expanded_tokens = sum(self.num_recv_tokens_per_expert_list)

    @property
    def given(self) -> int:
        """Rows that the caller got."""
        return self.num_expanded_tokens if self.do_expand else self.num_recv_tokens


class ElasticBuffer:
    """``group``: a torch process group, whose ranks are the bundle's. Bundles are those of ``moe_runtime.deep_ep.install``: ``bundle`` and ``expanded``.

    ``num_max_tokens_per_rank`` is of bundles that are compiled, and the default of ``dispatch``. Sizes, the network and ``hidden``, ``num_topk``,
    ``use_fp8_dispatch`` change nothing: a dispatch says them itself. Engram, pipelines and gathers are not here.
    """

    def __init__(
        self,
        group: Any,
        num_bytes: int | None = None,
        num_max_tokens_per_rank: int = 0,
        hidden: int = 0,
        num_topk: int = 0,
        use_fp8_dispatch: bool = False,
        **options: Any,
    ) -> None:
        unknown("ElasticBuffer", options, OPTIONS)
        self.source: Source = source_of(group)
        self.group = group
        self.rank_idx: int = group.rank()
        self.num_ranks: int = group.size()
        self.num_bytes = num_bytes or 0
        self.num_max_tokens_per_rank = num_max_tokens_per_rank

    def destroy(self) -> None:
        """Nothing: the communicator is freed with the last buffer and handle that use it."""

    @staticmethod
    def capture() -> EventHandle:
        """What the current stream has launched until now."""
        return EventHandle()

    @staticmethod
    def get_buffer_size_hint(group: Any, num_max_tokens_per_rank: int, hidden: int, **others: Any) -> int:
        """0: the memory of a buffer is the bundle's."""
        return 0

    def get_physical_domain_size(self) -> tuple[int, int]:
        """Ranks that only a network joins, and ranks of a node: all are in one."""
        return 1, self.num_ranks

    def get_logical_domain_size(self) -> tuple[int, int]:
        """The same."""
        return self.get_physical_domain_size()

    def get_theoretical_num_sms(self, num_experts: int, num_topk: int, **others: Any) -> int:
        """Multiprocessors of bundles that are compiled."""
        return Buffer.num_sms

    def get_theoretical_num_qps(self, num_sms: int) -> int:
        """0: no network is used."""
        return 0

    @torch.no_grad()
    def dispatch(
        self,
        x: Received,
        topk_idx: Tensor | None = None,
        topk_weights: Tensor | None = None,
        cumulative_local_expert_recv_stats: Tensor | None = None,
        num_experts: int | None = None,
        num_max_tokens_per_rank: int | None = None,
        expert_alignment: int | None = None,
        num_sms: int = 0,
        num_qps: int = 0,
        previous_event: EventHandle | None = None,
        previous_event_before_epilogue: EventHandle | None = None,
        async_with_compute_stream: bool = False,
        allocate_on_comm_stream: bool = False,
        handle: EPHandle | None = None,
        do_handle_copy: bool = True,
        do_cpu_sync: bool | None = None,
        do_expand: bool = False,
        do_zero_padding: bool = False,
        use_tma_aligned_col_major_sf: bool = False,
        **others: Any,
    ) -> tuple[Received, Tensor | None, Tensor | None, EPHandle, EventOverlap]:
        """Sends every token to the ranks of its experts; with ``handle``, other tokens the way of an earlier dispatch.

        ``x``: ``[tokens, hidden]``, or (elements, scales ``[tokens, hidden / block]``). ``topk_idx``, ``topk_weights``: ``[tokens, top_k]``.

        Gives rows ``[n, hidden]``, or elements and scales; local experts of each row ``[n, top_k]``, −1 for those of other ranks, or None where
        ``do_expand``; weights, f32 ``[n, top_k]``, or ``[n]`` where ``do_expand``, None without ``topk_weights``; a handle; an event. With ``do_cpu_sync``,
        the default, it waits for the device, and ``n`` is what arrived. Otherwise it is what can arrive, and rows behind have −1.
        """
        unknown("dispatch", others)
        before(previous_event)
        before(previous_event_before_epilogue)
        if handle is not None:
            if topk_idx is not None or topk_weights is not None or do_cpu_sync:
                raise refuse("handle", "a dispatch with a handle has its routing and its rows: leave topk_idx, topk_weights and do_cpu_sync out")
            comm = self._of(handle)
            as_many(x, handle.rows)
            sent = comm.dispatch_cached(tokens(comm.plan, x), handle.rows)
            return self._given(handle, sent, use_tma_aligned_col_major_sf), None, None, handle, after(async_with_compute_stream)
        if topk_idx is None or num_experts is None:
            raise refuse("topk_idx" if topk_idx is None else "num_experts", "pass it, or a handle")
        elements, scales = split(x)
        picks, weights = routed(elements, topk_idx, topk_weights)
        align = 1 if expert_alignment is None else expert_alignment
        if align < 1:
            raise refuse("expert_alignment", f"it is {align}; pass at least 1")
        layer = Layer(
            self.num_ranks,
            num_experts,
            picks.shape[1],
            elements.shape[1],
            self.num_max_tokens_per_rank or num_max_tokens_per_rank or self.source.tokens or 0,
            payload(elements, scales),
            layout=f"expert_major align {align}" if do_expand else "rank_major",
            sms=num_sms or Buffer.num_sms,
            **hardware(),
        )
        comm = self.source.communicator(layer, self.group)
        fits(layer, comm.plan, elements.shape[0])
        most = num_max_tokens_per_rank or self.num_max_tokens_per_rank or comm.plan.most_tokens
        if most > comm.plan.most_tokens or elements.shape[0] > most:
            raise mismatch("num_max_tokens_per_rank", most, f"at most {comm.plan.most_tokens}, and the call {elements.shape[0]} tokens")
        if do_expand and align_of(comm.bundle) != align:
            raise mismatch("expert_alignment", align, align_of(comm.bundle))
        routing, order = ascending(picks, weights)
        rows = comm.dispatch(tokens(comm.plan, x), routing)
        if cumulative_local_expert_recv_stats is not None:
            cumulative_local_expert_recv_stats += rows.counts
        numbers = {
            "weighted": topk_weights is not None,
            "packed": isinstance(x, tuple) and x[1].dtype == torch.int32,
            "do_expand": do_expand,
            "synced": do_cpu_sync is None or do_cpu_sync,
            "expert_alignment": align,
            "num_max_tokens_per_rank": most,
        }
        made = EPHandle(comm, rows, order, picks.clone() if do_handle_copy else picks, numbers)
        local, of_rows = self._local(made)
        return (
            self._given(made, rows, use_tma_aligned_col_major_sf),
            local,
            of_rows if made.weighted else None,
            made,
            after(async_with_compute_stream),
        )

    @torch.no_grad()
    def combine(
        self,
        x: Tensor,
        handle: EPHandle,
        topk_weights: Tensor | None = None,
        bias: Tensor | tuple[Tensor, Tensor] | None = None,
        num_sms: int = 0,
        num_qps: int = 0,
        previous_event: EventHandle | None = None,
        previous_event_before_epilogue: EventHandle | None = None,
        async_with_compute_stream: bool = False,
        allocate_on_comm_stream: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, EventOverlap]:
        """Brings rows back and adds those of each token in f32, as they are.

        ``x``: ``[n, hidden]`` in the type of the bundle's combine, a row for each of the dispatch; those behind what arrived may be left out.
        ``topk_weights``: f32 ``[n, top_k]``, or ``[n]`` where the handle expands, which go back to their tokens. Gives ``[tokens, hidden]``; f32
        ``[tokens, top_k]`` in the order of the caller's picks, or None; an event.
        """
        unknown("combine", others)
        comm = self._of(handle)
        plan = comm.plan
        given = matrix("x", x, (TYPES[plan.output_number],), handle.given if handle.synced else None, plan.hidden)
        if given.shape[0] > handle.given:
            raise refuse("x", f"it has {given.shape[0]} rows, and the dispatch gave {handle.given}")
        numbers = topk_weights
        if numbers is not None:
            if isinstance(numbers, Tensor) and numbers.dim() == 1 and handle.do_expand:
                numbers = numbers[:, None]
            matrix("topk_weights", numbers, (torch.float32,), given.shape[0], plan.weights_per_row)
            same_device("topk_weights", numbers, given)
        before(previous_event)
        before(previous_event_before_epilogue)
        result = biased(comm.combine(sized(given, plan.most_rows), handle.rows), bias)
        of_tokens = None if numbers is None else weights_back(comm, handle.rows, handle.order, numbers)
        return result, of_tokens, after(async_with_compute_stream)

    def _of(self, handle: Any) -> Communicator:
        """The communicator of a handle, which must be one of this buffer's."""
        if not isinstance(handle, EPHandle):
            raise refuse("handle", f"pass what dispatch gave, not {type(handle).__name__}")
        return self.source.owner(handle.comm, self.group)

    def _given(self, handle: EPHandle, rows: Rows, columns: bool) -> Received:
        if rows.scales is None:
            return sized(rows.x, handle.given)
        scales = sized(rows.scales, handle.given)
        if handle.packed:
            scales = scales.contiguous().view(torch.int32)
        if columns:
            # A column begins at a multiple of 16 bytes.
            room = scales.new_empty((scales.shape[1], -(-scales.shape[0] // 4) * 4))
            scales = room[:, : scales.shape[0]].copy_(scales.T).T
        return sized(rows.payload, handle.given), scales

    def _local(self, handle: EPHandle) -> tuple[Tensor | None, Tensor]:
        """Local experts of each row and their weights; of an expanded one, only the weight."""
        rows = handle.rows
        if handle.do_expand:
            place = torch.arange(handle.given, device=rows.counts.device)
            counts = rows.counts
            expert = torch.searchsorted(rows.offsets.contiguous(), place.to(torch.int32), right=True).clamp(max=counts.shape[0] - 1)
            arrived = place < handle.psum_num_recv_tokens_per_expert[expert]
            return None, torch.where(arrived, sized(rows.weights, handle.given)[:, 0], 0.0)
        picks, weights = local_rows(rows, handle.given)
        return picks.to(handle.topk_idx.dtype), weights
