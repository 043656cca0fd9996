"""What ncamix's training loop adds to a step of a bare PyTorch loop, and its wait for data.

Step by step in turns, within one process: after every batch that ncamix has trained on, a bare loop
trains a twin of the model on the same batch, which lies in memory: forward, backward, clipping, the
optimizer. ncamix's step is all the rest: data, records, checkpoints looked for, Composer's events.

python tests/benchmarks/bench_loop.py [BATCHES]
"""

from __future__ import annotations

import copy
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from composer import Trainer
from composer.core import Callback, State
from composer.loggers import Logger
from rich.console import Console
from timing import headline, write_results

from ncamix.library import find
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.run_folder import RunFolder
from ncamix.sources.base import MASKED
from ncamix.trainer import load_trainer
from ncamix.training import stages
from ncamix.training.optimizers import make_optimizer
from ncamix.training.progress import RunProgress
from ncamix.training.ranks import set_up_ranks
from ncamix.training.stopping import StopSignal
from ncamix.training.texts import Texts

WARM_UP = 20  # batches that do not count: shards are made, memory is asked for
CURRICULUM = """\
ncamix: 1
name: loop
tokenizer: bytes
sources:
  simple: {{kind: nca, alphabet: 10, band: {{gzip: [0.30, 0.40]}}}}
  rich: {{kind: nca, alphabet: 10, band: {{gzip: [0.50, 1.00]}}}}
stages: [{{name: one, duration: {batches}ba, mixture: {{simple: 1, rich: 1}}}}]
evaluate: {{every: {batches}ba, samples: 2}}
"""


class Twin(Callback):
    """Trains a copy of the model by a bare loop, between the batches of the run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps: list[tuple[float, float, float]] = []  # seconds: ncamix's, bare, data wait
        self._resumed = self._asked = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        self.model = copy.deepcopy(state.model)
        self.model.reset_sums(0)
        self.optimizer = make_optimizer(self.model, self.plan.stages[0])

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self._asked = time.perf_counter()
        self._resumed = self._resumed or self._asked

    def after_dataloader(self, state: State, logger: Logger) -> None:
        self._waited = time.perf_counter() - self._asked

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        # The last event of a batch; the batch is still there.
        ended = time.perf_counter()
        self._step(state.batch, state.timestamp.batch.value - 1)
        resumed = time.perf_counter()
        self.steps.append((ended - self._resumed, resumed - ended, self._waited))
        self._resumed = resumed

    def _step(self, batch: dict[str, torch.Tensor], done: int) -> None:
        self.model.train()
        rate = self.plan.stages[0].rate.at(done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        self.model.loss_scale = 1 / int((batch["labels"] != MASKED).sum())
        self.model(batch)["loss"].backward()
        clip = self.plan.stages[0].optimizer.clip
        if clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), float(clip))
        self.optimizer.step()


def measure(batches: int, workers: int) -> dict[str, Any]:
    set_up_ranks("cpu")
    silent = Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as home:
        work = Path(home)
        (work / "loop.yaml").write_text(CURRICULUM.format(batches=WARM_UP + batches))
        trainer = load_trainer(find("trainers", "cpu"), [f"trainer.workers={workers}"])
        plan = make_plan(load_curriculum(work / "loop.yaml"), trainer)
        twin, folder = Twin(plan), RunFolder(work / "run")

        class Watched(Trainer):
            def __init__(self, **options: Any) -> None:
                super().__init__(**{**options, "callbacks": [*options["callbacks"], twin]})

        stages.Trainer = Watched  # type: ignore[misc]
        try:
            with folder.hold(), RunProgress(plan.num_tokens, silent, False) as progress:
                stop = StopSignal()
                texts = Texts(plan, None, None, stop, lambda exact: None)
                stages.train(plan, folder, None, texts, "cpu", progress, stop)
        finally:
            stages.Trainer = Trainer  # type: ignore[misc]
        rows = folder.file("metrics.jsonl").read_text().splitlines()
        assert json.loads(rows[-1])["batch"] == WARM_UP + batches - 1
    steps = twin.steps[WARM_UP:]
    bare = median(step[1] for step in steps)
    added = median(step[0] - step[1] for step in steps)
    wait = median(step[2] for step in steps)
    wait_share = sum(step[2] for step in steps) / sum(step[0] for step in steps)
    print(
        f"  {workers} workers   bare {bare * 1e3:7.1f} ms a step; "
        f"ncamix adds {added * 1e3:+.2f} ms: {added / bare:+.2%} "
        f"(median of {len(steps)} paired differences); "
        f"waits for data {wait * 1e3:.2f} ms (median), {wait_share:.2%} of all its time"
    )
    return {"bare_seconds": bare, "added_seconds": added, "wait_seconds": wait, "wait": wait_share}


if __name__ == "__main__":
    batches = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(headline("training loop", "steps in turns"))
    write_results("loop", {f"workers_{n}": measure(batches, n) for n in (0, 1)})
