"""The folders of several runs, read as a study in which nothing was declared.

    plan.json of each -> runs that plan alike but for seeds are one arm -> a record as of a study

Nothing is compared there by a test, for nothing was declared before they ran.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ncamix.run_folder import damaged_plan, no_run
from ncamix.run_record import Json, by_name
from ncamix.run_results import NATURAL
from ncamix.study_record import ArmRecord, StudiedRun, StudyRecord, filled, first_metric
from ncamix.study_runs import StudyRun, read_json, state_of
from ncamix.tree import SETTING

_OF_A_RUN = (  # of a plan: what seeds and places change
    "fingerprint",
    "curriculum_fingerprint",
    "curriculum_file",
    "seeds",
    "disk",
    "warnings",
)
_OF_ITS_SOURCES = ("fingerprint", "generation_core_seconds")


def read_runs(folders: Sequence[Path]) -> StudyRecord:
    """Read several runs.

    Raises:
        UserError: one is no run, or its plan.json is damaged.
    """
    plans = [_plan_of(folder) for folder in folders]
    seeds, remarks = _seeds(plans)
    groups: dict[str, list[int]] = {}  # runs that plan alike
    for i, plan in enumerate(plans):
        groups.setdefault(_recipe(plan), []).append(i)
    common = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    own = [[plans[of[0]]["name"], *(folders[i] for i in of)] for of in groups.values()]
    arms, runs = {}, []
    for name, of in zip(_names(own, common), groups.values(), strict=True):
        arms[name] = _arm(name, plans[of[0]])
        taken: dict[int, Path] = {}
        for i in of:
            seed, folder, plan = seeds[i], folders[i], plans[i]
            if seed in taken:
                remarks.append(
                    f"{folder} is left out: its curriculum and seed are those of {taken[seed]}"
                )
                continue
            taken[seed] = folder
            run = StudyRun(name, seed, None, str(folder), (), plan["fingerprint"], (), (), ())
            state = state_of(run, Path())
            runs.append(StudiedRun(run, folder, _command(folder, plan), state))
    found = tuple(sorted({run.run.seed for run in runs}))
    title = os.path.basename(common) or "runs"
    record = StudyRecord(title, found, arms, [], first_metric(runs), remarks=remarks)
    return filled(record, runs, Path())


def _names(groups: Sequence[Sequence[Any]], common: str) -> list[str]:
    """A name for each group of a curriculum's name and folders below `common`: the curriculum's if
    no other has it, or else the folder that its runs have in common."""
    curricula = [str(name) for name, *_ in groups]
    shared = [os.path.commonpath(list(map(os.path.abspath, of))) for _, *of in groups]
    names = []
    for i, (name, folder) in enumerate(zip(curricula, shared, strict=True), 1):
        if curricula.count(name) == 1:
            names.append(name)
        elif shared.count(folder) == 1 and folder != common:
            names.append(os.path.relpath(folder, common))
        else:
            names.append(f"{name} ({i})")
    return names


def _plan_of(folder: Path) -> Json:
    if not (folder / "plan.json").is_file():
        raise no_run(folder)
    plan = read_json(folder / "plan.json")
    if not {"name", "fingerprint", "stages", "sources", "trainer"} <= plan.keys():
        raise damaged_plan(folder)
    return plan


def _recipe(plan: Json) -> str:
    """What a plan is but for its seeds."""
    left = {key: value for key, value in plan.items() if key not in _OF_A_RUN}
    sources = {
        name: {key: v for key, v in facts.items() if key not in _OF_ITS_SOURCES}
        for name, facts in plan["sources"].items()
    }
    trainer = {key: value for key, value in plan["trainer"].items() if key != "file"}
    return json.dumps({**left, "sources": sources, "trainer": trainer}, sort_keys=True)


def _seeds(plans: Sequence[Json]) -> tuple[list[int], list[str]]:
    """A number for the seeds of each plan, and what it means where they have several."""
    seeds = [tuple(sorted(plan.get("seeds", {}).items())) for plan in plans]
    if all(len({seed for _, seed in of}) == 1 for of in seeds):
        return [of[0][1] for of in seeds], []
    numbers = {of: i for i, of in enumerate(dict.fromkeys(seeds), 1)}
    told = "; ".join(f"{i}: {', '.join(f'{k} {v}' for k, v in of)}" for of, i in numbers.items())
    return [numbers[of] for of in seeds], [f"seeds are numbered here, as runs have several: {told}"]


def _arm(name: str, plan: Json) -> ArmRecord:
    tokens: dict[str, int] = {}
    natural = 0
    for stage in plan["stages"]:
        for source, count in stage["counts"].items():
            amount = count * stage["sequence_length"]
            tokens[source] = tokens.get(source, 0) + amount
            natural += amount if _kind(plan, source) in NATURAL else 0
    return ArmRecord(
        name,
        num_tokens=int(plan["num_tokens"]),
        natural_tokens=natural,
        num_steps=sum(stage["num_batches"] for stage in plan["stages"]),
        tokens=tokens,
        warnings=tuple(plan.get("warnings", [])),
        plan=plan,
    )


def _kind(plan: Json, source: str) -> str:
    return str(by_name(plan["sources"]).get(source, {}).get("kind", ""))


def _command(folder: Path, plan: Json) -> str:
    """What trains a run again, by what its files say; without them, nothing is said."""
    words = ["ncamix", "run", str(plan.get("curriculum_file", ""))]
    words += ["--trainer", str(plan["trainer"].get("file", ""))]
    for name in ("curriculum.yaml", "trainer.yaml"):
        file = folder / name
        if not file.is_file() or not words[2] or not words[4]:
            return ""
        for line in file.read_text("utf-8", errors="replace").splitlines():
            if not line.startswith("#"):
                break
            if line.startswith(f"# {SETTING} "):
                words += [SETTING, line.removeprefix(f"# {SETTING} ")]
    return shlex.join([*words, "--out", str(folder)])
