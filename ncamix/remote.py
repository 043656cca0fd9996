"""The scheme `ncamix://`: a remote whose shards are generated when they are first asked for.

    ncamix:///path/to/source.json/shard.00012.mds

`source.json` holds the source's full meaning, the samples of a shard and how many shards there are.
A shard's bytes depend on the meaning and the shard's number alone. Beside the shards lies the file
`hashes`, with the xxh64 of shard i at byte 8 i, written before the shard appears. Importing this
module registers the scheme with MosaicML Streaming, in whichever process.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash
from streaming.base.storage import download
from streaming.base.storage.download import CloudDownloader

from ncamix.files import write_whole
from ncamix.shards import INDEX, ShardFormat, index_bytes, shard_name, width_of
from ncamix.slots import Slots
from ncamix.sources import open_generator

SCHEME = "ncamix"
HASHES = "hashes"
_HASH_BYTES = 8


@dataclass(frozen=True)
class Remote:
    """An endless source as a remote dataset of `num_shards` full shards.

    num_threads: threads that generate one shard, at most. num_slots: shards that are generated at
    once by all processes that share TMPDIR, behind training; without it nothing is limited.
    """

    meaning: dict[str, Any]
    num_ids: int
    samples_per_shard: int
    num_shards: int
    num_threads: int | None = None
    num_slots: int | None = None

    @property
    def form(self) -> ShardFormat:
        width = width_of(self.meaning["first_id"] + self.num_ids)
        return ShardFormat(self.meaning["sequence_length"] + 1, width)

    def save(self, path: Path) -> str:
        """Write the remote's description; returns its URL."""
        write_whole(path, json.dumps(vars(self), sort_keys=True).encode())
        return f"{SCHEME}://{path.resolve()}"

    def shard(self, number: int) -> memoryview:
        """The bytes of a shard."""
        per = self.samples_per_shard

        def make(num_threads: int | None) -> memoryview:
            generator = open_generator(self.meaning)
            return self.form.encode(generator.samples(number * per, per, num_threads))

        if self.num_slots is None or self.num_threads is None:
            return make(self.num_threads)
        return Slots(self.num_slots, self.num_threads).make(make)

    def index(self) -> bytes:
        """The bytes of `index.json`, known before any shard exists."""
        entries = [self.form.entry(i, self.samples_per_shard) for i in range(self.num_shards)]
        return index_bytes(entries)


@lru_cache(maxsize=256)
def open_remote(path: str, modified: int) -> Remote:
    """The remote described at `path`; `modified` (ns) keeps the cache true."""
    return Remote(**json.loads(Path(path).read_text()))


def read_hash(file: Path, number: int) -> str | None:
    """The xxh64 of a shard in a file of hashes, in hexadecimal; None if it is not there."""
    try:
        with file.open("rb") as stream:
            stream.seek(_HASH_BYTES * number)
            found = stream.read(_HASH_BYTES)
    except FileNotFoundError:
        return None
    return found.hex() if any(found) else None


def write_hash(file: Path, number: int, data: bytes | memoryview) -> None:
    """Put a shard's xxh64 into a file of hashes, at byte 8 x number. Any process may."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(descriptor, xxhash.xxh64_digest(data), _HASH_BYTES * number)
    finally:
        os.close(descriptor)


class GeneratingDownloader(CloudDownloader):
    """Generates what it is asked to download."""

    @staticmethod
    def _client_identifier() -> str:
        return SCHEME

    def clean_up(self) -> None:
        """Nothing is held."""

    def _download_file_impl(self, remote: str, local: str, timeout: float) -> None:
        path, name = remote.removeprefix(f"{SCHEME}://").rsplit("/", 1)
        source = open_remote(path, os.stat(path).st_mtime_ns)
        data: bytes | memoryview
        if name == INDEX:
            data = source.index()
        else:
            number = int(name.split(".")[1])
            assert name == shard_name(number)
            data = source.shard(number)
            write_hash(Path(local).parent / HASHES, number, data)
        write_whole(Path(local), data)


download.DOWNLOADER_MAPPINGS[SCHEME] = GeneratingDownloader
