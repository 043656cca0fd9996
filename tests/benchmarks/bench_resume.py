"""Time to resume, at batch 10,000 and at batch 10 of the same stage, in turns, as a ratio.

    python tests/benchmarks/bench_resume.py [ROUNDS]

Timed is all that a run does in its folder from where torch is loaded to the first new batch: rows
cut, checkpoint loaded, order and data taken up. Trained are ten batches: the state after 10,000 is
that state with the numbers it would have, beside as many rows. What resuming costs more when more
batches are behind it, the sum of their planned counts, is timed beside it, at a million.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from timing import headline, seconds, write_results

ROUNDS = 7
EARLY, LATE, NUM_BATCHES = 10, 10_000, 20_000
CURRICULUM = f"""\
ncamix: 1
name: resume
tokenizer: bytes
sources:
  rich: {{kind: nca, alphabet: 4, grid: 6, band: {{gzip: [0, 1]}}}}
  static: {{kind: noise, distribution: zipf, symbols: 50}}
stages:
  - {{name: one, duration: {NUM_BATCHES}ba, mixture: {{0%: {{rich: 1}}, 100%: {{static: 1}}}}}}
"""
TRAINER = f"""\
ncamix: 1
name: small
model: {{layers: 1, heads: 2, width: 16, tie_embeddings: true}}
sequence_length: 32
batch_size: 4
budget: {NUM_BATCHES * 4 * 32}tok
optimizer: {{lr: 1e-3}}
checkpoint: {{every: {EARLY}ba, keep: 1}}
"""


def main(rounds: int) -> None:
    from rich.console import Console

    from ncamix.loading import load_curriculum
    from ncamix.planning import make_plan
    from ncamix.run_folder import RunFolder
    from ncamix.trainer import load_trainer
    from ncamix.training.progress import RunProgress
    from ncamix.training.ranks import set_up_ranks
    from ncamix.training.stages import train
    from ncamix.training.stopping import Stopped, StopSignal
    from ncamix.training.texts import Texts

    print(headline("resume", f"medians of {rounds} rounds"))
    set_up_ranks("cpu")

    class Until(RunProgress):
        """Asks the run to stop after some batches."""

        left: int
        stop: StopSignal

        def update(self, *told: Any) -> None:
            self.left -= 1
            if not self.left:
                self.stop.received = 15

    with tempfile.TemporaryDirectory() as home:
        work = Path(home)
        (work / "resume.yaml").write_text(CURRICULUM)
        (work / "small.yaml").write_text(TRAINER)
        plan = make_plan(load_curriculum(work / "resume.yaml"), load_trainer(work / "small.yaml"))
        silent = Console(file=io.StringIO())

        def go_on(path: Path, batches: int) -> None:
            folder, stop = RunFolder(path), StopSignal()
            with folder.hold(), Until(plan.num_tokens, silent, False) as progress:
                progress.left, progress.stop = batches, stop
                texts = Texts(plan, None, None, stop, lambda exact: None)
                try:
                    train(plan, folder, None, texts, "cpu", progress, stop)
                except Stopped:
                    return
                raise AssertionError("it trained to its end")

        early, late = work / "early", work / "late"
        go_on(early, EARLY)
        shutil.copytree(early, late)
        advance(late, plan)
        taken: dict[Path, list[float]] = {early: [], late: []}
        for turn in range(rounds + 1):  # the first compiles, and is not counted
            for begun in sorted(taken, reverse=bool(turn % 2)):
                copied = work / "copy"
                shutil.copytree(begun, copied)
                taken[begun].append(seconds(lambda copied=copied: go_on(copied, 1)))
                rows = (copied / "metrics.jsonl").read_text().splitlines()
                assert len(rows) == (EARLY if begun == early else LATE) + 1
                assert json.loads(rows[-1])["batch"] == len(rows) - 1
                shutil.rmtree(copied)
    first, last = (median(times[1:]) for times in taken.values())
    ratios = sorted(b / a for a, b in zip(*(times[1:] for times in taken.values()), strict=True))
    print(
        f"  batch {EARLY}: {first:.2f} s; batch {LATE:,}: {last:.2f} s; {median(ratios):.3f} of it "
        f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
    )
    counts = np.ones((1_000_000, 5), np.int16)
    held = median(seconds(lambda: counts.sum(axis=0)) for _ in range(rounds))
    print(f"  counts of a million batches, summed on resuming: {held * 1e3:.1f} ms")
    results = {"early": first, "late": last, "ratios": ratios, "million_counts": held}
    write_results("resume", {"seconds to resume": results})


def advance(run: Path, plan: Any) -> None:
    """Make of a run's state after EARLY batches the one that it would have after LATE."""
    import torch

    from ncamix.training.state_files import write_file

    (stage,) = plan.stages
    home = run / "checkpoints" / "0-one"
    state = torch.load(home / f"ba{EARLY:06}.pt", weights_only=True)
    state["clock"] = {unit: count * (LATE // EARLY) for unit, count in state["clock"].items()}
    totals = stage.apportionment.counts[:LATE].sum(axis=0).tolist()
    state["callbacks"]["Recorder"]["realised"] = dict(zip(stage.sources, totals, strict=True))
    write_file(home / f"ba{LATE:06}.pt", state)
    (home / f"ba{EARLY:06}.pt").unlink()
    for name in ("metrics.jsonl", "speed.jsonl"):
        row = json.loads((run / name).read_text().splitlines()[-1])
        rows = (json.dumps({**row, "batch": batch}) + "\n" for batch in range(LATE))
        (run / name).write_text("".join(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)
