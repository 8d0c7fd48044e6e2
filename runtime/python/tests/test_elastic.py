"""`ElasticBuffer` with ranks that are threads of this process, against what DeepEP documents for the whole world's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import moe_runtime as moe
import pytest
import torch
from moe_runtime import deep_ep
from moe_runtime.deep_ep import ElasticBuffer

from conftest import EXPERTS, HIDDEN, MOST_TOKENS, PICKS, RANKS
from test_deep_ep import LOCAL, Group, World, restored, together  # noqa: F401 (a fixture)
from test_low_latency import arriving

ALIGN = 4


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], moe.Bundle]:
    folder = tmp_path_factory.mktemp("expanded")

    def compiled(ranks: int) -> moe.Bundle:
        layer = deep_ep.Layer(ranks, EXPERTS, PICKS, HIDDEN, MOST_TOKENS, "f32", layout=f"expert_major align {ALIGN}", sms=2)
        return layer.compile(folder / f"{ranks}.moeb")

    return compiled


def padded(number: int) -> int:
    return (number + ALIGN - 1) // ALIGN * ALIGN


@pytest.mark.parametrize("waits", [True, False])
def test_rows_by_token(bundle, waits: bool) -> None:
    deep_ep.install(moe.World(bundle("by rank"), device="virtual"), deadline=120.0)
    world = World()

    def work(rank: int) -> tuple[Any, ...]:
        buffer = ElasticBuffer(Group(rank), num_max_tokens_per_rank=6, hidden=HIDDEN, num_topk=PICKS, sl_idx=0)
        x, picks, weights, handle, event = buffer.dispatch(
            world.x[rank], world.picks[rank], world.weights[rank], num_experts=EXPERTS, expert_alignment=ALIGN, do_cpu_sync=waits
        )
        assert event.event is None
        y = world.experts(rank, x.nan_to_num(), picks, weights)
        again, *nothing, cached, event = buffer.dispatch(world.x[rank] * 2, handle=handle, async_with_compute_stream=True)
        assert nothing == [None, None] and cached is handle and event.event is not None
        combined, back, _ = buffer.combine(y, handle, topk_weights=picks * 10.0 + rank)
        fewer, _, _ = buffer.combine(y if waits else y[: len(world.sent(rank))].contiguous(), handle)
        assert torch.equal(fewer, combined)
        return x, picks, weights, handle, again, combined, back

    for rank, (x, picks, weights, handle, again, y, back) in enumerate(together(work)):
        sent = world.sent(rank)
        assert len(x) == (len(sent) if waits else RANKS * 6)
        assert torch.equal(x[: len(sent)], torch.stack([world.x[s][t] for s, t in sent]))
        assert torch.equal(again[: len(sent)], 2 * x[: len(sent)])
        for row, of in enumerate(sent):
            assert {int(e): float(w) for e, w in zip(picks[row], weights[row]) if e >= 0} == world.local(rank, of)
        assert (picks[len(sent) :] == -1).all() and (weights[len(sent) :] == 0).all()
        of_ranks = torch.tensor([sum(s == source for s, _ in sent) for source in range(RANKS)])
        assert torch.equal(handle.psum_num_recv_tokens_per_scaleup_rank.long(), of_ranks.cumsum(0))
        counts = [padded(len(arriving(world, rank, local))) for local in range(LOCAL)]
        assert handle.psum_num_recv_tokens_per_expert.tolist() == torch.tensor(counts).cumsum(0).tolist()
        assert handle.num_recv_tokens_per_expert_list == (counts if waits else [])
        torch.testing.assert_close(y.double(), world.dense(rank), rtol=1e-5, atol=1e-5)
        mine = world.picks[rank]
        assert torch.equal(back, torch.where(mine < 0, 0, mine % LOCAL * 10.0 + mine // LOCAL))


@pytest.mark.parametrize("waits", [True, False])
def test_rows_by_expert(expanded, waits: bool) -> None:
    deep_ep.install(expanded=moe.World(expanded(RANKS), device="virtual"), deadline=120.0)
    world = World()

    def work(rank: int) -> tuple[Any, ...]:
        buffer = ElasticBuffer(Group(rank))
        x, none, weights, handle, _ = buffer.dispatch(
            world.x[rank],
            world.picks[rank],
            world.weights[rank],
            num_experts=EXPERTS,
            expert_alignment=ALIGN,
            do_cpu_sync=waits,
            do_expand=True,
            do_zero_padding=True,
        )
        assert none is None and weights.shape == (x.shape[0],)
        # As DeepEP says to read the handle: an expert's rows begin at the next multiple behind those of the one before.
        y, start = torch.zeros_like(x), 0
        for local, end in enumerate(handle.psum_num_recv_tokens_per_expert.tolist()):
            y[start:end] = (weights[start:end, None].double() * (x[start:end].double() @ world.matrices[rank * LOCAL + local])).float()
            start = padded(end)
        ones = torch.arange(x.shape[0], dtype=torch.float32)
        combined, back, _ = buffer.combine(y, handle, topk_weights=ones)
        return x, weights, handle, combined, back

    results = together(work)
    places: dict[tuple[int, int, int], int] = {}
    for rank, (x, weights, handle, y, _) in enumerate(results):
        start = 0
        for local, end in enumerate(handle.psum_num_recv_tokens_per_expert.tolist()):
            rows = arriving(world, rank, local)
            assert end - start == len(rows) == int(handle.num_unaligned_recv_tokens_per_expert[local])
            for row, (source, token) in enumerate(rows, start):
                assert torch.equal(x[row], world.x[source][token])
                assert float(weights[row]) == world.local(rank, (source, token))[local]
                places[source, token, rank * LOCAL + local] = row
            assert (x[end : padded(end)] == 0).all() and (weights[end : padded(end)] == 0).all()
            start = padded(end)
        assert len(x) == start if waits else len(x) >= start
        torch.testing.assert_close(y.double(), world.dense(rank), rtol=1e-5, atol=1e-5)
    for rank, (*_, back) in enumerate(results):
        for token, picks in enumerate(world.picks[rank]):
            assert back[token].tolist() == [places.get((rank, token, int(e)), 0) for e in picks]


@pytest.mark.parametrize("columns", [False, True])
def test_packed_scales_travel_with_the_rows(columns: bool) -> None:
    deep_ep.install(device="virtual")
    g = torch.Generator().manual_seed(2)
    elements = (torch.randn(3, 512, generator=g) * 50).to(torch.float8_e4m3fn)
    exponents = torch.randint(120, 131, (3, 4), dtype=torch.uint8, generator=g)
    values = elements.double() * torch.exp2(exponents.double() - 127).repeat_interleave(128, -1)
    picks = torch.tensor([[1], [-1], [0]])
    buffer = ElasticBuffer(Group(0, 1), num_max_tokens_per_rank=4)
    given = exponents.view(torch.int32)
    if columns:
        given = torch.zeros(1, 4, dtype=torch.int32)[:, :3].copy_(given.T).T
    (payload, scales), _, weights, handle, _ = buffer.dispatch(
        (elements, given), picks, num_experts=2, do_expand=True, use_tma_aligned_col_major_sf=columns
    )
    assert weights is None and (scales.dtype, scales.shape) == (torch.int32, (2, 1))
    assert handle.num_recv_tokens_per_expert_list == [1, 1]
    assert scales.stride() == ((1, 4) if columns else (1, 1))
    arrived = scales.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    factors = torch.exp2(arrived.double() - 127).repeat_interleave(128, -1)
    assert torch.equal(payload.double() * factors, values[[2, 0]])


X, TOPK = torch.zeros(2, HIDDEN), torch.tensor([[0, 1, 2], [3, 4, 5]])


def dispatched(buffer: ElasticBuffer, x: Any = X, picks: Any = TOPK, **options: Any) -> Any:
    return buffer.dispatch(x, picks, torch.ones(2, PICKS), **{"num_experts": EXPERTS, **options})


REFUSED: list[tuple[str, Callable[[ElasticBuffer], Any], str]] = [
    ("alignment", lambda b: dispatched(b, do_expand=True), "expert_alignment: the call has 1, and the bundle 4: compile a bundle for this layer"),
    (
        "most tokens",
        lambda b: dispatched(b, num_max_tokens_per_rank=9),
        "num_max_tokens_per_rank: the call has 9, and the bundle at most 8, and the call 2 tokens: compile a bundle for this layer",
    ),
    ("experts", lambda b: dispatched(b, num_experts=None), "num_experts: pass it, or a handle"),
    ("hidden", lambda b: dispatched(b, torch.zeros(2, 32)), "hidden: the call has 32, and the bundle 64: compile a bundle for this layer"),
    (
        "picks beside a handle",
        lambda b: b.dispatch(X, TOPK, handle=dispatched(b)[3]),
        "handle: a dispatch with a handle has its routing and its rows: leave topk_idx, topk_weights and do_cpu_sync out",
    ),
    ("other tokens", lambda b: b.dispatch(X[:1], handle=dispatched(b)[3]), "x: it has 1 tokens, and the dispatch of the handle had 2: pass as many"),
    ("a handle", lambda b: b.combine(X, 3), "handle: pass what dispatch gave, not int"),
    ("rows", lambda b: b.combine(X[:1], dispatched(b)[3]), f"x: its shape is [1, {HIDDEN}]; pass [2, {HIDDEN}]"),
    (
        "more rows",
        lambda b: b.combine(torch.zeros(99, HIDDEN), dispatched(b, do_cpu_sync=False)[3]),
        "x: it has 99 rows, and the dispatch gave 8",
    ),
    ("a keyword", lambda b: dispatched(b, speed=1), "speed: dispatch has no such argument here: leave it out; docs/python/deep_ep.md says what there is"),
    ("an option", lambda b: ElasticBuffer(b.group, engram=1), "engram: ElasticBuffer has no such argument here: leave it out; docs/python/deep_ep.md says what there is"),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(bundle, expanded, call: Callable[[ElasticBuffer], Any], message: str) -> None:
    deep_ep.install(bundle("by rank", 1), expanded=expanded(1), device="virtual")
    buffer = ElasticBuffer(Group(0, 1))
    with pytest.raises(moe.InvalidArgument) as caught:
        call(buffer)
    assert str(caught.value) == message
    assert dispatched(buffer)[3].num_recv_tokens_per_expert_list == [1] * 6 + [0] * 2
