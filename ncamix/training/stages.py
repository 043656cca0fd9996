"""The loop over stages: one Composer Trainer a stage, weights handed from each to the next.

    for each stage: its texts are ready -> model (fresh, handed over, or from the stage's own
    checkpoint) -> transition -> dataset -> Trainer.fit -> last checkpoint -> next stage

Everything is decided by the plan; the folder's checkpoints say how far a run has come.
"""

from __future__ import annotations

import gc
import shutil
import traceback
from contextlib import nullcontext

import torch
from composer import Trainer
from composer.core import DataSpec
from composer.utils import dist
from torch.utils.data import DataLoader

from ncamix import __version__
from ncamix.collation import Collate, rows_of
from ncamix.compilation.compiled import Data
from ncamix.errors import fail
from ncamix.plan import Plan, PlannedStage
from ncamix.planning import decide
from ncamix.quantities import format_seconds
from ncamix.run_folder import RunFolder
from ncamix.streams import make_dataset
from ncamix.training.averaging import Averages
from ncamix.training.checkpoints import Checkpointer, sound_checkpoint, write_weights
from ncamix.training.handover import enter_stage, final_checkpoint, keep_optimizer_state
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel
from ncamix.training.optimizers import make_optimizer
from ncamix.training.parallelism import check_compiler, composer_precision, microbatch, spread
from ncamix.training.progress import RunProgress
from ncamix.training.recorder import Recorder
from ncamix.training.stopping import StopSignal
from ncamix.training.texts import Texts
from ncamix.training.transitions import Freezer
from ncamix.training.workers import LoaderContext, deaths_untold, ignore_signals

SAID_SECONDS = 1.0  # of waiting for text, from which on it is worth a line
COMPOSERS_SEEDS = 1 << 31  # it takes no larger ones, a rank's number added; nothing depends on them


def is_finished(plan: Plan, folder: RunFolder) -> bool:
    """Whether every stage has its last checkpoint."""
    return all(final_checkpoint(folder, stage).exists() for stage in plan.stages)


def train(
    plan: Plan,
    folder: RunFolder,
    data: Data | None,
    texts: Texts,
    device: str,
    progress: RunProgress,
    stop: StopSignal,
) -> Plan:
    """Train every stage that is not finished yet; the plan as it turned out, sizes of texts and
    stages that evidence ended early included.

    Raises:
        Stopped: a signal came; the state is saved.
        UserError: the loss is not finite, or a text cannot be compiled; the state is saved.
    """
    if plan.trainer.trainer.compile:
        check_compiler(device)
        progress.say("the model is compiled as each stage begins, which may take minutes")
    for index in range(len(plan.stages)):
        if final_checkpoint(folder, plan.stages[index]).exists():
            continue
        stop.exchange(None, None)
        with progress.aside() as say:
            plan, seconds = texts.ready(plan, plan.stages[index], say)
        stage = plan.stages[index]
        if seconds >= SAID_SECONDS:
            progress.say(f"stage '{stage.name}' waited {format_seconds(seconds)} for its text")
        ended = _train_stage(plan, stage, folder, data, texts, device, progress, stop)
        if ended is not None:
            plan = decide(plan, {stage.name: ended})
        progress.pause(plan.num_tokens)
    return plan


