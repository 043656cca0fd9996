"""The command line. Errors of the user's end with status 2 and a message, without a traceback."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ncamix.errors import UserError, fail
from ncamix.waiting import WaitingIfLong

if TYPE_CHECKING:
    from ncamix.plan import Plan

app = typer.Typer(
    name="ncamix",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Curricula that mix cellular automata and text in exact, scheduled proportions.\n\n"
    "A curriculum (what is learned) and a trainer (with what) become a plan; `plan` shows it, "
    "`run` trains it, `compile` writes its datasets for other trainers, `show` draws its sources.",
)

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


def _plans(
    curricula: Sequence[str], trainer: str | None, settings: list[str] | None
) -> tuple[list[Plan], str]:
    from ncamix.plans import plans_named

    with WaitingIfLong(Console(stderr=True)) as say:
        return plans_named(curricula, trainer, settings or (), say)


def _plan(curriculum: str, trainer: str | None, settings: list[str] | None) -> tuple[Plan, str]:
    (made,), why = _plans([curriculum], trainer, settings)
    return made, why


@app.command()
def plan(
    curriculum: CurriculumArgument,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="OTHER", help="Another one, to compare it with.", show_default=False
        ),
    ] = None,
    trainer: TrainerOption = None,
    settings: SetOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw mixture and learning rate over the run's tokens, too.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show what a curriculum will do under a trainer, before anything runs.

    Batches, tokens and exact counts of every stage, epochs, time and disk,
    vocabulary, fingerprints, and everything that cannot work.

    With OTHER: what differs between the two under the same trainer, and from
    which token on. Example:

    ncamix plan code_target mixed_bands --trainer cpu
    """
    if other is not None:
        if plot is not None:
            raise fail("--plot draws one curriculum", "plot each of the two by itself")
        from ncamix.comparison import compare, comparison_json, print_comparison

        (first, second), why = _plans([curriculum, other], trainer, settings)
        found = compare(first, second)
        if as_json:
            print(json.dumps(comparison_json(found), indent=1))
        else:
            print_comparison(found, why, Console())
        return
    from ncamix.plan_output import plan_json
    from ncamix.plan_tables import print_plan

    made, why = _plan(curriculum, trainer, settings)
    if as_json:
        print(json.dumps(plan_json(made), indent=1))
    else:
        print_plan(made, why, Console())
    if plot is not None:
        from ncamix.plan_picture import write_plan_picture

        write_plan_picture(made, plot)
        if not as_json:
            print(f"wrote {plot}")


@app.command()
def run(
    curriculum: CurriculumArgument,
    trainer: TrainerOption = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The run's folder.",
            show_default="runs/NAME",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="Train from the datasets that `ncamix compile` wrote there, instead of generating "
            "them on the fly. The samples are the same.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: the old run is moved aside, not deleted.")
    ] = False,
) -> None:
    """Train a curriculum; run it again to resume.

    Leaves in runs/NAME/: metrics.jsonl, evaluations.jsonl, summary.json, report.html, checkpoints/
    and export/ (a model for Hugging Face transformers). Killed at any moment, the same command goes
    on from the last checkpoint, with the same batches and the same losses.
    """
    from ncamix.plan_output import plan_line, summary_lines
    from ncamix.running import run_plan

    console = Console()
    made, why = _plan(curriculum, trainer, settings)
    folder = out if out is not None else Path("runs") / made.name
    console.print(plan_line(made, why), highlight=False)
    try:
        summary = run_plan(made, folder, data, fresh, console)
    except KeyboardInterrupt:
        print("ncamix: interrupted; run the same command again to resume", file=sys.stderr)
        raise typer.Exit(130) from None
    for line in summary_lines(summary, folder):
        console.print(line, highlight=False, markup=False)


