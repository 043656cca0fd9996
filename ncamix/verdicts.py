"""Verdicts: what was declared to be compared, and the words for what came of it.

    a test, an adjusted p-value, the smallest effect that would matter -> a verdict -> sentences

Lower is better of every metric. A difference is the first arm's value less the second's, in the
metric's unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ncamix.quantities import counted
from ncamix.statistics import (
    Interval,
    PairedTest,
    detectable_effect,
    largest_sd,
    seeds_needed,
)
from ncamix.statistics import power as power_of

VERDICTS = ("better", "worse", "no difference shown", "underpowered", "not measured")
UNITS = {"loss": "nats per token", "bits_per_byte": "bits per byte", "perplexity": "of perplexity"}
UNTUNED = (  # what a study's design leaves open, before it runs and after
    "nothing is tuned: a learning rate that all arms share may suit one of them better than another"
)
NO_NATURAL = "no arm trains on natural sources alone: whether automata help at all stays open"
NO_NEWS = ("declared but never used", "is not used")  # ends of remarks that say nothing of an arm


@dataclass(frozen=True)
class Comparison:
    """What was declared before anything ran, as in a study's `compare`.

    against: the arm that variants are held against; None for the second of `primary`.
    lengths: arm -> the arms of all its lengths, itself among them, whose ends give its speed-up to
    `speedup_to`. Those of other lengths are not compared otherwise.
    beside: control -> the arm that it stands beside, which is held against it.
    """

    primary: tuple[str, str]
    metric: str
    smallest_effect: float
    confidence: float = 0.95
    power: float = 0.8
    against: str | None = None
    speedup_to: str | None = None
    lengths: Mapping[str, Sequence[str]] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def other(self) -> str:
        """The arm that variants are held against."""
        return self.against or self.primary[1]

    def level(self, family: int) -> float:
        """The confidence of Holm's first and strictest step over so many comparisons."""
        return 1 - (1 - self.confidence) / max(1, family)


def verdict(test: PairedTest | None, p: float | None, compare: Comparison) -> str:
    """One of `VERDICTS`. p: the test's own, or the adjusted one, which then decides.

    Better or worse where p is below 1 - confidence: of the test's own p, that is where its interval
    leaves out 0. Else no difference is shown: which says something where the interval lies within
    +- the smallest effect, and is for want of seeds, underpowered, where it reaches beyond.
    """
    if test is None or p is None:
        return "not measured"
    if p < 1 - compare.confidence:
        return "better" if test.mean < 0 else "worse"
    within = test.interval.within(compare.smallest_effect)
    return "no difference shown" if within else "underpowered"


def comparison_words(
    pair: tuple[str, str],
    test: PairedTest,
    p_adjusted: float | None,
    family: int,
    num_seeds: int,
    compare: Comparison,
) -> str:
    """What a test says, in a few sentences.

    p_adjusted: None for the primary comparison, else Holm's over `family` comparisons. num_seeds:
    those declared, of which the test may have fewer.
    """
    arm, other = pair
    said = verdict(test, test.p if p_adjusted is None else p_adjusted, compare)
    unit, smallest = unit_of(compare.metric), f"{compare.smallest_effect:g}"
    decided = said in ("better", "worse")
    sign = -1 if decided and test.mean < 0 else 1  # what is better is so by a positive amount
    low, high = sorted((sign * test.interval.low, sign * test.interval.high))
    some = f"{test.num_pairs} of " if test.num_pairs < num_seeds else ""
    how = f"paired t-test over {some}{counted(num_seeds, 'seed')}, {_p(test.p)}"
    if p_adjusted is not None:
        how += f", by Holm over {counted(family, 'comparison')} {_p(p_adjusted)}"
    amount = (
        f"{figures(sign * test.mean, test.interval)} {unit} "
        f"({percent(compare.confidence)} interval {figures(low, test.interval)} to "
        f"{figures(high, test.interval)}; {how})"
    )
    if decided:
        words = [f"{arm} is {said} than {other} by {amount}."]
        if test.interval.within(compare.smallest_effect):
            words.append(f"That is smaller than what would matter, {smallest}.")
        elif low < compare.smallest_effect:
            words.append(f"Whether it comes to what would matter, {smallest}, is open.")
        else:
            words.append(f"That is at least what would matter, {smallest}.")
    elif said == "no difference shown":
        words = [
            f"no difference shown between {arm} and {other}: {arm} - {other} is {amount}.",
            f"The interval lies within +-{smallest}: it leaves out what would matter.",
        ]
    else:
        words = [
            f"underpowered: {arm} - {other} is {amount}.",
            f"The interval reaches beyond +-{smallest}, what would matter.",
        ]
    if not decided and not test.interval.holds(0):
        words.append("By itself it leaves out 0, but not after the adjustment.")
    if p_adjusted is None or said == "underpowered":
        level = compare.level(1 if p_adjusted is None else family)
        words.append(_power_at_sd("At the sd seen", test.num_pairs, test.sd, level, compare))
    return " ".join(words)


