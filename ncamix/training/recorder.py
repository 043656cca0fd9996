"""The recorder: what a stage's batches were, what they cost, and whether they were as planned.

    batch -> samples per source, digest, unmasked targets (summed over ranks) -> the loss's divisor
    losses, gradients -> a row of metrics.jsonl a batch; its times -> a row of speed.jsonl
    evaluations -> evaluations.jsonl, a row a source; induction -> a row of induction.jsonl

Rows of a batch that a killed run trained on after its last checkpoint are cut when it resumes, so
every batch stands once. Realised counts travel in the checkpoint and are held against the plan.
Losses are nats per token, norms are of the global batch's gradient before clipping.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from ncamix.errors import fail
from ncamix.evidence import METRICS, Observation, Until, has_ended
from ncamix.files import write_whole
from ncamix.keys import derive_key
from ncamix.mixture import weights_as_floats
from ncamix.plan import Plan, PlannedStage
from ncamix.quantities import counted
from ncamix.run_folder import DIVERGED, RunFolder, cut_rows
from ncamix.sources import NcaSource
from ncamix.sources.base import MASKED
from ncamix.training.averaging import Averages
from ncamix.training.evaluation import evaluate
from ncamix.training.frames import next_frame_accuracy
from ncamix.training.gradients import Gradients, norms_of
from ncamix.training.induction import induction_score, repeated
from ncamix.training.model import CurriculumModel
from ncamix.training.optimizers import set_rate
from ncamix.training.progress import RunProgress
from ncamix.training.speed import Stopwatch, flops_per_token, peak_flops
from ncamix.training.stopping import Stopped, StopSignal
from ncamix.training.texts import Texts

BATCHES = ("metrics.jsonl", "speed.jsonl")  # a row a batch
EVALUATIONS = ("evaluations.jsonl", "induction.jsonl")  # rows an evaluation


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
        self.planned = np.zeros(len(stage.sources), np.int64)  # samples up to the last batch
        self.loss_tokens = [0] * len(stage.sources)  # unmasked targets
        self.gradients = Gradients(model, float(clip) if (clip := stage.optimizer.clip) else None)
        self.stopwatch = _stopwatch(plan, stage, model)
        self.alphabets = _alphabets(plan, stage)
        self.ranges = plan.active_ranges(stage)  # of ids that the stage is trained on
        self.probe = repeated(self.ranges, stage.sequence_length, plan.seeds.init)
        self.seen: list[Observation] = []  # evaluations of this stage, for what it waits for
        self.owed = False  # the evaluation after the last batch, broken off by a signal
        self.induction: dict[str, Any] | None = None  # of the last evaluation
        self.ended: int | None = None  # batches after which evidence ended the stage
        self.evaluate_after = set(stage.evaluations)
        self._metrics: TextIO | None = None
        self._speed: TextIO | None = None

    def state_dict(self) -> dict[str, Any]:
        seen = [vars(observation) for observation in self.seen]
        names = self.stage.sources  # an edit of the future may add to them
        return {
            "realised": dict(zip(names, self.realised, strict=True)),
            "loss_tokens": dict(zip(names, self.loss_tokens, strict=True)),
            "seconds": self.stopwatch.seconds,
            "waited": self.stopwatch.waited,
            "seen": seen,
            "owed": self.owed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.realised, self.loss_tokens = (
            [int(state[key].get(name, 0)) for name in self.stage.sources]
            for key in ("realised", "loss_tokens")
        )
        self.stopwatch.seconds = float(state["seconds"])
        self.stopwatch.waited = float(state.get("waited", 0.0))  # not in older checkpoints
        self.seen = [Observation(**observation) for observation in state["seen"]]
        self.owed = bool(state.get("owed", False))

    def fit_start(self, state: State, logger: Logger) -> None:
        batch = state.timestamp.batch.value
        self.planned = self.stage.apportionment.counts[:batch].sum(axis=0, dtype=np.int64)
        if dist.get_global_rank() == 0:
            cut_to(self.plan, self.folder, self.stage.index, batch, self.owed)
            self._metrics = self.folder.file("metrics.jsonl").open("a")
            self._speed = self.folder.file("speed.jsonl").open("a")
        dist.barrier()
        if batch == 0:
            self._write(self._evaluate(state, "start", self._look))
        elif self.owed:
            self._write(self._evaluate(state, "every", self._look))
            self.owed = False

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self.stopwatch.asked()

    def after_dataloader(self, state: State, logger: Logger) -> None:
        self.stopwatch.received()

    def batch_start(self, state: State, logger: Logger) -> None:
        batch: dict[str, torch.Tensor] = state.batch
        num_sources = len(self.stage.sources)
        counts = torch.bincount(batch["source"], minlength=num_sources)
        targets = (batch["labels"] != MASKED).sum()
        summed = torch.cat([counts, targets.view(1), batch["digest"].sum().view(1)])
        if dist.get_world_size() > 1:  # on the device, since NCCL knows no other
            summed = summed.to(self._device())
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
        # For dropout: what else draws from torch's generator depends on where a run resumed.
        place = (self.stage.name, state.timestamp.batch.value, dist.get_global_rank())
        key = derive_key("dropout", self.plan.seeds.init, *place)
        # Not `torch.manual_seed`: without a GPU in use, it keeps a note of every call for later.
        torch.default_generator.manual_seed(key)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(key)

    def before_forward(self, state: State, logger: Logger) -> None:
        # Composer weighs a microbatch by its share of the rank's samples and averages over ranks.
        share = len(state.batch["source"]) / self._rank_samples
        self.model.loss_scale = dist.get_world_size() / (max(1, self._targets) * share)

    def after_train_batch(self, state: State, logger: Logger) -> None:
        self.gradients.measure()

    def batch_end(self, state: State, logger: Logger) -> None:
        done = state.timestamp.batch.value
        sums = torch.cat([self.model.source_loss_sums, self.model.source_loss_counts.double()])
        dist.all_reduce(sums)
        num_sources, squares = len(self.stage.sources), self.gradients.squares
        # One transfer from the device for all that a row says.
        found = torch.cat([sums, squares]).tolist()
        totals, counts = found[:num_sources], found[num_sources : 2 * num_sources]
        norms = norms_of(found[2 * num_sources :])
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
        for alphabet, members in self.alphabets.items():
            if trained := sum(counts[i] for i in members):
                row[f"loss_alphabet/{alphabet}"] = sum(totals[i] for i in members) / trained
        for group, norm in zip(self.gradients.groups, norms, strict=True):
            row[f"grad_norm/{group}"] = norm
        for name, samples in zip(stage.sources, self.realised, strict=True):
            row[f"count/{name}"] = samples
        for name, tokens_with_loss in zip(stage.sources, self.loss_tokens, strict=True):
            row[f"loss_tokens/{name}"] = tokens_with_loss
        row |= {"lr": self._rate, "digest": self._digest}
        if loss is not None and not math.isfinite(loss):
            what = f"the loss is not finite in batch {done - 1:,} of stage '{stage.name}'"
            if dist.get_global_rank() == 0:
                facts = {"fingerprint": self.plan.fingerprint, "what": what, "tokens": tokens}
                write_whole(self.folder.file(DIVERGED), json.dumps(facts, indent=1).encode())
            raise fail(
                what,
                "lower the learning rate, raise the warm-up, or use fp32 or bf16",
            )
        times = {k: row[k] for k in ("stage", "batch", "tokens")}
        times |= self.stopwatch.trained(stage.batch_size * stage.sequence_length)
        for file, written in ((self._metrics, row), (self._speed, times)):
            if file is not None:
                file.write(json.dumps(written) + "\n")
                file.flush()
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
        """Planned equals realised, wherever there may be a checkpoint."""
        done = state.timestamp.batch.value
        self.planned += self.stage.apportionment.counts[done - 1]
        if self.planned.tolist() != self.realised:
            raise RuntimeError(
                f"stage '{self.stage.name}' after {done} batches: planned {self.planned.tolist()} "
                f"samples of {self.stage.sources}, realised {self.realised}"
            )

    def settle(self) -> None:
        """Have all that is recorded on the disk, so that no checkpoint outlives its rows."""
        for name in (*BATCHES, *EVALUATIONS):
            with suppress(FileNotFoundError), self.folder.file(name).open("rb") as file:
                os.fsync(file.fileno())

    def fit_end(self, state: State, logger: Logger) -> None:
        self.close(state, logger)

    def close(self, state: State, logger: Logger) -> None:
        for file in (self._metrics, self._speed):
            if file is not None:
                file.close()
        self._metrics = self._speed = None

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
            facts = {
                "realised": realised,
                "loss_tokens": loss_tokens,
                "seconds": self.stopwatch.seconds,
                "data_wait": self.stopwatch.waited,
            }
            write_whole(folder / "stage.json", json.dumps(facts).encode())

    def _evaluate(
        self, state: State, when: str, look: Callable[[], None] = lambda: None
    ) -> list[dict[str, Any]]:
        """Evaluate every held-out set: a row each, the same on every rank. look: as `evaluate`
        takes it."""
        self.progress.pause(stage=self.stage.name, doing="evaluating")
        self.stopwatch.pause()
        stage, done, device = self.stage, state.timestamp.batch.value, self._device()
        tokens = stage.first_token + done * stage.batch_size * stage.sequence_length
        at = {"stage": stage.name, "batch": done, "tokens": tokens, "when": when}
        rows = []
        for held in self.sets:
            every_row = when != "every"
            result = evaluate(self.model, held, self.plan.vocabulary.rows, every_row, device, look)
            rows.append({**at, **result, **next_frame_accuracy(self.model, held, device)})
        values = {
            f"{metric}/{row['source']}": row[metric]
            for row in rows
            for metric in METRICS
            if row[metric] is not None
        }
        self.seen.append(Observation(tokens, values))
        self.induction = None
        if self.probe is not None:
            score = induction_score(self.model, self.probe, self.ranges, device)
            self.induction = {**at, **score}
        self.progress.pause()
        return rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        induction = [self.induction] if self.induction is not None else []
        for name, found in ((EVALUATIONS[0], rows), (EVALUATIONS[1], induction)):
            if found and dist.get_global_rank() == 0:
                with self.folder.file(name).open("a") as file:
                    file.write("".join(json.dumps(row) + "\n" for row in found))


def _stopwatch(plan: Plan, stage: PlannedStage, model: CurriculumModel) -> Stopwatch:
    """Times of a stage, with the peak of all devices where it is known for the stage's numbers."""
    peak = None
    if torch.cuda.is_available() and stage.precision in ("bf16", "fp16"):
        peak = peak_flops(torch.cuda.get_device_name())
    flops = flops_per_token(model.model, stage.sequence_length, len(model.active))
    return Stopwatch(flops, peak * dist.get_world_size() if peak is not None else None)


def _alphabets(plan: Plan, stage: PlannedStage) -> dict[int, list[int]]:
    """Places of a stage's automaton sources, by the number of cell states."""
    found: dict[int, list[int]] = {}
    for i, name in enumerate(stage.sources):
        spec = plan.dataset_of(name, stage).spec
        if isinstance(spec, NcaSource):
            found.setdefault(spec.alphabet, []).append(i)
    return dict(sorted(found.items()))


def cut_to(plan: Plan, folder: RunFolder, stage: int, batch: int, owed: bool = False) -> None:
    """Cut what was recorded back to `batch` batches of a stage. owed: the evaluation behind them is
    still to come."""
    index = {s.name: s.index for s in plan.stages}

    def before(row: dict[str, Any], limit: int) -> bool:
        at = index.get(row["stage"], len(index))
        return at < stage or (at == stage and row["batch"] < limit)

    for name in BATCHES:
        cut_rows(folder.file(name), lambda row: before(row, batch))
    limit = batch + 1 if batch and not owed else batch
    # evaluations count the batches behind them, so those after `batch` batches stay
    for name in EVALUATIONS:
        cut_rows(folder.file(name), lambda row: before(row, limit))
