"""Mixture-of-Experts communication: gate, dispatch, combine and their gradients, on NVIDIA GPUs or virtual ones.

A bundle is what ``moec build`` writes. A communicator holds some ranks of it, usually one or all::

    comm = Communicator("v3.moeb")                    # device="virtual" runs the kernels' PTX on the CPU
    routing = comm.gate(logits, bias=bias)            # or Routing(indices, weights) of your own
    rows = comm.dispatch(x, routing)
    y = comm.combine(experts(rows), rows)

Tensors are numpy arrays or torch tensors; with torch, every call is differentiable. A communicator of several ranks takes and gives a list
of them, one of a single rank takes and gives single ones.
"""

from ._native import __version__
from .bundle import Bundle, Parameter, Plan
from .communicator import Communicator, World
from .errors import BundleError, DeadlineError, DeviceError, Error, InputError, InvalidArgument, StoppedError
from .routing import Routing, Rows
from .tool import CompileError, compile

__all__ = [
    "Bundle",
    "BundleError",
    "Communicator",
    "CompileError",
    "DeadlineError",
    "DeviceError",
    "Error",
    "InputError",
    "InvalidArgument",
    "Parameter",
    "Plan",
    "Routing",
    "Rows",
    "StoppedError",
    "World",
    "__version__",
    "compile",
]