@app.command()
def compile(
    curriculum: CurriculumArgument,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Where the datasets go.", show_default=False
        ),
    ],
    trainer: TrainerOption = None,
    settings: SetOption = None,
) -> None:
    """Write a curriculum's sources as MosaicML Streaming (MDS) datasets, for any trainer.

    DIR/SOURCE/index.json and zstd shards, DIR/tokenizer.json and DIR/plan.json. Sources that are
    complete are kept. `ncamix run CURRICULUM --data DIR` trains from them.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from ncamix.compilation import compile_plan, compiled_samples

    console = Console()
    made, why = _plan(curriculum, trainer, settings)
    console.print(f"compiling [bold]{made.name}[/] for {escape(why)}", highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        text = progress.add_task("text", total=1.0, visible=False)
        tasks: dict[str, Any] = {}
        totals = compiled_samples(made)

        def done(name: str, samples: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=totals[name])
            progress.advance(tasks[name], samples)

        def say(what: str, share: float) -> None:
            progress.update(text, description=what, completed=share, visible=True)

        made = compile_plan(made, out, say, done)
        totals = compiled_samples(made)  # exact now
        for name, task in tasks.items():
            progress.update(task, total=totals[name])
    written = f"wrote {out}/plan.json and {len(made.sources)} datasets"
    console.print(written, highlight=False, markup=False)


@app.command()
def show(
    sources: Annotated[
        str,
        typer.Argument(
            metavar="SOURCES",
            help="A curriculum (all its synthetic sources) or one source of it: code_target, "
            "code_target:rich. Or a source in YAML: '{kind: nca, band: {gzip: [0.3, 0.4]}}'.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Where the pictures go.",
            show_default="here",
        ),
    ] = Path(),
    rules: Annotated[
        int, typer.Option("--rules", min=1, metavar="N", help="Rules drawn of each source.")
    ] = 6,
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            min=1,
            metavar="N",
            help="Frames drawn of each rule.",
            show_default="12; 48 in the animation",
        ),
    ] = None,
    gif: Annotated[bool, typer.Option("--gif", help="Draw an animation, too.")] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            metavar="N",
            help="Samples of each source whose tokens are counted.",
            show_default="a million tokens",
        ),
    ] = None,
    length: Annotated[
        int, typer.Option("--length", min=1, metavar="N", help="Tokens a sample.")
    ] = 1024,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            metavar="N",
            help="Seed of the rules.",
            show_default="the curriculum's; 0 for YAML",
        ),
    ] = None,
) -> None:
    """Draw what synthetic sources look like. Needs no trainer, and trains nothing.

    NAME_rules.png is a contact sheet of automata: a row is a rule, its score
    and band, and its frames. NAME.gif, with --gif, is the same rules, moving.
    NAME_tokens.png says how often each token occurs, by rank, beside Zipf's
    law, with the exponent that fits.

    The rules are those that a run of the curriculum trains on first. Example:

    ncamix show code_target:rich --rules 8 --gif --out pictures
    """
    from ncamix.selection import select
    from ncamix.showing import Options, write_pictures

    options = Options(rules, frames, gif, samples, length)
    write_pictures(select(sources, seed), out, options, Console())


@app.command()
def bands(
    alphabet: Annotated[
        int,
        typer.Option("--alphabet", "-a", metavar="N", help="Cell states.", show_default=False),
    ],
    grid: Annotated[
        str, typer.Option("--grid", metavar="SIDE|HxW", help="Cells: 12, or 12x16.")
    ] = "12",
    patch: Annotated[int, typer.Option("--patch", metavar="P", help="Cells a patch's side.")] = 2,
    burn_in: Annotated[
        int, typer.Option("--burn-in", metavar="N", help="Steps before the first frame.")
    ] = 10,
    stride: Annotated[int, typer.Option("--stride", metavar="N", help="Steps a frame.")] = 1,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="Above 0, at most 1.")
    ] = 1e-4,
    identity_bias: Annotated[
        float, typer.Option("--identity-bias", metavar="B", help="Added to a cell's own state.")
    ] = 0.0,
    rules: Annotated[int, typer.Option("--rules", min=1, metavar="N", help="Random rules.")] = 4000,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the rules.")] = 0,
    measure: Annotated[
        str, typer.Option("--measure", "-m", help="gzip, zstd or change_rate.")
    ] = "gzip",
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.png", help="Draw the histogram, too.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show how random rules spread over the complexity bands of an alphabet.

    Tells which bands an alphabet can reach, and how rare they are, before you
    write them into a curriculum. --json gives the counts (compressed size ->
    rules) and the share of every band of 10%. With the default rules and seed
    it is what `plan` judges by. Example:

    ncamix bands --alphabet 15 --grid 16 --plot bands.png
    """
    from ncamix.spreading import measured_spread, print_spread, spread_json, write_plot

    settings: dict[str, Any] = {
        "patch": patch,
        "burn_in": burn_in,
        "stride": stride,
        "temperature": temperature,
        "identity_bias": identity_bias,
    }
    with WaitingIfLong(Console(stderr=True)) as say:
        spread = measured_spread(alphabet, grid, measure, rules, seed, say, **settings)
    if as_json:
        print(json.dumps(spread_json(spread), indent=1))
    else:
        print_spread(spread, Console())
    if plot is not None:
        write_plot(spread, plot)
        if not as_json:
            print(f"wrote {plot}")


@app.command()
def report(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder: runs/NAME.", show_default=False)
    ],
) -> None:
    """Draw report.html of a run anew, also of one that is not finished."""
    from ncamix.report import write_report

    Console().print(f"wrote {write_report(run_folder)}", highlight=False, markup=False)


