"""Edits of what a study declares: what was compared, by which seeds, tuning and arms, and when that
changed.

    the record of the last command, the record of this one -> edits.jsonl -> "edits" in study.json

What a comparison decides by is declared ahead of its results, and so is what its arms are. Whoever
changes that later may do so, and the record tells: each row is what stood there before, and how
many runs to compare had finished. An arm that is added, or left out, is no edit of the others.
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


def declared_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a study declares, from its study.json or a row of edits.jsonl: `compare` and `seeds` as
    they are there; of the tuning its seeds and the names of its points; of each arm the fingerprint
    of its plan. A row of another version of ncamix may lack the last two."""
    found = {"compare": record["compare"], "seeds": record["seeds"]}
    if "tuning" in record:
        tuning = record["tuning"]
        found["tuning"] = tuning and {key: list(tuning[key]) for key in ("seeds", "points")}
    if "arms" in record:
        found["arms"] = {
            name: arm["fingerprint"] if isinstance(arm, Mapping) else arm
            for name, arm in record["arms"].items()
            if not isinstance(arm, Mapping) or "fingerprint" in arm
        }
    return found


def edits_of(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Any]:
    """The edits of the study in `folder`, with the one from `before` to `now`, if that is one; both
    are as in study.json, the former empty if there is none. Writes it down."""
    rows: list[Any] = read_rows(folder / EDITS)
    if not all(key in before for key in ("compare", "seeds")):
        return rows
    former, declared = declared_in(before), json.loads(json.dumps(declared_in(now)))
    # told already: by a command that was stopped before it wrote study.json
    told = bool(rows) and declared_in(rows[-1]) == former
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
