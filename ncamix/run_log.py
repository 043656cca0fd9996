"""The log of a run: its records, as they grow, in the terms of loggers.

    metrics.jsonl, speed.jsonl, evaluations.jsonl, induction.jsonl
      -> rows not told of yet, in the order of tokens -> (tokens, {`loss/code`: 2.5, ...})

A record is appended to, and when a killed run resumes, cut and written anew; row n stays row n, for
what is trained again comes out the same. So the number of rows told of is all that is kept of a
position. A row is held back while metrics of fewer tokens may still come.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

Metrics = dict[str, float]

METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.jsonl"
RECORDS = (METRICS, "speed.jsonl", EVALUATIONS, "induction.jsonl")
_PLACES = ("stage", "batch", "tokens", "when", "source", "digest")  # where and what, no values
_AVERAGED = ("cell_accuracy", "frame_accuracy", "copied_cells", "copied_frames")  # over frames seen


class RunLog:
    """Reads the records of the run in `folder`. `told`: rows told of already, by record."""

    def __init__(self, folder: Path, told: dict[str, int]) -> None:
        self.told = {name: told.get(name, 0) for name in RECORDS}
        self._tails = {name: _Tail(folder / name, self.told[name]) for name in RECORDS}
        self._held: list[tuple[int, int, str, Metrics]] = []
        self._reached = -1  # tokens of the last metrics

    def new(self, all_of_it: bool = False) -> Iterator[tuple[int, Metrics]]:
        """What has come since, (tokens of the run, values); a row counts as told once the next one
        is asked for. all_of_it: nothing more will come."""
        for order, name in enumerate(RECORDS):  # metrics first: the others may be ahead of them
            for row in self._tails[name].rows():
                if name == METRICS:
                    self._reached = row["tokens"]
                self._held.append((row["tokens"], order, name, metrics_of(name, row)))
        self._held.sort(key=lambda held: held[:2])  # stable: rows of a record keep their order
        while self._held and (all_of_it or self._held[0][0] <= self._reached):
            tokens, _, name, metrics = self._held[0]
            if metrics:
                yield tokens, metrics
            del self._held[0]
            self.told[name] += 1


def metrics_of(name: str, row: dict[str, Any]) -> Metrics:
    """The values of a row under the names by which loggers know them: `loss/code` as in
    `metrics.jsonl`, `speed/data_wait`, `evaluate/loss/code`, `induction/loss_drop`."""
    values = {k: fmean(v) for k, v in row.items() if k in _AVERAGED and v}
    values |= {k: v for k, v in row.items() if isinstance(v, int | float) and k not in _PLACES}
    values = {k: float(v) for k, v in values.items() if math.isfinite(v)}
    if name == METRICS:
        return values
    if name == EVALUATIONS:
        when = "raw/" if row["when"] == "raw" else ""  # of weights that were not averaged
        return {f"evaluate/{when}{k}/{row['source']}": v for k, v in values.items()}
    return {f"{name.removesuffix('.jsonl')}/{k}": v for k, v in values.items()}


class _Tail:
    """Whole rows of a growing file, from row `skipped` on, each once."""

    def __init__(self, path: Path, skipped: int) -> None:
        self.path, self.read = path, skipped
        self._inode, self._place, self._row, self._last = -1, 0, 0, b""

    def rows(self) -> list[dict[str, Any]]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        found = []
        with file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(self._place - len(self._last))
            if inode != self._inode or file.read(len(self._last)) != self._last:
                # another by this name, or cut, whatever has been written since
                self._inode, self._place, self._row, self._last = inode, 0, 0, b""
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._place += len(line)
                self._row, self._last = self._row + 1, line
                if self._row > self.read:
                    self.read = self._row
                    found.append(json.loads(line))
        return found