@app.command()
def schema(
    sort: Annotated[
        str, typer.Argument(metavar="SORT", help="curriculum, trainer or study.")
    ] = "curriculum",
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="DIR",
            show_default=False,
            help="Write all three to DIR/SORT.json instead.",
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of a sort of file, for editors that complete and check YAML.

    Name it in a file's first line: # yaml-language-server: $schema=curriculum.json
    """
    from ncamix.errors import fail, nearest
    from ncamix.schema import MODELS, schema_text, write_schemas

    if sort not in MODELS:
        raise fail(f"no such sort of file: '{sort}'", nearest(sort, MODELS, "sorts"))
    if write is None:
        print(schema_text(sort), end="")
        return
    for file in write_schemas(write):
        print(f"wrote {file}")


@app.command("help")
def help_(
    topic: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC]", help="language, or a section of it.", show_default=False),
    ] = None,
) -> None:
    """Explain the language: all of it, or a section. Without a topic, list them.

    ncamix COMMAND --help explains a command.
    """
    from rich.markdown import Markdown

    from ncamix.handbook import find_page, topics

    console = Console()
    if not topic:
        print("ncamix help TOPIC, where TOPIC begins one of")
        print("\n".join(f"  {name}" for name in topics()))
        return
    page = find_page(" ".join(topic))
    if console.is_terminal:
        console.print(Markdown(page))
    else:
        print(page)


@app.command()
def batch(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CURRICULUM|RUN",
            help="A curriculum, or the folder of a run: runs/NAME.",
            show_default=False,
        ),
    ],
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage", "-s", metavar="S", help="Name, or number from 1.", show_default="the first"
        ),
    ] = None,
    number: Annotated[
        int | None,
        typer.Option(
            "--batch", "-b", metavar="T", help="As metrics.jsonl counts.", show_default="0"
        ),
    ] = None,
    token: Annotated[
        int | None,
        typer.Option(
            "--token",
            metavar="N",
            show_default=False,
            help="The batch with the run's N-th token, instead of --stage and --batch.",
        ),
    ] = None,
    places: Annotated[
        str | None,
        typer.Option("--place", metavar="P", help="Some places: 3,7 or 0..7.", show_default="all"),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks", min=1, metavar="N", help="Show N ranks' shares.", show_default=False
        ),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Show text, draw frames of automata.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="List and draw large batches whole.")
    ] = False,
    trainer: TrainerOption = None,
    settings: SetOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Read text compiled there.", show_default=False),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="For the picture.", show_default="here"),
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the batch as JSON.")] = False,
) -> None:
    """Show what is in a global batch: what did the model see when the loss jumped?

    Source, sample number, shard and row of every sample; of a run, also the
    losses that it recorded, and whether these are the samples it trained on.

    --decode adds the beginning of each text (all of it with --place), and
    draws the frames of automata into NAME_STAGE_T.png. Examples:

    ncamix batch runs/code_target --token 152000 --decode

    ncamix batch code_target --stage code --batch 7 --decode --place 3
    """
    from ncamix.batch_output import batch_json, print_batch, write_picture
    from ncamix.inspection import Request, inspect

    console, run, difference = Console(), None, ""
    few = console.is_terminal and not as_json
    request = Request(stage, number, token, places, ranks, decode, few, every, data)
    with WaitingIfLong(Console(stderr=True)) as say:
        if os.path.isdir(what) and ("/" in what or "plan.json" in os.listdir(what)):
            from ncamix.replanning import replan

            if trainer is not None or settings:
                raise fail("a run has its own settings", "leave --trainer and --set out")
            run = Path(what)
            made, difference = replan(run, say)
        else:
            made, _ = _plan(what, trainer, settings)
        found = inspect(made, request, run, difference, say)
    picture = write_picture(found, out)
    if as_json:
        print(json.dumps(batch_json(found, picture), indent=1))
    else:
        print_batch(found, picture, console)


def _version(wanted: bool) -> None:
    if wanted:
        from ncamix import __version__

        print(f"ncamix {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Status 2 and a message for the user's mistakes, no traceback."""
    try:
        app()
    except UserError as error:
        for problem in error.problems:
            print(f"ncamix: {problem}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(f"ncamix: {error}; make room and run the same command again", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        status = getattr(error, "status", None)
        if status is None:
            if "WORLD_SIZE" not in os.environ:
                sys.excepthook = sys.__excepthook__  # torch's prints it twice
            raise
        print(f"ncamix: {error}; run the same command again to resume", file=sys.stderr)
        sys.exit(status)


if __name__ == "__main__":
    main()
