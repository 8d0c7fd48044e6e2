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
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .bundle import Plan
from .communicator import find
from .errors import InvalidArgument, refuse
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
    return [whole[0]] if whole.shape[0] == 1 else list(whole)


def _enter(comm: Communicator, tensor: Tensor) -> None:
    """Looks at where a tensor is, and launches in the stream that the caller computes in."""
    device = "cuda" if tensor.is_cuda else "virtual"
    if device != comm.world.device or (device == "virtual" and tensor.device.type != "cpu"):
        where = "GPUs: pass tensors of a GPU" if comm.world.device == "cuda" else "virtual GPUs: pass tensors of the CPU"
        raise refuse("tensors", f"they are on {tensor.device}, and the ranks of this communicator are {where}")
    if tensor.is_cuda:
        stream = int(torch.cuda.current_stream(tensor.device).cuda_stream)
        streams = [stream] * len(comm.ranks)
        if comm.streams != streams:
            comm.calls.native.use_streams(streams)
            comm.streams = streams


def _room(like: Tensor, shape: Sequence[int], number: str, plan: Plan) -> Tensor:
    """Memory for rows of the experts. In layout ``batched`` groups have rows that nobody writes and a matrix product reads."""
    make = torch.zeros if plan.layout == "batched" else torch.empty
    return make(list(shape), dtype=TYPES[number], device=like.device)


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
    indices = logits.new_empty((logits.shape[0], held.plan.top_k), dtype=torch.int32)
    weights = logits.new_empty((logits.shape[0], held.plan.top_k))
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
    _enter(held, logits)
    result = torch.empty_like(logits, memory_format=torch.contiguous_format)
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


