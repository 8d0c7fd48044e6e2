"""What is wrong with an argument of a caller of DeepEP, as an exception that says what to pass; nothing was launched then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgument, refuse

HARMLESS = {
    "num_qps_per_rank",
    "allow_nvlink_for_low_latency_mode",
    "allow_mnnvl",
    "use_fabric",
    "explicitly_destroy",
    "enable_shrink",
}
"""Keywords of ``Buffer`` that say how memory is shared or freed, which is the communicator's affair here."""


INTEGERS = (torch.int64, torch.int32)


def unknown(call: str, keywords: Mapping[str, Any], known: Iterable[str] = ()) -> None:
    """Refuses keywords that ask for something which is not done here; None and False ask for nothing."""
    for name in sorted(name for name, value in keywords.items() if value is not None and value is not False and name not in known):
        raise InvalidArgument(
            f"{name}: {call} has no such argument here: leave it out; docs/python/deep_ep.md says what there is",
            "unknown_argument",
            {"call": call, "argument": name},
        )


def matrix(what: str, value: Any, types: tuple[torch.dtype, ...], rows: int | None = None, width: int | None = None) -> Tensor:
    """A contiguous tensor ``[rows, width]`` of one of some types."""
    if not isinstance(value, Tensor):
        raise refuse(what, f"pass a torch tensor, not {type(value).__name__}")
    if value.dtype not in types:
        raise refuse(what, f"it is of {value.dtype}; pass {' or '.join(map(str, types))}")
    if value.dim() != 2 or (rows is not None and value.shape[0] != rows) or (width is not None and value.shape[1] != width):
        wanted = f"[{'n' if rows is None else rows}, {'n' if width is None else width}]"
        raise refuse(what, f"its shape is {list(value.shape)}; pass {wanted}")
    if not value.is_contiguous():
        raise refuse(what, "it is not contiguous: pass .contiguous() of it")
    return value


def same_device(what: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        raise refuse(what, f"it is on {value.device}, and the tokens on {like.device}: pass them on one device")
