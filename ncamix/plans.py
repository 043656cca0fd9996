"""Plans by the names of their files, as the command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ncamix.errors import Problem, UserError, fail, nearest
from ncamix.library import choose_trainer, find
from ncamix.loading import LoadedCurriculum, load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.reading import read_document
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
            if _is_other(find("curricula", name), "model"):
                what = f"'{name}' is a trainer, and this takes a curriculum"
                raise fail(what, f"name a curriculum, and this one as --trainer {name}") from None
            if study_file(name) is None:
                raise
            what, way_out = f"'{name}' is a study, and this takes a curriculum", "name its base"
            raise fail(what, f"{way_out}; `ncamix plan {name}` plans all of its variants") from None

    def load_under(file: Path) -> LoadedTrainer:
        try:
            return load_trainer(file, settings)
        except UserError:
            if not _is_other(file, "stages"):
                raise
            what = f"--trainer {trainer} names a curriculum, and takes a trainer"
            raise fail(what, "name the curriculum first, without an option") from None

    loaded = [attempt(load, name) for name in curricula]
    trainer_file, why = choose_trainer(trainer)
    under = attempt(load_under, trainer_file)
    plans = [] if problems else [attempt(make_plan, each, under, say) for each in loaded]
    if problems:
        raise UserError(list(problems))
    return plans, why


def _is_other(file: Path, key: str) -> bool:
    """Whether a file has the key that tells its sort, `model` or `stages`, and not the other."""
    try:
        keys = read_document(file).tree.value
    except UserError:
        return False
    return {"model", "stages"} & keys.keys() == {key}


def study_file(name: str) -> Path | None:
    """The file that a name means, if that is a study: it has a base, and no stages of its own."""
    try:
        file = find("curricula", name)
        keys = read_document(file).tree.value
    except UserError:  # which is said when the file is read for what it is
        return None
    return file if "base" in keys and "stages" not in keys else None


def find_study(name: str) -> Path:
    """The study's file that a name means. Raises UserError where there is none, or no study."""
    found = study_file(name)
    if found is not None:
        return found
    for folder, sort in (("curricula", "curriculum"), ("trainers", "trainer")):
        keys: Collection[str] = ()
        with suppress(UserError):
            file = find(folder, name)
            keys = read_document(file).tree.value.keys()
        if {"stages", "model"} & set(keys):
            what = f"'{name}' is a {sort}, and this takes a study"
            raise fail(what, "write a study with it as its base: ncamix help studies")
    if not Path(name).is_file():
        there = sorted(str(p) for p in Path().glob("*.y*ml") if study_file(str(p)) is not None)
        raise fail(f"no such study: '{name}'", nearest(name, there, "studies here"))
    return Path(name)
