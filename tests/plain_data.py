"""Small datasets of given samples, one shard after the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncamix.shards import ShardFormat, write_index


def write_dataset(folder: Path, form: ShardFormat, shards: Iterable[NDArray[np.uint32]]) -> None:
    """Write shards, uint32 [num_samples, length] each, and their index into an existing folder."""
    entries = []
    for number, tokens in enumerate(shards):
        name, data, entry = form.pack(number, tokens)
        (folder / name).write_bytes(data)
        entries.append(entry)
    write_index(folder, entries)
