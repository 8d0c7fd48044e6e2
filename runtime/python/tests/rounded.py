"""What rounding on the wire does to experts, in plain torch and in one process: the reference of payloads that are not f32.

The order of every sum and every place where a number is rounded are those that the documentation of the kernels promises; nothing here calls
the package. Experts of a rank are contiguous, picks are taken by ascending expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).float()


def fp8(x: Tensor) -> Tensor:
    """Blocks of 32 elements, times a power of two that makes the largest fit into 448: MXFP8, from and to bf16."""
    blocks = bf16(x).unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-4)
    mantissa, exponent = torch.frexp(largest / 448)
    scale = torch.ldexp(torch.ones_like(largest), torch.where(mantissa == 0.5, exponent - 1, exponent))
    return bf16((blocks / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2)


def summed(terms: Tensor, rank: Tensor, ranks: int) -> Tensor:
    """``[tokens, picks, hidden]`` summed over the picks as they travel: those of one rank first, rounded, then the ranks' sums, rounded."""
    total: Tensor | None = None
    for each in range(ranks):
        part = torch.zeros_like(terms[:, 0])
        for pick in range(terms.shape[1]):
            part = torch.where((rank[:, pick] == each)[:, None], part + terms[:, pick], part)
        total = bf16(part) if total is None else total + bf16(part)
    assert total is not None
    return bf16(total)


class Sent(torch.autograd.Function):
    """Tokens as the experts find them, ``[tokens, picks, hidden]``; gradients are summed on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: Tensor, ranks: int, wire: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.rank, ctx.ranks = rank, ranks
        return wire(bf16(x))[:, None].expand(-1, rank.shape[1], -1).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return summed(bf16(gradient), ctx.rank, ctx.ranks), None, None, None


class Summed(torch.autograd.Function):
    """The experts' rows, weighed and summed on the way back; gradients go to the experts as rows did."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, rank: Tensor, ranks: int) -> Tensor:
        ctx.save_for_backward(y, weights)
        return summed(bf16(y) * weights[..., None], rank, ranks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y, weights = ctx.saved_tensors
        row = bf16(gradient)[:, None]
        return bf16(row * weights[..., None]), (bf16(y) * row).sum(-1), None, None


def rounded(experts: torch.nn.Module, ranks: int, wire: Callable[[Tensor], Tensor]) -> None:
    """Makes experts of transformers in one process compute as if their rows travelled between ranks."""
    plain, per_rank = experts.forward, experts.num_experts // ranks

    def forward(x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        order = indices.argsort(dim=-1)
        picks, factors = indices.gather(1, order), weights.gather(1, order)
        rank = picks // per_rank
        rows = Sent.apply(x, rank, ranks, wire).flatten(0, 1)
        y = plain(rows, picks.reshape(-1, 1), torch.ones_like(rows[:, :1]))
        return Summed.apply(y.unflatten(0, picks.shape), factors, rank, ranks)

    experts.forward = forward
