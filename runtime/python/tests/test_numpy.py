"""Whole layers over numpy arrays against a dense computation: expert e multiplies by a matrix of its own."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import moe_runtime as moe
import numpy as np
import pytest

from conftest import EXPERTS, HIDDEN, PICKS, RANKS

TOKENS = (3, 0, 8, 1)


class Numbers:
    """What goes into a layer, and what must come out of it."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.x = [random.standard_normal((n, HIDDEN)).astype(np.float32) for n in TOKENS]
        self.logits = [random.standard_normal((n, EXPERTS)).astype(np.float32) for n in TOKENS]
        self.bias = random.standard_normal(EXPERTS).astype(np.float32)
        self.gradients = [random.standard_normal((n, HIDDEN)).astype(np.float32) for n in TOKENS]
        self.matrices = random.standard_normal((EXPERTS, HIDDEN, HIDDEN)) / HIDDEN**0.5

    def routing(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """By the gate's definition, in f64; picks ascending."""
        score = 1 / (1 + np.exp(-self.logits[rank].astype(np.float64)))
        picks = np.sort(np.argsort(-(score + self.bias), axis=1, kind="stable")[:, :PICKS], axis=1)
        chosen = np.take_along_axis(score, picks, axis=1)
        return picks, chosen / np.maximum(chosen.sum(axis=1, keepdims=True), 1e-20)

    def dense(self, rank: int, indices: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Result, gradient of the tokens, gradient of the weights, of one rank's tokens."""
        x, g = self.x[rank].astype(np.float64), self.gradients[rank].astype(np.float64)
        y, dx, dw = np.zeros_like(x), np.zeros_like(x), np.zeros(indices.shape)
        for token, picks in enumerate(indices):
            for place, expert in enumerate(picks):
                if expert >= 0:
                    out = x[token] @ self.matrices[expert]
                    y[token] += weights[token, place] * out
                    dx[token] += weights[token, place] * (g[token] @ self.matrices[expert].T)
                    dw[token, place] = out @ g[token]
        return y, dx, dw


def apply(comm: moe.Communicator, rank: int, rows: np.ndarray, offsets: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    out = np.zeros_like(rows)
    start = 0
    for local, end in enumerate(offsets):
        out[start:end] = rows[start:end].astype(np.float64) @ matrices[comm.plan.first_experts[rank] + local]
        start = end
    return out


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_the_gate_chooses_by_its_definition(bundle) -> None:
    numbers = Numbers()
    comm = moe.Communicator(bundle("weighted"), device="virtual")
    routing = comm.gate(numbers.logits, bias=numbers.bias)
    for rank in range(RANKS):
        indices, weights = numbers.routing(rank)
        np.testing.assert_array_equal(routing.indices[rank], indices)
        close(routing.weights[rank], weights)


@pytest.mark.parametrize("layer", ["weighted", "batched"])
def test_a_layer_and_its_gradients(bundle, layer: str) -> None:
    numbers = Numbers()
    comm = moe.Communicator(bundle(layer), device="virtual")
    routing = comm.gate(numbers.logits, bias=numbers.bias)
    rows = comm.dispatch(numbers.x, routing)
    assert sum(int(counts.sum()) for counts in rows.counts) == sum(TOKENS) * PICKS
    y = [apply(comm, r, rows.x[r], rows.offsets[r], numbers.matrices) for r in comm.ranks]
    combined = comm.combine(y, rows)
    of_y, of_weights = comm.combine_backward(y, numbers.gradients, rows)
    transposed = numbers.matrices.transpose(0, 2, 1)
    of_x = comm.dispatch_backward([apply(comm, r, of_y[r], rows.offsets[r], transposed) for r in comm.ranks], rows)
    of_logits = comm.gate_backward(numbers.logits, of_weights, bias=numbers.bias)
    for rank in range(RANKS):
        expected = numbers.dense(rank, *numbers.routing(rank))
        for found, of in zip((combined[rank], of_x[rank], of_weights[rank]), expected):
            close(found, of)
        # d score / d logit of the chosen, through the normalisation.
        indices, weights = numbers.routing(rank)
        score = np.take_along_axis(1 / (1 + np.exp(-numbers.logits[rank].astype(np.float64))), indices, axis=1)
        inner = (expected[2] * weights).sum(axis=1, keepdims=True)
        slopes = (expected[2] - inner) / np.maximum(score.sum(axis=1, keepdims=True), 1e-20) * score * (1 - score)
        of = np.zeros((TOKENS[rank], EXPERTS))
        np.put_along_axis(of, indices, slopes, axis=1)
        close(of_logits[rank], of)


def test_experts_that_weigh_get_the_weights_and_give_their_gradients(bundle) -> None:
    numbers = Numbers()
    comm = moe.Communicator(bundle("experts weigh"), device="virtual")
    routings = [numbers.routing(rank) for rank in range(RANKS)]
    given = moe.Routing([r[0] for r in routings], [r[1].astype(np.float32) for r in routings])
    rows = comm.dispatch(numbers.x, given)
    y = [apply(comm, r, rows.x[r], rows.offsets[r], numbers.matrices) for r in comm.ranks]
    weighed = [rows.weights[r] * y[r] for r in comm.ranks]
    combined = comm.combine(weighed, rows)
    of_weighed, nothing = comm.combine_backward(weighed, numbers.gradients, rows)
    assert nothing is None
    of_weights = comm.weights_backward([(of_weighed[r] * y[r]).sum(axis=1, keepdims=True) for r in comm.ranks], rows)
    for rank in range(RANKS):
        y_, _, dw = numbers.dense(rank, *routings[rank])
        close(combined[rank], y_)
        close(of_weights[rank], dw)


def test_a_routing_of_the_caller_may_be_i64_in_any_order_with_dropped_picks(bundle) -> None:
    numbers = Numbers()
    comm = moe.Communicator(bundle("weighted"), device="virtual")
    indices, weights = [], []
    for rank in range(RANKS):
        picks, factors = numbers.routing(rank)
        picks, factors = picks[:, ::-1].copy(), factors[:, ::-1].astype(np.float32)
        picks[::2, 1] = -1
        indices.append(picks)
        weights.append(np.ascontiguousarray(factors))
    assert indices[0].dtype == np.int64
    rows = comm.dispatch(numbers.x, moe.Routing(indices, weights))
    y = [apply(comm, r, rows.x[r], rows.offsets[r], numbers.matrices) for r in comm.ranks]
    for rank, found in enumerate(comm.combine(y, rows)):
        close(found, numbers.dense(rank, indices[rank], weights[rank])[0])


def test_rows_by_rank_have_picks_and_weights(bundle) -> None:
    numbers = Numbers()
    comm = moe.Communicator(bundle("by rank"), device="virtual")
    routings = [numbers.routing(rank) for rank in range(RANKS)]
    rows = comm.dispatch(numbers.x, moe.Routing([r[0] for r in routings], [r[1].astype(np.float32) for r in routings]))
    assert rows.offsets is None
    outputs = []
    for rank in range(RANKS):
        out = np.zeros_like(rows.x[rank])
        copies = sum(int(((picks // 2) == rank).any(axis=1).sum()) for picks, _ in routings)
        for row in range(copies):
            for local, weight in zip(rows.picks[rank][row], rows.weights[rank][row]):
                if local >= 0:
                    out[row] += weight * (rows.x[rank][row] @ numbers.matrices[2 * rank + local])
        outputs.append(out)
    for rank, found in enumerate(comm.combine(outputs, rows)):
        close(found, numbers.dense(rank, *routings[rank])[0])


@pytest.mark.parametrize("layer", ["weighted", "by rank", "batched"])
def test_other_tokens_go_the_way_of_an_earlier_dispatch(bundle, layer: str) -> None:
    numbers = Numbers()
    comm = moe.Communicator(bundle(layer), device="virtual")
    routings = [numbers.routing(rank) for rank in range(RANKS)]
    given = moe.Routing([r[0] for r in routings], [r[1].astype(np.float32) for r in routings])
    rows = comm.dispatch(numbers.x, given)
    assert [list(received) for received in rows.received] == [
        [int(((picks // 2) == rank).any(axis=1).sum()) for picks, _ in routings] for rank in range(RANKS)
    ]
    again = comm.dispatch_cached(numbers.gradients, rows)
    # A row of the first dispatch says which token it is: rows of tokens are all different.
    of_token = {tuple(x): g for x, g in zip(np.concatenate(numbers.x), np.concatenate(numbers.gradients))}
    for rank in range(RANKS):
        arrived = [row for row in range(len(rows.x[rank])) if rows.x[rank][row].any()]
        assert len(arrived) >= sum(rows.received[rank])
        for row in arrived:
            np.testing.assert_array_equal(again.x[rank][row], of_token[tuple(rows.x[rank][row])])
    assert again.handle is rows.handle
    with pytest.raises(moe.InvalidArgument, match="rank 0: tokens has 2 rows; it must have 3"):
        comm.dispatch_cached([numbers.x[0][:2], *numbers.x[1:]], rows)
    with pytest.raises(moe.InvalidArgument, match="rows: pass what dispatch gave, not int"):
        comm.dispatch_cached(numbers.x, 3)


def test_ranks_in_threads_wait_for_each_other_without_the_lock_of_the_interpreter(bundle) -> None:
    numbers = Numbers()
    world = moe.World(bundle("weighted"), device="virtual")
    found: dict[int, np.ndarray] = {}

    def rank_of(rank: int) -> None:
        comm = moe.Communicator(world, ranks=range(rank, rank + 1), deadline=60)
        routing = comm.gate(numbers.logits[rank], bias=numbers.bias)
        rows = comm.dispatch(numbers.x[rank], routing)
        y = apply(comm, rank, rows.x, rows.offsets, numbers.matrices)
        found[rank] = comm.combine(y, rows)

    threads = [threading.Thread(target=rank_of, args=(rank,), daemon=True) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(found) == list(range(RANKS))
    for rank in range(RANKS):
        close(found[rank], numbers.dense(rank, *numbers.routing(rank))[0])


def test_a_bundle_says_what_it_is(bundle) -> None:
    read = bundle("fp8")
    manifest = read.inspect()
    assert (manifest["model"], manifest["gate"]["top_k"], manifest["exchange"]["hidden"]) == ("small", PICKS, HIDDEN)
    plan = read.plan
    assert (plan.ranks, plan.input_number, plan.scale_number, plan.scale_block) == (RANKS, "fp8_e4m3", "ue8m0", 32)
    assert (plan.token_number, plan.output_number, plan.combine_weighs) == ("bf16", "bf16", True)
    assert read.parameters == (moe.Parameter("bias", "experts"),)


def test_what_calls_launch_is_what_the_documentation_says(bundle) -> None:
    page = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
    calls = bundle("weighted").calls()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", page, re.MULTILINE))
    unweighted = bundle("experts weigh").calls()
    told = {call: int(rows[call]) for call in calls if call != "weights_backward"}
    assert told == {call: len(kernels) for call, kernels in calls.items() if call != "weights_backward"}
    assert int(rows["weights_backward"]) == len(unweighted["weights_backward"])


def test_traffic_counts_every_byte_of_a_row(bundle) -> None:
    held = bundle("weighted")
    plan, none = held.plan, np.full((0, PICKS), -1)
    random = np.random.default_rng(9)
    picks = [random.permuted(np.tile(np.arange(EXPERTS), (n, 1)), axis=1)[:, :PICKS] for n in TOKENS]
    picks[0][1, 2] = -1
    owner = [next(r for r in range(RANKS) if plan.first_experts[r] <= expert < plan.last_experts[r]) for expert in range(EXPERTS)]
    copies = np.zeros((RANKS, RANKS))
    for source, rows in enumerate(picks):
        for row in rows:
            for destination in {owner[expert] for expert in row if expert >= 0}:
                copies[source, destination] += 1
    flags = held.traffic("combine", [none] * RANKS)
    back = held.traffic("combine", picks) - flags
    np.testing.assert_array_equal(back, copies.T * HIDDEN * 4)
    sent = held.traffic("dispatch", picks) - held.traffic("dispatch", [none] * RANKS)
    # Beside the row go its token, and a number and a weight for each pick.
    beside = sent / np.maximum(copies, 1) - HIDDEN * 4
    assert (sent[copies == 0] == 0).all()
    assert len(np.unique(beside[copies > 0])) == 1 and 0 < beside[copies > 0][0] <= 16 + 8 * PICKS
    for wrong, message in (
        (([none], "dispatch"), "indices: pass those of all 4 ranks, not of 1"),
        (([np.zeros((2, 9), int)] * RANKS, "dispatch"), r"indices: pass integers \[tokens, 3\] for each rank, not int64 \[2, 9\]"),
        (([np.full((1, PICKS), 8)] * RANKS, "dispatch"), "indices: a pick is from −1 to 7, not 8 to 8"),
        (([none] * RANKS, "send"), "`send` is none; there are gate, gate_backward, dispatch"),
    ):
        with pytest.raises(moe.InvalidArgument, match=message):
            held.traffic(wrong[1], wrong[0])


class Foreign:
    """An array of another library, which has nothing but DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_arrays_of_other_libraries(bundle) -> None:
    comm = moe.Communicator(bundle("weighted", 1), device="virtual")
    x = np.random.default_rng(1).standard_normal((3, HIDDEN)).astype(np.float32)
    indices, weights = np.tile(np.arange(PICKS), (3, 1)), np.full((3, PICKS), 0.5, np.float32)
    plain = comm.dispatch(x, moe.Routing(indices, weights))
    rows = comm.dispatch(Foreign(x), moe.Routing(Foreign(indices), Foreign(weights)))
    np.testing.assert_array_equal(rows.x, plain.x)
    np.testing.assert_array_equal(comm.combine(Foreign(rows.x), rows), x * np.float32(0.5 * PICKS))
    logits, bias = np.random.default_rng(2).random((3, EXPERTS), np.float32), np.zeros(EXPERTS, np.float32)
    chosen = comm.gate(Foreign(logits), bias=Foreign(bias))
    np.testing.assert_array_equal(chosen.weights, comm.gate(logits, bias=bias).weights)


@pytest.mark.parametrize("mode", ["throughput", "latency"])
@pytest.mark.parametrize("layer", ["weighted", "experts weigh", "by rank", "bf16"])
def test_a_captured_layer_replayed_with_other_contents_gives_the_bits_of_fresh_calls(bundle, layer: str, mode: str) -> None:
    comm = moe.Communicator(bundle(layer, mode=mode), device="virtual")
    plan = comm.plan
    kind = np.uint16 if layer == "bf16" else np.float32
    x = [np.zeros((n, HIDDEN), kind) for n in TOKENS]
    indices = [np.tile(np.arange(PICKS, dtype=np.int32), (n, 1)) for n in TOKENS]
    weights = [np.zeros((n, PICKS), np.float32) for n in TOKENS]
    y = [np.zeros((plan.most_rows, HIDDEN), kind) for _ in comm.ranks]
    routing = moe.Routing(indices, weights, ascending=True)
    with comm.capture() as capture:
        rows = comm.dispatch(x, routing)
        combined = comm.combine(y, rows)
        back = comm.dispatch_backward(y, rows)
        with pytest.raises(moe.InvalidArgument, match="ascending=True"):
            comm.dispatch(x, moe.Routing(indices, weights))
    assert not any(each.any() for each in rows.x), "nothing has run"
    random = np.random.default_rng(11)

    def fill(array: np.ndarray) -> None:
        numbers = random.standard_normal(array.shape).astype(np.float32)
        array[...] = numbers if array.dtype == np.float32 else (numbers.view(np.uint32) >> 16).astype(np.uint16)

    for _ in range(100):
        for array in (*x, *weights, *y):
            fill(array)
        for of_rank in indices:
            for token in of_rank:
                token[...] = np.sort(random.choice(EXPERTS, PICKS, replace=False))
        capture.replay()
        fresh = comm.dispatch(x, routing)
        for rank, count in enumerate(fresh.counts):
            assert np.array_equal(rows.counts[rank], count)
        expected = [*comm.combine(y, fresh), *comm.dispatch_backward(y, fresh), *fresh.x]
        found = [*combined, *back, *rows.x]
        assert all(one.tobytes() == other.tobytes() for one, other in zip(found, expected))
    assert any(each.any() for each in combined), "there is something to compare"


def test_a_capture_without_calls_or_after_an_error_is_not_replayed(bundle) -> None:
    comm = moe.Communicator(bundle("weighted"), device="virtual")
    with pytest.raises(moe.InvalidArgument), comm.capture() as capture:
        comm.combine(None, None)
    with pytest.raises(moe.InvalidArgument, match="an error ended it"):
        capture.replay()
    with comm.capture() as capture:
        comm.barrier()
    capture.replay()
    with pytest.raises(moe.InvalidArgument, match="end that capture first"), comm.capture(), comm.capture():
        pass
    comm.barrier()
