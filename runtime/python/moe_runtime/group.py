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


def join(
    bundle: Bundle, group: Any, ranks: range | None, device: str | None, patience: float | None
) -> tuple[NativeWorld, range, str]:
    """The ranks of this process in a world of several: the world, those ranks, and the device."""
    count, process, processes = bundle.plan.ranks, group.rank(), group.size()
    if ranks is None and processes != count:
        raise InvalidArgument(
            f"group: it has {processes} processes, and the bundle is for {count} ranks: start as many processes, compile for them, or pass"
            " `ranks`, those of each process",
            "world_size",
            {"processes": processes, "ranks": count},
        )
    mine = range(process, process + 1) if ranks is None else ranks
    if mine.step != 1 or not 0 <= mine.start < mine.stop <= count:
        raise refuse("ranks", f"{mine} is no contiguous part of the bundle's {count} ranks")
    of_process, place = (mine.start, mine.stop), (process, processes)

    def gathered(given: bytes) -> list[bytes]:
        return gather(group, given)

    device = device or _device(group)
    if device == "cuda":
        import torch  # noqa: PLC0415

        gpu = torch.cuda.current_device()
        return NativeWorld.join_cuda(bundle.native, of_process, place, gathered, gpu), mine, device
    if device != "virtual":
        raise refuse("device", f"`{device}` is neither `virtual` nor `cuda`")
    served = os.environ.get("MOE_NODE")
    name, served = gather(group, (served or f"moe-{os.geteuid()}-{uuid.uuid4().hex}", served))[0]
    start = [sys.executable, "-m", "moe_runtime.serve", name] if process == 0 and served is None else None
    waits = 60.0 if patience is None else max(patience, 60.0)
    return NativeWorld.join(bundle.native, of_process, place, gathered, (name, start), waits), mine, device


def _device(group: Any) -> str:
    """GPUs, where every process has one."""
    import torch  # noqa: PLC0415

    return "cuda" if all(gather(group, torch.cuda.is_available())) else "virtual"
