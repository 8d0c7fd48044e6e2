"""What is passed wrongly becomes an exception that says what to do; nothing aborts, and the communicator stays usable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import moe_runtime as moe
import numpy as np
import pytest

from conftest import EXPERTS, HIDDEN, LAYERS, PICKS, RANKS, text


@pytest.fixture
def comm(bundle) -> moe.Communicator:
    return moe.Communicator(bundle("weighted", 1), device="virtual")


def x(rows: int = 2) -> np.ndarray:
    return np.ones((rows, HIDDEN), np.float32)


def routing(rows: int = 2) -> moe.Routing:
    return moe.Routing(np.tile(np.arange(PICKS, dtype=np.int32), (rows, 1)), np.ones((rows, PICKS), np.float32))


def wrong(indices: Any = None, weights: Any = None) -> moe.Routing:
    right = routing()
    return moe.Routing(right.indices if indices is None else indices, right.weights if weights is None else weights)


CASES: list[tuple[str, Callable[[moe.Communicator], Any], str]] = [
    ("type", lambda c: c.dispatch(x().astype(np.float64), routing()), "x: it is of float64; pass float32 (f32 in this bundle)"),
    ("shape", lambda c: c.dispatch(x()[0], routing()), f"x: its shape is [{HIDDEN}]; pass [n, {HIDDEN}]"),
    ("width", lambda c: c.dispatch(np.ones((2, 65), np.float32), routing()), f"x: its shape is [2, 65]; pass [n, {HIDDEN}]"),
    (
        "not contiguous",
        lambda c: c.dispatch(np.ones((HIDDEN, 2), np.float32).T, routing()),
        "x: it is not contiguous: pass numpy.ascontiguousarray of it",
    ),
    ("a list", lambda c: c.dispatch([x()], routing()), "x: pass a single tensor: this communicator has one rank"),
    ("rows", lambda c: c.dispatch(x(3), routing()), "rank 0: indices has 2 rows; it must have 3"),
    ("too many", lambda c: c.dispatch(x(9), routing(9)), "rank 0: 9 tokens, but the bundle was built for at most 8 per rank and call"),
    ("float indices", lambda c: c.dispatch(x(), wrong(indices=np.zeros((2, PICKS)))), "indices: they are of float64; pass int32 or int64"),
    (
        "fewer indices",
        lambda c: c.dispatch(x(), wrong(indices=np.zeros((1, PICKS), int))),
        f"indices: their shape is [1, {PICKS}], that of the weights [2, {PICKS}]; pass the same",
    ),
    ("a number", lambda c: c.combine(x(), 3), "rows: pass what dispatch gave, not int"),
    (
        "fewer outputs",
        lambda c: c.combine(x(), c.dispatch(x(), routing())),
        "rank 0: experts' output has 2 rows; it must have 48",
    ),
    ("a missing parameter", lambda c: c.gate(np.zeros((2, EXPERTS), np.float32)), "the gate needs the parameter `bias`"),
    (
        "an unknown parameter",
        lambda c: c.gate(np.zeros((2, EXPERTS), np.float32), bias=np.zeros(EXPERTS, np.float32), b=np.zeros(1, np.float32)),
        "the gate has no parameter `b`; it has `bias`",
    ),
    (
        "a short parameter",
        lambda c: c.gate(np.zeros((2, EXPERTS), np.float32), bias=np.zeros(3, np.float32)),
        "the gate's parameter `bias` has 3 × f32; it must have 8 × f32",
    ),
    (
        "gradients that combine gives",
        lambda c: c.weights_backward(np.zeros((48, 1), np.float32), c.dispatch(x(), routing())),
        "weights_backward is not possible: combine weighs, and combine_backward gives the gradients of the weights",
    ),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refused(comm: moe.Communicator, call: Callable[[moe.Communicator], Any], message: str) -> None:
    with pytest.raises(moe.InvalidArgument) as caught:
        call(comm)
    assert str(caught.value) == message
    assert caught.value.code and isinstance(caught.value.fields, dict)
    comm.dispatch(x(), routing())


def test_an_error_has_its_fields(comm: moe.Communicator) -> None:
    with pytest.raises(moe.Error) as caught:
        comm.dispatch(x(9), routing(9))
    assert caught.value.code == "tokens"
    assert caught.value.fields == {"rank": 0, "tokens": 9, "most": 8}
    assert isinstance(caught.value, (ValueError, RuntimeError))


def test_a_pick_that_is_no_expert_stops_the_ranks_until_they_recover(comm: moe.Communicator) -> None:
    bad = np.array([[0, 1, 2], [0, 1, 99]])
    with pytest.raises(moe.InputError, match="rank 0, token 1: pick 2 is 99, which is not an expert") as caught:
        comm.dispatch(x(), wrong(indices=bad))
    assert caught.value.fields["token"] == 1
    with pytest.raises(moe.StoppedError, match="pick 2 is 99"):
        comm.dispatch(x(), routing())
    comm.world.recover()
    comm.dispatch(x(), routing())


@pytest.mark.parametrize("pick", [2**40, 2**32 + 1, -7])
def test_a_huge_or_negative_pick_is_no_other_expert(comm: moe.Communicator, pick: int) -> None:
    with pytest.raises(moe.InputError, match="which is not an expert"):
        comm.dispatch(x(), wrong(indices=np.array([[0, 1, 2], [0, 1, pick]])))


def test_a_rank_that_does_not_come_is_named(bundle) -> None:
    world = moe.World(bundle("weighted"), device="virtual")
    comm = moe.Communicator(world, ranks=range(2), deadline=0.2)
    with pytest.raises(moe.DeadlineError, match="waits for rank [23]") as caught:
        comm.barrier()
    assert caught.value.code == "deadline"
    assert {wait["culprit"] for wait in caught.value.fields["waits"]} <= {2, 3}
    assert caught.value.fields["deadline"] == 0.2
    assert isinstance(caught.value, TimeoutError)


def test_lists_have_an_entry_for_each_rank(bundle) -> None:
    comm = moe.Communicator(bundle("weighted"), device="virtual")
    with pytest.raises(moe.InvalidArgument, match="x: pass a list of 4 tensors, one for each rank of this communicator, not 1 tensors"):
        comm.dispatch([x()], routing())
    with pytest.raises(moe.InvalidArgument, match="not a single tensor"):
        comm.dispatch(x(), routing())


def test_ranks_that_are_taken_or_are_not_there(bundle) -> None:
    world = moe.World(bundle("weighted"), device="virtual")
    first = moe.Communicator(world, ranks=range(2))
    with pytest.raises(moe.InvalidArgument, match="rank 1 has a communicator already: drop that one first"):
        moe.Communicator(world, ranks=range(1, 3))
    for ranks in (range(3, 6), range(0), range(-1, 2), range(0, 4, 2)):
        with pytest.raises(moe.InvalidArgument):
            moe.Communicator(world, ranks=ranks)
    del first
    moe.Communicator(world, ranks=range(2))


class Unreadable:
    """What numpy cannot read: in the memory of a GPU."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("the array is on a GPU")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def test_arrays_that_numpy_cannot_read(comm: moe.Communicator) -> None:
    with pytest.raises(moe.InvalidArgument, match="x: numpy cannot read it by DLPack .*: pass a numpy array, or torch tensors"):
        comm.dispatch(Unreadable(), routing())


