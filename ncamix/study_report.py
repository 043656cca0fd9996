"""Turn a study, or several runs, into one page that can be sent to a colleague, and into data.

    a record, its results -> pictures, tables -> study.html, results.json, results.csv, results.md

The page needs no network, no script and no other file. A study that is not finished gives a page
that says what is missing. Figures are of the test split, curves of the validation split.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ncamix import charts
from ncamix.epiplexity import FORMULA, PAPER
from ncamix.errors import fail
from ncamix.files import write_drawn
from ncamix.findings import Findings
from ncamix.pages import render_page, write_page
from ncamix.run_record import Json
from ncamix.several_runs import read_runs
from ncamix.study_files import as_csv, as_json, as_markdown, compared
from ncamix.study_pictures import BIT_UNITS, draw_all, draw_findings
from ncamix.study_record import StudyRecord, read_study
from ncamix.study_results import (
    StudyResults,
    answer,
    missing_words,
    question,
    results_of,
    study_remarks,
)
from ncamix.verdicts import NO_NEWS, VERDICTS, percent, unit_of, with_interval

PAGE, RESULTS = "study.html", "results.json"
PICTURES = (".png", ".svg", ".pdf")  # that --plot names; .png without a suffix


def write_study_report(
    folder: Path, out: Path | None = None, plot: Path | None = None
) -> list[Path]:
    """Write page and data of a study into its folder, or `out`; their paths, the page's first.
    plot: a picture of what was found is written there, too.

    Raises:
        UserError: its record is damaged, or it cannot be written to.
    """
    way_out = "write it elsewhere with --out"
    return _write(results_of(read_study(folder)), out or folder, plot, way_out)


def write_comparison(folders: Sequence[Path], out: Path, plot: Path | None = None) -> list[Path]:
    """Write page and data of several runs into a folder; their paths, the page's first. plot: as
    of a study.

    Raises:
        UserError: one is no run, or the folder cannot be written to.
    """
    return _write(results_of(read_runs(folders)), out, plot, "name another folder with --out")


def _write(results: StudyResults, out: Path, plot: Path | None, way_out: str) -> list[Path]:
    if plot is not None and plot.suffix not in ("", *PICTURES):
        what = f"--plot {plot}: no picture of that sort is drawn"
        raise fail(what, f"let its name end with {', '.join(PICTURES)}")
    files = {
        PAGE: render_page("study.html.j2", _page(results)),
        RESULTS: as_json(results).encode(),
        "results.csv": as_csv(results).encode(),
        "results.md": as_markdown(results).encode(),
    }
    written = [write_page(out, name, content, way_out) for name, content in files.items()]
    if plot is not None:
        write_drawn(plot, lambda: _picture(results, plot.suffix))
        written.append(plot)
    return written


def _picture(results: StudyResults, suffix: str) -> bytes:
    """What was found as a picture by itself: PNG, or whatever the suffix of its name says."""
    buffer = io.BytesIO()
    with charts.style():
        figure = draw_findings(results, charts.WHITE)
        figure.set_facecolor(charts.WHITE.paper)
        # Without the date or the program, the same results give the same bytes.
        metadata = {"Date": None} if suffix == ".svg" else {"Software": None}
        figure.savefig(buffer, format=suffix[1:] or "png", dpi=144, metadata=metadata)
    return buffer.getvalue()


# ---- what the page shows


def _page(results: StudyResults) -> Json:
    record, found = results.record, results.findings
    colours = charts.source_colours(record.kinds())
    places = {name: i for i, name in enumerate(record.arms)}
    firsts = {run.path: run for run in reversed(record.runs)}  # what several arms plan is one run
    each = list(reversed(firsts.values()))
    runs = [run for run in each if not run.run.tuning]
    runs.sort(key=lambda run: (places.get(run.run.arm, len(places)), run.run.seed))
    lines = [_sentence(line) for line in answer(results)]
    return {
        "results": results,
        "record": record,
        "sort": "a study" if record.facts else "several runs",
        "question": question(record),
        "answer": lines[0],
        "more": lines[1:],
        "unit": unit_of(record.metric),
        "confidence": percent(record.confidence),
        "reference": results.reference,
        "finished": sum(run.state == "finished" for run in runs),
        "expected": sum(
            len(record.seeds_of(name)) for name, arm in record.arms.items() if not arm.same_as
        ),
        "missing": missing_words(record),
        "failed": [run for run in each if run.state in ("failed", "diverged")],
        "rows": [row for row in results.rows if row.arm.lengthened is None],
        "lengths": [row for row in results.rows if row.arm.lengthened is not None],
        "documents": [
            finding
            for finding in (found.primary, *found.others)
            if finding is not None and finding.documents is not None
        ],
        "remarks": [*_remarks(found), *study_remarks(results)],
        "colours": colours,
        "charts": draw_all(results, colours),
        "formula": FORMULA,
        "paper": PAPER,
        "runs": runs,
        "tuning_runs": [run for run in each if run.run.tuning],
        "devices": _counted(run.result.device for run in runs if run.result and run.result.device),
        "versions": _versions(record),
        "warnings": _warnings(record),
        "states": _counted(run.state for run in runs),
        **_tuned(results),
        "beside": _beside(record),
        "compared": compared,
        "with_interval": with_interval,
        "bits": _bits,
    }


def _remarks(found: Findings) -> list[str]:
    """Remarks beside those on runs that are missing or have failed, which stand above."""
    own = tuple(f"{arm.arm}{sign} " for arm in found.arms for sign in (":", ","))
    return [
        remark
        for remark in found.remarks
        if not (remark.startswith(own) and (remark.endswith(" missing") or ": failed, " in remark))
    ]


def _sentence(words: str) -> str:
    """Words as a sentence, unless they begin with the name of an arm."""
    verdict = words.startswith(VERDICTS[2:])
    return words[:1].upper() + words[1:] if verdict else words


def _tuned(results: StudyResults) -> Json:
    """Points of the tuning in short, and what stands for the one chosen of each arm."""
    record = results.record
    names = list(record.tuning["points"]) if record.tuning else []
    settings = [[part.partition("=") for part in name.split(",")] for name in names]
    paths = {tuple(path for path, *_ in point) for point in settings}
    plain = len(paths) == 1 and all(value for point in settings for *_, value in point)
    points = {
        name: ", ".join(value for *_, value in point) if plain else name
        for name, point in zip(names, settings, strict=True)
    }
    edges = {tuned.arm for tuned in results.tuned if tuned.edge}
    arms = record.arms.values()
    return {
        "points": points,
        "chosen": {
            arm.name: points.get(str(arm.chosen), "–") + (" †" if arm.name in edges else "")
            for arm in arms
        },
        "on_edge": bool(edges),
        "tuned_of": ", ".join(*paths) if plain else "",
        "numbered": [points[name] for name in names]
        if len(settings[:1] and settings[0]) > 1
        else [],
    }


def _beside(record: StudyRecord) -> list[tuple[str, str]]:
    """The arms that controls stand beside, and those controls."""
    found: dict[str, list[str]] = {}
    for name, arm in record.arms.items():
        if arm.beside is not None and arm.lengthened is None:
            found.setdefault(arm.beside, []).append(name)
    return [(arm, ", ".join(names)) for arm, names in found.items()]


def _counted(values: Iterator[str]) -> list[tuple[str, int]]:
    return Counter(values).most_common()


def _versions(record: StudyRecord) -> list[tuple[str, str]]:
    """Versions of all runs; several of one thing are all told."""
    found: dict[str, dict[str, None]] = {}
    for run in record.runs:
        for name, version in (run.result.versions if run.result else {}).items():
            found.setdefault(name, {})[version] = None
    return [(name, ", ".join(versions)) for name, versions in found.items()]


def _warnings(record: StudyRecord) -> list[tuple[str, str]]:
    """Remarks of plans, each once, with the arms that have it."""
    found: dict[str, list[str]] = {}
    for name, arm in record.arms.items():
        for warning in arm.warnings if arm.same_as is None else ():
            if warning.endswith(NO_NEWS):
                continue
            found.setdefault(warning, []).append(name)
    everywhere = sum(arm.same_as is None for arm in record.arms.values())
    return [
        ("all arms" if len(arms) == everywhere else ", ".join(arms), warning)
        for warning, arms in found.items()
    ]


def _bits(value: float) -> str:
    """`1.23 Mbit`."""
    unit, name = next((u for u in BIT_UNITS if abs(value) >= u[0]), BIT_UNITS[-1])
    return f"{value / unit:.3g} {name}".replace("-", "−")