def _train_stage(
    plan: Plan,
    stage: PlannedStage,
    folder: RunFolder,
    data: Data | None,
    texts: Texts,
    device: str,
    progress: RunProgress,
    stop: StopSignal,
) -> int | None:
    """Train one stage; the batches after which evidence ended it, if that was early."""
    trainer = plan.trainer.trainer
    home = folder.checkpoints(stage.index, stage.name)
    begin = sound_checkpoint(home, progress.say)
    model = CurriculumModel(enter_stage(plan, stage, folder, resumed=begin is not None))
    spread(model.model, trainer, stage.precision, device)
    model.active = ActiveIds(
        plan.active_ranges(stage)
        if plan.vocabulary.softmax == "active"
        else [(0, plan.vocabulary.rows)]
    )
    model.z_loss = float(trainer.z_loss)
    drawn = [plan.dataset_of(name, stage) for name in stage.sources]
    model.source_weights = [float(source.spec.loss_weight) for source in drawn]
    ranks = dist.get_world_size()
    cache = folder.path / "data" / f"{stage.index}-{stage.name}"
    cache.mkdir(parents=True, exist_ok=True)
    leader = dist.get_local_rank() == 0
    dist.barrier()
    dataset = make_dataset(
        plan, stage, cache, data, ranks, folder.add_prefix if leader else lambda prefix: None
    )
    share = stage.batch_size // ranks
    end_of_text_id = texts.end_of_text_id(plan, drawn)
    workers = LoaderContext()
    loader = DataLoader(
        dataset,
        batch_size=share,
        num_workers=trainer.workers,
        collate_fn=Collate([rows_of(source, end_of_text_id) for source in drawn]),
        pin_memory=device == "gpu",
        drop_last=True,
        multiprocessing_context=workers if trainer.workers else None,
        worker_init_fn=ignore_signals if trainer.workers else None,
        persistent_workers=False,
    )
    averages = _averages(plan, stage, model)
    in_place = averages.in_place if averages is not None else nullcontext

    def hand_over() -> None:
        with in_place():
            write_weights(model.model, home, _facts(plan, stage))

    recorder = Recorder(plan, stage, folder, model, texts, progress, stop, averages)
    checkpointer = Checkpointer(
        home,
        _interval(plan, stage),
        trainer.checkpoint.keep,
        stop.wanted,
        hand_over,
        recorder.settle,
        model.model,
        begin,
    )
    freezer = Freezer(model.model, stage.frozen, trainer.model.layers) if stage.frozen else None
    callbacks = [c for c in (freezer, averages, recorder, checkpointer) if c is not None]
    runner: Trainer | None = None
    try:
        runner = Trainer(
            model=model,
            train_dataloader=DataSpec(loader, get_num_tokens_in_batch=_num_tokens),
            optimizers=make_optimizer(model, stage),
            max_duration=f"{stage.num_batches}ba",
            device=device,
            precision=composer_precision(stage.precision, device),
            device_train_microbatch_size=microbatch(trainer, share, device),
            callbacks=callbacks,
            run_name=f"{plan.name}-{stage.index}",
            seed=plan.seeds.init % COMPOSERS_SEEDS,
            progress_bar=False,
            log_to_console=False,
        )
        if begin is None:
            keep_optimizer_state(plan, stage, folder, model.model, runner.state.optimizers[0])
        runner.fit()
        runner.close()
    except BaseException as error:
        with deaths_untold():
            death = workers.death_behind(error)
            workers.end()
        if runner is not None:  # not `runner.close`, which waits for ranks that may not fail
            runner.engine.close()
        if death is not None:
            traceback.clear_frames(error.__traceback__)  # or its queues go as Python does, aloud
            raise fail(
                f"a process that loads data has died: {death}",
                "the machine may have run out of memory: lower the trainer's `workers`, and run "
                "the same command again to resume",
            ) from None
        raise
    finally:
        del runner, loader
        dataset.release()
        gc.collect()
    dist.barrier()
    if dist.get_global_rank() == 0:
        shutil.rmtree(cache, ignore_errors=True)
    return recorder.ended


def _averages(plan: Plan, stage: PlannedStage, model: CurriculumModel) -> Averages | None:
    how = plan.trainer.trainer.averaging
    return Averages(model.model, how, how.first_batch(stage.clock_batches)) if how else None


def _facts(plan: Plan, stage: PlannedStage) -> dict[str, str]:
    """What is written beside a stage's weights."""
    return {
        "ncamix": __version__,
        "plan": plan.fingerprint,
        "stage": stage.name,
        "rows": str(plan.vocabulary.rows),
    }


def _interval(plan: Plan, stage: PlannedStage) -> int:
    every = plan.trainer.trainer.checkpoint.every
    batches = every.value / 100 * stage.clock_batches if every.unit == "%" else every.value
    return max(1, round(batches))


def _num_tokens(batch: dict[str, torch.Tensor]) -> int:
    return batch["input_ids"].numel()
