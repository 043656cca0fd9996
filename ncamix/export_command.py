"""The command that exports: `ncamix export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ncamix.options import StageOption, TextDataOption
from ncamix.waiting import WaitingIfLong


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder: runs/NAME.", show_default=False)
    ],
    stage: StageOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The folder to write.",
            show_default="RUN/export, with the stage's name unless it is the last",
        ),
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(
            "--vocabulary",
            metavar="text|whole",
            help="The ids of the text alone, or all rows.",
            show_default="text, where the model has seen any",
        ),
    ] = None,
    data: TextDataOption = None,
) -> None:
    """Export a finished stage of a run for Hugging Face transformers.

    Also of a run that is still training, or was stopped: a stage can be
    exported once it is finished. The folder holds config, weights as
    safetensors, tokenizer, and a model card (README.md) that says what was
    learned and how to load it; it needs no ncamix. It appears whole or not at
    all, and replaces an earlier export, but nothing else.

    With --vocabulary whole, the model keeps its rows for automata and other
    symbols, and vocabulary.json says what each id means. A stage before any text
    can be exported in no other way, and has no tokenizer.

    The run is planned again from its own curriculum.yaml and trainer.yaml; where
    its files of text have changed since, that is refused. Examples:

    ncamix export runs/code_target

    ncamix export runs/code_target --stage automata --vocabulary whole --out automata-only
    """
    from ncamix.exporting import export_run

    with WaitingIfLong(Console(stderr=True)) as say:
        name, target = export_run(run, stage, vocabulary, out, data, say)
    print(f"exported the model after stage {name} to {target}")
