"""The shipped curricula and trainers, and how a name on the command line becomes a file or a plan.

A name is a path, or the name of a file in `./curricula` or `./trainers`, or of one shipped with
ncamix.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ncamix.errors import Problem, UserError, fail, nearest
from ncamix.loading import LoadedCurriculum, load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.trainer import has_gpu, load_trainer
from ncamix.waiting import Say

FOLDERS = ("curricula", "trainers")
_PACKAGE = Path(__file__).parent


def shipped(folder: str) -> Path:
    """The folder of shipped YAML: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def find(folder: str, name: str) -> Path:
    """The YAML file that `name` means. Raises UserError when there is none."""
    candidates = [Path(name)]
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        candidates += [Path(folder) / f"{name}.yaml", shipped(folder) / f"{name}.yaml"]
    for path in candidates:
        if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
            return path
    in_package = shipped(folder) / Path(name).name
    if name.startswith(f"{folder}/") and os.path.isfile(in_package):
        return in_package
    known = sorted(
        {p.stem for where in (Path(folder), shipped(folder)) for p in where.glob("*.y*ml")}
    )
    raise fail(
        f"no such {folder[:-1] if folder != 'curricula' else 'curriculum'}: '{name}'",
        nearest(Path(name).stem, known, "shipped ones"),
    )


def choose_trainer(name: str | None) -> tuple[Path, str]:
    """A trainer's file, and one sentence on why it was chosen."""
    if name is not None:
        path = find("trainers", name)
        return path, f"trainer {path.stem}, as asked"
    if has_gpu():
        return find("trainers", "gpu"), "trainer gpu, since this machine has a GPU"
    return find("trainers", "cpu"), "trainer cpu, since this machine has no GPU"


def plans_named(curricula: Sequence[str], trainer: str | None, say: Say) -> tuple[list[Plan], str]:
    """The plans of named curricula under one trainer, and why that was chosen.

    Raises:
        UserError: with every problem of every file.
    """
    problems: dict[Problem, None] = {}  # those of the trainer come with each curriculum

    def attempt(call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except UserError as error:
            problems.update(dict.fromkeys(error.problems))

    def load(name: str) -> LoadedCurriculum:
        return load_curriculum(find("curricula", name))

    loaded = [attempt(load, name) for name in curricula]
    trainer_file, why = choose_trainer(trainer)
    under = attempt(load_trainer, trainer_file)
    plans = [] if problems else [attempt(make_plan, each, under, say) for each in loaded]
    if problems:
        raise UserError(list(problems))
    return plans, why
