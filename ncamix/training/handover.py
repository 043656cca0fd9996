"""Weights, handed over: into a stage, and out of a run.

    weights of the stage before, or of another run's, or fresh ones
      -> parts drawn anew, parts permuted -> model
    last checkpoint of the stage before -> the optimizer's moments, those of such parts at zero
    weights of a stage -> its model, for export

Weights are read from safetensors, which run no code. A vocabulary of other rows lends those that
both have; all others are a fresh model's.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ncamix.errors import fail
from ncamix.hashing import file_hashes
from ncamix.origins import Origin, Rows
from ncamix.plan import Plan, PlannedStage
from ncamix.run_folder import RunFolder, checkpoint_path
from ncamix.training.checkpoints import optimizer_state
from ncamix.training.model import build_model
from ncamix.training.optimizers import keep_state
from ncamix.training.transitions import (
    permute,
    reinitialize,
    select_parameters,
    vocabulary_parameters,
)


def final_checkpoint(folder: RunFolder, stage: PlannedStage) -> Path:
    """The checkpoint after the last batch of a stage."""
    return checkpoint_path(folder.checkpoints(stage.index, stage.name), stage.num_batches)


def enter_stage(plan: Plan, stage: PlannedStage, folder: RunFolder, resumed: bool) -> Any:
    """The model as it stands when a stage begins: fresh, or handed over and partly re-drawn or
    permuted.

    resumed: the stage has a checkpoint of its own, which will be loaded over it.

    Raises:
        UserError: the weights to begin with cannot be read, or are not those that were planned.
    """
    model = _fresh(plan, stage)
    if resumed:
        return model
    if stage.origin is not None:
        _check(stage.origin)
        load_weights(model, stage.origin.file, stage.origin.rows)
    elif stage.index:
        before = plan.stages[stage.index - 1]
        load_weights(model, folder.weights(before.index, before.name))
    if stage.enter is not None:
        way, layers = stage.enter.initializer, model.config.num_hidden_layers
        reinitialize(
            model,
            stage.enter.redrawn(layers),
            ("normal", float(way)) if isinstance(way, Fraction) else way,
            plan.seeds.init,
            stage.name,
            stage.spared,
        )
        permute(model, stage.enter.permuted(layers), plan.seeds.init, stage.name, stage.spared)
    return model


@torch.no_grad()
def load_weights(model: Any, file: Path, rows: Rows | None = None) -> None:
    """Load a safetensors file into a model, parameters and saved buffers, in place.

    rows: vocabulary rows (first here, first there, number) to take of a model whose vocabulary is
    another; None demands one of the same size. What stands under two names, as a tied head does, is
    read under the first.

    Raises:
        UserError: the file cannot be read, or its parameters are not the model's.
    """
    tables = vocabulary_parameters(model) if rows is not None else []
    found = {id(v): (name, v) for name, v in reversed(model.state_dict(keep_vars=True).items())}
    known = dict(found.values())
    try:
        with safe_open(file, framework="pt") as weights:
            unlike = set(weights.keys()) ^ set(known)
            for name in [] if unlike else known:
                value = weights.get_tensor(name)
                if name in tables and value.shape[1:] == known[name].shape[1:]:
                    for here, there, number in rows or ():
                        known[name][here : here + number] = value[there : there + number]
                elif value.shape == known[name].shape:
                    known[name].copy_(value)
                else:
                    unlike.add(name)
    except (OSError, SafetensorError) as error:
        raise fail(
            f"the weights {file} cannot be read: {error}", "train that stage again"
        ) from None
    if unlike:
        what = f"the weights {file} are another model's: {', '.join(sorted(unlike)[:3])}"
        raise fail(f"{what} differ", "choose the trainer that they were trained with")


def keep_optimizer_state(
    plan: Plan, stage: PlannedStage, folder: RunFolder, model: Any, optimizer: torch.optim.Optimizer
) -> None:
    """Go on with the state of the optimizer of the stage before, if the stage says so.

    model: the stage's, as its optimizer sees it, sharded or not.
    """
    enter = stage.enter
    if enter is None or enter.optimizer_state != "keep":
        return
    known = optimizer_state(final_checkpoint(folder, plan.stages[stage.index - 1]))
    tables, layers = vocabulary_parameters(model), model.config.num_hidden_layers
    changed = select_parameters(model, enter.redrawn(layers) | enter.permuted(layers))
    keep_state(
        optimizer,
        dict(model.named_parameters()),
        known,
        {name: stage.spared if name in tables else () for name in changed},
    )


def stage_model(plan: Plan, stage: PlannedStage, folder: RunFolder) -> Any:
    """The model after a stage that is finished, on the CPU."""
    model = _fresh(plan, stage)
    load_weights(model, folder.weights(stage.index, stage.name))
    return model


def _fresh(plan: Plan, stage: PlannedStage) -> Any:
    spec, rows, seed = plan.trainer.trainer.model, plan.vocabulary.rows, plan.seeds.init
    return build_model(spec, rows, stage.sequence_length, seed, plan.kept_rows)


def _check(origin: Origin) -> None:
    """See that another run's weights are still those that were planned."""
    if not origin.file.is_file():
        raise fail(f"the weights of {origin.name} are gone: {origin.file}", "put them back")
    if file_hashes([origin.file])[0].digest.hex() != origin.content:
        raise fail(
            f"the weights of {origin.name} have changed since this run was planned: {origin.file}",
            "start this run again; --fresh, if it has trained a stage already",
        )
