"""Evidence: whether a stage that says `until` has seen enough to end.

    evaluations of the stage so far -> every condition holds at the last one, or not

Pure functions of recorded numbers, which are the same on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ncamix.curriculum import Condition, Until


@dataclass(frozen=True)
class Observation:
    """One evaluation: tokens that the run had consumed, and values by metric, `loss/simple`."""

    tokens: int
    values: Mapping[str, float]


def has_ended(until: Until, seen: Sequence[Observation]) -> bool:
    """Whether every condition holds at the last observation; `seen` is in ascending tokens."""
    return bool(seen) and all(_holds(condition, seen) for condition in until.conditions)


def _holds(condition: Condition, seen: Sequence[Observation]) -> bool:
    name, now = metric_name(condition), seen[-1]
    if condition.below is not None:
        return now.values[name] < condition.below
    assert condition.plateau is not None and condition.over is not None
    since = now.tokens - condition.over.value
    before = [o.values[name] for o in seen if o.tokens <= since]
    recent = [o.values[name] for o in seen if o.tokens > since]
    # Not yet so long: nothing can be said. A loss that is no number is never a plateau.
    return bool(before) and min(recent) > min(before) * float(1 - condition.plateau)


def metric_name(condition: Condition) -> str:
    """A condition's metric as evaluations are told: `loss/simple`."""
    return f"{condition.metric}/{condition.source}"


def in_words(until: Until) -> str:
    """What a stage waits for, for a reader."""
    parts = []
    for c in until.conditions:
        if c.below is not None:
            parts.append(f"{metric_name(c)} is below {float(c.below):g}")
        else:
            parts.append(f"{metric_name(c)} gains less than {float(c.plateau or 0):g} over {c.over}")
    return " and ".join(parts)
