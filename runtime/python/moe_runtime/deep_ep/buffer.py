"""``Buffer``: dispatch and combine of DeepEP's first interface, over a bundle of layout ``rank_major`` whose combine does not weigh.

Invariants:
* a token travels once to each rank that has some of its experts; the rows of a rank lie by source rank, and then by token;
* nothing is differentiable: whoever calls has a backward of its own, which is ``combine`` of a dispatch and the cached dispatch of a combine;
* calls are launched in the current stream. The one that waits for the device is a dispatch that gives counts as a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..communicator import Communicator
from ..errors import refuse
from ..routing import Rows
from ..torch import TYPES
from .checks import HARMLESS, INTEGERS, matrix, same_device, unknown
from .events import EventHandle, EventOverlap, after, before
from .layers import Layer, Source, fits, hardware, source_of
from .low_latency import LowLatency
from .travel import Received, as_many, ascending, biased, local_rows, payload, routed, sized, split, tokens, waited, weights_back


class Config:
    """DeepEP's chunk sizes, which bundles have not: they are kept, and change nothing."""

    def __init__(
        self,
        num_sms: int = 20,
        num_max_nvl_chunked_send_tokens: int = 6,
        num_max_nvl_chunked_recv_tokens: int = 256,
        num_max_rdma_chunked_send_tokens: int = 6,
        num_max_rdma_chunked_recv_tokens: int = 128,
    ) -> None:
        self.num_sms = num_sms
        self.num_max_nvl_chunked_send_tokens = num_max_nvl_chunked_send_tokens
        self.num_max_nvl_chunked_recv_tokens = num_max_nvl_chunked_recv_tokens
        self.num_max_rdma_chunked_send_tokens = num_max_rdma_chunked_send_tokens
        self.num_max_rdma_chunked_recv_tokens = num_max_rdma_chunked_recv_tokens

    def get_nvl_buffer_size_hint(self, hidden_bytes: int, num_ranks: int) -> int:
        """0: the memory of a buffer is the bundle's."""
        return 0

    def get_rdma_buffer_size_hint(self, hidden_bytes: int, num_ranks: int) -> int:
        """0: the memory of a buffer is the bundle's."""
        return 0


@dataclass(frozen=True, eq=False)
class Handle:
    """A dispatch that can be combined and repeated."""

    comm: Communicator
    rows: Rows
    order: Tensor
    """i64 ``[tokens, top_k]``: where each pick of the rows' routing, whose experts ascend, is in the caller's."""
    given: int
    """Rows that the caller got."""
    worst: bool
    """Whether ``num_worst_tokens`` said how many, so that some of them did not arrive."""


