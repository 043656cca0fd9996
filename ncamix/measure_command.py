"""The command that measures corpora: `ncamix measure`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ncamix.waiting import WaitingIfLong


def measure(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Files, folders, quoted globs, python-stdlib, or text sources of a curriculum as "
            "CURRICULUM:SOURCE. Each is measured by itself.",
            show_default=False,
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="bytes|N|NAME",
            help="For the ratio of tokens: bytes; a BPE of N ids, trained on each corpus itself; "
            "or a pretrained one, by path or hub id.",
        ),
    ] = "4096",
    window: Annotated[
        int,
        typer.Option(
            "--window",
            metavar="BYTES",
            help="Size of a window of raw text; windows of 1,440, 4,096, 16,384 and 65,536 bytes "
            "are shown beside it.",
        ),
    ] = 4096,
    windows: Annotated[
        int,
        typer.Option("--windows", min=2, metavar="N", help="Windows drawn of each size, at most."),
    ] = 4000,
    limit: Annotated[
        str,
        typer.Option(
            "--limit", metavar="BYTES", help="Text that is read of each corpus, at most: 50M, 2G."
        ),
    ] = "50M",
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Seed of all that is drawn.")
    ] = 0,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Write a picture, too: the corpora's scores above those of automata.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measure how complex a corpus is, and which automata score like it.

    Gzip ratio of its raw text and of its tokens, Zipf's exponent, what repeats,
    and the band and alphabet nearest to it, as YAML for a curriculum.

    Raw text: documents in an order drawn from their files' names, joined by a
    newline, in windows of --window bytes (4,096 are about 1,024 tokens).
    Tokens: each document closed by its end of text, windows of 360 ids as
    little-endian int32. That is 1,440 bytes, what ten frames of an automaton
    take: the scale that bands live on. A ratio is the size after gzip -9 by the
    size before, averaged over windows, with an interval of 95% (bootstrap over
    documents). A ratio depends on its window: small windows compress less.

    The nearest band is the one whose rules' scores have the smallest earth
    mover's distance to the scores of the corpus's windows. Beside it stands the
    authors' own mapping, which takes the ratio of raw text for a band. Both are
    heuristics, with no claim that a model trains better on them.

    Of corpora larger than --limit, the files that come first in that order are
    read, and the output says how much that is. Broken files of a folder or a
    glob are left out as a whole, counted and named; a file that is named itself
    is an error then, as is one of a curriculum. Examples:

    ncamix measure python-stdlib 'docs/**/*.md' --plot corpora.png

    ncamix measure code_target:code --tokenizer gpt2 --json
    """
    from ncamix.measure.corpora import find_corpora
    from ncamix.measure.measures import Options, limit_of
    from ncamix.measure.measures import measure as measure_corpus
    from ncamix.measure.output import measured_json, print_measured

    options = Options(tokenizer, window, windows, limit_of(limit), seed)
    with WaitingIfLong(Console(stderr=True)) as say:
        found = [measure_corpus(corpus, options, say) for corpus in find_corpora(paths)]
    if as_json:
        print(json.dumps(measured_json(found), indent=1))
    else:
        print_measured(found, Console())
    if plot is not None:
        from ncamix.measure.picture import write_measure_picture

        write_measure_picture(found, plot)
        if not as_json:
            print(f"wrote {plot}")
