"""Corpora and automata on one scale: `ncamix measure --plot`.

scores of token windows, of each corpus -> outlines above
scores of random rules, of each alphabet -> a row each below, nearest bands underlined
one axis: size after gzip -9, as a share of the 1,440 bytes before
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncamix.canvas import TITLE, Canvas, text_pixels
from ncamix.charts import TEXT, WHITE, source_colours, style
from ncamix.files import write_drawn
from ncamix.measure.measures import Measured
from ncamix.measure.nearness import ALPHABETS, WINDOW_BYTES, spread_of_alphabet
from ncamix.measure.output import short_name, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI, BINS = 144, 50  # bins of 0.02
MARGIN, HEAD, LINE, LEFT = 48, 176, 40, 170  # pixels, as all that follow
WIDTH, HEIGHT, GAP, ROW, FOOT = 1240, 420, 110, 84, 104
HIGHEST, OUTLINE = 0.12, 54  # share of rules that fills an outline, and its pixels; more is cut
ABOVE, CLEAR, UNDERLINE = 4, 6, 5  # pixels above an outline, and below it: free, and of a line
NAME = 60  # characters of a corpus in the legend


def write_measure_picture(found: Sequence[Measured], file: Path) -> None:
    """Draw corpora into a PNG file.

    Raises:
        UserError: it cannot be written.
    """
    write_drawn(file, lambda: measure_picture(found))


def measure_picture(found: Sequence[Measured]) -> bytes:
    """Corpora above, alphabets below, as a PNG."""
    colours = source_colours({m.name: "text" for m in found})
    top = HEAD + LINE * len(found) + 70
    rows = top + HEIGHT + GAP
    names = max(text_pixels(short_name(m.name, NAME), DPI, TEXT) for m in found)
    means = max(text_pixels(_mean(m), DPI, TEXT) for m in found)
    ends = 2 * MARGIN + 130 + names + means + max(text_pixels(_near(m), DPI, TEXT) for m in found)
    width = max(WIDTH, round(ends) - LEFT)
    with style():
        canvas = Canvas(LEFT + width + MARGIN, rows + ROW * len(ALPHABETS) + FOOT, DPI)
        canvas.text(MARGIN, 76, "Corpora on the scale of bands", TITLE, fontweight="bold")
        about = (
            "Each score is of 360 tokens as int32: of windows of a corpus above, of random rules' "
            "frames below."
        )
        canvas.note(MARGIN, 118, about, TEXT)
        for i, m in enumerate(found):
            y = HEAD + LINE * i + 6
            canvas.line(MARGIN, y - 9, 46, color=colours[m.name], linewidth=3)
            canvas.text(MARGIN + 62, y, short_name(m.name, NAME))
            canvas.text(MARGIN + 102 + names, y, _mean(m))
            canvas.note(MARGIN + 142 + names + means, y, _near(m), TEXT)
        canvas.note(MARGIN, top - 22, "share of windows, a bin of 0.02", TEXT)
        _draw_corpora(canvas.axes(LEFT, top, width, HEIGHT), found, colours)
        note = (
            f"share of random rules, a bin of 0.02 (a row is {HIGHEST:.0%} high, the rest is cut); "
            "underlined: the band nearest to each corpus"
        )
        canvas.note(MARGIN, rows - 22, note, TEXT)
        for i, alphabet in enumerate(ALPHABETS):
            y = rows + ROW * i
            canvas.text(MARGIN, y + ABOVE + OUTLINE, f"{alphabet} states")
            last = i == len(ALPHABETS) - 1
            _draw_alphabet(canvas.axes(LEFT, y, width, ROW), alphabet, found, colours, last)
        what = f"size after gzip -9, as a share of the {WINDOW_BYTES:,} bytes before"
        canvas.note(LEFT + width / 2, canvas.height - 28, what, TEXT, ha="center")
        return canvas.png()


def _mean(m: Measured) -> str:
    return f"mean {show(m.tokens)}"


def _near(m: Measured) -> str:
    return f"nearest {m.nearest[0].source}, {m.nearest[0].distance:.3f} away"


def _end(found: Sequence[Measured]) -> float:
    """Where the axis of scores ends: no alphabet's rules score above 0.8."""
    return max(0.8, *(min(1.0, float(np.ceil(10 * m.scores.max()) / 10)) for m in found))


def _edges() -> NDArray[np.float64]:
    return np.linspace(0, 1, BINS + 1)


def _draw_corpora(ax: Axes, found: Sequence[Measured], colours: Mapping[str, str]) -> None:
    for m in found:
        counts, _ = np.histogram(np.minimum(m.scores, 1), _edges())
        shares = 100 * counts / len(m.scores)
        ax.stairs(shares, _edges(), fill=True, color=colours[m.name], alpha=0.18, zorder=2)
        ax.stairs(shares, _edges(), color=colours[m.name], linewidth=2, zorder=4)
        ax.axvline(m.tokens.value, color=colours[m.name], linewidth=1.2, linestyle=(0, (4, 3)))
    ax.set_ylim(0)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    _dress(ax, _end(found), True)
    ax.grid(axis="y", color=WHITE.line, linewidth=0.8)


def _draw_alphabet(
    ax: Axes, alphabet: int, found: Sequence[Measured], colours: Mapping[str, str], last: bool
) -> None:
    spread = spread_of_alphabet(alphabet)
    shares = np.minimum(spread.shares(BINS), HIGHEST)
    ax.stairs(shares, _edges(), fill=True, color="#b9bdc4", zorder=2)
    below = ROW - ABOVE - OUTLINE
    ax.set_ylim(-below * HIGHEST / OUTLINE, (1 + ABOVE / OUTLINE) * HIGHEST)
    ax.set_yticks([])
    _dress(ax, _end(found), last)
    chosen = [m for m in found if m.nearest[0].alphabet == alphabet]
    pitch = min(2 * UNDERLINE, (below - CLEAR) / max(1, len(chosen)))
    for k, m in enumerate(chosen):
        band, y = m.nearest[0].band, CLEAR + pitch * (k + 0.25)  # pixels below the outline
        width = 72 / DPI * min(UNDERLINE, 0.6 * pitch)
        look: dict[str, Any] = {"color": colours[m.name], "linewidth": width, "zorder": 5}
        ax.hlines(-y * HIGHEST / OUTLINE, float(band.low), float(band.high), **look)


def _dress(ax: Axes, end: float, labelled: bool) -> None:
    """The axis of scores, with a line at the ends of each band of 0.1."""
    ax.set_xlim(0, end)
    ax.set_xticks(np.arange(round(10 * end) + 1) / 10)
    ax.grid(axis="x", color=WHITE.line, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=WHITE.muted, labelsize=TEXT - 0.5, length=0, pad=6, labelbottom=labelled)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(WHITE.muted if labelled else WHITE.line)
