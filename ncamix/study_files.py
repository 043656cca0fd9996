"""The results of a study as files for machines and for a README: JSON, CSV, Markdown.

Figures are of the test split, in the metric's unit; what is no finite number is null or empty.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

from ncamix.findings import Finding
from ncamix.quantities import counted, format_count
from ncamix.run_record import Json
from ncamix.statistics import Interval
from ncamix.study_record import StudiedRun, StudyRecord
from ncamix.study_results import (
    ArmRow,
    StudyResults,
    answer,
    missing_words,
    question,
    study_remarks,
)
from ncamix.verdicts import percent, unit_of, with_interval


def as_json(results: StudyResults) -> str:
    """All results as JSON."""
    return json.dumps(_plain(facts_of(results)), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """A value in which what is no finite number is null."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def facts_of(results: StudyResults) -> Json:
    """All results as plain values."""
    record, found = results.record, results.findings
    compare = record.compare
    return {
        "ncamix": 1,
        "name": record.name,
        "question": question(record),
        "answer": answer(results),
        "finished": not missing_words(record),
        "missing": missing_words(record),
        "untested": [run.run.folder for run in results.untested],
        "metric": record.metric,
        "unit": unit_of(record.metric),
        "split": "test",
        "seeds": list(record.seeds),
        "smallest_effect": compare.smallest_effect if compare else None,
        "against": results.reference,
        "primary": _finding_json(found.primary) if found.primary else None,
        "comparisons": [_finding_json(finding) for finding in found.others],
        "arms": [_row_json(row) for row in results.rows],
        "speedups": [
            {
                "arm": s.arm,
                "to": s.to,
                "clock": s.clock,
                "ratio": s.ratio,
                **_interval_json(s.interval),
                "reached": s.reached,
                "num_seeds": s.num_seeds,
                "words": s.words,
            }
            for s in found.speedups
        ],
        "redrawn": [
            {
                "arm": one.arm,
                "drawn": one.what,
                "reference": of.reference,
                "reference_draws": of.what,
                "difference": one.difference,
                **_interval_json(one.test.interval if one.test else None),
            }
            for of in results.redrawings
            for one in of.arms
        ],
        "scaling": [
            {"alphabet": line.label, "tokens": n, "arm": arm, "mean": v, **_interval_json(i)}
            for line in results.scalings
            for n, arm, v, i in line.points
        ],
        "tuning": [
            {"arm": t.arm, "chosen": t.chosen, "on_edge": list(t.edge), "points": dict(t.points)}
            for t in results.tuned
        ],
        "epiplexity": [
            {
                "arm": s.arm,
                "stage": s.stage,
                "source": s.source,
                "bits": s.bits[0],
                **_interval_json(s.bits[1]),
                "final_loss": s.final_loss[0],
                "final_loss_interval": _interval_json(s.final_loss[1]),
                "num_tokens": s.num_tokens,
                "num_seeds": s.num_seeds,
            }
            for s in results.structures
        ],
        "zipf": [
            {"source": f.label, "exponent": f.exponent[0], **_interval_json(f.exponent[1])}
            for f in results.frequencies
        ],
        "remarks": [*found.remarks, *study_remarks(results)],
        "runs": [_run_json(run) for run in record.runs],
    }


def _interval_json(interval: Interval | None) -> Json:
    if interval is None:
        return {"low": None, "high": None, "confidence": None}
    return {"low": interval.low, "high": interval.high, "confidence": interval.confidence}


def _finding_json(finding: Finding) -> Json:
    test, documents = finding.test, finding.documents
    return {
        "arm": finding.arm,
        "other": finding.other,
        "difference": test.mean if test else None,
        **_interval_json(test.interval if test else None),
        "p": test.p if test else None,
        "p_adjusted": finding.p_adjusted,
        "sd": test.sd if test else None,
        "seeds": list(finding.seeds),
        "verdict": finding.verdict,
        "words": finding.words,
        "power": finding.power,
        "detectable": finding.detectable,
        "documents": documents and {"difference": documents[0], **_interval_json(documents[1])},
    }


def _row_json(row: ArmRow) -> Json:
    arm, summary = row.arm, row.summary
    return {
        "arm": arm.name,
        "about": arm.title,
        "control": arm.control,
        "beside": arm.beside,
        "transition": arm.transition,
        "length": arm.length,
        "lengthened": arm.lengthened,
        "same_as": arm.same_as,
        "values": {str(seed): value for seed, value in summary.values.items()},
        "mean": summary.mean,
        **_interval_json(summary.interval),
        "failed": {str(seed): why for seed, why in summary.failed.items()},
        "missing": [seed for seed in summary.missing if seed not in row.untested],
        "untested": list(row.untested),
        "chosen": arm.chosen,
        "num_tokens": arm.num_tokens,
        "natural_tokens": arm.natural_tokens,
        "num_steps": arm.num_steps,
        "tokens": dict(arm.tokens),
    }


