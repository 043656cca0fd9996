"""The test: what the weights of a run's end make of samples that nothing has been decided by.

    weights that the last stage hands over -> model, spread over all ranks
    test splits of texts, further held-out samples of endless sources -> losses, by document of text
      -> test.json, and how often each id occurs -> frequencies.json

It comes behind the last stage's last checkpoint and before the summary, which says that a run is
finished. So a run that was killed in between is tested when it goes on, and one whose `evaluate`
was edited, or whose test.json is gone, is tested anew. The weights are those that were written
down, averaged ones where the run averages: the same, however the run came to its end. Losses are in
nats per token.
"""

from __future__ import annotations

import json
from typing import Any

from composer.utils import dist, get_device

from ncamix.files import write_whole
from ncamix.plan import Plan, PlannedStage
from ncamix.run_folder import FREQUENCIES, TEST, RunFolder
from ncamix.training.evaluation import EvaluationSet, evaluate
from ncamix.training.handover import stage_model
from ncamix.training.model import CurriculumModel
from ncamix.training.occurrences import occurrences
from ncamix.training.parallelism import spread
from ncamix.training.progress import RunProgress
from ncamix.training.stopping import StopSignal
from ncamix.training.texts import Texts


def examine(
    plan: Plan,
    folder: RunFolder,
    texts: Texts,
    device: str,
    progress: RunProgress,
    stop: StopSignal,
) -> Plan:
    """Evaluate a trained run once on what it is tested on, all ranks together; the plan, with exact
    sizes of its texts. The first rank writes what is found, each file whole or not at all.

    Raises:
        Stopped: a signal came. Otherwise, whatever keeps a text from being compiled.
    """
    last = plan.stages[-1]
    with progress.aside() as say:
        plan, _ = texts.ready(plan, last, say)
    progress.pause(stage=last.name, doing="testing")
    sets = texts.examination_sets(plan, last)
    found = _figures(plan, last, folder, sets, device, stop) if any(sets.values()) else {}
    if dist.get_global_rank() == 0:
        told = {"split": "test", "tokens": plan.num_tokens, "sources": dict.fromkeys(sets) | found}
        seen: dict[str, list[EvaluationSet]] = {}
        for held in (*texts.sets(plan, last), *filter(None, sets.values())):
            seen.setdefault(held.source.name, []).append(held)
        occurring = {name: occurrences(held) for name, held in seen.items()}
        write_whole(folder.file(FREQUENCIES), json.dumps(occurring).encode())
        write_whole(folder.file(TEST), json.dumps(told).encode())
    progress.pause()
    return plan


def _figures(
    plan: Plan,
    stage: PlannedStage,
    folder: RunFolder,
    sets: dict[str, EvaluationSet | None],
    device: str,
    stop: StopSignal,
) -> dict[str, dict[str, Any]]:
    """What each set comes to under the weights that a stage hands over, by source; the same on
    every rank."""
    place = get_device(device)  # which also says how a GPU multiplies, as in training
    model = CurriculumModel(stage_model(plan, stage, folder))
    # Neither is worth its preparation for one pass, and activations are not kept anyway.
    usual = {"compile": False, "activation_checkpointing": False}
    trainer = plan.trainer.trainer.model_copy(update=usual)
    spread(model.model, trainer, stage.precision, device)
    model = place.module_to_device(model)
    at = next(model.parameters()).device

    def look() -> None:
        stop.agree(at, None)
        wanted = stop.wanted()
        if wanted is not None:
            raise wanted

    found: dict[str, dict[str, Any]] = {}
    for name, held in sets.items():
        if held is not None:
            figures = evaluate(model, held, plan.vocabulary.rows, True, at, look)
            documents = figures.pop("documents", None)
            found[name] = {k: v for k, v in figures.items() if k != "source"}
            found[name]["documents"] = documents
    return found
