"""Calls over numpy arrays, and whatever else has DLPack: on virtual GPUs only, whose tensors lie in the memory of this process.

numpy has no bf16 and no fp8: where a bundle has those, arrays are their bits, ``uint16`` and ``uint8`` (or the types of ``ml_dtypes``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .calls import Named, ascend
from .errors import refuse
from .memory import take
from .routing import Routing, Rows

if TYPE_CHECKING:
    from .bundle import Plan
    from .communicator import Communicator

Array = np.ndarray[Any, Any]

TYPES: dict[str, tuple[str, ...]] = {
    "i32": ("int32",),
    "f32": ("float32",),
    "f16": ("float16",),
    "bf16": ("uint16", "bfloat16"),
    "fp8_e4m3": ("uint8", "float8_e4m3fn"),
    "ue8m0": ("uint8", "float8_e8m0fnu"),
}
"""What numpy calls a number: the first is what calls give."""


def empty(comm: Communicator, rank: int, shape: tuple[int, ...], dtype: Any, *, zero: bool = True) -> Array:
    """An array of a rank, of which nothing is copied if that can be."""
    number = np.dtype(dtype)
    found = take(comm, rank, prod(shape) * number.itemsize, zero=zero)
    return np.zeros(shape, number) if found is None else found.view(number).reshape(shape)


def _results(comm: Communicator, number: str, shapes: Iterable[tuple[int, ...]]) -> list[Array]:
    """Arrays for what a call gives, one for each rank."""
    return [empty(comm, rank, shape, TYPES[number][0]) for rank, shape in zip(comm.ranks, shapes)]


def array_of(what: str, value: Any) -> Array:
    """What numpy makes of it, or what any other library exports by DLPack; nothing is copied."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return np.asarray(value)
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as problem:
        raise refuse(what, f"numpy cannot read it by DLPack ({problem}): pass a numpy array, or torch tensors") from problem


def check(what: str, value: Any, number: str, width: int | None) -> Array:
    """An array of rows of a width, or of numbers; nothing is copied."""
    array = array_of(what, value)
    if array.dtype.name not in TYPES[number]:
        raise refuse(what, f"it is of {array.dtype.name}; pass {' or '.join(TYPES[number])} ({number} in this bundle)")
    if width is None and array.ndim == 0:
        array = array.reshape(1)
    shape = "[n]" if width is None else f"[n, {width}]"
    if array.ndim != (1 if width is None else 2) or (width is not None and array.shape[1] != width):
        raise refuse(what, f"its shape is {list(array.shape)}; pass {shape}")
    if not array.flags.c_contiguous:
        raise refuse(what, "it is not contiguous: pass numpy.ascontiguousarray of it")
    return array


def _each(comm: Communicator, what: str, value: Any, number: str, width: int) -> list[Array]:
    if comm.world.device != "virtual":
        raise refuse(what, "it is in the memory of this process; on GPUs pass torch tensors of the GPU, or use device='virtual'")
    values = comm.each(what, value)
    names = [what] if comm.single else [f"{what} of rank {rank}" for rank in comm.ranks]
    return [check(name, each, number, width) for name, each in zip(names, values)]


def _parameters(comm: Communicator, given: dict[str, Any]) -> Named:
    known = {parameter.name: parameter.kind for parameter in comm.bundle.parameters}
    named = []
    for name, value in given.items():
        kind = known.get(name, "experts")
        number = "i32" if kind in ("table", "token_id") else "f32"
        if kind == "token_id":
            arrays = [check(name, each, number, None) for each in comm.each(name, value)]
        else:
            arrays = [check(name, array_of(name, value).reshape(-1), number, None)] * len(comm.ranks)
        named.append((name, number, arrays))
    return named


