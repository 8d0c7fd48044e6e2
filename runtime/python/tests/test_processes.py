"""One rank in each process, as torchrun starts them: the gradients of the whole layer, and what is left when a process is killed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from conftest import RANKS

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


def mistaken(bundle, mistake: str, processes: int = RANKS, **told: str) -> str:
    """What the processes say in which something is wrong."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*torchrun, str(PROGRAM.with_name("mistakes.py")), bundle("weighted").path, mistake]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env={**environment(), **told})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def said(output: str) -> list[str]:
    """What each process says of its error; the same of all."""
    errors = re.findall(r"process \d: (.*)", output)
    assert len(set(errors)) == 1, output
    return errors


def right(output: str) -> list[str]:
    return sorted(re.findall(r"rank (\d): right", output))


def test_a_pick_that_is_no_expert_is_the_same_error_in_all_processes_and_all_recover(bundle) -> None:
    output = mistaken(bundle, "input")
    assert said(output) == ["InputError: rank 1, token 1: pick 2 is 1000, which is not an expert"] * RANKS
    assert right(output) == [str(rank) for rank in range(RANKS)]


def test_another_call_in_one_process_is_the_same_error_in_all_processes_and_all_recover(bundle) -> None:
    output = mistaken(bundle, "call")
    errors = said(output)
    assert len(errors) == RANKS, output
    assert errors[0].startswith("DeadlineError: rank 0, dispatch.arrive, waits for rank 1: has "), output
    assert right(output) == [str(rank) for rank in range(RANKS)]


def test_another_version_of_the_package_is_named_by_all_processes(bundle) -> None:
    errors = said(mistaken(bundle, "version"))
    assert len(errors) == RANKS
    assert errors[0].endswith("and that of rank 1 is 0.0.9"), errors


def test_two_processes_have_two_ranks_each(bundle) -> None:
    assert right(mistaken(bundle, "two", processes=2)) == [str(rank) for rank in range(RANKS)]


def test_a_world_of_another_size_than_the_bundle_is_refused_before_anything_starts(bundle) -> None:
    errors = said(mistaken(bundle, "size", processes=2))
    assert len(errors) == 2
    assert errors[0].startswith(f"InvalidArgument: group: it has 2 processes, and the bundle is for {RANKS} ranks"), errors


def test_a_node_that_moec_serves_takes_the_jobs_that_name_it(bundle) -> None:
    name = f"served-{os.getpid()}"
    node = subprocess.Popen([os.environ["MOEC"], "serve", "--name", name], stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        assert name in node.stdout.readline()
        for _ in range(2):
            assert right(mistaken(bundle, "none", MOE_NODE=name)) == [str(rank) for rank in range(RANKS)]
            assert node.poll() is None
    finally:
        node.kill()
        node.wait()


def test_tensors_of_processes_lie_in_memory_of_the_node_until_nobody_has_them_or_their_process_is_killed(bundle) -> None:
    name = f"memory-{os.getpid()}"
    node = subprocess.Popen([os.environ["MOEC"], "serve", "--name", name], stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        assert name in node.stdout.readline()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS), "MOE_NODE": name, "NODE": str(node.pid)}
        command = [sys.executable, str(PROGRAM.with_name("memory.py")), bundle("weighted").path]
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
        output = "".join(process.communicate(timeout=SECONDS)[0] for process in processes)
        assert right(output) == [str(rank) for rank in range(RANKS)], output
        assert "node has it: True\n" in output and "node still has it: False\n" in output, output
    finally:
        node.kill()
        node.wait()
