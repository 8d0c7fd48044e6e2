"""Virtual GPUs for the processes of one job: ``python -m moe_runtime.serve NAME``, which the first of them starts."""

from __future__ import annotations

import sys

from ._native import serve

PATIENCE = 120.0
"""Seconds that nobody may come for."""


def main() -> None:
    """Serves until the processes of the job have ended."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m moe_runtime.serve NAME")
    serve(sys.argv[1], PATIENCE)


if __name__ == "__main__":
    main()
