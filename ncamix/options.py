"""What several commands take: a curriculum, a trainer, settings, and the plans that these mean; a
stage of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ncamix.ranks import Ranks
from ncamix.waiting import WaitingIfLong

if TYPE_CHECKING:
    from ncamix.plan import Plan

CurriculumArgument = Annotated[
    str,
    typer.Argument(
        metavar="CURRICULUM",
        help="A YAML file, or the name of a shipped curriculum: code_target.",
        show_default=False,
    ),
]
TrainerOption = Annotated[
    str | None,
    typer.Option(
        "--trainer",
        "-t",
        metavar="TRAINER",
        show_default=False,
        help="A YAML file or a shipped trainer: cpu, gpu, gpu8_1b6. "
        "Without it: gpu on a machine with a GPU, cpu elsewhere.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        show_default=False,
        help="Change one value of the curriculum, for this time: "
        "stages.code.optimizer.lr.peak=3e-4. Stages and sources go by name, a value is YAML "
        "('sources.rich.band={gzip: [0.4, 0.5]}'), null deletes (stages.automata=null), and "
        "trainer.budget=2Mtok changes the trainer. May be given several times.",
    ),
]
StageOption = Annotated[
    str | None,
    typer.Option(
        "--stage",
        "-s",
        metavar="S",
        help="Name, or number from 1, of a finished stage of a run.",
        show_default="the last one finished",
    ),
]
TextDataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR|URL",
        help="Where the run's text was compiled, if it was trained with --data.",
        show_default=False,
    ),
]


def plans_of(
    curricula: Sequence[str], trainer: str | None, settings: list[str] | None
) -> tuple[list[Plan], str]:
    """The plans of curricula under one trainer, and why it was chosen. Says what takes long."""
    from ncamix.plans import plans_named

    with WaitingIfLong(Console(stderr=True, quiet=not Ranks().is_first)) as say:
        return plans_named(curricula, trainer, settings or (), say)


def plan_of(curriculum: str, trainer: str | None, settings: list[str] | None) -> tuple[Plan, str]:
    """As `plans_of`, for one curriculum."""
    (made,), why = plans_of([curriculum], trainer, settings)
    return made, why
