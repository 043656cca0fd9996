"""MDS shards of fixed-size samples: their bytes, their index, and datasets made of them.

A sample is the column `tokens`, `ndarray:uint16:<length>` or uint32 by vocabulary; where a loss
mask travels with the data, a column `loss_mask`, `ndarray:uint8:<length>`, is beside it: 1 where
the id is a trained target. Because samples are of fixed size, a shard's size is known before it is
made, and its bytes equal those of MosaicML's MDSWriter. Where attention stays within
documents, a column `segments`, of one number less and `uint16` or `uint32`, numbers the documents
that a sample's input ids belong to. Files appear whole or not at all. Indexes of hashed formats
carry the xxh64 of every file, by which damage is found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

from ncamix.files import write_whole

MASK, SEGMENTS = "loss_mask", "segments"  # columns beside `tokens`
HASH = "xxh64"
INDEX = "index.json"
SIZE_LIMIT = 1 << 26  # MDSWriter's default, part of every shard's embedded configuration


def shard_name(number: int) -> str:
    """The file name of a shard, as MDSWriter names it."""
    return f"shard.{number:05}.mds"


def width_of(num_ids: int) -> str:
    """The dtype that holds ids below `num_ids`: uint16 or uint32."""
    return "uint16" if num_ids <= 1 << 16 else "uint32"


@dataclass(frozen=True)
class ShardFormat:
    """Layout of a shard: ids a sample, their dtype, zstd level (None: not compressed), whether a
    loss mask and numbers of documents stand beside the ids, and whether the index carries hashes.
    """

    length: int
    dtype: str
    zstd: int | None = None
    masked: bool = False
    hashed: bool = False
    segmented: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """What MDS embeds in every shard and repeats in the index."""
        columns = [("tokens", self.dtype, self.length)]
        if self.masked:
            columns.append((MASK, "uint8", self.length))
        if self.segmented:
            columns.append((SEGMENTS, width_of(self.length - 1), self.length - 1))
        columns.sort()  # as MDSWriter does
        return {
            "version": 2,
            "format": "mds",
            "compression": None if self.zstd is None else f"zstd:{self.zstd}",
            "hashes": [HASH] if self.hashed else [],
            "size_limit": SIZE_LIMIT,
            "column_names": [name for name, _, _ in columns],
            "column_encodings": [f"ndarray:{dtype}:{length}" for _, dtype, length in columns],
            "column_sizes": [np.dtype(dtype).itemsize * length for _, dtype, length in columns],
        }

    @cached_property
    def _config_bytes(self) -> bytes:
        return json.dumps(self.config, sort_keys=True).encode()

    def num_bytes(self, num_samples: int) -> int:
        """Size of an uncompressed shard in bytes."""
        sample = sum(self.config["column_sizes"])
        return 4 + 4 * (num_samples + 1) + len(self._config_bytes) + num_samples * int(sample)

    def encode(
        self,
        tokens: NDArray[np.uint32],
        mask: NDArray[np.bool_] | None = None,
        segments: NDArray[np.int64] | None = None,
    ) -> memoryview:
        """The bytes of a shard, uncompressed; tokens: uint32 [num_samples, length], mask: bool of
        that shape, for a masked format, segments: int64 [num_samples, length - 1], for a segmented
        one."""
        num, length = tokens.shape
        assert length == self.length
        assert not num or tokens.max() <= np.iinfo(self.dtype).max, "an id does not fit the dtype"
        assert (self.masked, self.segmented) == (mask is not None, segments is not None)
        head = self.num_bytes(0) + 4 * num
        data = np.empty(self.num_bytes(num), np.uint8)
        offsets = head + np.arange(num + 1, dtype=np.int64) * sum(self.config["column_sizes"])
        start = np.uint32(num).tobytes() + offsets.astype("<u4").tobytes() + self._config_bytes
        data[:head] = np.frombuffer(start, np.uint8)
        samples = data[head:].view(_record(self.config))
        samples["tokens"] = tokens
        if mask is not None:
            samples[MASK] = mask
        if segments is not None:
            samples[SEGMENTS] = segments
        return data.data

    def pack(
        self,
        number: int,
        tokens: NDArray[np.uint32],
        mask: NDArray[np.bool_] | None = None,
        segments: NDArray[np.int64] | None = None,
    ) -> tuple[str, bytes | memoryview, dict[str, Any]]:
        """A shard's file name, the bytes of its file (compressed if the format says so) and its
        index entry. Arrays as in `encode`."""
        data = self.encode(tokens, mask, segments)
        entry = self.entry(number, len(tokens))
        raw = entry["raw_data"]
        raw["hashes"] = self._hashes(data)
        if self.zstd is None:
            return raw["basename"], data, entry
        packed = zstandard.ZstdCompressor(level=self.zstd).compress(data)
        name = f"{raw['basename']}.zstd"
        entry["zip_data"] = {
            "basename": name,
            "bytes": len(packed),
            "hashes": self._hashes(packed),
        }
        return name, packed, entry

    def entry(self, number: int, num_samples: int) -> dict[str, Any]:
        """The index entry of an uncompressed shard without hashes, known before it is made."""
        raw = {"basename": shard_name(number), "bytes": self.num_bytes(num_samples), "hashes": {}}
        return {**self.config, "samples": num_samples, "raw_data": raw, "zip_data": None}

    def _hashes(self, data: bytes | memoryview) -> dict[str, str]:
        return {HASH: xxhash.xxh64_hexdigest(data)} if self.hashed else {}


def write_index(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Write a dataset's `index.json`."""
    write_whole(folder / INDEX, index_bytes(entries))


