"""Draw the charts of a finished or running training run.

Data flow: one `StageRecord` a stage (what was planned, what was recorded) goes in; out come
figures, for pages as inline SVG or by themselves as PNG. Charts share one horizontal axis, tokens
consumed in the run, save small panels, which have their own.

Units: lengths on paper are points (1/72 inch), which are CSS pixels on a page of full width; losses
are nats per token, shares are percent of samples, learning rates are plain numbers. Long traces are
thinned before drawing, so that a chart's size does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ncamix.run_record import Floats, StageRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 960.0  # points; the page's column in CSS pixels
LEFT, TEXT = 44.0, 11.5
LABEL = WIDTH / 4  # what names at the ends of lines may take

# After Tol's "muted" scheme, safe for the colour-blind: cool hues for automata and other synthetic
# sources, warm ones for language. Beyond three of each the labels have to help.
COOL = ["#4477aa", "#5cb8e6", "#2f8f5b", "#6b5fb5", "#44aa99", "#1b5e7d", "#a3c585", "#8da0cb"]
WARM = ["#cc6677", "#d0b54c", "#aa4499", "#e08e5a", "#882255", "#a67c52"]


@dataclass(frozen=True)
class Theme:
    """Neutral colours: text, quieter text, hairlines, background."""

    ink: str
    muted: str
    line: str
    paper: str


PAGE = Theme("#010101", "#020202", "#030303", "#fefefe")  # stand-ins, replaced by CSS variables
WHITE = Theme("#1b1d21", "#62666d", "#dfe1e5", "#ffffff")


def source_colours(kinds: Mapping[str, str]) -> dict[str, str]:
    """A colour for each source, the same in every chart; warm for language, cool for the rest."""
    language = [s for s, kind in kinds.items() if kind in ("text", "pairs")]
    others = [s for s in kinds if s not in language]
    warm = WARM + COOL[: len(others) - 1 : -1]  # either borrows what the other leaves over
    cool = COOL + WARM[: len(language) - 1 if language else None : -1]
    colours = {s: warm[i % len(warm)] for i, s in enumerate(language)}
    colours |= {s: cool[i % len(cool)] for i, s in enumerate(others)}
    return {s: colours[s] for s in kinds}


def style() -> AbstractContextManager[None]:
    """Settings that every chart is drawn and written under."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "ncamix",
            "text.parse_math": False,
            "font.family": "DejaVu Sans",
            "font.size": TEXT,
            "axes.unicode_minus": True,
        }
    )


def new_figure(height: float, width: float = WIDTH, dpi: float = 72.0) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=dpi)