def gate(comm: Communicator, logits: Any, given: dict[str, Any]) -> Routing:
    plan = comm.plan
    numbers = _each(comm, "logits", logits, "f32", plan.gate_width)
    shapes = [(each.shape[0], plan.top_k) for each in numbers]
    indices, weights = _results(comm, "i32", shapes), _results(comm, "f32", shapes)
    comm.calls.gate(numbers, _parameters(comm, given), indices, weights)
    return Routing(comm.one(indices), comm.one(weights), ascending=True)


def gate_backward(comm: Communicator, logits: Any, of_weights: Any, given: dict[str, Any]) -> Any:
    numbers = _each(comm, "logits", logits, "f32", comm.plan.gate_width)
    gradients = _each(comm, "of_weights", of_weights, "f32", comm.plan.top_k)
    result = _results(comm, "f32", [each.shape for each in numbers])
    comm.calls.gate_backward(numbers, _parameters(comm, given), gradients, result)
    return comm.one(result)


def _ascending(comm: Communicator, routing: Routing) -> tuple[list[Array], list[Array]]:
    """Picks of every token by ascending expert, dropped ones last."""
    weights = _each(comm, "weights", routing.weights, "f32", comm.plan.top_k)
    indices = []
    for rank, (each, weight) in enumerate(zip(comm.each("indices", routing.indices), weights)):
        array = array_of("indices", each)
        if array.dtype.name not in ("int32", "int64"):
            raise refuse("indices", f"they are of {array.dtype.name}; pass int32 or int64")
        if array.shape != weight.shape:
            raise refuse("indices", f"their shape is {list(array.shape)}, that of the weights {list(weight.shape)}; pass the same")
        if routing.ascending and array.dtype.name == "int32" and array.flags.c_contiguous:
            indices.append(array)
            continue
        if comm.capturing is not None:
            raise refuse("indices", "a replay reads them where they are: pass contiguous int32, ascending in each row, with ascending=True")
        if routing.ascending:
            indices.append(np.ascontiguousarray(np.clip(array, -(2**31), 2**31 - 1), np.int32))
            continue
        indices.append(empty(comm, comm.ranks[rank], array.shape, np.int32, zero=False))
        weights[rank] = empty(comm, comm.ranks[rank], array.shape, np.float32, zero=False)
        ascend(np.ascontiguousarray(array), weight, indices[rank], weights[rank])
    return indices, weights


