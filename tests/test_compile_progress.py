"""What `ncamix compile` shows: a line now and then, or a bar, of tokens, speed and time left."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ncamix.compilation import progress as compile_progress
from ncamix.compilation.progress import CompileProgress
from ncamix.plan import Plan
from ncamix.shards import read_index


@pytest.mark.parametrize("terminal", [True, False])
def test_speed_is_of_what_is_new(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    now = 100.0
    monkeypatch.setattr(compile_progress.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    with CompileProgress(console) as progress:
        progress.begin(4_000_000)
        progress.wrote("old", 10, 2_000_000, kept=True)
        now = 110.0
        progress.wrote("new", 5, 500_000, kept=False)
    said = console.file.getvalue()
    assert "new" in said and "2.5M/4M tokens  50k tokens/s  0:30 left" in said


CURRICULUM = """\
sources: {static: {kind: noise, symbols: 50}}
stages:
  - {name: one, duration: 100%, mixture: {static: 1}, until: {loss/static: {below: 0.1}}}
evaluate: {every: 50%, sources: [static]}
"""


def test_the_command_takes_its_options(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan_of(CURRICULUM)
    command = [sys.executable, "-m", "ncamix", "compile", "c.yaml", "-t", "small.yaml", "-o", "out"]

    def ncamix(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=100
        )

    ended = ncamix("--zstd", "0", "--threads", "1", "--bake")
    assert ended.returncode == 0, ended.stderr
    assert "'one' may end on evidence: it is baked at its full length" in ended.stdout
    assert ended.stdout.endswith("wrote out/plan.json and 1 baked stage\n")
    assert read_index(tmp_path / "out" / "0-one")[0]["zip_data"] is None
    again = ncamix("--zstd", "0", "--bake")
    assert again.stdout.endswith("out held all of it already: plan.json and 1 baked stage\n")
    shard = tmp_path / "out" / "0-one" / "shard.00000.mds"
    shard.write_bytes(shard.read_bytes()[:-1])
    mended = ncamix("--zstd", "0", "--bake")
    assert mended.stdout.endswith(
        "0-one: 1 shard was damaged or gone, and made again\n"
        "wrote out/plan.json and 1 baked stage\n"
    )
    for level in ("23", "-1"):
        refused = ncamix("--zstd", level)
        assert refused.returncode == 2 and "its levels are 1 to 22" in refused.stderr
    nowhere = ncamix("--out", "")
    assert nowhere.returncode == 2 and "--out names no place" in nowhere.stderr
    assert ncamix("--threads", "0").returncode == 2
    (tmp_path / "out" / ".data.lock").unlink()
    assert ncamix("--zstd", "0", "--bake").returncode == 0  # by its plan.json
    (tmp_path / "out" / ".data.lock").unlink()
    (tmp_path / "out" / "plan.json").unlink()
    refused = ncamix()
    assert refused.returncode == 2 and "holds other things" in refused.stderr
