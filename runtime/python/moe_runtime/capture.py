"""Calls that are captured once and replayed any number of times, each time with what is then in the same arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import refuse

if TYPE_CHECKING:
    from types import TracebackType

    from ._native import NativeCapture
    from .communicator import Communicator


class Capture:
    """``with comm.capture() as capture:`` keeps the calls in it in place of making them; ``capture.replay()`` makes them.

    What the calls returned lies where each replay writes it. The capture keeps their arrays.
    """

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        self.kept: list[Any] = []
        """Arrays whose addresses the calls have."""
        self.native: NativeCapture | None = None

    def __enter__(self) -> Capture:
        if self.comm.world.device != "virtual":
            raise refuse("capture", "on GPUs capture with torch.cuda.graph, whose streams the calls use")
        self.comm.calls.native.begin_capture()
        self.comm.capturing, self.comm.calls.kept = self, self.kept
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self.comm.capturing = self.comm.calls.kept = None
        native = self.comm.calls.native.end_capture()
        if kind is None:
            self.native = native

    def replay(self) -> None:
        """Makes the calls. All ranks of the world replay the same."""
        if self.native is None:
            raise refuse("capture", "it has no calls: it has not ended, or an error ended it")
        self.comm.calls.native.replay(self.native)
