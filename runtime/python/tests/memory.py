"""One process of several on a node: `memory.py BUNDLE`. Holds what each copies against what it may, and says what the node has before and after
the last process is killed.

The node is one that somebody serves, whose process is in NODE.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import moe_runtime as moe
import torch
import torch.distributed as dist

from test_memory import mapped
from test_torch import dense, experts, matrices, numbers

COUNTS = (3, 0, 5, 1)
HELD = 32 << 20
"""Bytes of the process that is killed."""


def placed(comm: moe.Communicator, tensor: Any) -> Any:
    return comm.empty(tensor.shape, tensor.dtype).copy_(tensor)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, node = dist.get_rank(), os.environ["NODE"]
    comm = moe.Communicator(sys.argv[1], group=dist.group.WORLD, device="virtual", deadline=20.0)
    x, indices, weights = numbers(COUNTS[rank], rank)
    mine = matrices()[comm.plan.first_experts[rank] : comm.plan.last_experts[rank]]
    expected = dense(x, indices, weights, matrices())
    routing = moe.Routing(indices, weights)
    for place in (False, True):
        before = comm.copied()
        rows = comm.dispatch(placed(comm, x) if place else x, routing)
        y = experts(rows, mine)
        found = comm.combine(placed(comm, y) if place else y, rows)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
        copied = comm.copied() - before
        assert copied == (0 if place else x.nbytes + y.nbytes), copied
    # In place of the rows that came: they are the experts' input, and then their output.
    before = comm.copied()
    rows = comm.dispatch(placed(comm, x), routing)
    address = rows.x.data_ptr()
    torch.testing.assert_close(comm.combine(rows.x.mul_(2), rows), 2 * (x * weights.sum(1, keepdim=True)), rtol=1e-4, atol=1e-4)
    assert comm.copied() == before
    kept = rows.x
    del rows
    assert comm.dispatch(x, routing).x.data_ptr() != address, "a tensor that somebody has is not given again"
    del kept
    assert comm.dispatch(x, routing).x.data_ptr() == address, "one that nobody has is"
    # With gradients, and compiled.
    leaf = placed(comm, x).requires_grad_()
    torch.compile(lambda x: comm.combine(experts(rows := comm.dispatch(x, routing), mine), rows), backend="aot_eager")(leaf).sum().backward()
    other = x.clone().requires_grad_()
    dense(other, indices, weights, matrices()).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad.float(), rtol=1e-4, atol=1e-4)
    print(f"rank {rank}: right", flush=True)

    last = rank == dist.get_world_size() - 1
    if last:
        held = comm.empty((HELD,), torch.uint8).fill_(7)
    dist.barrier()
    if rank == 0:
        print(f"node has it: {HELD in mapped(node)}", flush=True)
    dist.barrier()
    if last:
        assert int(held[-1]) == 7
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0:
        start = time.monotonic()
        while HELD in mapped(node) and time.monotonic() - start < 20:
            time.sleep(0.01)
        print(f"node still has it: {HELD in mapped(node)}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
