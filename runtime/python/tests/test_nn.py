"""The layer as a module: what it computes, and that a state can be saved by ranks in one number and loaded by ranks in another."""

from __future__ import annotations

import threading
from typing import Any

import moe_runtime as moe
import pytest
import torch
from moe_runtime import balance
from moe_runtime.nn import MoE
from moe_runtime.torch import expert_of_rows

from conftest import EXPERTS, HIDDEN, PICKS, RANKS

INSIDE = 32


def dense(x: Any, state: dict[str, Any]) -> Any:
    """From the state dictionary alone."""
    score = (x @ state["router"].T).sigmoid()
    picks = (score + state["bias"]).topk(PICKS, dim=-1).indices
    weights = score.gather(1, picks)
    weights = weights / weights.sum(-1, keepdim=True)
    outputs = []
    for expert in range(EXPERTS):
        gate, up = (x @ state[f"experts.{expert}.gate_up_proj"].T).chunk(2, dim=-1)
        outputs.append((torch.nn.functional.silu(gate) * up) @ state[f"experts.{expert}.down_proj"].T)
    chosen = torch.stack(outputs, 1).gather(1, picks[..., None].expand(-1, -1, HIDDEN))
    return (weights[..., None] * chosen).sum(1)


@pytest.mark.parametrize("layer", ["weighted", "experts weigh", "batched"])
def test_a_module_is_the_dense_layer(bundle, layer: str) -> None:
    torch.manual_seed(1)
    module = MoE(moe.Communicator(bundle(layer, 1), device="virtual"), INSIDE)
    module.bias.normal_(std=0.3)
    x = torch.randn(2, 3, HIDDEN, requires_grad=True)
    x_ = x.detach().clone().requires_grad_()
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in module.state_dict().items()}
    y, y_ = module(x), dense(x_.reshape(-1, HIDDEN), state)
    torch.testing.assert_close(y.reshape(-1, HIDDEN), y_, rtol=1e-4, atol=1e-4)
    y.square().sum().backward()
    y_.square().sum().backward()
    torch.testing.assert_close(x.grad, x_.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(module.router.grad, state["router"].grad, rtol=1e-3, atol=1e-4)
    for expert in range(EXPERTS):
        for name in ("gate_up_proj", "down_proj"):
            found, of = getattr(module.experts, name).grad[expert], state[f"experts.{expert}.{name}"].grad
            torch.testing.assert_close(found, torch.zeros_like(found) if of is None else of, rtol=1e-3, atol=1e-4)


def test_a_module_compiles_into_one_graph(bundle) -> None:
    torch._dynamo.reset()
    module = MoE(moe.Communicator(bundle("weighted", 1), device="virtual"), INSIDE)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, HIDDEN)
    module(x).square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in module.named_parameters()}
    module.zero_grad()
    compiled(x).square().sum().backward()
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name])


def test_an_inductor_graph_is_the_module(bundle, tmp_path, monkeypatch) -> None:
    # A graph in its cache does not say what effects its operators had.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    torch.manual_seed(6)
    module = MoE(moe.Communicator(bundle("weighted", 1), device="virtual"), INSIDE)
    x = torch.randn(5, HIDDEN)
    module(x).square().sum().backward()
    expected = {name: weight.grad.clone() for name, weight in module.named_parameters()}
    module.zero_grad()
    torch.compile(module, fullgraph=True)(x).square().sum().backward()
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight.grad, expected[name], rtol=1e-4, atol=1e-5)


