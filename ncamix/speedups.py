"""Speed-ups: how many times fewer tokens an arm takes to what a control ends at.

    ends of an arm's runs of several lengths, the control's end -> where they cross, for each seed
    -> a mean over seeds with its interval, only where all do -> words

An end is (tokens, value), lower is better, where the learning rate has come down: of a run of its
own, or of an annealed branch. A point on the way of a longer run is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ncamix.quantities import counted
from ncamix.statistics import Interval, finite, mean_interval
from ncamix.verdicts import percent, unit_of

CLOCKS = ("natural tokens", "all tokens")

End = tuple[float, float]


@dataclass(frozen=True)
class Crossing:
    """Where the ends of an arm's runs come to what a control ended at, with one seed.

    ratio: the control's tokens / the arm's at that place; None where no end is as good. at_least:
    already the shortest is better, so the ratio is that much or more. monotone: no longer run
    ended worse than a shorter one.
    """

    ratio: float | None
    at_least: bool = False
    monotone: bool = True


@dataclass(frozen=True)
class Speedup:
    """How many times fewer tokens an arm takes to what a control ends at.

    ratio, interval: only where every seed came to it between two of its ends, else see `words`.
    reached: in how many of `num_seeds`, those that have every run that it takes.
    """

    arm: str
    to: str
    clock: str
    ratio: float | None
    interval: Interval | None
    reached: int
    num_seeds: int
    words: str


def crossing(control: End, ends: Iterable[End]) -> Crossing:
    """Where an arm comes to a control's value, as a ratio of tokens: its speed-up with one seed.

    control, ends: (tokens, value), lower is better, each the annealed end of a run of its own.
    With v the control's value, let (t0, v0) and (t1, v1) be the first neighbours by tokens with
    v0 > v >= v1. Value is taken as linear in log tokens between them,
    log t = log t0 + (v0 - v) / (v0 - v1) (log t1 - log t0), and the ratio is the control's tokens
    over t. Nothing is extrapolated. Where ends go up and down, the first crossing counts, which
    favours the arm: `monotone` says so.
    """
    ordered = sorted(ends)
    finite([x for end in (control, *ordered) for x in end])
    tokens, value = control
    if tokens <= 0 or any(end[0] <= 0 for end in ordered):
        raise ValueError("tokens of an end are above 0")
    if len({end[0] for end in ordered}) < len(ordered):
        raise ValueError("two ends have the same tokens")
    neighbours = list(zip(ordered, ordered[1:], strict=False))
    monotone = all(v1 <= v0 for (_, v0), (_, v1) in neighbours)
    if not ordered or min(v for _, v in ordered) > value:
        return Crossing(None, monotone=monotone)
    first, best = ordered[0]
    if best <= value:
        return Crossing(tokens / first, at_least=best < value, monotone=monotone)
    (t0, v0), (t1, v1) = next(pair for pair in neighbours if pair[1][1] <= value)
    share = (v0 - value) / (v0 - v1)
    return Crossing(tokens / (t0 * (t1 / t0) ** share), monotone=monotone)


def speedup(
    crossings: Sequence[Crossing], confidence: float = 0.95
) -> tuple[float, Interval | None] | None:
    """The geometric mean of the seeds' ratios, and exp of the t-interval of their logarithms.

    None unless every seed came to the control's value, and between two of its ends: a mean over
    the seeds that did would say too much or too little. One seed has no interval.
    """
    logs = [math.log(c.ratio) for c in crossings if c.ratio is not None and not c.at_least]
    if not logs or len(logs) < len(crossings):
        return None
    if len(logs) == 1:
        return math.exp(logs[0]), None
    mean, found = mean_interval(logs, confidence)
    low, high = (math.exp(min(x, 709.0)) for x in (found.low, found.high))  # as far as floats go
    return math.exp(mean), Interval(low, high, confidence)


def measured(
    arm: str,
    to: str,
    clock: str,
    ends: Mapping[int, tuple[End, Sequence[End]]],
    num_seeds: int,
    metric: str,
    confidence: float = 0.95,
) -> Speedup:
    """The speed-up of an arm to a control by one clock, with its words.

    ends: seed -> the control's end and the arm's, of the seeds that have them all, among
    `num_seeds` declared.
    """
    crossings = {seed: crossing(*both) for seed, both in ends.items()}
    found = list(crossings.values())
    ratio, interval = speedup(found, confidence) or (None, None)
    total, lacking = counted(len(found), "seed"), num_seeds - len(found)
    some = f"{len(found)} of " if lacking else ""
    if not found:
        said = "not measured, as no seed has every run that it takes"
    elif ratio is None:
        said = f"{_pieces(found, total, ends)}: so there is no mean and no interval"
    elif interval is None:
        said = f"{ratio:.2f}x in {some}{counted(num_seeds, 'seed')}, which takes no interval"
    else:
        said = (
            f"{ratio:.2f}x ({percent(confidence)} interval {interval.low:.2f}x to "
            f"{interval.high:.2f}x; paired t over logarithms, not adjusted, "
            f"{some}{counted(num_seeds, 'seed')})"
        )
        if interval.low <= 1:
            said += ", so no speed-up is shown" if interval.holds(1) else ", which is slower"
    where = f"where {to} ends ({unit_of(metric)})"
    words = [f"Speed-up of {arm} to {where}, in {clock}: {said}."]
    if found and lacking and ratio is None:
        words.append(f"Of {counted(num_seeds, 'seed')}, {lacking} lack a run and are left out.")
    if uneven := [str(seed) for seed, c in crossings.items() if not c.monotone]:
        words.append(
            f"Longer runs end worse than shorter ones with {'seeds' if uneven[1:] else 'seed'} "
            f"{', '.join(uneven)}; the first crossing counts, which favours {arm}."
        )
    reached = sum(c.ratio is not None for c in found)
    return Speedup(arm, to, clock, ratio, interval, reached, len(found), " ".join(words))


def _pieces(
    found: Sequence[Crossing], total: str, ends: Mapping[int, tuple[End, Sequence[End]]]
) -> str:
    """What is said where some seeds have no ratio or only a bound of it."""
    said = []
    if late := sum(c.ratio is None for c in found):
        longest = min(max(t for t, _ in of) / control[0] for control, of in ends.values())
        said.append(f"not reached in {late} of {total}, with {longest:.3g}x its tokens at most")
    if early := [c.ratio for c in found if c.ratio is not None and c.at_least]:
        said.append(
            f"at least {min(early):.2f}x in {len(early)} of {total}, where the shortest run is "
            "already better"
        )
    if between := sorted(c.ratio for c in found if c.ratio is not None and not c.at_least):
        shown = ", ".join(f"{ratio:.2f}x" for ratio in between)
        said.append(f"{shown} in {len(between)} of {total}")
    return "; ".join(said)
