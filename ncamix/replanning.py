"""A run's folder -> its plan, made again.

    curriculum.yaml, as if it stood where it was read + trainer.yaml + sizes of texts -> Plan
    decisions.json -> which stages evidence ended, and so the plan as it was trained
    plan.json -> whether that is the plan of the run, and if not, what differs

The texts are the run's own, so later edits of the original files do not matter. The place matters:
a curriculum's paths are relative to the file that holds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ncamix.composition import compose
from ncamix.errors import UserError, fail
from ncamix.loading import check_curriculum
from ncamix.plan import Plan
from ncamix.planning import decide, make_plan
from ncamix.reading import Document, parse_document, read_document
from ncamix.run_folder import DECISIONS, RunFolder
from ncamix.running import difference
from ncamix.trainer import load_trainer
from ncamix.tree import SETTING
from ncamix.waiting import Say, quiet


def replan(run: Path, say: Say = quiet) -> tuple[Plan, str]:
    """Plan a run again; the first thing in which that differs from the run's plan, '' if nothing.

    Raises:
        UserError: it is not the folder of a run, or can no longer be planned.
    """
    for name in ("plan.json", "curriculum.yaml", "trainer.yaml"):
        if not (run / name).is_file():
            raise fail(f"this is not the folder of a run: it holds no {name}", file=str(run))
    try:
        before = json.loads((run / "plan.json").read_text())
        fingerprint, written = str(before["fingerprint"]), str(before["curriculum_file"])
        sizes = {name: source["num_samples"] for name, source in before["sources"].items()}
    except (ValueError, LookupError, TypeError, AttributeError):
        what = "this is not the plan of a run, or it is damaged"
        raise fail(what, file=str(run / "plan.json")) from None
    try:
        ended = RunFolder(run).decisions()
    except (ValueError, LookupError, TypeError, AttributeError):
        what = "these are not the decisions of a run, or they are damaged"
        raise fail(what, file=str(run / DECISIONS)) from None
    text = read_document(run / "curriculum.yaml").text
    trainer = load_trainer(run / "trainer.yaml")
    found: list[tuple[Plan, str]] = []
    errors: list[UserError] = []
    for document in _documents(run, written, text):
        try:
            plan = decide(make_plan(check_curriculum(document), trainer, say, sizes=sizes), ended)
        except UserError as error:
            errors.append(error)
            continue
        if plan.fingerprint == fingerprint:
            return plan, ""
        found.append((plan, difference(before, plan)))
    if not found:
        raise errors[0]
    return found[0]


def _documents(run: Path, written: str, text: str) -> Iterator[Document]:
    """A run's curriculum at each of its likely places.

    Where it was composed of several files, and still can be, it is composed again: only then is it
    known which of them its relative paths start from.
    """
    head = f"# {SETTING} "
    settings = [line.removeprefix(head) for line in text.splitlines() if line.startswith(head)]
    for place in _places(run, written):
        recorded = parse_document(text, str(place))
        try:
            composed = compose(place, settings)
        except UserError:
            yield recorded
            continue
        same = not composed.problems and composed.tree.plain() == recorded.tree.plain()
        yield composed if same else recorded


def _places(run: Path, written: str) -> Iterator[Path]:
    """Where a run's curriculum may have stood, the likeliest first.

    `written` is how the user named it, who may have been in another folder then: most often one
    above the run's.
    """
    known: set[Path] = set()
    for folder in (Path(), *run.resolve().parents):
        place = folder / written
        if place.is_file() and place.resolve() not in known:
            known.add(place.resolve())
            yield place
    yield run / "curriculum.yaml"
