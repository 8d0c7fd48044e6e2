"""Tensors that lie in memory of a node of virtual GPUs: nothing of them is copied, and their memory is given back."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moe_runtime as moe
import numpy as np
import pytest

from conftest import EXPERTS, HIDDEN

TOKENS = 5
Attached = Callable[[str], moe.Communicator]


class Alone:
    """A group of one process."""

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 1


@pytest.fixture
def attached(bundle: Any) -> Attached:
    return lambda layer: moe.Communicator(bundle(layer, 1), group=Alone(), device="virtual")


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def placed(comm: moe.Communicator, array: Any) -> Any:
    """The same array in memory of the node."""
    found = comm.empty(array.shape, array.dtype)
    found[...] = array
    return found


def gated(comm: moe.Communicator) -> moe.Routing:
    return comm.gate(numbers(TOKENS, EXPERTS, seed=1), bias=np.zeros(EXPERTS, np.float32))


Place = Callable[[Any], Any]


def results(comm: moe.Communicator, place: Place) -> tuple[dict[str, Any], int]:
    """What every call gives, and how many bytes were copied for it, those of the gate left out."""
    routing = gated(comm)
    x, other = (place(numbers(TOKENS, HIDDEN, seed=seed)) for seed in (2, 3))
    before = comm.copied()
    rows = comm.dispatch(x, routing)
    again = comm.dispatch_cached(other, rows)
    y = place(rows.x * 2 + 1)
    found = {
        "x": rows.x,
        "again": again.x,
        "offsets": rows.offsets,
        "combined": comm.combine(y, rows),
        "of_tokens": comm.dispatch_backward(y, rows),
    }
    if comm.plan.combine_weighs:
        found["of_y"], found["of_weights"] = comm.combine_backward(y, place(numbers(TOKENS, HIDDEN, seed=4)), rows)
    else:
        found["of_weights"] = comm.weights_backward(place(numbers(comm.plan.most_rows, 1, seed=5)), rows)
    return found, comm.copied() - before


@pytest.mark.parametrize("layer", ["weighted", "experts weigh", "batched"])
def test_calls_of_a_node_give_the_same_bits_whether_they_copy_or_not(bundle: Any, attached: Attached, layer: str) -> None:
    expected, _ = results(moe.Communicator(bundle(layer, 1), device="virtual"), lambda array: array)
    comm = attached(layer)
    copying, copied = results(comm, lambda array: array)
    in_place, none = results(comm, lambda array: placed(comm, array))
    for name, numbers_ in expected.items():
        assert numbers_.any(), name
        for found in (copying, in_place):
            assert found[name].dtype == numbers_.dtype and found[name].tobytes() == numbers_.tobytes(), name
    assert none == 0
    # Inputs alone are copied, since results lie in memory of the node: both x, y for each call that takes it, and gradients.
    token, row = 4 * HIDDEN, 4 * HIDDEN * comm.plan.most_rows
    gradients = 3 * row + TOKENS * token if comm.plan.combine_weighs else 2 * row + 4 * comm.plan.most_rows
    assert copied == 2 * TOKENS * token + gradients


def test_the_gate_copies_its_parameters_alone(attached: Attached) -> None:
    comm = attached("weighted")
    logits, bias = placed(comm, numbers(TOKENS, EXPERTS, seed=1)), np.zeros(EXPERTS, np.float32)
    before = comm.copied()
    routing = comm.gate(logits, bias=bias)
    assert comm.copied() - before == bias.nbytes
    given = moe.Routing(routing.indices[:, ::-1].astype(np.int64), routing.weights[:, ::-1].copy())
    rows = comm.dispatch(placed(comm, numbers(TOKENS, HIDDEN)), given)
    np.testing.assert_array_equal(rows.routing.indices, routing.indices)
    assert comm.copied() - before == bias.nbytes, "what is sorted is sorted into memory of the node"


def test_a_capture_takes_and_gives_tensors_where_they_are(attached: Attached) -> None:
    comm = attached("weighted")
    x, routing = placed(comm, numbers(TOKENS, HIDDEN)), gated(comm)
    before = comm.copied()
    with comm.capture() as capture:
        rows = comm.dispatch(x, routing)
        y = comm.combine(rows.x, rows)
    for seed in (7, 8):
        x[...] = numbers(TOKENS, HIDDEN, seed=seed)
        capture.replay()
        fresh = comm.dispatch(x, routing)
        assert rows.x.tobytes() == fresh.x.tobytes() and y.tobytes() == comm.combine(fresh.x, fresh).tobytes()
        assert y.any()
    assert comm.copied() == before


def test_arrays_outlive_their_communicator_and_another_one_copies_them(attached: Attached) -> None:
    comm = attached("weighted")
    rows = comm.dispatch(numbers(TOKENS, HIDDEN), gated(comm))
    mine = placed(comm, rows.x)
    del comm, rows
    gc.collect()
    assert len(mapped()) == 1, "what nobody has is gone with the node"
    other = attached("weighted")
    rows = other.dispatch(numbers(TOKENS, HIDDEN), gated(other))
    assert mine.tobytes() == rows.x.tobytes()
    before = other.copied()
    combined = other.combine(mine, rows)
    assert other.copied() - before == mine.nbytes and combined.tobytes() == other.combine(rows.x, rows).tobytes()


def mapped(process: int | str = "self") -> list[int]:
    """Bytes of each piece of memory for tensors that a process has, as the system tells it."""
    lines = [line for line in Path(f"/proc/{process}/maps").read_text().splitlines() if "moe-tensors" in line]
    return [int(end, 16) - int(start, 16) for start, end in (line.split()[0].split("-") for line in lines)]


def node() -> int:
    """The process that this one has started."""
    children = Path("/proc/self/task").glob("*/children")
    return max(int(child) for each in children for child in each.read_text().split())


def resident(process: int | str) -> int:
    """Kilobytes of memory of a process, and of what it shares."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon", "RssShmem")))


