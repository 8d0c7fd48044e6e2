"""`Buffer` with ranks that are threads of this process, against what DeepEP documents, written down here for the whole world's tokens."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import moe_runtime as moe
import pytest
import torch
from moe_runtime import deep_ep
from moe_runtime.deep_ep import Buffer

from conftest import EXPERTS, HIDDEN, PICKS, RANKS
from test_processes import SECONDS, environment

COUNTS = (3, 0, 5, 2)
LOCAL = EXPERTS // RANKS


class Group:
    """A rank that is a thread of this process."""

    def __init__(self, rank: int, size: int = RANKS) -> None:
        self.rank, self.size = lambda: rank, lambda: size


def together(work: Callable[[int], Any], ranks: int = RANKS) -> list[Any]:
    """What each rank gave, each in a thread; the first of their errors is raised."""
    results: list[Any] = [None] * ranks
    errors: list[BaseException] = []

    def of(rank: int) -> None:
        try:
            results[rank] = work(rank)
        except BaseException as error:  # noqa: BLE001 (raised below)
            errors.append(error)

    threads = [threading.Thread(target=of, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
        assert not thread.is_alive(), "a rank hangs"
    if errors:
        raise errors[0]
    return results


class World:
    """Tokens of every rank, their picks in no order, some of them dropped, and matrices of the experts."""

    def __init__(self, dtype: Any = torch.float32, counts: tuple[int, ...] = COUNTS, seed: int = 3) -> None:
        g = torch.Generator().manual_seed(seed)
        self.x = [torch.randn(n, HIDDEN, generator=g).to(dtype) for n in counts]
        self.picks = [torch.stack([torch.randperm(EXPERTS, generator=g)[:PICKS] for _ in range(n)]) if n else torch.zeros(0, PICKS).long() for n in counts]
        for picks in self.picks:
            picks[::2, 1] = -1
        self.weights = [torch.rand(n, PICKS, generator=g) for n in counts]
        self.matrices = torch.randn(EXPERTS, HIDDEN, HIDDEN, generator=g, dtype=torch.float64) / HIDDEN**0.5

    def sent(self, rank: int) -> list[tuple[int, int]]:
        """(source, token) of the rows of a rank, as DeepEP orders them."""
        return [
            (source, token)
            for source, picks in enumerate(self.picks)
            for token in range(picks.shape[0])
            if ((picks[token] // LOCAL == rank) & (picks[token] >= 0)).any()
        ]

    def local(self, rank: int, row: tuple[int, int]) -> dict[int, float]:
        """Local experts of a row and their weights."""
        picks, weights = self.picks[row[0]][row[1]], self.weights[row[0]][row[1]]
        return {int(e) - rank * LOCAL: float(w) for e, w in zip(picks, weights) if e >= 0 and int(e) // LOCAL == rank}

    def dense(self, rank: int, *, weighed: bool = True) -> Any:
        """What a rank's tokens come back as, in f64."""
        y = torch.zeros(self.x[rank].shape, dtype=torch.float64)
        for token, picks in enumerate(self.picks[rank]):
            for place, expert in enumerate(picks):
                if expert >= 0:
                    factor = self.weights[rank][token, place].double() if weighed else 1.0
                    y[token] += factor * (self.x[rank][token].double() @ self.matrices[expert])
        return y

    def experts(self, rank: int, rows: Any, picks: Any, weights: Any) -> Any:
        """The local experts of each row, weighed and summed, in the type of the rows."""
        y = torch.zeros(rows.shape, dtype=torch.float64)
        for row in range(rows.shape[0]):
            for expert, weight in zip(picks[row].tolist(), weights[row].tolist()):
                if expert >= 0:
                    y[row] += weight * (rows[row].double() @ self.matrices[rank * LOCAL + expert])
        return y.to(rows.dtype)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    sys.modules.pop("deep_ep", None)
    sys.modules.pop("deep_ep.utils", None)


@pytest.fixture
def installed(bundle: Callable[..., moe.Bundle]) -> Callable[..., None]:
    def install(layer: str = "by rank", low_latency: str | None = None) -> None:
        world = moe.World(bundle(layer), device="virtual")
        low = None if low_latency is None else moe.World(bundle(low_latency), device="virtual")
        deep_ep.install(world, low_latency=low, deadline=120.0)

    return install


def send(buffer: Buffer, world: World, rank: int, **options: Any) -> tuple[Any, ...]:
    """A dispatch as DeepEP's own example makes it."""
    in_rank = buffer.get_dispatch_layout(world.picks[rank], EXPERTS)
    return buffer.dispatch(
        world.x[rank],
        topk_idx=world.picks[rank],
        topk_weights=world.weights[rank],
        num_tokens_per_rank=in_rank[0],
        num_tokens_per_rdma_rank=in_rank[1],
        num_tokens_per_expert=in_rank[2],
        is_token_in_rank=in_rank[3],
        **options,
    )


