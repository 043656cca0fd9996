"""Turn a run folder into one page that can be sent to a colleague.

Data flow: `plan.json` (what was to happen), `metrics.jsonl` and `evaluations.jsonl` (what did),
`summary.json` and `frames.npz` where they exist yet, and the two YAML texts -> a `RunRecord` ->
charts and tables -> `report.html`, which needs no network, no script and no other file. A run that
is still going, or was killed, gives a page that says how far it came.

Units: tokens are trained input positions, losses are nats per token, counts are samples.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix import charts, drawings
from ncamix.cells import strip_png
from ncamix.epiplexity import FORMULA, PAPER, epiplexities
from ncamix.files import write_whole
from ncamix.groups import GROUPS
from ncamix.inline_svg import to_svg
from ncamix.log_columns import Floats
from ncamix.pages import is_finite, render_page, write_page
from ncamix.quantities import counted, format_count
from ncamix.run_record import Json, RunRecord, StageRecord, read_run

CAVEAT = (
    "One run with one seed: this shows that the run works, not that the curriculum helps. "
    "A control without automata, several seeds and an interval are needed for that."
)
MAX_RULES, MAX_FRAMES, MAX_CELLS = 6, 10, 600_000  # shown of each source; cells over all sources
STRIP_SIDE = 84  # pixels of a grid, about

ACCURACIES = (
    ("cells of the next frame right", "cell_accuracy", "copied_cells"),
    ("whole next frames right", "frame_accuracy", "copied_frames"),
)
LOSS_DROP = {"loss_drop": "loss drop"}
PREFIX = {"prefix_matching_best": "best head", "prefix_matching_mean": "all heads"}
SCORE_COLOURS = dict(
    zip((*LOSS_DROP.values(), *PREFIX.values()), charts.COOL[:1] + charts.COOL[2:4], strict=True)
)
GROUP_COLOURS = dict(zip(GROUPS, charts.WARM[:2] + charts.COOL[:4], strict=True))

Series = dict[str, list[tuple[Floats, Floats]]]


def write_report(run: Path) -> Path:
    """Write `report.html` into the folder of a finished or unfinished run; returns its path.

    Raises:
        UserError: it is no run, or cannot be written to.
    """
    record = read_run(run)
    page = render_page("report.html.j2", _page(record))
    return write_page(run, "report.html", page, "report on a copy of the run")


def write_overview(run: Path, out: Path) -> Path:
    """Draw schedule and losses of a run as one PNG of 1600 x 900 pixels; returns its path."""
    record = read_run(run)
    plan, stages, theme = record.plan, record.stages, charts.WHITE
    colours = charts.source_colours({s: v.get("kind", "") for s, v in record.sources.items()})
    width, height = 1000.0, 562.5
    with charts.style():
        fig = charts.new_figure(height, width, dpi=1600 / width * 72)
        fig.set_facecolor(theme.paper)
        fig.text(
            0.02, 1 - 34 / height, plan["name"], fontsize=18, fontweight="bold", color=theme.ink
        )
        fig.text(0.02, 1 - 54 / height, _what_ran(record), color=theme.muted)
        ax = charts.add_panel(
            fig, 112, 104, stages, theme, "planned share of samples", last=False, margin=20
        )
        drawings.draw_planned(ax, stages, colours, theme)
        ax = charts.add_panel(fig, 248, 72, stages, theme, "realised", last=False, margin=20)
        drawings.draw_realised(ax, stages, colours, theme)
        title = "training loss by source, nats per token (pale: every batch; full: running median)"
        ax = charts.add_panel(fig, 354, 164, stages, theme, title, margin=20)
        drawings.draw_losses(ax, stages, colours, theme)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", metadata={"Software": None})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, buffer.getvalue())
    return out


# ---- what the page shows


def _page(record: RunRecord) -> Json:
    plan, summary = record.plan, record.summary
    sources = plan["sources"]
    colours = charts.source_colours({s: v.get("kind", "") for s, v in record.sources.items()})
    done, planned = record.batches
    return {
        "plan": plan,
        "summary": summary,
        "sources": sources,
        "colours": colours,
        "caveat": CAVEAT,
        "what_ran": _what_ran(record),
        "finished": record.finished,
        "done": done,
        "planned": planned,
        "tokens": record.tokens,
        "results": _results(record),
        "charts": _charts(record, colours),
        "stages": _stage_rows(record),
        "evaluations": _evaluation_rows(record),
        "epiplexity": epiplexities(record.stages),
        "formula": FORMULA,
        "paper": PAPER,
        "frames": _strips(record),
        "vocabulary": plan.get("vocabulary", {}),
        "warnings": plan.get("warnings", []),
        "remarks": record.remarks,
        "texts": record.texts,
    }


def _what_ran(record: RunRecord) -> str:
    plan, trainer = record.plan, record.plan["trainer"]
    model = trainer.get("model", {})
    parts = [counted(model[f"{k}s"], k) for k in ("layer", "head") if f"{k}s" in model]
    parts += [f"width {model['width']}"] if "width" in model else []
    size = f" ({', '.join(parts)})" if parts else ""
    total = plan["num_tokens"]
    amount = f"{total:,}" if record.finished else f"{record.tokens:,} of {total:,}"
    device = record.summary.get("device")
    return (
        f"A {model.get('kind', 'language')} model{size} trained on {amount} tokens "
        f"in {counted(len(plan['stages']), 'stage')}" + (f", on {device}." if device else ".")
    )


def _results(record: RunRecord) -> list[Json]:
    """The last evaluation of each text source."""
    last: dict[str, Json] = {}
    for row in record.evaluations:
        kind = record.sources.get(row["source"], {}).get("kind")
        if kind in ("text", "pairs") or row.get("bits_per_byte") is not None:
            last[row["source"]] = row
    return list(last.values())


def _charts(record: RunRecord, colours: dict[str, str]) -> dict[str, Any]:
    from markupsafe import Markup

    stages, theme, add = record.stages, charts.PAGE, charts.add_panel
    svgs = {}
    with charts.style():
        fig = charts.new_figure(430)
        ax = add(fig, 48, 170, stages, theme, "planned", last=False)
        drawings.draw_planned(ax, stages, colours, theme)
        ax = add(fig, 260, 130, stages, theme, "realised")
        drawings.draw_realised(ax, stages, colours, theme)
        svgs["schedule"] = to_svg(fig, "Planned and realised share of samples", "schedule")

        fig = charts.new_figure(210)
        drawings.draw_rate(add(fig, 48, 122, stages, theme, "learning rate"), stages, theme)
        svgs["rate"] = to_svg(fig, "Learning rate over tokens", "rate")

        fig = charts.new_figure(408)
        ax = add(fig, 48, 320, stages, theme, "loss, nats per token")
        drawings.draw_losses(ax, stages, colours, theme)
        svgs["loss"] = to_svg(fig, "Training loss by source over tokens", "loss")

        panels = [
            ("loss, nats per token", 230.0, _series(record, "loss")),
            ("bits per byte", 150.0, _series(record, "bits_per_byte")),
        ]
        fig = _over_tokens(panels, stages, colours)
        if fig is not None:
            svgs["evaluation"] = to_svg(fig, "Evaluations over tokens", "evaluation")
        panels = [
            ("loss drop on repeated ids, nats per token", 150.0, _induction(record, LOSS_DROP)),
            ("prefix-matching attention, share of 1", 150.0, _induction(record, PREFIX)),
        ]
        fig = _over_tokens(panels, stages, SCORE_COLOURS)
        if fig is not None:
            svgs["induction"] = to_svg(fig, "Induction score over tokens", "induction")
        fig = _accuracy(record, colours)
        if fig is not None:
            svgs["accuracy"] = to_svg(fig, "Next-frame accuracy by frames seen", "accuracy")
        if any(stage.norms for stage in stages):
            fig = charts.new_figure(358)
            title = "norm of the gradient (logarithmic axis)"
            ax = add(fig, 48, 270, stages, theme, title, labels=GROUPS)
            drawings.draw_norms(ax, stages, GROUP_COLOURS, theme)
            svgs["norms"] = to_svg(fig, "Gradient norms by group over tokens", "norms")
        if any(stage.speed.size for stage in stages):
            fig = charts.new_figure(364)
            ax = add(fig, 48, 130, stages, theme, "throughput, tokens per second", last=False)
            drawings.draw_speed(ax, stages, 1, 1.0, theme)
            ax = add(fig, 214, 100, stages, theme, "waiting for data, percent of a step")
            drawings.draw_speed(ax, stages, 2, 100.0, theme)
            svgs["speed"] = to_svg(fig, "Throughput and data wait over tokens", "speed")
    return {name: Markup(svg) for name, svg in svgs.items()}


def _over_tokens(
    panels: list[tuple[str, float, Series]], stages: list[StageRecord], colours: dict[str, str]
) -> Any:
    """A figure of the panels (title, height, series) that have any series; None of none."""
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return None
    fig = charts.new_figure(88 + sum(p[1] for p in panels) + 34 * (len(panels) - 1))
    top = 48.0
    for title, height, series in panels:
        last = title == panels[-1][0]
        ax = charts.add_panel(
            fig, top, height, stages, charts.PAGE, title, last=last, labels=colours
        )
        drawings.draw_evaluations(ax, series, colours, charts.PAGE)
        top += height + 34
    return fig


def _induction(record: RunRecord, names: dict[str, str]) -> Series:
    series: Series = {}
    for key, label in names.items():
        for stage in record.stages:
            rows = [e for e in record.induction if e["stage"] == stage.name]
            points = [(e["tokens"], e[key]) for e in rows if is_finite(e.get(key))]
            if points:
                table = np.array(points, np.float64)
                series.setdefault(label, []).append((table[:, 0], table[:, 1]))
    return series


def _accuracy(record: RunRecord, colours: dict[str, str]) -> Any:
    """A figure of accuracy by frames seen, a row a source, a line an evaluation; None of none."""
    found = {
        source: [e for e in record.evaluations if e["source"] == source and e.get("frames_seen")]
        for source in record.sources
    }
    found = {source: rows for source, rows in found.items() if rows}
    if not found:
        return None
    pitch, height, half = 226.0, 150.0, charts.WIDTH / 2
    fig = charts.new_figure(pitch * len(found) + 8)
    for row, (source, rows) in enumerate(found.items()):
        for column, (what, key, copied) in enumerate(ACCURACIES):
            ax = charts.add_small_panel(
                fig,
                column * half,
                pitch * row + 30,
                (half - 96, height),
                charts.PAGE,
                f"{source}: {what}",
            )
            lines = [
                (
                    f"at {format_count(e['tokens'])}",
                    np.array(e["frames_seen"], np.float64),
                    100 * np.array(e[key], np.float64),
                )
                for e in rows
            ]
            baseline = (lines[-1][1], 100 * np.array(rows[-1][copied], np.float64))
            drawings.draw_accuracy(ax, lines, baseline, colours[source], charts.PAGE)
    return fig


def _series(record: RunRecord, key: str) -> Series:
    series: Series = {}
    for source in record.sources:
        for stage in record.stages:
            points = [
                (e["tokens"], e[key])
                for e in record.evaluations
                if e["source"] == source and e["stage"] == stage.name and is_finite(e.get(key))
            ]
            if points:
                table = np.array(points, np.float64)
                series.setdefault(source, []).append((table[:, 0], table[:, 1]))
    return series


def _stage_rows(record: RunRecord) -> list[Json]:
    summaries = {s["name"]: s for s in record.summary.get("stages", [])}
    rows = []
    for plan, stage in zip(record.plan["stages"], record.stages, strict=True):
        summary = summaries.get(stage.name, {})
        seen = {s: int(c[-1]) for s, c in stage.counts.items() if len(c)}
        realised = summary.get("realised", seen)
        done = stage.num_batches if summary else len(stage.tokens)
        names = [s for s in stage.counts if plan["counts"].get(s) or realised.get(s)]
        rows.append(
            {
                "plan": plan,
                "summary": summary,
                "done": done,
                "complete": done >= stage.num_batches,
                "total": sum(realised.values()),
                "loss_tokens": sum(int(n[-1]) for n in stage.loss_tokens.values() if len(n)),
                "counts": [
                    (s, plan["counts"].get(s, 0), realised.get(s, 0) if done else None)
                    for s in names
                ],
                "enter": _enter(plan.get("enter") or {}),
            }
        )
    return rows


def _enter(enter: Json) -> str:
    """What happens on entering a stage, in words."""
    parts = []
    for key, value in enter.items():
        if value not in (None, [], {}):
            words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            parts.append(f"{key.replace('_', ' ')} {words}")
    return ", ".join(parts)


def _evaluation_rows(record: RunRecord) -> list[tuple[str, list[Json]]]:
    """By stage: each source's first and last evaluation in it."""
    tables = []
    for stage in record.stages:
        rows = []
        for source in record.sources:
            found = [
                e for e in record.evaluations if e["stage"] == stage.name and e["source"] == source
            ]
            if found:
                before = found[0] if found[0]["batch"] == 0 else None
                after = found[-1] if found[-1]["batch"] else None
                rows.append({"source": source, "before": before, "after": after})
        if rows:
            tables.append((stage.name, rows))
    return tables


def _strips(record: RunRecord) -> list[Json]:
    """Frames of each source as PNG data, a row a rule; fewer rules where grids are large."""
    shown = []
    for source, (states, scores, alphabet) in record.frames.items():
        some = np.unique(np.linspace(0, states.shape[1] - 1, MAX_FRAMES).round().astype(int))
        cells = int(len(some) * states.shape[2] * states.shape[3] * len(record.frames))
        rules = min(len(states), MAX_RULES, max(1, MAX_CELLS // max(1, cells)))
        rows = []
        for rule in range(rules):
            png = strip_png(states[rule, some], alphabet, STRIP_SIDE)
            data = base64.b64encode(png).decode()
            rows.append((float(scores[rule]), f"data:image/png;base64,{data}"))
        shown.append(
            {
                "source": source,
                "rows": rows,
                "of": len(states),
                "frames": _listing(some + 1),
                "alphabet": alphabet,
                "grid": f"{states.shape[2]} × {states.shape[3]}",
            }
        )
    return shown


# ---- numbers as text


def _listing(numbers: NDArray[np.intp]) -> str:
    """`1 to 10` for a run of numbers, else all of them."""
    if len(numbers) > 2 and (np.diff(numbers) == 1).all():
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers.tolist()))
