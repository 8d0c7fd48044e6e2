"""What goes wrong, as exceptions that carry their data.

Every one has ``code``, a word to compare with (``"rows"``, ``"deadline"``, …), and ``fields``, what the message is made of.
"""

from __future__ import annotations

import json
from typing import Any


class Error(RuntimeError):
    """Any failure of this package."""

    def __init__(self, message: str, code: str, fields: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.fields = fields or {}


class InvalidArgument(Error, ValueError):
    """What was passed does not fit, and nothing was launched: pass something else."""


class InputError(Error, ValueError):
    """A kernel refused numbers of a tensor, such as a pick that is no expert. The ranks have stopped: ``World.recover``."""


class BundleError(Error):
    """The file is no bundle that can be used here."""


class DeadlineError(Error, TimeoutError):
    """A rank did not come in time, or cannot any more. The ranks have stopped: ``World.recover``."""


class StoppedError(Error):
    """An error came before: ``World.recover``."""


class DeviceError(Error):
    """The device cannot, or a kernel did what it must not."""


KINDS: dict[str, type[Error]] = {
    "argument": InvalidArgument,
    "input": InputError,
    "bundle": BundleError,
    "deadline": DeadlineError,
    "stopped": StoppedError,
    "device": DeviceError,
    "bug": Error,
}


def from_native(kind: str, data: str) -> Error:
    """The exception of an error of the native module."""
    error = json.loads(data)
    return KINDS[kind](error["message"], error["code"], error["fields"])


def refuse(argument: str, problem: str) -> InvalidArgument:
    """An argument that nothing can be done with."""
    return InvalidArgument(f"{argument}: {problem}", "argument", {"argument": argument, "problem": problem})
