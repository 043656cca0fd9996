"""Pace: how fast a plan would train on this machine, measured without its data or a folder.

    each kind of batch that a plan has -> its model, random ids -> a few real steps -> seconds
    each evaluated source -> random samples -> a real evaluation -> seconds

Forward and backward pass are measured on as many samples as keep the device busy for a moment, and
taken to need as much for each sample of a batch; the optimizer's step comes once a batch. Values of
weights and ids do not matter to the time. Waiting for data, checkpoints and hand-overs are not in
it. Models are measured whole, on one device, and not compiled.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from composer.utils import get_device

from ncamix.collation import Rows
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.training.evaluation import BATCH_TOKENS, EvaluationSet, evaluate
from ncamix.training.frames import NUM_ROLLOUTS, next_frame_accuracy
from ncamix.training.gradients import Gradients
from ncamix.training.induction import induction_score, repeated
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel, build_model
from ncamix.training.optimizers import make_optimizer, set_rate
from ncamix.training.parallelism import spread

EVALUATION = "(evaluation)"  # no stage has such a name
BUSY_SECONDS = 0.2  # that are worth measuring: more samples at once are not tried
TIMES = 3  # of which the median counts
DOCUMENT = 200  # ids of a document, where attention stays within them

Shape = tuple[Any, ...]


def measure_pace(plan: Plan, device: str, threads: int) -> dict[str, float]:
    """Seconds that a batch takes, by stage; and, under `EVALUATION`, those that evaluating all
    held-out samples once takes, about.

    device: 'cpu' or 'gpu', of which the first is used. threads: of PyTorch on the CPU. Global
    random state and the number of threads stay as they were.

    Raises:
        UserError: transformers has no such model. torch.OutOfMemoryError: not one sample fits.
    """
    pace: dict[str, float] = {}
    known: dict[Shape, float] = {}
    with _threads(threads), torch.random.fork_rng():
        for stage in plan.stages:
            shape = _shape(plan, stage)
            if shape not in known:
                known[shape] = _batch_seconds(plan, stage, device)
                gc.collect()  # one model at a time
            pace[stage.name] = known[shape]
        pace[EVALUATION] = _evaluation_seconds(plan, plan.stages[-1], device)
    return pace


def _shape(plan: Plan, stage: PlannedStage) -> Shape:
    """What the time of a batch depends on."""
    active = sum(last - first for first, last in _ranges(plan, stage))
    algorithm, packed = stage.optimizer.algorithm, _is_packed(plan, stage)
    sizes = stage.batch_size, stage.sequence_length, active
    return *sizes, stage.precision, algorithm, packed


def _batch_seconds(plan: Plan, stage: PlannedStage, device: str) -> float:
    """Seconds of one optimizer step of a stage."""
    trainer = plan.trainer.trainer
    model = _model(plan, stage, device).train()
    optimizer = make_optimizer(model, stage)
    set_rate(optimizer, stage.rate.at(0))
    clip = stage.optimizer.clip
    gradients = Gradients(model, float(clip) if clip else None)

    def passes(number: int) -> None:
        model(_batch(plan, stage, number, device))["loss"].backward()

    def step() -> None:
        gradients.measure()
        optimizer.step()

    most = min(stage.batch_size, trainer.microbatch or stage.batch_size)
    number, seconds = _busy(passes, most, device, TIMES)
    step()  # which makes the optimizer's state
    stepping = median(_seconds(step, device) for _ in range(TIMES))
    return seconds / number * stage.batch_size + stepping


def _evaluation_seconds(plan: Plan, stage: PlannedStage, device: str) -> float:
    """Seconds of one evaluation within a stage."""
    model = _model(plan, stage, device)
    at, rows = next(model.parameters()).device, plan.vocabulary.rows
    limit = plan.curriculum.curriculum.evaluate.samples
    known: dict[Shape, float] = {}
    total = 0.0
    for name in plan.evaluated(stage):
        source = plan.sources[name]
        shape = source.spec.range_name(), source.kind, source.loss_start
        if shape not in known:
            held = _held(source, min(limit, max(1, BATCH_TOKENS // source.sequence_length)))

            def losses(number: int, held: EvaluationSet = held) -> None:
                evaluate(model, _first(held, number), rows, False, at)

            def frames(number: int, held: EvaluationSet = held) -> None:
                next_frame_accuracy(model, _first(held, number), at)

            known[shape] = 0.0
            for act, samples in ((losses, limit), (frames, min(limit, NUM_ROLLOUTS))):
                number, seconds = _busy(act, min(len(held.samples), samples), device, times=1)
                known[shape] += seconds / number * samples
        total += known[shape]
    ranges = plan.active_ranges(stage)
    probe = repeated(ranges, stage.sequence_length, plan.seeds.init)
    if probe is not None:
        total += _seconds(lambda: induction_score(model, probe, ranges, at), device)
    return total


def _busy(act: Callable[[int], Any], most: int, device: str, times: int) -> tuple[int, float]:
    """How many samples at once keep the device busy, of `most`, and the seconds that they take: the
    median of so many times."""
    act(1)  # warms up
    number, found = 1, [_seconds(lambda: act(1), device)]
    while found[0] < BUSY_SECONDS and number < most:
        more = min(most, 4 * number)
        try:
            found = [_seconds(lambda: act(more), device)]  # noqa: B023
        except torch.OutOfMemoryError:
            found = [_seconds(lambda: act(number), device)]  # noqa: B023
            break
        number = more
    found += [_seconds(lambda: act(number), device) for _ in range(times - 1)]
    return number, median(found)


def _seconds(act: Callable[[], Any], device: str) -> float:
    """Seconds of an act, the device's work included."""
    _synchronise(device)
    began = time.perf_counter()
    act()
    _synchronise(device)
    return time.perf_counter() - began


