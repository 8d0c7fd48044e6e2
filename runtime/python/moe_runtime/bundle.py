"""Bundles: what ``moec build`` writes, and the numbers that its kernels are specialised to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import NativeBundle
from .errors import refuse


@dataclass(frozen=True)
class Parameter:
    """A parameter of the gate beside its logits.

    ``kind``: ``scalar``, ``experts`` (one number per expert), ``groups``, ``table`` (i32 ``[vocabulary, k]``) or ``token_id`` (i32, one per token).
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Plan:
    """The numbers of a bundle. ``N`` in shapes is ``most_rows``, ``P`` is ``weights_per_row``."""

    ranks: int
    experts: int
    local_experts: int
    """Experts of the rank that has most."""
    first_experts: tuple[int, ...]
    """For each rank, its first expert."""
    last_experts: tuple[int, ...]
    """For each rank, the expert behind its last."""
    top_k: int
    hidden: int
    most_tokens: int
    """Of one rank, in one call."""
    gate_width: int
    """Width of the logits: experts, and those that compute nothing."""
    weights_per_row: int
    """Weights of a row of the experts' input: one, or ``top_k`` in layout ``rank_major``."""
    combine_weighs: bool
    """Whether combine multiplies by the weights; otherwise the experts do."""
    layout: str
    by_expert: bool
    """Whether a row belongs to one expert."""
    most_rows: int
    """Rows of the experts' input that can arrive at a rank."""
    token_number: str
    input_number: str
    scale_number: str | None
    scale_block: int | None
    """Elements that share a scale."""
    output_number: str
    handle_bytes: int
    handle_places: dict[str, tuple[int, int]]

    def expect(self, what: str, layout: str, *, weighs: bool) -> None:
        """Refuses a bundle with rows in another layout, or another combine, than whoever calls can use."""
        named = {True: "weighted", False: "unweighted"}
        if (self.layout, self.combine_weighs) != (layout, weighs):
            found = f"its layout is {self.layout} and its combine {named[self.combine_weighs]}"
            raise refuse(what, f"{found}; compile the bundle with `layout {layout}` and `reduce f32 {named[weighs]}`")


class Bundle:
    """A bundle that was read.

    ``path``: the file. Raises ``BundleError`` if it is none of this version.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = fspath(path)
        self.native = NativeBundle(path)
        plan = json.loads(self.native.plan())
        places = {name: (start, end) for name, (start, end) in plan.pop("handle_places").items()}
        firsts, lasts = tuple(plan.pop("first_experts")), tuple(plan.pop("last_experts"))
        self.plan = Plan(**plan, first_experts=firsts, last_experts=lasts, handle_places=places)
        gate = self.inspect()["gate"]
        kinds = [(parameter["name"], parameter["kind"]) for parameter in gate["parameters"]]
        self.parameters = tuple(Parameter(name, kind if isinstance(kind, str) else next(iter(kind))) for name, kind in kinds)

    def inspect(self) -> dict[str, Any]:
        """Everything that the bundle says about itself: exchange, gate, kernels with their launches, source text."""
        manifest: dict[str, Any] = json.loads(self.native.manifest())
        return manifest

    def calls(self) -> dict[str, tuple[str, ...]]:
        """The kernels that each call launches on every rank, in order."""
        return {call: tuple(kernels) for call, kernels in json.loads(self.native.calls()).items()}

    def traffic(self, call: str, indices: Sequence[Any]) -> npt.NDArray[np.uint64]:
        """Bytes that a call writes, exactly, from each rank (first index) to each: ``[ranks, ranks]``. On the diagonal is what crosses no link.

        ``call``: one of ``calls()``. ``indices``: for each rank integers ``[tokens, top_k]``, −1 for a dropped pick.
        """
        if len(indices) != self.plan.ranks:
            raise refuse("indices", f"pass those of all {self.plan.ranks} ranks, not of {len(indices)}")
        picks = [np.asarray(each) for each in indices]
        for each in picks:
            if each.ndim != 2 or each.shape[1] != self.plan.top_k or not np.issubdtype(each.dtype, np.integer):
                raise refuse("indices", f"pass integers [tokens, {self.plan.top_k}] for each rank, not {each.dtype} {list(each.shape)}")
            if each.size and (each.max() >= self.plan.gate_width or each.min() < -1):
                raise refuse("indices", f"a pick is from −1 to {self.plan.gate_width - 1}, not {each.min()} to {each.max()}")
        return np.array(self.native.traffic(call, [each.reshape(-1).tolist() for each in picks]), dtype=np.uint64)

    def __repr__(self) -> str:
        plan = self.plan
        return f"<bundle {self.path!r}: {plan.ranks} ranks, {plan.experts} experts, top {plan.top_k}, hidden {plan.hidden}>"
