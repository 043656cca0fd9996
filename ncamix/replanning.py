"""A run's folder -> its plan, made again.

    curriculum.yaml, trainer.yaml, as if they stood where they were read + sizes of texts -> Plan
    decisions.json -> which stages evidence ended, and so the plan as it was trained
    plan.json -> whether that is the plan of the run, and if not, what differs
    plan.json -> what the plan was made of by then: fingerprints and sizes of sources

The texts are the run's own, so later edits of the original files do not matter. The place matters:
paths are relative to the file that holds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ncamix.composition import compose
from ncamix.errors import UserError, fail
from ncamix.loading import check_curriculum
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.planned_source import PlannedSource
from ncamix.planning import decide, make_plan
from ncamix.quantities import counted
from ncamix.reading import Document, parse_document, read_document
from ncamix.run_folder import DECISIONS, RunFolder, damaged_plan, no_run
from ncamix.trainer import LoadedTrainer, check_trainer
from ncamix.tree import SETTING, Tree
from ncamix.waiting import Say, quiet

Recorded = dict[str, Any]  # a plan.json


def replan(run: Path, say: Say = quiet) -> tuple[Plan, str]:
    """Plan a run again; the first thing in which that differs from the run's plan, '' if nothing.

    Raises:
        UserError: it is not the folder of a run, or can no longer be planned.
    """
    before = read_plan(run)
    found: list[tuple[Plan, str]] = []
    for plan in _plans(run, before, decisions_of(run), say):
        if plan.fingerprint == before["fingerprint"]:
            return plan, ""
        found.append((plan, difference(before, plan)))
    return found[0]


def recall(folder: Path, ended: Mapping[str, int], edited: Document, say: Say = quiet) -> Plan:
    """The plan that a plan.json is of, to be compared with others: its texts are those of then, so
    nothing can be compiled from it.

    folder: of a run, or of what an edit of it has kept. ended: batches after which evidence ended
    stages. edited: the curriculum as it is by now; what it has in common with the old one says
    where relative paths start.

    Raises:
        UserError: it cannot be made again, and why.
    """
    before = read_plan(folder)
    way_out = (
        "go on with the curriculum and the trainer that the run was started with, start over with "
        "--fresh (the old run is moved aside), or choose another folder with --out"
    )
    why = ""
    try:
        for plan in _plans(folder, before, {}, say, edited):
            then = replace(plan, sources=_as_recorded(plan, before))
            if then.fingerprint == before["fingerprint"]:
                return decide(then, ended)
            why = why or f"{difference(before, then)}; was it another version of ncamix?"
    except UserError as error:
        why = str(error.problems[0]).split("\n")[0]
    what = f"what has changed since the run in {folder} began cannot be told, for it cannot be "
    raise fail(f"{what}planned again as it was: {why}", way_out)


def read_plan(folder: Path) -> Recorded:
    """The plan.json of a run's folder, which holds its curriculum and trainer, too.

    Raises:
        UserError: it is not the folder of a run, or is damaged.
    """
    for name in ("plan.json", "curriculum.yaml", "trainer.yaml"):
        if not (folder / name).is_file():
            raise no_run(folder, name)
    try:
        before: Recorded = json.loads((folder / "plan.json").read_text())
        str(before["fingerprint"]), str(before["curriculum_file"]), before["trainer"]["file"]
        for source in before["sources"].values():
            source["num_samples"], source["fingerprint"], source["limit"]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise damaged_plan(folder) from None
    return before


def decisions_of(run: Path) -> dict[str, int]:
    """Batches after which evidence ended stages of a run. Raises UserError if that is damaged."""
    try:
        return RunFolder(run).decisions()
    except (ValueError, LookupError, TypeError, AttributeError):
        what = "these are not the decisions of a run, or they are damaged"
        raise fail(what, file=str(run / DECISIONS)) from None


def known_sizes(before: Recorded, plan: Plan) -> dict[str, int]:
    """Samples of those finite sources of a plan that a recorded one has just so, by dataset."""
    found = {}
    for name, source in plan.sources.items():
        then = before["sources"].get(name, {})
        same = [then.get(key) for key in ("fingerprint", "limit")]
        if same == [source.fingerprint, source.limit] and then["num_samples"]:
            found[name] = int(then["num_samples"])
    return found


def _plans(
    folder: Path,
    before: Recorded,
    ended: Mapping[str, int],
    say: Say,
    edited: Document | None = None,
) -> Iterator[Plan]:
    """A run's plan for each of the places where its curriculum may have stood; at least one.
    `edited`: where parts of it stand by now.

    Raises:
        UserError: it can be planned at none of them.
    """
    sizes = {name: source["num_samples"] for name, source in before["sources"].items()}
    text = read_document(folder / "curriculum.yaml").text
    trainer = _trainer(folder, str(before["trainer"]["file"]))
    errors: list[UserError] = []
    some = False
    for document in _documents(folder, "curriculum.yaml", str(before["curriculum_file"]), text):
        if edited is not None:
            document = replace(document, tree=_grafted(document.tree, edited.tree))
        try:
            plan = decide(make_plan(check_curriculum(document), trainer, say, sizes=sizes), ended)
        except UserError as error:
            errors.append(error)
            continue
        some = True
        yield plan
    if not some:
        raise errors[0]


def _as_recorded(plan: Plan, before: Recorded) -> dict[str, PlannedSource]:
    """A plan's sources as a plan.json has them: its texts may be others by now."""
    found = dict(plan.sources)
    for name, source in plan.sources.items():
        if name in before["sources"]:
            keys = ("fingerprint", "limit", "num_samples")
            then = {key: before["sources"][name][key] for key in keys}
            found[name] = replace(source, **then)
    return found


