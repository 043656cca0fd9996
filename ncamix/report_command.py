"""The command that reports: a run, several runs, or a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ncamix.errors import fail
from ncamix.files import make_output
from ncamix.run_folder import no_run

COMPARISON = "comparison"  # the folder that a report of several runs is written to


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_STUDY...",
            help="The folder of a run or a study, or of several runs: runs/NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Where the report of a study or of several runs is written.",
            show_default="the study's folder; of several runs 'comparison' where they lie",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw what was found, too, as a picture: .png or .svg.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Draw the report of a run, of several, or of a study; also of what is not finished.

    Of a run: report.html in its folder. Of a study: study.html with findings, tables and pictures,
    results.json, results.csv (a row an arm and a run) and results.md. Several runs are shown the
    same way, those that plan alike but for their seeds as one arm; nothing is tested there, since
    nothing was declared before they ran.
    """
    from ncamix.study_record import is_study

    studies = [folder for folder in folders if is_study(folder)]
    if len(folders) == 1 and not studies:
        _report_run(folders[0], out, plot)
        return
    if studies and len(folders) > 1:
        what = f"{studies[0]} is a study, which is reported by itself"
        raise fail(what, "name it alone, or name folders of its runs")
    from ncamix.study_report import write_comparison, write_study_report

    if out is not None:
        make_output(out)
    if studies:
        written = write_study_report(folders[0], out, plot)
    else:
        home = out or Path(os.path.commonpath(list(map(os.path.abspath, folders)))) / COMPARISON
        make_output(home)
        written = write_comparison(folders, home, plot)
    for file in written:
        _say(file)


def _report_run(folder: Path, out: Path | None, plot: Path | None) -> None:
    from ncamix.report import write_report

    if not (folder / "plan.json").is_file():
        raise no_run(folder, "plan.json or study.json")
    if out is not None or plot is not None:
        what = f"{'--out' if out is not None else '--plot'} is for studies and several runs"
        raise fail(what, f"leave it out: the report of a run is written to {folder}/report.html")
    _say(write_report(folder))


def _say(file: Path) -> None:
    Console().print(f"wrote {os.path.relpath(file)}", highlight=False, markup=False)
