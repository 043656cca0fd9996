"""Plans by the names of their files, as the command line gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ncamix.errors import Problem, UserError
from ncamix.library import choose_trainer, find
from ncamix.loading import LoadedCurriculum, load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.trainer import load_trainer
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
        return load_curriculum(find("curricula", name), settings)

    loaded = [attempt(load, name) for name in curricula]
    trainer_file, why = choose_trainer(trainer)
    under = attempt(load_trainer, trainer_file, settings)
    plans = [] if problems else [attempt(make_plan, each, under, say) for each in loaded]
    if problems:
        raise UserError(list(problems))
    return plans, why
