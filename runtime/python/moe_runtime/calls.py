"""Calls of the native module over lists of arrays, one for each rank: numpy's or torch's, inputs and outputs alike.

Who calls has looked at types and shapes; the native module compares what is said here with the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from . import _native

if TYPE_CHECKING:
    from ._native import Given, Handle, NativeSession
    from .bundle import Plan

Arrays = Sequence[Any]
Named = Sequence[tuple[str, str, Arrays]]
"""Parameters of the gate: name, number, arrays."""


def address(array: Any) -> int:
    """Where an array begins; 0 without elements."""
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr())
    return int(array.ctypes.data) if array.size else 0


def given(number: str, arrays: Arrays) -> Given:
    """A tensor for the native module."""
    width = arrays[0].itemsize
    for extent in arrays[0].shape[1:]:
        width *= extent
    return number, width, [(address(array), array.shape[0]) for array in arrays]


def ascend(indices: Any, weights: Any, picks: Any, factors: Any) -> None:
    """Writes integers ``[tokens, top_k]`` as int32, ascending in each row with negative ones last, to ``picks``, and f32 in the same order to
    ``factors``. All are contiguous, in the memory of this process."""
    tokens, width = indices.shape
    given, into = (address(indices), int(indices.itemsize)), (address(picks), address(factors))
    _native.ascend(given, address(weights), tokens, width, into)


Call = TypeVar("Call", bound=Callable[..., None])


def kept(call: Call) -> Call:
    """A call whose arrays stay for as long as the capture that it is in."""

    @wraps(call)
    def keeping(self: Calls, *arrays: Any) -> None:
        call(self, *arrays)
        if self.kept is not None:
            self.kept.append(arrays)

    return cast(Call, keeping)


class Calls:
    """The calls of one communicator."""

    def __init__(self, native: NativeSession, plan: Plan) -> None:
        self.native = native
        self.plan = plan
        self.kept: list[Any] | None = None
        """Of a capture, while there is one."""

    def _handle(self, handle: Arrays, indices: Arrays, weights: Arrays) -> Handle:
        return [address(array) for array in handle], given("i32", indices), given("f32", weights)

    def _scales(self, scales: Arrays | None) -> Given | None:
        if scales is None or self.plan.scale_number is None:
            return None
        return given(self.plan.scale_number, scales)

    @kept
    def gate(self, logits: Arrays, parameters: Named, indices: Arrays, weights: Arrays) -> None:
        numbers = [(name, given(number, arrays)) for name, number, arrays in parameters]
        self.native.gate(given("f32", logits), numbers, given("i32", indices), given("f32", weights))

    @kept
    def gate_backward(self, logits: Arrays, parameters: Named, of_weights: Arrays, of_logits: Arrays) -> None:
        numbers = [(name, given(number, arrays)) for name, number, arrays in parameters]
        self.native.gate_backward(given("f32", logits), numbers, given("f32", of_weights), given("f32", of_logits))

    @kept
    def dispatch(
        self, x: Arrays, indices: Arrays, weights: Arrays, handle: Arrays, rows: Arrays, scales: Arrays | None
    ) -> None:
        tokens, out = given(self.plan.token_number, x), given(self.plan.input_number, rows)
        self.native.dispatch(self._handle(handle, indices, weights), tokens, out, self._scales(scales))

    @kept
    def dispatch_cached(
        self, x: Arrays, indices: Arrays, weights: Arrays, handle: Arrays, rows: Arrays, scales: Arrays | None
    ) -> None:
        tokens, out = given(self.plan.token_number, x), given(self.plan.input_number, rows)
        self.native.dispatch_cached(self._handle(handle, indices, weights), tokens, out, self._scales(scales))

    @kept
    def combine(self, y: Arrays, indices: Arrays, weights: Arrays, handle: Arrays, combined: Arrays) -> None:
        number = self.plan.output_number
        self.native.combine(self._handle(handle, indices, weights), given(number, y), given(number, combined))

    @kept
    def dispatch_backward(
        self, of_rows: Arrays, indices: Arrays, weights: Arrays, handle: Arrays, of_tokens: Arrays
    ) -> None:
        number = self.plan.output_number
        out = given(number, of_tokens)
        self.native.dispatch_backward(self._handle(handle, indices, weights), given(number, of_rows), out)

    @kept
    def combine_backward(
        self,
        y: Arrays,
        of_combined: Arrays,
        indices: Arrays,
        weights: Arrays,
        handle: Arrays,
        of_y: Arrays,
        of_weights: Arrays | None,
    ) -> None:
        number = self.plan.output_number
        self.native.combine_backward(
            self._handle(handle, indices, weights),
            given(number, y),
            given(number, of_combined),
            given(number, of_y),
            None if of_weights is None else given("f32", of_weights),
        )

    @kept
    def weights_backward(
        self, of_rows: Arrays, indices: Arrays, weights: Arrays, handle: Arrays, of_weights: Arrays
    ) -> None:
        out = given("f32", of_weights)
        self.native.weights_backward(self._handle(handle, indices, weights), given("f32", of_rows), out)
