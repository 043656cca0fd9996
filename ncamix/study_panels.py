"""Further drawings of a study: mixtures of arms, tuning, tokens by alphabet, Zipf's law.

Mixtures are percent of samples over tokens; the metric is in its own unit. Means have their
intervals wherever they come of more than one seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ncamix import charts
from ncamix.charts import COOL, LABEL, TEXT, WARM, WIDTH, Theme, shortened, text_width
from ncamix.frequencies import zipf_shares
from ncamix.log_columns import Floats
from ncamix.multiples import SMALL, multiples
from ncamix.over_seeds import estimate
from ncamix.quantities import format_count
from ncamix.run_record import Json
from ncamix.study_drawings import plain
from ncamix.study_effects import Scaling, Tuned
from ncamix.study_sources import Frequencies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANNED, REALISED, PITCH = 20.0, 9.0, 44.0  # heights of strips, distance of arms
MUCH_LONGER = 4.0  # than the shortest: then each arm has its own scale
NUM_POINTS = 400  # of a line by ranks
LINES = (COOL[0], WARM[0], COOL[2], WARM[1], COOL[3], WARM[2], COOL[5], WARM[3])


@dataclass(frozen=True)
class Mixed:
    """An arm's mixture: its plan, and what was realised of each stage, if it has begun."""

    name: str
    plan: Json
    realised: Sequence[tuple[Floats, Mapping[str, Floats]]]


def mixtures(arms: Sequence[Mixed], colours: Mapping[str, str], theme: Theme) -> Figure:
    """A pair of strips an arm: the planned mixture, and below it what was realised."""
    left = 16 + min(WIDTH / 3.8, max(text_width(arm.name) for arm in arms))
    right = 62.0
    lengths = [float(arm.plan["num_tokens"]) for arm in arms]
    common = max(lengths) <= MUCH_LONGER * min(lengths)
    total = PITCH * len(arms) + (38 if common else 12)
    fig = charts.new_figure(total)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, WIDTH)
    ax.set_ylim(total, 0)
    ax.set_axis_off()
    room = WIDTH - left - right
    for i, (arm, length) in enumerate(zip(arms, lengths, strict=True)):
        top, scale = 6 + i * PITCH, room / (max(lengths) if common else length)
        words = charts.in_lines(arm.name, left - 16)
        size = SMALL if "\n" in words else TEXT
        middle = top + (PLANNED + REALISED) / 2
        ax.text(left - 12, middle, words, color=theme.ink, ha="right", va="center", fontsize=size)
        ax.text(
            left + length * scale + 6,
            top + PLANNED / 2 + 4,
            format_count(length),
            color=theme.muted,
            fontsize=SMALL,
        )
        for number, stage in enumerate(arm.plan["stages"]):
            if number < len(arm.realised):
                x, shares = arm.realised[number]
                steps = np.repeat(x, 2)[1:-1] if len(x) > 1 else np.zeros(0)
                stacked = {s: np.repeat(v, 2) / 100 for s, v in shares.items()}
                place = (top + PLANNED + 2, REALISED)
                _stack(ax, left + steps * scale, stacked, place, colours)
            curve = stage["mixture_curve"]
            at = (
                stage["first_token"]
                + np.array([0.0, *curve["progress"], 1.0]) * (stage["num_tokens"])
            )
            weights = {
                s: np.pad(np.array(w, np.float64), 1, mode="edge")
                for s, w in curve["weights"].items()
            }
            _stack(ax, left + at * scale, weights, (top, PLANNED), colours)
            if number:
                x0 = left + stage["first_token"] * scale
                bottom = top + PLANNED + 2 + REALISED
                dashed = (0, (3, 2))
                ax.vlines([x0], top - 3, bottom + 3, color=theme.ink, linewidth=1, linestyle=dashed)
    if common:
        _token_axis(ax, left, room, max(lengths), total - 30, theme)
    return fig


def _stack(
    ax: Axes,
    x: Floats,
    weights: Mapping[str, Floats],
    place: tuple[float, float],
    colours: Mapping[str, str],
) -> None:
    """Shares of 1 on top of each other in a strip: its top and height."""
    top, height = place
    base = np.zeros(len(x))
    for source in [s for s in colours if s in weights and len(x) and weights[s].any()]:
        up = base + weights[source]
        low, high = top + height * (1 - base), top + height * (1 - up)
        ax.fill_between(x, low, high, color=colours[source], linewidth=0)
        base = up


def _token_axis(
    ax: Axes, left: float, room: float, length: float, top: float, theme: Theme
) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.hlines([top], left, left + room, color=theme.muted, linewidth=0.8)
    for tick in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(0, length):
        if tick <= length:
            x = left + tick / length * room
            ax.vlines([x], top, top + 3, color=theme.muted, linewidth=0.8)
            ax.text(x, top + 15, format_count(tick), ha="center", color=theme.muted, fontsize=SMALL)
    ax.text(left, top + 29, "tokens consumed in the run", color=theme.muted, fontsize=SMALL)


# ---- tuning


