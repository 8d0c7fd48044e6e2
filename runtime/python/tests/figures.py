"""Prints figures of the package over torch on virtual GPUs: what Python adds to a call, a dispatch and combine of a process on a node whose
tensors are copied or lie in memory of the node, and memory over ten thousand training steps.

What Python adds is the time of a call without that of the native function in it, which is wrapped for this; medians.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import moe_runtime as moe
import torch
from moe_runtime.nn import MoE

from conftest import EXPERTS, HIDDEN, LAYERS, PICKS, text

CALLS = 500
STEPS = 10_000
LAYERS_ON_NODE = 40


class Timed:
    """The native session, with the seconds that its methods took."""

    def __init__(self, native: Any) -> None:
        self.native, self.seconds = native, 0.0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return getattr(self.native, name)(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def added(timed: Timed, call: Callable[[], Any]) -> float:
    """Microseconds, of the median call."""
    found = []
    for _ in range(CALLS):
        timed.seconds = 0.0
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start - timed.seconds)
    return median(found) * 1e6


def megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def read(rows: moe.Rows) -> tuple[Any, Any]:
    return rows.counts, rows.offsets


def overhead(bundle: moe.Bundle) -> None:
    comm = moe.Communicator(bundle, device="virtual")
    timed = Timed(comm.calls.native)
    comm.calls.native = timed
    x, logits, bias = torch.randn(1, HIDDEN), torch.randn(1, EXPERTS), torch.zeros(EXPERTS)
    routing = comm.gate(logits, bias=bias)
    rows = comm.dispatch(x, routing)
    own = moe.Routing(torch.arange(PICKS).reshape(1, -1), torch.ones(1, PICKS))
    calls = {
        "gate": lambda: comm.gate(logits, bias=bias),
        "dispatch": lambda: comm.dispatch(x, routing),
        "dispatch, routing of the caller": lambda: comm.dispatch(x, own),
        "dispatch whose counts and offsets are read": lambda: read(comm.dispatch(x, routing)),
        "combine": lambda: comm.combine(rows.x, rows),
    }
    for name, call in calls.items():
        print(f"Python adds to {name}: {added(timed, call):.0f} us (median of {CALLS} calls)", flush=True)


class Alone:
    """A group of one process."""

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 1


LARGE = """model large {
    hidden 7168
    experts 32
    gate(logits: f32[experts]) {
        weights softmax(logits[top(8, experts, by: logits)])
    }
    dispatch { payload fp8_e4m3 scale ue8m0 per 128   layout expert_major align 16 } combine { payload bf16   reduce f32 weighted }
}
cluster node {
    nodes 1   gpus 1 per node
    gpu "H800" { target sm_90a   sms 132   memory 80 GB }
    nvlink 160 GB/s
}
deploy one of large on node { ep 1   tokens 128 per gpu   mode throughput   sms 20 }
"""


def node(folder: Path) -> None:
    (folder / "large.moe").write_text(LARGE)
    bundle = moe.compile(folder / "large.moe")
    for where in ("in this process", "of a node"):
        comm = moe.Communicator(bundle, device="virtual", group=None if where == "in this process" else Alone())
        plan = comm.plan
        # Over arrays, whose scales nobody multiplies out.
        routing = comm.gate(torch.randn(128, 32).numpy())
        ordinary = [torch.randn(rows, plan.hidden).bfloat16().view(torch.uint16).numpy() for rows in (128, plan.most_rows)]
        shared = [comm.empty(array.shape, array.dtype) for array in ordinary]
        for array, given in zip(shared, ordinary):
            array[...] = given
        ways = {"copied, results too": ordinary, "ordinary": ordinary, "of Communicator.empty": shared}
        found: dict[str, list[float]] = {way: [] for way in ways}
        copied = dict.fromkeys(ways, 0)
        # In turns, so that whatever else the machine does slows all of them.
        for _ in range(LAYERS_ON_NODE):
            for way, (x, y) in ways.items():
                comm.world.has_node = where == "of a node" and way != "copied, results too"
                before, start = comm.copied(), time.perf_counter()
                comm.combine(y, comm.dispatch(x, routing))
                found[way].append(time.perf_counter() - start)
                copied[way] = comm.copied() - before
        for way, times in found.items():
            middle, least = median(times) * 1e3, min(times) * 1e3
            megabytes = copied[way] / 1e6
            print(f"dispatch and combine, GPU {where}, arrays {way}: {middle:.1f} ms (least {least:.1f}), {megabytes:.1f} MB copied", flush=True)


def memory(bundle: moe.Bundle, steps: int) -> None:
    torch.manual_seed(0)
    module = MoE(moe.Communicator(bundle, device="virtual"), 16)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        module(torch.randn(2, HIDDEN)).square().mean().backward()
        optimizer.step()
        if step in (steps // 10, steps):
            print(f"after {step} training steps of a layer: {megabytes():.1f} MB, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    (folder / "layer.moe").write_text(text(LAYERS["weighted"], 1))
    bundle = moe.compile(folder / "layer.moe")
    overhead(bundle)
    node(folder)
    memory(bundle, int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)


if __name__ == "__main__":
    main()
