"""The command line. Errors of the user's end with status 2 and a message, without a traceback.

Commands import what they need when they are called, so that help is there at once.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from ncamix import (
    cache_command,
    compile_command,
    eval_command,
    export_command,
    looking,
    measure_command,
    report_command,
    study_command,
)
from ncamix.errors import UserError, fail, nearest
from ncamix.interrupting import interruptible
from ncamix.launching import begin_rank, launch, num_ranks
from ncamix.options import CurriculumArgument, SetOption, TrainerOption, plan_of
from ncamix.ranks import Ranks, is_first_to_fail
from ncamix.trust import TRUST_HELP, trust_files

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
        str | None,
        typer.Option(
            "--data",
            metavar="DIR|URL",
            show_default=False,
            help="Train from the datasets that `ncamix compile` wrote there, instead of generating "
            "them on the fly. The samples are the same. URLs are as `ncamix compile --help` says.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: the old run is moved aside, not deleted.")
    ] = False,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            min=1,
            metavar="N",
            help="Processes that train together on this machine.",
            show_default="one a GPU, or 1",
        ),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help=TRUST_HELP)] = False,
) -> None:
    """Train a curriculum; run it again to resume.

    Leaves in runs/NAME/: metrics.jsonl, evaluations.jsonl, test.json, summary.json, report.html,
    checkpoints/ and export/ (a model for Hugging Face transformers). Killed at any moment, the same
    command goes on from the last checkpoint, with the same batches and the same losses.
    """
    from ncamix.cache import cache_root
    from ncamix.disk import told_if_full
    from ncamix.plan_output import plan_line, summary_lines
    from ncamix.run_folder import RunFolder
    from ncamix.running import is_trained, refuse_ranks, run_plan

    if trust:
        trust_files()
    mine = Ranks()
    console = Console(quiet=not mine.is_first)
    with interruptible(mine):
        mine.join()
        with mine.together():
            started = num_ranks(ranks, mine)
            made, why = plan_of(curriculum, trainer, settings)
            refuse_ranks(made, max(started, mine.size))
        folder = out if out is not None else Path("runs") / made.name
        ways_out = {
            folder: "move the folder to a larger disk and name it with --out",
            cache_root(): "set NCAMIX_CACHE to a folder with more",
            Path(tempfile.gettempdir()): "set TMPDIR to a folder with more",
        }
        with told_if_full(ways_out):
            if started > 1 and (fresh or not is_trained(made, folder)):
                with RunFolder(folder).hold():  # the first rank will; told before all is loaded
                    pass
                raise typer.Exit(launch(started, sys.argv[1:]))
            console.print(plan_line(made, why), highlight=False)
            summary = run_plan(made, folder, data, fresh, console)
    for line in summary_lines(summary, folder):
        console.print(line, highlight=False, markup=False)


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
    from ncamix.schema import MODELS, schema_text, write_schemas

    if sort not in MODELS:
        raise fail(f"no such sort of file: '{sort}'", nearest(sort, MODELS, "sorts"))
    if write is None:
        print(schema_text(sort), end="")
        return
    for file in write_schemas(write):
        print(f"wrote {file}")


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


COMMANDS: dict[str, Callable[..., None]] = {
    "plan": looking.plan,
    "run": run,
    "study": study_command.study,
    "compile": compile_command.compile,
    "batch": looking.batch,
    "show": looking.show,
    "bands": looking.bands,
    "measure": measure_command.measure,
    "cache": cache_command.cache,
    "export": export_command.export,
    "eval": eval_command.eval_,
    "report": report_command.report,
    "schema": schema,
    "help": help_,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def _version(wanted: bool) -> None:
    if wanted:
        from ncamix import __version__

        print(f"ncamix {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


_FULL = "make room, and run the same command again"
_LOCKED = "see to it that it may be read and written, or choose another folder"
_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _LOCKED),
}


def main() -> None:
    """Run the command line. Status 2 and a message for the user's mistakes, no traceback.

    Of several ranks, the one that fails first says why.
    """
    try:
        app(args=begin_rank())
    except UserError as error:
        if is_first_to_fail():
            for problem in error.problems:
                print(f"ncamix: {problem}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0)
        if way_out is None:
            _raise_if_first(error)
        where = error.filename2 or error.filename
        what = f"{error.strerror}: {where}" if where else error.strerror
        if is_first_to_fail():
            print(f"ncamix: {what}\n    {way_out}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        status = getattr(error, "status", None)
        if status is None:
            _raise_if_first(error)
        if Ranks().is_first:
            print(f"ncamix: {error}; run the same command again to resume", file=sys.stderr)
        sys.exit(status)


def _raise_if_first(error: Exception) -> NoReturn:
    """Raise what is a fault of ncamix's or the machine's, unless another rank's came before."""
    if not is_first_to_fail():
        sys.exit(1)
    if "WORLD_SIZE" not in os.environ:
        sys.excepthook = sys.__excepthook__  # torch's prints it twice
    raise error


if __name__ == "__main__":
    main()
