"""Data sets with loss masks: pairs as they are compiled, and samples of somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.planned_source import PlannedSource
from ncamix.shards import ShardFormat, write_index
from ncamix.tokenization import byte_tokenizer

LENGTH = 32
END = 0  # of text, of the byte tokenizer
SHARD = 16


def pack_pairs(num: int, first: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Two isolated pairs a sample, each `prompt N` and `response N`, then padding."""
    tokens = np.full((num, LENGTH + 1), END, np.uint32)
    masks = np.zeros((num, LENGTH + 1), np.bool_)
    tokenizer = byte_tokenizer()
    for row in range(num):
        ids, mask = [], []
        for pair in (first + 2 * row, first + 2 * row + 1):
            prompt = tokenizer.encode(f"p{pair % 10}\n").ids
            response = [*tokenizer.encode("response").ids, END]
            ids += prompt + response
            mask += [False] * len(prompt) + [True] * len(response)
        tokens[row, : len(ids)], masks[row, : len(ids)] = ids, mask
    return tokens, masks


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


def write_pairs(source: PlannedSource) -> None:
    """The cache entry of a source of pairs."""
    entry = cache.entry(source.fingerprint)
    sizes = {"train": 40, "validation": 8, "test": 4}
    for first, (split, num) in enumerate(sizes.items()):
        write_masked(entry / (split if first else ""), *pack_pairs(num, 100 * first))
    info = {"kind": "text", "name": source.name, "num_samples": sizes["train"]}
    (entry / cache.INFO).write_text(json.dumps(info))


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
