"""`ncamix plan A B`: what differs between two plans, and from which token on.

    two plans -> the first batch that is not the same, and all that differs, key by key
              -> table, JSON

Sources and stages are compared by name. What is written differently and means the same is no
difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from ncamix.entry import Enter
from ncamix.forecast import drawn_samples
from ncamix.parting import Parting, Plans, Stages, find_parting, optimizer_of
from ncamix.plan import Plan, PlannedStage
from ncamix.plan_output import words
from ncamix.plan_tables import add_row, new_table
from ncamix.quantities import counted
from ncamix.sources import BlendSource, SourceSpec

Value = str | int | None


@dataclass(frozen=True)
class Difference:
    """A key that differs, such as `stages.code.batches`, and its value in either plan."""

    path: str
    first: Value
    second: Value


@dataclass(frozen=True)
class Comparison:
    """Two plans, where they part (None: nowhere), and how they differ."""

    plans: Plans
    parting: Parting | None
    differences: tuple[Difference, ...]


def compare(first: Plan, second: Plan) -> Comparison:
    """Compare two plans under one trainer."""
    plans = (first, second)
    found = [*_general(plans), *_sources(plans), *_stages(plans)]
    if not found:  # nothing that has a name here
        found += _differing("plan", [{"fingerprint": plan.fingerprint} for plan in plans])
    return Comparison(plans, find_parting(plans), tuple(found))


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain JSON; positions are tokens of the run, batches count from 1."""
    parting = comparison.parting
    return {
        "ncamix": 1,
        "same": not comparison.differences,
        "trainer": comparison.plans[0].trainer.trainer.name,
        "plans": [
            {
                "name": plan.name,
                "curriculum_file": plan.curriculum.document.file,
                "fingerprint": plan.fingerprint,
                "num_tokens": plan.num_tokens,
            }
            for plan in comparison.plans
        ],
        "same_until": parting
        and {
            "token": parting.tokens,
            "stages": [place and place[0] for place in parting.places],
            "batches": [place and place[1] for place in parting.places],
            "why": parting.why,
        },
        "differences": [vars(difference) for difference in comparison.differences],
    }


def print_comparison(comparison: Comparison, chosen: str, console: Console) -> None:
    """Where two plans part and what differs, as a table. `chosen`: why this trainer."""
    names = [plan.name for plan in comparison.plans]
    if names[0] == names[1]:
        names = [plan.curriculum.document.file for plan in comparison.plans]
    console.print(
        Text.assemble((names[0], "bold"), " and ", (names[1], "bold"), f" under {chosen}")
    )
    if not comparison.differences:
        console.print("the two plans are the same")
        return
    console.print(Text(_parting_words(comparison.parting)))
    table = new_table("", *names, text=3)
    group = ""
    for difference in comparison.differences:
        parts = difference.path.split(".")
        depth = 2 if parts[0] in ("stages", "sources") and len(parts) > 2 else len(parts) - 1
        head, key = ".".join(parts[:depth]), ".".join(parts[depth:])
        first, second = difference.first, difference.second
        told = [f"{v:,}" if isinstance(v, int) else v or "-" for v in (first, second)]
        if isinstance(first, int) and isinstance(second, int) and head != "seed":
            told[1] += f" ({second - first:+,})"
        if head != group:
            group = head
            add_row(table, head, style="bold")
        add_row(table, f"  {key}", *told)
    console.print(table)


def _parting_words(parting: Parting | None) -> str:
    if parting is None:
        return "the same in every batch; what differs:"
    places = dict.fromkeys(place for place in parting.places if place)
    where = " and ".join(f"from batch {batch - 1:,} of stage {stage} on" for stage, batch in places)
    if not parting.tokens:
        return f"different from the first token on: {parting.why}"
    return f"the same until token {parting.tokens:,} ({where}); then {parting.why}"


def _differing(path: str, facts: list[dict[str, Any]]) -> Iterator[Difference]:
    """The keys below `path` whose values differ; a missing one is None."""
    for key in {**facts[0], **facts[1]}:
        first, second = (fact.get(key) for fact in facts)
        if first != second:
            yield Difference(f"{path}.{key}" if path else key, _told(first), _told(second))


def _told(value: Any) -> Value:
    return value if value is None or type(value) is int else words(value)


