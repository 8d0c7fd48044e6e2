"""One rank in each process, as torchrun starts them: the gradients of the whole layer, and what is left when a process is killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import RANKS

pytest.importorskip("torch")
PROGRAM = Path(__file__).with_name("processes.py")
SECONDS = 240


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_layer_in_processes_of_torchrun_is_the_dense_layer(bundle) -> None:
    for layer in ("weighted", "experts weigh"):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        command = [*torchrun, str(PROGRAM), bundle(layer).path, "-1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment())
        assert done.returncode == 0, done.stderr[-3000:]
        assert sorted(re.findall(r"rank (\d): right", done.stdout)) == [str(rank) for rank in range(RANKS)]


def test_a_killed_process_is_named_by_all_others(bundle) -> None:
    killed = 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS)}
    command = [sys.executable, str(PROGRAM), bundle("weighted").path, str(killed)]
    processes = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment(), **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(RANKS)
    ]
    outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    for rank, output in enumerate(outputs):
        assert f"rank {rank}: right" in output, output
        if rank != killed:
            assert re.search(rf"rank {rank}: (DeadlineError|StoppedError) after True: .*rank {killed}", output), output
