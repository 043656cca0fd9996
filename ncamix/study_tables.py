"""The plans of a study on a terminal: a line an arm, how many runs that is, and remarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ncamix.arms import Arm, against, amount, tokens_of
from ncamix.composition import Setting
from ncamix.controls import is_natural
from ncamix.plan import Plan
from ncamix.plan_tables import add_row, new_table
from ncamix.quantities import counted, format_count, format_fraction
from ncamix.variants import LoadedStudy, applicable, shared
from ncamix.verdicts import NO_NATURAL, NO_NEWS, UNTUNED, power_words


def print_study(loaded: LoadedStudy, arms: Sequence[Arm], console: Console) -> None:
    """The plans of a study: a line an arm, how many runs that is, and remarks."""
    head = f": variants of {loaded.base.stem} under trainer {loaded.trainer.stem}"
    console.print(Text.assemble((loaded.study.name, "bold"), head))
    console.print(study_table(arms))
    for line in study_words(loaded, arms):
        console.print(Text(line, "dim"))
    remarks = {
        arm.name: [text for text in arm.plan.warnings if not text.endswith(NO_NEWS)]
        for arm in arms
        if arm.plan and not arm.same_as
    }
    for where, warning in shared(remarks):
        console.print(Text.assemble(("note  ", "yellow"), f"{where}: {warning}"))


def study_table(arms: Sequence[Arm]) -> Table:
    """A line an arm: what it is, tokens, optimizer steps, and tokens of each source."""
    table = new_table("arm", "what it is", "tokens", "steps", text=2)
    table.add_column("tokens of each source", overflow="fold")
    for arm in arms:
        if arm.plan is None:
            add_row(table, arm.name, arm.title, "", "", "cannot be planned", style="red")
            continue
        shown = ", ".join(f"{name} {n:,}" for name, n in tokens_of(arm.plan).items() if n)
        if arm.same_as is not None:
            shown = f"the same as {arm.same_as}"
        numbers = (f"{amount(arm.plan, match):,}" for match in ("total", "steps"))
        add_row(table, arm.name, arm.title, *numbers, shown)
    return table


def _num_tuned(plan: Plan, points: Iterable[Sequence[Setting]]) -> int:
    """Points that are different ones to an arm, which may lack what some of them change."""
    curriculum = plan.curriculum.curriculum
    return len({tuple(map(str, applicable(point, curriculum))) for point in points})


def study_words(loaded: LoadedStudy, arms: Sequence[Arm]) -> list[str]:
    """What a study comes to, a line each."""
    study = loaded.study
    plans = [arm.plan for arm in arms if arm.plan and not arm.same_as]
    num_seeds = len(study.seeds)
    tokens = sum(plan.num_tokens for plan in plans) * num_seeds
    runs, seeds = counted(len(plans) * num_seeds, "run"), counted(num_seeds, "seed")
    lines = [f"{runs} with {seeds}: {format_count(tokens)} tokens"]
    if study.tune:
        points = loaded.tuning_points().values()
        tuned = sum(
            _num_tuned(arm.plan, points)
            for arm in arms
            if arm.plan and not arm.same_as and arm.lengthened is None
        )
        tuning = counted(tuned * len(study.tune.seeds), "run")
        settings = counted(len(points), "setting")
        lines.append(f"before that, {tuning} to tune {settings} of every arm, on validation")
    if study.compare:
        first, second = study.compare.primary
        lines.append(
            f"compares {first} with {second} by {study.compare.metric}; "
            f"{format_fraction(study.compare.smallest_effect)} would matter"
        )
        if others := _others(against(loaded, arms) or second, arms, (first, second)):
            lines.append(f"{' and '.join(others)}, adjusted for how many they are")
    if study.controls is None and any(arm.control for arm in arms):
        lines.append("the controls are there unasked: `controls:` names others, [] none")
    if study.compare and num_seeds < 2:
        lines += power_words(num_seeds, float(study.compare.smallest_effect), "")
    if not any(arm.plan is not None and is_natural(arm.plan) for arm in arms):
        lines.append(NO_NATURAL)
    if study.tune is None:
        lines.append(UNTUNED)
    return lines


def _others(to: str, arms: Sequence[Arm], primary: Sequence[str]) -> list[str]:
    """What is compared beside the primary pair, in words."""
    lines = []
    variants = [arm.name for arm in arms if arm.control is None and arm.lengthened is None]
    if any(name != to and {name, to} != set(primary) for name in variants):
        lines.append(f"the variants with {to}")
    for name in dict.fromkeys(arm.beside for arm in arms if arm.control is not None):
        lines.append(f"{name} with each of its controls")
    return lines
