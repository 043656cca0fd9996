"""Weights, handed over: into a stage, and out of a run.

last checkpoint of the stage before, or fresh values -> parts drawn anew -> the stage's model
last checkpoint of a stage -> its model, for export
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ncamix.plan import Plan, PlannedStage
from ncamix.run_folder import RunFolder
from ncamix.training.checkpoints import WEIGHTS, checkpoint_path
from ncamix.training.model import build_llama
from ncamix.training.transitions import reinitialize


def final_checkpoint(folder: RunFolder, stage: PlannedStage) -> Path:
    """The checkpoint after the last batch of a stage."""
    return checkpoint_path(folder.checkpoints(stage.index, stage.name), stage.num_batches)


def final_weights(folder: RunFolder, stage: PlannedStage) -> Path:
    """The weights that a stage hands over."""
    return folder.checkpoints(stage.index, stage.name) / WEIGHTS


def enter_stage(plan: Plan, stage: PlannedStage, folder: RunFolder, resumed: bool) -> Any:
    """The model as it stands when a stage begins: fresh, or handed over and partly re-drawn.

    resumed: the stage has a checkpoint of its own, which will be loaded over it.
    """
    trainer = plan.trainer.trainer
    model = build_llama(trainer.model, plan.vocabulary.rows, stage.sequence_length, plan.seeds.init)  # type: ignore[arg-type]
    if resumed:
        return model
    if stage.index:
        load_weights(model, final_weights(folder, plan.stages[stage.index - 1]))
    if stage.enter is not None:
        way = stage.enter.initializer
        reinitialize(
            model,
            stage.enter.redrawn(model.config.num_hidden_layers),
            ("normal", float(way)) if isinstance(way, Fraction) else way,
            plan.seeds.init,
            stage.name,
            stage.spared,
        )
    return model


def load_weights(model: torch.nn.Module, file: Path) -> None:
    """Load the weights of a stage into a model, strictly."""
    weights = load_file(file)
    if getattr(model.config, "tie_word_embeddings", False):
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model.load_state_dict(weights)


def final_model(plan: Plan, folder: RunFolder) -> Any:
    """The model after the last stage, on the CPU."""
    last = plan.stages[-1]
    model = build_llama(
        plan.trainer.trainer.model, plan.vocabulary.rows, last.sequence_length, plan.seeds.init
    )  # type: ignore[arg-type]
    load_weights(model, final_weights(folder, last))
    return model
