"""The plan as a picture: shares of samples over the run's tokens, and the learning rate under them.

    plan -> one record a stage, sampled at the picture's resolution -> panels -> PNG

A share is the mean over all batches that fall into a pixel, so a stage of millions of batches is
drawn as fast as a short one. Cycles of a few pixels would only make patterns that are not there:
they are averaged over whole periods.
"""

from __future__ import annotations

import io
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncamix import charts, drawings
from ncamix.files import write_drawn
from ncamix.forecast import rate_batches
from ncamix.plan import Plan, PlannedStage
from ncamix.quantities import counted, format_count
from ncamix.run_record import Floats, StageRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, PIXELS = 1000.0, 1600  # of the picture, in points and in pixels
MARGIN, HEAD, GAP, FOOT = 20.0, 112.0, 44.0, 54.0  # points, as those that follow
SHARES, RATE, ROW = 230.0, 120.0, 17.0  # heights of the panels, at least, and of a legend's row
EXACT = 50_000  # batches of a stage up to which weights are drawn; their counts stand for them then
NARROW = 5  # pixels that a cycle spans, at least, to be drawn as one


def write_plan_picture(plan: Plan, file: Path) -> None:
    """Draw a plan into a PNG file.

    Raises:
        UserError: it cannot be written.
    """
    write_drawn(file, lambda: plan_picture(plan))


def plan_picture(plan: Plan) -> bytes:
    """A plan as a PNG of PIXELS pixels across."""
    theme, specs = charts.WHITE, plan.curriculum.curriculum.sources
    names = [name for name in specs if any(name in stage.counts for stage in plan.stages)]
    kinds = {name: specs[name].kind for name in names}
    colours = charts.source_colours(kinds)
    stages = [
        stage_record(stage, names, PIXELS * stage.num_tokens // plan.num_tokens)
        for stage in plan.stages
    ]
    shares = max(SHARES, ROW * len(names))
    height = HEAD + shares + GAP + RATE + FOOT
    with charts.style():
        figure = charts.new_figure(height, WIDTH, dpi=72 * PIXELS / WIDTH)
        figure.set_facecolor(theme.paper)
        left = MARGIN / WIDTH
        figure.text(
            left, 1 - 34 / height, plan.name, fontsize=18, fontweight="bold", color=theme.ink
        )
        figure.text(left, 1 - 54 / height, _about(plan), color=theme.muted)
        ax = charts.add_panel(
            figure, HEAD, shares, stages, theme, "planned share of samples", False, MARGIN
        )
        drawings.draw_planned(ax, stages, colours, theme)
        labels = charts.stage_labels(ax, stages)
        if labels != [stage.name for stage in stages]:
            listed = shorten(", ".join(stage.name for stage in stages), 110, placeholder=" ...")
            where = 1 - (HEAD - 28) / height  # on the line of the panel's title
            look: dict[str, Any] = {"color": theme.muted, "ha": "right", "va": "baseline"}
            figure.text(1 - left, where, f"stages: {listed}", **look)
        _legend(figure, ax.get_position().x1 * WIDTH + 10, names, colours)
        top = HEAD + shares + GAP
        ax = charts.add_panel(figure, top, RATE, stages, theme, "learning rate", True, MARGIN)
        drawings.draw_rate(ax, stages, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _about(plan: Plan) -> str:
    trainer = plan.trainer.trainer
    parameters = trainer.model.num_parameters(plan.vocabulary.rows)
    batches = sum(stage.num_batches for stage in plan.stages)
    return (
        f"planned under trainer {trainer.name} ({format_count(parameters)} parameters): "
        f"{format_count(plan.num_tokens)} tokens in {counted(batches, 'batch', 'batches')}, "
        f"{counted(len(plan.stages), 'stage')}"
    )


def _legend(figure: Figure, x: float, names: list[str], colours: dict[str, str]) -> None:
    """Names beside the panel of shares, in the order in which their areas are stacked."""
    from matplotlib.patches import Rectangle

    height = 72 * float(figure.get_size_inches()[1])
    for i, name in enumerate(reversed(names)):
        y = 1 - (HEAD + ROW * i + 12) / height
        square = Rectangle((x / WIDTH, y), 10 / WIDTH, 10 / height, color=colours[name])
        figure.add_artist(square)
        figure.text((x + 15) / WIDTH, y, name, color=charts.WHITE.ink, va="baseline")


def stage_record(stage: PlannedStage, names: list[str], num_pixels: int) -> StageRecord:
    """A stage for the drawings, sampled for so many pixels; `names` are in the order drawn."""
    edges = _edges(stage, max(2, num_pixels))
    shares = _shares(stage, edges)
    progress = (edges[1:] + edges[:-1]) / 2 / stage.num_batches
    clocked = stage.mixture.curves.values()
    if any("step" in c.curve.eases for c in clocked):  # jumps are drawn as jumps
        progress = np.concatenate([edges[:-1], edges[1:]]).reshape(2, -1).T.ravel() / edges[-1]
        shares = shares.repeat(2, axis=0)
    rated = rate_batches(stage, max(2, num_pixels))
    nothing = np.zeros(0)
    return StageRecord(
        name=stage.name,
        first_token=stage.first_token,
        num_tokens=stage.num_tokens,
        num_batches=stage.num_batches,
        batch_size=stage.batch_size,
        mixture_progress=np.concatenate([[0.0], progress, [1.0]]),  # to the stage's very ends
        mixture={
            name: np.pad(shares[:, stage.sources.index(name)], 1, mode="edge")
            for name in names
            if name in stage.sources
        },
        rate_progress=(np.array(rated) + 0.5) / stage.num_batches,
        rate=np.array([stage.rate.at(t) for t in rated]),
        tokens=nothing,
        learning_rate=nothing,
        counts={},
        loss_tokens={},
        losses={},
    )


def _edges(stage: PlannedStage, num_pixels: int) -> NDArray[np.int64]:
    """Where the drawn bins of a stage begin and end, int64 [bins + 1], in batches.

    A bin is a pixel, or a batch where that is more, or whole periods of a cycle too short to see.
    """
    width = max(1.0, stage.num_batches / num_pixels)
    clocked = stage.mixture.curves.values()
    periods = [c.curve.cycle / c.step for c in clocked if c.curve.cycle and c.step]
    short = max((p for p in periods if 1 < p < NARROW * width), default=0.0)
    if short:
        width = short * np.ceil(width / short)
    edges = np.append(np.arange(0, stage.num_batches, width), stage.num_batches)
    return np.unique(edges.round().astype(np.int64))


def _shares(stage: PlannedStage, edges: NDArray[np.int64]) -> Floats:
    """Mean share of each source between the edges, float64 [bins, sources]."""
    table: NDArray[Any] = stage.apportionment.counts
    if stage.num_batches <= EXACT:
        rows = [stage.mixture.at(t) for t in range(stage.num_batches)]
        columns = [stage.mixture.leaves.index(name) for name in stage.sources]
        table = np.array(rows, np.float64)[:, columns]
    sums = np.add.reduceat(table, edges[:-1], axis=0, dtype=np.float64)
    return np.asarray(sums / sums.sum(axis=1, keepdims=True))
