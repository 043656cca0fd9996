"""`ncamix compile` on the command line: its options, and how far it is."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ncamix.options import CurriculumArgument, SetOption, TrainerOption, plan_of

_HIGHEST = 22  # of zstd's levels


def compile(
    curriculum: CurriculumArgument,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|URL",
            help="Where the datasets go: a folder, or s3://, gs://, azure://, oci://, hf:// ...",
            show_default=False,
        ),
    ],
    trainer: TrainerOption = None,
    settings: SetOption = None,
    bake: Annotated[
        bool,
        typer.Option(
            "--bake",
            help="Write one dataset a stage instead of one a source, its samples in the order of "
            "training: for trainers without ncamix.",
        ),
    ] = False,
    zstd: Annotated[
        int,
        typer.Option(
            "--zstd",
            metavar="LEVEL",
            min=0,
            max=_HIGHEST,
            help="How hard zstd compresses shards; 0: they are not compressed.",
        ),
    ] = 3,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            help="Shards made at once, a thread each.",
            show_default="cores",
        ),
    ] = None,
) -> None:
    """Write a curriculum's sources as MosaicML Streaming (MDS) datasets, for any trainer.

    Leaves index.json and shards in DIR/SOURCE/, beside DIR/tokenizer.json and DIR/plan.json.
    Shards that are there are kept: interrupted, the same command continues. Under `torchrun` or
    `composer`, every rank writes its share. `ncamix run CURRICULUM --data DIR` trains from them.
    """
    from ncamix.compilation.datasets import Writing, compile_plan
    from ncamix.compilation.progress import CompileProgress
    from ncamix.text_compilation import report_lines

    first = int(os.environ.get("RANK", "0")) == 0
    console = Console(quiet=not first)
    plan, why = plan_of(curriculum, trainer, settings)
    console.print(f"compiling [bold]{plan.name}[/] for {escape(why)}", highlight=False)
    for stage in plan.stages:
        if bake and stage.spec.until is not None:
            remark = f"'{stage.name}' may end on evidence: it is baked at its full length"
            console.print(remark, highlight=False, markup=False)
    with CompileProgress(console) as progress:
        try:
            made = compile_plan(
                plan, out, progress.say, progress, Writing(zstd or None, threads, bake)
            )
        except KeyboardInterrupt:
            print("ncamix: interrupted; run the same command again to continue", file=sys.stderr)
            raise typer.Exit(130) from None
    for line in report_lines(made, plan):
        console.print(line, highlight=False, markup=False)
    what = "the stages" if bake else f"{len(made.sources)} datasets"
    console.print(f"wrote {out.rstrip('/')}/plan.json and {what}", highlight=False, markup=False)