def power_words(
    num_seeds: int,
    smallest_effect: float,
    metric: str,
    sd: float | None = None,
    confidence: float = 0.95,
    power: float = 0.8,
) -> list[str]:
    """What so many seeds can find in the primary comparison, a line each.

    sd: of the paired difference between seeds, where runs have shown it. Without one the effect is
    told in its multiples, and how large it may be for the smallest effect to be found.
    """
    seeds = counted(num_seeds, "seed")
    if num_seeds < 2:
        return [f"{seeds}: no test is possible, so no difference can be shown"]
    compare = Comparison(("", ""), metric, smallest_effect, confidence, power)
    if sd is not None:
        lead = "At the sd of finished runs"
        return [_power_at_sd(lead, num_seeds, sd, confidence, compare).rstrip(".")]
    times = detectable_effect(1.0, num_seeds, power, confidence)
    bound = largest_sd(smallest_effect, num_seeds, power, confidence)
    return [
        f"{seeds} find a difference of {times:.2f} sd or more with power {power:g} (paired t-test, "
        f"{percent(confidence)}); the sd is that of the difference, between seeds",
        f"{smallest_effect:g} {unit_of(metric)}, which would matter, is found so as long as that "
        f"sd is at most {bound:.3g}",
    ]


def unit_of(metric: str) -> str:
    """`bits_per_byte/code` as a unit: `bits per byte on code`."""
    name, _, source = metric.partition("/")
    return UNITS.get(name, name) + (f" on {source}" if source else "")


def percent(confidence: float) -> str:
    return f"{100 * confidence:.6g}%"


def figures(value: float, interval: Interval) -> str:
    """A value with as many decimals as give half the interval's width two digits; four digits where
    it has no width."""
    half = (interval.high - interval.low) / 2 or abs(value) / 100
    decimals = 1 - math.floor(math.log10(half)) if 0 < half < math.inf else 1
    decimals = min(12, max(0, decimals))
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def with_interval(value: float | None, interval: Interval | None, signed: bool = False) -> str:
    """`1.234 (1.220 to 1.248)`; the value alone where a single seed gives no interval."""
    if value is None:
        return "–"
    sign = "+" if signed and value > 0 else ""
    if interval is None:
        return f"{sign}{value:.4g}".replace("-", "−")
    shown = (figures(x, interval) for x in (value, interval.low, interval.high))
    mean, low, high = (text.replace("-", "−") for text in shown)
    return f"{sign}{mean} ({low} to {high})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"


def _power_at_sd(lead: str, num_pairs: int, sd: float, level: float, compare: Comparison) -> str:
    """The power for the smallest effect at an sd, the effect that is found, the seeds needed."""
    smallest, wanted = compare.smallest_effect, compare.power
    found = power_of(smallest, sd, num_pairs, level)
    effect = detectable_effect(sd, num_pairs, wanted, level)
    how = "more than" if effect > smallest else "no more than"
    adjusted = ""
    if level - compare.confidence > 1e-9:
        adjusted = f" and the {100 * (1 - level):.2g}% of the adjustment's first step"
    words = (
        f"{lead} ({sd:.3g}){adjusted}, {counted(num_pairs, 'seed')} find {effect:.3g} "
        f"{unit_of(compare.metric)} or more with power {wanted:g}, {how} what would matter; "
        f"{smallest:g} they find with power {found:.2f}"
    )
    if effect > smallest:
        needed = seeds_needed(smallest, sd, wanted, level)
        words += f", and about {needed} seeds would with {wanted:g}" if needed else ""
    return words + "."
