"""Layers over torch tensors: gradients against finite differences and against a dense layer, compiled, checkpointed, under autocast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import moe_runtime as moe
import pytest
import torch
from moe_runtime.torch import _ascending, expert_of_rows, keep_calls

from conftest import EXPERTS, HIDDEN, LAYERS, PICKS, RANKS, text

TOKENS = 5
COUNTS = (3, 0, 5, 1)


def matrices(dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(EXPERTS, HIDDEN, HIDDEN, generator=generator) / HIDDEN**0.5).to(dtype)


def numbers(tokens: int, seed: int = 0) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, HIDDEN, generator=generator)
    scores = torch.rand(tokens, EXPERTS, generator=generator)
    weights, indices = scores.topk(PICKS, dim=-1)
    return x, indices, weights


def dense(x: Any, indices: Any, weights: Any, w: Any) -> Any:
    """Every expert for every token, in f64, weighed; a dropped pick weighs nothing."""
    all_of = torch.einsum("th,ehk->tek", x.double(), w.double())
    kept = (indices >= 0).double()
    chosen = all_of.gather(1, indices.clamp(min=0)[..., None].expand(-1, -1, HIDDEN))
    return ((weights.double() * kept)[..., None] * chosen).sum(1)


def experts(rows: moe.Rows, w: Any) -> Any:
    y = torch.nn.functional.grouped_mm(rows.x, w, offs=rows.offsets)
    return y if rows.weights is None else y * rows.weights.to(y.dtype)


def layer(comm: moe.Communicator, x: Any, indices: Any, weights: Any, w: Any) -> Any:
    rows = comm.dispatch(x, moe.Routing(indices, weights))
    return comm.combine(experts(rows, w), rows)


@pytest.fixture
def comm(bundle: Callable[..., moe.Bundle]) -> Callable[[str], moe.Communicator]:
    return lambda name: moe.Communicator(bundle(name, 1), device="virtual")


@pytest.mark.parametrize("name", ["weighted", "experts weigh", "batched"])
@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
def test_a_layer_is_the_dense_layer_forward_and_backward(comm, name: str, integers: Any) -> None:
    held = comm(name)
    x, indices, weights = numbers(TOKENS)
    indices[1, 0] = -1
    leaves = [tensor.clone().requires_grad_() for tensor in (x, weights, matrices())]
    layer(held, leaves[0], indices.to(integers), leaves[1], leaves[2]).square().sum().backward()
    expected = [tensor.clone().requires_grad_() for tensor in (x, weights, matrices())]
    y = dense(expected[0], indices, expected[1], expected[2])
    y.square().sum().backward()
    torch.testing.assert_close(layer(held, x, indices, weights, matrices()), y.float(), rtol=1e-4, atol=1e-4)
    for found, of in zip(leaves, expected):
        assert of.grad.abs().max() > 0
        torch.testing.assert_close(found.grad, of.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["weighted", "experts weigh", "batched"])
def test_a_cached_dispatch_is_the_dense_layer_of_other_tokens(comm, name: str) -> None:
    held = comm(name)
    x, indices, weights = numbers(TOKENS)
    other = numbers(TOKENS, 17)[0]
    indices[1, 0] = -1
    rows = held.dispatch(x, moe.Routing(indices, weights))

    def again(tokens: Any, w: Any) -> Any:
        sent = held.dispatch_cached(tokens, rows)
        return held.combine(experts(sent, w), sent)

    found, expected = other.clone().requires_grad_(), other.clone().requires_grad_()
    again(found, matrices()).square().sum().backward()
    y = dense(expected, indices, weights, matrices())
    y.square().sum().backward()
    torch.testing.assert_close(again(other, matrices()), y.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-4)
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(other, matrices()), y.float(), rtol=1e-4, atol=1e-4)
    with pytest.raises(moe.InvalidArgument, match="x: rows of the ranks are"):
        held.dispatch_cached(other[:1], rows)


@pytest.mark.parametrize("name", ["weighted", "experts weigh", "batched"])
def test_finite_differences_of_the_whole_layer(comm, name: str) -> None:
    held = comm(name)
    x, indices, weights = numbers(2)
    indices[0, 2] = -1
    w = matrices()
    f = lambda x, weights: layer(held, x, indices, weights, w)[:, :8]  # noqa: E731
    inputs = (x[:, :].requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(f, inputs, eps=1e-2, atol=2e-3, rtol=2e-3, fast_mode=True)


def test_weights_that_are_carried_and_not_applied(comm) -> None:
    held = comm("experts weigh")
    x, indices, weights = numbers(TOKENS)
    weights.requires_grad_()
    rows = held.dispatch(x, moe.Routing(indices, weights))
    y = held.combine(torch.nn.functional.grouped_mm(rows.x, matrices(), offs=rows.offsets), rows)
    torch.testing.assert_close(y, dense(x, indices, torch.ones_like(weights), matrices()).float(), rtol=1e-4, atol=1e-4)
    arrived = int(rows.offsets[-1])
    rows.weights[:arrived].square().sum().backward()
    torch.testing.assert_close(weights.grad, 2 * weights.detach())


def test_the_gate_has_the_gradients_of_its_definition(comm) -> None:
    held = comm("weighted")
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(TOKENS, EXPERTS, generator=generator)
    bias = torch.randn(EXPERTS, generator=generator)
    found, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    routing = held.gate(found, bias=bias)
    score = expected.sigmoid()
    picks = (score + bias).topk(PICKS, dim=-1).indices.sort(dim=-1).values
    weights = score.gather(1, picks)
    weights = weights / weights.sum(-1, keepdim=True)
    assert torch.equal(routing.indices.long(), picks)
    torch.testing.assert_close(routing.weights, weights)
    factors = torch.randn(TOKENS, PICKS, generator=generator)
    (routing.weights * factors).sum().backward()
    (weights * factors).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_a_layer_from_logits_to_result_on_several_ranks(bundle) -> None:
    held = moe.Communicator(bundle("weighted"), device="virtual")
    router = torch.randn(EXPERTS, HIDDEN, generator=torch.Generator().manual_seed(8)) / 8
    bias = torch.zeros(EXPERTS)
    parts = [numbers(count, seed)[0] for seed, count in enumerate(COUNTS)]
    w = matrices().requires_grad_()
    xs, r = [part.clone().requires_grad_() for part in parts], router.clone().requires_grad_()
    routing = held.gate([x @ r.T for x in xs], bias=bias)
    rows = held.dispatch(xs, routing)
    mine = [w[held.plan.first_experts[rank] : held.plan.last_experts[rank]] for rank in held.ranks]
    ys = [torch.nn.functional.grouped_mm(rows.x[k], mine[k], offs=rows.offsets[k]) for k in held.ranks]
    y = held.combine(ys, rows)
    sum(part.square().sum() for part in y).backward()

    x_, r_, w_ = torch.cat(parts).requires_grad_(), router.clone().requires_grad_(), matrices().requires_grad_()
    score = (x_ @ r_.T).sigmoid()
    picks = score.topk(PICKS, dim=-1).indices
    weights = score.gather(1, picks)
    expected = dense(x_, picks, weights / weights.sum(-1, keepdim=True), w_)
    expected.square().sum().backward()
    torch.testing.assert_close(torch.cat(y), expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([x.grad for x in xs]), x_.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(r.grad, r_.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(w.grad, w_.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 0.03), ("fp8", 0.15)])
def test_rows_in_other_types(comm, name: str, tolerance: float) -> None:
    held = comm(name)
    x, indices, weights = numbers(TOKENS)
    x = x.bfloat16().requires_grad_()
    rows = held.dispatch(x, moe.Routing(indices, weights))
    assert (rows.x.dtype, rows.payload.dtype) == (
        torch.bfloat16,
        torch.bfloat16 if name == "bf16" else torch.float8_e4m3fn,
    )
    w = matrices(torch.bfloat16)
    y = held.combine(torch.nn.functional.grouped_mm(rows.x, w, offs=rows.offsets), rows)
    y.float().square().sum().backward()
    x_ = x.detach().float().requires_grad_()
    expected = dense(x_, indices, weights, w.float())
    expected.square().sum().backward()
    for found, of in ((y.float(), expected.float()), (x.grad.float(), x_.grad.float())):
        assert (found - of).norm() / of.norm() < tolerance


def test_compiled_with_fullgraph(comm) -> None:
    held = comm("weighted")
    torch._dynamo.reset()
    x, indices, weights = numbers(TOKENS)
    w = matrices()

    def loss(x: Any, weights: Any) -> Any:
        return layer(held, x * 1.5, indices, weights, w).square().sum()

    plain = [tensor.clone().requires_grad_() for tensor in (x, weights)]
    loss(*plain).backward()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weights)]
        torch.testing.assert_close(compiled(*leaves), loss(*plain))
        compiled(*leaves).backward()
        for found, of in zip(leaves, plain):
            torch.testing.assert_close(found.grad, of.grad)


class Counting:
    """Counts the calls that reach the native module."""

    def __init__(self, held: moe.Communicator) -> None:
        self.native, self.names = held.calls.native, []
        held.calls.native = self

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.names.append(name)
            return getattr(self.native, name)(*arguments)

        return call


def test_a_compiler_does_not_drop_a_call_whose_result_nobody_uses(comm) -> None:
    held = comm("weighted")
    counting = Counting(held)
    torch._dynamo.reset()
    x, indices, weights = numbers(TOKENS)

    def twice(x: Any) -> Any:
        held.dispatch(x, moe.Routing(indices, weights))
        return held.dispatch(2 * x, moe.Routing(indices, weights)).x

    torch.compile(twice, fullgraph=True, backend="aot_eager")(x)
    assert counting.names == ["dispatch", "dispatch"]


def test_checkpoints_recompute_and_the_policy_keeps_calls(comm) -> None:
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    held = comm("weighted")
    x, indices, weights = numbers(TOKENS)
    w = matrices()

    def block(x: Any) -> Any:
        return layer(held, x.sin(), indices, weights, w).square().sum()

    def selective(policy: Any) -> dict[str, Any]:
        return {"use_reentrant": False, "context_fn": lambda: create_selective_checkpoint_contexts(policy)}

    plain = x.clone().requires_grad_()
    block(plain).backward()
    counting = Counting(held)
    for options, forward in (
        ({"use_reentrant": True}, 2),
        ({"use_reentrant": False}, 2),
        (selective(lambda *_, **__: CheckpointPolicy.MUST_RECOMPUTE), 2),
        (selective(keep_calls), 1),
    ):
        leaf = x.clone().requires_grad_()
        counting.names.clear()
        checkpoint(block, leaf, **options).backward()
        torch.testing.assert_close(leaf.grad, plain.grad)
        assert counting.names.count("dispatch") == forward, options
        assert counting.names[-2:] == ["combine_backward", "dispatch_backward"]
    # torch keeps operators with effects where a policy does not care; the policy says so of each and of nothing else.
    ops = torch.ops.moe_runtime
    kept = [keep_calls(None, op) for op in (ops.gate.default, ops.dispatch.default, ops.combine.default, torch.ops.aten.sin.default)]
    assert kept == [CheckpointPolicy.MUST_SAVE] * 3 + [CheckpointPolicy.PREFER_RECOMPUTE]


def test_autocast_gives_rows_the_type_of_the_bundle(comm) -> None:
    held = comm("weighted")
    x, indices, weights = numbers(TOKENS)
    linear = torch.nn.Linear(HIDDEN, HIDDEN)
    router = torch.nn.Linear(HIDDEN, EXPERTS)
    with torch.autocast("cpu", torch.bfloat16):
        rows = held.dispatch(linear(x), held.gate(router(x), bias=torch.zeros(EXPERTS)))
        assert rows.x.dtype == torch.float32
        y = held.combine(torch.nn.functional.grouped_mm(rows.x, matrices(), offs=rows.offsets), rows)
    y.square().sum().backward()
    assert linear.weight.grad.abs().max() > 1e-3 and router.weight.grad.abs().max() > 1e-3


def test_operators_keep_their_contract(comm) -> None:
    held = comm("weighted")
    x, indices, weights = numbers(TOKENS)
    indices = indices.sort(dim=-1).values.int()
    x.requires_grad_()
    ops = torch.ops.moe_runtime
    torch.library.opcheck(ops.dispatch.default, (x, indices, weights, [TOKENS], held.number), test_utils=["test_schema", "test_faketensor"])
    _, _, _, _, handle = ops.dispatch(x, indices, weights, [TOKENS], held.number)
    y = torch.randn(1, held.plan.most_rows, HIDDEN, requires_grad=True)
    arguments = (y, handle, indices, weights, [TOKENS], held.number)
    torch.library.opcheck(ops.combine.default, arguments, test_utils=["test_schema", "test_faketensor"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, i, w: (x.double(), i, w), r"x: it is of torch.float64; this bundle has torch.float32: convert it"),
        (lambda x, i, w: (x[:, :8], i, w), r"x: its shape is \[5, 8\]; pass \[n, 64\]"),
        (lambda x, i, w: (x, i.float(), w), "indices: they are of torch.float32; pass torch.int32 or torch.int64"),
        (lambda x, i, w: (x, i, w.long()), "weights: they are of torch.int64; pass floats"),
        (lambda x, i, w: (x, i[:2], w), r"weights: rows of the ranks are \[5\]; they must be \[2\]"),
        (lambda x, i, w: (x[:1], i, w), r"x: rows of the ranks are \[1\]; they must be \[5\]"),
        (lambda x, i, w: ([x], i, w), "x: pass a single tensor: this communicator has one rank"),
    ],
)
def test_refused(comm, change: Any, message: str) -> None:
    held = comm("weighted")
    x, indices, weights = change(*numbers(TOKENS))
    with pytest.raises(moe.InvalidArgument, match=message):
        held.dispatch(x, moe.Routing(indices, weights))


@pytest.mark.parametrize("change", [lambda i, w: (i.to("meta"), w.to("meta")), lambda i, w: (i, w.to("meta"))])
def test_tensors_of_one_call_on_several_devices_are_refused(comm, change: Any) -> None:
    held = comm("weighted")
    x, indices, weights = numbers(TOKENS)
    with pytest.raises(moe.InvalidArgument, match="tensors: one is on cpu and another on meta"):
        held.dispatch(x, moe.Routing(*change(indices.int().sort(dim=-1).values, weights), ascending=True))


@pytest.mark.parametrize("ranks", [1, RANKS])
@pytest.mark.parametrize("name", LAYERS)
def test_what_an_operator_gives_is_what_a_call_gives_that_nobody_watches(bundle, name: str, ranks: int) -> None:
    held = moe.Communicator(bundle(name, ranks), device="virtual")
    given = [numbers(count, seed) for seed, count in enumerate(COUNTS[:ranks])]
    for _, indices, _ in given:
        indices[:1, 1] = -1
    number = torch.float32 if held.plan.token_number == "f32" else torch.bfloat16

    def sent(*, watched: bool) -> tuple[moe.Rows, moe.Rows]:
        xs = [x.to(number).requires_grad_(watched) for x, _, _ in given]
        routing = moe.Routing(*(held.one([parts[place] for parts in given]) for place in (1, 2)))
        rows = held.dispatch(held.one(xs), routing)
        return rows, held.dispatch_cached(held.one([2 * x for x in xs]), rows)

    def each(value: Any) -> list[Any]:
        return [value] if held.single else value

    def arrived(rows: moe.Rows, rank: int) -> Any:
        if held.plan.by_expert:
            of_rank = replace(rows, x=each(rows.x)[rank], handle=rows.handle[rank : rank + 1], tokens=rows.tokens[:1])
            return expert_of_rows(of_rank)[1][:, 0]
        return torch.arange(held.plan.most_rows) < each(rows.received)[rank].sum()

    for plain, watched in zip(sent(watched=False), sent(watched=True)):
        assert torch.equal(plain.handle, watched.handle) and plain.tokens == watched.tokens
        assert sum(int(counts.sum()) for counts in each(plain.counts)) > 0
        for member in ("counts", "offsets", "received", "picks"):
            assert same(getattr(plain, member), getattr(watched, member)), member
        assert same(plain.routing.indices, watched.routing.indices) and same(plain.routing.weights, watched.routing.weights)
        for rank in held.ranks:
            there = arrived(plain, rank)
            for member in ("x", "payload", "scales", "weights"):
                one, other = (getattr(rows, member) for rows in (plain, watched))
                assert (one is None) == (other is None) and (one is None or same(each(one)[rank], each(other)[rank], there)), member


def same(one: Any, other: Any, rows: Any = slice(None)) -> bool:
    """Whether tensors, or lists of them, have the same bits in some rows."""
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*pair, rows) for pair in zip(one, other))
    if one is None or one.dtype != other.dtype or one.shape != other.shape:
        return one is other
    return torch.equal(one[rows].contiguous().view(torch.uint8), other[rows].contiguous().view(torch.uint8))


@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
def test_picks_in_any_order_are_sorted_as_torch_sorts_them(comm, integers: Any) -> None:
    held = comm("weighted")
    generator = torch.Generator().manual_seed(11)
    indices = torch.randint(-2, EXPERTS, (500, PICKS), generator=generator).to(integers)
    if integers == torch.int64:
        indices[::7, 1] += 2**40
        indices[3::11, 2] -= 2**33
    weights = torch.rand(500, PICKS, generator=generator)
    watched = _ascending(held, moe.Routing(indices, weights.clone().requires_grad_()))
    plain = _ascending(held, moe.Routing(indices.T.contiguous().T, weights))
    order = [sorted(range(PICKS), key=lambda place: row[place] if row[place] >= 0 else 2**31 - 1) for row in indices.tolist()]
    expected = weights.gather(1, torch.tensor(order))
    for picks, factors, _ in (watched, plain):
        assert picks.dtype == torch.int32 and torch.equal(factors, expected)
        assert torch.equal(picks, indices.gather(1, torch.tensor(order)).clamp(-(2**31) + 1, 2**31 - 1).int())


def test_tensors_that_are_not_contiguous_are_made_so(comm) -> None:
    held = comm("weighted")
    x, indices, weights = numbers(TOKENS)
    found = layer(held, x.T.contiguous().T, indices, weights, matrices())
    torch.testing.assert_close(found, layer(held, x, indices, weights, matrices()))


def test_rows_of_a_communicator_that_is_gone_are_refused(comm) -> None:
    held = comm("weighted")
    x, indices, weights = numbers(TOKENS)
    x.requires_grad_()
    y = layer(held, x, indices, weights, matrices())
    del held
    with pytest.raises(Exception, match="is gone: keep the Communicator"):
        y.sum().backward()


def test_parameters_of_the_gate_get_no_gradients_and_say_so(comm) -> None:
    held = comm("weighted")
    with pytest.raises(moe.InvalidArgument, match="pass it with .detach()"):
        held.gate(torch.zeros(2, EXPERTS), bias=torch.zeros(EXPERTS, requires_grad=True))
    with pytest.raises(moe.InvalidArgument, match="the gate needs this parameter: pass bias="):
        held.gate(torch.zeros(2, EXPERTS))


def test_every_rank_of_a_world_is_there(bundle) -> None:
    assert len(moe.Communicator(bundle("weighted"), device="virtual").ranks) == RANKS


def test_the_program_of_the_documentation(tmp_path, monkeypatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "python.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "layer.moe").write_text(text(LAYERS["weighted"], RANKS))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 (our own text)
    assert all(float(names[name].grad.abs().sum()) > 0 for name in ("router", "weight"))
