"""`ncamix study` as it is typed: stopped and run again, two at once, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import output_of, started, wait_until
from typer.testing import CliRunner

from ncamix.cli import app
from ncamix.errors import UserError

BASE = """\
ncamix: 1
name: base
sources:
  hiss: {kind: noise, symbols: 50}
  hum: {kind: dyck, style: nested, symbols: 10, depth: 4}
stages:
  - {name: before, duration: 40ba, mixture: {hiss: 1}}
  - {name: main, duration: 760ba, mixture: {hum: 1}}
evaluate: {every: 400ba, sources: [hum], samples: 4}
"""
TRAINER = """\
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
batch_size: 4
budget: 102400tok
optimizer: {lr: 1e-2}
"""
STUDY = """\
ncamix: 1
name: tried
base: base.yaml
trainer: small.yaml
seeds: [1, 2]
variants: {up: {}, slow: {stages.main.optimizer.lr: 0.1x}}
compare: {primary: [up, slow], metric: loss/hum, smallest_effect: 0.05}
"""


@pytest.fixture
def folder(tmp_path: Path, own_cache: Path) -> Path:
    for name, text in (("base", BASE), ("small", TRAINER), ("study", STUDY)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def study(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ncamix", "study", "study.yaml", *arguments]
    return started(command, folder, {**os.environ, "COLUMNS": "200"})


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    """What a process said that ends with a status."""
    said = output_of(process, seconds=400)
    assert process.returncode == status, said
    assert "Traceback" not in said
    return said


def rows(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.is_file() else 0


def test_help_tells_what_to_install() -> None:
    said = CliRunner().invoke(app, ["study", "--help"], env={"COLUMNS": "200"}).output
    assert "pip install 'ncamix[ray]'" in said


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_unknown_place_is_refused_at_once(tmp_path: Path, dry: list[str]) -> None:
    missing = str(tmp_path / "none.yaml")
    end = CliRunner().invoke(app, ["study", missing, "--on", "spark", *dry])
    assert isinstance(end.exception, UserError) and "--on spark" in str(end.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(600)
def test_a_study_that_is_stopped_goes_on_where_it_was(folder: Path) -> None:
    dry = ended(study(folder, "--dry-run"))
    assert "4 runs, 410k tokens; 399k to train" in dry and "0 are over" in dry
    assert "on this machine" in dry and not (folder / "runs").exists()
    whole = study(folder, "--out", "whole", "--jobs", "2")
    assert "4 runs are over" in ended(whole)
    runs = ["up/1", "slow/1", "up/2", "slow/2"]

    first = study(folder, "--jobs", "2")
    wait_until(lambda: (folder / "runs/tried/logs/up-1.log").is_file(), first)
    said = ended(study(folder), 2)
    assert "another process trains this study" in said
    wait_until(lambda: rows(folder / "runs/tried/up/1") > 100, first)
    first.send_signal(signal.SIGTERM)
    said = ended(first, 143)
    assert "interrupted; run the same command again to resume" in said
    reached = rows(folder / "runs/tried/up/1")
    assert 100 < reached < 800

    again = study(folder, "--jobs", "1")
    said = ended(again)
    assert "4 runs are over" in said
    for run in runs:
        ours, theirs = (folder / f / run / "metrics.jsonl" for f in ("runs/tried", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), run
    log = (folder / "runs/tried/logs/up-1.log").read_text()
    assert "resuming the run" in log

    dry = ended(study(folder, "--dry-run"))
    assert "4 are over" in dry and "seeds" in dry
