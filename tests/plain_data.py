"""Small datasets, written and read one shard after the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.shards import MASK, ShardFormat, read_index, read_shard, write_index


def write_dataset(folder: Path, form: ShardFormat, shards: Iterable[NDArray[np.uint32]]) -> None:
    """Write shards, uint32 [num_samples, length] each, and their index into an existing folder."""
    entries = []
    for number, tokens in enumerate(shards):
        name, data, entry = form.pack(number, tokens)
        (folder / name).write_bytes(data)
        entries.append(entry)
    write_index(folder, entries)


def read_samples(folder: Path, limit: int | None = None) -> NDArray[np.uint32]:
    """The first samples of a dataset, uint32 [num_samples, length]; few enough for memory."""
    return _read(folder, "tokens", limit).astype(np.uint32)


def read_masks(folder: Path, limit: int | None = None) -> NDArray[np.bool_] | None:
    """The loss masks of the first samples, bool [num_samples, length]; None without such a
    column."""
    if any(MASK not in entry["column_names"] for entry in read_index(folder)):
        return None
    return _read(folder, MASK, limit).astype(np.bool_)


def _read(folder: Path, column: str, limit: int | None) -> NDArray[Any]:
    parts: list[NDArray[Any]] = []
    found = 0
    for entry in read_index(folder):
        parts.append(read_shard(folder, entry)[column])
        found += len(parts[-1])
        if limit is not None and found >= limit:
            break
    return (np.concatenate(parts) if parts else np.empty((0, 1), np.uint32))[:limit]
