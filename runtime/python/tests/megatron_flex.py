"""One process of Megatron's flex dispatcher that torchrun started.

Megatron's own code sends tokens to experts and back through `deep_ep.Buffer`, forward and backward, beside a dense computation of the whole
world's tokens in f64. The buffer compiles a bundle for the shapes. Then the same with a fault on one rank, in the weights, the handle or the
order of the rows: every rank must notice.
"""

from __future__ import annotations

from typing import Any

import moe_runtime.deep_ep as adapter
import torch
import torch.distributed as dist
from torch import Tensor

adapter.install(tokens=16, device="virtual", deadline=60.0)

import megatron.core.jit as jit  # noqa: E402 (it looks for deep_ep when it is imported)

jit.disable_jit_fuser()
from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402
from megatron.core.transformer.moe import fused_a2a  # noqa: E402
from megatron.core.transformer.moe.token_dispatcher import MoEFlexTokenDispatcher  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

HIDDEN, PICKS, LOCAL, SPOILED = 32, 2, 2, 1
CASES: dict[str, tuple[tuple[int, ...], float | None, str]] = {
    "plain": ((6, 6, 6, 6), None, ""),
    "other sizes": ((5, 7, 1, 8), None, ""),
    "a rank without tokens": ((0, 6, 6, 6), None, ""),
    "dropped picks": ((6, 6, 6, 6), 1.0, ""),
    "spoiled weights": ((6, 6, 6, 6), None, "weights"),
    "spoiled handle": ((6, 6, 6, 6), None, "handle"),
    "spoiled order": ((6, 6, 6, 6), None, "order"),
}


class Spoiled(adapter.Buffer):
    """A buffer with a fault."""

    fault = ""

    def dispatch(self, x: Any, handle: Any = None, **options: Any) -> Any:
        rows, picks, weights, counts, made, event = super().dispatch(x, handle, **options)
        if self.fault == "order":
            rows = rows.flip(0)
        if self.fault == "weights" and weights is not None:
            weights = torch.where(weights > 0, weights.flip(1), 0.0)
        return rows, picks, weights, counts, made, event

    def combine(self, x: Any, handle: Any, **options: Any) -> Any:
        if self.fault == "handle":
            # As if the rows were those of another dispatch with as many.
            x = x.roll(1, 0)
        return super().combine(x, handle, **options)


def dispatcher(rank: int, world: int, alone: Any, capacity: float | None) -> MoEFlexTokenDispatcher:
    groups = ProcessGroupCollection()
    groups.ep = groups.tp_ep = dist.group.WORLD
    groups.expt_tp = groups.tp = groups.cp = groups.tp_cp = alone
    config = TransformerConfig(
        num_layers=1,
        hidden_size=HIDDEN,
        num_attention_heads=4,
        num_moe_experts=LOCAL * world,
        moe_router_topk=PICKS,
        moe_token_dispatcher_type="flex",
        moe_flex_dispatcher_backend="deepep",
        moe_permute_fusion=False,
        moe_router_dtype="fp32",
        moe_router_load_balancing_type="none",
        moe_expert_capacity_factor=capacity,
        expert_model_parallel_size=world,
        add_bias_linear=False,
        use_cpu_initialization=True,
    )
    return MoEFlexTokenDispatcher(LOCAL, list(range(rank * LOCAL, (rank + 1) * LOCAL)), config, groups)


def layer(through: MoEFlexTokenDispatcher, x: Tensor, chosen: Tensor, probabilities: Tensor, matrices: Tensor) -> Tensor:
    """As Megatron's MoE layer calls it; the experts weigh."""
    h, p = through.dispatch_preprocess(x[:, None], chosen, probabilities)
    h, p = through.token_dispatch(h, p)
    h, counts, p = through.dispatch_postprocess(h, p)
    parts = [torch.tanh(rows @ matrices[local]) for local, rows in enumerate(h.split(counts.tolist()))]
    h = through.combine_preprocess(torch.cat(parts) * p[:, None])
    return through.combine_postprocess(through.token_combine(h)).reshape(-1, HIDDEN)


def worst(found: Tensor, of: Tensor) -> float:
    return ((found.double() - of).abs().max() / of.abs().max()).item() if found.numel() else 0.0


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    alone = [dist.new_group([each]) for each in range(world)][rank]
    if rank == SPOILED:
        fused_a2a.Buffer = Spoiled
    for name, (sizes, capacity, Spoiled.fault) in CASES.items():
        g = torch.Generator().manual_seed(11)
        x = [torch.randn(n, HIDDEN, generator=g) for n in sizes]
        scores = [torch.rand(n, LOCAL * world, generator=g) + 0.1 for n in sizes]
        matrices = torch.randn(LOCAL * world, HIDDEN, HIDDEN, generator=g) / HIDDEN**0.5
        of_y = [torch.randn(n, HIDDEN, generator=g) for n in sizes]
        chosen = [torch.zeros_like(s, dtype=torch.bool).scatter_(1, s.topk(PICKS).indices, True) for s in scores]
        if capacity is not None:
            for each in chosen:
                each[::2, :5] = False  # some tokens keep one pick, or none
        probabilities = [s * c for s, c in zip(scores, chosen)]

        dense = [(a.double().requires_grad_(), p.double().requires_grad_()) for a, p in zip(x, probabilities)]
        w = matrices.double().requires_grad_()
        outputs = [sum((p * c)[:, e, None] * torch.tanh(a @ w[e]) for e in range(len(w))) for (a, p), c in zip(dense, chosen)]
        sum((y * g).sum() for y, g in zip(outputs, of_y)).backward()

        mine = (x[rank].clone().requires_grad_(), probabilities[rank].clone().requires_grad_())
        local = slice(rank * LOCAL, (rank + 1) * LOCAL)
        matrix = matrices[local].clone().requires_grad_()
        y = layer(dispatcher(rank, world, alone, capacity), mine[0], chosen[rank], mine[1], matrix)
        (y * of_y[rank]).sum().backward()
        pairs = {
            "result": (y, outputs[rank]),
            "tokens": (mine[0].grad, dense[rank][0].grad),
            "probabilities": (mine[1].grad, dense[rank][1].grad),
            "experts": (matrix.grad, w.grad[local]),
        }
        differences = torch.tensor([worst(*pair) for pair in pairs.values()])
        dist.all_reduce(differences, op=dist.ReduceOp.MAX)
        told = ", ".join(f"{what} {value:.1e}" for what, value in zip(pairs, differences.tolist()))
        print(f"rank {rank}: {name}: {'right' if (differences < 1e-5).all() else 'wrong'}: {told}", flush=True)
    dist.destroy_process_group()


main()
