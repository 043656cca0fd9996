"""Samples of a stored data set (source kind `mds`), read by number through MosaicML Streaming.

numbers -> shards, in place or fetched and unpacked, each checked -> rows -> ids and loss masks
"""

from __future__ import annotations

import errno
import tempfile
import threading
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.planned_source import PlannedSource
from ncamix.shards import HASH, MASK, damage_of
from ncamix.sources.mds import COLUMN
from ncamix.stored import index_of, layout_of, stored_place, unreadable
from ncamix.stores import ANSWER_SECONDS, ATTEMPTS, is_url

SHARDS_KEPT = 8  # of what is fetched or unpacked


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
