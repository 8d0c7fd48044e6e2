"""Calls over torch tensors, differentiable: operators that ``torch.compile``, checkpointing and autocast know.

Invariants:
* an operator is a function of tensors and of the communicator's number. What a call needs of an earlier one is a tensor, ``rows.handle``;
* every operator has an ordered effect: a compiler neither drops a call whose result nobody uses, nor changes the order of calls. Every rank
  makes the same calls, or the others wait;
* tensors of all ranks of a communicator lie in one tensor for an operator, one rank behind the other; ``tokens`` says how many each has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .bundle import Plan
from .calls import ascend
from .communicator import find
from .errors import InvalidArgument, refuse
from .memory import take
from .routing import Routing, Rows

if TYPE_CHECKING:
    from .communicator import Communicator

if not hasattr(torch.library, "EffectType"):
    raise InvalidArgument(
        f"torch {torch.__version__} is too old: its operators have no ordered effects, so that a compiler may drop a call that other ranks"
        " wait for; install torch 2.15 or newer, or pass numpy arrays",
        "torch",
        {"version": torch.__version__},
    )

TYPES: dict[str, torch.dtype] = {
    "i32": torch.int32,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "ue8m0": torch.float8_e8m0fnu,
}
BYTES = 16
"""What the parts of a tensor on a GPU are aligned to."""


def _parts(tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """A contiguous tensor, rank by rank, each where a kernel can read it."""
    whole = tensor.contiguous()
    parts = [whole] if len(sizes) == 1 else list(whole.split(list(sizes)))
    if tensor.is_cuda:
        parts = [part if part.data_ptr() % BYTES == 0 else part.clone() for part in parts]
    return parts


def _ranks(tensor: Tensor) -> list[Tensor]:
    """``[ranks, …]`` as a tensor for each rank."""
    whole = tensor.contiguous()
    return [whole[0]] if whole.shape[0] == 1 else list(whole.unbind())


def _handles(handle: Tensor) -> list[Tensor]:
    """Where the handle of each rank begins."""
    return [handle] if handle.shape[0] == 1 else list(handle.unbind())


def _enter(comm: Communicator, tensor: Tensor, *others: Tensor) -> None:
    """Looks at where the tensors of a call are, and launches in the stream that the caller computes in."""
    device = "cuda" if tensor.is_cuda else "virtual"
    if device != comm.world.device or (device == "virtual" and tensor.device.type != "cpu"):
        where = "GPUs: pass tensors of a GPU" if comm.world.device == "cuda" else "virtual GPUs: pass tensors of the CPU"
        raise refuse("tensors", f"they are on {tensor.device}, and the ranks of this communicator are {where}")
    for other in others:
        if other.device != tensor.device:
            raise refuse("tensors", f"one is on {tensor.device} and another on {other.device}: pass all of a call on the same")
    if tensor.is_cuda:
        stream = int(torch.cuda.current_stream(tensor.device).cuda_stream)
        streams = [stream] * len(comm.ranks)
        if comm.streams != streams:
            comm.calls.native.use_streams(streams)
            comm.streams = streams


def empty(comm: Communicator, rank: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """See ``Communicator.empty``."""
    found = _taken(comm, rank, shape, dtype, zero=False)
    return torch.empty(shape, dtype=dtype, device="cuda" if comm.world.device == "cuda" else "cpu") if found is None else found


def _taken(comm: Communicator, rank: int, shape: Sequence[int], dtype: torch.dtype, *, zero: bool) -> Tensor | None:
    found = take(comm, rank, prod(shape) * dtype.itemsize, zero=zero)
    return None if found is None else torch.from_numpy(found).view(dtype).view(shape)


def _new(comm: Communicator, like: Tensor, shape: Sequence[int], dtype: torch.dtype, *, zero: bool = False) -> Tensor:
    """Memory for what a call gives. Of several ranks it is one tensor, which cannot lie in memory of each."""
    if comm.world.has_node and comm.single:
        found = _taken(comm, comm.ranks.start, shape, dtype, zero=zero)
        if found is not None:
            return found
    return (torch.zeros if zero else torch.empty)(shape, dtype=dtype, device=like.device)


def _room(comm: Communicator, like: Tensor, shape: Sequence[int], number: str) -> Tensor:
    """Memory for rows of the experts. In layout ``batched`` groups have rows that nobody writes and a matrix product reads."""
    return _new(comm, like, shape, TYPES[number], zero=comm.plan.layout == "batched")


def _named(comm: Communicator, parameters: Sequence[Tensor], tokens: Sequence[int]) -> list[tuple[str, str, list[Tensor]]]:
    named = []
    for parameter, tensor in zip(comm.bundle.parameters, parameters):
        number = "i32" if parameter.kind in ("table", "token_id") else "f32"
        same = [tensor.contiguous()] * len(tokens)
        named.append((parameter.name, number, _parts(tensor, tokens) if parameter.kind == "token_id" else same))
    return named


def _gate(logits: Tensor, parameters: Sequence[Tensor], tokens: Sequence[int], comm: int) -> tuple[Tensor, Tensor]:
    held = find(comm)
    _enter(held, logits)
    shape = (logits.shape[0], held.plan.top_k)
    indices, weights = _new(held, logits, shape, torch.int32), _new(held, logits, shape, torch.float32)
    parts, picks, factors = _parts(logits, tokens), _parts(indices, tokens), _parts(weights, tokens)
    held.calls.gate(parts, _named(held, parameters, tokens), picks, factors)
    return _whole(indices, picks), _whole(weights, factors)


gate_op = torch.library.custom_op("moe_runtime::gate", mutates_args=())(_gate)


@gate_op.register_fake
def _(logits: Tensor, parameters: Sequence[Tensor], tokens: Sequence[int], comm: int) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], find(comm).plan.top_k)
    return logits.new_empty(shape, dtype=torch.int32), logits.new_empty(shape)


@torch.library.custom_op("moe_runtime::gate_backward", mutates_args=())
def gate_backward_op(
    logits: Tensor, of_weights: Tensor, parameters: Sequence[Tensor], tokens: Sequence[int], comm: int
) -> Tensor:
    held = find(comm)
    _enter(held, logits, of_weights)
    result = _new(held, logits, logits.shape, torch.float32)
    out = _parts(result, tokens)
    held.calls.gate_backward(_parts(logits, tokens), _named(held, parameters, tokens), _parts(of_weights, tokens), out)
    return _whole(result, out)


@gate_backward_op.register_fake
def _(logits: Tensor, of_weights: Tensor, parameters: Sequence[Tensor], tokens: Sequence[int], comm: int) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _whole(tensor: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """The tensor whose parts were written, some of which may have been copies."""
    start = 0
    for part in parts:
        place = tensor[start : start + part.shape[0]]
        if part.data_ptr() != place.data_ptr():
            place.copy_(part)
        start += part.shape[0]
    return tensor


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)


def _values(payload: Tensor, scales: Tensor, plan: Plan) -> Tensor:
    """Elements times scales, in the type of the tokens."""
    factors = scales.to(torch.float32).repeat_interleave(cast(int, plan.scale_block), -1)
    return (payload.to(torch.float32) * factors).to(TYPES[plan.token_number])


def _input_room(comm: Communicator, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Memory for the rows of every rank and, where there are some, for their scales: ``[ranks · N, …]``."""
    plan = comm.plan
    rows = len(comm.ranks) * plan.most_rows
    payload = _room(comm, x, (rows, plan.hidden), plan.input_number)
    if plan.scale_number is None or plan.scale_block is None:
        return payload, None
    return payload, _room(comm, x, (rows, plan.hidden // plan.scale_block), plan.scale_number)


def _parts_of_room(payload: Tensor, scales: Tensor | None, ranks: int, plan: Plan) -> tuple[list[Tensor], list[Tensor] | None]:
    each = [plan.most_rows] * ranks
    return _parts(payload, each), None if scales is None else _parts(scales, each)


def _of_operator(payload: Tensor, scales: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Rows; where there are scales, bytes of payload and scales: an operator returns no tensor twice. Each ``[ranks, N, …]``."""
    if scales is None:
        rows = payload.view(-1, plan.most_rows, plan.hidden)
        return rows, payload.new_empty((0,), dtype=torch.uint8), payload.new_empty((0,), dtype=torch.uint8)
    parts = (_values(payload, scales, plan), _bytes(payload), _bytes(scales))
    rows, elements, factors = (part.view(-1, plan.most_rows, part.shape[-1]) for part in parts)
    return rows, elements, factors


def _like_arrived(x: Tensor, ranks: int, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    shape = (ranks, plan.most_rows, plan.hidden)
    payload = scales = (0,)
    if plan.scale_number is not None and plan.scale_block is not None:
        width = plan.hidden // plan.scale_block * TYPES[plan.scale_number].itemsize
        payload, scales = cast(Any, shape), cast(Any, (ranks, plan.most_rows, width))
    rows = x.new_empty(shape, dtype=TYPES[plan.token_number])
    return rows, x.new_empty(payload, dtype=torch.uint8), x.new_empty(scales, dtype=torch.uint8)


def _send(held: Communicator, x: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor]:
    """Payload and scales of every rank, and the handle."""
    _enter(held, x, indices, weights)
    plan, ranks = held.plan, len(tokens)
    payload, scales = _input_room(held, x)
    handle = _new(held, x, (ranks, plan.handle_bytes), torch.uint8, zero=True)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.dispatch(_parts(x, tokens), picks, factors, _handles(handle), *_parts_of_room(payload, scales, ranks, plan))
    return payload, scales, handle


def _row_weights(handle: Tensor, plan: Plan) -> Tensor:
    """Weights of rows where the experts weigh, ``[ranks, N, P]``: copied, since gradients reach them."""
    start, end = plan.handle_places["row_weights"]
    weights = handle[:, start:end].clone(memory_format=torch.contiguous_format).view(torch.float32)
    return weights.view(-1, plan.most_rows, plan.weights_per_row)


def _dispatch(
    x: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows; where there are scales, bytes of payload and scales; weights of rows where the experts weigh; handle."""
    held = find(comm)
    plan = held.plan
    payload, scales, handle = _send(held, x, indices, weights, tokens)
    of_rows = x.new_empty((0,), dtype=torch.float32) if plan.combine_weighs else _row_weights(handle, plan)
    return *_of_operator(payload, scales, plan), of_rows, handle


dispatch_op = torch.library.custom_op("moe_runtime::dispatch", mutates_args=())(_dispatch)


@dispatch_op.register_fake
def _(
    x: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    plan, ranks = find(comm).plan, len(tokens)
    weighs = (0,) if plan.combine_weighs else (ranks, plan.most_rows, plan.weights_per_row)
    return (
        *_like_arrived(x, ranks, plan),
        x.new_empty(weighs, dtype=torch.float32),
        x.new_empty((ranks, plan.handle_bytes), dtype=torch.uint8),
    )


def _send_again(
    held: Communicator, x: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Payload and scales of every rank."""
    _enter(held, x, handle, indices, weights)
    payload, scales = _input_room(held, x)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    room = _parts_of_room(payload, scales, len(tokens), held.plan)
    held.calls.dispatch_cached(_parts(x, tokens), picks, factors, _handles(handle), *room)
    return payload, scales


def _dispatch_cached(
    x: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows; where there are scales, bytes of payload and scales."""
    held = find(comm)
    return _of_operator(*_send_again(held, x, handle, indices, weights, tokens), held.plan)


dispatch_cached_op = torch.library.custom_op("moe_runtime::dispatch_cached", mutates_args=())(_dispatch_cached)


@dispatch_cached_op.register_fake
def _(
    x: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _like_arrived(x, len(tokens), find(comm).plan)


@torch.library.custom_op("moe_runtime::dispatch_backward", mutates_args=())
def dispatch_backward_op(
    of_rows: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> Tensor:
    held = find(comm)
    _enter(held, of_rows, handle, indices, weights)
    result = _new(held, of_rows, (indices.shape[0], held.plan.hidden), of_rows.dtype)
    out = _parts(result, tokens)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.dispatch_backward(_ranks(of_rows), picks, factors, _handles(handle), out)
    return _whole(result, out)


@dispatch_backward_op.register_fake
def _(of_rows: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int) -> Tensor:
    return of_rows.new_empty((indices.shape[0], find(comm).plan.hidden))


@torch.library.custom_op("moe_runtime::weights_backward", mutates_args=())
def weights_backward_op(
    of_rows: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> Tensor:
    held = find(comm)
    _enter(held, of_rows, handle, indices, weights)
    result = _new(held, weights, weights.shape, weights.dtype)
    out = _parts(result, tokens)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.weights_backward(_ranks(of_rows), picks, factors, _handles(handle), out)
    return _whole(result, out)


@weights_backward_op.register_fake
def _(of_rows: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def _combine(y: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int) -> Tensor:
    held = find(comm)
    _enter(held, y, handle, indices, weights)
    result = _new(held, y, (indices.shape[0], held.plan.hidden), y.dtype)
    out = _parts(result, tokens)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.combine(_ranks(y), picks, factors, _handles(handle), out)
    return _whole(result, out)


combine_op = torch.library.custom_op("moe_runtime::combine", mutates_args=())(_combine)


@combine_op.register_fake
def _(y: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int) -> Tensor:
    return y.new_empty((indices.shape[0], find(comm).plan.hidden))


@torch.library.custom_op("moe_runtime::combine_backward", mutates_args=())
def combine_backward_op(
    y: Tensor, of_combined: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor]:
    held = find(comm)
    _enter(held, y, of_combined, handle, indices, weights)
    plan = held.plan
    of_y = _room(held, y, y.shape, plan.output_number)
    of_weights = _new(held, weights, weights.shape if plan.combine_weighs else (0,), torch.float32)
    out = _parts(of_weights, tokens) if plan.combine_weighs else None
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.combine_backward(
        _ranks(y), _parts(of_combined, tokens), picks, factors, _handles(handle), _ranks(of_y), out
    )
    return of_y, of_weights if out is None else _whole(of_weights, out)


@combine_backward_op.register_fake
def _(
    y: Tensor, of_combined: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor]:
    shape = weights.shape if find(comm).plan.combine_weighs else (0,)
    return torch.empty_like(y, memory_format=torch.contiguous_format), weights.new_empty(shape)


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, parameters, ctx.tokens, ctx.comm = inputs
    ctx.save_for_backward(logits, *parameters)


def _gate_gradient(ctx: Any, of_indices: Tensor, of_weights: Tensor) -> tuple[Any, ...]:
    logits, *parameters = ctx.saved_tensors
    of_logits = gate_backward_op(logits, of_weights, parameters, ctx.tokens, ctx.comm)
    return of_logits, [None] * len(parameters), None, None


def _keep_dispatch(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, indices, weights, ctx.tokens, ctx.comm = inputs
    ctx.save_for_backward(output[4], indices, weights)


def _dispatch_gradient(
    ctx: Any, of_rows: Tensor, of_payload: Tensor, of_scales: Tensor, of_row_weights: Tensor, of_handle: Tensor
) -> tuple[Any, ...]:
    handle, indices, weights = ctx.saved_tensors
    plan = find(ctx.comm).plan
    given = of_rows.to(TYPES[plan.output_number])
    of_x = dispatch_backward_op(given, handle, indices, weights, ctx.tokens, ctx.comm).to(TYPES[plan.token_number])
    of_weights = None
    if not plan.combine_weighs and ctx.needs_input_grad[2]:
        of_weights = weights_backward_op(of_row_weights, handle, indices, weights, ctx.tokens, ctx.comm)
    return of_x, None, of_weights, None, None


def _keep_cached(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    _, handle, indices, weights, ctx.tokens, ctx.comm = inputs
    ctx.save_for_backward(handle, indices, weights)


def _cached_gradient(ctx: Any, of_rows: Tensor, of_payload: Tensor, of_scales: Tensor) -> tuple[Any, ...]:
    handle, indices, weights = ctx.saved_tensors
    plan = find(ctx.comm).plan
    given = of_rows.to(TYPES[plan.output_number])
    of_x = dispatch_backward_op(given, handle, indices, weights, ctx.tokens, ctx.comm).to(TYPES[plan.token_number])
    return of_x, None, None, None, None, None


def _keep_combine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    y, handle, indices, weights, ctx.tokens, ctx.comm = inputs
    ctx.save_for_backward(y, handle, indices, weights)


def _combine_gradient(ctx: Any, of_combined: Tensor) -> tuple[Any, ...]:
    y, handle, indices, weights = ctx.saved_tensors
    of_y, of_weights = combine_backward_op(y, of_combined, handle, indices, weights, ctx.tokens, ctx.comm)
    return of_y, None, None, of_weights if find(ctx.comm).plan.combine_weighs else None, None, None


gate_op.register_autograd(_gate_gradient, setup_context=_keep_gate)
dispatch_op.register_autograd(_dispatch_gradient, setup_context=_keep_dispatch)
dispatch_cached_op.register_autograd(_cached_gradient, setup_context=_keep_cached)
combine_op.register_autograd(_combine_gradient, setup_context=_keep_combine)

FORWARD = (gate_op, dispatch_op, dispatch_cached_op, combine_op)
for _op in (*FORWARD, gate_backward_op, dispatch_backward_op, weights_backward_op, combine_backward_op):
    _op.register_effect(torch.library.EffectType.ORDERED)  # type: ignore[attr-defined]
for _device in ("cpu", "cuda"):
    # The gate computes in f32 whatever surrounds it; rows have the type of the bundle, see `_cast`.
    torch.library.register_autocast("moe_runtime::gate", _device, torch.float32)


def keep_calls(context: Any, op: Any, *arguments: Any, **options: Any) -> Any:
    """A policy for ``torch.utils.checkpoint.create_selective_checkpoint_contexts``: what calls of a communicator gave is kept, so that
    recomputing a layer sends nothing again; everything else is computed again."""
    from torch.utils.checkpoint import CheckpointPolicy  # noqa: PLC0415

    ours = torch.ops.moe_runtime
    kept = (ours.gate.default, ours.dispatch.default, ours.dispatch_cached.default, ours.combine.default)
    return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE


def _modes() -> bool:
    """Whether anything changes what operators do: a mode (of checkpointing, of fake tensors), a transform of ``torch.func``. Yes where this torch
    does not say."""
    try:
        return torch._C._len_torch_dispatch_stack() > 0 or torch._C._functorch.peek_interpreter_stack() is not None
    except AttributeError:
        return True


def _watched(*tensors: Tensor) -> bool:
    """Whether anything looks at what is done to tensors: a compiler, gradients, a mode, a kind of tensor of its own. Where nothing does, a
    call need not be an operator: half of a small call is what torch does around one."""
    if torch.compiler.is_compiling():
        return True
    for tensor in tensors:
        if type(tensor) is not Tensor or tensor.requires_grad:
            return True
    return _modes()


def _call(op: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """An operator, or where nobody watches it the function that it is made of."""
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    return (op if _watched(*tensors) else function)(*arguments)


def _numbers(rows: Rows, name: str, first: int, *shape: int) -> Any:
    """Numbers of an array of the handle, from one of them on, as the caller gets them. Not copied: a graph that is replayed writes there again."""
    start = rows.plan.handle_places[name][0] // torch.int32.itemsize + first
    numbers = rows.handle.view(torch.int32).narrow(1, start, prod(shape))
    return numbers.view(shape) if len(rows.tokens) == 1 else [each.view(shape) for each in numbers.unbind()]


def _joined(comm: Communicator, what: str, value: Any, width: int) -> tuple[Tensor, list[int]]:
    """Tensors of all ranks one behind the other, and how many rows each has."""
    tensors = comm.each(what, value)
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise refuse(what, f"pass torch tensors, as the others are, not {type(tensor).__name__}")
        if tensor.dim() != 2 or tensor.shape[1] != width:
            raise refuse(what, f"its shape is {list(tensor.shape)}; pass [n, {width}]")
    sizes = [tensor.shape[0] for tensor in tensors]
    return (tensors[0] if len(tensors) == 1 else torch.cat(tensors)), sizes


def _cast(what: str, tensor: Tensor, number: str) -> Tensor:
    """A tensor in the type of the bundle. Under autocast others are converted; elsewhere they are a mistake."""
    if tensor.dtype == TYPES[number]:
        return tensor
    if tensor.is_floating_point() and torch.is_autocast_enabled(tensor.device.type):
        return tensor.to(TYPES[number])
    raise refuse(what, f"it is of {tensor.dtype}; this bundle has {TYPES[number]}: convert it with .to({TYPES[number]})")


def _same_sizes(what: str, found: list[int], expected: list[int]) -> None:
    if found != expected:
        raise refuse(what, f"rows of the ranks are {found}; they must be {expected}")


def gate(comm: Communicator, logits: Any, given: dict[str, Any]) -> Routing:
    joined, sizes = _joined(comm, "logits", logits, comm.plan.gate_width)
    known = [parameter.name for parameter in comm.bundle.parameters]
    for name in given:
        if name not in known:
            raise refuse(name, f"the gate has no such parameter; it has {', '.join(known) or 'none'}")
    parameters = []
    for parameter in comm.bundle.parameters:
        value = given.get(parameter.name)
        if value is None:
            raise refuse(parameter.name, f"the gate needs this parameter: pass {parameter.name}=…")
        whole = parameter.kind in ("table", "token_id")
        if parameter.kind == "token_id":
            value = torch.cat([each.reshape(-1) for each in comm.each(parameter.name, value)])
        tensor = torch.as_tensor(value, device=joined.device)
        if tensor.requires_grad:
            raise refuse(parameter.name, "parameters of the gate get no gradients: pass it with .detach()")
        if tensor.is_floating_point() == whole:
            raise refuse(parameter.name, f"it is of {tensor.dtype}; pass {'integers' if whole else 'floats'}")
        parameters.append(tensor.to(torch.int32 if whole else torch.float32).reshape(-1))
    indices, weights = _call(gate_op, _gate, _cast("logits", joined, "f32"), parameters, sizes, comm.number)
    return Routing(_each(comm, indices, sizes), _each(comm, weights, sizes), ascending=True)


def _each(comm: Communicator, joined: Tensor, sizes: list[int]) -> Any:
    return joined if comm.single else list(joined.split(sizes))


def _ascending(comm: Communicator, routing: Routing) -> tuple[Tensor, Tensor, list[int]]:
    """Picks of every token by ascending expert, dropped ones last."""
    indices, sizes = _joined(comm, "indices", routing.indices, comm.plan.top_k)
    weights, of_weights = _joined(comm, "weights", routing.weights, comm.plan.top_k)
    _same_sizes("weights", of_weights, sizes)
    if indices.dtype not in (torch.int32, torch.int64):
        raise refuse("indices", f"they are of {indices.dtype}; pass torch.int32 or torch.int64")
    if not weights.is_floating_point():
        raise refuse("weights", f"they are of {weights.dtype}; pass floats")
    if weights.dtype != torch.float32:
        weights = weights.to(torch.float32)
    if routing.ascending:
        return (indices if indices.dtype == torch.int32 else indices.to(torch.int32)), weights, sizes
    if indices.is_cpu and weights.is_cpu and not _watched(indices, weights):
        picks, factors = _new(comm, indices, indices.shape, torch.int32), _new(comm, indices, indices.shape, torch.float32)
        ascend(indices.contiguous(), weights.contiguous(), picks, factors)
        return picks, factors, sizes
    largest = 2**31 - 1
    order = torch.where(indices < 0, largest, indices).argsort(dim=-1, stable=True)
    picks = indices.gather(-1, order).clamp(-largest, largest).to(torch.int32)
    return picks, weights.gather(-1, order), sizes


def _ranked(comm: Communicator, stacked: Tensor) -> Any:
    return stacked[0] if comm.single else list(stacked)


def dispatch(comm: Communicator, x: Any, routing: Routing) -> Rows:
    plan = comm.plan
    joined, sizes = _joined(comm, "x", x, plan.hidden)
    indices, weights, of_routing = _ascending(comm, routing)
    _same_sizes("x", sizes, of_routing)
    tokens = _cast("x", joined, plan.token_number)
    if _watched(tokens, indices, weights):
        *arrived, row_weights, handle = dispatch_op(tokens, indices, weights, sizes, comm.number)
        x, payload, scales = _as_members(comm, *arrived)
    else:
        elements, factors, handle = _send(comm, tokens, indices, weights, sizes)
        x, payload, scales = _members(comm, elements, factors)
        row_weights = None if plan.combine_weighs else _row_weights(handle, plan)
    return Rows(
        x=x,
        payload=payload,
        scales=scales,
        weights=None if plan.combine_weighs else _ranked(comm, row_weights),
        handle=handle,
        routing=Routing(_each(comm, indices, sizes), _each(comm, weights, sizes), ascending=True),
        tokens=tuple(sizes),
        plan=plan,
        numbers=_numbers,
    )


def _members(comm: Communicator, payload: Tensor, scales: Tensor | None) -> tuple[Any, Any, Any]:
    """The experts' input as ``x``, ``payload`` and ``scales`` of ``Rows``."""
    each = [comm.plan.most_rows] * len(comm.ranks)
    if scales is None:
        x = _each(comm, payload, each)
        return x, x, None
    return _each(comm, _values(payload, scales, comm.plan), each), _each(comm, payload, each), _each(comm, scales, each)


def _as_members(comm: Communicator, rows: Tensor, payload: Tensor, scales: Tensor) -> tuple[Any, Any, Any]:
    """What an operator gave, as these."""
    plan, x = comm.plan, _ranked(comm, rows)
    if plan.scale_number is None:
        return x, x, None
    numbers, factors = payload.view(TYPES[plan.input_number]), scales.view(TYPES[plan.scale_number])
    return x, _ranked(comm, numbers), _ranked(comm, factors)


def _open(comm: Communicator, rows: Any) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Handle, indices, weights and tokens of each rank."""
    if not isinstance(rows, Rows):
        raise refuse("rows", f"pass what dispatch gave, not {type(rows).__name__}")
    if tuple(rows.handle.shape) != (len(comm.ranks), comm.plan.handle_bytes):
        raise refuse("rows", "its handle is of another bundle, or of other ranks")
    indices, weights, sizes = _ascending(comm, rows.routing)
    return rows.handle, indices, weights, sizes


def dispatch_cached(comm: Communicator, x: Any, rows: Rows) -> Rows:
    handle, indices, weights, of_routing = _open(comm, rows)
    joined, sizes = _joined(comm, "x", x, comm.plan.hidden)
    _same_sizes("x", sizes, of_routing)
    tokens = _cast("x", joined, comm.plan.token_number)
    if _watched(tokens, handle, indices, weights):
        members = _as_members(comm, *dispatch_cached_op(tokens, handle, indices, weights, sizes, comm.number))
    else:
        members = _members(comm, *_send_again(comm, tokens, handle, indices, weights, sizes))
    return replace(rows, x=members[0], payload=members[1], scales=members[2])


def combine(comm: Communicator, y: Any, rows: Rows) -> Any:
    plan = comm.plan
    handle, indices, weights, sizes = _open(comm, rows)
    outputs = comm.each("y", y)
    for tensor in outputs:
        if tuple(tensor.shape) != (plan.most_rows, plan.hidden):
            shape = [plan.most_rows, plan.hidden]
            raise refuse("y", f"its shape is {list(tensor.shape)}; pass {shape}, a row for each of rows.x")
    joined = _cast("y", outputs[0][None] if comm.single else torch.stack(outputs), plan.output_number)
    result = _call(combine_op, _combine, joined, handle, indices, weights, sizes, comm.number)
    return _each(comm, result, sizes)


def expert_of_rows(rows: Rows) -> tuple[Tensor, Tensor]:
    """The local expert of each row of one rank (that behind the last where none arrived), and whether it arrived: ``[N, 1]`` each. For experts
    that compute row by row; not in layout ``rank_major``, whose rows belong to several."""
    ends, counts = rows.offsets, rows.counts
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    place = torch.arange(rows.x.shape[0], device=ends.device, dtype=ends.dtype)
    expert = torch.searchsorted(ends.contiguous(), place, right=True)
    inside = expert.clamp(max=ends.shape[0] - 1)
    arrived = (expert < ends.shape[0]) & (place - starts[inside] < counts[inside])
    return torch.where(arrived, expert, ends.shape[0])[:, None], arrived[:, None]
