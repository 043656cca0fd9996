"""Entering a stage, planned: rows that are spared, groups that are frozen, runs to start from.

    enter + vocabulary -> rows;  enter + the stage's clock -> batches;  what cannot be -> faults

Faults are (path below `enter`, what, the way out).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import ceil
from pathlib import Path

from ncamix.curriculum import Curriculum, Stage
from ncamix.entry import RunStage
from ncamix.groups import Group
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


def is_there(origin: RunStage, folder: Path) -> bool:
    """Whether the stage of another run is finished; paths are relative to `folder`."""
    run = folder / os.path.expanduser(origin.run)
    return any((run / "checkpoints").glob(f"*-{origin.stage}/stage.json"))
