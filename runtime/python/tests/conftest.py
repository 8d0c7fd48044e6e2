"""Bundles of a small layer, compiled once by the tool that `MOEC` names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import moe_runtime as moe
import pytest

RANKS, EXPERTS, PICKS, HIDDEN, MOST_TOKENS = 4, 8, 3, 64, 8

LAYERS = {
    "weighted": "dispatch { payload f32   layout expert_major align 4 } combine { payload f32   reduce f32 weighted }",
    "experts weigh": "dispatch { payload f32   layout expert_major align 1 } combine { payload f32   reduce f32 unweighted }",
    "by rank": "dispatch { payload f32   layout rank_major } combine { payload f32   reduce f32 unweighted }",
    "batched": "dispatch { payload f32   layout batched } combine { payload f32   reduce f32 weighted }",
    "bf16": "dispatch { payload bf16   layout expert_major align 4 } combine { payload bf16   reduce f32 weighted }",
    "fp8": "dispatch { payload fp8_e4m3 scale ue8m0 per 32   layout expert_major align 4 }"
    " combine { payload bf16   reduce f32 weighted }",
}


def text(layer: str, ranks: int, mode: str = "throughput") -> str:
    return f"""model small {{
    hidden {HIDDEN}
    experts {EXPERTS}
    gate(logits: f32[experts], bias: f32[experts]) {{
        let score  = sigmoid(logits)
        let chosen = top({PICKS}, experts, by: score + bias)
        weights normalize(score[chosen], eps: 1e-20)
    }}
    {layer}
}}
cluster node {{
    nodes 1   gpus {ranks} per node
    gpu "H800" {{ target sm_90a   sms 132   memory 80 GB }}
    nvlink 160 GB/s
}}
deploy tiny of small on node {{ ep {ranks}   tokens {MOST_TOKENS} per gpu   mode {mode}   sms 2 }}
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., moe.Bundle]:
    folder: Path = tmp_path_factory.mktemp("bundles")
    known: dict[tuple[str, int, str], moe.Bundle] = {}

    def compiled(layer: str, ranks: int = RANKS, mode: str = "throughput") -> moe.Bundle:
        if (layer, ranks, mode) not in known:
            path = folder / f"{layer.replace(' ', '_')}_{ranks}_{mode}.moe"
            path.write_text(text(LAYERS[layer], ranks, mode))
            known[layer, ranks, mode] = moe.compile(path)
        return known[layer, ranks, mode]

    return compiled