def difference(before: dict[str, Any], plan: Plan) -> str:
    """The first thing in which two plans differ, in words."""
    now = json.loads(json.dumps(plan_json(plan)))
    for key in ("trainer", "seeds", "vocabulary", "evaluate"):
        for item, value in now[key].items():
            if item != "file" and before.get(key, {}).get(item) != value:
                return f"{key}.{item} was {before.get(key, {}).get(item)}, is {value}"
    for name in sorted({*before["sources"], *now["sources"]}):
        then, is_now = (p["sources"].get(name, {}) for p in (before, now))
        old, new = then.get("fingerprint"), is_now.get("fingerprint")
        if old != new:
            return f"the source '{name}' is not the same ({_why_unlike(then, is_now)})"
        old, new = then.get("limit"), is_now.get("limit")
        if old != new:
            return f"of the source '{name}' {old:,} samples were read, now {new:,} are"
    for old_stage, new_stage in zip(before["stages"], now["stages"], strict=False):
        for key, value in new_stage.items():
            if old_stage.get(key) != value:
                return f"stage '{new_stage['name']}' differs in {key}"
    if len(before["stages"]) != len(now["stages"]):
        return f"it had {counted(len(before['stages']), 'stage')}, now {len(now['stages'])}"
    return "an optimizer setting differs"


def _why_unlike(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Why a source in two plans has not the same fingerprint, as far as the plans tell."""
    for key in ("kind", "summary", "sequence_length"):
        if then.get(key) != now.get(key):
            return f"{key.replace('_', ' ')}: {then.get(key)} then, {now.get(key)} now"
    if now.get("kind") in ("text", "pairs", "mds"):
        return "its files, or those of its tokenizer, have changed, gone or been added since"
    return f"{then.get('fingerprint')} then, {now.get('fingerprint')} now"


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


def _grafted(tree: Tree, other: Tree, depth: int = 2) -> Tree:
    """A tree in which what another one says alike, down to such a depth, is that other one's part,
    which knows where it was written."""
    if tree.plain() == other.plain():
        return other
    if not depth or not isinstance(tree.value, dict) or not isinstance(other.value, dict):
        return tree
    children = {
        key: _grafted(child, other.value[key], depth - 1) if key in other.value else child
        for key, child in tree.value.items()
    }
    return replace(tree, value=children)


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
