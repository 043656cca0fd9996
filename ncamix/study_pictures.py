"""Which pictures a study's results give, and what is drawn in each.

    results -> bands over seeds, rows, panels -> figures -> SVG by name

Arms of other lengths, and those that plan as another, have no curves of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ncamix import charts, study_panels
from ncamix.findings import Finding
from ncamix.inline_svg import to_svg
from ncamix.over_seeds import Band, over_seeds
from ncamix.run_results import INDUCTION
from ncamix.study_drawings import (
    ARMS,
    TOGETHER,
    Panel,
    Row,
    curves,
    interval_rows,
    later,
)
from ncamix.study_panels import Mixed
from ncamix.study_record import ArmRecord, StudyRecord
from ncamix.study_results import StudyResults
from ncamix.study_sources import Structure
from ncamix.verdicts import unit_of

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

BIT_UNITS = ((1e9, "Gbit"), (1e6, "Mbit"), (1e3, "kbit"), (1.0, "bit"))


def draw_all(results: StudyResults, colours: Mapping[str, str]) -> dict[str, list[Markup]]:
    """All pictures as SVG, by name; a name has no entry where there is nothing to draw."""
    from markupsafe import Markup

    drawn: dict[str, list[Markup]] = {}
    with charts.style():
        for name, label, figures in _figures(results, colours):
            svgs = [to_svg(f, label, f"{name}{i}") for i, f in enumerate(figures)]
            drawn[name] = [Markup(svg) for svg in svgs]
    return drawn


def _figures(
    results: StudyResults, colours: Mapping[str, str]
) -> Iterator[tuple[str, str, list[Figure]]]:
    """Names, labels and figures of all pictures for which there is something to draw."""
    record, theme, unit = results.record, charts.PAGE, unit_of(results.record.metric)
    if any(row.summary.values for row in results.rows):
        figure = draw_findings(results, theme)
        yield "findings", "Values of all arms, and differences", [figure]
    chosen = _chosen(results, theme)
    bands = _bands(record, "curve")
    if bands:
        limits = later(bands, chosen.keys())
        for clock, natural in (("natural", True), ("all", False)):
            if natural and not any(band.natural[-1] for band in bands.values()):
                continue
            title = f"{unit}, validation split"
            figures = curves(bands, chosen, results.reference, title, theme, natural, limits)
            yield f"curves_{clock}", f"{unit} over {clock} tokens", figures
    mixed = _mixed(results)
    if mixed:
        figure = study_panels.mixtures(mixed, colours, theme)
        yield "mixtures", "Planned and realised mixture of each arm", [figure]
    for key, title in INDUCTION.items():
        bands = _bands(record, key)
        if bands:
            yield key, title, curves(bands, chosen, results.reference, title, theme)
    for i, cluster in enumerate(results.redrawings):
        rows = [
            Row(
                one.what,
                one.difference,
                one.test.interval if one.test else None,
                words=one.arm if one.arm != one.what else "",
            )
            for one in cluster.arms
        ]
        title = f"difference to {cluster.reference} ({cluster.what} drawn anew), {unit}"
        panel = Panel(title, rows, True, _smallest(record))
        yield f"redrawn_{i}", "What re-initialising costs", [interval_rows([panel], theme)]
    if results.scalings:
        figure = study_panels.scaling(results.scalings, _level(results), unit, theme)
        yield "scaling", f"{unit} over tokens of automata", [figure]
    if results.tuned:
        figure = study_panels.tuning(results.tuned, record.confidence, theme)
        yield "tuning", "The metric at each point of the tuning", [figure]
    if results.frequencies:
        figure = study_panels.rank_frequencies(results.frequencies, colours, theme)
        yield "zipf", "Share of tokens by rank", [figure]
    structure = _structure(results)
    if structure:
        yield "epiplexity", "Epiplexity by arm", [interval_rows(structure, theme)]


def _mixed(results: StudyResults) -> list[Mixed]:
    """Arms whose mixtures are drawn, with what was realised in their first run."""
    shown = []
    for name, arm in results.record.arms.items():
        if arm.plan and arm.same_as is None and arm.lengthened is None:
            runs = list(results.record.shown(name).values())
            shown.append(Mixed(name, arm.plan, runs[0].shares if runs else ()))
    return shown


def _smallest(record: StudyRecord) -> float:
    return record.compare.smallest_effect if record.compare else 0.0


def _chosen(results: StudyResults, theme: charts.Theme) -> dict[str, str]:
    """Colours of the arms that are drawn together: the primary pair, the reference in grey, and
    others as long as they are few."""
    compare = results.record.compare
    first = compare.primary if compare else ()
    several = [name for name, arm in results.record.arms.items() if _has_curves(arm)]
    few = len(several) <= TOGETHER
    wanted = [*first, *(name for name in several if few and name not in first)]
    wanted = wanted or several[:3]
    own = [name for name in wanted if name != results.reference]
    colours = dict(zip(own, ARMS, strict=False))
    if results.reference is not None:
        colours[results.reference] = theme.muted
    return colours


def _has_curves(arm: ArmRecord) -> bool:
    return arm.same_as is None and arm.lengthened is None


def _bands(record: StudyRecord, key: str) -> dict[str, Band]:
    """A figure over training by arm, of those that have it."""
    found = {}
    for name, arm in record.arms.items():
        if not _has_curves(arm):
            continue
        runs = [
            r.curve if key == "curve" else r.induction[key] for r in record.shown(name).values()
        ]
        band = over_seeds([run for run in runs if len(run.values)], record.confidence)
        if band is not None:
            found[name] = band
    return found


def draw_findings(results: StudyResults, theme: charts.Theme) -> Figure:
    """Values of every arm, and below them all that was compared."""
    rows = [row for row in results.rows if row.arm.lengthened is None and not row.arm.same_as]
    chosen, unit = _chosen(results, theme), unit_of(results.record.metric)
    values = [
        Row(
            row.arm.name,
            row.summary.mean,
            row.summary.interval,
            list(row.summary.values.values()),
            colour=chosen.get(row.arm.name, ""),
        )
        for row in rows
    ]
    panels = [Panel(f"{unit}; lower is better", values)]
    if results.comparisons:
        differences = [_difference(finding) for finding in results.comparisons]
        title = f"differences, {unit}; the first comparison was declared ahead"
        panels.append(Panel(title, differences, True, _smallest(results.record)))
    return interval_rows(panels, theme)


def _difference(finding: Finding) -> Row:
    test = finding.test
    mean, interval = (test.mean, test.interval) if test else (None, None)
    return Row(f"{finding.arm} − {finding.other}", mean, interval, words=finding.verdict)


def _level(results: StudyResults) -> tuple[str, list[float]] | None:
    """The reference's mean, and the ends of its interval where it has one."""
    for row in results.rows:
        if row.arm.name == results.reference and row.summary.mean is not None:
            interval = row.summary.interval
            bounds = [interval.low, interval.high] if interval else []
            return row.arm.name, [row.summary.mean, *bounds]
    return None


def _structure(results: StudyResults) -> list[Panel]:
    """Epiplexity of the metric's source by arm, in the stage where most of it is trained on."""
    source = results.record.metric.partition("/")[2]
    best: dict[str, Structure] = {}
    for one in results.structures:
        if one.source == source and _has_curves(results.record.arms[one.arm]):
            known = best.get(one.arm)
            if known is None or one.num_tokens > known.num_tokens:
                best[one.arm] = one
    if not best:
        return []
    unit, name = next(
        (u for u in BIT_UNITS if max(abs(s.bits[0]) for s in best.values()) >= u[0]), BIT_UNITS[-1]
    )
    rows, stages = [], {one.stage for one in best.values()}
    for arm, one in best.items():
        mean, interval = one.bits
        if interval is not None:
            interval = type(interval)(
                interval.low / unit, interval.high / unit, interval.confidence
            )
        rows.append(
            Row(arm, mean / unit, interval, words="" if len(stages) == 1 else f"in {one.stage}")
        )
    where = f" in stage {stages.pop()}" if len(stages) == 1 else ""
    return [Panel(f"epiplexity of {source}{where}, {name}", rows)]