class Buffer(LowLatency):
    """``group``: a torch process group, whose ranks are the bundle's. Bundles are those of ``moe_runtime.deep_ep.install``.

    Sizes, queue pairs and kinds of memory are accepted and change nothing: a communicator has the memory that its bundle needs. All buffers of one
    group share it.
    """

    num_sms: int = 20

    def __init__(self, group: Any, num_nvl_bytes: int = 0, num_rdma_bytes: int = 0, low_latency_mode: bool = False, **options: Any) -> None:
        unknown("Buffer", options, HARMLESS | {"comm"})
        self.source: Source = source_of(group, options.get("comm"))
        self.group = group
        self.rank: int = group.rank()
        self.group_size: int = group.size()
        self.num_nvl_bytes = num_nvl_bytes
        self.num_rdma_bytes = num_rdma_bytes
        self.low_latency_mode = low_latency_mode
        self.explicitly_destroy = bool(options.get("explicitly_destroy"))

    def destroy(self) -> None:
        """Nothing: the communicator is freed with the last buffer and handle that use it."""

    @staticmethod
    def set_num_sms(new_num_sms: int) -> None:
        """Multiprocessors of bundles that are compiled from now on; those of others are in the bundle."""
        if new_num_sms < 1:
            raise refuse("new_num_sms", f"it is {new_num_sms}; pass at least 1")
        Buffer.num_sms = new_num_sms

    @staticmethod
    def capture() -> EventOverlap:
        """What the current stream has launched until now."""
        return EventOverlap(EventHandle())

    @staticmethod
    def get_dispatch_config(num_ranks: int) -> Config:
        return Config(Buffer.num_sms)

    @staticmethod
    def get_combine_config(num_ranks: int) -> Config:
        return Config(Buffer.num_sms)

    def get_comm_stream(self) -> Any:
        """The current stream: there is no other."""
        if not torch.cuda.is_available():
            raise refuse("get_comm_stream", "virtual GPUs have no streams of CUDA")
        return torch.cuda.current_stream()

    def get_dispatch_layout(
        self,
        topk_idx: Tensor,
        num_experts: int,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, EventOverlap]:
        """What a routing sends where, counted in torch; ``dispatch`` counts again and needs none of it.

        ``topk_idx``: int64 or int32 ``[tokens, top_k]``, −1 for a dropped pick. Gives i32 ``[ranks]``: tokens for each rank; None; i32
        ``[experts]``: tokens of each expert; bool ``[tokens, ranks]``: whether a token goes to a rank; an event.
        """
        picks = matrix("topk_idx", topk_idx, INTEGERS)
        if num_experts < 1 or num_experts % self.group_size:
            raise refuse("num_experts", f"it is {num_experts}; pass a multiple of the {self.group_size} ranks")
        before(previous_event)
        local = num_experts // self.group_size
        # A dropped pick counts for one expert and one rank more, which are left out.
        chosen = torch.where(picks < 0, num_experts, picks).long()
        of_experts = torch.zeros(num_experts + 1, dtype=torch.int32, device=picks.device)
        of_experts.index_add_(0, chosen.reshape(-1), torch.ones_like(chosen, dtype=torch.int32).reshape(-1))
        there = torch.zeros((picks.shape[0], self.group_size + 1), dtype=torch.bool, device=picks.device)
        there.scatter_(1, chosen // local, value=True)
        there = there[:, :-1].contiguous()
        return there.sum(0, dtype=torch.int32), None, of_experts[:-1].contiguous(), there, after(async_finish)

    @torch.no_grad()
    def dispatch(
        self,
        x: Received,
        handle: Handle | None = None,
        num_tokens_per_rank: Tensor | None = None,
        num_tokens_per_rdma_rank: Tensor | None = None,
        is_token_in_rank: Tensor | None = None,
        num_tokens_per_expert: Tensor | None = None,
        topk_idx: Tensor | None = None,
        topk_weights: Tensor | None = None,
        expert_alignment: int = 1,
        num_worst_tokens: int = 0,
        config: Config | None = None,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
        **others: Any,
    ) -> tuple[Received, Tensor | None, Tensor | None, list[int] | None, Handle | None, EventOverlap]:
        """Sends every token to the ranks of its experts; with ``handle``, other tokens the way of an earlier dispatch.

        ``x``: ``[tokens, hidden]``, or for a payload with scales (elements ``[tokens, hidden]``, scales ``[tokens, hidden / block]``).
        ``topk_idx``: ``[tokens, top_k]``, each expert at most once in a row, −1 for none. ``topk_weights``: f32, the same shape.

        Gives ``recv_x`` ``[n, hidden]``, or elements and scales; ``recv_topk_idx`` ``[n, top_k]``: local experts in ascending order, −1 for
        those of other ranks; ``recv_topk_weights``, 0 there; rows of each local expert as a list, each a multiple of ``expert_alignment``; a handle;
        an event. It waits for the device, unless ``num_worst_tokens`` says how many rows are wanted: then those that did not arrive have −1
        everywhere, and the list is empty. With ``handle``, all but the rows and the event is None.
        """
        unknown("dispatch", others)
        before(previous_event)
        if handle is not None:
            if topk_idx is not None or topk_weights is not None:
                raise refuse("topk_idx", "a dispatch with a handle has the routing of that handle: leave it and topk_weights out")
            return self._cached(x, handle, async_finish)
        if topk_idx is None:
            raise refuse("topk_idx", "pass the picks of every token: where rows go follows from them, not from is_token_in_rank")
        elements, scales = split(x)
        picks, weights = routed(elements, topk_idx, topk_weights)
        if expert_alignment < 1 or num_worst_tokens < 0:
            raise refuse("expert_alignment" if expert_alignment < 1 else "num_worst_tokens", "it is too small")
        experts = None if num_tokens_per_expert is None else int(num_tokens_per_expert.numel())
        if experts is None and self.source.normal is None:
            raise refuse("num_tokens_per_expert", "pass it: to compile a bundle, the number of experts must be known")
        layer = Layer(
            self.group_size,
            experts,
            picks.shape[1],
            elements.shape[1],
            self.source.tokens or 0,
            payload(elements, scales),
            sms=Buffer.num_sms,
            **hardware(),
        )
        comm = self.source.communicator(layer, self.group)
        fits(layer, comm.plan, elements.shape[0])
        routing, order = ascending(picks, weights)
        rows = comm.dispatch(tokens(comm.plan, x), routing)
        counts: list[int] = []
        if num_worst_tokens > 0:
            given = num_worst_tokens
        else:
            given, numbers = waited(rows, comm.plan.last_experts[self.rank] - comm.plan.first_experts[self.rank])
            counts = [-(-count // expert_alignment) * expert_alignment for count in numbers]
        made = Handle(comm, rows, order, given, num_worst_tokens > 0)
        local_picks, local_weights = local_rows(rows, given)
        return (
            self._input(made),
            local_picks.to(picks.dtype),
            None if topk_weights is None else local_weights,
            counts,
            made,
            after(async_finish),
        )

    @torch.no_grad()
    def combine(
        self,
        x: Tensor,
        handle: Handle,
        topk_weights: Tensor | None = None,
        bias: Tensor | tuple[Tensor, Tensor] | None = None,
        config: Config | None = None,
        previous_event: EventOverlap | None = None,
        async_finish: bool = False,
        allocate_on_comm_stream: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, EventOverlap]:
        """Brings rows back and adds those of each token in f32, as they are.

        ``x``: ``[n, hidden]`` in the type of the bundle's combine, a row for each that the dispatch gave. ``topk_weights``: f32 ``[n, top_k]``,
        numbers of the picks of each row, which go back to their tokens: those of ``recv_topk_idx`` −1 are left out. ``bias``: one or two
        ``[tokens, hidden]`` that are added. Gives ``[tokens, hidden]``; f32 ``[tokens, top_k]`` in the order of the caller's picks, or None; an event.
        """
        unknown("combine", others)
        comm, plan = self._of(handle), self._of(handle).plan
        given = matrix("x", x, (TYPES[plan.output_number],), handle.given, plan.hidden)
        weights = None
        if topk_weights is not None:
            weights = matrix("topk_weights", topk_weights, (torch.float32,), handle.given, plan.top_k)
            same_device("topk_weights", weights, given)
        before(previous_event)
        result = biased(comm.combine(sized(given, plan.most_rows, zeros=handle.worst), handle.rows), bias)
        of_tokens = None if weights is None else weights_back(comm, handle.rows, handle.order, weights)
        return result, of_tokens, after(async_finish)

    def _cached(
        self, x: Received, handle: Handle, async_finish: bool
    ) -> tuple[Received, None, None, None, None, EventOverlap]:
        comm = self._of(handle)
        as_many(x, handle.rows)
        sent = comm.dispatch_cached(tokens(comm.plan, x), handle.rows)
        again = Handle(comm, sent, handle.order, handle.given, handle.worst)
        return self._input(again), None, None, None, None, after(async_finish)

    def _of(self, handle: Any) -> Communicator:
        """The communicator of a handle, which must be one of this buffer's."""
        if not isinstance(handle, Handle):
            raise refuse("handle", f"pass what dispatch gave, not {type(handle).__name__}")
        return self.source.owner(handle.comm, self.group)

    def _input(self, handle: Handle) -> Received:
        rows = handle.rows
        if rows.scales is None:
            return sized(rows.x, handle.given)
        return sized(rows.payload, handle.given), sized(rows.scales, handle.given)
