"""Models of transformers, trained expert-parallel in several processes, against one process without expert parallelism."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import moe_runtime as moe
import pytest

from test_processes import SECONDS, environment

PROGRAM = Path(__file__).with_name("transformers_ep.py")
RANKS = 4

DISPATCH = {"f32": "f32", "bf16": "bf16", "fp8": "fp8_e4m3 scale ue8m0 per 32"}
COMBINE = {"f32": "f32", "bf16": "bf16", "fp8": "bf16"}


def text(payload: str) -> str:
    return f"""model tiny {{
    hidden 64
    experts 16
    gate(logits: f32[experts]) {{
        let chosen = top(4, experts, by: logits)
        weights softmax(logits[chosen])
    }}
    dispatch {{ payload {DISPATCH[payload]}   layout expert_major align 1 }}
    combine  {{ payload {COMBINE[payload]}   reduce f32 weighted }}
}}
cluster node {{
    nodes 1   gpus 4 per node
    gpu "H800" {{ target sm_90a   sms 132   memory 80 GB }}
    nvlink 160 GB/s
}}
deploy tiny of tiny on node {{ ep 4   tokens 32 per gpu   sms 2 }}
"""


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("transformers")
    for payload in DISPATCH:
        (folder / f"{payload}.moe").write_text(text(payload))
    return {payload: moe.compile(folder / f"{payload}.moe").path for payload in DISPATCH}


def run(layers: dict[str, str], model: str, folder: Path, cases: list[str]) -> dict[str, list[str]]:
    """The verdict of every rank for every case."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    bundles = [f"{case}={layers['bf16' if case == 'rounding' else case if case in layers else 'f32']}" for case in cases]
    command = [*torchrun, str(PROGRAM), model, str(folder), *bundles]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    return {case: re.findall(rf"rank \d {case}: (\w+)", done.stdout) for case in cases}


@pytest.mark.parametrize(
    ("model", "faults"),
    [("deepseek_v3", ["bias"]), ("qwen3_moe", ["router", "order", "weights", "expert_grad", "rounding"])],
)
def test_training_is_that_of_one_process_and_planted_faults_are_noticed(
    layers: dict[str, str], model: str, faults: list[str], tmp_path: Path
) -> None:
    found = run(layers, model, tmp_path, ["f32", "bf16", "fp8", *faults])
    expected = {case: ["right"] * RANKS for case in ("f32", "bf16", "fp8")}
    assert found == expected | {fault: ["wrong"] * RANKS for fault in faults}
