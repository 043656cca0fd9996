"""A stage of a run, exported: its weights as a model for Hugging Face.

    run folder -> checkpoints/<stage>/weights.safetensors -> model -> text rows | all rows -> folder
    plan, metrics, evaluations -> model card, what ids mean                                  /

A stage is finished when its weights are there, whatever became of the run afterwards, unless it was
lengthened and trains on. Text has a tokenizer from the first stage on that draws any; before, there
is nothing to cut to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncamix.errors import fail, nearest
from ncamix.model_card import model_card
from ncamix.plan import Plan, PlannedStage
from ncamix.run_folder import RunFolder
from ncamix.summary import versions

if TYPE_CHECKING:
    from ncamix.text_compilation import TextFacts

TEXT, WHOLE = VOCABULARIES = ("text", "whole")
EXPORT = "export"  # of a run's last stage, cut to text, in its folder


def find_stage(plan: Plan, wanted: str | None, folder: RunFolder) -> PlannedStage:
    """A stage by name, or by its number from 1; the last finished one where none is wanted.

    Raises:
        UserError: there is no such stage, or it is not finished.
    """
    finished = [
        stage
        for stage in plan.stages
        if folder.finished_weights(stage.index, stage.name, stage.num_batches)
    ]
    if wanted is None:
        if not finished:
            raise fail(
                f"no stage of the run in {folder.path} is finished yet",
                "train it on: run the command that began it again",
            )
        return finished[-1]
    by_name = {stage.name: stage for stage in plan.stages}
    by_name |= {
        str(stage.index + 1): stage for stage in plan.stages if str(stage.index + 1) not in by_name
    }
    if wanted not in by_name:
        names = [stage.name for stage in plan.stages]
        raise fail(f"the run has no stage '{wanted}'", nearest(wanted, names, "stages"))
    stage = by_name[wanted]
    if stage not in finished:
        raise fail(
            f"stage '{stage.name}' of the run in {folder.path} is not finished: its weights are "
            f"written at its end, to {folder.weights(stage.index, stage.name)}",
            f"finished: {', '.join(s.name for s in finished) or 'none'}",
        )
    return stage


def knows_text(plan: Plan, stage: PlannedStage) -> bool:
    """Whether a stage, or one before it, has drawn text, so that there is a tokenizer."""
    return any(
        plan.dataset_of(name, earlier).spec.finite
        for earlier in plan.stages[: stage.index + 1]
        for name in earlier.sources
    )


def choose_vocabulary(plan: Plan, stage: PlannedStage, wanted: str | None) -> str:
    """TEXT or WHOLE: as wanted, or else TEXT where there is text.

    Raises:
        UserError: it is neither, or the model has seen no text.
    """
    if wanted is not None and wanted not in VOCABULARIES:
        raise fail(f"no such vocabulary: '{wanted}'", nearest(wanted, VOCABULARIES))
    if knows_text(plan, stage):
        return wanted or TEXT
    if wanted == TEXT:
        raise fail(
            f"up to stage '{stage.name}' the model has seen no text: it has no tokenizer, and no "
            "rows to cut to",
            "choose a later --stage, or export all rows: ncamix export RUN --vocabulary whole",
        )
    return WHOLE


def default_folder(plan: Plan, stage: PlannedStage, vocabulary: str, folder: RunFolder) -> Path:
    """Where an export goes: `export` for the text of the last stage, else the name says which."""
    name = EXPORT if stage is plan.stages[-1] else f"{EXPORT}-{stage.name}"
    return folder.path / (name if vocabulary == TEXT else f"{name}-{WHOLE}")


def export_stage(
    plan: Plan,
    stage: PlannedStage,
    folder: RunFolder,
    facts: TextFacts | None,
    vocabulary: str,
    out: Path,
) -> None:
    """Write the model as it is after a stage to the folder `out`. facts: of the text's tokenizer,
    None where the model has seen no text.

    Raises:
        UserError: `out` holds something else, or the kind of model cannot be cut.
    """
    from ncamix.hub_folder import MARK, TextVocabulary, refuse_others, write_hub_folder
    from ncamix.training.handover import stage_model

    refuse_others(out)
    whole = vocabulary == WHOLE
    text = None
    if facts is not None:
        text = TextVocabulary(facts.file, plan.vocabulary.text_rows, facts.end_of_text_id)
    card = model_card(plan, stage, folder, whole, text is not None)
    files = {
        "README.md": card.encode(),
        MARK: json.dumps(_mark(plan, stage, vocabulary), indent=1).encode(),
    }
    if whole:
        files["vocabulary.json"] = json.dumps(_ids(plan, stage), indent=1).encode()
    model = stage_model(plan, stage, folder)
    write_hub_folder(model, out, stage.sequence_length, text, whole, files)


def _mark(plan: Plan, stage: PlannedStage, vocabulary: str) -> dict[str, Any]:
    return {
        "curriculum": plan.name,
        "plan": plan.fingerprint,
        "stage": stage.name,
        "vocabulary": vocabulary,
        "text_rows": plan.vocabulary.text_rows,
        "versions": versions(),
    }


def _ids(plan: Plan, stage: PlannedStage) -> dict[str, Any]:
    """What the ids of all rows mean; `active`: those that the stage emits, [first, last)."""
    vocabulary = plan.vocabulary
    return {
        "rows": vocabulary.rows,
        "layout": vocabulary.layout,
        "softmax": vocabulary.softmax,
        "active": plan.active_ranges(stage),
        "ranges": vocabulary.id_map(),
    }