def _general(plans: Plans) -> Iterator[Difference]:
    """Everything but sources and stages."""
    curricula = [plan.curriculum.curriculum for plan in plans]
    yield from _differing("", [{"tokens": plan.num_tokens} for plan in plans])
    yield from _differing("seed", [vars(plan.seeds) for plan in plans])
    yield from _differing("", [{"tokenizer": c.tokenizer} for c in curricula])
    yield from _differing("vocabulary", [_vocabulary(plan) for plan in plans])
    yield from _differing("evaluate", [dict(c.evaluate) for c in curricula])


def _vocabulary(plan: Plan) -> dict[str, Any]:
    vocabulary = plan.vocabulary
    ranges = {
        name: f"{first:,} to {first + size - 1:,}"
        for name, (first, size) in vocabulary.ranges.items()
    }
    kept = {"rows": vocabulary.rows, "layout": vocabulary.layout, "softmax": vocabulary.softmax}
    return {**kept, **ranges}


def _sources(plans: Plans) -> Iterator[Difference]:
    """Sources by name: the keys of those that both plans use."""
    both = [_used(plan) for plan in plans]
    common = [name for name in both[0] if name in both[1]]
    summaries = [
        {name: spec.summary() for name, spec in specs.items() if name not in common}
        for specs in both
    ]
    yield from _differing("sources", summaries)
    for name in common:
        specs = [specs[name] for specs in both]
        yield from _differing(f"sources.{name}", [dict(spec) for spec in specs])
        yield from _differing(f"sources.{name}", [_rest(plan, name) for plan in plans])
    yield from _differing("samples", [drawn_samples(plan) for plan in plans])


def _rest(plan: Plan, name: str) -> dict[str, Any]:
    """What else determines a source's samples, and their fingerprints; hashes are cut."""
    facts: dict[str, Any] = {}
    for key, source in plan.sources.items():
        if source.name == name:
            known = type(source.spec).model_fields
            facts |= {k: v for k, v in source.meaning.items() if k not in known}
            facts[f"fingerprint{key.removeprefix(name)}"] = source.fingerprint
    texts = {k: v[:12] for k, v in facts.items() if isinstance(v, str)}
    return {k: texts.get(k, v) for k, v in facts.items() if not isinstance(v, dict)}


def _used(plan: Plan) -> dict[str, SourceSpec]:
    """The sources that a plan uses, blends included."""
    specs, used = plan.curriculum.curriculum.sources, {s.name for s in plan.sources.values()}
    return {n: s for n, s in specs.items() if n in used or isinstance(s, BlendSource)}


def _stages(plans: Plans) -> Iterator[Difference]:
    """Stages by name: the keys of those that both plans have."""
    ours, theirs = ({stage.name: stage for stage in plan.stages} for plan in plans)
    orders = [[n for n in names if n in ours and n in theirs] for names in (ours, theirs)]
    yield from _differing("", [{"order of stages": names} for names in orders])
    for name in {**ours, **theirs}:
        if name not in ours or name not in theirs:
            lengths = [
                counted(s[name].num_batches, "batch", "batches") if name in s else None
                for s in (ours, theirs)
            ]
            yield Difference(f"stages.{name}", *lengths)
            continue
        stages = (ours[name], theirs[name])
        facts = [_facts(plan, stage) for plan, stage in zip(plans, stages, strict=True)]
        yield from _differing(f"stages.{name}", facts)
        yield from _schedules(name, stages)


def _facts(plan: Plan, stage: PlannedStage) -> dict[str, Any]:
    """What a stage comes to, by key."""
    enter = stage.enter or Enter()
    return {
        "first token": stage.first_token,
        "batches": stage.num_batches,
        "batch_size": stage.batch_size,
        "sequence_length": stage.sequence_length,
        "precision": stage.precision,
        "tokens": stage.num_tokens,
        **{f"samples.{name}": count for name, count in stage.counts.items()},
        "transform": stage.spec.transform,
        "replayed": stage.replayed,
        "until": stage.spec.until,
        **{f"optimizer.{key}": value for key, value in optimizer_of(stage).items()},
        **{f"enter.{key}": value for key, value in enter},
    }


def _schedules(name: str, stages: Stages) -> Iterator[Difference]:
    """Mixtures and rates that were written differently and come out differently, too."""
    one, other = stages
    counts = [stage.apportionment.counts for stage in stages]
    if one.sources != other.sources or not np.array_equal(counts[0], counts[1]):
        mixtures = [{"mixture": s.spec.mixture, "cycle": s.spec.cycle} for s in stages]
        yield from _differing(f"stages.{name}", mixtures)
    if one.rate != other.rate:
        rates = [{"lr": s.optimizer.lr, "cycle": s.optimizer.cycle} for s in stages]
        yield from _differing(f"stages.{name}.optimizer", rates)
