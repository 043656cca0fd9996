"""A run's folder -> its plan, made again.

    curriculum.yaml, trainer.yaml, as if they stood where they were read + sizes of texts -> Plan
    decisions.json -> which stages evidence ended, and so the plan as it was trained
    plan.json -> whether that is the plan of the run, and if not, what differs

The texts are the run's own, so later edits of the original files do not matter. The place matters:
paths are relative to the file that holds them.
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
from ncamix.trainer import LoadedTrainer, check_trainer
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
        trainer_file = str(before["trainer"]["file"])
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
    trainer = _trainer(run, trainer_file)
    found: list[tuple[Plan, str]] = []
    errors: list[UserError] = []
    for document in _documents(run, "curriculum.yaml", written, text):
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


def _trainer(run: Path, written: str) -> LoadedTrainer:
    """A run's trainer; the path of its model starts from where it stood.

    Raises:
        UserError: it has none, or the model's files are gone.
    """
    text, errors = read_document(run / "trainer.yaml").text, []
    for document in _documents(run, "trainer.yaml", written, text):
        try:
            return check_trainer(document)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _documents(run: Path, name: str, written: str, text: str) -> Iterator[Document]:
    """A run's curriculum or trainer, by the name of its file, at each of its likely places.

    Where it was composed of several files, and still can be, it is composed again: only then is it
    known which of them its relative paths start from.
    """
    head = f"# {SETTING} "
    settings = [line.removeprefix(head) for line in text.splitlines() if line.startswith(head)]
    sort = "trainers" if name == "trainer.yaml" else "curricula"
    for place in _places(run, name, written):
        recorded = parse_document(text, str(place))
        try:
            composed = compose(place, settings, sort)
        except UserError:
            yield recorded
            continue
        same = not composed.problems and composed.tree.plain() == recorded.tree.plain()
        yield composed if same else recorded


def _places(run: Path, name: str, written: str) -> Iterator[Path]:
    """Where a run's file `name` may have stood, the likeliest first.

    `written` is how the user named it, who may have been in another folder then: most often one
    above the run's.
    """
    known: set[Path] = set()
    for folder in (Path(), *run.resolve().parents):
        place = folder / written
        if place.is_file() and place.resolve() not in known:
            known.add(place.resolve())
            yield place
    yield run / name
