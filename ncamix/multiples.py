"""Small multiples: panels of one scale side by side, drawn on a single pair of axes.

    titles, limits -> panels, each with lines, bands, intervals and dots in its own units

A hundred panels as axes of their own take matplotlib seconds; here they are lines on one. Lengths
are points, from the figure's upper left corner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ncamix.charts import LEFT, TEXT, WIDTH, Theme, in_lines, new_figure
from ncamix.log_columns import Floats

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = TEXT - 1.5
GAP, TITLE, FOOT = 22.0, 20.0, 40.0
Limits = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """A panel of the grid: `left`, `top`, `width`, `height` in points, limits in its own units.
    What lies beyond the limits is cut off."""

    ax: Axes
    left: float
    top: float
    width: float
    height: float
    x_limits: Limits
    y_limits: Limits

    def line(self, x: ArrayLike, y: ArrayLike, **look: Any) -> None:
        self._cut(*self.ax.plot(self.x(x), self.y(y), **look))

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, **look: Any) -> None:
        """Between two lines; where either is not a number there is none."""
        shape = self.ax.fill_between(self.x(x), self.y(low), self.y(high), linewidth=0, **look)
        self._cut(shape)

    def upright(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, **look: Any) -> None:
        """A line from low to high at each x."""
        self._cut(self.ax.vlines(self.x(x), self.y(low), self.y(high), **look))

    def x(self, x: ArrayLike) -> Floats:
        low, high = self.x_limits
        return self.left + (np.asarray(x, np.float64) - low) / (high - low) * self.width

    def y(self, y: ArrayLike) -> Floats:
        low, high = self.y_limits
        return self.top + (high - np.asarray(y, np.float64)) / (high - low) * self.height

    def note(self, words: str, **look: Any) -> None:
        """Write a few words into the upper right corner."""
        at = (self.left + self.width, self.top + 6)
        self.ax.text(*at, words, ha="right", va="center", fontsize=SMALL, **look)

    def _cut(self, *drawn: Artist) -> None:
        from matplotlib.patches import Rectangle

        box = Rectangle((self.left - 3, self.top - 3), self.width + 6, self.height + 6)
        box.set_transform(self.ax.transData)
        for artist in drawn:
            artist.set_clip_path(box)


def multiples(
    titles: Sequence[str],
    x_limits: Limits,
    y_limits: Limits,
    theme: Theme,
    x_ticks: Sequence[tuple[float, str]],
    y_words: Callable[[float], str],
    x_label: str,
    columns: int = 0,
    height: float = 84.0,
) -> tuple[Figure, list[Panel]]:
    """A figure with a panel for each title, and ticks at their left and bottom edges.

    x_ticks: where, and what is written there. columns: as many as read well, if 0.
    """
    from matplotlib.ticker import MaxNLocator

    columns = columns or (3 if len(titles) <= 6 else 4 if len(titles) <= 12 else 5)
    columns = max(1, min(columns, len(titles)))
    lines = -(-len(titles) // columns)
    width = (WIDTH - LEFT) / columns - GAP
    shown = [in_lines(title, width / (SMALL / TEXT)) for title in titles]
    head = TITLE + (13 if any("\n" in title for title in shown) else 0)
    pitch = head + height + GAP
    total = lines * pitch + FOOT - GAP + 14
    fig = new_figure(total)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, WIDTH)
    ax.set_ylim(total, 0)
    ax.set_axis_off()
    ticks = [t for t in MaxNLocator(3).tick_values(*y_limits) if y_limits[0] <= t <= y_limits[1]]
    panels = []
    for i, title in enumerate(shown):
        row, column = divmod(i, columns)
        left, top = LEFT + column * (width + GAP), 8 + row * pitch + head
        panel = Panel(ax, left, top, width, height, x_limits, y_limits)
        ax.hlines(panel.y(ticks), left, left + width, color=theme.line, linewidth=0.8, zorder=0)
        bottom = top + height
        ax.hlines([bottom], left, left + width, color=theme.muted, linewidth=0.8, zorder=1)
        words: dict[str, Any] = {"color": theme.muted, "fontsize": SMALL}
        ax.text(left, top - 8, title, color=theme.ink, fontsize=SMALL, linespacing=1.15)
        if column == 0:
            for tick in ticks:
                y = float(panel.y(tick))
                ax.text(left - 6, y, y_words(tick), ha="right", va="center", **words)
        if i + columns >= len(titles):
            for at, word in x_ticks:
                x = float(panel.x(at))
                ax.vlines([x], bottom, bottom + 3, color=theme.muted, linewidth=0.8)
                ax.text(x, bottom + 15, word, ha="center", **words)
        panels.append(panel)
    ax.text(LEFT, total - 4, x_label, color=theme.muted, fontsize=SMALL)
    return fig, panels
