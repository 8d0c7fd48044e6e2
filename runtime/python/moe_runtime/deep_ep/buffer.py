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
from ..errors import InvalidArgument, refuse
from ..routing import Routing, Rows
from ..torch import TYPES, weights_backward_op
from .checks import HARMLESS, INTEGERS, matrix, same_device, unknown
from .events import EventHandle, EventOverlap, after, before
from .layers import Layer, Source, fits, hardware, mismatch
from .low_latency import LowLatency

ELEMENTS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
SOURCE: Source | None = None
"""What was installed last."""

Received = Tensor | tuple[Tensor, Tensor]


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
        if group is None or options.get("comm") is not None:
            raise refuse("group", "pass a torch process group; communicators of mpi4py are not taken")
        if SOURCE is None:
            raise InvalidArgument("Buffer: call moe_runtime.deep_ep.install first: it says which bundles there are", "no_bundle")
        self.source = SOURCE
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
        elements = x[0] if isinstance(x, tuple) else x
        picks = matrix("topk_idx", topk_idx, INTEGERS)
        experts = None if num_tokens_per_expert is None else int(num_tokens_per_expert.numel())
        comm = self._normal(x, picks, experts)
        same_device("topk_idx", picks, elements)
        if topk_weights is None:
            weights = torch.ones(picks.shape, device=picks.device)
        else:
            weights = matrix("topk_weights", topk_weights, (torch.float32,), picks.shape[0], picks.shape[1])
            same_device("topk_weights", weights, elements)
        if expert_alignment < 1 or num_worst_tokens < 0:
            raise refuse("expert_alignment" if expert_alignment < 1 else "num_worst_tokens", "it is too small")
        order = torch.where(picks < 0, torch.iinfo(torch.int32).max, picks).argsort(dim=-1, stable=True)
        routing = Routing(picks.gather(-1, order), weights.gather(-1, order), ascending=True)
        rows = comm.dispatch(self._tokens(comm, x), routing)
        counts: list[int] = []
        if num_worst_tokens > 0:
            given = num_worst_tokens
        else:
            numbers = torch.cat([rows.received.sum(0, keepdim=True, dtype=torch.int32), rows.counts]).tolist()
            given, local = numbers[0], comm.plan.last_experts[self.rank] - comm.plan.first_experts[self.rank]
            counts = [-(-count // expert_alignment) * expert_alignment for count in numbers[1 : 1 + local]]
        made = Handle(comm, rows, order, given, num_worst_tokens > 0)
        local_picks, local_weights = self._local(made, picks.dtype)
        return (
            self._input(made),
            local_picks,
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
        result = comm.combine(_padded(given, plan.most_rows, zeros=handle.worst), handle.rows)
        for each in () if bias is None else (bias,) if isinstance(bias, Tensor) else bias:
            result = result + matrix("bias", each, (result.dtype,), result.shape[0], plan.hidden)
        of_tokens = None
        if weights is not None:
            rows, routing = handle.rows, handle.rows.routing
            back = weights_backward_op(
                _padded(weights, plan.most_rows)[None], rows.handle, routing.indices, routing.weights, list(rows.tokens), comm.number
            )
            of_tokens = torch.empty_like(back).scatter_(-1, handle.order, back)
        return result, of_tokens, after(async_finish)

    def _cached(
        self, x: Received, handle: Handle, async_finish: bool
    ) -> tuple[Received, None, None, None, None, EventOverlap]:
        comm = self._of(handle)
        tokens = handle.rows.tokens[0]
        elements = x[0] if isinstance(x, tuple) else x
        if isinstance(elements, Tensor) and elements.dim() == 2 and elements.shape[0] != tokens:
            raise refuse("x", f"it has {elements.shape[0]} tokens, and the dispatch of the handle had {tokens}: pass as many")
        sent = comm.dispatch_cached(self._tokens(comm, x), handle.rows)
        again = Handle(comm, sent, handle.order, handle.given, handle.worst)
        return self._input(again), None, None, None, None, after(async_finish)

    def _of(self, handle: Any) -> Communicator:
        """The communicator of a handle, which must be one of this buffer's."""
        if not isinstance(handle, Handle):
            raise refuse("handle", f"pass what dispatch gave, not {type(handle).__name__}")
        return self.source.owner(handle.comm, self.group)

    def _normal(self, x: Any, picks: Tensor, experts: int | None) -> Communicator:
        """The communicator of a dispatch, whose bundle has the numbers of the call."""
        elements, scales = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
        if not isinstance(elements, Tensor) or elements.dim() != 2 or elements.shape[0] != picks.shape[0]:
            found = list(elements.shape) if isinstance(elements, Tensor) else type(elements).__name__
            raise refuse("x", f"it is {found}; pass a tensor [{picks.shape[0]}, hidden], or (elements, scales)")
        if experts is None and self.source.normal is None:
            raise refuse("num_tokens_per_expert", "pass it: to compile a bundle, the number of experts must be known")
        payload = _payload(elements, scales)
        tokens, hidden = elements.shape
        layer = Layer(
            self.group_size, experts, picks.shape[1], hidden, self.source.tokens or 0, payload, sms=Buffer.num_sms, **hardware()
        )
        comm = self.source.communicator(layer, self.group)
        fits(layer, comm.plan, tokens)
        return comm

    def _tokens(self, comm: Communicator, x: Any) -> Tensor:
        """Tokens in the type that the bundle takes: elements with scales are multiplied out, and the kernel divides again."""
        plan = comm.plan
        if plan.scale_block is None:
            if isinstance(x, tuple):
                raise mismatch("payload", "elements with scales", plan.input_number)
            return matrix("x", x, (TYPES[plan.token_number],), width=plan.hidden)
        if not isinstance(x, tuple):
            raise mismatch("payload", str(x.dtype), f"{plan.input_number} with scales", "pass (elements, scales)")
        elements = matrix("x", x[0], (TYPES[plan.input_number],), width=plan.hidden)
        blocks = plan.hidden // plan.scale_block
        factors = x[1]
        if not isinstance(factors, Tensor) or factors.shape != (elements.shape[0], blocks):
            raise refuse("x", f"pass scales [{elements.shape[0]}, {blocks}] beside the elements")
        values = elements.float() * factors.float().repeat_interleave(plan.scale_block, -1)
        return values.to(TYPES[plan.token_number])

    def _input(self, handle: Handle) -> Received:
        rows = handle.rows
        if rows.scales is None:
            return _sized(rows.x, handle.given)
        return _sized(rows.payload, handle.given), _sized(rows.scales, handle.given)

    def _local(self, handle: Handle, integers: torch.dtype) -> tuple[Tensor, Tensor]:
        """Local experts of each row and their weights."""
        rows = handle.rows
        picks, weights = _sized(rows.picks, handle.given).to(integers), _sized(rows.weights, handle.given)
        if handle.worst:
            place = torch.arange(handle.given, device=picks.device)[:, None]
            picks = torch.where(place < rows.received.sum(), picks, -1)
        return picks, torch.where(picks < 0, 0.0, weights)


def _payload(elements: Tensor, scales: Any) -> str:
    """What the language calls the format of tokens."""
    if scales is None:
        if elements.dtype not in ELEMENTS:
            raise refuse("x", f"it is of {elements.dtype}; pass torch.bfloat16, or (elements, scales)")
        return ELEMENTS[elements.dtype]
    factors = {torch.float32: "f32", torch.float8_e8m0fnu: "ue8m0"}
    if not isinstance(scales, Tensor) or scales.dim() != 2 or scales.dtype not in factors or elements.dtype != torch.float8_e4m3fn:
        raise refuse("x", "pass torch.float8_e4m3fn [tokens, hidden] and scales [tokens, hidden / block] of torch.float32 or float8_e8m0fnu")
    return f"fp8_e4m3 scale {factors[scales.dtype]} per {elements.shape[1] // max(scales.shape[1], 1)}"


def _sized(tensor: Tensor, rows: int) -> Tensor:
    """So many rows of it, with some more behind them where it has too few."""
    return tensor[:rows] if rows <= tensor.shape[0] else _padded(tensor, rows)


def _padded(tensor: Tensor, rows: int, *, zeros: bool = False) -> Tensor:
    """Its rows, and memory for the others behind them: zeros where some of them may have arrived and were not asked for."""
    if tensor.shape[0] >= rows:
        return tensor[:rows]
    whole = (tensor.new_zeros if zeros else tensor.new_empty)((rows, *tensor.shape[1:]))
    whole[: tensor.shape[0]] = tensor
    return whole
