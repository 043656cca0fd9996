"""The drawings of a study: what is found, curves over training, mixtures, tuning, sources.

No point stands without its interval where it comes of more than one seed: means have bands or
bars, Student's t between seeds. Few arms share a panel; many have one each, all of one scale, with
the arm that they are held against in grey behind each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ncamix import charts
from ncamix.charts import COOL, LABEL, TEXT, WARM, WIDTH, Theme, shortened, text_width
from ncamix.multiples import SMALL, Limits, multiples
from ncamix.over_seeds import Band
from ncamix.quantities import format_count
from ncamix.statistics import Interval
from ncamix.verdicts import with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOGETHER = 4  # arms that may share a panel
PITCH, PITCH_OF_TWO = 25.0, 31.0  # points, of rows with names of one line and of two
SQUEEZED = 0.3  # of an axis: rows within no more than this part of it can hardly be told apart
ARMS = (COOL[0], WARM[0], COOL[2], WARM[1], COOL[3], WARM[2])


@dataclass(frozen=True)
class Row:
    """A row of a picture: its name, single values, a mean with its interval, and words behind."""

    name: str
    mean: float | None
    interval: Interval | None
    values: Sequence[float] = ()
    words: str = ""
    colour: str = ""


@dataclass(frozen=True)
class Panel:
    """Rows drawn over one axis. zero: the axis has its 0 marked, and `shade` to either side of it
    is shaded."""

    title: str
    rows: Sequence[Row]
    zero: bool = False
    shade: float = 0.0


def interval_rows(panels: Sequence[Panel], theme: Theme) -> Figure:
    """Means and their intervals, a row each, named at the left; panels one above the other. A row
    that lies so far off that the others could not be told apart is written at its end of the axis.
    """
    from matplotlib.ticker import MaxNLocator

    rows = [row for panel in panels for row in panel.rows]
    left = 16 + min(WIDTH / 3.2, max(text_width(row.name) for row in rows))
    right = 14 + max(text_width(row.words) for row in rows) if any(r.words for r in rows) else 8.0
    room = WIDTH - left - right
    shown = [[charts.in_lines(row.name, left - 16) for row in panel.rows] for panel in panels]
    highs = [
        (PITCH_OF_TWO if any("\n" in name for name in names) else PITCH) * len(names)
        for names in shown
    ]
    fig, top = charts.new_figure(sum(highs) + 66 * len(panels)), 30.0
    for panel, names, high in zip(panels, shown, highs, strict=True):
        title = shortened(panel.title, room + right)
        ax = charts.add_rows(fig, (left, top, room, high), len(names), theme, title)
        _draw_rows(ax, panel, theme)
        ax.xaxis.set_major_locator(MaxNLocator(max(2, int(room / 75)), steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(plain)
        beside: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center"}
        for i, (row, name) in enumerate(zip(panel.rows, names, strict=True)):
            size = SMALL if "\n" in name else TEXT
            look = {"color": theme.ink, "ha": "right", "fontsize": size, **beside}
            ax.text(-14 / room, i, name, linespacing=1.15, **look)
            ax.text(1 + 10 / room, i, row.words, color=theme.muted, **beside)
        top += high + 66
    return fig


def _draw_rows(ax: Axes, panel: Panel, theme: Theme) -> None:
    marked = [0.0, panel.shade, -panel.shade] if panel.zero else []
    extents = {i: reach for i, row in enumerate(panel.rows) if (reach := _reach(row))}
    far = _far_off(extents, marked)
    low, high = _span([*marked, *(x for i in extents.keys() - far for x in extents[i])])
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    ax.set_xlim(low - margin, high + margin)
    if panel.zero:
        if panel.shade:
            ax.axvspan(-panel.shade, panel.shade, color=theme.muted, alpha=0.13, linewidth=0)
        ax.axvline(0, color=theme.muted, linewidth=1.1, zorder=2)
    for i, row in enumerate(panel.rows):
        colour = row.colour or theme.ink
        if i in far:
            above, said = extents[i][0] > high, with_interval(row.mean, row.interval, panel.zero)
            at, side = (0.99, "right") if above else (0.01, "left")
            words = f"{said} →" if above else f"← {said}"
            place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center"}
            ax.text(at, i, words, ha=side, color=colour, fontsize=SMALL, **place)
            continue
        spread = np.linspace(-0.24, 0.24, len(row.values)) if len(row.values) > 1 else 0.0
        if row.values:
            ax.plot(row.values, i + spread, ".", color=colour, markersize=4, alpha=0.45)
        if row.interval is not None:
            ends = (row.interval.low, row.interval.high)
            ax.plot(ends, (i, i), color=colour, linewidth=2.2, solid_capstyle="butt", zorder=4)
        if row.mean is not None:
            inside = colour if row.interval is not None else "none"  # hollow: of one seed
            look: dict[str, Any] = {"markersize": 6, "markerfacecolor": inside, "zorder": 5}
            ax.plot([row.mean], [i], "o", color=colour, **look)


def _reach(row: Row) -> Limits | None:
    """From the lowest to the highest of what a row shows; None if that is nothing."""
    ends = (row.interval.low, row.interval.high) if row.interval is not None else ()
    found = [x for x in (*row.values, row.mean, *ends) if x is not None and math.isfinite(x)]
    return _span(found) if found else None


def _span(values: Sequence[float]) -> Limits:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _far_off(extents: Mapping[int, Limits], marked: Sequence[float]) -> set[int]:
    """Rows, a quarter of them at most, without which the others and what is marked need no more
    than a part of the axis (SQUEEZED), and that lie wholly outside of it."""

    def span(rows: set[int]) -> Limits:
        return _span([*marked, *(x for row in rows for x in extents[row])])

    left = set(extents)
    low, high = span(left)
    for _ in range(len(extents) // 4):
        left.remove(min(left, key=lambda row: np.ptp(span(left - {row}))))
        least, most = span(left)
        far = set(extents) - left
        if most - least <= SQUEEZED * (high - low):
            outside = all(extents[row][0] > most or extents[row][1] < least for row in far)
            return far if outside else set()
    return set()


def plain(value: float, _: object = None) -> str:
    return f"{value:.6g}".replace("-", "−")


# ---- curves over training


def curves(
    bands: Mapping[str, Band],
    colours: Mapping[str, str],
    reference: str | None,
    title: str,
    theme: Theme,
    natural: bool = False,
    limits: Limits | None = None,
) -> list[Figure]:
    """Figures over training, by arm: one panel for a few arms; for many, one of those that have a
    colour and small multiples of all. limits: of the vertical axis."""
    over = {arm: (band.natural if natural else band.tokens) for arm, band in bands.items()}
    several = len(bands) > TOGETHER
    chosen = [arm for arm in bands if not several or arm in colours]
    y_limits = limits or _limits(bands.values())
    label = "natural tokens consumed" if natural else "tokens consumed in the run"
    figures = []
    if chosen:
        fig = charts.new_figure(330)
        ax = charts.add_curves(fig, 34, 250, chosen, theme, title)
        ax.set_xlabel(label, color=theme.muted, labelpad=5)
        ends = []
        for arm in chosen:
            band, x = bands[arm], over[arm]
            colour = colours.get(arm, theme.muted)
            ax.fill_between(x, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
            ax.plot(x, band.mean, color=colour, linewidth=1.8, zorder=4)
            name = shortened(arm, LABEL)
            ends.append((name, colour, x, np.clip(band.mean, *y_limits)))
        ax.set_xlim(0, max(float(over[arm][-1]) for arm in chosen) or 1.0)
        ax.set_ylim(*y_limits)
        ax.xaxis.set_major_formatter(lambda x, _: format_count(x))
        charts.label_line_ends(ax, ends, theme)
        figures.append(fig)
    if several:
        longest = max(float(x[-1]) for x in over.values()) or 1.0
        ticks = [(x, format_count(x)) for x in (0.0, *rounded(longest))]
        fig, panels = multiples(list(bands), (0.0, longest), y_limits, theme, ticks, plain, label)
        for panel, (arm, band) in zip(panels, bands.items(), strict=True):
            own = colours.get(arm, theme.ink) if arm != reference else theme.muted
            drawn = [(arm, band, own)]
            if reference in bands and arm != reference:
                drawn.insert(0, (str(reference), bands[str(reference)], theme.muted))
            for name, of, colour in drawn:
                panel.band(over[name], of.low, of.high, color=colour, alpha=0.25)
                panel.line(over[name], of.mean, color=colour, linewidth=1.3)
            if band.mean[-1] > y_limits[1]:
                panel.note(f"ends at {band.mean[-1]:.3g} ↑", color=own)
        figures.append(fig)
    return figures


def _limits(bands: Iterable[Band]) -> Limits:
    found = np.concatenate([np.concatenate([b.mean, b.low, b.high]) for b in bands])
    return _with_room(float(np.nanmin(found)), float(np.nanmax(found)))


def _with_room(low: float, high: float) -> Limits:
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def later(bands: Mapping[str, Band], chosen: Set[str], share: float = 0.2) -> Limits:
    """Limits that show the later part of curves that fall steeply at first: from `share` of the
    natural tokens on. Arms that are not `chosen` may be cut off above, where they are worse, and
    never below."""
    low, high = math.inf, -math.inf
    for arm, band in bands.items():
        late = band.natural >= share * band.natural[-1]
        values = np.concatenate([band.mean[late], band.low[late], band.high[late]])
        low = min(low, float(np.nanmin(values)))
        if arm in chosen or not chosen & bands.keys():
            high = max(high, float(np.nanmax(values)))
    return _with_room(low, high)


def rounded(highest: float) -> list[float]:
    """One or two round numbers below a limit."""
    step = 10 ** math.floor(math.log10(highest))
    for times in (5, 2, 1, 0.5, 0.2):
        if highest / (step * times) >= 2:
            return [step * times * k for k in range(1, int(highest / (step * times)) + 1)][:3]
    return [highest]
