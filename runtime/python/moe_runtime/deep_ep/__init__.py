"""The interface of DeepEP over bundles, for code that was written for it.

    import moe_runtime.deep_ep
    moe_runtime.deep_ep.install(bundle="layer.moeb")   # before Megatron, vLLM or SGLang are imported
    from deep_ep import Buffer                         # is Buffer of this module

``install(tokens=4096)`` compiles bundles for the shapes of the first calls instead, where ``moec`` is installed. What differs from DeepEP is in
``docs/python/deep_ep.md``.
"""

from __future__ import annotations

import sys
import warnings
from os import PathLike, fspath

import torch

from ..bundle import Bundle
from ..communicator import World
from ..errors import refuse
from . import utils
from .buffer import Buffer, Config, Handle
from .elastic import ElasticBuffer, EPHandle
from .events import EventHandle, EventOverlap
from .layers import SOURCES, Layer, Source

topk_idx_t = torch.int64
"""Of indices; int32 is taken too."""

__all__ = [
    "Buffer",
    "Config",
    "EPHandle",
    "ElasticBuffer",
    "EventHandle",
    "EventOverlap",
    "Handle",
    "Layer",
    "install",
    "topk_idx_t",
    "utils",
]


def _read(what: str, given: World | Bundle | str | PathLike[str] | None, layout: str, weighs: bool) -> World | Bundle | None:
    if given is None:
        return None
    read = given if isinstance(given, (World, Bundle)) else Bundle(fspath(given))
    plan = read.bundle.plan if isinstance(read, World) else read.plan
    plan.expect(what, layout, weighs=weighs)
    return read


def install(
    bundle: World | Bundle | str | PathLike[str] | None = None,
    *,
    low_latency: World | Bundle | str | PathLike[str] | None = None,
    expanded: World | Bundle | str | PathLike[str] | None = None,
    tokens: int | None = None,
    device: str | None = None,
    deadline: float | None = 10.0,
) -> None:
    """Makes ``import deep_ep`` give this module, and says which bundles its buffers use.

    ``bundle``: of ``dispatch`` and ``combine``: layout ``rank_major``, combine ``unweighted``. ``low_latency``: of ``low_latency_dispatch`` and
    ``low_latency_combine``: layout ``batched``, combine ``weighted``. ``expanded``: of an ``ElasticBuffer`` that expands: layout ``expert_major``,
    combine ``unweighted``. A mode without one has its bundle compiled for the shapes of its calls; in
    normal mode ``tokens`` says the most of a rank in one call. A ``World`` serves ranks that are threads of this process.
    ``device``, ``deadline``: of ``Communicator``.

    Called again, it replaces what was installed; buffers that were made before keep theirs.
    """
    there = sys.modules.get("deep_ep")
    if there is not None and there is not sys.modules[__name__]:
        raise refuse("install", "another module `deep_ep` was imported already: call it before whatever imports that")
    megatron = sys.modules.get("megatron.core.transformer.moe.fused_a2a")
    if not getattr(megatron, "HAVE_DEEP_EP", True):
        # Whoever imports accelerate has imported it, and may not want it.
        problem = "Megatron was imported before, has found no `deep_ep`, and will not use this one: call install before that import"
        warnings.warn(problem, stacklevel=2)
    if tokens is not None and tokens < 1:
        raise refuse("tokens", f"it is {tokens}; pass the most tokens that a rank has in one call")
    source = Source(
        _read("bundle", bundle, "rank_major", weighs=False),
        _read("low_latency", low_latency, "batched", weighs=True),
        _read("expanded", expanded, "expert_major", weighs=False),
        tokens,
        {"device": device, "deadline": deadline},
    )
    SOURCES[:] = [source]
    sys.modules["deep_ep"] = sys.modules[__name__]
    sys.modules["deep_ep.utils"] = utils
