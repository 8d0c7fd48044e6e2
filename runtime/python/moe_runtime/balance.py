"""Even load of the experts: how often each was picked, losses that push towards evenness, and the bias that needs none.

Everything stays on the device that the picks are on: nothing here waits for it. ``group``: a torch process group over whose ranks counts are
added; without one, a rank's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def picks_per_expert(indices: Tensor, experts: int, group: Any = None) -> Tensor:
    """How often each expert was picked: i64 ``[experts]``. ``indices`` ``[…, top_k]``; −1 counts for none."""
    flat = indices.detach().reshape(-1).long()
    counts = flat.new_zeros(experts + 1)
    counts.scatter_add_(0, torch.where(flat < 0, experts, flat), torch.ones_like(flat))
    counts = counts[:experts].contiguous()
    if group is not None:
        torch.distributed.all_reduce(counts, group=group)
    return counts


def load_balancing_loss(probabilities: Tensor, indices: Tensor, group: Any = None) -> Tensor:
    """Experts × Σ (share of the picks) × (mean probability): top_k where all are even (Switch Transformer, equation 4, with top_k picks for each token).

    ``probabilities``: ``[tokens, experts]``, what the gate makes of the logits, summing to 1 in a row. For DeepSeek-V3's loss of a sequence
    give the tokens of one sequence and divide by top_k. Gradients reach the probabilities alone.
    """
    experts = probabilities.shape[-1]
    counts = picks_per_expert(indices, experts, group).to(probabilities.dtype)
    tokens = probabilities.new_tensor(float(probabilities.shape[0]))
    if group is not None:
        torch.distributed.all_reduce(tokens, group=group)
    return experts * (counts / tokens * probabilities.mean(0)).sum()


def z_loss(logits: Tensor) -> Tensor:
    """Mean of the square of the logarithm of Σ exp(logit): keeps logits small (ST-MoE, equation 5)."""
    return torch.logsumexp(logits, dim=-1).square().mean()


@torch.no_grad()
def update_bias(bias: Tensor, counts: Tensor, speed: float) -> None:
    """Moves the bias of every expert by ``speed``: down if it was picked more often than the mean, up if less (DeepSeek-V3, section 2.1.2).

    ``counts``: of all ranks together, or ranks choose differently from then on.
    """
    load = counts.to(bias.dtype)
    bias += speed * torch.sign(load.mean() - load)