class Doubling(torch.nn.Module):
    """Experts row by row: expert e multiplies by (e + 1) × ``factor[e]``."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((EXPERTS,), 2.0))

    def forward(self, rows: moe.Rows) -> Any:
        expert, arrived = expert_of_rows(rows)
        inside = expert.clamp(max=EXPERTS - 1)
        return torch.where(arrived, rows.x * (inside + 1) * self.factor[inside[:, 0]][:, None], 0.0)


@pytest.mark.parametrize("layer", ["weighted", "experts weigh", "batched"])
def test_experts_of_the_caller_row_by_row_and_shared_ones(bundle, layer: str) -> None:
    torch.manual_seed(3)
    shared = torch.nn.Linear(HIDDEN, HIDDEN)
    module = MoE(moe.Communicator(bundle(layer, 1), device="virtual"), Doubling(), shared=shared)
    x = torch.randn(6, HIDDEN, requires_grad=True)
    y, chosen = module(x, details=True)
    factors = (chosen.weights * (chosen.indices + 1) * 2).sum(-1, keepdim=True).detach()
    torch.testing.assert_close(y, x * factors + shared(x), rtol=1e-4, atol=1e-4)
    y.sum().backward()
    assert shared.weight.grad is not None
    expected = torch.zeros(EXPERTS).index_add(
        0, chosen.indices.reshape(-1), (chosen.weights * (chosen.indices + 1) * x.sum(-1, keepdim=True)).detach().reshape(-1)
    )
    torch.testing.assert_close(module.experts.factor.grad, expected, rtol=1e-3, atol=1e-3)
    state = torch.nn.Sequential(module).state_dict()
    assert [name for name in state if "factor" in name] == [f"0.experts.{expert}.factor" for expert in range(EXPERTS)]


def test_counts_and_bias_follow_what_was_picked(bundle) -> None:
    torch.manual_seed(4)
    module = MoE(moe.Communicator(bundle("weighted", 1), device="virtual"), INSIDE)
    picks = []
    for _ in range(2):
        _, chosen = module(torch.randn(7, HIDDEN), details=True)
        picks += chosen.indices.reshape(-1).tolist()
    counts = [picks.count(expert) for expert in range(EXPERTS)]
    assert module.picked.tolist() == counts
    module.eval()
    module(torch.randn(7, HIDDEN))
    assert module.picked.tolist() == counts
    module.update_bias(0.25)
    mean = len(picks) / EXPERTS
    assert module.bias.tolist() == [0.25 if count < mean else -0.25 if count > mean else 0.0 for count in counts]
    assert not module.picked.any()
    with pytest.raises(moe.InvalidArgument, match="the gate has no parameter `offset`; it has bias"):
        module.update_bias(0.1, name="offset")


def test_losses_are_those_of_transformers_and_reach_the_router(bundle) -> None:
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func as load_balancing

    torch.manual_seed(5)
    logits = torch.randn(40, EXPERTS, requires_grad=True)
    indices = logits.softmax(-1).topk(PICKS, dim=-1).indices
    found = balance.load_balancing_loss(logits.softmax(-1), indices)
    expected = load_balancing((logits,), EXPERTS, PICKS)
    torch.testing.assert_close(found, expected)
    (of_found,) = torch.autograd.grad(found, logits)
    (of_expected,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(of_found, of_expected)
    assert balance.picks_per_expert(torch.tensor([[1, -1], [1, 3]]), 4).tolist() == [0, 2, 0, 1]
    torch.testing.assert_close(balance.z_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]])), torch.tensor((0.6931472**2 + 1.6931472**2) / 2))

    module = MoE(moe.Communicator(bundle("weighted", 1), device="virtual"), INSIDE)
    _, chosen = module(torch.randn(5, HIDDEN), details=True)
    (balance.load_balancing_loss(chosen.logits.softmax(-1), chosen.indices) + balance.z_loss(chosen.logits)).backward()
    assert module.router.grad.abs().max() > 0


def test_a_state_of_one_rank_is_loaded_by_four(bundle) -> None:
    torch.manual_seed(2)
    saved = MoE(moe.Communicator(bundle("weighted", 1), device="virtual"), INSIDE)
    state = saved.state_dict()
    assert {f"experts.{expert}.down_proj" for expert in range(EXPERTS)} < set(state)
    x = torch.randn(RANKS, 4, HIDDEN)
    world = moe.World(bundle("weighted"), device="virtual")
    found: dict[int, Any] = {}
    joined: dict[str, Any] = {}

    def run(rank: int) -> None:
        module = MoE(moe.Communicator(world, ranks=range(rank, rank + 1), deadline=60), INSIDE)
        module.load_state_dict(state)
        joined.update(module.state_dict())
        with torch.no_grad():
            found[rank] = module(x[rank])

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert set(joined) == set(state)
    for name, tensor in state.items():
        torch.testing.assert_close(joined[name], tensor)
    for rank in range(RANKS):
        torch.testing.assert_close(found[rank], dense(x[rank], state), rtol=1e-4, atol=1e-4)


def test_a_state_without_an_expert_of_this_rank_is_refused(bundle) -> None:
    module = MoE(moe.Communicator(bundle("weighted", 1), device="virtual"), INSIDE)
    state = module.state_dict()
    del state["experts.3.down_proj"]
    with pytest.raises(RuntimeError, match="experts.3.down_proj: not in this state, which has others of this rank; join the states"):
        module.load_state_dict(state, strict=False)
    for expert in range(EXPERTS):
        state.pop(f"experts.{expert}.down_proj", None)
    with pytest.raises(RuntimeError, match="Missing key.*experts.down_proj"):
        module.load_state_dict(state)


def test_bundles_that_a_module_cannot_take(bundle) -> None:
    with pytest.raises(moe.InvalidArgument, match="layout expert_major or batched"):
        MoE(moe.Communicator(bundle("by rank", 1), device="virtual"), INSIDE)
    with pytest.raises(moe.InvalidArgument, match="pass a communicator of one"):
        MoE(moe.Communicator(bundle("weighted"), device="virtual"), INSIDE)
