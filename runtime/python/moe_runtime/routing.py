"""What calls take and give beside tensors: a routing, and the rows of a dispatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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

    There is memory for all rows that can arrive; those behind the last expert's did not.
    """

    x: Any
    """``[N, hidden]``, ready for the experts: of a payload with scales, multiplied out, in the type of the tokens."""
    payload: Any
    """``[N, hidden]`` as it travelled; the same as ``x`` where it has no scales."""
    scales: Any
    """``[N, hidden / block]``, or None."""
    counts: Any
    """i32 ``[local_experts]``: rows of each local expert, without padding."""
    offsets: Any
    """i32 ``[local_experts]``: where the rows of each local expert end, padding included: ``offs`` of
    ``torch.nn.functional.grouped_mm``. None in layout ``rank_major``."""
    weights: Any
    """f32 ``[N, P]``: the weights of each row's picks, where the experts weigh; otherwise None. With torch, gradients reach the
    weights of the routing."""
    received: Any
    """i32 ``[ranks]``: tokens that came from each rank. In layout ``rank_major`` they are rows, which lie by rank and then by token."""
    picks: Any
    """i32 ``[N, top_k]``: local experts of each row, −1 for none. Only in layout ``rank_major``, otherwise None."""
    handle: Any
    """What combine and the gradients need: bytes, on the device."""
    routing: Routing
    """What was dispatched, with the experts of each row ascending."""
    tokens: tuple[int, ...]
    """Tokens of each rank."""
