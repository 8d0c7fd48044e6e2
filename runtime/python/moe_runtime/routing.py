"""What calls take and give beside tensors: a routing, and the rows of a dispatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .bundle import Plan


@dataclass
class Routing:
    """Which experts each token goes to, and with which weights.

    ``indices``: i32 or i64 ``[tokens, top_k]``, each expert at most once in a row, −1 for none. Any order.
    ``weights``: float ``[tokens, top_k]``; with torch, gradients reach them.

    Of a communicator with several ranks both are lists, one entry for each rank.
    """

    indices: Any
    weights: Any
    ascending: bool = field(default=False, repr=False)
    """Whether the experts of each row ascend, as those of ``Communicator.gate`` do; otherwise they are sorted first."""


@dataclass
class Rows:
    """Rows of a dispatch in front of the experts; of a communicator with several ranks each member is a list.

    There is memory for all rows that can arrive; those behind the last expert's did not. ``counts``, ``offsets``, ``received`` and ``picks`` lie in the
    handle, which combine reads: they are not to be written.
    """

    x: Any
    """``[N, hidden]``, ready for the experts: of a payload with scales, multiplied out, in the type of the tokens."""
    payload: Any
    """``[N, hidden]`` as it travelled; the same as ``x`` where it has no scales."""
    scales: Any
    """``[N, hidden / block]``, or None."""
    weights: Any
    """f32 ``[N, P]``: the weights of each row's picks, where the experts weigh; otherwise None. With torch, gradients reach the
    weights of the routing."""
    handle: Any
    """What combine and the gradients need: bytes, on the device."""
    routing: Routing
    """What was dispatched, with the experts of each row ascending."""
    tokens: tuple[int, ...]
    """Tokens of each rank."""
    plan: Plan = field(repr=False)
    """Of the bundle."""
    numbers: Callable[..., Any] = field(repr=False)
    """Gives i32 numbers of the handle: of these rows, by the name of their array, the place of the first in it, and their shape."""

    @property
    def counts(self) -> Any:
        """i32 ``[local_experts]``: rows of each local expert, without padding."""
        return self.numbers(self, "expert_counts", 0, self.plan.local_experts)

    @property
    def offsets(self) -> Any:
        """i32 ``[local_experts]``: where the rows of each local expert end, padding included: ``offs`` of
        ``torch.nn.functional.grouped_mm``. None in layout ``rank_major``."""
        return self.numbers(self, "expert_offsets", 1, self.plan.local_experts) if self.plan.by_expert else None

    @property
    def received(self) -> Any:
        """i32 ``[ranks]``: tokens that came from each rank. In layout ``rank_major`` they are rows, which lie by rank and then by token."""
        return self.numbers(self, "received_counts", 0, self.plan.ranks)

    @property
    def picks(self) -> Any:
        """i32 ``[N, top_k]``: local experts of each row, −1 for none. Only in layout ``rank_major``, otherwise None."""
        return None if self.plan.by_expert else self.numbers(self, "row_picks", 0, self.plan.most_rows, self.plan.top_k)
