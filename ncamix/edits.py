"""Edits: a run goes on under a changed curriculum or trainer, if its past stays what it was.

    plan.json -> the run's own plan, made again            \
                                                             > the first batch that is not the same
    the changed files -> the plan that it is to follow now /
    newest checkpoint -> the past: what no rerun trains again
    unlike in the past: refused, with what to write instead; only later: taken over

Batches behind the newest checkpoint are trained again by whatever comes next, so they are future,
though metrics.jsonl may hold rows of them until then. Under which files each batch was trained is
kept: `edits.jsonl` has a row an edit, `edits/1/` and so on the files before it. The plan.json comes
last of all, so that a command that is killed on the way is simply given again, or the one before it
while nothing was trained since. Positions are tokens of the run and batches of a stage, from 0.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ncamix.advice import advise
from ncamix.errors import Problem, UserError
from ncamix.files import write_whole
from ncamix.parting import Parting, find_change, find_parting, identity
from ncamix.plan import Plan
from ncamix.planning import decide
from ncamix.quantities import counted, format_count
from ncamix.replanning import decisions_of, known_sizes, read_plan, recall
from ncamix.run_folder import DECISIONS, WEIGHTS, RunFolder, checkpoints_in, read_rows
from ncamix.text_compilation import with_sizes
from ncamix.waiting import Say

EDITS = "edits"  # folder of the files of before, and with .jsonl the record of the edits
KEPT = ("plan.json", "curriculum.yaml", "trainer.yaml")


@dataclass(frozen=True)
class Past:
    """What of a run is behind a checkpoint: all stages before `stage` (an index), and so many
    batches of that; `tokens` in all."""

    stage: int
    batches: int
    tokens: int


def past_of(plan: Plan, folder: RunFolder) -> Past:
    """How far a run has come by its checkpoints. plan: its own."""
    for stage in plan.stages:
        last = max(checkpointed(folder, stage.index, stage.name), default=0)
        if last < stage.num_batches:
            tokens = stage.first_token + last * stage.batch_size * stage.sequence_length
            return Past(stage.index, last, tokens)
    return Past(len(plan.stages), 0, plan.num_tokens)


def checkpointed(folder: RunFolder, index: int, stage: str) -> dict[int, Path]:
    """The checkpoints of a stage, by the batches that are behind them."""
    return dict(checkpoints_in(folder.checkpoints(index, stage)))


def with_known_sizes(plan: Plan, folder: RunFolder) -> Plan:
    """A plan with the sizes of its texts that its run has known before, if lengths wait for them:
    the cache may have been deleted since. Raises UserError if the run's plan.json is damaged."""
    if not plan.estimated or not folder.file("plan.json").is_file():
        return plan
    sizes = known_sizes(read_plan(folder.path), plan)
    return with_sizes(plan, sizes) if sizes else plan


def take_over(
    plan: Plan, folder: RunFolder, exact: Callable[[Plan], Plan], console: Console, say: Say
) -> Plan:
    """Make a run's folder this plan's, which is not the one it was left with; what it is by then.

    The curriculum.yaml, trainer.yaml and plan.json are left to be written by the caller. exact:
    makes a plan whose lengths are known.

    Raises:
        UserError: a batch of the past would have been another.
    """
    rows = read_rows(_record(folder))
    newest = _newest(folder)
    if not newest:
        return _begin_anew(plan, folder, console)
    pending = bool(rows) and rows[-1]["checkpoint"] == newest  # nothing was trained since
    origin = folder.path / EDITS / str(rows[-1]["edit"]) if pending else folder.path
    ended = decisions_of(folder.path)
    own = recall(origin, ended, plan.curriculum.document, say)
    past = past_of(own, folder)
    finished = {stage.name for stage in own.stages[: past.stage]}
    kept = {name: batches for name, batches in ended.items() if name in finished}
    if plan.estimated:
        plan = exact(plan)
    now = decide(plan, kept)
    change = find_change((own, now), past.tokens)
    if change is not None:
        raise _refused(own, now, past, change, folder)
    parting = find_parting((own, now), by_name=True)
    _end_anew(own, now, past, folder)
    past = past_of(own, folder)
    if pending:
        rows.pop()
    else:
        (kept_files := folder.path / EDITS / str(len(rows) + 1)).mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            write_whole(kept_files / name, folder.file(name).read_bytes())
    if own.fingerprint != now.fingerprint:
        rows.append(_row(len(rows) + 1, own, now, past, parting, _newest(folder)))
    _write_record(folder, rows)
    if kept != ended:
        decided = json.loads(folder.file(DECISIONS).read_text())
        facts = {name: decided[name] for name in kept}
        write_whole(folder.file(DECISIONS), json.dumps(facts, indent=1).encode())
    _drop_caches(folder)
    folder.forget_end()
    console.print(_told(now, past, parting), markup=False, highlight=False)
    return plan


