"""Events of DeepEP. Calls are launched in the current stream, so that an event is what was recorded there; on virtual GPUs a call has
finished when it returns, and an event is nothing."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch


class EventHandle:
    """Everything that was launched in the current stream until now."""

    def __init__(self) -> None:
        self.recorded: Any = None
        if torch.cuda.is_available():
            self.recorded = torch.cuda.Event()
            self.recorded.record()

    def current_stream_wait(self) -> None:
        """The current stream goes on when it has finished."""
        if self.recorded is not None:
            self.recorded.wait()


class EventOverlap:
    """An event, or None where a call was not asked for one (``async_finish``).

    ``extra_tensors`` live as long as it does. As a context, the current stream waits at its end.
    """

    def __init__(self, event: EventHandle | None = None, extra_tensors: tuple[torch.Tensor, ...] | None = None) -> None:
        self.event = event
        self.extra_tensors = extra_tensors

    def current_stream_wait(self) -> None:
        """The current stream goes on when the event has finished."""
        if self.event is not None:
            self.event.current_stream_wait()

    def __enter__(self) -> EventOverlap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.current_stream_wait()


def before(previous_event: EventOverlap | EventHandle | None) -> None:
    """The current stream waits for what the caller named."""
    if previous_event is not None:
        previous_event.current_stream_wait()


def after(asked: bool) -> EventOverlap:
    """The event that a call returns."""
    return EventOverlap(EventHandle() if asked else None)
