"""Entering a stage, planned: rows that are spared, groups that are frozen, states that go on.

    enter + vocabulary -> rows;  enter + the stage's clock -> batches;  what cannot be -> faults

Faults are (path below `enter`, what, the way out).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil

from ncamix.curriculum import Curriculum, Stage
from ncamix.groups import Group
from ncamix.optimizer import Optimizer
from ncamix.quantities import Refusal
from ncamix.schedule import Clock


def spared_rows(
    curriculum: Curriculum, stage: Stage, ranges: Mapping[str, tuple[int, int]]
) -> tuple[tuple[tuple[int, int], ...], list[Refusal]]:
    """Vocabulary rows [first, last) that re-initialising leaves alone, and faults.

    ranges: of the vocabulary, by name: (first id, number of ids).
    """
    found: set[tuple[int, int]] = set()
    faults: list[Refusal] = []
    for i, name in enumerate(stage.enter.spare if stage.enter is not None else ()):
        spans = [ranges[known] for known in curriculum.ranges_of(name) if known in ranges]
        found |= {(first, first + size) for first, size in spans}
        if not spans:
            what = f"the vocabulary has no rows of '{name}', which no stage draws from"
            faults.append((("spare", i), what, f"it has {', '.join(ranges)}"))
    return tuple(sorted(found)), faults


def frozen_batches(
    stage: Stage, clock: Clock
) -> tuple[tuple[tuple[Group, int], ...], list[Refusal]]:
    """Groups that are not trained, and for how many batches of the stage; and faults."""
    found: list[tuple[Group, int]] = []
    faults: list[Refusal] = []
    for group in stage.enter.freeze if stage.enter is not None else ():
        batches = clock.num_batches
        if group.until is not None:
            batches = ceil(clock.position(group.until))
            if batches >= clock.num_batches:
                what = f"'{group.name}' would be frozen for {batches:,} batches, and the stage has "
                what += f"{clock.num_batches:,}"
                remedy = "write a shorter time, or leave `until` out for the whole stage"
                faults.append((("freeze", group.name, "until"), what, remedy))
        found.append((Group(group.name, group.layers), batches))
    return tuple(found), faults


def state_to_keep(
    stage: Stage, optimizer: Optimizer, before: Optimizer | None
) -> Iterator[Refusal]:
    """Why a stage cannot go on with the state of an optimizer, if it wants to.

    optimizer: the stage's own. before: that of the stage before it, if there is one.
    """
    enter = stage.enter
    if enter is None or enter.optimizer_state != "keep":
        return
    where, fresh = ("optimizer_state",), "write optimizer_state: fresh"
    if enter.from_run is not None:
        what = "the weights come from another run, and the state of its optimizer is not read"
        yield where, what, fresh
    elif before is None:
        yield where, "there is no stage before this one whose optimizer could go on", fresh
    elif before.algorithm != optimizer.algorithm:
        yield (
            where,
            f"the stage before is trained with {before.algorithm}, this one with "
            f"{optimizer.algorithm}, which makes nothing of that state",
            f"{fresh}, or optimizer: {{kind: {before.algorithm}}}",
        )
