"""Results of evaluations: one file of JSON a task, and a table of them.

    RESULTS/<task>.json: settings, values, standard errors, versions, seeds

A result stands for its settings: the same command finds it there and does nothing again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ncamix.files import make_output, write_whole


@dataclass(frozen=True)
class Value:
    """One number that an evaluation found.

    name: of the metric. error: its standard error, None where there is none. filter: how answers
    were read, where a task reads them in several ways.
    """

    name: str
    value: float
    error: float | None = None
    filter: str = ""


@dataclass(frozen=True)
class Result:
    """What an evaluation of one task found, and under which settings.

    samples: problems that it is over. values: the first is the task's own figure. details: what is
    to be told for the record.
    """

    task: str
    settings: dict[str, Any]
    samples: int
    values: tuple[Value, ...]
    details: dict[str, Any] = field(default_factory=dict)


def result_file(folder: Path, task: str) -> Path:
    """Where a task's result lies."""
    return folder / f"{re.sub(r'[^A-Za-z0-9_.+-]', '_', task)}.json"


def write_result(folder: Path, result: Result) -> Path:
    """Write a result, and where."""
    file = result_file(folder, result.task)
    make_output(folder)
    write_whole(file, json.dumps(asdict(result), indent=1, default=str).encode())
    return file


def known_result(folder: Path, task: str, settings: dict[str, Any]) -> Result | None:
    """The result of a task under the same settings, if it is there."""
    try:
        held = json.loads(result_file(folder, task).read_text())
        if held["settings"] != json.loads(json.dumps(settings, default=str)):
            return None
        values = tuple(Value(**value) for value in held["values"])
        return Result(held["task"], held["settings"], held["samples"], values, held["details"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def print_results(results: Sequence[Result], console: Console) -> None:
    """A table of results, standard errors beside the values."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in (("task", 0), ("metric", 0), ("problems", 1), ("value", 1), ("± s.e.", 1)):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for result in results:
        for i, value in enumerate(result.values):
            metric = f"{value.name} ({value.filter})" if value.filter else value.name
            error = f"{value.error:.4f}" if value.error is not None else "-"
            first = (result.task, metric, f"{result.samples:,}") if i == 0 else ("", metric, "")
            table.add_row(*first, f"{value.value:.4f}", error)
    console.print(table, highlight=False, markup=False)
