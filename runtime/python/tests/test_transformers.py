"""Models of transformers, trained expert-parallel in several processes, against one process without expert parallelism."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import moe_runtime as moe
import pytest

from test_processes import SECONDS, environment

pytest.importorskip("transformers")
PROGRAM = Path(__file__).with_name("transformers_ep.py")
RANKS = 4

LAYER = """model tiny {
    hidden 64
    experts 16
    gate(logits: f32[experts]) {
        let chosen = top(4, experts, by: logits)
        weights softmax(logits[chosen])
    }
    dispatch { payload f32   layout expert_major align 1 }
    combine  { payload f32   reduce f32 weighted }
}
cluster node {
    nodes 1   gpus 4 per node
    gpu "H800" { target sm_90a   sms 132   memory 80 GB }
    nvlink 160 GB/s
}
deploy tiny of tiny on node { ep 4   tokens 32 per gpu   sms 2 }
"""


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> moe.Bundle:
    path = tmp_path_factory.mktemp("transformers") / "layer.moe"
    path.write_text(LAYER)
    return moe.compile(path)


def run(layer: moe.Bundle, model: str, folder: Path, fault: str) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    command = [*torchrun, str(PROGRAM), layer.path, model, str(folder), fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    lines = sorted(re.findall(r"rank \d: .*", done.stdout))
    print("\n".join(lines))
    return [re.match(r"rank \d: (\w+)", line)[1] for line in lines]


@pytest.mark.parametrize("model", ["deepseek_v3", "qwen3_moe"])
def test_twenty_steps_are_those_of_one_process(layer: moe.Bundle, model: str, tmp_path: Path) -> None:
    assert run(layer, model, tmp_path, "none") == ["right"] * RANKS


@pytest.mark.parametrize("fault", ["router", "order"])
def test_a_planted_fault_is_caught(layer: moe.Bundle, fault: str, tmp_path: Path) -> None:
    assert run(layer, "qwen3_moe", tmp_path, fault) == ["wrong"] * RANKS
