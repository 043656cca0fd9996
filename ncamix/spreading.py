"""`ncamix bands`: how the random rules of an alphabet spread over the bands.

settings -> automaton -> spread -> histogram in the terminal, JSON, PNG
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ncamix.automata import MEASURES, SPREAD_RULES, Automaton, Spread, measure_spread
from ncamix.bands import spread_of
from ncamix.errors import Problem, UserError, nearest
from ncamix.files import write_drawn
from ncamix.waiting import Say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {
    "gzip": "size of ten frames' tokens after gzip -9, of {whole:,} bytes",
    "zstd": "size of ten frames' tokens after zstd -3, of {whole:,} bytes",
    "change_rate": "cells that change from frame to frame, of {whole:,}",
}
ROWS, BAR_CELLS = 20, 40  # of the terminal's histogram: bands of 5%, and the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"
DPI, MARGIN, HEAD, FOOT = 144, 48, 200, 130  # pixels, as the next two
PLOT_WIDTH, PLOT_HEIGHT = 1160, 560


def measured_spread(
    alphabet: int, grid: str, measure: str, num_rules: int, seed: int, say: Say, **settings: Any
) -> Spread:
    """The spread of an automaton's random rules; `settings` are further fields of it.

    With the plan's number of rules and seed, it is the one that the plan judges by.

    Raises:
        UserError: with everything that is wrong with the settings.
    """
    problems = []
    if measure not in MEASURES:
        problems.append(Problem(f"unknown --measure '{measure}'", nearest(measure, MEASURES)))
    if not 0 <= seed < 2**64:
        problems.append(Problem(f"--seed {seed} is no number of 64 bits", "write a smaller one"))
    sides = [int(side) for side in grid.split("x") if side.isdecimal()]
    if len(sides) != grid.count("x") + 1 or len(sides) > 2:
        problems.append(Problem(f"--grid '{grid}' is no grid", "write 12, or 12x16"))
    else:
        try:
            automaton = Automaton(alphabet, (sides[0], sides[-1]), **settings)
        except ValueError as error:
            problems.append(Problem(str(error), "change the settings: ncamix bands --help"))
    if problems:
        raise UserError(problems)
    if (num_rules, seed) == (SPREAD_RULES, 0):
        return spread_of(automaton, measure, say)
    what = f"scoring {num_rules:,} rules"
    return measure_spread(automaton, measure, num_rules, seed, told=lambda share: say(what, share))


def write_plot(spread: Spread, file: Path) -> None:
    """Draw the histogram into a file.

    Raises:
        UserError: it cannot be written.
    """
    write_drawn(file, lambda: plot_spread(spread))


def spread_json(spread: Spread) -> dict[str, Any]:
    """A spread as plain JSON, with the share of the rules in every band of 10%."""
    tenths = [f"{k / 10:.1f}-{(k + 1) / 10:.1f}" for k in range(10)]
    return {**spread.to_json(), "share": dict(zip(tenths, spread.shares(), strict=True))}


def describe(automaton: Automaton) -> str:
    """An automaton's settings in a few words; what is the paper's default is left out."""
    height, width = automaton.grid
    patch = f"{automaton.patch}x{automaton.patch}"
    words = f"{automaton.alphabet} states, {height}x{width} cells in {patch} patches"
    standard = Automaton(automaton.alphabet, automaton.grid, automaton.patch)
    for name in ("temperature", "identity_bias", "burn_in", "stride"):
        value = getattr(automaton, name)
        if value != getattr(standard, name):
            words += f", {name} {value:g}"
    return words


def print_spread(spread: Spread, console: Console) -> None:
    """A histogram in bands of 5%, from 0 to the highest that a rule reached."""
    shares = spread.shares(ROWS)
    last = max(i for i, share in enumerate(shares) if share)
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(spread.measure)
    table.add_column("share of rules", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("rules", justify="right", no_wrap=True)
    for i, share in enumerate(shares[: last + 1]):
        table.add_row(
            f"{i / ROWS:.2f}-{(i + 1) / ROWS:.2f}",
            Text(_bar(share / max(shares)), "cyan"),
            f"{share:.1%}",
            f"{round(share * spread.num_rules):,}",
        )
    console.print(Text(describe(spread.automaton), "bold"))
    console.print(Text(_measured(spread) + "\n"))
    console.print(table)
    console.print(Text(_summary(spread), "dim"))


def plot_spread(spread: Spread) -> bytes:
    """The same as a PNG, in bands of 1%, with quartiles."""
    from ncamix.canvas import TITLE, Canvas
    from ncamix.charts import TEXT, style

    with style():
        canvas = Canvas(PLOT_WIDTH + 3 * MARGIN, HEAD + PLOT_HEIGHT + FOOT, DPI)
        canvas.text(MARGIN, 84, describe(spread.automaton), TITLE, fontweight="bold")
        canvas.note(MARGIN, 128, _measured(spread), TEXT)
        canvas.note(MARGIN, HEAD - 16, "share of random rules", TEXT)
        ax = canvas.axes(2 * MARGIN, HEAD, PLOT_WIDTH, PLOT_HEIGHT)
        _draw(ax, spread)
        canvas.note(MARGIN, canvas.height - 24, _summary(spread), TEXT)
        return canvas.png()


def _draw(ax: Axes, spread: Spread) -> None:
    from ncamix.charts import COOL, TEXT, WHITE

    shares = 100 * np.array(spread.shares(100))
    ax.bar(np.arange(100) / 100, shares, width=0.009, align="edge", color=COOL[0], zorder=2)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.12 * shares.max())
    ax.set_xticks(np.arange(11) / 10)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    look: dict[str, Any] = {"color": WHITE.muted, "fontsize": TEXT - 2, "va": "top", "zorder": 4}
    look["bbox"] = {"facecolor": WHITE.paper, "edgecolor": "none", "pad": 1}
    for k, (name, score) in enumerate(_quartiles(spread).items()):
        ax.axvline(score, color=WHITE.muted, linewidth=1, linestyle=(0, (4, 3)), zorder=3)
        ax.text(score + 0.005, (0.98 - 0.07 * k) * ax.get_ylim()[1], name, **look)
    ax.grid(axis="y", color=WHITE.line, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=WHITE.muted, labelsize=TEXT - 0.5, length=0, pad=6)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(WHITE.muted)


def _quartiles(spread: Spread) -> dict[str, float]:
    return {
        name: float(spread.quantile(Fraction(k, 4)))
        for k, name in ((1, "first quartile"), (2, "median"), (3, "third quartile"))
    }


def _measured(spread: Spread) -> str:
    words = WORDS[spread.measure].format(whole=spread.whole)
    return f"{spread.num_rules:,} random rules; {spread.measure}: {words}"


def _summary(spread: Spread) -> str:
    quarter, half, three_quarters = _quartiles(spread).values()
    return (
        f"quartiles {quarter:.3f}, {half:.3f} and {three_quarters:.3f}; "
        f"highest score {max(spread.counts) / spread.whole:.3f}"
    )


def _bar(share: float) -> str:
    """A bar of BAR_CELLS cells at most, to an eighth of a cell."""
    eighths = round(8 * BAR_CELLS * share)
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip() or ("▏" if share else "")
