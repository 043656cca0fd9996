"""Models that ranks share: the same training as on one rank, and checkpoints in parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import output_of, started, wait_until
from safetensors.torch import load_file

CURRICULUM = """
ncamix: 1
name: tiny
sources:
  static: {kind: noise, distribution: zipf, symbols: 50}
  flat: {kind: noise, distribution: uniform, symbols: 20}
stages:
  - {name: warm, duration: 12ba, mixture: {static: 1}}
  - {name: cold, duration: rest, mixture: {flat: 1, static: 1}, enter: {reinitialize: [head]}}
evaluate: {every: 10ba, sources: [static], samples: 8}
"""
TRAINER = """
ncamix: 1
name: small
model: {layers: 2, heads: 2, width: 16}
sequence_length: 32
batch_size: 8
budget: 6144tok
optimizer: {kind: adamw, lr: 1e-2, clip: 0.1, weight_decay: 0.1}
checkpoint: {every: 4ba, keep: 2}
"""
WARM, COLD = "checkpoints/0-warm", "checkpoints/1-cold"
FSDP = "parallelism=fsdp"


class Runs:
    """A folder with a curriculum and a trainer, and runs of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.yaml").write_text(CURRICULUM)
        (folder / "small.yaml").write_text(TRAINER)

    def start(self, out: str, ranks: int, *settings: str) -> subprocess.Popen[str]:
        command = [sys.executable]
        if ranks > 1:
            command = [str(Path(sys.executable).with_name("composer")), "-n", str(ranks)]
        command += ["-m", "ncamix", "run", "tiny.yaml", "-t", "small.yaml", "-o", out]
        for setting in settings:
            command += ["--set", f"trainer.{setting}"]
        return started(command, self.folder, {**os.environ, "OMP_NUM_THREADS": "1"})

    def run(self, out: str, ranks: int, *settings: str, status: int = 0) -> str:
        process = self.start(out, ranks, *settings)
        output = output_of(process)
        assert process.returncode == status, output
        assert "Traceback" not in output, output
        return output

    def kill(self, out: str, ranks: int, *settings: str, batches: int) -> None:
        """Start a run, and kill all of it once it has trained so many batches."""
        process, metrics = self.start(out, ranks, *settings), self.folder / out / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and len(self.rows(out)) >= batches, process)
        os.killpg(process.pid, signal.SIGKILL)
        output_of(process)

    def rows(self, out: str) -> list[dict[str, Any]]:
        lines = (self.folder / out / "metrics.jsonl").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def names(self, place: str) -> set[str]:
        """Checkpoints of a stage."""
        return {p.name for p in (self.folder / place).glob("ba*")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """With `whole`, an uninterrupted run on one rank."""
    found = Runs(tmp_path_factory.mktemp("runs"))
    found.run("whole", 1)
    return found


def same(runs: Runs, out: str) -> None:
    """The same batches as of `whole`, and losses and weights but for rounding."""
    ours, wanted = runs.rows(out), runs.rows("whole")
    assert [r["digest"] for r in ours] == [r["digest"] for r in wanted]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in wanted], abs=1e-5)
    for place in (WARM, COLD):
        files = [runs.folder / name / place / "weights.safetensors" for name in (out, "whole")]
        found, known = map(load_file, files)
        assert found.keys() == known.keys()
        for name, value in found.items():
            assert value.numpy() == pytest.approx(known[name].numpy(), abs=1e-3)


def test_a_run_goes_on_shared_and_whole_in_turns(runs: Runs) -> None:
    runs.kill("turns", 2, FSDP, batches=6)
    assert runs.names(f"turns/{WARM}") == {"ba000004"}
    runs.kill("turns", 1, batches=21)
    assert runs.names(f"turns/{WARM}") == {"ba000012.pt"}
    newest = runs.folder / f"turns/{COLD}/ba000008.pt"
    os.truncate(newest, 1000)
    output = runs.run("turns", 2, FSDP)
    assert "resuming" in output and "ba000008.pt is damaged" in "".join(output.split("\n"))
    assert runs.names(f"turns/{COLD}") == {"ba000012"}
    same(runs, "turns")


def test_one_rank_shares_with_itself_in_small_portions(runs: Runs) -> None:
    """FSDP on one rank, activations computed again, microbatches that do not divide the batch."""
    runs.run("alone", 1, FSDP, "activation_checkpointing=true", "microbatch=3")
    assert runs.names(f"alone/{COLD}") == {"ba000012.pt"}
    same(runs, "alone")
