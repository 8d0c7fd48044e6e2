"""One process of a world in which something is wrong: `mistakes.py BUNDLE MISTAKE`. Says each error, and what a layer gives after a recovery.

`input`: process 1 picks an expert that does not exist. `call`: process 1 makes another call than the others. `version`: process 1 has another
version of the package. `two`: nothing is wrong, and each process has two ranks. `size`: there are too few processes.
"""

from __future__ import annotations

import sys

import moe_runtime as moe
import torch
import torch.distributed as dist
from moe_runtime import group

from test_torch import dense, layer, matrices, numbers


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    process, processes, mistake = dist.get_rank(), dist.get_world_size(), sys.argv[2]
    each = 2 if mistake == "two" else 1
    mine = range(process * each, (process + 1) * each)
    if mistake == "version" and process == 1:
        known = group.gather

        def other_version(of: object, value: object) -> list[object]:
            own = moe.__version__.encode()
            return known(of, value.replace(own, b"0.0.9") if isinstance(value, bytes) else value)

        group.gather = other_version
    try:
        comm = moe.Communicator(
            sys.argv[1], group=dist.group.WORLD, ranks=mine if each > 1 else None, device="virtual", deadline=20.0
        )
    except moe.Error as error:
        print(f"process {process}: {type(error).__name__}: {error}\n", end="", flush=True)
        return
    parts = [numbers(count, seed) for seed, count in enumerate((3, 2, 5, 1))]
    local = [matrices()[comm.plan.first_experts[rank] : comm.plan.last_experts[rank]] for rank in mine]

    def run(wrong: bool = False) -> list[torch.Tensor]:
        x, indices, weights = ([parts[rank][what].clone() for rank in mine] for what in range(3))
        if wrong:
            indices[0][1, 0] = 1000
        if comm.single:
            return [layer(comm, x[0], indices[0], weights[0], local[0])]
        rows = comm.dispatch(x, moe.Routing(indices, weights))
        outputs = [torch.nn.functional.grouped_mm(*given, offs=offsets) for *given, offsets in zip(rows.x, local, rows.offsets)]
        return comm.combine(outputs, rows)

    if mistake in ("input", "call"):
        try:
            if mistake == "call" and process == 1:
                comm.barrier()
            else:
                run(wrong=process == 1)
        except moe.Error as error:
            print(f"process {process}: {type(error).__name__}: {error}\n", end="", flush=True)
        comm.world.recover()
    for rank, result in zip(mine, run()):
        expected = dense(parts[rank][0], parts[rank][1], parts[rank][2], matrices())
        torch.testing.assert_close(result, expected.to(result.dtype), rtol=1e-4, atol=1e-4)
        print(f"rank {rank}: right\n", end="", flush=True)
    dist.barrier()
    assert processes * each == comm.plan.ranks


main()
