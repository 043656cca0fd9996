"""The plans of a study: one for every variant, matched to the base where it says so.

    variant -> plan -> another budget, until it has as much as the base -> as many rows for all

Natural tokens are those of finite sources: text, pairs, datasets. Matching scales the trainer's
budget, which is all that it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from rich.table import Table
from rich.text import Text

from ncamix.errors import Problem, UserError
from ncamix.loading import LoadedCurriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.quantities import Quantity, format_count
from ncamix.study import Match
from ncamix.trainer import LoadedTrainer
from ncamix.variants import LoadedStudy, Variant, variants_of
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
    planned = [_plan_variant(loaded, variant, say) for variant in variants_of(loaded).values()]
    rows = max((p.plan.vocabulary.rows for p in planned if p.plan), default=0)
    for i, item in enumerate(planned):
        if item.plan and item.plan.vocabulary.rows < rows:
            padded = make_plan(_with_rows(item.plan.curriculum, rows), item.plan.trainer, say)
            planned[i] = replace(item, plan=padded)
    return planned


def tokens_of(plan: Plan) -> dict[str, int]:
    """Tokens of each source over a run."""
    tokens = dict.fromkeys(plan.sources, 0)
    for stage in plan.stages:
        for name, count in stage.counts.items():
            tokens[name] += count * stage.sequence_length
    return tokens


def study_table(planned: Sequence[PlannedVariant]) -> Table:
    """A line a variant: tokens, optimizer steps, and tokens of each source."""
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("variant", overflow="fold")
    for number in ("tokens", "steps"):
        table.add_column(number, justify="right", no_wrap=True)
    table.add_column("tokens of each source", overflow="fold")
    for item in planned:
        name = Text(item.variant.name)
        if item.plan is None:
            table.add_row(name, "", "", Text("; ".join(p.what for p in item.problems), "red"))
            continue
        shown = [f"{s} {n:,}" for s, n in tokens_of(item.plan).items() if n]
        steps = _amount(item.plan, "steps")
        table.add_row(name, f"{item.plan.num_tokens:,}", f"{steps:,}", Text(", ".join(shown)))
    return table


def study_json(loaded: LoadedStudy, planned: Sequence[PlannedVariant]) -> dict[str, Any]:
    """The plans of a study as plain JSON."""
    return {
        "ncamix": 1,
        "name": loaded.study.name,
        "seeds": list(loaded.study.seeds),
        "variants": {
            item.variant.name: {
                "fingerprint": item.plan.fingerprint,
                "num_tokens": item.plan.num_tokens,
                "num_steps": _amount(item.plan, "steps"),
                "vocabulary_rows": item.plan.vocabulary.rows,
                "tokens": tokens_of(item.plan),
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
            f"no budget gives '{variant.name}' the base's {format_count(target)} {what}; "
            f"it has {format_count(_amount(plan, match))}",
            "let a stage with text say `rest`, or write its durations as shares",
        )
    )


def _amount(plan: Plan, match: Match) -> int:
    if match == "steps":
        return sum(stage.num_batches for stage in plan.stages)
    tokens = tokens_of(plan)
    return sum(
        count
        for name, count in tokens.items()
        if match == "total" or plan.sources[name].spec.finite
    )


def _with_budget(loaded: LoadedTrainer, tokens: Fraction) -> LoadedTrainer:
    budget = Quantity(Fraction(max(1, round(tokens))), "tok")
    return replace(loaded, trainer=loaded.trainer.model_copy(update={"budget": budget}))


def _with_rows(loaded: LoadedCurriculum, rows: int) -> LoadedCurriculum:
    vocabulary = loaded.curriculum.vocabulary.model_copy(update={"rows": rows})
    curriculum = loaded.curriculum.model_copy(update={"vocabulary": vocabulary})
    return replace(loaded, curriculum=curriculum)
