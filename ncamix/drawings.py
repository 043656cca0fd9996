"""The drawings of a run: schedule, losses, evaluations, gradients and speed, on panels of `charts`.

Long traces are thinned before drawing, so that a drawing's size does not grow with the run. Shares
are percent of samples, losses nats per token, positions tokens consumed in the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ncamix.charts import Theme, label_areas, label_line_ends
from ncamix.run_record import Floats, StageRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_RAW_POINTS, MAX_SMOOTH_POINTS = 500, 240
BUSY = 5  # a share that goes up and down so often, in all, is hidden by hairlines along its edge


def smooth(values: Floats, num_points: int = MAX_SMOOTH_POINTS) -> tuple[NDArray[np.intp], Floats]:
    """Running median at up to `num_points` places of `values` [n]; returns (indices, medians).

    The window is 3% of the trace either side, and shrinks towards the start, where losses fall
    too steeply for a one-sided window.
    """
    indices = np.unique(np.linspace(0, len(values) - 1, num_points).round().astype(np.intp))
    half = max(2, round(0.03 * len(values)))
    medians = np.array(
        [np.median(values[max(0, i - half) : i + min(half, i) + 1]) for i in indices], np.float64
    )
    padded = np.pad(medians, 1, mode="edge")
    return indices, padded[:-2] / 4 + medians / 2 + padded[2:] / 4


def thin(values: Floats, num_points: int = MAX_RAW_POINTS) -> NDArray[np.intp]:
    """Indices of the lowest and highest of `values` [n] in each of num_points / 2 windows."""
    if len(values) <= num_points:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), num_points // 2)
    keep = [p[f(values[p])] for p in parts for f in (np.argmin, np.argmax)]
    return np.unique(np.array([0, *keep, len(values) - 1], np.intp))


def realised_shares(stage: StageRecord) -> tuple[Floats, dict[str, Floats]]:
    """Shares of samples in windows of about 2% of the stage, never fewer than 24 samples.

    Returns window edges in tokens of the run [windows + 1] and percent by source [windows].
    """
    recorded = len(stage.tokens)
    if not recorded:
        return np.array([float(stage.first_token)]), {}
    window = max(1, round(0.02 * stage.num_batches), -(-24 // max(1, stage.batch_size)))
    ends = np.arange(window, recorded + 1, window)
    if not len(ends):
        ends = np.array([recorded])
    elif recorded - ends[-1] < window / 2:
        ends[-1] = recorded  # a short remainder joins the last window
    else:
        ends = np.append(ends, recorded)
    edges = np.concatenate([[float(stage.first_token)], stage.tokens[ends - 1]])
    drawn = {s: np.diff(c[ends - 1], prepend=0.0) for s, c in stage.counts.items()}
    total = np.maximum(1.0, np.sum(list(drawn.values()), axis=0))
    return edges, {s: 100 * d / total for s, d in drawn.items()}


def draw_planned(
    ax: Axes, stages: Sequence[StageRecord], colours: Mapping[str, str], theme: Theme
) -> None:
    for stage in stages:
        x = stage.first_token + stage.mixture_progress * stage.num_tokens
        base = np.zeros_like(x)
        calm = all(np.abs(np.diff(weights)).sum() < BUSY for weights in stage.mixture.values())
        for source, weights in stage.mixture.items():
            top = base + 100 * weights
            ax.fill_between(x, base, top, color=colours[source], linewidth=0)
            if calm:
                ax.plot(x, np.where(top - base > 0, top, np.nan), color=theme.paper, linewidth=0.8)
            base = top
        label_areas(ax, stage, colours)
    _percent_axis(ax)


def draw_realised(
    ax: Axes, stages: Sequence[StageRecord], colours: Mapping[str, str], theme: Theme
) -> None:
    for stage in stages:
        edges, shares = realised_shares(stage)
        base = np.zeros(len(edges))
        for source in [s for s in colours if s in shares]:
            top = base + np.append(shares[source], shares[source][-1])
            ax.fill_between(edges, base, top, step="post", color=colours[source], linewidth=0)
            edge = np.where(top - base > 0, top, np.nan)
            ax.plot(edges, edge, drawstyle="steps-post", color=theme.paper, linewidth=0.6)
            base = top
    _percent_axis(ax)
    end = stages[-1].first_token + stages[-1].num_tokens
    reached = max((s.tokens[-1] for s in stages if len(s.tokens)), default=0.0)
    if reached < end:
        text = "not trained yet" if end - reached > 0.15 * end else ""
        ax.text((reached + end) / 2, 50, text, ha="center", va="center", color=theme.muted)


def _percent_axis(ax: Axes) -> None:
    ax.set_ylim(0, 100)
    ax.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    ax.grid(False)


def draw_losses(
    ax: Axes, stages: Sequence[StageRecord], colours: Mapping[str, str], theme: Theme
) -> None:
    """Loss of every batch, thin, and its running median, by source."""
    _draw_traces(ax, [stage.losses for stage in stages], colours, theme)


def draw_norms(
    ax: Axes, stages: Sequence[StageRecord], colours: Mapping[str, str], theme: Theme
) -> None:
    """Norm of every batch's gradient, thin, and its running median, by group of parameters."""
    traces = [
        {
            group: (x[y > 0], np.log10(y[y > 0]))
            for group, (x, y) in stage.norms.items()
            if (y > 0).any()
        }
        for stage in stages
    ]
    _draw_traces(ax, traces, colours, theme)  # labels are laid out on linear axes
    ax.yaxis.set_major_formatter(lambda v, _: f"{10**v:.2g}")