def _run_json(run: StudiedRun) -> Json:
    result = run.result
    return {
        "arm": run.run.arm,
        "seed": run.run.seed,
        "point": run.run.point,
        "tuning": run.run.tuning,
        "folder": run.run.folder,
        "state": run.state,
        "why": run.why,
        "validation": run.value,
        "tested": result.tested if result else {},
        "num_tokens": result.num_tokens if result else None,
        "natural_tokens": result.natural_tokens if result else None,
        "seconds": result.seconds if result else None,
        "device": result.device if result else "",
        "epiplexity": [vars(e) for e in result.epiplexity] if result else [],
        "versions": result.versions if result else {},
        "fingerprint": run.run.fingerprint,
        "command": run.command,
    }


COLUMNS = (
    *("row", "arm", "seed", "point", "state", "metric", "value", "low", "high", "confidence"),
    *("num_seeds", "against", "p", "p_adjusted", "verdict", "tokens", "natural_tokens", "steps"),
    *("fingerprint", "folder", "command"),
)


def as_csv(results: StudyResults) -> str:
    """A row for each comparison (the primary one first), arm and run; an arm's value is its mean
    over seeds, and a comparison's the difference."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    lines = (*_comparison_lines(results), *_arm_lines(results), *_run_lines(results))
    for row in lines:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return buffer.getvalue()


def _comparison_lines(results: StudyResults) -> Iterator[Json]:
    for finding in results.comparisons:
        test = finding.test
        yield {
            "row": "primary" if finding is results.findings.primary else "comparison",
            "arm": finding.arm,
            "against": finding.other,
            "metric": results.record.metric,
            "value": test.mean if test else None,
            **_interval_json(test.interval if test else None),
            "num_seeds": len(finding.seeds),
            "p": test.p if test else None,
            "p_adjusted": finding.p_adjusted,
            "verdict": finding.verdict,
        }


def _arm_lines(results: StudyResults) -> Iterator[Json]:
    for row in results.rows:
        arm, summary = row.arm, row.summary
        yield {
            "row": "arm",
            "arm": arm.name,
            "point": arm.chosen,
            "metric": results.record.metric,
            "value": summary.mean,
            **_interval_json(summary.interval),
            "num_seeds": len(summary.values),
            "tokens": arm.num_tokens,
            "natural_tokens": arm.natural_tokens,
            "steps": arm.num_steps,
        }


def _run_lines(results: StudyResults) -> Iterator[Json]:
    name, _, source = results.record.metric.partition("/")
    for run in results.record.runs:
        value = run.value
        if run.result is not None and run.state == "finished":
            value = run.result.tested.get(source, {}).get(name)
        yield {
            "row": "tuning" if run.run.tuning else "run",
            "arm": run.run.arm,
            "seed": run.run.seed,
            "point": run.run.point,
            "state": run.state,
            "metric": results.record.metric,
            "value": value,
            "tokens": run.result.num_tokens if run.result else None,
            "natural_tokens": run.result.natural_tokens if run.result else None,
            "fingerprint": run.run.fingerprint,
            "folder": run.run.folder,
            "command": run.command,
        }


# ---- Markdown

NOTE = (  # under a table of comparisons
    "Lower is better. \\* declared ahead, and not adjusted; the p of all others is adjusted by "
    "Holm, and decides their verdicts; every interval is of its comparison alone."
)


def as_markdown(results: StudyResults) -> str:
    """The answer, and tables of what was compared and of the arms, for a README."""
    record, unit = results.record, unit_of(results.record.metric)
    how = f"{percent(record.confidence)} interval"
    lines = [f"**{record.name}**: {' '.join(answer(results))}", ""]
    if comparisons := results.comparisons:
        head = ["comparison", f"difference, {unit} ({how})", "p (Holm)", "verdict"]
        lines += _table(head, [compared(finding) for finding in comparisons])
        lines += [NOTE, ""]
    rows = [row for row in results.rows if row.arm.lengthened is None]
    head = ["arm", f"{unit} ({how})", *(["tuned"] if record.tuning else []), "seeds", "tokens"]
    lines += _table(head, [_cells(row, record) for row in rows])
    lines += [speedup.words for speedup in results.findings.speedups]
    if missing := missing_words(record):
        lines.append(f"Unfinished: {'; '.join(missing)}.")
    if untested := results.untested:
        lines.append(f"Without a figure on the test split: {counted(len(untested), 'run')}.")
    return "\n".join(lines).rstrip() + "\n"


def compared(finding: Finding) -> list[str]:
    """A comparison in cells: of what, by how much, p (with a star if not adjusted), verdict."""
    what, test, adjusted = f"{finding.arm} − {finding.other}", finding.test, finding.p_adjusted
    if test is None:
        return [what, "–", "–", finding.verdict]
    p = f"{p_value(test.p)}*" if adjusted is None else p_value(adjusted)
    return [what, with_interval(test.mean, test.interval, signed=True), p, finding.verdict]


def _cells(row: ArmRow, record: StudyRecord) -> list[str]:
    arm, summary = row.arm, row.summary
    name = f"{arm.name} (plans as {arm.same_as})" if arm.same_as else arm.name
    cells = [name, with_interval(summary.mean, summary.interval)]
    cells += [arm.chosen or "–"] if record.tuning else []
    cells.append(f"{len(summary.values)} of {len(record.seeds_of(arm.name))}")
    return [*cells, format_count(arm.num_tokens)]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [_line(head), _line(["---"] + ["---:"] * (len(head) - 1)), *map(_line, rows), ""]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
