"""One process of a model of transformers that torchrun started: `transformers_ep.py BUNDLE MODEL FOLDER FAULT`.

Trains a tiny model for some steps, its experts shared out over the ranks, beside the same model in one process that sees the batches of all
ranks. With FAULT `router` the router's gradient is spoiled on one rank, with `order` two experts' rows are exchanged: both must be noticed.
"""

from __future__ import annotations

import sys

import moe_runtime.transformers as adapter
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

EXPERTS, PICKS, HIDDEN, STEPS, RATE = 16, 4, 64, 20, 0.1
LENGTH, SEQUENCES = 16, 2


def tiny(name: str) -> nn.Module:
    common = {
        "vocab_size": 128,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "moe_intermediate_size": 32,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "num_experts_per_tok": PICKS,
        "use_cache": False,
        "attn_implementation": "eager",
    }
    if name == "deepseek_v3":
        model = DeepseekV3ForCausalLM(
            DeepseekV3Config(
                **common,
                num_key_value_heads=4,
                n_routed_experts=EXPERTS,
                n_shared_experts=1,
                n_group=4,
                topk_group=2,
                first_k_dense_replace=0,
                kv_lora_rank=16,
                q_lora_rank=24,
                qk_rope_head_dim=8,
                v_head_dim=16,
                qk_nope_head_dim=16,
                num_mtp_layers=0,
            )
        )
    else:
        model = Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                **common,
                num_key_value_heads=2,
                head_dim=16,
                num_experts=EXPERTS,
                norm_topk_prob=True,
                decoder_sparse_step=1,
                mlp_only_layers=[],
            )
        )
    model.config._experts_implementation = "eager"
    with torch.no_grad():
        # Wide routers, without near-ties between experts that rounding would decide.
        for gate in routers(model):
            gate.weight.normal_(0, 0.5)
    return model


def routers(model: nn.Module) -> list[nn.Module]:
    return [block.gate for block in model.modules() if hasattr(block, "gate") and hasattr(block, "experts")]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def counted(model: nn.Module) -> list[Tensor]:
    """Picks of each expert in every call of a router since, in a list that grows."""
    counts: list[Tensor] = []
    for gate in routers(model):
        gate.register_forward_hook(lambda _m, _i, out: counts.append(torch.bincount(out[2].reshape(-1), minlength=EXPERTS)))
    return counts


def worst(found: Tensor, of: Tensor) -> float:
    return ((found - of).abs().max() / of.abs().max().clamp(min=1e-30)).item()


def main() -> None:
    bundle, name, folder, fault = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    one = tiny(name)
    if rank == 0:
        one.save_pretrained(folder)
    dist.barrier()
    adapter.register(bundle, device="virtual", deadline=60.0)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        distributed_config=DistributedConfig(fsdp_size=world, ep_size=world, ep_implementation="moe_runtime"),
        attn_implementation="eager",
        experts_implementation="eager",
    )
    if fault == "order":
        with torch.no_grad():
            for parameter in (p for n, p in model.named_parameters() if ".experts." in n):
                local = parameter.to_local()
                local.copy_(local.flip(0))
    of_one, of_model = counted(one), counted(model)
    data = torch.randint(0, 128, (STEPS, SEQUENCES * world, LENGTH), generator=torch.Generator().manual_seed(1))
    losses = gradients = 0.0
    for batch in data:
        of_one.clear()
        of_model.clear()
        reference = one(input_ids=batch, labels=batch).loss
        mine = batch[SEQUENCES * rank : SEQUENCES * (rank + 1)]
        loss = model(input_ids=mine, labels=mine).loss
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses = max(losses, abs(mean.item() / world - reference.item()))
        picks = torch.stack(of_model)
        dist.all_reduce(picks)
        assert fault != "none" or torch.equal(picks, torch.stack(of_one)), "tokens per expert"
        reference.backward()
        loss.backward()
        for gate, of in zip(routers(model), routers(one)):
            if fault == "router" and rank == 1:
                local = gate.weight.grad
                (local.to_local() if hasattr(local, "to_local") else local).mul_(1.5)
            gradients = max(gradients, worst(whole(gate.weight.grad), of.weight.grad))
        with torch.no_grad():
            for each in (one, model):
                for parameter in each.parameters():
                    parameter.sub_(RATE * parameter.grad)
        for each in (one, model):
            # Here, not between forward and backward: FSDP would add to what it keeps of the last step.
            each.zero_grad()
    names = dict(one.named_parameters())
    parameters = max(worst(whole(found), names[name]) for name, found in model.named_parameters())
    right = losses <= 1e-5 and gradients <= 1e-4 and parameters <= 1e-4
    print(f"rank {rank}: {'right' if right else 'wrong'}: loss {losses:.1e}, router {gradients:.1e}, parameters {parameters:.1e}", flush=True)
    dist.destroy_process_group()


main()