def _begin_anew(plan: Plan, folder: RunFolder, console: Console) -> Plan:
    """Take over the folder of a run that has no past."""
    _write_record(folder, [])
    folder.file(DECISIONS).unlink(missing_ok=True)
    folder.forget_end()
    for weights in (folder.path / "checkpoints").glob(f"*/{WEIGHTS}"):
        weights.unlink()
    _drop_caches(folder)
    told = f"the run in {folder.path} was planned differently, and no checkpoint is there"
    console.print(f"{told}: it begins anew", markup=False, highlight=False)
    return plan


def _drop_caches(folder: RunFolder) -> None:
    """Drop the caches of stages: a source of the same name may be another one now."""
    shutil.rmtree(folder.path / "data", ignore_errors=True)


def go_on(plan: Plan, folder: RunFolder) -> None:
    """Forget an edit that was begun and never trained under, where the plan of before goes on."""
    rows = read_rows(_record(folder))
    if (
        rows
        and rows[-1]["before"] == plan.fingerprint
        and rows[-1]["checkpoint"] == _newest(folder)
    ):
        _write_record(folder, rows[:-1])


def _record(folder: RunFolder) -> Path:
    return folder.file(f"{EDITS}.jsonl")


def _write_record(folder: RunFolder, rows: list[dict[str, Any]]) -> None:
    """Write the record of the edits, and drop the files of those that are no more."""
    if rows or _record(folder).is_file():
        write_whole(_record(folder), "".join(json.dumps(row) + "\n" for row in rows).encode())
    for place in (folder.path / EDITS).glob("*"):
        if place.name not in {str(row["edit"]) for row in rows}:
            shutil.rmtree(place, ignore_errors=True)


def _place(parting: Parting | None) -> tuple[str, int] | None:
    """Stage and batch, from 0, of the first batch that has changed or is new."""
    place = parting and (parting.places[1] or parting.places[0])
    return (place[0], place[1] - 1) if place else None


def _reached(plan: Plan, past: Past) -> tuple[str, int]:
    """The last stage that a run has trained in, and how many of its batches."""
    if past.stage < len(plan.stages) and (past.batches or not past.stage):
        return plan.stages[past.stage].name, past.batches
    last = plan.stages[past.stage - 1]
    return last.name, last.num_batches


def _row(
    number: int, own: Plan, now: Plan, past: Past, parting: Parting | None, newest: str
) -> dict[str, Any]:
    """What edits.jsonl says of an edit."""
    stage, batches = _reached(own, past)
    place = _place(parting)
    return {
        "edit": number,
        "tokens": past.tokens,
        "stage": stage,
        "batches": batches,
        "checkpoint": newest,
        "first_changed": {"stage": place[0], "batch": place[1]} if place else None,
        "why": parting.why if parting else "no batch changes",
        "before": own.fingerprint,
        "after": now.fingerprint,
    }


