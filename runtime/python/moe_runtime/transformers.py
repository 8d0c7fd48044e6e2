"""Expert parallelism of Hugging Face transformers, on bundles.

    moe_runtime.transformers.register("layer.moeb")
    model = AutoModelForCausalLM.from_pretrained(
        path, distributed_config=DistributedConfig(fsdp_size=4, ep_size=4, ep_implementation="moe_runtime"))

The bundle: as many ranks as ``ep_size``, the model's experts and ``top_k``, its hidden size, layout ``expert_major``, and a combine that
weighs. Layers of one shape share one communicator, and with it its memory. Rows are converted to the types of the bundle and back.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.distributed.expert_parallel import EPImplementation, EPImplementationInterface

from .bundle import Bundle
from .communicator import Communicator
from .errors import refuse
from .routing import Routing
from .torch import TYPES, expert_of_rows

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh


def register(bundle: Bundle | str | PathLike[str], name: str = "moe_runtime", **options: Any) -> None:
    """Makes a bundle known to transformers as an expert-parallel implementation. ``options`` are those of ``Communicator``."""
    read = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    plan = read.plan
    plan.expect("bundle", "expert_major", weighs=True)
    made: list[tuple[Any, Communicator]] = []

    def communicator(group: Any) -> Communicator:
        for known, found in made:
            if known is group:
                return found
        made.append((group, Communicator(read, group=group, **options)))
        return made[-1][1]

    class Experts(EPImplementation):  # type: ignore[misc]
        """Experts of one layer, whose rows come from all ranks of their group."""

        def __init__(self, experts: nn.Module, ep_mesh: DeviceMesh, tp_mesh: DeviceMesh) -> None:
            super().__init__(experts, ep_mesh, tp_mesh)
            if tp_mesh.size() > 1:
                raise refuse("tp_size", f"it is {tp_mesh.size()}: ranks that share a batch would send its tokens twice; use tp_size=1")
            local: Any = self.num_local_experts
            total = local * ep_mesh.size()
            if total != plan.experts:
                raise refuse("bundle", f"it has {plan.experts} experts, and the model has {total}: compile for the model")
            self.comm = communicator(ep_mesh.get_group())

        def __call__(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
            # Rows travel in the bundle's type, whatever the model computes in.
            own = hidden_states.dtype
            rows = self.comm.dispatch(hidden_states.to(TYPES[plan.token_number]), Routing(top_k_index, top_k_weights))
            experts, arrived = expert_of_rows(rows)
            # Rows that did not arrive are memory that nobody wrote: zeros here, and an expert that is none.
            x = torch.where(arrived, rows.x, 0.0).to(own)
            y = torch.where(arrived, self.experts_forward(x, experts, arrived.to(own)), 0.0)
            return self.comm.combine(y.to(TYPES[plan.output_number]), rows).to(own)  # type: ignore[no-any-return]

    EPImplementationInterface.register(name, Experts)
