"""Worlds and communicators."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from . import host
from ._native import NativeSession, NativeWorld
from .bundle import Bundle, Plan
from .calls import Calls
from .capture import Capture
from .errors import DeviceError, refuse
from .group import join
from .routing import Routing, Rows

if TYPE_CHECKING:
    from types import ModuleType

_IDS = itertools.count(1)
COMMUNICATORS: weakref.WeakValueDictionary[int, Communicator] = weakref.WeakValueDictionary()
"""By their numbers, which are arguments of torch's operators."""


def find(number: int) -> Communicator:
    """The communicator of a number."""
    # A compiler may pass a symbol, whose value it then compiles for.
    found = COMMUNICATORS.get(int(number))
    if found is None:
        raise refuse("communicator", f"number {number} is gone: keep the Communicator for as long as its tensors are used")
    return found


class World:
    """All ranks of a bundle, in this process; with ``group``, a torch process group, the one rank that is this process's, or those of ``ranks``.
    All processes then make it together.

    ``device``: ``"cuda"`` for the GPUs of this machine, ``"virtual"`` for virtual ones that run the kernels' PTX on the CPU; by default
    GPUs where there are some. With ``group`` a process is on torch's current GPU, or on virtual GPUs that the first process starts (or
    that somebody serves under the name in ``MOE_NODE``). ``seed``: of virtual GPUs in this process, chooses how their threads take turns.
    """

    def __init__(
        self,
        bundle: Bundle | str | PathLike[str],
        *,
        device: str | None = None,
        seed: int = 0,
        group: Any = None,
        ranks: range | None = None,
        deadline: float | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
        self.mine = range(self.bundle.plan.ranks)
        """The ranks of this process."""
        if group is None:
            self.native, self.device = _make(self.bundle, device, seed)
        else:
            self.native, self.mine, self.device = join(self.bundle, group, ranks, device, deadline)
        self.has_node = group is not None and self.device == "virtual"
        """Whether the ranks are in another process than their tensors."""

    def recover(self) -> None:
        """Makes all ranks usable again after an error, when no communicator is in a call; all processes do so together. Earlier ``Rows`` must
        not be used any more."""
        self.native.recover()


def _make(bundle: Bundle, device: str | None, seed: int) -> tuple[NativeWorld, str]:
    if device is not None:
        return NativeWorld(bundle.native, device, seed), device
    try:
        return NativeWorld(bundle.native, "cuda", seed), "cuda"
    except DeviceError as problem:
        if problem.code not in ("no_driver", "no_gpu"):
            raise
        return NativeWorld(bundle.native, "virtual", seed), "virtual"


class Communicator:
    """Some ranks of a bundle: a single one, or a range of them.

    ``bundle``: a path, a ``Bundle``, or a ``World`` that several communicators share, each with its own ``ranks``.
    ``ranks``: a range; all of this process by default. ``group``: a torch process group, whose ranks are the bundle's, one of each process;
    with ``ranks`` these are those of this process.
    ``device``, ``seed``: see ``World``. ``deadline``: seconds that a kernel may wait for another rank; None for ever.

    Every rank of a world makes the same calls in the same order. A communicator of one rank takes and gives single tensors, one of several
    lists of them. Layers of a model share one communicator.
    """

    def __init__(
        self,
        bundle: World | Bundle | str | PathLike[str],
        *,
        ranks: range | None = None,
        group: Any = None,
        device: str | None = None,
        deadline: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        if group is not None and isinstance(bundle, World):
            raise refuse("group", "a world has its processes: pass the group to `World`, or a bundle here")
        self.world = (
            bundle
            if isinstance(bundle, World)
            else World(bundle, device=device, seed=seed, group=group, ranks=ranks if group is not None else None, deadline=deadline)
        )
        self.bundle = self.world.bundle
        self.plan: Plan = self.bundle.plan
        self.ranks = self.world.mine if ranks is None else ranks
        if self.ranks.step != 1:
            raise refuse("ranks", f"{self.ranks} is not contiguous: pass a range with step 1")
        if self.ranks.start < 0 or self.ranks.stop < 0:
            raise refuse("ranks", f"{self.ranks} has negative ranks; there are {self.plan.ranks}")
        session = NativeSession(self.world.native, self.ranks.start, self.ranks.stop, deadline)
        self.calls = Calls(session, self.plan)
        self.single = len(self.ranks) == 1
        self.streams: list[int] | None = None
        """Of CUDA, in which calls are launched, where they are the caller's."""
        self.capturing: Capture | None = None
        self.number = next(_IDS)
        COMMUNICATORS[self.number] = self

    def gate(self, logits: Any, **parameters: Any) -> Routing:
        """Chooses experts and weights as the bundle's gate does.

        ``logits``: f32 ``[tokens, gate_width]``. Parameters of the gate by name, such as ``bias=`` f32 ``[experts]``; they get no
        gradients. Gives ``indices`` i32 and ``weights`` f32, both ``[tokens, top_k]``, ascending in each row.
        """
        routing: Routing = self._of(logits).gate(self, logits, parameters)
        return routing

    def gate_backward(self, logits: Any, of_weights: Any, **parameters: Any) -> Any:
        """Gradients of the logits, given those of the weights. With torch, ``backward`` does this."""
        return host.gate_backward(self, logits, of_weights, parameters)

    def dispatch(self, x: Any, routing: Routing) -> Rows:
        """Sends every token ``[tokens, hidden]`` to the ranks of its experts."""
        rows: Rows = self._of(x).dispatch(self, x, routing)
        return rows

    def dispatch_cached(self, x: Any, rows: Rows) -> Rows:
        """Sends other tokens ``[tokens, hidden]``, as many on each rank, the way that ``rows`` went: nothing is counted or laid out again.

        Gives the same rows with another ``x`` (``payload``, ``scales``). Weights are those that were dispatched.
        """
        sent: Rows = self._of(x).dispatch_cached(self, x, rows)
        return sent

    def combine(self, y: Any, rows: Rows) -> Any:
        """Brings the experts' output ``[N, hidden]`` back and sums it for every token: ``[tokens, hidden]``.

        Whether it multiplies by the weights, the bundle says (``plan.combine_weighs``); where it does not, the experts multiply by
        ``rows.weights``, or nobody does.
        """
        return self._of(y).combine(self, y, rows)

    def dispatch_backward(self, of_rows: Any, rows: Rows) -> Any:
        """Gradients of the tokens, given those of the experts' input in the type of their output. With torch, ``backward`` does this."""
        return host.dispatch_backward(self, of_rows, rows)

    def combine_backward(self, y: Any, of_combined: Any, rows: Rows) -> tuple[Any, Any]:
        """Gradients of the experts' output and, where combine weighs, of the weights, else None. With torch, ``backward`` does this."""
        return host.combine_backward(self, y, of_combined, rows)

    def weights_backward(self, of_row_weights: Any, rows: Rows) -> Any:
        """Gradients of the weights ``[tokens, top_k]`` where the experts weigh, given those of ``rows.weights``. With torch, ``backward``
        does this."""
        return host.weights_backward(self, of_row_weights, rows)

    def empty(self, shape: Sequence[int], dtype: Any, *, rank: int | None = None) -> Any:
        """A tensor of a rank, not initialised, that no call needs to copy: in several processes on virtual GPUs it lies in memory that the node has
        too, as what calls return does; on a GPU, and in one process, it is an ordinary one.

        ``dtype``: of torch, for a tensor, or of numpy, for an array. ``rank``: the one whose calls use it, where there are several. It may outlive
        the communicator.
        """
        if rank is None:
            if not self.single:
                raise refuse("rank", f"this communicator has several: pass one of {self.ranks.start} to {self.ranks.stop - 1}")
            rank = self.ranks.start
        if rank not in self.ranks:
            raise refuse("rank", f"{rank} is none of this communicator's: pass one of {self.ranks.start} to {self.ranks.stop - 1}")
        if any(extent < 0 for extent in shape):
            raise refuse("shape", f"it is {list(shape)}: pass extents that are not negative")
        if type(dtype).__module__ == "torch":
            from . import torch  # noqa: PLC0415 (only who has torch imports it)

            return torch.empty(self, rank, tuple(shape), dtype)
        if self.world.device != "virtual":
            raise refuse("dtype", "tensors of a GPU are torch's: pass a dtype of torch")
        return host.empty(self, rank, tuple(shape), dtype, zero=False)

    def copied(self) -> int:
        """Bytes of tensors that calls of this communicator have copied between this process and virtual GPUs so far. On GPUs nothing is."""
        return self.calls.native.copied()

    def capture(self) -> Capture:
        """A context whose calls are kept in place of being made, over numpy arrays on virtual GPUs (torch's memory is
        ``tensor.numpy()``); on GPUs ``torch.cuda.graph`` does this. Routings are ascending, of int32. Parameters of the gate are those of the
        capture."""
        return Capture(self)

    def barrier(self) -> None:
        """No rank gets past it before every rank has reached it."""
        self.calls.native.barrier()

    def synchronise(self) -> None:
        """Waits for everything that was launched, and raises what went wrong in it."""
        self.calls.native.synchronise()

    def each(self, what: str, value: Any) -> list[Any]:
        """An argument as a list with an entry for each rank."""
        if self.single:
            if isinstance(value, (list, tuple)):
                raise refuse(what, "pass a single tensor: this communicator has one rank")
            return [value]
        if not isinstance(value, (list, tuple)) or len(value) != len(self.ranks):
            found = f"{len(value)} tensors" if isinstance(value, (list, tuple)) else "a single tensor"
            raise refuse(what, f"pass a list of {len(self.ranks)} tensors, one for each rank of this communicator, not {found}")
        return list(value)

    def one(self, values: list[Any]) -> Any:
        """A result as the caller gets it."""
        return values[0] if self.single else values

    def _of(self, value: Any) -> ModuleType:
        """Who makes calls over such tensors."""
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        if hasattr(first, "data_ptr") and self.capturing is None:
            from . import torch  # noqa: PLC0415 (only who has torch imports it)

            return torch
        return host

    def __repr__(self) -> str:
        return f"<communicator {self.number}: ranks {self.ranks.start} to {self.ranks.stop - 1} of {self.bundle!r} on {self.world.device}>"
