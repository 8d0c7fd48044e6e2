"""Ranks in several processes: one for each process of a torch process group."""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING, Any

from ._native import NativeWorld
from .errors import InvalidArgument, refuse

if TYPE_CHECKING:
    from .bundle import Bundle


def gather(group: Any, value: Any) -> list[Any]:
    """What every process of a group gave, in the order of its ranks."""
    if group.size() == 1:
        return [value]
    import torch.distributed as dist  # noqa: PLC0415 (who has a group has torch)

    values: list[Any] = [None] * group.size()
    dist.all_gather_object(values, value, group=group)
    return values


def join(bundle: Bundle, group: Any, device: str | None, patience: float | None) -> NativeWorld:
    """The rank of this process in a world on virtual GPUs, which the first process starts."""
    ranks = bundle.plan.ranks
    if group.size() != ranks:
        raise InvalidArgument(
            f"group: it has {group.size()} processes, and the bundle is for {ranks} ranks: start as many processes, or compile for them",
            "world_size",
            {"processes": group.size(), "ranks": ranks},
        )
    if device not in (None, "virtual"):
        raise refuse("device", "ranks in several processes have virtual GPUs so far: pass device='virtual'")
    rank = group.rank()
    name = gather(group, f"moe-{os.geteuid()}-{uuid.uuid4().hex}")[0]
    start = [sys.executable, "-m", "moe_runtime.serve", name] if rank == 0 else None
    waits = 60.0 if patience is None else max(patience, 60.0)
    return NativeWorld.join(bundle.native, rank, lambda given: gather(group, given), name, start, waits)