def _synchronise(device: str) -> None:
    if device == "gpu":
        torch.cuda.synchronize()


def _model(plan: Plan, stage: PlannedStage, device: str) -> CurriculumModel:
    """A fresh model as a stage trains it, on one device."""
    usual = {"compile": False, "parallelism": "ddp"}
    trainer = plan.trainer.trainer.model_copy(update=usual)
    rows, seed = plan.vocabulary.rows, plan.seeds.init
    built = build_model(trainer.model.fresh(), rows, stage.sequence_length, seed)
    spread(built, trainer, stage.precision, device)
    model: CurriculumModel = get_device(device).module_to_device(CurriculumModel(built))
    model.active = ActiveIds(_ranges(plan, stage))
    model.z_loss = float(trainer.z_loss)
    return model


def _ranges(plan: Plan, stage: PlannedStage) -> list[tuple[int, int]]:
    """Ids that a stage's losses are normalised over."""
    every = [(0, plan.vocabulary.rows)]
    return plan.active_ranges(stage) if plan.vocabulary.softmax == "active" else every


def _is_packed(plan: Plan, stage: PlannedStage) -> bool:
    drawn = [plan.dataset_of(name, stage) for name in stage.sources]
    return any(source.spec.attends_within_documents() for source in drawn)


def _batch(plan: Plan, stage: PlannedStage, number: int, device: str) -> dict[str, torch.Tensor]:
    """A part of a batch, of random ids that the stage has."""
    ranges = plan.active_ranges(stage)
    ids = np.concatenate([np.arange(*pair) for pair in ranges])
    random = np.random.default_rng(0)
    tokens = random.choice(ids, (number, stage.sequence_length + 1))
    arrays = {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}
    arrays["source"] = np.zeros(number, np.int64)
    if _is_packed(plan, stage):
        arrays["segments"] = np.arange(stage.sequence_length) // DOCUMENT + 0 * tokens[:, :-1]
    place = get_device(device)
    return {key: place.tensor_to_device(torch.from_numpy(a)) for key, a in arrays.items()}


def _held(source: PlannedSource, number: int) -> EvaluationSet:
    """Random samples of a source's ids as if they were held out."""
    random = np.random.default_rng(0)
    shape = (number, source.sequence_length + 1)
    samples = random.integers(source.first_id, source.first_id + source.num_ids, shape)
    boundary = source.first_id if source.spec.attends_within_documents() else None
    rows = Rows(source.loss_start, boundary)
    return EvaluationSet(source, rows, samples.astype(np.uint32), None, None)


def _first(held: EvaluationSet, number: int) -> EvaluationSet:
    return EvaluationSet(held.source, held.rows, held.samples[:number], None, None)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """So many threads of PyTorch, within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
