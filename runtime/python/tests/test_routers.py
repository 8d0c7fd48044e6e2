"""The gates of the example files against the routers of transformers: picks, weights and gradients of the logits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import moe_runtime as moe
import pytest
import torch
from transformers import DeepseekV3Config, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

HIDDEN, TOKENS = 64, 32
EXAMPLES = Path(__file__).parents[3] / "dsl-examples"


def bundle(example: str, folder: Path) -> moe.Bundle:
    """The example's experts and gate, in a layer that is small otherwise."""
    source = (EXAMPLES / f"{example}.moe").read_text()
    experts = re.search(r"^    experts .*$", source, re.MULTILINE)[0]
    gate = re.search(r"^    gate\(.*?^    }$", source, re.MULTILINE | re.DOTALL)[0]
    path = folder / f"{example}.moe"
    path.write_text(f"""model small {{
    hidden {HIDDEN}
{experts}
{gate}
    dispatch {{ payload f32   layout expert_major }}
    combine  {{ payload f32   reduce f32 weighted }}
}}
cluster node {{
    nodes 1   gpus 1 per node
    gpu "H800" {{ target sm_90a   sms 132   memory 80 GB }}
    nvlink 160 GB/s
}}
deploy one of small on node {{ ep 1   tokens {TOKENS} per gpu   sms 2 }}
""")
    return moe.compile(path)


def deepseek_v3() -> Any:
    router = DeepseekV3TopkRouter(
        DeepseekV3Config(
            hidden_size=HIDDEN,
            n_routed_experts=256,
            num_experts_per_tok=8,
            n_group=8,
            topk_group=4,
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
        )
    )
    router.e_score_correction_bias.normal_(std=0.1)
    return router


def qwen3_moe() -> Any:
    return Qwen3MoeTopKRouter(Qwen3MoeConfig(hidden_size=HIDDEN, num_experts=128, num_experts_per_tok=8, norm_topk_prob=True))


@pytest.mark.parametrize(("example", "make"), [("deepseek_v3", deepseek_v3), ("qwen3_moe", qwen3_moe)])
@pytest.mark.parametrize("width", [0.05, 0.5])
def test_a_gate_is_the_router_of_transformers(example: str, make: Any, width: float, tmp_path: Path) -> None:
    torch.manual_seed(11)
    router = make()
    with torch.no_grad():
        router.weight.normal_(std=width)
    x = torch.randn(TOKENS, HIDDEN)
    logits, weights, indices = router(x)
    logits.retain_grad()
    order = indices.argsort(dim=-1)
    factors = torch.randn(weights.shape)
    (weights.gather(1, order) * factors).sum().backward()

    comm = moe.Communicator(bundle(example, tmp_path), device="virtual")
    given = logits.detach().clone().requires_grad_()
    parameters = {"bias": router.e_score_correction_bias} if comm.bundle.parameters else {}
    routing = comm.gate(given, **parameters)
    assert torch.equal(routing.indices.long(), indices.gather(1, order))
    torch.testing.assert_close(routing.weights, weights.gather(1, order).detach(), rtol=1e-5, atol=1e-7)
    (routing.weights * factors).sum().backward()
    scale = logits.grad.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(given.grad, logits.grad, rtol=1e-4, atol=1e-5 * scale)
