"""Prints two figures of the package over torch on virtual GPUs: what Python adds to a call, and memory over ten thousand training steps.

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
    memory(bundle, int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)


if __name__ == "__main__":
    main()
