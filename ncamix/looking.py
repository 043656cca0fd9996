"""The commands that look, and train nothing: plan, batch, show and bands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ncamix.errors import UserError, fail
from ncamix.options import CurriculumArgument, SetOption, TrainerOption, plan_of, plans_of
from ncamix.waiting import WaitingIfLong


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
    which token on. Of a study (a file with a `base:` key): a line for each of
    its variants, under its own trainer unless --trainer names one. Examples:

    ncamix plan code_target mixed_bands --trainer cpu

    ncamix plan orders.yaml --set trainer.budget=2Mtok
    """
    from ncamix.plans import study_file

    if other is None and (study := study_file(curriculum)) is not None:
        if plot is not None:
            way_out = "plot its base, with what a variant changes as --set"
            raise fail("--plot draws one curriculum, and this is a study", way_out)
        _plan_study(study, trainer, settings, as_json)
        return
    if other is not None:
        if plot is not None:
            raise fail("--plot draws one curriculum", "plot each of the two by itself")
        from ncamix.comparison import compare, comparison_json, print_comparison

        (first, second), why = plans_of([curriculum, other], trainer, settings)
        found = compare(first, second)
        if as_json:
            print(json.dumps(comparison_json(found), indent=1))
        else:
            print_comparison(found, why, Console())
        return
    from ncamix.plan_output import plan_json
    from ncamix.plan_tables import print_plan

    made, why = plan_of(curriculum, trainer, settings)
    if as_json:
        print(json.dumps(plan_json(made), indent=1))
    else:
        print_plan(made, why, Console())
    if plot is not None:
        from ncamix.plan_picture import write_plan_picture

        write_plan_picture(made, plot)
        if not as_json:
            print(f"wrote {plot}")


def _plan_study(
    study: Path, trainer: str | None, settings: list[str] | None, as_json: bool
) -> None:
    """Plan a study. Variants that cannot be planned end it with an error when all are shown."""
    from ncamix.arms import check_compared, problems_of, study_json
    from ncamix.study_plan import plan_study
    from ncamix.study_tables import print_study
    from ncamix.variants import load_study

    with WaitingIfLong(Console(stderr=True)) as say:
        loaded = load_study(study, trainer, settings or ())
        arms = plan_study(loaded, say)
    if as_json:
        print(json.dumps(study_json(loaded, arms), indent=1))
    else:
        print_study(loaded, arms, Console())
    if problems := [*check_compared(loaded, arms), *problems_of(arms)]:
        raise UserError(problems)


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
        str | None,
        typer.Option(
            "--data", metavar="DIR|URL", help="Read text compiled there.", show_default=False
        ),
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
            made, _ = plan_of(what, trainer, settings)
        found = inspect(made, request, run, difference, say)
    picture = write_picture(found, out)
    if as_json:
        print(json.dumps(batch_json(found, picture), indent=1))
    else:
        print_batch(found, picture, console)


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
    settings: SetOption = None,
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
    write_pictures(select(sources, seed, settings or ()), out, options, Console())


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
