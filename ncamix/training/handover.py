"""Weights, handed over: into a stage, and out of a run.

last checkpoint of the stage before, or fresh values -> parts drawn anew -> the stage's model
last checkpoint of a stage -> its model, for export
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ncamix.plan import Plan, PlannedStage
from ncamix.run_folder import RunFolder
from ncamix.training.checkpoints import checkpoint_path
from ncamix.training.model import build_model
from ncamix.training.transitions import reinitialize


def final_checkpoint(folder: RunFolder, stage: PlannedStage) -> Path:
    """The checkpoint after the last batch of a stage."""
    return checkpoint_path(folder.checkpoints(stage.index, stage.name), stage.num_batches)


def enter_stage(plan: Plan, stage: PlannedStage, folder: RunFolder, resumed: bool) -> Any:
    """The model as it stands when a stage begins: fresh, or handed over and partly re-drawn.

    resumed: the stage has a checkpoint of its own, which will be loaded over it.
    """
    trainer = plan.trainer.trainer
    rows, kept = plan.vocabulary.rows, plan.kept_rows
    model = build_model(trainer.model, rows, stage.sequence_length, plan.seeds.init, kept)
    if resumed:
        return model
    if stage.index:
        load_weights(model, final_checkpoint(folder, plan.stages[stage.index - 1]))
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


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Load the weights of a stage's checkpoint into a model, strictly."""
    weights = torch.load(checkpoint, map_location="cpu", weights_only=False)["state"]["model"]
    weights = {
        name.removeprefix("module.").removeprefix("model."): w for name, w in weights.items()
    }
    if getattr(model.config, "tie_word_embeddings", False):
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model.load_state_dict(weights)


def final_model(plan: Plan, folder: RunFolder) -> Any:
    """The model after the last stage, on the CPU."""
    last = plan.stages[-1]
    model = build_model(
        plan.trainer.trainer.model, plan.vocabulary.rows, last.sequence_length, plan.seeds.init
    )
    load_weights(model, final_checkpoint(folder, last))
    return model
