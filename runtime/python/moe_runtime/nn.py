"""A whole layer as a module: router, experts, and the calls between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, linear, silu

from . import balance
from .errors import refuse
from .torch import TYPES

if TYPE_CHECKING:
    from .communicator import Communicator
    from .routing import Rows


class GatedExperts(nn.Module):
    """The experts of one rank, each ``down(silu(gate(x)) * up(x))``, over rows grouped by expert."""

    def __init__(self, experts: int, hidden: int, intermediate: int, *, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * intermediate, hidden, device=device, dtype=dtype))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, intermediate, device=device, dtype=dtype))
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, rows: Rows) -> Tensor:
        # A rank with fewer experts than another has no rows behind its last.
        ends = cast(Tensor, rows.offsets)[: self.down_proj.shape[0]]
        given = rows.x.to(self.gate_up_proj.dtype)
        gate, up = grouped_mm(given, self.gate_up_proj.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        return grouped_mm(silu(gate) * up, self.down_proj.transpose(1, 2), offs=ends)


class Details(NamedTuple):
    """What a layer chose, for losses of the caller."""

    logits: Tensor
    """f32 ``[tokens, gate_width]``, with gradients."""
    indices: Tensor
    """i32 ``[tokens, top_k]``"""
    weights: Tensor
    """f32 ``[tokens, top_k]``, with gradients."""


class MoE(nn.Module):
    """A router, the experts of one rank, and experts that every token goes through.

    ``comm``: a communicator of a single rank, shared by all layers. ``experts``: the width inside a gated expert, or a module that gets
    ``Rows`` and gives ``[N, hidden]``: over rows grouped by expert with ``rows.offsets``, or row by row with
    ``moe_runtime.torch.expert_of_rows``. Where the experts weigh, this module multiplies. ``shared``: a module over the tokens
    ``[tokens, hidden]``, whose result is added; on a GPU it computes in a stream of its own while rows travel.

    Parameters of the gate that the bundle has, such as ``bias``, are buffers of zeros, one number for each expert; training writes them.
    ``picked``, i64 ``[gate_width]``, counts this rank's picks in training, until ``update_bias``.

    In ``state_dict`` experts have their numbers in the model, ``experts.17.down_proj``, so that ranks in any number can load what others
    saved: each takes its own and ignores the rest. Of a module of the caller these are the parameters and buffers whose first dimension is the
    experts of the rank.
    """

    picked: Tensor

    def __init__(
        self,
        comm: Communicator,
        experts: int | nn.Module,
        *,
        shared: nn.Module | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not comm.single:
            raise refuse("comm", "a module is of one rank: pass a communicator of one")
        if not comm.plan.by_expert:
            raise refuse("comm", "its rows belong to several experts each; compile the bundle with layout expert_major or batched")
        kinds = {parameter.kind for parameter in comm.bundle.parameters}
        if kinds - {"experts"}:
            raise refuse("comm", f"its gate has parameters of kind {', '.join(sorted(kinds - {'experts'}))}; call comm.gate yourself")
        plan, rank = comm.plan, comm.ranks.start
        self.comm = comm
        self.first = plan.first_experts[rank]
        self.local = plan.last_experts[rank] - self.first
        self.router = nn.Parameter(torch.empty(plan.gate_width, plan.hidden, device=device, dtype=torch.float32))
        nn.init.normal_(self.router, std=plan.hidden**-0.5)
        for parameter in comm.bundle.parameters:
            self.register_buffer(parameter.name, torch.zeros(plan.gate_width, device=device))
        self.register_buffer("picked", torch.zeros(plan.gate_width, device=device, dtype=torch.int64), persistent=False)
        if isinstance(experts, int):
            layout = comm.bundle.inspect()["exchange"]["layout"]
            if isinstance(layout, dict) and layout["expert_major"]["padding"] != "zero":
                raise refuse("comm", "gradients of its experts' weights sum over rows of padding; compile the bundle with `padding zero`")
            number = TYPES[plan.output_number] if dtype is None else dtype
            experts = GatedExperts(self.local, plan.hidden, experts, device=device, dtype=number)
        self.experts = experts
        self.shared = shared
        self._beside: Any = None
        self.register_state_dict_post_hook(_number)
        self.register_load_state_dict_pre_hook(_pick)

    def forward(self, x: Tensor, *, details: bool = False) -> Any:
        """``[…, hidden]`` to the same; with ``details``, and what was chosen."""
        flat = x.reshape(-1, x.shape[-1])
        parameters = {parameter.name: getattr(self, parameter.name) for parameter in self.comm.bundle.parameters}
        logits = linear(flat.float(), self.router)
        routing = self.comm.gate(logits, **parameters)
        if self.training:
            self.picked += balance.picks_per_expert(routing.indices, self.picked.shape[0])
        joined = self._start_shared(flat)
        rows = self.comm.dispatch(flat, routing)
        y = self.experts(rows)
        if rows.weights is not None:
            y = y * rows.weights.to(y.dtype)
        combined = self.comm.combine(y.to(TYPES[self.comm.plan.output_number]), rows)
        if joined is not None:
            combined = combined + joined()
        shaped = combined.reshape(x.shape)
        return (shaped, Details(logits, routing.indices, routing.weights)) if details else shaped

    def update_bias(self, speed: float, group: Any = None, name: str = "bias") -> None:
        """Moves a bias of the gate against the picks since the last time, of all ranks of ``group`` (see ``balance.update_bias``)."""
        known = [parameter.name for parameter in self.comm.bundle.parameters]
        if name not in known:
            raise refuse("name", f"the gate has no parameter `{name}`; it has {', '.join(known) or 'none'}")
        if group is not None:
            torch.distributed.all_reduce(self.picked, group=group)
        balance.update_bias(getattr(self, name), self.picked, speed)
        self.picked.zero_()

    def _start_shared(self, flat: Tensor) -> Any:
        """Starts what every token goes through; the result is a function that gives it, in the caller's stream."""
        shared = self.shared
        if shared is None:
            return None
        if not flat.is_cuda:
            y = shared(flat)
            return lambda: y
        if self._beside is None:
            self._beside = torch.cuda.Stream(flat.device)
        beside, mine = self._beside, torch.cuda.current_stream(flat.device)
        beside.wait_stream(mine)
        with torch.cuda.stream(beside):
            y = shared(flat)
        # The allocator must not give this memory away while the other stream uses it.
        flat.record_stream(beside)

        def joined() -> Tensor:
            mine.wait_stream(beside)
            y.record_stream(mine)
            return y

        return joined

    def _by_expert(self) -> Iterator[str]:
        """Names of what has an entry for each expert of this rank."""
        tensors = [*self.experts.named_parameters(), *self.experts.named_buffers()]
        return (name for name, tensor in tensors if tensor.dim() > 0 and tensor.shape[0] == self.local)


def _number(module: MoE, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """After a state was made: experts get their numbers in the model."""
    for name in module._by_expert():
        whole = state.pop(f"{prefix}experts.{name}", None)
        for local in range(0 if whole is None else module.local):
            state[f"{prefix}experts.{module.first + local}.{name}"] = whole[local]


def _pick(module: MoE, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Before a state is loaded: this rank's experts out of all."""
    errors: list[str] = rest[-1]
    for name in module._by_expert():
        keys = [f"{prefix}experts.{expert}.{name}" for expert in range(module.comm.plan.experts)]
        mine = keys[module.first : module.first + module.local]
        absent = [key for key in mine if key not in state]
        if not absent:
            state[f"{prefix}experts.{name}"] = torch.stack([state[key] for key in mine])
        elif len(absent) < len(mine):
            errors.append(f"{', '.join(absent)}: not in this state, which has others of this rank; join the states that all ranks saved")
        for key in keys:
            state.pop(key, None)
