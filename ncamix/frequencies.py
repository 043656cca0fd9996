"""How often each token occurs: rank-frequency curves beside Zipf's law, and the exponent that fits.

    counts of each id -> shares by rank -> exponent
                                        -> plot (PNG): all sources on one pair of axes

Rank r = 1, 2, ... is an id's place by how often it occurs. Under Zipf's law with exponent s, rank r
has the share r**-s / (1 + 2**-s + ... + V**-s) of all tokens, where V is the number of distinct ids
that occur: at s = 1 the second occurs half as often as the first, at s = 0 all equally often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncamix.canvas import TITLE, Canvas, text_pixels
from ncamix.charts import TEXT, WHITE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

DPI = 144
MARGIN, HEAD, LEFT, FOOT, ROW = 48, 224, 136, 124, 42  # pixels, as all that follow
PLOT_WIDTH, PLOT_HEIGHT = 860, 660
TABLE = LEFT + PLOT_WIDTH + 80  # left edge
NUM_POINTS = 600  # of a line, at most
FEW = 32  # ids that are marked one by one
ZIPF = "Zipf's law"


@dataclass(frozen=True)
class TokenCounts:
    """What a source emitted: `counts`, int64 [num_ids], how often each id occurs."""

    name: str
    counts: NDArray[np.int64]

    @cached_property
    def shares(self) -> Floats:
        """Share of all tokens by rank, float64 [distinct ids]; ids that never occur have none."""
        return np.asarray(_ranked(self.counts) / self.counts.sum())

    @cached_property
    def exponent(self) -> float:
        """Exponent of the Zipf's law that fits; not a number for a single id."""
        return zipf_exponent(self.counts)


def zipf_shares(exponent: float, num_ranks: int) -> Floats:
    """Zipf's law over ranks 1 .. num_ranks: shares that sum to 1, float64 [num_ranks]."""
    weights = np.exp(-exponent * np.log(np.arange(1, num_ranks + 1)))
    return np.asarray(weights / weights.sum())


def zipf_exponent(counts: ArrayLike) -> float:
    """The exponent s under which `counts`, int [num_ids] in any order, are likeliest.

    The likelihood is that of independent draws of ranks 1 .. V with p(r) = r**-s / sum_k k**-s. Its
    one maximum is where the law's mean of ln r equals the observed one, sum_r n_r ln r / sum_r n_r.
    The law's mean falls as s grows, so s is found by bisection, to 1e-9. (Hanel, Corominas-Murtra,
    Liu and Thurner 2017, PLoS ONE 12, e0170920: since ranks end at V, s may be below 1, too.)

    Equal counts give 0. Ranks follow from the counts themselves, so a sample of equally likely ids
    gives a little more. Fewer than two distinct ids give not-a-number: any exponent would do.
    """
    ranked = _ranked(counts)
    if len(ranked) < 2:
        return math.nan
    logs = np.log(np.arange(1, len(ranked) + 1))
    observed = float(ranked @ logs / ranked.sum())

    def too_small(exponent: float) -> bool:
        return float(zipf_shares(exponent, len(ranked)) @ logs) > observed

    low, high = 0.0, 1.0
    while too_small(high):
        low, high = high, 2 * high
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return (low + high) / 2


def _ranked(counts: ArrayLike) -> Floats:
    """Counts from the largest to the smallest, without those of zero, float64 [distinct ids]."""
    ranked = np.sort(np.asarray(counts, np.float64))[::-1]
    return ranked[ranked > 0]


# ---- the plot


def rank_frequency_plot(
    title: str, about: str, sources: Sequence[TokenCounts], colours: Mapping[str, str]
) -> bytes:
    """One PNG: each source's shares by rank, the law that fits them, and Zipf's law at exponent 1.

    Zipf's law spans as many ranks as the longest of the sources. A table beside the axes names the
    lines and gives exponents.
    """
    names = max(text_pixels(name, DPI, TEXT) for name in (ZIPF, *(s.name for s in sources)))
    exponents = TABLE + 70 + round(names) + 180  # right edges of columns
    numbers = exponents + 220
    right = max(numbers, MARGIN + text_pixels(title, DPI, TITLE, "bold"))
    height = HEAD + max(PLOT_HEIGHT + FOOT, ROW * (len(sources) + 4))
    dashes: dict[str, Any] = {"color": WHITE.ink, "linewidth": 1.2, "linestyle": (0, (5, 3))}
    with style():
        canvas = Canvas(right + MARGIN, height, DPI)
        canvas.text(MARGIN, 84, title, TITLE, fontweight="bold")
        canvas.note(MARGIN, 128, about, TEXT)
        canvas.note(MARGIN, HEAD - 28, "share of all tokens", TEXT)
        canvas.note(exponents, HEAD - 28, "exponent", TEXT, ha="right")
        canvas.note(numbers, HEAD - 28, "distinct ids", TEXT, ha="right")
        ax = canvas.axes(LEFT, HEAD, PLOT_WIDTH, PLOT_HEIGHT)
        y = HEAD + 16
        for source in sources:
            colour, num_ids = colours[source.name], len(source.shares)
            if not math.isnan(source.exponent):
                fit = zipf_shares(source.exponent, num_ids)
                _draw(ax, fit, color=colour, linewidth=1.4, linestyle=":", zorder=3)
            dots = "." if num_ids <= FEW else None
            _draw(ax, source.shares, color=colour, linewidth=2.2, marker=dots, zorder=4)
            canvas.line(TABLE, y - 8, 52, color=colour, linewidth=2.2)
            canvas.text(TABLE + 70, y, source.name)
            exponent = "–" if math.isnan(source.exponent) else f"{source.exponent:.2f}"
            canvas.text(exponents, y, exponent, ha="right")
            canvas.text(numbers, y, f"{num_ids:,}", ha="right")
            y += ROW
        _draw(ax, zipf_shares(1, max(len(s.shares) for s in sources)), **dashes)
        canvas.line(TABLE, y - 8, 52, **dashes)
        canvas.text(TABLE + 70, y, ZIPF)
        canvas.text(exponents, y, "1", ha="right")
        canvas.note(TABLE, y + ROW, "dotted: Zipf's law with the fitted exponent", TEXT)
        _dress(ax)
        return canvas.png()


def _draw(ax: Axes, shares: Floats, **look: Any) -> None:
    """A line of shares by rank, thinned to what can be seen on a logarithmic axis."""
    spread = np.geomspace(1, len(shares), NUM_POINTS)
    ranks = np.unique(spread.round().astype(np.intp))
    ax.plot(ranks, shares[ranks - 1], **look)


def _dress(ax: Axes) -> None:
    """Logarithmic axes with round numbers, no frame and few lines."""
    from matplotlib.ticker import LogLocator

    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(0.85, max(12, 1.2 * ax.get_xlim()[1]))
    low, high = ax.get_ylim()
    ax.xaxis.set_major_locator(LogLocator(numticks=12))
    ax.yaxis.set_major_locator(
        LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5), numticks=12)
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: _number(value))
    ax.minorticks_off()
    ax.grid(color=WHITE.line, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=WHITE.muted, labelsize=TEXT - 0.5, length=0, pad=6)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(WHITE.muted)
    ax.set_xlabel("rank", color=WHITE.muted, fontsize=TEXT, labelpad=6)


def _number(value: float) -> str:
    """A round number as a reader writes it: 1,000, 0.2, 10⁻⁴."""
    if 0.0009 < value < 9999:
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    power = f"{round(math.log10(value))}"
    return "10" + power.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