def test_a_thousand_arrays_take_no_more_memory_than_a_hundred(attached: Attached) -> None:
    comm = attached("weighted")
    random = np.random.default_rng(0)
    found = []
    kept = comm.empty((2 << 20,), np.uint8)
    kept[:] = 5
    for turn in range(1000):
        array = comm.empty((int(random.integers(1, 4 << 20)),), np.uint8)
        array[:] = turn % 251
        if turn in (99, 999):
            found.append((resident("self"), resident(node()), sum(mapped()) >> 10, sum(mapped(node())) >> 10))
    assert (kept == 5).all() and (array == 999 % 251).all()
    for before, after in zip(*found):
        assert after < before + 4096, found
    # Two are in use at once while one takes the place of another, beside the one that is kept.
    assert found[1][2:] == found[0][2:] or max(found[1][2:]) <= (2 + 4 + 4) << 10, found


def test_what_is_asked_of_memory_is_checked(bundle: Any, attached: Attached) -> None:
    comm = attached("weighted")
    assert comm.empty((0, 3), np.float32).shape == (0, 3)
    with pytest.raises(moe.InvalidArgument, match="rank: 1 is none of this communicator's"):
        comm.empty((2, 3), np.float32, rank=1)
    with pytest.raises(moe.InvalidArgument, match=r"shape: it is \[2, -1\]"):
        comm.empty((2, -1), np.float32)
    with pytest.raises(moe.DeviceError, match=r"\d+ bytes"):
        comm.empty((1 << 60,), np.uint8)
    assert comm.empty((4,), np.float32).shape == (4,), "an allocation that failed has changed nothing"
    alone = moe.Communicator(bundle("weighted"), device="virtual")
    assert alone.empty((4, 2), np.int32, rank=3).shape == (4, 2)
    with pytest.raises(moe.InvalidArgument, match="rank: this communicator has several: pass one of 0 to 3"):
        alone.empty((4, 2), np.int32)
