"""Samples of a stored data set (source kind `mds`), read by number through MosaicML Streaming.

numbers -> shards, in place or fetched and unpacked, each checked once -> rows -> ids and loss masks

What is fetched or unpacked lies in a temporary folder, which it may take half of. Sizes are bytes.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ncamix.disk import free_bytes
from ncamix.errors import UserError, fail
from ncamix.planned_source import PlannedSource
from ncamix.quantities import format_bytes
from ncamix.shards import MASK
from ncamix.sources.mds import COLUMN
from ncamix.stored import index_of, kept_as, layout_of, stored_place, unreadable

if TYPE_CHECKING:
    from ncamix.supplies import Supply

_ROOM_SHARE = 0.5  # of what is free in the temporary folder
_AGAIN = 16  # shards that are fetched again, as threads that read in order may have to


class StoredSamples:
    """Reads samples of a stored source by number; its index is known. Any thread may.

    A shard is checked once, and fetched or unpacked once, while all that is read fits.
    """

    def __init__(self, source: PlannedSource) -> None:
        self.source, self._index, self._layout = source, index_of(source), layout_of(source)
        self._ends = np.cumsum([samples for _, samples in self._index.shards])
        self._lock = threading.Lock()  # over all of the following
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)  # of shards
        self._there: OrderedDict[int, None] = OrderedDict()  # shards, last used last
        self._readers: Counter[int] = Counter()  # of shards
        self._dropped: set[int] = set()
        self._size = self._again = 0

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
            UserError: a shard cannot be read, or holds what is no sample of the source; or there is
                no room for what is fetched or unpacked.
        """
        tokens = np.empty((len(numbers), self.source.sequence_length + 1), np.uint32)
        mask = np.empty(tokens.shape, np.bool_) if self.is_masked else None
        shards = np.searchsorted(self._ends, numbers, side="right")
        for shard in np.unique(shards).tolist():
            first = int(self._ends[shard]) - self._index.shards[shard][1]
            with self._held(shard) as reader:
                for i in np.flatnonzero(shards == shard).tolist():
                    number = int(numbers[i])
                    sample = self._layout.sample(reader[number - first], number)
                    tokens[i] = sample[COLUMN]
                    if mask is not None:
                        mask[i] = sample[MASK]
        return tokens, mask

    @contextmanager
    def _held(self, shard: int) -> Iterator[Any]:
        """The reader of a shard, which is there and sound for the block."""
        with self._lock:
            readers, stream = self._opened
            self._readers[shard] += 1
            own = self._locks[shard]
        try:
            with own:
                if shard not in self._there:
                    self._prepare(shard, readers, stream)
            with self._lock:
                self._there.move_to_end(shard)
            yield readers[shard]
        finally:
            with self._lock:
                self._readers[shard] -= 1

    def _prepare(self, shard: int, readers: list[Any], stream: Supply) -> None:
        """Fetch or unpack a shard, if it is not read in place, and check it."""
        reader = readers[shard]
        size = 0 if stream.in_place else int(reader.raw_data.bytes)
        with self._lock:
            self._make_room(shard, size, readers)
        try:
            if not stream.in_place:
                stream.prepare_shard(reader)  # which checks it
            elif (reason := stream.damage(reader, shard)) is not None:
                raise stream.give_up(reader.raw_data.basename, reason)
        except (UserError, OSError) as error:
            with self._lock:
                self._size -= size
            if isinstance(error, UserError):
                raise unreadable(self.source, error.problems[0]) from None
            raise unreadable(self.source, str(error)) from None
        with self._lock:
            self._there[shard] = None

    def _make_room(self, shard: int, size: int, readers: list[Any]) -> None:
        """Take the room for a shard, if need be from those that were used longest ago.

        Raises:
            UserError: they are needed again and again.
        """
        self._again += shard in self._dropped
        spare = [known for known in self._there if not self._readers[known]]
        while size and self._size + size > self._room and spare:
            oldest = spare.pop(0)
            readers[oldest].evict()
            del self._there[oldest]
            self._dropped.add(oldest)
            self._size -= int(readers[oldest].raw_data.bytes)
        if self._again > _AGAIN:
            whole, room = sum(int(r.raw_data.bytes) for r in readers), int(self._room)
            raise fail(
                f"{self._layout.what} is read in another order than it lies, and takes up to "
                f"{format_bytes(whole)} in the temporary folder {tempfile.gettempdir()}, where "
                f"{format_bytes(room)} were to be had, half of what was free",
                f"make room for {format_bytes(whole / _ROOM_SHARE)} there, set TMPDIR to a folder "
                "that has it, or unpack the data set on this machine and name it with `local`",
            )
        self._size += size

    @cached_property
    def _room(self) -> float:
        return _ROOM_SHARE * free_bytes(Path(self._scratch.name))

    @cached_property
    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="ncamix-")

    @cached_property
    def _opened(self) -> tuple[list[Any], Supply]:
        """The readers of all shards, and their stream."""
        from streaming.base.world import World

        from ncamix.supplies import FetchedStream, InPlaceStream

        origin, place = stored_place(self.source, Path(self._scratch.name) / "data", keeps=False)
        stream: Supply = InPlaceStream(place)
        if origin is not None:
            stream = FetchedStream(origin, place, kept_as(self.source))
        stream.layout = self._layout
        return stream.get_shards(World.detect(), False), stream


_known: WeakValueDictionary[str, StoredSamples] = WeakValueDictionary()


def stored_samples(source: PlannedSource) -> StoredSamples:
    """The samples of a stored source: the same for all who read it at once, so that its shards are
    fetched once."""
    found = _known.get(source.fingerprint)
    if found is None:
        found = _known[source.fingerprint] = StoredSamples(source)
    return found
