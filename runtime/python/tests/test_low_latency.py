"""DeepEP's low-latency calls with ranks that are threads of this process, against what DeepEP documents for the whole world's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import moe_runtime as moe
import pytest
import torch
from moe_runtime import deep_ep
from moe_runtime.deep_ep import Buffer

from conftest import EXPERTS, HIDDEN, MOST_TOKENS, PICKS, RANKS
from test_deep_ep import COUNTS, LOCAL, Group, World, restored, together  # noqa: F401 (a fixture)

EACH = RANKS * MOST_TOKENS
"""Rows of an expert."""


def arriving(world: World, rank: int, local: int) -> list[tuple[int, int]]:
    """(source, token) of the rows of an expert, in their order."""
    return [(s, t) for s, t in world.sent(rank) if local in world.local(rank, (s, t))]


@pytest.mark.parametrize("early", [False, True], ids=["weights at combine", "weights at dispatch"])
def test_rows_come_by_expert_and_go_back_weighed(bundle, early: bool) -> None:
    deep_ep.install(low_latency=moe.World(bundle("batched"), device="virtual"), deadline=120.0)
    world = World()

    def work(rank: int) -> tuple[Any, ...]:
        buffer = Buffer(Group(rank), low_latency_mode=True, num_qps_per_rank=LOCAL, enable_shrink=True)
        buffer.clean_low_latency_buffer(MOST_TOKENS, HIDDEN, EXPERTS)
        seen = torch.full((LOCAL,), 100, dtype=torch.int32)
        x, counts, handle, event, hook = buffer.low_latency_dispatch(
            world.x[rank],
            world.picks[rank],
            MOST_TOKENS,
            EXPERTS,
            cumulative_local_expert_recv_stats=seen,
            use_fp8=False,
            return_recv_hook=True,
            use_nvfp4=False,
            **({"topk_weights": world.weights[rank]} if early else {}),
        )
        hook()
        assert event.event is None
        y = buffer.get_next_low_latency_combine_buffer(handle)
        for local in range(LOCAL):
            y[local] = (x[local].double() @ world.matrices[rank * LOCAL + local]).float()
        out = torch.full((COUNTS[rank], HIDDEN), torch.nan)
        found, event, hook = buffer.low_latency_combine(y, world.picks[rank], world.weights[rank], handle, zero_copy=True, async_finish=True, out=out)
        assert hook is None and event.event is not None and found is out
        return x, counts, seen, out

    for rank, (x, counts, seen, y) in enumerate(together(work)):
        assert x.shape == (LOCAL, EACH, HIDDEN)
        assert (counts.dtype, (seen - counts).tolist()) == (torch.int32, [100] * LOCAL)
        for local in range(LOCAL):
            rows = arriving(world, rank, local)
            assert int(counts[local]) == len(rows)
            for place, (source, token) in enumerate(rows):
                assert torch.equal(x[local, place], world.x[source][token])
        torch.testing.assert_close(y.double(), world.dense(rank), rtol=1e-5, atol=1e-5)


def rounded(x: Any, *, power: bool) -> tuple[Any, Any]:
    """Elements and scales of bf16 rows as DeepEP defines them, in f32."""
    blocks = x.float().unflatten(-1, (-1, 128))
    scales = blocks.abs().amax(-1).clamp(min=1e-4) / 448
    if power:
        scales = torch.exp2(torch.ceil(torch.log2(scales)))
    return (blocks / scales[..., None]).flatten(-2).to(torch.float8_e4m3fn), scales


@pytest.mark.parametrize("kind", ["f32", "power of two", "packed"])
def test_rows_are_scaled_in_the_three_forms(kind: str) -> None:
    deep_ep.install(device="virtual")
    hidden, tokens = 1024, 3
    x = torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(4)).bfloat16()
    picks = torch.tensor([[0, 1], [1, -1], [1, 0]])
    buffer = Buffer(Group(0, 1), low_latency_mode=True)
    (elements, scales), counts, handle, _, _ = buffer.low_latency_dispatch(
        x, picks, 4, 2, round_scale=kind != "f32", use_ue8m0=kind == "packed"
    )
    assert counts.tolist() == [2, 3] and elements.dtype == torch.float8_e4m3fn
    expected, factors = rounded(x, power=kind != "f32")
    assert scales.stride(1) == 1 and scales.shape == (2, 4, hidden // 128 // (4 if kind == "packed" else 1))
    for local, row, token in ((0, 0, 0), (0, 1, 2), (1, 0, 0), (1, 1, 1), (1, 2, 2)):
        found = scales[local, row]
        if kind == "packed":
            assert found.dtype == torch.int32
            found = torch.exp2(found.contiguous().view(torch.uint8).float() - 127)
        torch.testing.assert_close(found, factors[token], rtol=2e-7, atol=0)
        # A quotient may be rounded the other way where the scale is.
        different = elements[local, row].float() != expected[token].float()
        assert different.float().mean() < (0.01 if kind == "f32" else 1e-9)
    values = elements.float()
    y = torch.zeros(2, 4, hidden, dtype=torch.bfloat16)
    y[:] = values.bfloat16()
    weights = torch.tensor([[0.5, 0.25], [1.0, 7.0], [0.0, 2.0]])
    out, _, _ = buffer.low_latency_combine(y, picks, weights, handle, use_logfmt=True)
    sums = [0.5 * values[0, 0] + 0.25 * values[1, 0], values[1, 1], 2 * values[0, 1]]
    torch.testing.assert_close(out.float(), torch.stack(sums), rtol=2**-8, atol=0)


X, TOPK, WEIGHTS = torch.zeros(2, HIDDEN), torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.ones(2, PICKS)


def dispatched(buffer: Buffer, x: Any = X, picks: Any = TOPK, most: int = MOST_TOKENS, experts: int = EXPERTS, **options: Any) -> Any:
    return buffer.low_latency_dispatch(x, picks, most, experts, **{"use_fp8": False, **options})


def combined(buffer: Buffer, y: Any = None, picks: Any = TOPK, weights: Any = WEIGHTS, handle: Any = None, **options: Any) -> Any:
    handle = dispatched(buffer)[2] if handle is None else handle
    y = torch.zeros(EXPERTS, MOST_TOKENS, HIDDEN) if y is None else y
    return buffer.low_latency_combine(y, picks, weights, handle, **options)


REFUSED: list[tuple[str, Callable[[Buffer], Any], str]] = [
    ("most tokens", lambda b: dispatched(b, most=16), "num_max_dispatch_tokens_per_rank: the call has 16, and the bundle 8: compile a bundle for this layer"),
    ("experts", lambda b: dispatched(b, experts=4), "experts: the call has 4, and the bundle 8: compile a bundle for this layer"),
    (
        "tokens",
        lambda b: dispatched(b, torch.zeros(9, HIDDEN), torch.arange(3).repeat(9, 1)),
        "tokens: the call has 9, and the bundle at most 8: compile a bundle for more tokens per GPU",
    ),
    ("fp8", lambda b: dispatched(b, use_fp8=True), "payload: the call has fp8_e4m3 scale f32 per 128, and the bundle f32: compile a bundle for this layer"),
    ("scales", lambda b: dispatched(b, use_ue8m0=True), "use_ue8m0: scales of that type are powers of two: pass round_scale=True as well"),
    (
        "packed scales",
        lambda b: dispatched(b, use_ue8m0=True, round_scale=True),
        "use_ue8m0: scales of a row of 64 elements fill no whole number of int32",
    ),
    ("a type", lambda b: dispatched(b, X.double()), "x: it is of torch.float64; pass torch.bfloat16 or torch.float16 or torch.float32"),
    ("picks", lambda b: dispatched(b, picks=TOPK[:1]), "topk_idx: its shape is [1, 3]; pass [2, n]"),
    (
        "times",
        lambda b: dispatched(b, dispatch_wait_recv_cost_stats=torch.zeros(1, 1)),
        "dispatch_wait_recv_cost_stats: low_latency_dispatch has no such argument here: leave it out; docs/python/deep_ep.md says what there is",
    ),
    (
        "another format",
        lambda b: dispatched(b, use_nvfp4=True),
        "use_nvfp4: low_latency_dispatch has no such argument here: leave it out; docs/python/deep_ep.md says what there is",
    ),
    ("rows", lambda b: combined(b, torch.zeros(8, 4, HIDDEN)), f"x: it is [8, 4, {HIDDEN}]; pass a contiguous tensor [8, 8, {HIDDEN}], a row for each of the dispatch"),
    ("type of rows", lambda b: combined(b, torch.zeros(8, 8, HIDDEN).half()), "x: it is of torch.float16; pass torch.float32"),
    ("weights", lambda b: combined(b, weights=WEIGHTS.half()), "topk_weights: it is of torch.float16; pass torch.float32"),
    ("out", lambda b: combined(b, out=X[:1]), f"out: its shape is [1, {HIDDEN}]; pass [2, {HIDDEN}]"),
    ("a handle", lambda b: combined(b, handle=3), "handle: pass what low_latency_dispatch gave, not int"),
    ("a mask", lambda b: b.low_latency_update_mask_buffer(0, True), "mask: rank 0 cannot be left out: a rank that does not come stops the others with an error"),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(bundle, call: Callable[[Buffer], Any], message: str) -> None:
    deep_ep.install(low_latency=bundle("batched", 1), device="virtual")
    buffer = Buffer(Group(0, 1), low_latency_mode=True)
    with pytest.raises(moe.InvalidArgument) as caught:
        call(buffer)
    assert str(caught.value) == message
    assert dispatched(buffer)[1].tolist() == [1] * 6 + [0] * 2
    status = torch.ones(1, dtype=torch.int32)
    buffer.low_latency_query_mask_buffer(status)
    assert status.tolist() == [0]


def test_a_handle_is_of_its_mode(bundle) -> None:
    deep_ep.install(bundle("by rank", 1), low_latency=bundle("batched", 1), device="virtual")
    buffer = Buffer(Group(0, 1), low_latency_mode=True)
    with pytest.raises(moe.InvalidArgument, match="handle: pass what dispatch gave, not LowLatencyHandle"):
        buffer.combine(X, dispatched(buffer)[2])
    other = Buffer(Group(0, 1), low_latency_mode=True)
    with pytest.raises(moe.InvalidArgument, match="handle: it is of a buffer of another group"):
        combined(other, handle=dispatched(buffer)[2])
