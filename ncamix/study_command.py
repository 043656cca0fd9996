"""`ncamix study`: run a study, or say what it would take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ncamix.interrupting import interruptible
from ncamix.options import SetOption, TrainerOption
from ncamix.ranks import Ranks
from ncamix.waiting import WaitingIfLong


def study(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's YAML file.", show_default=False)
    ],
    trainer: TrainerOption = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="The study's folder.", show_default="runs/NAME"
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "-n",
            help="Train nothing: show runs, tokens, time, and the smallest effect that so many "
            "seeds can detect.",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="Runs at once.",
            show_default="one a GPU; without GPUs one a core; on Ray what nodes have room for",
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            min=1,
            metavar="N",
            help="Processes that train together in each run: GPUs, or cores.",
            show_default="1",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Train the I-th of N parts, as on N hosts that share the study's folder.",
            show_default=False,
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="ray[://HOST:PORT]",
            help="Train on a Ray cluster: pip install 'ncamix\\[ray]'.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a study: train what is missing, compare, and draw the report.

    A study (see `ncamix help studies`) compares variants of a curriculum with controls, each with
    several seeds. Runs lie in runs/NAME/ARM/SEED; what is done is skipped, what was interrupted
    goes on, what runs begin with in common is trained once. Delete a run's folder to have that run
    trained again. In the end there are study.html, results.json and results.csv. Examples:

    ncamix study mixed_bands.yaml --dry-run

    ncamix study mixed_bands.yaml --jobs 2

    ncamix study mixed_bands.yaml --shard 1/4
    """
    from ncamix.plans import find_study
    from ncamix.shares import Shard, parse_shard
    from ncamix.study_agenda import open_study
    from ncamix.study_forecast import forecast_study
    from ncamix.study_running import check_place, make_workers, train_study
    from ncamix.variants import load_study

    console = Console()
    part = parse_shard(shard) if shard is not None else Shard()
    check_place(on)
    with interruptible(Ranks()):
        with WaitingIfLong(Console(stderr=True)) as say:
            loaded = load_study(find_study(study), trainer, settings or ())
            folder = Path(os.path.abspath(out or Path("runs") / loaded.study.name))
            agenda = open_study(loaded, folder, say)
        if dry_run:
            forecast_study(agenda, jobs, ranks, console)
            return
        status = train_study(
            agenda, lambda: make_workers(agenda, on, jobs, ranks), ranks, part, console
        )
    raise typer.Exit(status)
