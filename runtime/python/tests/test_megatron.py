"""Megatron-Core's flex dispatcher, its own code, in several processes on virtual GPUs, against a dense computation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from test_processes import SECONDS, environment

PROGRAM = Path(__file__).with_name("megatron_flex.py")
RIGHT = ["plain", "other sizes", "a rank without tokens", "dropped picks"]
WRONG = ["spoiled weights", "spoiled handle", "spoiled order"]
RANKS = 4


def test_megatron_s_dispatcher_is_the_dense_layer_and_a_planted_fault_is_noticed() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}", str(PROGRAM)]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    said = re.findall(r"rank \d: ([^:]+): (\w+):", done.stdout)
    verdicts = {case: [verdict for of, verdict in said if of == case] for case, _ in said}
    assert verdicts == {**dict.fromkeys(RIGHT, ["right"] * RANKS), **dict.fromkeys(WRONG, ["wrong"] * RANKS)}
