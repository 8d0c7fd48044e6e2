"""What travels: tokens as callers of DeepEP pass them, in the type that a bundle takes, and rows as they get them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..bundle import Plan
from ..communicator import Communicator
from ..errors import refuse
from ..routing import Routing, Rows
from ..torch import TYPES, weights_backward_op
from .checks import INTEGERS, matrix, same_device
from .layers import mismatch

ELEMENTS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
PACKED = 4
"""Scales of one byte in an int32."""

Received = Tensor | tuple[Tensor, Tensor]


def split(x: Any) -> tuple[Tensor, Tensor | None]:
    """Elements ``[tokens, hidden]``, and their scales ``[tokens, hidden / block]`` if there are some: four of one byte in an int32 are taken apart."""
    elements, scales = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
    if not isinstance(elements, Tensor) or elements.dim() != 2:
        found = list(elements.shape) if isinstance(elements, Tensor) else type(elements).__name__
        raise refuse("x", f"it is {found}; pass a tensor [tokens, hidden], or (elements, scales)")
    if scales is None:
        return elements, None
    if not isinstance(scales, Tensor) or scales.dim() != 2 or scales.shape[0] != elements.shape[0] or scales.shape[1] == 0:
        raise refuse("x", f"pass scales [{elements.shape[0]}, hidden / block] beside the elements")
    if scales.dtype == torch.int32:
        # A single column counts as contiguous, however far apart its numbers are; a clone's are not.
        scales = scales.clone(memory_format=torch.contiguous_format).view(torch.float8_e8m0fnu)
    return elements, scales


def payload(elements: Tensor, scales: Tensor | None) -> str:
    """What the language calls the format of tokens."""
    if scales is None:
        if elements.dtype not in ELEMENTS:
            raise refuse("x", f"it is of {elements.dtype}; pass torch.bfloat16, or (elements, scales)")
        return ELEMENTS[elements.dtype]
    factors = {torch.float32: "f32", torch.float8_e8m0fnu: "ue8m0"}
    if scales.dtype not in factors or elements.dtype != torch.float8_e4m3fn:
        raise refuse("x", "pass elements of torch.float8_e4m3fn, and scales of torch.float32, float8_e8m0fnu, or four of these in an int32")
    return f"fp8_e4m3 scale {factors[scales.dtype]} per {elements.shape[1] // scales.shape[1]}"


def tokens(plan: Plan, x: Any) -> Tensor:
    """Tokens in the type that the bundle takes: elements with scales are multiplied out, and the kernel divides again."""
    elements, scales = split(x)
    if plan.scale_block is None:
        if scales is not None:
            raise mismatch("payload", "elements with scales", plan.input_number)
        return matrix("x", elements, (TYPES[plan.token_number],), width=plan.hidden)
    if scales is None:
        raise mismatch("payload", str(elements.dtype), f"{plan.input_number} with scales", "pass (elements, scales)")
    matrix("x", elements, (TYPES[plan.input_number],), width=plan.hidden)
    if scales.shape[1] * plan.scale_block != plan.hidden:
        raise mismatch("scales", f"{scales.shape[1]} a token", plan.hidden // plan.scale_block)
    values = elements.float() * scales.float().repeat_interleave(plan.scale_block, -1)
    return values.to(TYPES[plan.token_number])


def as_many(x: Any, rows: Rows) -> None:
    """Refuses tokens for a cached dispatch that are not as many as those of the first."""
    found, had = split(x)[0].shape[0], rows.tokens[0]
    if found != had:
        raise refuse("x", f"it has {found} tokens, and the dispatch of the handle had {had}: pass as many")


def routed(elements: Tensor, topk_idx: Any, topk_weights: Any) -> tuple[Tensor, Tensor]:
    """Picks of every token and their weights: ones, where there are none."""
    picks = matrix("topk_idx", topk_idx, INTEGERS)
    if elements.shape[0] != picks.shape[0]:
        raise refuse("x", f"it is {list(elements.shape)}; pass a tensor [{picks.shape[0]}, hidden], or (elements, scales)")
    same_device("topk_idx", picks, elements)
    if topk_weights is None:
        return picks, torch.ones(picks.shape, device=picks.device)
    weights = matrix("topk_weights", topk_weights, (torch.float32,), picks.shape[0], picks.shape[1])
    same_device("topk_weights", weights, elements)
    return picks, weights


def ascending(picks: Tensor, weights: Tensor) -> tuple[Routing, Tensor]:
    """The routing with the experts of each token ascending, dropped picks last, and where each of its picks was, i64 ``[tokens, top_k]``."""
    order = torch.where(picks < 0, torch.iinfo(torch.int32).max, picks).argsort(dim=-1, stable=True)
    return Routing(picks.gather(-1, order), weights.gather(-1, order), ascending=True), order


def weights_back(comm: Communicator, rows: Rows, order: Tensor, numbers: Tensor) -> Tensor:
    """Numbers ``[rows, P]`` of the picks of each row, at their tokens, in the order of the caller's picks: f32 ``[tokens, top_k]``."""
    whole, routing = sized(numbers, comm.plan.most_rows)[None], rows.routing
    back = weights_backward_op(whole, rows.handle, routing.indices, routing.weights, list(rows.tokens), comm.number)
    return torch.empty_like(back).scatter_(-1, order, back)


def columns(scales: Tensor, *, packed: bool) -> Tensor:
    """Scales ``[experts, rows, blocks]`` with the rows of a block beside each other in memory: f32, or four of one byte in an int32."""
    numbers = scales.contiguous().view(torch.int32) if packed else scales.float()
    return numbers.transpose(1, 2).contiguous().transpose(1, 2)


def waited(rows: Rows, local: int) -> tuple[int, list[int]]:
    """How many rows arrived, and those of each of so many local experts, on the host: it waits for the device, once."""
    given, *counts = torch.cat([rows.received.sum(0, keepdim=True, dtype=torch.int32), rows.counts[:local]]).tolist()
    return given, counts


def local_rows(rows: Rows, given: int) -> tuple[Tensor, Tensor]:
    """Of so many rows by token, local experts i32 ``[given, top_k]``, −1 for others and for rows that did not arrive, and weights, 0 there."""
    picks, weights = sized(rows.picks, given), sized(rows.weights, given)
    place = torch.arange(given, device=picks.device)[:, None]
    picks = torch.where(place < rows.received.sum(), picks, -1)
    return picks, torch.where(picks < 0, 0.0, weights)


def biased(result: Tensor, bias: Any) -> Tensor:
    """The result and one or two tensors like it."""
    for each in () if bias is None else (bias,) if isinstance(bias, Tensor) else bias:
        result = result + matrix("bias", each, (result.dtype,), result.shape[0], result.shape[1])
    return result


def sized(tensor: Tensor, rows: int, *, zeros: bool = False) -> Tensor:
    """Its first rows; where it has too few, all and memory behind them: zeros where rows may have arrived that nobody asked for."""
    if tensor.shape[0] >= rows:
        return tensor[:rows]
    whole = (tensor.new_zeros if zeros else tensor.new_empty)((rows, *tensor.shape[1:]))
    whole[: tensor.shape[0]] = tensor
    return whole
