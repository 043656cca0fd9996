"""`ncamix compile` on the command line: its options, and how far it is."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ncamix.errors import fail
from ncamix.options import CurriculumArgument, SetOption, TrainerOption, plan_of
from ncamix.ranks import Ranks

_HIGHEST = 22  # of zstd's levels


def compile(
    curriculum: CurriculumArgument,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|URL",
            help="Where the datasets go: a folder, or a URL: s3://BUCKET/FOLDER, gs://, azure://, "
            "azure-dl://, oci://, dbfs:/, alipan://.",
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
            "training, with loss masks and numbers of documents where these are needed: for "
            "trainers without ncamix.",
        ),
    ] = False,
    zstd: Annotated[
        int,
        typer.Option(
            "--zstd",
            metavar="LEVEL",
            help=f"How hard zstd compresses shards, 1 to {_HIGHEST}; 0: they are not compressed.",
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
    """Write a curriculum's sources as MosaicML Streaming (MDS) datasets.

    Any trainer reads them. Leaves index.json and shards in DIR/SOURCE/, beside
    DIR/tokenizer.json and DIR/plan.json. Shards that are there are kept:
    interrupted, the same command continues. Under `torchrun` or `composer`,
    every rank writes its share. `ncamix run CURRICULUM --data DIR` trains from
    them.

    s3:// goes by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE;
    with S3_ENDPOINT_URL it is any store that speaks S3. Other URLs go through
    MosaicML Streaming and its settings: gs:// by GCS_KEY and GCS_SECRET,
    azure:// by AZURE_ACCOUNT_NAME and AZURE_ACCOUNT_ACCESS_KEY, oci:// by
    ~/.oci/config. The tests of ncamix exercise S3 alone.

    In S3 an object .compiling.json keeps a second machine out while one writes
    there; into other stores, compile from one machine at a time.
    """
    from ncamix.compilation.datasets import Writing, compile_plan
    from ncamix.compilation.places import place_of
    from ncamix.compilation.progress import CompileProgress
    from ncamix.text_compilation import report_lines

    if not 0 <= zstd <= _HIGHEST:
        raise fail(
            f"--zstd {zstd}: zstd has no such level",
            f"its levels are 1 to {_HIGHEST}; 0 leaves shards as they are",
        )
    place = place_of(out)  # before what takes long
    console = Console(quiet=not Ranks().is_first)
    plan, why = plan_of(curriculum, trainer, settings)
    console.print(f"compiling [bold]{plan.name}[/] for {escape(why)}", highlight=False)
    for stage in plan.stages:
        if bake and stage.spec.until is not None:
            remark = f"'{stage.name}' may end on evidence: it is baked at its full length"
            console.print(remark, highlight=False, markup=False)
    with CompileProgress(console) as progress:
        try:
            made = compile_plan(
                plan, place, progress.say, progress, Writing(zstd or None, threads, bake)
            )
        except KeyboardInterrupt:
            print("ncamix: interrupted; run the same command again to continue", file=sys.stderr)
            raise typer.Exit(130) from None
    for line in report_lines(made, plan):
        console.print(line, highlight=False, markup=False)
    for line in progress.ending(str(place), len(made.stages if bake else made.sources), bake):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
