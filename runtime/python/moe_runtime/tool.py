"""The compiler as a function, where the tool ``moec`` is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from os import PathLike, fspath
from pathlib import Path

from .bundle import Bundle
from .errors import Error


class CompileError(Error):
    """The compiler refused a file; the message has its diagnostics."""


def compile(  # noqa: A001
    path: str | PathLike[str],
    *,
    deploy: str | None = None,
    output: str | PathLike[str] | None = None,
    moec: str | None = None,
) -> Bundle:
    """Compiles a ``.moe`` file with ``moec build`` and reads the bundle.

    ``deploy``: which deploy of the file, if it has several. ``output``: where the bundle goes, by default beside the file. ``moec``: the
    tool, by default ``$MOEC`` or the one on ``PATH``.
    """
    tool = moec or os.environ.get("MOEC") or shutil.which("moec")
    if tool is None:
        raise CompileError("the compiler `moec` is not on PATH: install it (`make install`), or name it: moec=…", "no_compiler")
    bundle = fspath(output) if output is not None else str(Path(path).with_suffix(".moeb"))
    command = [tool, "build", fspath(path), "--output", bundle, "--color", "never"]
    if deploy is not None:
        command += ["--deploy", deploy]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as problem:
        raise CompileError(f"`{tool}` cannot be started: {problem}", "no_compiler", {"moec": tool}) from problem
    if done.returncode != 0:
        raise CompileError(done.stderr.strip() or done.stdout.strip(), "compile", {"path": fspath(path), "status": done.returncode})
    return Bundle(bundle)