def test_a_torch_that_is_too_old_or_not_there_says_so(tmp_path) -> None:
    found = {}
    for name, text in (
        ("old", "from types import SimpleNamespace\n__version__ = '2.4.0'\nlibrary = SimpleNamespace()\nclass Tensor: ...\nclass dtype: ...\n"),
        ("none", "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "torch.py").write_text(text)
        program = "import sys; sys.path.insert(0, sys.argv[1]); import moe_runtime, moe_runtime.torch"
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        found[name] = done.stderr.strip().splitlines()[-1]
    assert "torch 2.4.0 is too old" in found["old"] and "install torch 2.15 or newer" in found["old"]
    assert found["none"] == "ModuleNotFoundError: No module named 'torch'"


class Group:
    """Of so many processes."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = lambda: size, lambda: 0


def test_a_group_of_another_size_is_refused(bundle) -> None:
    with pytest.raises(moe.InvalidArgument, match="it has 3 processes, and the bundle is for 4 ranks") as caught:
        moe.Communicator(bundle("weighted"), group=Group(3), device="virtual")
    assert caught.value.fields == {"processes": 3, "ranks": RANKS}
    assert moe.Communicator(bundle("weighted", 1), group=Group(1), device="virtual").single


def test_files_that_are_no_bundles(tmp_path) -> None:
    with pytest.raises(moe.BundleError, match="No such file"):
        moe.Bundle(tmp_path / "none.moeb")
    (tmp_path / "text.moeb").write_text("text")
    with pytest.raises(moe.BundleError, match="not a bundle"):
        moe.Communicator(tmp_path / "text.moeb", device="virtual")


def test_devices_that_there_are_not(bundle) -> None:
    with pytest.raises(moe.InvalidArgument, match="`tpu` is neither `virtual` nor `cuda`"):
        moe.World(bundle("weighted"), device="tpu")


def test_the_compiler_s_diagnostics_are_the_message(tmp_path) -> None:
    path = tmp_path / "wrong.moe"
    path.write_text(text(LAYERS["weighted"], RANKS).replace("experts 8", "expert 8"))
    with pytest.raises(moe.CompileError, match=re.escape("wrong.moe:3")) as caught:
        moe.compile(path)
    assert "expert 8" in str(caught.value)
    with pytest.raises(moe.CompileError, match="cannot be started"):
        moe.compile(path, moec=os.fspath(tmp_path / "nothing"))
    with pytest.raises(moe.CompileError, match="another"):
        path.write_text(text(LAYERS["weighted"], RANKS))
        moe.compile(path, deploy="another")
