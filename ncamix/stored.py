"""Data sets of samples that exist already (source kind `mds`), read through MosaicML Streaming.

    shards, in place or fetched and unpacked -> samples, each checked

A data set that lies unpacked on this machine is read where it lies, and never written to. What is
fetched or unpacked goes to the source's `local` folder if it is remote and names one, else to a
folder of the caller's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.errors import fail
from ncamix.files import DATA_LOCK, replace_link, write_whole
from ncamix.locks import HeldLocks
from ncamix.planned_source import PlannedSource
from ncamix.shards import HASH, INDEX, MASK, damage_of
from ncamix.sources.mds import COLUMN
from ncamix.stored_index import index_folder, index_of, stored_plan, unreadable
from ncamix.stored_layout import Layout
from ncamix.stores import ANSWER_SECONDS, ATTEMPTS, is_url

_held = HeldLocks()  # of folders that runs of this process fetch into
SHARDS_KEPT = 8  # of what is fetched or unpacked to be read by number


def stored_rows(source: PlannedSource, numbers: NDArray[np.int64]) -> list[tuple[str, int]]:
    """(shard's file, row in it) of samples of a stored source, by their numbers."""
    shards = index_of(source).shards
    ends = np.cumsum([samples for _, samples in shards])
    at = np.searchsorted(ends, numbers, side="right")
    rows = numbers - np.concatenate([[0], ends])[at]
    return [(shards[i][0], int(row)) for i, row in zip(at.tolist(), rows, strict=True)]


def layout_of(source: PlannedSource) -> Layout:
    """How the rows of a stored source become samples. Its index is known."""
    stored, index = stored_plan(source), index_of(source)
    assert index.length is not None
    what, length = stored.described(source.name), source.sequence_length
    return Layout(what, index.length, length, stored.dtype, source.num_ids, index.masked)


def stored_place(source: PlannedSource, folder: Path, keeps: bool = True) -> tuple[str | None, str]:
    """Where the shards of a stored source come from, None where they are read in place, and where
    they are read. Its index is known.

    folder: of the caller's, for what is fetched or unpacked; a link beside it leads to what is read
    in place, since two sources may share a data set, but no two streams a path. keeps: what is
    fetched goes to the source's own folder, if it names one, until this process ends.

    Raises:
        UserError: another run fetches into the source's folder.
    """
    stored, index = stored_plan(source), index_of(source)
    place = index_folder(source)
    if stored.remote is None and all((place / name).is_file() for name, _ in index.shards):
        link = folder.with_name(f"{folder.name}.mds")
        replace_link(link, place)
        return None, str(link)
    local = folder
    if keeps and stored.local is not None and stored.remote is not None:
        local = stored.local
        _hold(local)
    local.mkdir(parents=True, exist_ok=True)
    write_whole(local / INDEX, (place / INDEX).read_bytes())  # the one that the plan counts on
    return stored.remote or str(stored.local), str(local)


class StoredSamples:
    """Reads samples of a stored source by number; its index is known. Any thread may.

    What is fetched or unpacked lies in a temporary folder, a few shards of it at a time.
    """

    def __init__(self, source: PlannedSource) -> None:
        self.source, self._index, self._layout = source, index_of(source), layout_of(source)
        self._ends = np.cumsum([samples for _, samples in self._index.shards])
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    @property
    def num_samples(self) -> int:
        return self._index.num_samples

    @property
    def is_masked(self) -> bool:
        """Whether a loss mask comes with the samples."""
        return self._layout.makes_masks

    def range(self, first: int, count: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_] | None]:
        """Samples first .. first + count - 1, as of `chosen`."""
        return self.chosen(np.arange(first, first + count))

    def chosen(
        self, numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.bool_] | None]:
        """Samples of any numbers, int64 [n]: uint32 [n, sequence_length + 1], and bool of that
        shape if they are masked.

        Raises:
            UserError: a shard cannot be read, or holds what is no sample of the source.
        """
        tokens = np.empty((len(numbers), self.source.sequence_length + 1), np.uint32)
        mask = np.empty(tokens.shape, np.bool_) if self.is_masked else None
        shards = np.searchsorted(self._ends, numbers, side="right")
        for shard in np.unique(shards).tolist():
            with self._lock:
                reader = self._reader(shard)
                first = int(self._ends[shard]) - self._index.shards[shard][1]
                for i in np.flatnonzero(shards == shard).tolist():
                    sample = self._layout.sample(reader[int(numbers[i]) - first])
                    tokens[i] = sample[COLUMN]
                    if mask is not None:
                        mask[i] = sample[MASK]
        return tokens, mask

    def _reader(self, shard: int) -> Any:
        """The reader of a shard that is there."""
        if shard in self._kept:
            self._kept.move_to_end(shard)
            return self._kept[shard]
        readers, stream, is_scratch = self._opened
        try:
            stream.prepare_shard(readers[shard])
            raw = readers[shard].raw_data
            file = Path(stream.local) / raw.basename
            reason = damage_of(file, raw.bytes, raw.hashes.get(HASH))
        except Exception as error:  # of a store's client, or of a decompressor
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise unreadable(self.source, str(error)) from error
        if reason is not None:
            raise unreadable(self.source, f"the shard {file.name} is damaged: {reason}")
        self._kept[shard] = readers[shard]
        if len(self._kept) > SHARDS_KEPT:
            _, oldest = self._kept.popitem(last=False)
            if is_scratch:
                oldest.evict()
        return readers[shard]

    @cached_property
    def _opened(self) -> tuple[list[Any], Any, bool]:
        """The readers, their stream, and whether what is read is a copy of our own."""
        from streaming import Stream
        from streaming.base.world import World

        self._scratch = tempfile.TemporaryDirectory(prefix="ncamix-")
        origin, place = stored_place(self.source, Path(self._scratch.name) / "data", keeps=False)
        stream = Stream(remote=origin, local=place)
        stream.apply_default(
            {
                "split": None,
                "download_retry": ATTEMPTS if is_url(origin) else 1,
                "download_timeout": ANSWER_SECONDS,
                "validate_hash": None,
                "keep_zip": False,
            }
        )
        is_scratch = place.startswith(self._scratch.name) and origin is not None
        return stream.get_shards(World.detect(), False), stream, is_scratch


def _hold(folder: Path) -> None:
    """Keep other runs out of a folder that a run fetches into; its node's first rank does.

    Raises:
        UserError: another run fetches into it.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _held.take(folder / DATA_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise fail(
            f"another run fetches into {folder}", "wait for its end, or name another `local`"
        ) from None