def _newest(folder: RunFolder) -> str:
    """The newest checkpoint, as a path in the run's folder; nothing if there is none."""
    found = _checkpoints(folder)
    return max(found)[2] if found else ""


def newest_place(folder: RunFolder) -> tuple[int, int] | None:
    """The stage of the newest checkpoint, from 0, and its batches until then; None without any."""
    found = _checkpoints(folder)
    return max(found)[:2] if found else None


def _checkpoints(folder: RunFolder) -> list[tuple[int, int, str]]:
    """Stage, batches and path in the run's folder of every checkpoint."""
    found = []
    for home in (folder.path / "checkpoints").glob("*-*"):
        index = home.name.partition("-")[0]
        if index.isdigit():
            saved = checkpoints_in(home)
            found += [(int(index), batch, f"{home.name}/{file.name}") for batch, file in saved]
    return found


def _end_anew(own: Plan, now: Plan, past: Past, folder: RunFolder) -> None:
    """Where a stage is to end at a checkpoint that was not its end, drop that checkpoint: what
    belongs to a stage's end is made by training its last batches."""
    if past.stage < len(own.stages) and past.stage < len(now.stages) and past.batches:
        stage = now.stages[past.stage]
        if stage.num_batches == past.batches:
            file = checkpointed(folder, stage.index, stage.name)[past.batches]
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _told(now: Plan, past: Past, parting: Parting | None) -> str:
    """In a line, what has changed of a run that goes on."""
    place = _place(parting)
    if parting is None or place is None:
        return f"{now.name}: the files have changed, and no batch with them; the run goes on"
    done = f"the {format_count(past.tokens)} tokens trained before stay as they are"
    return (
        f"{now.name}: the future has changed from batch {place[1]:,} of stage '{place[0]}' on "
        f"({parting.why}); {done}"
    )


def _refused(own: Plan, now: Plan, past: Past, parting: Parting, folder: RunFolder) -> UserError:
    """The error that a batch of the past would have been another, with the way to say it."""
    place = parting.places[0]
    assert place is not None, "what was trained was planned"
    stage, batches = _reached(own, past)
    why = "it is planned no more"
    if parting.places[1]:
        why = f"{parting.why} (then and now)" if " and " in parting.why else parting.why
    what = (
        f"the run in {folder.path} has trained {counted(batches, 'batch', 'batches')} of stage "
        f"'{stage}', {format_count(past.tokens)} tokens in all, and this would change its past "
        f"from batch {place[1] - 1:,} of stage '{place[0]}' on: {why}"
    )
    lines = advise(own, now, past.stage, past.batches, past.tokens)
    ways = (
        "or go on with the files it was started with, start over with --fresh (the old run is "
        "moved aside), or choose another folder with --out"
    )
    if lines:
        first = (
            "write the lines above into the curriculum: they say the past as it was, and the rest "
            "may change; what is to come goes behind their last position, or into a new stage"
        )
        return UserError(Problem(what, f"{first}; {ways}", excerpt="\n".join(lines)))
    return UserError(Problem(what, f"{_hint(own, now)}; {ways}"))


def _hint(own: Plan, now: Plan) -> str:
    """A way out where no lines are known that would be accepted."""
    if own.trainer.trainer.model != now.trainer.trainer.model or own.seeds != now.seeds:
        return "a run keeps its model and its seeds"
    if own.vocabulary != now.vocabulary:
        return (
            "a run keeps its vocabulary: draw from ids that it has, or have a new run begin with "
            "the weights of this one's stage (enter: {from: RUN/STAGE}); a run that begins with "
            "`vocabulary: {rows: N}` has room for more"
        )
    for pair in zip(own.stages, now.stages, strict=False):
        for name in pair[0].sources:
            if name in pair[1].sources:
                both = [identity(*x, name, True) for x in zip((own, now), pair, strict=True)]
                if both[0] != both[1]:
                    return f"leave '{name}' as it is, and declare what differs under another name"
    return "leave the stages that have begun as they are, and add a new one behind them"
