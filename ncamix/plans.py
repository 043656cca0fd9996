"""Plans by the names of their files, as the command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ncamix.composition import sort_at
from ncamix.errors import Problem, UserError, fail, nearest
from ncamix.library import SORTS, choose_trainer, find, not_taken
from ncamix.loading import LoadedCurriculum, load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.trainer import LoadedTrainer, load_trainer
from ncamix.waiting import Say


def plans_named(
    curricula: Sequence[str], trainer: str | None, settings: Sequence[str], say: Say
) -> tuple[list[Plan], str]:
    """The plans of named curricula under one trainer, with `--set` settings, and why the trainer
    was chosen.

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
        try:
            return load_curriculum(find("curricula", name), settings)
        except UserError:
            sort = sort_at(find("curricula", name))
            if sort not in ("trainer", "study"):
                raise
            way_out = f"name its base; `ncamix plan {name}` plans all of its variants"
            if sort == "trainer":
                way_out = f"name a curriculum, and this one as --trainer {name}"
            raise fail(not_taken(name, sort, "curriculum"), way_out) from None

    def load_under(file: Path) -> LoadedTrainer:
        try:
            return load_trainer(file, settings)
        except UserError:
            sort = sort_at(file)
            if sort in ("", "trainer"):
                raise
            what = f"--trainer {trainer} names a {sort}, and takes a trainer"
            raise fail(what, f"name the {sort} first, without an option") from None

    loaded = [attempt(load, name) for name in curricula]
    trainer_file, why = choose_trainer(trainer)
    under = attempt(load_under, trainer_file)
    plans = [] if problems else [attempt(make_plan, each, under, say) for each in loaded]
    if problems:
        raise UserError(list(problems))
    return plans, why


def study_file(name: str) -> Path | None:
    """The file that a name means, if that is a study."""
    with suppress(UserError):
        file = find("curricula", name)
        return file if sort_at(file) == "study" else None
    return None


def find_study(name: str) -> Path:
    """The study's file that a name means. Raises UserError where there is none, or no study."""
    found = study_file(name)
    if found is not None:
        return found
    for folder in SORTS:
        sort = ""
        with suppress(UserError):
            sort = sort_at(find(folder, name))
        if sort:
            role = "base" if sort == "curriculum" else "trainer"
            way_out = f"write a study with it as its {role}: ncamix help studies"
            raise fail(not_taken(name, sort, "study"), way_out)
    if not Path(name).is_file():
        there = sorted(str(p) for p in Path().glob("*.y*ml") if study_file(str(p)) is not None)
        raise fail(f"no such study: '{name}'", nearest(name, there, "studies here"))
    return Path(name)