def draw_speed(
    ax: Axes, stages: Sequence[StageRecord], row: int, scale: float, theme: Theme
) -> None:
    """A row of the stages' `speed` times `scale`, from 0 up: every batch, thin, and its running
    median."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    high = 0.0
    for stage in stages:
        x, y = stage.speed[0], scale * stage.speed[row]
        if len(x):
            some, (at, medians) = thin(y), smooth(y)
            ax.plot(x[some], y[some], color=theme.muted, linewidth=0.6, alpha=0.5)
            ax.plot(x[at], medians, color=theme.ink, linewidth=1.7, zorder=4)
            high = max(high, float(np.percentile(y, 99)), float(medians.max()))
    ax.set_ylim(0, 1.08 * high or 1.0)
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(EngFormatter(sep=""))


def draw_accuracy(
    ax: Axes,
    lines: Sequence[tuple[str, Floats, Floats]],
    copied: tuple[Floats, Floats],
    colour: str,
    theme: Theme,
) -> None:
    """Accuracy over frames seen: `lines` of (label, frames, percent), paler the earlier, and what
    copying the frame before would score."""
    from matplotlib.ticker import MaxNLocator

    ax.plot(*copied, color=theme.muted, linewidth=1.3, linestyle=(0, (4, 3)))
    ends = [("copying", theme.muted, *copied)]
    for i, (label, x, y) in enumerate(lines):
        last = i == len(lines) - 1
        ax.plot(
            x,
            y,
            color=colour,
            alpha=1.0 if last else 0.2 + 0.5 * i / len(lines),
            linewidth=2.2 if last else 1.1,
            marker="o" if last else "",
            markersize=3.5,
            zorder=4,
            clip_on=False,
        )
        if last:
            ends.append((label, colour, x, y))
    ax.set_ylim(0, 100)
    ax.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    frames = np.concatenate([x for _, x, _ in lines])
    ax.set_xlim(frames.min() - 0.3, max(frames.max(), frames.min() + 1) + 0.05)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("frames seen", color=theme.muted, labelpad=4)
    label_line_ends(ax, ends, theme)


def _draw_traces(
    ax: Axes,
    traces: Sequence[Mapping[str, tuple[Floats, Floats]]],
    colours: Mapping[str, str],
    theme: Theme,
) -> None:
    """By stage and name: every value, thin, and the running median."""
    ends: dict[str, tuple[str, str, Floats, Floats]] = {}
    extremes: list[float] = []
    for stage in traces:
        for name, (tokens, values) in stage.items():
            colour = colours[name]
            for part in _stretches(tokens, 0.03 * ax.get_xlim()[1]):
                x, y = tokens[part], values[part]
                some, (at, medians) = thin(y), smooth(y)
                ax.plot(x[some], y[some], color=colour, linewidth=0.6, alpha=0.4)
                marker = "." if len(x) == 1 else ""
                ax.plot(x[at], medians, color=colour, linewidth=1.9, marker=marker, zorder=4)
                if name not in ends or len(x) >= 0.05 * len(tokens):
                    ends[name] = (name, colour, x[at], medians)
                extremes += [*np.percentile(y, [0.5, 99.5]), medians.min(), medians.max()]
    _fit_axis(ax, extremes)
    if ends:
        label_line_ends(ax, list(ends.values()), theme)
    else:
        ax.text(
            0.5,
            0.5,
            "no batch recorded yet",
            ha="center",
            color=theme.muted,
            transform=ax.transAxes,
        )


def _stretches(tokens: Floats, widest: float) -> list[NDArray[np.intp]]:
    """Indices of `tokens` [n], cut where a source paused: a gap far above its usual one."""
    gaps = np.diff(tokens)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    return np.split(np.arange(len(tokens)), np.flatnonzero(gaps > max(widest, 20 * usual)) + 1)


def draw_evaluations(
    ax: Axes,
    series: Mapping[str, Sequence[tuple[Floats, Floats]]],
    colours: Mapping[str, str],
    theme: Theme,
) -> None:
    """`series` holds, by source, one (tokens, value) pair of arrays a stage."""
    ends = []
    for source, parts in series.items():
        for x, y in parts:
            ax.plot(
                x,
                y,
                color=colours[source],
                linewidth=1.9,
                marker="o",
                markersize=4.5,
                clip_on=False,
                zorder=4,
            )
        ends.append((source, colours[source], parts[-1][0], parts[-1][1]))
    _fit_axis(ax, [v for parts in series.values() for _, y in parts for v in y])
    label_line_ends(ax, ends, theme)


def draw_rate(ax: Axes, stages: Sequence[StageRecord], theme: Theme) -> None:
    """The planned learning rate as a line, and the recorded one as a wide pale line under it."""
    from matplotlib.ticker import MaxNLocator

    for stage in stages:
        x = stage.first_token + stage.rate_progress * stage.num_tokens
        if len(stage.tokens):
            at = np.unique(np.linspace(0, len(stage.tokens) - 1, 300).round().astype(np.intp))
            middle = stage.tokens[at] - stage.num_tokens / max(1, stage.num_batches) / 2
            ax.plot(
                middle,
                stage.learning_rate[at],
                color=theme.muted,
                linewidth=6,
                alpha=0.3,
                solid_capstyle="butt",
            )
        ax.plot(x, stage.rate, color=theme.ink, linewidth=1.3)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}".replace("e-0", "e-"))


def _fit_axis(ax: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import MaxNLocator

    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.06 * (high - low) or 0.5
    ax.set_ylim(low - room, high + room)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
