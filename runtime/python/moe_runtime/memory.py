"""Memory that a rank of this process has too, where the ranks are virtual GPUs of a node: tensors in it are not copied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .communicator import Communicator


def take(comm: Communicator, rank: int, count: int, *, zero: bool) -> npt.NDArray[Any] | None:
    """So many bytes, or None where there is no such memory. They are given back with the last array or tensor of them, which may be after the
    communicator's end."""
    if count == 0 or not comm.world.has_node:
        return None
    memory = comm.calls.native.host_memory(rank, count, zero)
    return None if memory is None else np.asarray(memory)