def add_panel(
    fig: Figure,
    top: float,
    height: float,
    stages: Sequence[StageRecord],
    theme: Theme,
    title: str,
    last: bool = True,
    margin: float = 0.0,
    labels: Iterable[str] = (),
) -> Axes:
    """A panel `top` points below the figure's edge, over the run's tokens, with stage bounds.

    The first panel of a figure carries the stages' names, the `last` one the axis of tokens.
    `labels` may stand at the ends of lines; names of sources always may.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    width, total = (72 * float(v) for v in fig.get_size_inches())
    names = {name for stage in stages for name in (*stage.mixture, *stage.counts)} | {*labels}
    inner = (
        width - 2 * margin - LEFT - min(0.25 * width, 18 + max(map(text_width, names), default=0))
    )
    first = not fig.axes
    ax = fig.add_axes(
        ((margin + LEFT) / width, 1 - (top + height) / total, inner / width, height / total)
    )
    _dress(ax, theme)
    ax.set_xlim(0, max(1, stages[-1].first_token + stages[-1].num_tokens))
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    if last:
        ax.set_xlabel(
            "tokens consumed in the run", color=theme.muted, fontsize=TEXT - 0.5, labelpad=5
        )
    else:
        ax.tick_params(labelbottom=False)
    if first:
        _name_stages(ax, stages, theme)
    ax.text(
        -LEFT / inner,
        1 + (28 if first else 10) / height,
        title,
        color=theme.ink,
        fontsize=TEXT,
        transform=ax.transAxes,
        va="baseline",
    )
    for stage in stages[1:]:
        ax.axvline(stage.first_token, color=theme.ink, linewidth=1, linestyle=(0, (3, 2)), zorder=5)
    return ax


def add_small_panel(
    fig: Figure, left: float, top: float, size: tuple[float, float], theme: Theme, title: str
) -> Axes:
    """A panel of `size` (width, height), `left` and `top` points from the figure's edges, over
    whatever its drawing says."""
    width, total = (72 * float(v) for v in fig.get_size_inches())
    place = (left + LEFT) / width, 1 - (top + size[1]) / total
    ax = fig.add_axes((*place, (size[0] - LEFT) / width, size[1] / total))
    _dress(ax, theme)
    ax.text(
        -LEFT / (size[0] - LEFT),
        1 + 10 / size[1],
        title,
        color=theme.ink,
        fontsize=TEXT,
        transform=ax.transAxes,
        va="baseline",
    )
    return ax


def add_curves(
    fig: Figure, top: float, height: float, labels: Iterable[str], theme: Theme, title: str
) -> Axes:
    """A panel over whatever its drawing says, with room for `labels` at the ends of lines."""
    room = 18 + min(LABEL, max(map(text_width, labels), default=0))
    return add_small_panel(fig, 0, top, (WIDTH - room, height), theme, title)


def _dress(ax: Axes, theme: Theme) -> None:
    ax.set_facecolor("none")
    for side in ("top", "left", "right"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(theme.muted)
    ax.spines["bottom"].set_linewidth(0.8)
    ax.tick_params(colors=theme.muted, labelsize=TEXT - 0.5, length=3, width=0.8, pad=4)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color=theme.line, linewidth=0.8)
    ax.set_axisbelow(True)


def _name_stages(ax: Axes, stages: Sequence[StageRecord], theme: Theme) -> None:
    """Stage names over the top of a panel, cut to number or nothing where there is no room."""
    _, height = panel_size(ax)
    total = ax.get_xlim()[1]
    for stage, name in zip(stages, stage_labels(ax, stages), strict=True):
        x = (stage.first_token + stage.num_tokens / 2) / total
        ax.text(
            x,
            1 + 8 / height,
            name,
            color=theme.ink,
            fontsize=TEXT,
            fontweight="bold",
            ha="center",
            va="baseline",
            transform=ax.transAxes,
        )


def stage_labels(ax: Axes, stages: Sequence[StageRecord]) -> list[str]:
    """What of each stage's name, or number from 1, there is room for over a panel."""
    width, total = panel_size(ax)[0], ax.get_xlim()[1]
    rooms = [stage.num_tokens / total * width - 4 for stage in stages]
    return [
        next((n for n in (stage.name, str(number)) if text_width(n) < room), "")
        for number, (stage, room) in enumerate(zip(stages, rooms, strict=True), 1)
    ]


def panel_size(ax: Axes) -> tuple[float, float]:
    """Width and height of a panel in points."""
    figure_width, figure_height = (72 * float(v) for v in ax.figure.get_size_inches())  # type: ignore[union-attr]
    box = ax.get_position()
    return box.width * figure_width, box.height * figure_height


def text_width(text: str) -> float:
    """About how wide `text` is, in points."""
    return 0.6 * TEXT * len(text)