def index_bytes(entries: list[dict[str, Any]]) -> bytes:
    """The bytes of an `index.json`."""
    return json.dumps({"version": 2, "shards": entries}, sort_keys=True).encode()


def read_index(folder: Path, name: str = INDEX, nested: bool = False) -> list[dict[str, Any]]:
    """The shard entries of a dataset. Raises OSError or ValueError if there is no readable one, or
    if it names files outside its folder. nested: shards may lie in folders below it."""
    index = json.loads((folder / name).read_text())
    try:
        entries: list[dict[str, Any]] = index["shards"]
        files = [file for e in entries for file in (e["raw_data"], e["zip_data"]) if file]
        names = [str(file["basename"]) for file in files]
        int(sum(entry["samples"] for entry in entries))
    except (LookupError, TypeError):
        raise ValueError(f"{folder / name} is not an index") from None
    for base in names:
        if leads_outside(base) or (len(PurePosixPath(base).parts) > 1 and not nested):
            raise ValueError(f"{folder / name} names '{base}', outside its folder")
    return entries


def leads_outside(name: str) -> bool:
    """Whether a name in an index is not that of a file in, or below, the index's folder."""
    path = PurePosixPath(name)
    return not path.parts or path.is_absolute() or ".." in path.parts


def file_of(entry: dict[str, Any]) -> dict[str, Any]:
    """A shard's file as it is kept: its basename, bytes and hashes."""
    file: dict[str, Any] = entry["zip_data"] or entry["raw_data"]
    return file


def parts_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The files that a shard may lie in, packed first."""
    return [part for part in (entry["zip_data"], entry["raw_data"]) if part]


def own_part(entry: dict[str, Any]) -> dict[str, Any]:
    """What an index entry says of its shard alone; the rest is the format's. Raises KeyError."""
    return {key: entry[key] for key in ("samples", "raw_data", "zip_data")}


def places_in(
    shards: Sequence[tuple[str, int]], numbers: NDArray[np.int64]
) -> list[tuple[str, int]]:
    """(shard's file, row in it, from 0) of samples of any numbers, int64 [n]. shards: (file,
    samples) of each."""
    ends = np.cumsum([samples for _, samples in shards])
    at = np.searchsorted(ends, numbers, side="right")
    rows = numbers - np.concatenate([[0], ends])[at]
    return [(shards[i][0], int(row)) for i, row in zip(at.tolist(), rows, strict=True)]


def count_samples(folder: Path) -> int:
    """Samples of a dataset. Raises OSError or ValueError if it is not whole: no index, or a shard
    is missing or not of the size that the index says."""
    total = 0
    for entry in read_index(folder):
        file = file_of(entry)
        if (folder / file["basename"]).stat().st_size != file["bytes"]:
            raise ValueError(f"{folder / file['basename']} is not of {file['bytes']} bytes")
        total += entry["samples"]
    return total


def damage_of(file: Path, size: int, digest: str | None) -> str | None:
    """What is wrong with a file that should have this size (bytes) and xxh64; None if nothing.

    Raises OSError if it cannot be read.
    """
    return damage_in(file.read_bytes(), size, digest)


def damage_in(
    data: bytes,
    size: int,
    digest: str | None,
    hashed: Callable[[bytes], str] = xxhash.xxh64_hexdigest,
) -> str | None:
    """The same of a file's bytes. hashed: how the digest was made."""
    if len(data) != size:
        return f"it has {len(data):,} of {size:,} bytes"
    if digest is not None and hashed(data) != digest:
        return "its bytes do not have their hash"
    return None


def is_sound(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether a shard's file is there, of the size and (of a hashed format) with the hash that the
    index says."""
    file = file_of(entry)
    try:
        digest = file["hashes"].get(HASH)
        return damage_of(folder / file["basename"], file["bytes"], digest) is None
    except OSError:
        return False


def read_shard(folder: Path, entry: dict[str, Any]) -> NDArray[Any]:
    """A shard's samples, a structured array [num_samples] with a field [length] for each column.

    Samples are the last bytes of a shard, all columns of fixed size.
    """
    record = _record(entry)
    num = int(entry["samples"])
    raw = folder / entry["raw_data"]["basename"]
    if entry["zip_data"] is not None and not raw.exists():
        packed = (folder / entry["zip_data"]["basename"]).read_bytes()
        whole = entry["raw_data"]["bytes"]
        data = zstandard.ZstdDecompressor().decompress(packed, max_output_size=whole)
        return np.frombuffer(data, record, num, offset=len(data) - num * record.itemsize)
    first = raw.stat().st_size - num * record.itemsize
    return np.memmap(raw, record, "r", first, (num,))  # only what is looked at is read


def _record(config: dict[str, Any]) -> np.dtype[Any]:
    """A sample's columns in the order in which they are stored."""
    fields = []
    for name, encoding in zip(config["column_names"], config["column_encodings"], strict=True):
        _, dtype, length = encoding.split(":")
        fields.append((name, dtype, (int(length),)))
    return np.dtype(fields)


def sample_digest(tokens: NDArray[Any]) -> int:
    """xxh64 of a sample's ids as little-endian uint32: independent of storage width."""
    return xxhash.xxh64_intdigest(np.ascontiguousarray(tokens, dtype="<u4").tobytes())
