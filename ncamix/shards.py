"""MDS shards of fixed-size samples: their bytes, their index, and datasets made of them.

A sample is one column, `tokens`, `ndarray:uint16:<length>` or uint32 by vocabulary. Because samples
are of fixed size, a shard's size is known before it is made, and its bytes equal those of
MosaicML's MDSWriter. Files appear whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from ncamix.files import write_whole

SIZE_LIMIT = 1 << 26  # MDSWriter's default, part of every shard's embedded configuration


def shard_name(number: int) -> str:
    """The file name of a shard, as MDSWriter names it."""
    return f"shard.{number:05}.mds"


def width_of(num_ids: int) -> str:
    """The dtype that holds ids below `num_ids`: uint16 or uint32."""
    return "uint16" if num_ids <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class ShardFormat:
    """Layout of a shard: ids a sample, their dtype, and zstd level (None: not compressed)."""

    length: int
    dtype: str
    zstd: int | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """What MDS embeds in every shard and repeats in the index."""
        return {
            "version": 2,
            "format": "mds",
            "compression": None if self.zstd is None else f"zstd:{self.zstd}",
            "hashes": [],
            "size_limit": SIZE_LIMIT,
            "column_names": ["tokens"],
            "column_encodings": [f"ndarray:{self.dtype}:{self.length}"],
            "column_sizes": [self.length * np.dtype(self.dtype).itemsize],
        }

    @cached_property
    def _config_bytes(self) -> bytes:
        return json.dumps(self.config, sort_keys=True).encode()

    def num_bytes(self, num_samples: int) -> int:
        """Size of an uncompressed shard in bytes."""
        sample = self.length * np.dtype(self.dtype).itemsize
        return 4 + 4 * (num_samples + 1) + len(self._config_bytes) + num_samples * sample

    def encode(self, tokens: NDArray[np.uint32]) -> bytes:
        """The bytes of a shard; tokens: uint32 [num_samples, length]."""
        samples = np.ascontiguousarray(tokens, dtype=self.dtype)
        assert samples.shape[1] == self.length
        assert (samples == tokens).all(), "an id does not fit the shard's dtype"
        num = len(samples)
        sample = self.length * samples.itemsize
        head = 4 + 4 * (num + 1) + len(self._config_bytes)
        offsets = (head + np.arange(num + 1, dtype=np.int64) * sample).astype("<u4")
        return b"".join(
            [np.uint32(num).tobytes(), offsets.tobytes(), self._config_bytes, samples.tobytes()]
        )

    def entry(self, number: int, num_samples: int, zip_bytes: int | None = None) -> dict[str, Any]:
        """The index entry of a shard."""
        name = shard_name(number)
        zipped = None
        if zip_bytes is not None:
            zipped = {"basename": f"{name}.zstd", "bytes": zip_bytes, "hashes": {}}
        raw = {"basename": name, "bytes": self.num_bytes(num_samples), "hashes": {}}
        return {**self.config, "samples": num_samples, "raw_data": raw, "zip_data": zipped}


def write_index(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Write a dataset's `index.json`."""
    write_whole(
        folder / "index.json",
        json.dumps({"version": 2, "shards": entries}, sort_keys=True).encode(),
    )


def write_dataset(
    folder: Path,
    form: ShardFormat,
    shards: Iterable[NDArray[np.uint32]],
    done: Callable[[int], None] = lambda samples: None,
) -> int:
    """Write shards and their index into an existing folder; returns the number of samples.

    shards: uint32 [num_samples, length] each. done: called with the samples of each shard written.
    """
    entries, total = [], 0
    for number, tokens in enumerate(shards):
        data, zip_bytes = form.encode(tokens), None
        path = folder / shard_name(number)
        if form.zstd is None:
            write_whole(path, data)
        else:
            packed = zstandard.ZstdCompressor(level=form.zstd).compress(data)
            zip_bytes = len(packed)
            write_whole(path.with_name(f"{path.name}.zstd"), packed)
        entries.append(form.entry(number, len(tokens), zip_bytes))
        total += len(tokens)
        done(len(tokens))
    write_index(folder, entries)
    return total


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The shard entries of a dataset. Raises OSError or ValueError if there is no readable one."""
    index = json.loads((folder / "index.json").read_text())
    if not isinstance(index, dict) or not isinstance(index.get("shards"), list):
        raise ValueError(f"{folder / 'index.json'} is not an index")
    entries: list[dict[str, Any]] = index["shards"]
    return entries


def count_samples(folder: Path) -> int:
    """Samples of a dataset. Raises OSError or ValueError if it is not whole: no index, or a shard
    is missing or not of the size that the index says."""
    total = 0
    for entry in read_index(folder):
        file = entry["zip_data"] or entry["raw_data"]
        if (folder / file["basename"]).stat().st_size != file["bytes"]:
            raise ValueError(f"{folder / file['basename']} is not of {file['bytes']} bytes")
        total += entry["samples"]
    return total


def read_samples(folder: Path, limit: int | None = None) -> NDArray[np.uint32]:
    """The first samples of a dataset, uint32 [num_samples, length]; few enough for memory."""
    parts: list[NDArray[np.uint32]] = []
    length, found = 1, 0
    for entry in read_index(folder):
        stored = _stored(folder, entry)
        length = stored.shape[1]
        parts.append(stored.astype(np.uint32))
        found += len(stored)
        if limit is not None and found >= limit:
            break
    samples = np.concatenate(parts) if parts else np.empty((0, length), np.uint32)
    return samples[:limit]


def read_chosen(folder: Path, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Chosen samples of a dataset, uint32 [len(numbers), length]; no other shard is read."""
    entries = read_index(folder)
    ends = np.cumsum([entry["samples"] for entry in entries])
    shards = np.searchsorted(ends, numbers, side="right")
    rows: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)] * len(numbers)
    for shard in np.unique(shards).tolist():
        stored = _stored(folder, entries[shard])
        first = int(ends[shard]) - len(stored)
        for i in np.flatnonzero(shards == shard).tolist():
            rows[i] = stored[numbers[i] - first].astype(np.uint32)
    return np.stack(rows)


def _stored(folder: Path, entry: dict[str, Any]) -> NDArray[Any]:
    """A shard's samples as they are stored, [num_samples, length]; they are its last bytes."""
    _, dtype, length = entry["column_encodings"][0].split(":")
    shape = (int(entry["samples"]), int(length))
    size = shape[0] * shape[1] * np.dtype(dtype).itemsize
    raw = folder / entry["raw_data"]["basename"]
    if entry["zip_data"] is not None and not raw.exists():
        packed = (folder / entry["zip_data"]["basename"]).read_bytes()
        whole = entry["raw_data"]["bytes"]
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=whole)
    else:
        data = raw.read_bytes()
    return np.frombuffer(data, dtype, offset=len(data) - size).reshape(shape)


def sample_digest(tokens: NDArray[Any]) -> int:
    """xxh64 of a sample's ids as little-endian uint32: independent of storage width."""
    return xxhash.xxh64_intdigest(np.ascontiguousarray(tokens, dtype="<u4").tobytes())