def test_the_layout_counts_tokens_of_ranks_and_experts() -> None:
    deep_ep.install(tokens=8)
    world = World()
    for rank in range(RANKS):
        per_rank, rdma, per_expert, there, event = Buffer(Group(rank)).get_dispatch_layout(world.picks[rank], EXPERTS)
        assert (rdma, event.event, per_rank.dtype, per_expert.dtype, there.dtype) == (None, None, torch.int32, torch.int32, torch.bool)
        for to in range(RANKS):
            tokens = [t for s, t in world.sent(to) if s == rank]
            assert (there[:, to].nonzero().flatten().tolist(), int(per_rank[to])) == (tokens, len(tokens))
        assert per_expert.tolist() == [int((world.picks[rank] == e).sum()) for e in range(EXPERTS)]


@pytest.mark.parametrize("integers", [torch.int64, torch.int32])
def test_rows_come_by_rank_and_token_with_their_picks_and_go_back_summed(installed, integers: Any) -> None:
    installed()
    world = World()
    world.picks = [picks.to(integers) for picks in world.picks]

    def work(rank: int) -> tuple[Any, ...]:
        buffer = Buffer(Group(rank), 1 << 20, 0, num_qps_per_rank=24, enable_shrink=False)
        x, picks, weights, counts, handle, event = send(buffer, world, rank, expert_alignment=4)
        event.current_stream_wait()
        y, none, _ = buffer.combine(world.experts(rank, x, picks, weights), handle)
        assert none is None
        return x, picks, weights, counts, y

    for rank, (x, picks, weights, counts, y) in enumerate(together(work)):
        sent = world.sent(rank)
        assert torch.equal(x, torch.stack([world.x[s][t] for s, t in sent]))
        assert picks.dtype == integers and weights.dtype == torch.float32
        for row, of in enumerate(sent):
            found = {int(e): float(w) for e, w in zip(picks[row], weights[row]) if e >= 0}
            assert found == world.local(rank, of)
            assert weights[row][picks[row] < 0].abs().sum() == 0
        of_experts = [sum(e in world.local(rank, of) for of in sent) for e in range(LOCAL)]
        assert counts == [(n + 3) // 4 * 4 for n in of_experts]
        torch.testing.assert_close(y.double(), world.dense(rank), rtol=1e-5, atol=1e-5)


def test_cached_dispatch_and_weights_that_go_back_are_the_backward(installed) -> None:
    installed()
    world = World()
    g = torch.Generator().manual_seed(9)
    of_y = [torch.randn(n, HIDDEN, generator=g) for n in COUNTS]

    def work(rank: int) -> tuple[Any, ...]:
        buffer = Buffer(Group(rank))
        _, picks, _, _, handle, _ = send(buffer, world, rank)
        again, *nothing, event = buffer.dispatch(of_y[rank], handle=handle, async_finish=True)
        assert nothing == [None] * 4 and event.event is not None
        factors = torch.where(picks < 0, 77.0, picks * 10.0 + rank)
        _, back, _ = buffer.combine(again, handle, topk_weights=factors)
        bias = torch.ones_like(of_y[rank])
        biased, _, _ = buffer.combine(again, handle, bias=(bias, 2 * bias))
        return again, back, biased

    for rank, (again, back, biased) in enumerate(together(work)):
        assert torch.equal(again, torch.stack([of_y[s][t] for s, t in world.sent(rank)]))
        picks = world.picks[rank]
        assert torch.equal(back, torch.where(picks < 0, 0, picks % LOCAL * 10.0 + picks // LOCAL))
        ranks = torch.tensor([len({int(e) // LOCAL for e in row if e >= 0}) for row in picks], dtype=torch.float32)
        torch.testing.assert_close(biased, ranks.reshape(-1, 1) * of_y[rank] + 3)


def test_worst_tokens_need_no_list(installed) -> None:
    installed()
    world = World()

    def work(rank: int) -> tuple[Any, ...]:
        buffer = Buffer(Group(rank))
        x, picks, weights, counts, handle, _ = send(buffer, world, rank, num_worst_tokens=40)
        return x, picks, counts, buffer.combine(world.experts(rank, x.nan_to_num(), picks, weights), handle)[0]

    for rank, (x, picks, counts, y) in enumerate(together(work)):
        arrived = len(world.sent(rank))
        assert (x.shape, picks.shape, counts) == ((40, HIDDEN), (40, PICKS), [])
        assert (picks[:arrived] >= 0).any(1).all() and (picks[arrived:] == -1).all()
        torch.testing.assert_close(y.double(), world.dense(rank), rtol=1e-5, atol=1e-5)


def test_elements_with_scales_of_powers_of_two_travel_exactly(bundle) -> None:
    layer = deep_ep.Layer(RANKS, EXPERTS, PICKS, HIDDEN, 8, "fp8_e4m3 scale ue8m0 per 32", sms=2)
    deep_ep.install(moe.World(layer.compile(bundle("by rank").path + ".fp8"), device="virtual"), deadline=120.0)
    world = World(torch.bfloat16)
    exponents = [torch.randint(120, 131, (n, HIDDEN // 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)) for n in COUNTS]
    elements = [(x * 100).to(torch.float8_e4m3fn) for x in world.x]
    values = [e.double() * torch.exp2(s.double() - 127).repeat_interleave(32, -1) for e, s in zip(elements, exponents)]

    def work(rank: int) -> Any:
        world.x[rank] = (elements[rank], exponents[rank].view(torch.float8_e8m0fnu))
        buffer = Buffer(Group(rank))
        (payload, scales), *_, handle, _ = send(buffer, world, rank)
        with pytest.raises(moe.InvalidArgument, match="payload: the call has torch.bfloat16, and the bundle fp8_e4m3 with scales"):
            buffer.dispatch(torch.zeros(COUNTS[rank], HIDDEN, dtype=torch.bfloat16), handle=handle)
        return payload.double() * scales.float().double().repeat_interleave(32, -1)

    for rank, found in enumerate(together(work)):
        assert torch.equal(found, torch.stack([values[s][t] for s, t in world.sent(rank)]))


def test_a_bundle_is_compiled_for_the_shapes_of_a_call_and_shared_by_buffers() -> None:
    deep_ep.install(tokens=8, device="virtual")
    group = Group(0, 1)
    x = torch.randn(5, 128).bfloat16()
    picks = torch.tensor([[0, 3], [1, -1], [2, 0], [3, 1], [-1, -1]])
    made = {}
    for buffer in (Buffer(group), Buffer(group)):
        layout = buffer.get_dispatch_layout(picks, 4)
        rows, _, _, counts, handle, _ = buffer.dispatch(
            x, topk_idx=picks, topk_weights=torch.ones(5, 2), num_tokens_per_expert=layout[2], num_tokens_per_rank=layout[0], is_token_in_rank=layout[3]
        )
        assert torch.equal(rows, x[:4]) and counts == [2, 2, 1, 2]
        assert torch.equal(buffer.combine(rows, handle)[0], torch.cat([x[:4], torch.zeros(1, 128).bfloat16()]))
        made[handle.comm.number] = handle.comm.plan
    (plan,) = made.values()
    assert (plan.hidden, plan.experts, plan.top_k, plan.most_tokens, plan.layout, plan.token_number) == (128, 4, 2, 8, "rank_major", "bf16")


X = torch.zeros(2, HIDDEN)
TOPK = torch.tensor([[0, 1, 2], [3, 4, 5]])
WEIGHTS = torch.ones(2, PICKS)


def dispatched(buffer: Buffer, x: Any = X, picks: Any = TOPK, weights: Any = WEIGHTS, experts: int = EXPERTS, **options: Any) -> Any:
    return buffer.dispatch(x, topk_idx=picks, topk_weights=weights, num_tokens_per_expert=torch.zeros(experts), **options)


REFUSED: list[tuple[str, Callable[[Buffer], Any], str]] = [
    ("hidden", lambda b: dispatched(b, torch.zeros(2, 96)), "hidden: the call has 96, and the bundle 64: compile a bundle for this layer"),
    ("experts", lambda b: dispatched(b, experts=16), "experts: the call has 16, and the bundle 8: compile a bundle for this layer"),
    (
        "top k",
        lambda b: dispatched(b, picks=TOPK[:, :2].contiguous(), weights=WEIGHTS[:, :2].contiguous()),
        "top_k: the call has 2, and the bundle 3: compile a bundle for this layer",
    ),
    (
        "tokens",
        lambda b: dispatched(b, torch.zeros(9, HIDDEN), torch.arange(3).repeat(9, 1), torch.ones(9, 3)),
        "tokens: the call has 9, and the bundle at most 8: compile a bundle for more tokens per GPU",
    ),
    ("type", lambda b: dispatched(b, X.half()), "payload: the call has f16, and the bundle f32: compile a bundle for this layer"),
    ("f64", lambda b: dispatched(b, X.double()), "x: it is of torch.float64; pass torch.bfloat16, or (elements, scales)"),
    ("contiguous", lambda b: dispatched(b, torch.zeros(HIDDEN, 2).T), "x: it is not contiguous: pass .contiguous() of it"),
    ("rows", lambda b: dispatched(b, torch.zeros(3, HIDDEN)), f"x: it is [3, {HIDDEN}]; pass a tensor [2, hidden], or (elements, scales)"),
    ("device", lambda b: dispatched(b, X.to("meta")), "topk_idx: it is on cpu, and the tokens on meta: pass them on one device"),
    ("indices", lambda b: dispatched(b, picks=TOPK.float()), "topk_idx: it is of torch.float32; pass torch.int64 or torch.int32"),
    ("weights", lambda b: dispatched(b, weights=WEIGHTS.bfloat16()), "topk_weights: it is of torch.bfloat16; pass torch.float32"),
    ("no picks", lambda b: b.dispatch(X), "topk_idx: pass the picks of every token: where rows go follows from them, not from is_token_in_rank"),
    ("a keyword", lambda b: dispatched(b, no_such=1), "no_such: dispatch has no such argument here: leave it out; docs/python/deep_ep.md says what there is"),
    ("a handle of something", lambda b: b.combine(X, (1, 2)), "handle: pass what dispatch gave, not tuple"),
    ("fewer rows", lambda b: b.combine(X[:1], dispatched(b)[4]), f"x: its shape is [1, {HIDDEN}]; pass [2, {HIDDEN}]"),
    ("other tokens", lambda b: b.dispatch(X[:1], handle=dispatched(b)[4]), "x: it has 1 tokens, and the dispatch of the handle had 2: pass as many"),
    (
        "a routing beside a handle",
        lambda b: b.dispatch(X, handle=dispatched(b)[4], topk_idx=TOPK),
        "topk_idx: a dispatch with a handle has the routing of that handle: leave it and topk_weights out",
    ),
    ("weights to send back", lambda b: b.combine(X, dispatched(b)[4], topk_weights=X), f"topk_weights: its shape is [2, {HIDDEN}]; pass [2, {PICKS}]"),
    ("a layout", lambda b: b.get_dispatch_layout(TOPK, 0), "num_experts: it is 0; pass a multiple of the 1 ranks"),
    ("a buffer", lambda b: Buffer(None), "group: pass a torch process group; communicators of mpi4py are not taken"),
    ("an option", lambda b: Buffer(b.group, speed=2), "speed: Buffer has no such argument here: leave it out; docs/python/deep_ep.md says what there is"),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(bundle, call: Callable[[Buffer], Any], message: str) -> None:
    deep_ep.install(bundle("by rank", 1), device="virtual")
    buffer = Buffer(Group(0, 1))
    with pytest.raises(moe.InvalidArgument) as caught:
        call(buffer)
    assert str(caught.value) == message
    assert dispatched(buffer)[3] == [1] * 6 + [0] * 2


def test_a_handle_is_of_the_buffers_of_its_group(bundle) -> None:
    deep_ep.install(bundle("by rank", 1), device="virtual")
    one, other = Buffer(Group(0, 1)), Buffer(Group(0, 1))
    handle = dispatched(one)[4]
    assert torch.equal(Buffer(one.group).combine(X, handle)[0], X)
    with pytest.raises(moe.InvalidArgument, match="handle: it is of a buffer of another group"):
        other.combine(X, handle)


def test_what_is_installed(bundle) -> None:
    wrong = "its layout is expert_major and its combine weighted; compile the bundle with `layout rank_major` and `reduce f32 unweighted`"
    with pytest.raises(moe.InvalidArgument, match=wrong):
        deep_ep.install(bundle("weighted", 1))
    deep_ep.install(bundle("by rank"), device="virtual")
    import deep_ep as theirs
    from deep_ep.utils import EventHandle, EventOverlap

    assert theirs.Buffer is Buffer and EventOverlap(EventHandle()).event is not None
    with pytest.raises(moe.InvalidArgument, match="the bundle is for 4 ranks"):
        dispatched(Buffer(Group(0, 3)))
    deep_ep.install(device="virtual")
    with pytest.raises(moe.InvalidArgument, match="bundle: none is installed for this mode"):
        dispatched(Buffer(Group(0, 1)))
    sys.modules["deep_ep"] = types.ModuleType("deep_ep")
    with pytest.raises(moe.InvalidArgument, match="another module `deep_ep` was imported already"):
        deep_ep.install(tokens=8)


def test_the_program_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "python" / "deep_ep.md").read_text()
    program = tmp_path / "program.py"
    program.write_text(page.split("```python\n")[1].split("```")[0])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(re.findall(r"rank (\d): \d+ rows", done.stdout)) == ["0", "1"]
