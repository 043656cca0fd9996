"""The plans of a study: one for every variant, matched to the base where it says so.

    variant -> plan -> another budget, until it has as much as the base -> as many rows for all

Natural tokens are those of finite sources: text, pairs, datasets. Matching scales the trainer's
budget, which is all that it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ncamix.errors import Problem, UserError
from ncamix.loading import LoadedCurriculum
from ncamix.plan import Plan
from ncamix.plan_tables import add_row, new_table
from ncamix.planning import make_plan
from ncamix.quantities import Quantity, counted, format_count, format_fraction
from ncamix.study import Match, Study
from ncamix.trainer import LoadedTrainer
from ncamix.variants import LoadedStudy, Variant, named, shared, variants_of
from ncamix.waiting import Say, quiet

TRIES = 8  # of matching; one is enough where every duration is a share of the budget


@dataclass(frozen=True)
class PlannedVariant:
    """A variant and its plan, or the problems that keep it from having one."""

    variant: Variant
    plan: Plan | None
    problems: tuple[Problem, ...] = ()


def plan_study(loaded: LoadedStudy, say: Say = quiet) -> list[PlannedVariant]:
    """Plan every variant of a study under its trainer.

    All get as many rows of vocabulary as the one that needs most, so that models are of one size.
    """
    planned = []
    variants = variants_of(loaded)
    for i, variant in enumerate(variants.values()):
        if i:  # a study of one variant is no longer than a plan
            say(f"planning {variant.name}", i / len(variants))
        planned.append(_plan_variant(loaded, variant, say))
    rows = max((p.plan.vocabulary.rows for p in planned if p.plan), default=0)
    for i, item in enumerate(planned):
        if item.plan and item.plan.vocabulary.rows < rows:
            padded = make_plan(_with_rows(item.plan.curriculum, rows), item.plan.trainer, say)
            planned[i] = replace(item, plan=padded)
    return planned


def problems_of(planned: Sequence[PlannedVariant]) -> list[Problem]:
    """What keeps variants from being planned, each problem once, saying which have it."""
    return named({item.variant.name: item.problems for item in planned})


def tokens_of(plan: Plan) -> dict[str, int]:
    """Tokens of each source over a run."""
    tokens = {source.name: 0 for source in plan.sources.values()}
    for stage in plan.stages:
        for name, count in stage.counts.items():
            tokens[name] += count * stage.sequence_length
    return tokens


def print_study(loaded: LoadedStudy, planned: Sequence[PlannedVariant], console: Console) -> None:
    """The plans of a study on a terminal: a line a variant, how many runs that is, and remarks."""
    study, plans = loaded.study, {p.variant.name: p.plan for p in planned if p.plan}
    head = f": variants of {loaded.base.stem} under trainer {loaded.trainer.stem}"
    console.print(Text.assemble((study.name, "bold"), head))
    console.print(study_table(planned))
    for line in _words(study, list(plans.values())):
        console.print(Text(line, "dim"))
    for where, warning in shared({name: plan.warnings for name, plan in plans.items()}):
        console.print(Text.assemble(("note  ", "yellow"), f"{where}: {warning}"))


def study_table(planned: Sequence[PlannedVariant]) -> Table:
    """A line a variant: tokens, optimizer steps, and tokens of each source."""
    table = new_table("variant", "tokens", "steps", text=1)
    table.add_column("tokens of each source", overflow="fold")
    for item in planned:
        if item.plan is None:
            add_row(table, item.variant.name, "", "", "cannot be planned", style="red")
            continue
        shown = ", ".join(f"{name} {n:,}" for name, n in tokens_of(item.plan).items() if n)
        numbers = (f"{_amount(item.plan, match):,}" for match in ("total", "steps"))
        add_row(table, item.variant.name, *numbers, shown)
    return table


def _words(study: Study, plans: Sequence[Plan]) -> list[str]:
    """What a study comes to, a line each."""
    num_seeds = len(study.seeds)
    tokens = sum(plan.num_tokens for plan in plans) * num_seeds
    runs, seeds = counted(len(plans) * num_seeds, "run"), counted(num_seeds, "seed")
    lines = [f"{runs} with {seeds}: {format_count(tokens)} tokens"]
    if study.tune:
        points = prod(map(len, study.tune.settings.values()))
        tuning = counted(len(plans) * points * len(study.tune.seeds), "run")
        settings = counted(points, "setting")
        lines.append(f"before that, {tuning} to tune {settings} of every variant")
    if study.compare:
        first, second = study.compare.primary
        lines.append(
            f"compares {first} with {second} by {study.compare.metric}; "
            f"{format_fraction(study.compare.smallest_effect)} would matter"
        )
    return lines


def study_json(loaded: LoadedStudy, planned: Sequence[PlannedVariant]) -> dict[str, Any]:
    """The plans of a study as plain JSON."""
    return {
        "ncamix": 1,
        "name": loaded.study.name,
        "seeds": list(loaded.study.seeds),
        "variants": {
            item.variant.name: {
                "fingerprint": item.plan.fingerprint,
                "budget": int(item.plan.trainer.trainer.budget.value),
                "num_tokens": item.plan.num_tokens,
                "num_steps": _amount(item.plan, "steps"),
                "vocabulary_rows": item.plan.vocabulary.rows,
                "tokens": tokens_of(item.plan),
                "warnings": item.plan.warnings,
            }
            if item.plan
            else {"problems": [str(problem) for problem in item.problems]}
            for item in planned
        },
    }


def _plan_variant(loaded: LoadedStudy, variant: Variant, say: Say) -> PlannedVariant:
    try:
        curriculum, trainer = loaded.load(variant.settings)
        plan = make_plan(curriculum, trainer, say)
        if variant.match is not None:
            target = _amount(make_plan(*loaded.load(variant.point), say), variant.match)
            plan = _matched(plan, variant, target, loaded, say)
    except UserError as error:
        return PlannedVariant(variant, None, tuple(error.problems))
    return PlannedVariant(variant, plan)


def _matched(plan: Plan, variant: Variant, target: int, loaded: LoadedStudy, say: Say) -> Plan:
    """A plan with another budget, so that it has the base's amount to within a batch."""
    match = variant.match
    assert match is not None
    for _ in range(TRIES):
        amount = _amount(plan, match)
        batch = max(stage.batch_size * stage.sequence_length for stage in plan.stages)
        if abs(amount - target) < (1 if match == "steps" else batch):
            return plan
        if not amount:
            break
        aim = target + (Fraction(1, 2) if match == "steps" else 0)  # in the middle of a step
        budget = plan.trainer.trainer.budget.value * aim / amount
        plan = make_plan(plan.curriculum, _with_budget(plan.trainer, budget), say)
    where = ("variants", variant.written, "match")
    what = {"natural": "natural tokens", "total": "tokens", "steps": "optimizer steps"}[match]
    raise UserError(
        loaded.document.problem(
            where,
            f"no budget gives the base's {format_count(target)} {what}; "
            f"this one has {format_count(_amount(plan, match))}",
            "let a stage with text say `rest`, or write its durations as shares",
        )
    )


def _amount(plan: Plan, match: Match) -> int:
    if match == "steps":
        return sum(stage.num_batches for stage in plan.stages)
    sources = plan.curriculum.curriculum.sources
    return sum(
        count for name, count in tokens_of(plan).items() if match == "total" or sources[name].finite
    )


def _with_budget(loaded: LoadedTrainer, tokens: Fraction) -> LoadedTrainer:
    budget = Quantity(Fraction(max(1, round(tokens))), "tok")
    return replace(loaded, trainer=loaded.trainer.model_copy(update={"budget": budget}))


def _with_rows(loaded: LoadedCurriculum, rows: int) -> LoadedCurriculum:
    vocabulary = loaded.curriculum.vocabulary.model_copy(update={"rows": rows})
    curriculum = loaded.curriculum.model_copy(update={"vocabulary": vocabulary})
    return replace(loaded, curriculum=curriculum)
