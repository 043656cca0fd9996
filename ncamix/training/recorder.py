"""The recorder: what a stage's batches were, what they cost, and whether they were as planned.

    batch -> samples per source, digest, unmasked targets (summed over ranks) -> the loss's divisor
    losses -> one row of metrics.jsonl a batch; evaluations -> evaluations.jsonl

Rows of a batch that a killed run trained on after its last checkpoint are cut when it resumes, so
every batch stands once. Realised counts travel in the checkpoint and are held against the plan.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, TextIO

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from ncamix.errors import fail
from ncamix.evidence import METRICS, Observation, Until, has_ended
from ncamix.files import write_whole
from ncamix.mixture import weights_as_floats
from ncamix.plan import Plan, PlannedStage
from ncamix.quantities import counted
from ncamix.run_folder import RunFolder, cut_rows
from ncamix.sources.base import MASKED
from ncamix.training.averaging import Averages
from ncamix.training.evaluation import evaluate
from ncamix.training.model import CurriculumModel
from ncamix.training.optimizers import set_rate
from ncamix.training.progress import RunProgress
from ncamix.training.stopping import Stopped, StopSignal
from ncamix.training.texts import Texts


class Recorder(Callback):
    """Counts, losses, digests and evaluations of one stage."""

    def __init__(
        self,
        plan: Plan,
        stage: PlannedStage,
        folder: RunFolder,
        model: CurriculumModel,
        texts: Texts,
        progress: RunProgress,
        stop: StopSignal,
        averages: Averages | None = None,
    ) -> None:
        self.averages = averages
        self.plan, self.stage, self.folder, self.model = plan, stage, folder, model
        self.texts, self.progress, self.stop = texts, progress, stop
        self.sets = texts.sets(plan, stage)
        self.realised = [0] * len(stage.sources)  # samples
        self.loss_tokens = [0] * len(stage.sources)  # unmasked targets
        self.seconds = 0.0
        self.seen: list[Observation] = []  # evaluations of this stage, for what it waits for
        self.owed = False  # the evaluation after the last batch, broken off by a signal
        self.ended: int | None = None  # batches after which evidence ended the stage
        self.evaluate_after = set(stage.evaluations)
        self._metrics: TextIO | None = None
        self._began = 0.0

    def state_dict(self) -> dict[str, Any]:
        seen = [vars(observation) for observation in self.seen]
        names = self.stage.sources  # an edit of the future may add to them
        return {
            "realised": dict(zip(names, self.realised, strict=True)),
            "loss_tokens": dict(zip(names, self.loss_tokens, strict=True)),
            "seconds": self.seconds,
            "seen": seen,
            "owed": self.owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.realised, self.loss_tokens = (
            [int(state[key].get(name, 0)) for name in self.stage.sources]
            for key in ("realised", "loss_tokens")
        )
        self.seconds = float(state["seconds"])
        self.seen = [Observation(**observation) for observation in state["seen"]]
        self.owed = bool(state.get("owed", False))

    def fit_start(self, state: State, logger: Logger) -> None:
        batch = state.timestamp.batch.value
        if dist.get_global_rank() == 0:
            cut_to(self.plan, self.folder, self.stage.index, batch, self.owed)
            self._metrics = self.folder.file("metrics.jsonl").open("a")
        dist.barrier()
        if batch == 0:
            self._write(self._evaluate(state, "start", self._look))
        elif self.owed:
            self._write(self._evaluate(state, "every", self._look))
            self.owed = False

    def batch_start(self, state: State, logger: Logger) -> None:
        if not self._began:  # the first batch after a pause; later ones count their wait for data
            self._began = time.monotonic()
        batch: dict[str, torch.Tensor] = state.batch
        num_sources = len(self.stage.sources)
        counts = torch.bincount(batch["source"], minlength=num_sources)
        targets = (batch["labels"] != MASKED).sum()
        summed = torch.cat([counts, targets.view(1), batch["digest"].sum().view(1)])
        dist.all_reduce(summed)
        *found, self._targets, digest = summed.tolist()
        self._digest = digest % (1 << 64)
        self._rank_samples = len(batch["source"])
        # Set here and not by a Composer scheduler, which lags one batch behind its timestamp.
        self._rate = self.stage.rate.at(state.timestamp.batch.value)
        set_rate(state.optimizers[0], self._rate)
        for i, count in enumerate(found):
            self.realised[i] += count

    def before_train_batch(self, state: State, logger: Logger) -> None:
        # Here, since Composer tries a batch again in smaller parts that does not fit into memory.
        self.model.reset_sums(len(self.stage.sources))

    def before_forward(self, state: State, logger: Logger) -> None:
        # Composer weighs a microbatch by its share of the rank's samples and averages over ranks.
        share = len(state.batch["source"]) / self._rank_samples
        self.model.loss_scale = dist.get_world_size() / (max(1, self._targets) * share)

    def batch_end(self, state: State, logger: Logger) -> None:
        done = state.timestamp.batch.value
        sums = torch.stack([self.model.source_loss_sums, self.model.source_loss_counts.double()])
        dist.all_reduce(sums)
        totals, counts = sums.tolist()
        loss = sum(totals) / sum(counts) if any(counts) else None  # all of it may be masked
        stage = self.stage
        tokens = stage.first_token + done * stage.batch_size * stage.sequence_length
        row: dict[str, Any] = {
            "stage": stage.name,
            "batch": done - 1,
            "tokens": tokens,
            "loss": loss,
        }
        for i, (name, total, count) in enumerate(zip(stage.sources, totals, counts, strict=True)):
            self.loss_tokens[i] += int(count)
            if count:
                row[f"loss/{name}"] = total / count
        for name, samples in zip(stage.sources, self.realised, strict=True):
            row[f"count/{name}"] = samples
        for name, tokens_with_loss in zip(stage.sources, self.loss_tokens, strict=True):
            row[f"loss_tokens/{name}"] = tokens_with_loss
        row |= {"lr": self._rate, "digest": self._digest}
        if loss is not None and not math.isfinite(loss):
            raise fail(
                f"the loss is not finite in batch {done - 1:,} of stage '{stage.name}'",
                "lower the learning rate, raise the warm-up, or use fp32 or bf16",
            )
        if self._metrics is not None:
            self._metrics.write(json.dumps(row) + "\n")
            self._metrics.flush()
        now = time.monotonic()
        self.seconds, self._began = self.seconds + now - self._began, now
        failure, mixture = self.texts.failure(), weights_as_floats(stage.mixture, done - 1)
        self.progress.update(stage.name, tokens, mixture, loss, self.texts.note())
        self.stop.agree(self._device(), failure)
        if done == stage.num_batches:
            self._finish(state)
        elif done in self.evaluate_after:
            until = stage.spec.until
            if until is None:
                try:
                    self._write(self._evaluate(state, "every", self._look))
                except Stopped:  # raised again once the state is saved
                    self.owed = True
                return
            rows = self._evaluate(state, "every")
            if has_ended(until, self.seen):
                self._end(state, until)
            else:
                self._write(rows)

    def _look(self) -> None:
        """Break off what may be broken off, if a signal has come to any rank.

        Raises:
            Stopped: one has.
        """
        self.stop.agree(self._device(), None)
        stop = self.stop.wanted()
        if stop is not None:
            raise stop

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """Planned equals realised, at every checkpoint."""
        done = state.timestamp.batch.value
        planned = self.stage.apportionment.counts[:done].sum(axis=0).tolist()
        if planned != self.realised:
            raise RuntimeError(
                f"stage '{self.stage.name}' after {done} batches: planned {planned} samples of "
                f"{self.stage.sources}, realised {self.realised}"
            )

    def fit_end(self, state: State, logger: Logger) -> None:
        self.close(state, logger)

    def close(self, state: State, logger: Logger) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _end(self, state: State, until: Until) -> None:
        """End the stage on evidence: decided once, written down, and found again by a rerun."""
        self.ended, now = state.timestamp.batch.value, self.seen[-1]
        if dist.get_global_rank() == 0:
            values = {c.key: now.values[c.key] for c in until.conditions}
            self.folder.add_decision(self.stage.name, self.ended, now.tokens, values)
            self.progress.say(
                f"stage '{self.stage.name}' ends after {self.ended:,} of "
                f"{counted(self.stage.clock_batches, 'batch', 'batches')}: "
                + ", ".join(f"{key} is {value:.4g}" for key, value in values.items())
            )
        state.stop_training()
        self._finish(state)

    def _finish(self, state: State) -> None:
        """What must stand before the stage's last checkpoint says that it is done."""
        if self.averages is not None and self.averages.number:
            self._write(self._evaluate(state, "raw"))
            with self.averages.in_place():
                self._write(self._evaluate(state, "end"))
        else:
            self._write(self._evaluate(state, "end"))
        if dist.get_global_rank() == 0:
            folder = self.folder.checkpoints(self.stage.index, self.stage.name)
            folder.mkdir(parents=True, exist_ok=True)
            realised = dict(zip(self.stage.sources, self.realised, strict=True))
            loss_tokens = dict(zip(self.stage.sources, self.loss_tokens, strict=True))
            facts = {"realised": realised, "loss_tokens": loss_tokens, "seconds": self.seconds}
            write_whole(folder / "stage.json", json.dumps(facts).encode())

    def _evaluate(
        self, state: State, when: str, look: Callable[[], None] = lambda: None
    ) -> list[dict[str, Any]]:
        """Evaluate every held-out set: a row each, the same on every rank. look: as `evaluate`
        takes it."""
        self.progress.pause()
        self._began = 0.0
        stage, done = self.stage, state.timestamp.batch.value
        tokens = stage.first_token + done * stage.batch_size * stage.sequence_length
        rows = []
        for held in self.sets:
            result = evaluate(
                self.model,
                held,
                self.plan.vocabulary.rows,
                when != "every",
                self._device(),
                look,
            )
            rows.append(
                {"stage": stage.name, "batch": done, "tokens": tokens, "when": when, **result}
            )
        values = {
            f"{metric}/{row['source']}": row[metric]
            for row in rows
            for metric in METRICS
            if row[metric] is not None
        }
        self.seen.append(Observation(tokens, values))
        self.progress.pause()
        return rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if dist.get_global_rank() == 0:
            with self.folder.file("evaluations.jsonl").open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def cut_to(plan: Plan, folder: RunFolder, stage: int, batch: int, owed: bool = False) -> None:
    """Cut metrics and evaluations back to `batch` batches of a stage. owed: the evaluation behind
    them is still to come."""
    index = {s.name: s.index for s in plan.stages}

    def before(row: dict[str, Any], limit: int) -> bool:
        at = index.get(row["stage"], len(index))
        return at < stage or (at == stage and row["batch"] < limit)

    cut_rows(folder.file("metrics.jsonl"), lambda row: before(row, batch))
    limit = batch + 1 if batch and not owed else batch
    # evaluations count the batches behind them, so those after `batch` batches stay
    cut_rows(folder.file("evaluations.jsonl"), lambda row: before(row, limit))