def tuning(arms: Sequence[Tuned], confidence: float, theme: Theme) -> Figure:
    """A panel an arm: the metric at each point of the grid, the chosen one ringed; crosses stand
    for runs that diverged."""
    names = [name for name, _ in arms[0].points]
    known = [v for arm in arms for _, of in arm.points for v in of if math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = 0.12 * (high - low) or 0.5
    words = _point_words(names)
    columns = 3 if len(names) > 6 else 0
    ticks = list(enumerate(words))
    label = "the point of the grid" if words != names else ""
    label = label if len({name.rpartition("=")[0] for name in names}) > 1 else _setting(names)
    fig, panels = multiples(
        [arm.arm for arm in arms],
        (-0.5, len(names) - 0.5),
        (low - room, high + room),
        theme,
        ticks,
        plain,
        label,
        columns,
    )
    for panel, arm in zip(panels, arms, strict=True):
        means = []
        for i, (name, values) in enumerate(arm.points):
            found = [v for v in values if math.isfinite(v)]
            if len(found) < len(values):
                panel.line([i], [high + room / 2], marker="x", color=WARM[0], markersize=5)
            if not found:
                continue
            mean, interval = estimate(found, confidence)
            means.append((i, mean))
            if interval is not None:
                panel.upright([i], [interval.low], [interval.high], color=COOL[0], linewidth=1.2)
                beside = [i + 0.12] * len(found)
                panel.line(beside, found, marker=".", linestyle="", color=theme.muted, markersize=3)
            chosen = name == arm.chosen
            ring = {"markersize": 9, "markeredgewidth": 1.3} if chosen else {"markersize": 0}
            panel.line([i], [mean], marker="o", color=COOL[0], markersize=4, zorder=4)
            panel.line(
                [i], [mean], marker="o", markerfacecolor="none", color=theme.ink, zorder=5, **ring
            )
        panel.line(*zip(*means, strict=True), color=COOL[0], linewidth=1.1) if means else None
    return fig


def _point_words(names: Sequence[str]) -> list[str]:
    """Points by their values alone, where one setting is tuned; numbers where names are long."""
    if all(name.count("=") == 1 for name in names):
        return [name.partition("=")[2] for name in names]
    return list(map(str, range(1, len(names) + 1)))


def _setting(names: Sequence[str]) -> str:
    return names[0].partition("=")[0] if names else ""


# ---- tokens of automata by alphabet


def scaling(
    lines: Sequence[Scaling],
    reference: tuple[str, Sequence[float]] | None,
    title: str,
    theme: Theme,
) -> Figure:
    """The metric over tokens of automata, a line an alphabet; behind them the arm that all are held
    against: its name, mean, and the ends of its interval where it has one."""
    labels = [line.label for line in lines] + ([reference[0]] if reference else [])
    fig = charts.new_figure(330)
    ax = charts.add_curves(fig, 34, 250, labels, theme, title)
    amounts = sorted({tokens for line in lines for tokens, *_ in line.points})
    first, last = math.log10(amounts[0]) - 0.08, math.log10(amounts[-1]) + 0.08
    ax.set_xlim(first, last)  # of logarithms, since labels are laid out on linear axes
    ends = []
    for i, line in enumerate(lines):
        colour = LINES[i % len(LINES)]
        aside = 0.008 * (i - (len(lines) - 1) / 2)  # no interval covers another
        x = np.log10([tokens for tokens, *_ in line.points]) + aside
        y = np.array([mean for _, _, mean, _ in line.points])
        for at, (*_, interval) in zip(x, line.points, strict=True):
            if interval is not None:
                ax.vlines(at, interval.low, interval.high, color=colour, linewidth=1.8)
        ax.plot(x, y, "o-", color=colour, linewidth=1.6, markersize=5, zorder=4)
        ends.append((shortened(line.label, LABEL), colour, x, y))
    if reference is not None:
        name, (mean, *bounds) = reference
        if bounds:
            ax.axhspan(*bounds, color=theme.muted, alpha=0.15, linewidth=0)
        ax.axhline(mean, color=theme.muted, linewidth=1.3)
        across = np.array([first, last]), np.array([mean, mean])
        ends.append((shortened(name, LABEL), theme.muted, *across))
    ax.set_xticks(np.log10(amounts), list(map(format_count, amounts)))
    ax.yaxis.set_major_formatter(plain)
    ax.set_xlabel("tokens of automata (logarithmic axis)", color=theme.muted, labelpad=5)
    charts.label_line_ends(ax, ends, theme)
    return fig


# ---- how often tokens occur


def rank_frequencies(
    sources: Sequence[Frequencies], colours: Mapping[str, str], theme: Theme
) -> Figure:
    """Share of all tokens by rank on logarithmic axes, a line a source, and Zipf's law at 1."""
    fig = charts.new_figure(400)
    labels = [*(source.label for source in sources), "Zipf’s law"]
    title = "share of all tokens by rank, both axes logarithmic"
    ax = charts.add_curves(fig, 34, 320, labels, theme, title)
    ends = []
    longest = max(len(source.counts.shares) for source in sources)
    drawn = [
        (s.label, colours.get(s.source, theme.ink), s.counts.shares, "-" if s.first else ":")
        for s in sources
    ]
    drawn.append(("Zipf’s law", theme.muted, zipf_shares(1, longest), "--"))
    for label, colour, shares, style in drawn:
        spread = np.geomspace(1, len(shares), NUM_POINTS)
        ranks = np.unique(spread.round().astype(np.intp))
        x, y = np.log10(ranks.astype(np.float64)), np.log10(shares[ranks - 1])
        ax.plot(x, y, style, color=colour, linewidth=1.8)
        ends.append((shortened(label, LABEL), colour, x, y))
    ax.set_xlim(-0.03, max(1.0, 1.02 * math.log10(longest)))
    power = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        at = np.arange(math.ceil(low), math.floor(high) + 1)
        axis.set_ticks(at, [f"10{str(int(k)).translate(power)}" for k in at])
    ax.set_xlabel("rank", color=theme.muted, labelpad=5)
    charts.label_line_ends(ax, ends, theme)
    return fig
