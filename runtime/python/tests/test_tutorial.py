"""The page that trains a small model, run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "train.md"
SECONDS = 240


def test_the_page_trains_and_other_numbers_of_ranks_continue(tmp_path: Path) -> None:
    page = PAGE.read_text()
    for name, content in re.findall(r"^```\w+ (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(content)
    commands = "".join(re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    tools = f"{Path(os.environ['MOEC']).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": tools, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = re.findall(r"(\d) ranks, \d+ steps: loss (\S+) -> (\S+)", done.stdout)
    print(runs)
    assert [ranks for ranks, _, _ in runs] == ["1", "4", "2"]
    losses = [(float(before), float(after)) for _, before, after in runs]
    # 32 tokens that are equally likely at the start; the toy language can be learnt.
    assert 3.0 < losses[0][0] < 4.5
    assert losses[2][1] < losses[1][1] < losses[0][1] < 0.1 * losses[0][0]
    for (_, after), (before, _) in zip(losses, losses[1:]):
        assert abs(before - after) <= 2e-4, "what was saved is what is loaded"
