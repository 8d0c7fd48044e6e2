"""One process of a model of transformers that torchrun started: `transformers_ep.py MODEL FOLDER CASE=BUNDLE…`.

Trains a tiny model, its experts shared out over the ranks, beside the same model in one process that sees the batches of all ranks, once for
each case, and prints how far they are from each other. Cases are

* `f32`: twenty steps;
* `bf16`, `fp8`: one step, beside a process whose rows are rounded as on the wire. More cannot be compared: a difference of 1e-7 flips a
  rounding, then a pick;
* faults that are planted on the expert-parallel side, in two steps, and must be noticed: `router`, whose gradient is spoiled on one rank;
  `order`, two experts exchanged; `weights`, which get no gradient; `expert_grad`, divided by the ranks as those of dense layers are; `bias`,
  updated by what one rank counted; `rounding`, rows in bf16 beside a process that rounds nothing.
"""

from __future__ import annotations

import sys
from typing import Any

import moe_runtime.transformers as adapter
import torch
import torch.distributed as dist
from rounded import bf16, fp8, rounded
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

EXPERTS, PICKS, HIDDEN, RATE = 16, 4, 64, 0.1
STEPS = {"f32": 20, "bf16": 1, "fp8": 1}
FAULT_STEPS = 2
WIRE = {"bf16": bf16, "fp8": fp8}
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
        for block in blocks(model):
            block.gate.weight.normal_(0, 0.5)
    return model


def blocks(model: nn.Module) -> list[Any]:
    return [block for block in model.modules() if hasattr(block, "gate") and hasattr(block, "experts")]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def counted(model: nn.Module) -> list[Tensor]:
    """Picks of each expert in every call of a router since, in a list that grows."""
    counts: list[Tensor] = []
    for block in blocks(model):
        block.gate.register_forward_hook(lambda _m, _i, out: counts.append(torch.bincount(out[2].reshape(-1), minlength=EXPERTS)))
    return counts


def balance(model: nn.Module, counts: Tensor) -> list[Tensor]:
    """Updates the bias of each router that has one, as DeepSeek-V3 does: down for experts with more tokens than the mean."""
    biases = []
    for block, count in zip(blocks(model), counts.float()):
        if hasattr(block.gate, "e_score_correction_bias"):
            block.gate.e_score_correction_bias += 1e-2 * torch.sign(count.mean() - count)
            biases.append(block.gate.e_score_correction_bias)
    return biases


def worst(found: Tensor, of: Tensor) -> float:
    return ((found - of).abs().max() / of.abs().max().clamp(min=1e-30)).item()


def weights_without_gradient(gate: nn.Module) -> None:
    gate.register_forward_hook(lambda _m, _i, out: (out[0], out[1].detach(), out[2]))


def compare(case: str, one: nn.Module, model: nn.Module) -> str:
    """Trains both; the largest differences, as text that begins with a verdict."""
    rank, world = dist.get_rank(), dist.get_world_size()
    experts = {name for name, _ in model.named_parameters() if ".experts." in name}
    if case == "order":
        with torch.no_grad():
            for parameter in (p for n, p in model.named_parameters() if n in experts):
                local = parameter.to_local()
                local.copy_(local.flip(0))
    if case == "weights":
        for block in blocks(model):
            weights_without_gradient(block.gate)
    of_one, of_model = counted(one), counted(model)
    data = torch.randint(0, 128, (STEPS.get(case, FAULT_STEPS), SEQUENCES * world, LENGTH), generator=torch.Generator().manual_seed(1))
    losses = gradients = 0.0
    unequal = 0
    for batch in data:
        of_one.clear()
        of_model.clear()
        reference = one(input_ids=batch, labels=batch).loss
        mine = batch[SEQUENCES * rank : SEQUENCES * (rank + 1)]
        loss = model(input_ids=mine, labels=mine).loss
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses = max(losses, abs(mean.item() / world - reference.item()))
        reference.backward()
        loss.backward()
        for block, of in zip(blocks(model), blocks(one)):
            gradient = block.gate.weight.grad
            if case == "weights" and gradient is None:
                gradient = torch.zeros_like(of.gate.weight)
            if case == "router" and rank == 1:
                (gradient.to_local() if hasattr(gradient, "to_local") else gradient).mul_(1.5)
            gradients = max(gradients, worst(whole(gradient), of.gate.weight.grad))
        with torch.no_grad():
            for each in (one, model):
                for name, parameter in each.named_parameters():
                    if parameter.grad is not None:
                        share = world if case == "expert_grad" and each is model and name in experts else 1
                        parameter.sub_(RATE * parameter.grad / share)
            picks, of_picks = torch.stack(of_model), torch.stack(of_one)
            if case != "bias":
                dist.all_reduce(picks)
            unequal += 0 if torch.equal(picks, of_picks) else 1
            biases, of_biases = balance(model, picks), balance(one, of_picks)
            unequal += 0 if all(map(torch.equal, biases, of_biases)) else 1
        for each in (one, model):
            # Here, not between forward and backward: FSDP would add to what it keeps of the last step.
            each.zero_grad()
    names = dict(one.named_parameters())
    parameters = max(worst(whole(found), names[name]) for name, found in model.named_parameters())
    limits = (1e-5, 1e-4, 1e-4) if case not in WIRE else (1e-6, 1e-6, 1e-6)
    right = all(found <= most for found, most in zip((losses, gradients, parameters), limits)) and unequal == 0
    figures = f"loss {losses:.1e}, router {gradients:.1e}, parameters {parameters:.1e}, unequal counts and biases {unequal}"
    return f"{'right' if right else 'wrong'}: {figures}"


def main() -> None:
    name, folder, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    tiny_model = tiny(name)
    if rank == 0:
        tiny_model.save_pretrained(folder)
    dist.barrier()
    for case, bundle in (each.split("=", 1) for each in cases):
        adapter.register(bundle, f"moe_{case}", device="virtual", deadline=60.0)
        options = {"attn_implementation": "eager", "experts_implementation": "eager"}
        one = AutoModelForCausalLM.from_pretrained(folder, **options)
        split = DistributedConfig(fsdp_size=world, ep_size=world, ep_implementation=f"moe_{case}")
        model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=split, **options)
        if case in WIRE:
            for block in blocks(one):
                rounded(block.experts, world, WIRE[case])
        print(f"rank {rank} {case}: {compare(case, one, model)}", flush=True)
    dist.destroy_process_group()


main()
