"""Which bundle a buffer uses: one that was installed, or one that is compiled for the shapes of the first call.

Invariant: one communicator for each bundle and group, however many buffers there are: callers make another buffer whenever they like.
"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..bundle import Bundle, Plan
from ..communicator import Communicator, World
from ..errors import Error, InvalidArgument, refuse
from ..group import gather
from ..tool import CompileError, compile

Given = World | Bundle | str | PathLike[str]


@dataclass(frozen=True)
class Layer:
    """The numbers of a layer whose rows travel; ``text`` is the ``.moe`` file that says them."""

    ranks: int
    experts: int | None
    """None where a call does not say."""
    top_k: int
    hidden: int
    tokens: int
    """The most of a rank in one call."""
    payload: str = "bf16"
    """Of dispatch, as in the language: ``bf16``, ``f16``, ``f32``, ``fp8_e4m3 scale f32 per 128``, …"""
    layout: str = "rank_major"
    """Of rows, as in the language. Combine weighs where it is ``batched``, for low-latency calls."""
    sms: int = 20
    """Multiprocessors for communication."""
    target: str = "sm_90a"
    gpu_sms: int = 132
    memory_gb: int = 80

    def text(self) -> str:
        """The file; its gate is one that no caller runs: they bring routings of their own."""
        combine = self.payload if self.payload in ("f32", "f16") else "bf16"
        batched = self.layout == "batched"
        return f"""model layer {{
    hidden  {self.hidden}
    experts {self.experts}

    gate(logits: f32[experts]) {{
        let chosen = top({self.top_k}, experts, by: logits)
        weights softmax(logits[chosen])
    }}

    dispatch {{ payload {self.payload}   layout {self.layout} }}
    combine  {{ payload {combine}   reduce f32 {"weighted" if batched else "unweighted"} }}
}}

cluster node {{
    nodes  1   gpus {self.ranks} per node
    gpu    {{ target {self.target}   sms {self.gpu_sms}   memory {self.memory_gb} GB }}
    nvlink 160 GB/s
}}

deploy calls of layer on node {{
    ep     {self.ranks}
    tokens {self.tokens} per gpu
    mode   {"latency" if batched else "throughput"}
    sms    {self.sms}
}}
"""

    def compile(self, output: str | PathLike[str] | None = None) -> Bundle:
        """Compiles it with ``moec``; ``output`` keeps the bundle."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.moe"
            path.write_text(self.text())
            return compile(path, output=output)


def compile_together(layer: Layer, group: Any) -> Bundle:
    """The bundle of a layer in every process of a group: the first compiles, and all have the same."""
    made: tuple[bytes, str] = (b"", "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.moeb"
        if group.rank() == 0:
            try:
                layer.compile(path)
                made = (path.read_bytes(), "")
            except Error as problem:
                made = (b"", str(problem))
        content, problem_text = gather(group, made)[0]
        if problem_text:
            raise CompileError(problem_text, "compile")
        path.write_bytes(content)
        return Bundle(path)


def mismatch(what: str, call: Any, bundle: Any, help: str = "compile a bundle for this layer") -> InvalidArgument:  # noqa: A002
    """A number of the call is another one in the bundle."""
    return InvalidArgument(
        f"{what}: the call has {call}, and the bundle {bundle}: {help}",
        "mismatch",
        {"what": what, "call": call, "bundle": bundle},
    )


def fits(layer: Layer, plan: Plan, tokens: int) -> None:
    """Refuses a bundle whose numbers are not those of a call with so many tokens."""
    of_bundle = plan.input_number if plan.scale_number is None else f"{plan.input_number} scale {plan.scale_number} per {plan.scale_block}"
    pairs: list[tuple[str, Any, Any]] = [
        ("hidden", layer.hidden, plan.hidden),
        ("top_k", layer.top_k, plan.top_k),
        ("experts", plan.experts if layer.experts is None else layer.experts, plan.experts),
        ("payload", layer.payload, of_bundle),
    ]
    for what, call, bundle in pairs:
        if call != bundle:
            raise mismatch(what, call, bundle)
    if tokens > plan.most_tokens:
        raise mismatch("tokens", tokens, f"at most {plan.most_tokens}", "compile a bundle for more tokens per GPU")


def align_of(bundle: Bundle) -> int:
    """The multiple that groups of rows begin at."""
    layout = bundle.inspect()["exchange"]["layout"]
    return int(layout["expert_major"]["align"]) if isinstance(layout, dict) else 1


@dataclass
class Source:
    """Where the buffers of a process get their communicators from."""

    normal: Given | None
    low_latency: Given | None
    expanded: Given | None
    tokens: int | None
    """Of a rank in one call, for bundles that are compiled."""
    options: dict[str, Any]
    """Of ``Communicator``."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: list[tuple[Any, Any, Communicator]] = field(default_factory=list)
    """What they are of (bundle or layer), group, communicator."""

    def communicator(self, layer: Layer, group: Any) -> Communicator:
        """That of a layer, for the rank of this process."""
        given = {"batched": self.low_latency, "rank_major": self.normal}.get(layer.layout, self.expanded)
        if given is None and layer.tokens == 0:
            raise InvalidArgument(
                "bundle: none is installed for this mode: pass it to moe_runtime.deep_ep.install, or tokens=, the most tokens of a rank in a"
                " call, to have it compiled",
                "no_bundle",
            )
        of = layer if given is None else given
        with self.lock:
            for known, its_group, found in self.known:
                if its_group is group and (known is of or (isinstance(of, Layer) and known == of)):
                    return found
        made = self._make(of, group)
        with self.lock:
            self.known.append((of, group, made))
        return made

    def owner(self, comm: Communicator, group: Any) -> Communicator:
        """The communicator of a handle, if it is one of the group's."""
        if not any(known is comm for _, its_group, known in self.known if its_group is group):
            raise refuse("handle", "it is of a buffer of another group or of another bundle: pass it to that one")
        return comm

    def _make(self, of: Layer | Given, group: Any) -> Communicator:
        if isinstance(of, World):
            rank = group.rank()
            if group.size() != of.bundle.plan.ranks:
                raise mismatch("ranks", group.size(), of.bundle.plan.ranks)
            return Communicator(of, ranks=range(rank, rank + 1), deadline=self.options["deadline"])
        bundle = compile_together(of, group) if isinstance(of, Layer) else of
        return Communicator(bundle, group=group, **self.options)


SOURCES: list[Source] = []
"""What was installed: the last is in use."""


def source_of(group: Any, comm: Any = None) -> Source:
    """What is installed, for a buffer of a group."""
    if group is None or comm is not None:
        raise refuse("group", "pass a torch process group; communicators of mpi4py are not taken")
    if not SOURCES:
        raise InvalidArgument("Buffer: call moe_runtime.deep_ep.install first: it says which bundles there are", "no_bundle")
    return SOURCES[-1]


def hardware() -> dict[str, Any]:
    """Of ``Layer``: the GPU of this process, where there is one."""
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    target = "sm_90a" if properties.major < 10 else "sm_100a"
    return {"target": target, "gpu_sms": properties.multi_processor_count, "memory_gb": max(properties.total_memory // 10**9, 1)}
