"""The layer as a module: what it computes, and that a state can be saved by ranks in one number and loaded by ranks in another."""

from __future__ import annotations

import threading
from typing import Any

import moe_runtime as moe
import pytest

from conftest import EXPERTS, HIDDEN, PICKS, RANKS

torch = pytest.importorskip("torch")
from moe_runtime.nn import MoE  # noqa: E402

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
            found, of = getattr(module, name).grad[expert], state[f"experts.{expert}.{name}"].grad
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
    with pytest.raises(RuntimeError, match="down_proj"):
        module.load_state_dict(state)


def test_bundles_that_a_module_cannot_take(bundle) -> None:
    with pytest.raises(moe.InvalidArgument, match="layout expert_major or batched"):
        MoE(moe.Communicator(bundle("by rank", 1), device="virtual"), INSIDE)
    with pytest.raises(moe.InvalidArgument, match="pass a communicator of one"):
        MoE(moe.Communicator(bundle("weighted"), device="virtual"), INSIDE)
