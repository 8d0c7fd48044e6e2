"""One process of a layer that torchrun started: `processes.py BUNDLE KILLED`. Compares with a dense layer of the whole world's tokens.

The process KILLED ends at once before the second layer; −1 is none.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import moe_runtime as moe
import torch
import torch.distributed as dist

from test_torch import dense, layer, matrices, numbers

COUNTS = (3, 0, 5, 1)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, killed = dist.get_rank(), int(sys.argv[2])
    comm = moe.Communicator(sys.argv[1], group=dist.group.WORLD, device="virtual", deadline=20.0)
    assert comm.ranks == range(rank, rank + 1)
    parts = [numbers(count, seed) for seed, count in enumerate(COUNTS)]
    x, indices, weights = (part.clone() for part in parts[rank])
    mine = matrices()[comm.plan.first_experts[rank] : comm.plan.last_experts[rank]].requires_grad_()
    layer(comm, x.requires_grad_(), indices, weights.requires_grad_(), mine).square().sum().backward()

    w = matrices().requires_grad_()
    leaves = [(part[0].clone().requires_grad_(), part[2].clone().requires_grad_()) for part in parts]
    outputs = [dense(of_x, part[1], of_w, w) for (of_x, of_w), part in zip(leaves, parts)]
    sum(output.square().sum() for output in outputs).backward()
    of_experts = w.grad[comm.plan.first_experts[rank] : comm.plan.last_experts[rank]]
    pairs = ((x.grad, leaves[rank][0].grad), (weights.grad, leaves[rank][1].grad), (mine.grad, of_experts))
    for found, of in pairs:
        torch.testing.assert_close(found, of.to(found.dtype), rtol=1e-4, atol=1e-4)
    print(f"rank {rank}: right", flush=True)
    dist.barrier()
    if killed < 0:
        return
    if rank == killed:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        layer(comm, x, indices, weights, mine)
    except moe.Error as error:
        print(f"rank {rank}: {type(error).__name__} after {time.monotonic() - start < 30}: {error}", flush=True)
    os._exit(0)


main()
