"""Data sets of somebody else's samples, with loss masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncamix.shards import ShardFormat, write_index

LENGTH = 32
END = 0  # of text, of the byte tokenizer
SHARD = 16


def write_masked(folder: Path, tokens: NDArray[np.uint32], masks: NDArray[np.bool_]) -> None:
    """A masked dataset of shards of SHARD samples."""
    folder.mkdir(parents=True, exist_ok=True)
    form, entries = ShardFormat(LENGTH + 1, "uint16", masked=True, hashed=True), []
    for number, at in enumerate(range(0, len(tokens), SHARD)):
        part = slice(at, at + SHARD)
        name, data, entry = form.pack(number, tokens[part], masks[part])
        (folder / name).write_bytes(data)
        entries.append(entry)
    write_index(folder, entries)


def write_data_set(folder: Path, masked: bool, blank: bool = False, wrong: bool = False) -> None:
    """40 samples of random bytes; blank: no target at all; wrong: with an id of no byte."""
    random = np.random.default_rng(1)
    tokens = random.integers(33, 94, (40, LENGTH + 1)).astype(np.uint32)
    masks = random.integers(0, 2, tokens.shape) == 1 if masked else np.ones(tokens.shape, np.bool_)
    if blank:
        masks[:] = False
    if wrong:
        tokens[:, 5] = 300
    write_masked(folder, tokens, masks)
