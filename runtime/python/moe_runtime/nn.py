"""A whole layer as a module: router, experts, and the calls between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grouped_mm, silu

from .errors import refuse
from .torch import TYPES

if TYPE_CHECKING:
    from .communicator import Communicator


class MoE(nn.Module):
    """A router and the gated experts of one rank: ``down(silu(gate(x)) * up(x))``.

    ``comm``: a communicator of a single rank, shared by all layers. ``intermediate``: width inside an expert. The gate's parameters that the
    bundle has, such as ``bias``, are buffers of zeros with one number for each expert; training writes them.

    In ``state_dict`` experts have their numbers in the model, ``experts.17.down_proj``, so that ranks in any number can load what others saved: each
    takes its own and ignores the rest.
    """

    def __init__(self, comm: Communicator, intermediate: int, *, device: Any = None, dtype: torch.dtype | None = None) -> None:
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
        options = {"device": device, "dtype": TYPES[plan.output_number] if dtype is None else dtype}
        self.router = nn.Parameter(torch.empty(plan.gate_width, plan.hidden, device=device, dtype=torch.float32))
        for parameter in comm.bundle.parameters:
            self.register_buffer(parameter.name, torch.zeros(plan.gate_width, device=device))
        self.gate_up_proj = nn.Parameter(torch.empty(self.local, 2 * intermediate, plan.hidden, **options))
        self.down_proj = nn.Parameter(torch.empty(self.local, plan.hidden, intermediate, **options))
        for weight in (self.router, self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``[…, hidden]`` to the same."""
        flat = x.reshape(-1, x.shape[-1])
        parameters = {parameter.name: getattr(self, parameter.name) for parameter in self.comm.bundle.parameters}
        logits = nn.functional.linear(flat.float(), self.router)
        rows = self.comm.dispatch(flat, self.comm.gate(logits, **parameters))
        # A rank with fewer experts than another has no rows behind its last.
        ends = rows.offsets[: self.local]
        given = rows.x.to(self.gate_up_proj.dtype)
        gate, up = grouped_mm(given, self.gate_up_proj.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        y = grouped_mm(silu(gate) * up, self.down_proj.transpose(1, 2), offs=ends)
        if rows.weights is not None:
            y = y * rows.weights.to(y.dtype)
        return self.comm.combine(y.to(TYPES[self.comm.plan.output_number]), rows).reshape(x.shape)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("gate_up_proj", "down_proj"):
            whole = destination.pop(prefix + name)
            for local in range(self.local):
                destination[f"{prefix}experts.{self.first + local}.{name}"] = whole[local]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        for name in ("gate_up_proj", "down_proj"):
            keys = [f"{prefix}experts.{expert}.{name}" for expert in range(self.comm.plan.experts)]
            mine = keys[self.first : self.first + self.local]
            if all(key in state_dict for key in mine):
                state_dict[prefix + name] = torch.stack([state_dict[key] for key in mine])
            for key in keys:
                state_dict.pop(key, None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