def shortened(text: str, room: float) -> str:
    """A text of at most `room` points, with its middle left out if it is longer."""
    most = int(room / text_width("m") + 1e-6)
    if len(text) <= most:
        return text
    first = max(1, (most - 1) // 2)
    return f"{text[:first]}…{text[len(text) - max(1, most - 1 - first) :]}"


def in_lines(text: str, room: float) -> str:
    """A text of at most `room` points a line, over two lines if it takes more: cut behind the comma
    that halves it best, since names of arms are lists."""
    commas = [i for i, letter in enumerate(text, 1) if letter == ","]
    if text_width(text) <= room or not commas:
        return shortened(text, room)
    cut = min(commas, key=lambda i: max(i, len(text) - i))
    return f"{shortened(text[:cut], room)}\n{shortened(text[cut:], room)}"


def add_rows(
    fig: Figure, place: tuple[float, float, float, float], count: int, theme: Theme, title: str
) -> Axes:
    """A panel of `count` rows, the first at the top, over whatever its drawing says. place: left,
    top, width and height in points; row i is at y = i."""
    width, total = (72 * float(v) for v in fig.get_size_inches())
    left, top, wide, high = place
    ax = fig.add_axes((left / width, 1 - (top + high) / total, wide / width, high / total))
    _dress(ax, theme)
    ax.grid(False)
    ax.grid(axis="x", color=theme.line, linewidth=0.8)
    ax.set_ylim(count - 0.5, -0.5)
    ax.set_yticks([])
    at: dict[str, Any] = {"color": theme.ink, "fontsize": TEXT, "transform": ax.transAxes}
    ax.text(0, 1 + 10 / high, title, va="baseline", **at)
    return ax


def label_line_ends(
    ax: Axes, ends: Sequence[tuple[str, str, Floats, Floats]], theme: Theme
) -> None:
    """Write each line's name beside its end, clear of other lines and labels.

    `ends` holds (text, colour, x [n], y [n]) of every drawn line, in data units. A line that
    reaches the right edge is named in the margin, another one inside the panel.
    """
    from matplotlib.patheffects import withStroke

    width, height = panel_size(ax)
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    lines = [((x - x0) / (x1 - x0) * width, (y - y0) / (y1 - y0) * height) for _, _, x, y in ends]
    taken: list[tuple[float, float, float]] = []  # (left, right, middle) of the labels so far
    half, gap = 0.62 * TEXT, 9.0
    for i in sorted(range(len(ends)), key=lambda i: lines[i][1][-1]):
        text, colour, *_ = ends[i]
        end_x, end_y = float(lines[i][0][-1]), float(lines[i][1][-1])
        left = width + gap if end_x > width - text_width(text) - 2 * gap else end_x + gap
        right = left + text_width(text)
        labels = [(m - half, m + half) for a, b, m in taken if a < right and left < b]
        crossed = []
        for x, y in lines:
            inside = (x > left - 4) & (x < right + 4)
            if left < width and inside.any():
                crossed.append((float(y[inside].min()) - 3, float(y[inside].max()) + 3))
        middle = end_y
        # Close by and clear of everything, or else clear of labels only.
        for reach, blocked in ((36, labels + crossed), (int(height) + 40, labels)):
            heights = [end_y + sign * o for o in range(0, reach, 2) for sign in (1, -1)]
            free = [
                h
                for h in heights
                if half - 4 <= h <= height + 4
                and all(h + half <= low or h - half >= high for low, high in blocked)
            ]
            if free:
                middle = free[0]
                break
        taken.append((left, right, middle))
        ax.plot(
            [end_x / width, (left - 2.5) / width],
            [end_y / height, middle / height],
            color=colour,
            linewidth=0.8,
            transform=ax.transAxes,
            clip_on=False,
            zorder=6,
        )
        ax.text(
            left / width,
            middle / height,
            text,
            color=theme.ink,
            fontsize=TEXT,
            va="center",
            transform=ax.transAxes,
            zorder=7,
            gid="halo",
            path_effects=None if theme is PAGE else [withStroke(linewidth=3, foreground="white")],
        )


def label_areas(ax: Axes, stage: StageRecord, colours: Mapping[str, str]) -> None:
    """Write each source's name where its area of the planned mixture is thickest, if it fits."""
    from matplotlib.colors import to_rgb

    width, height = panel_size(ax)
    total = ax.get_xlim()[1]
    x = np.linspace(0, stage.num_tokens / total * width, 400)
    base = np.zeros_like(x)
    for source, weights in stage.mixture.items():
        share = np.interp(x / max(x[-1], 1e-9), stage.mixture_progress, weights)
        top = base + share * height
        span = int(np.searchsorted(x, text_width(source) + 8))
        if span < len(x):
            views = (np.lib.stride_tricks.sliding_window_view(v, span + 1) for v in (base, top))
            low, high = next(views).max(axis=1), next(views).min(axis=1)
            room = np.round(high - low, 1)
            fits = np.flatnonzero(room == room.max())
            at = int(fits[len(fits) // 2])
            if room[at] > 1.3 * TEXT:
                red, green, blue = to_rgb(colours[source])
                dark = 0.3 * red + 0.59 * green + 0.11 * blue > 0.52
                ax.text(
                    (stage.first_token / total) + (x[at] + x[span] / 2) / width,
                    (low[at] + high[at]) / 2 / height,
                    source,
                    ha="center",
                    va="center",
                    color="#15171b" if dark else "#ffffff",
                    fontsize=TEXT,
                    transform=ax.transAxes,
                    zorder=7,
                )
        base = top