def _room(comm: Communicator) -> tuple[list[Array], list[Array] | None]:
    """Memory for the rows of every rank and, where there are some, for their scales."""
    plan = comm.plan
    payload = _results(comm, plan.input_number, [(plan.most_rows, plan.hidden)] * len(comm.ranks))
    if plan.scale_number is None or plan.scale_block is None:
        return payload, None
    return payload, _results(comm, plan.scale_number, [(plan.most_rows, plan.hidden // plan.scale_block)] * len(comm.ranks))


def dispatch(comm: Communicator, x: Any, routing: Routing) -> Rows:
    plan = comm.plan
    tokens = _each(comm, "x", x, plan.token_number, plan.hidden)
    indices, weights = _ascending(comm, routing)
    handle = _results(comm, "ue8m0", [(plan.handle_bytes,)] * len(tokens))
    payload, scales = _room(comm)
    comm.calls.dispatch(tokens, indices, weights, handle, payload, scales)

    return Rows(
        x=comm.one(payload),
        payload=comm.one(payload),
        scales=None if scales is None else comm.one(scales),
        weights=None if plan.combine_weighs else comm.one([_weights(each, plan) for each in handle]),
        handle=comm.one(handle),
        routing=Routing(comm.one(indices), comm.one(weights), ascending=True),
        tokens=tuple(each.shape[0] for each in tokens),
        plan=plan,
        numbers=_numbers,
    )


def _weights(handle: Array, plan: Plan) -> Array:
    """Weights of rows where the experts weigh, where they lie."""
    start, end = plan.handle_places["row_weights"]
    return handle[start:end].view(np.float32).reshape(plan.most_rows, plan.weights_per_row)


def _numbers(rows: Rows, name: str, first: int, *shape: int) -> Any:
    """Numbers of an array of the handle, from one of them on, where they lie."""
    start = rows.plan.handle_places[name][0] // np.dtype(np.int32).itemsize + first
    end = start + prod(shape)
    handles = [rows.handle] if len(rows.tokens) == 1 else rows.handle
    numbers = [handle.view(np.int32)[start:end].reshape(shape) for handle in handles]
    return numbers[0] if len(numbers) == 1 else numbers


def _open(comm: Communicator, rows: Rows) -> tuple[list[Array], list[Array], list[Array]]:
    if not isinstance(rows, Rows):
        raise refuse("rows", f"pass what dispatch gave, not {type(rows).__name__}")
    plan = comm.plan
    handle = [check("rows.handle", each, "ue8m0", None) for each in comm.each("rows.handle", rows.handle)]
    if any(each.shape != (plan.handle_bytes,) for each in handle):
        raise refuse("rows.handle", f"it is not of this bundle, whose handles have {plan.handle_bytes} bytes")
    indices = _each(comm, "rows.routing.indices", rows.routing.indices, "i32", plan.top_k)
    weights = _each(comm, "rows.routing.weights", rows.routing.weights, "f32", plan.top_k)
    return indices, weights, handle


def dispatch_cached(comm: Communicator, x: Any, rows: Rows) -> Rows:
    plan = comm.plan
    indices, weights, handle = _open(comm, rows)
    tokens = _each(comm, "x", x, plan.token_number, plan.hidden)
    payload, scales = _room(comm)
    comm.calls.dispatch_cached(tokens, indices, weights, handle, payload, scales)
    sent = comm.one(payload)
    return replace(rows, x=sent, payload=sent, scales=None if scales is None else comm.one(scales))


def combine(comm: Communicator, y: Any, rows: Rows) -> Any:
    plan = comm.plan
    indices, weights, handle = _open(comm, rows)
    output = _each(comm, "y", y, plan.output_number, plan.hidden)
    result = _results(comm, plan.output_number, [(tokens, plan.hidden) for tokens in rows.tokens])
    comm.calls.combine(output, indices, weights, handle, result)
    return comm.one(result)


def dispatch_backward(comm: Communicator, of_rows: Any, rows: Rows) -> Any:
    plan = comm.plan
    indices, weights, handle = _open(comm, rows)
    given = _each(comm, "of_rows", of_rows, plan.output_number, plan.hidden)
    result = _results(comm, plan.output_number, [(tokens, plan.hidden) for tokens in rows.tokens])
    comm.calls.dispatch_backward(given, indices, weights, handle, result)
    return comm.one(result)


def combine_backward(comm: Communicator, y: Any, of_combined: Any, rows: Rows) -> tuple[Any, Any]:
    plan = comm.plan
    indices, weights, handle = _open(comm, rows)
    output = _each(comm, "y", y, plan.output_number, plan.hidden)
    given = _each(comm, "of_combined", of_combined, plan.output_number, plan.hidden)
    of_y = _results(comm, plan.output_number, [each.shape for each in output])
    of_weights = _results(comm, "f32", [(tokens, plan.top_k) for tokens in rows.tokens]) if plan.combine_weighs else None
    comm.calls.combine_backward(output, given, indices, weights, handle, of_y, of_weights)
    return comm.one(of_y), None if of_weights is None else comm.one(of_weights)


def weights_backward(comm: Communicator, of_row_weights: Any, rows: Rows) -> Any:
    plan = comm.plan
    indices, weights, handle = _open(comm, rows)
    given = _each(comm, "of_row_weights", of_row_weights, "f32", plan.weights_per_row)
    result = _results(comm, "f32", [(tokens, plan.top_k) for tokens in rows.tokens])
    comm.calls.weights_backward(given, indices, weights, handle, result)
    return comm.one(result)
