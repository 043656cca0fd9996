"""Logs of JSON lines as columns: the keys that are asked for, by stage, in the order of batches.

    file -> blocks of whole lines -> columns (pyarrow, which reads no key but those)
         -> float64 arrays by stage, a batch once

A block is in memory at a time, and no row ever as a Python object unless it is damaged, so that a
long log costs little more than its columns: 8 bytes a value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Columns = dict[str, Floats]

BLOCK = 1 << 24  # bytes that are read at once
_PLACE = ("batch", "tokens")


def read_columns(
    path: Path, stages: Sequence[str], keys: Sequence[str], remarks: list[str] | None = None
) -> dict[str, Columns]:
    """Numbers of a log by stage and key, float64 [batches]; a file that is not there has none.

    Each row has a `stage`, the `batch` in it, counted from 0, and the `tokens` of the run; `batch`
    and `tokens` are among the columns. What a row lacks, or what is no finite number, is not a
    number here. Of a batch recorded twice, as by a run that was resumed, the last row counts.
    A line torn by a kill is passed over; others that cannot be read are named in `remarks`.
    """
    names = [*_PLACE, *(key for key in keys if key not in _PLACE)]
    places: list[NDArray[np.intp]] = []
    parts: list[Floats] = []
    if path.is_file():
        with path.open("rb") as file:
            number, before = 1, b""
            for block in _blocks(file):
                number += before.count(b"\n")
                place, values, damaged = _parse(block, stages, names)
                places.append(place)
                parts.append(values)
                if remarks is not None:
                    remarks += [
                        f"{path.name}, line {number + i} is not readable and was left out."
                        for i in damaged
                    ]
                before = block
    if not parts:
        return {stage: dict.fromkeys(names, np.zeros(0)) for stage in stages}
    place, values = np.concatenate(places), np.concatenate(parts, axis=1)
    return {
        stage: dict(zip(names, _ordered(values[:, place == i]), strict=True))
        for i, stage in enumerate(stages)
    }


def _ordered(values: Floats) -> Floats:
    """Columns [keys, rows], whose first are batches, in their order, the last row of each."""
    batches = values[0]
    if (np.diff(batches) > 0).all():
        return values
    _, last = np.unique(batches[::-1], return_index=True)
    return values[:, len(batches) - 1 - last]


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """A file in blocks of whole lines; a last line without its end comes by itself."""
    held = b""
    while block := file.read(BLOCK):
        held += block
        cut = held.rfind(b"\n") + 1
        if cut:
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def _parse(
    block: bytes, stages: Sequence[str], names: Sequence[str]
) -> tuple[NDArray[np.intp], Floats, list[int]]:
    """The stage of each row [rows], its numbers [keys, rows], and damaged lines from 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        table = _table(block, names)
    except pa.ArrowInvalid:
        return _parse_lines(block, stages, names)
    found = pc.fill_null(pc.index_in(table["stage"], pa.array(stages, pa.string())), -1)
    values = np.empty((len(names), table.num_rows))
    for row, name in enumerate(names):
        values[row] = table[name].to_numpy()
    values[~np.isfinite(values)] = np.nan
    known = np.isfinite(values[:2]).all(axis=0)
    return found.to_numpy().astype(np.intp)[known], values[:, known], []


def _table(block: bytes, names: Sequence[str]) -> Any:
    """A block as an Arrow table; ArrowInvalid if anything in it is damaged."""
    import pyarrow as pa
    from pyarrow.json import ParseOptions, ReadOptions, read_json

    schema = pa.schema([("stage", pa.string()), *((name, pa.float64()) for name in names)])
    options = ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return read_json(pa.BufferReader(block), ReadOptions(use_threads=False), parse_options=options)


def _parse_lines(
    block: bytes, stages: Sequence[str], names: Sequence[str]
) -> tuple[NDArray[np.intp], Floats, list[int]]:
    """The same, line by line, of a block in which something is damaged."""
    places: list[int] = []
    rows: list[list[float]] = []
    damaged = []
    for number, line in enumerate(block.splitlines(keepends=True)):
        try:
            row = json.loads(line)
        except ValueError:
            if line.endswith(b"\n") and line.strip():
                damaged.append(number)
            continue
        if isinstance(row, dict) and isinstance(row.get("stage"), str):
            values = [_number(row.get(name)) for name in names]
            if all(map(np.isfinite, values[:2])):
                places.append(stages.index(row["stage"]) if row["stage"] in stages else -1)
                rows.append(values)
    return np.array(places, np.intp), np.array(rows).reshape(-1, len(names)).T, damaged


def _number(value: Any) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else math.nan