def _input_room(x: Tensor, ranks: int, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Memory for the rows of every rank and, where there are some, for their scales."""
    payload = _room(x, (ranks, plan.most_rows, plan.hidden), plan.input_number, plan)
    if plan.scale_number is None or plan.scale_block is None:
        return payload, None
    return payload, _room(x, (ranks, plan.most_rows, plan.hidden // plan.scale_block), plan.scale_number, plan)


def _arrived(payload: Tensor, scales: Tensor | None, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Rows; where there are scales, bytes of payload and scales: an operator returns no tensor twice."""
    if scales is None:
        return payload, payload.new_empty((0,), dtype=torch.uint8), payload.new_empty((0,), dtype=torch.uint8)
    return _values(payload, scales, plan), _bytes(payload), _bytes(scales)


def _like_arrived(x: Tensor, ranks: int, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    shape = (ranks, plan.most_rows, plan.hidden)
    payload = scales = (0,)
    if plan.scale_number is not None and plan.scale_block is not None:
        width = plan.hidden // plan.scale_block * TYPES[plan.scale_number].itemsize
        payload, scales = cast(Any, shape), cast(Any, (ranks, plan.most_rows, width))
    rows = x.new_empty(shape, dtype=TYPES[plan.token_number])
    return rows, x.new_empty(payload, dtype=torch.uint8), x.new_empty(scales, dtype=torch.uint8)


def _dispatch(
    x: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows; where there are scales, bytes of payload and scales; weights of rows where the experts weigh; handle."""
    held = find(comm)
    _enter(held, x)
    plan, ranks = held.plan, len(tokens)
    payload, scales = _input_room(x, ranks, plan)
    handle = x.new_zeros((ranks, plan.handle_bytes), dtype=torch.uint8)
    parts = [_parts(tensor, tokens) for tensor in (x, indices, weights)]
    held.calls.dispatch(parts[0], parts[1], parts[2], _ranks(handle), _ranks(payload), None if scales is None else _ranks(scales))
    of_rows = x.new_empty((0,), dtype=torch.float32)
    if not plan.combine_weighs:
        of_rows = _array(handle, plan, "row_weights", torch.float32).reshape(ranks, plan.most_rows, plan.weights_per_row)
    return *_arrived(payload, scales, plan), of_rows, handle


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


def _dispatch_cached(
    x: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows; where there are scales, bytes of payload and scales."""
    held = find(comm)
    _enter(held, x)
    payload, scales = _input_room(x, len(tokens), held.plan)
    parts = [_parts(tensor, tokens) for tensor in (x, indices, weights)]
    out = None if scales is None else _ranks(scales)
    held.calls.dispatch_cached(parts[0], parts[1], parts[2], _ranks(handle), _ranks(payload), out)
    return _arrived(payload, scales, held.plan)


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
    _enter(held, of_rows)
    result = of_rows.new_empty((indices.shape[0], held.plan.hidden))
    out = _parts(result, tokens)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.dispatch_backward(_ranks(of_rows), picks, factors, _ranks(handle), out)
    return _whole(result, out)


@dispatch_backward_op.register_fake
def _(of_rows: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int) -> Tensor:
    return of_rows.new_empty((indices.shape[0], find(comm).plan.hidden))


@torch.library.custom_op("moe_runtime::weights_backward", mutates_args=())
def weights_backward_op(
    of_rows: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int
) -> Tensor:
    held = find(comm)
    _enter(held, of_rows)
    result = torch.empty_like(weights, memory_format=torch.contiguous_format)
    out = _parts(result, tokens)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.weights_backward(_ranks(of_rows), picks, factors, _ranks(handle), out)
    return _whole(result, out)


@weights_backward_op.register_fake
def _(of_rows: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def _combine(y: Tensor, handle: Tensor, indices: Tensor, weights: Tensor, tokens: Sequence[int], comm: int) -> Tensor:
    held = find(comm)
    _enter(held, y)
    result = y.new_empty((indices.shape[0], held.plan.hidden))
    out = _parts(result, tokens)
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.combine(_ranks(y), picks, factors, _ranks(handle), out)
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
    _enter(held, y)
    plan = held.plan
    of_y = _room(y, y.shape, plan.output_number, plan)
    of_weights = weights.new_empty(weights.shape if plan.combine_weighs else (0,))
    out = _parts(of_weights, tokens) if plan.combine_weighs else None
    picks, factors = _parts(indices, tokens), _parts(weights, tokens)
    held.calls.combine_backward(
        _ranks(y), _parts(of_combined, tokens), picks, factors, _ranks(handle), _ranks(of_y), out
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


def _call(op: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """An operator, or where nobody watches it the function that it is made of: half of a small call is what torch does around an operator."""
    plain = all(type(each) is Tensor and not each.requires_grad for each in arguments if isinstance(each, Tensor))
    if torch.compiler.is_compiling() or not plain or _modes():
        return op(*arguments)
    return function(*arguments)


def _array(handle: Tensor, plan: Plan, name: str, dtype: torch.dtype) -> Tensor:
    """An array of the handle on each rank, copied: flat, ``[ranks, …]``."""
    start, end = plan.handle_places[name]
    return handle[:, start:end].clone(memory_format=torch.contiguous_format).view(dtype)


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
    weights = weights.to(torch.float32)
    if routing.ascending:
        return indices.to(torch.int32), weights, sizes
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
    rows, payload, scales, row_weights, handle = _call(dispatch_op, _dispatch, tokens, indices, weights, sizes, comm.number)
    offsets = _array(handle, plan, "expert_offsets", torch.int32)[:, 1:] if plan.by_expert else None
    picks = None
    if not plan.by_expert:
        picks = _array(handle, plan, "row_picks", torch.int32).reshape(len(sizes), plan.most_rows, plan.top_k)
    return Rows(
        **_input(comm, rows, payload, scales),
        counts=_ranked(comm, _array(handle, plan, "expert_counts", torch.int32)),
        offsets=None if offsets is None else _ranked(comm, offsets),
        weights=None if plan.combine_weighs else _ranked(comm, row_weights),
        received=_ranked(comm, _array(handle, plan, "received_counts", torch.int32)),
        picks=None if picks is None else _ranked(comm, picks),
        handle=handle,
        routing=Routing(_each(comm, indices, sizes), _each(comm, weights, sizes), ascending=True),
        tokens=tuple(sizes),
    )


def _input(comm: Communicator, rows: Tensor, payload: Tensor, scales: Tensor) -> dict[str, Any]:
    """The experts' input as members of ``Rows``."""
    plan, x = comm.plan, _ranked(comm, rows)
    if plan.scale_number is None:
        return {"x": x, "payload": x, "scales": None}
    numbers, factors = payload.view(TYPES[plan.input_number]), scales.view(TYPES[plan.scale_number])
    return {"x": x, "payload": _ranked(comm, numbers), "scales": _ranked(comm, factors)}


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
    sent = _call(dispatch_cached_op, _dispatch_cached, tokens, handle, indices, weights, sizes, comm.number)
    return replace(rows, **_input(comm, *sent))


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
