"""Edits of what a study declares: what `compare` and `seeds` said before, and when they changed.

    the record of the last command, the record of this one -> edits.jsonl -> "edits" in study.json

What a comparison decides by is declared ahead of its results. Whoever changes it later may do so,
and the record tells: each row is what stood there before, and how many runs to compare had
finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ncamix.files import write_whole
from ncamix.run_folder import read_rows
from ncamix.study_runs import from_json, state_of

EDITS = "edits.jsonl"
DECLARED = ("compare", "seeds")  # keys of study.json


def edits_of(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Any]:
    """The edits of the study in `folder`, with the one from `before` to `now`, if that is one; both
    are as in study.json, the former empty if there is none. Writes it down."""
    rows: list[Any] = read_rows(folder / EDITS)
    if not all(key in before for key in DECLARED):
        return rows
    former = {key: before[key] for key in DECLARED}
    declared = {key: json.loads(json.dumps(now[key])) for key in DECLARED}
    # told already: by a command that was stopped before it wrote study.json
    told = bool(rows) and {key: rows[-1].get(key) for key in DECLARED} == former
    if told or not _differ(former, declared):
        return rows
    when = datetime.now(UTC).isoformat(timespec="seconds")
    rows.append({**former, "num_finished": _num_finished(folder, before), "when": when})
    write_whole(folder / EDITS, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return rows


def _differ(former: Any, now: Any) -> bool:
    """Whether two declarations differ in what both say: a key that either lacks is of another
    version of ncamix, since each writes all that it knows."""
    if isinstance(former, dict) and isinstance(now, dict):
        return any(_differ(former[key], now[key]) for key in former.keys() & now.keys())
    return bool(former != now)


def _num_finished(folder: Path, record: Mapping[str, Any]) -> int:
    """How many of the runs to compare in a record have finished."""
    try:
        runs = {run.fingerprint: run for run in map(from_json, record["runs"]) if not run.tuning}
    except (LookupError, TypeError, ValueError):  # of another version
        return 0
    return sum(state_of(run, folder) == "finished" for run in runs.values())
