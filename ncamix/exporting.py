"""`ncamix export`, and what `ncamix eval` needs of it: a run's folder -> the folder of an export.

RUN -> its plan, made again -> stage, vocabulary, tokenizer -> written
RUN -> an export of that stage that is there already -> as it is
"""

from __future__ import annotations

from pathlib import Path

from ncamix.compilation.compiled import Data, check_data, local_part
from ncamix.errors import fail
from ncamix.export import (
    EXPORT,
    TEXT,
    choose_vocabulary,
    default_folder,
    export_stage,
    find_stage,
    knows_text,
)
from ncamix.plan import Plan, PlannedStage
from ncamix.replanning import read_plan, replan
from ncamix.run_folder import RunFolder
from ncamix.text_compilation import TextFacts, text_facts, tokenizer_file
from ncamix.waiting import Say, quiet


def export_run(
    run: Path,
    stage: str | None,
    vocabulary: str | None,
    out: Path | None,
    data: Data | None,
    say: Say = quiet,
) -> tuple[str, Path]:
    """Export a stage of a run; its name, and where. None stands for the default, see `export`.

    Raises:
        UserError: it is no run or has changed, the stage is not finished, the vocabulary is not to
            be had, or `out` holds something else.
    """
    folder = RunFolder(run)
    plan, difference = replan(run, say)
    if difference:
        raise fail(
            f"the run in {run} can no longer be planned as it was: {difference}",
            "put back what has changed since; an export that was made before is as good as ever",
        )
    wanted = find_stage(plan, stage, folder)
    chosen = choose_vocabulary(plan, wanted, vocabulary)
    target = out or default_folder(plan, wanted, chosen, folder)
    say("reading the tokenizer", 0.0)
    facts = _facts(plan, wanted, data, say)
    say("exporting", 0.5)
    export_stage(plan, wanted, folder, facts, chosen, target)
    return wanted.name, target


def find_export(run: Path, stage: str | None) -> tuple[str, Path] | None:
    """An export of a run's text that is there already and as the run is now, of the last stage if
    the run is finished."""
    from ncamix.hub_folder import read_mark

    if not (run / "plan.json").is_file():
        return None
    plan = read_plan(run)["fingerprint"]
    if stage is None:
        if not (run / "summary.json").is_file():
            return None
        places = [run / EXPORT]
    else:
        places = [run / f"{EXPORT}-{stage}", run / EXPORT]
    for place in places:
        mark = read_mark(place)
        if mark is not None and (mark.get("vocabulary"), mark.get("plan")) == (TEXT, plan):
            name = str(mark.get("stage"))
            if stage in (None, name):
                return name, place
    return None


def _facts(plan: Plan, stage: PlannedStage, data: Data | None, say: Say) -> TextFacts | None:
    """What is known of the tokenizer; None where the model has seen no text."""
    if not knows_text(plan, stage):
        return None
    if data is None:
        file = tokenizer_file(plan, say)
    else:
        check_data(plan, data)
        file = local_part(data) / "tokenizer.json"
    assert file is not None, "a plan with text has a tokenizer"
    return text_facts(file, plan.vocabulary.text_rows)
