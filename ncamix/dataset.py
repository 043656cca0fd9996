"""CurriculumDataset: a StreamingDataset whose sample order is a pure function of the plan.

    StageOrder (positions) -> LazyWork (a worker's share, computed on demand)
    -> shards generated or fetched ahead, checked on opening -> samples with their source and number

Shared memory, predownload and cache limits are MosaicML Streaming's own; what is evicted is chosen
here: never what is read in place, nor the shards that a source stands in. Global batch t
holds the same samples for any number of nodes, ranks and workers, and after any restart. Every rank
makes ready what it reads itself, so a node generates the shards of its owners alone.
"""

from __future__ import annotations

import atexit
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from time import sleep, time_ns
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from streaming import StreamingDataset
from streaming.base import dataset as streaming_dataset
from streaming.base.constant import TICK
from streaming.base.dataset import _Iterator, _ShardState
from streaming.base.world import World

from ncamix.order import StageOrder
from ncamix.supplies import GeneratedStream, Supply
from ncamix.waiting import tell

_BATCHES_KEPT = 160  # three threads ask for each index, at different times
_WATCH_SECONDS = 0.25
_CHECKS = 3  # of a shard that is damaged each time


class ShardReaders(Sequence[Any]):
    """Readers of all shards. Those of generated streams are made on demand: a hundred thousand of
    them would weigh on every worker."""

    def __init__(self, dataset: StreamingDataset) -> None:
        self.first = dataset.shard_offset_per_stream
        self.num_shards = dataset.num_shards
        self.parts = [
            stream.reader
            if isinstance(stream, GeneratedStream)
            else dataset.shards[first : first + count].__getitem__
            for stream, first, count in zip(
                dataset.streams, self.first, dataset.shards_per_stream, strict=True
            )
        ]

    def __len__(self) -> int:
        return self.num_shards

    def __getitem__(self, shard: int) -> Any:  # type: ignore[override]
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} of {self.num_shards}")
        stream = int(np.searchsorted(self.first, shard, side="right")) - 1
        return self.parts[stream](int(shard - self.first[stream]))


class FlatSpanner:
    """Global sample id -> (shard, sample in the shard), by search on the shard bounds."""

    def __init__(self, shard_sizes: NDArray[np.int64], span_size: int = 0) -> None:
        self.shard_bounds = np.concatenate([np.zeros(1, np.int64), shard_sizes.cumsum()])
        self.num_samples = int(self.shard_bounds[-1])

    def __getitem__(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        shard = int(np.searchsorted(self.shard_bounds, index, side="right")) - 1
        return shard, int(index - self.shard_bounds[shard])


class LazyWork(Sequence[int]):
    """The sample ids that one worker of one rank reads, computed on demand.

    Worker w of a rank reads its rank's part of batches first + w, first + w + workers, ...
    """

    def __init__(
        self, order: StageOrder, offsets: NDArray[np.int64], first: int, world: World, share: int
    ) -> None:
        self.order, self.offsets, self.first, self.share = order, offsets, first, share
        self.workers, self.worker = world.workers_per_rank, world.worker_of_rank
        self.rank, self.ranks = world.rank, world.num_ranks
        self._kept: OrderedDict[int, list[int]] = OrderedDict()

    def __len__(self) -> int:
        left = self.order.num_batches - self.first - self.worker
        return max(0, -(-left // self.workers)) * self.share

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        turn, row = divmod(index, self.share)
        ids = self._kept.get(turn)
        if ids is None:
            batch = self.first + turn * self.workers + self.worker
            source, sample = self.order.batch(batch, self.ranks)
            mine = slice(self.rank * self.share, (self.rank + 1) * self.share)
            ids = (self.offsets[source[mine]] + sample[mine]).tolist()
            self._kept[turn] = ids
            while len(self._kept) > _BATCHES_KEPT:
                try:
                    self._kept.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
        return ids[row]


class CurriculumDataset(StreamingDataset):
    """One stage's samples in the plan's order.

    streams: one a source, in the order of the stage's sources. batch_size: samples a rank takes of
    each global batch. predownload: samples ahead of each worker that are made ready. cache_limit:
    bytes on this node. Yields {'tokens': uint16 or uint32 [length], 'source': int, 'sample': int},
    of masked sources with 'loss_mask': uint8 or bool [length].

    Raises (while iterating):
        the generator's own exception, when a background thread failed. UserError: a shard cannot be
        fetched, is damaged where it lies, or holds what is no sample of its source.
    """

    streams: Sequence[Supply]
    shards: Any
    cache_limit: Any  # bytes; the stock one may be text

    def __init__(
        self,
        streams: Sequence[Supply],
        order: StageOrder,
        batch_size: int,
        predownload: int | None = None,
        cache_limit: int | None = None,
    ) -> None:
        self.order = order
        self.failure: BaseException | None = None
        ranks = World.detect().num_ranks
        if order.batch_size != batch_size * ranks:
            raise ValueError(
                f"a global batch of {order.batch_size} does not split into {ranks} x {batch_size}"
            )
        stock = streaming_dataset.Spanner
        streaming_dataset.Spanner = FlatSpanner  # type: ignore[misc,assignment]
        try:
            super().__init__(
                streams=list(streams),
                batch_size=batch_size,
                shuffle=False,
                num_canonical_nodes=1,
                predownload=predownload,
            )
        finally:
            streaming_dataset.Spanner = stock  # type: ignore[misc]
        self.shards = ShardReaders(self)  # type: ignore[assignment]
        self.cache_limit = cache_limit  # here, since the stock check counts what lies in place
        self._checked = np.zeros(self.num_shards, np.int64)  # what this process found sound
        self.epoch_size = order.num_batches * order.batch_size
        self.length = order.num_batches * batch_size

    def release(self) -> None:
        """Give the shared memory back; the dataset is of no use afterwards. Workers have ended."""
        self.free_waiting()
        if hasattr(self, "_iterator"):
            self._iterator.exit()
        shared = (
            self._shared_barrier._arr.shm,
            self._next_epoch.arr.shm,
            self._cache_usage.arr.shm,
            self._shard_states.shm,
            self._shard_access_times.shm,
            getattr(self, "_resume_shm", None),
            self._locals_shm,  # last: it holds the prefix
        )
        for segment in shared:
            if segment is not None:
                atexit.unregister(segment.cleanup)
                segment.cleanup()

    def free_waiting(self) -> None:
        """Send on whoever waits for a shard in preparation: killed workers leave such shards."""
        states = self._shard_states.numpy()
        states[states == _ShardState.PREPARING] = _ShardState.LOCAL

    def _get_work(self, epoch: int, sample_in_epoch: int) -> Any:
        return LazyWork(
            self.order,
            self.sample_offset_per_stream,
            sample_in_epoch // self.order.batch_size,
            self._parallel_worker_world,
            self.order.batch_size // self._parallel_rank_world.num_ranks,
        )

    def __getitem__(self, at: Any) -> Any:
        sample = super().__getitem__(at)
        shard, _ = self.spanner[at]
        source = int(self.stream_per_shard[shard])
        number = int(at - self.sample_offset_per_stream[source])
        layout = self.streams[source].layout
        if layout is not None:
            sample = layout.sample(sample, number)
        sample["source"] = source
        sample["sample"] = number
        return sample

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        """A sample, of a shard that was checked since it was made."""
        self._check(int(self.spanner[sample_id][0]))
        return super().get_item(sample_id, retry)

    def _check(self, shard_id: int) -> None:
        """See that a shard is there and sound: once for each file that stands in its place."""
        stream = self.streams[self.stream_per_shard[shard_id]]
        number = shard_id - int(self.shard_offset_per_stream[self.stream_per_shard[shard_id]])
        reader: Any = self.shards[shard_id]
        file = Path(stream.local) / reader.raw_data.basename
        reason, found = None, 0
        while found < _CHECKS:
            if self.failure is not None:
                raise self.failure
            try:
                status = os.stat(file)
                mark = hash((status.st_ino, status.st_mtime_ns, status.st_size))
                if self._checked[shard_id] == mark:
                    return
                reason = stream.damage(reader, number)
            except FileNotFoundError:
                if stream.in_place:
                    raise stream.give_up(file.name, "it is missing") from None
                self.prepare_shard(shard_id)
                continue
            if reason is None:
                self._checked[shard_id] = mark
                return
            if stream.in_place:
                break
            found += 1
            self._drop(shard_id, reader, file, status)
            tell(f"{file} is damaged: {reason}; it is made or fetched again")
            self.prepare_shard(shard_id)
        raise stream.give_up(file.name, str(reason))

    def _drop(self, shard_id: int, reader: Any, file: Path, status: os.stat_result) -> None:
        """Count a damaged file as missing, unless it is another one by now. One that was fetched
        stays until its successor has come."""
        with self._lock:
            try:
                if not os.path.samestat(os.stat(file), status):
                    return
                if not self.streams[self.stream_per_shard[shard_id]].replaces:
                    file.unlink()
            except FileNotFoundError:
                return
            if self._shard_states[shard_id] == _ShardState.LOCAL:  # else it is not counted yet
                self.cache_usage -= reader.raw_data.bytes
                self._shard_states[shard_id] = _ShardState.REMOTE

    @property
    def _lock(self) -> FileLock:
        """The lock over the cache, as the stock methods make it: late, and in each process."""
        if not hasattr(self, "_cache_filelock"):
            self._cache_filelock = FileLock(self._cache_filelock_path)
        return self._cache_filelock

    def _evict_coldest_shard(self) -> None:
        """Evict the shard that was used longest ago: never of what is read in place, and not the
        last ones of a source, if others can go: a rare source stands in its shard for long."""
        local = np.flatnonzero(self._shard_states.numpy() == _ShardState.LOCAL)
        stream = self.stream_per_shard[local]
        going = ~np.array([s.in_place for s in self.streams])[stream]
        local, stream = local[going], stream[going]
        order = np.argsort(self._shard_access_times.numpy()[local], kind="stable")
        spare = np.bincount(stream, minlength=len(self.streams)) > 2 * self.order.shares.num_owners
        if not len(order):
            raise RuntimeError(f"a cache of {self.cache_limit:,} bytes does not hold a shard")
        self._evict_shard(int(local[next((i for i in order if spare[stream[i]]), order[0])]))

    def _evict_shard(self, shard_id: int) -> None:
        if self.streams[self.stream_per_shard[shard_id]].in_place:
            raise ValueError(f"shard {shard_id} is read in place: it is nobody's to delete")
        super()._evict_shard(shard_id)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Generate or fetch a shard unless it is there, or another thread or process is at it.

        While a shard is in preparation, the maker's process id stands in place of its access time.
        """
        stream, reader = self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id]
        raw = Path(stream.local) / reader.raw_data.basename
        with self._lock:
            state = self._shard_states[shard_id]
            if state == _ShardState.LOCAL and raw.exists():
                self._shard_access_times[shard_id] = time_ns()
                return
            if state == _ShardState.REMOTE and self.cache_limit:
                while self.cache_limit < self.cache_usage + reader.get_max_size():
                    self._evict_coldest_shard()
            if state != _ShardState.PREPARING:
                self._shard_access_times[shard_id] = os.getpid()
                self._shard_states[shard_id] = _ShardState.PREPARING
        if state == _ShardState.PREPARING:
            while blocking and self._shard_states[shard_id] == _ShardState.PREPARING:
                sleep(TICK)
            return
        try:
            delta = stream.prepare_shard(reader)
        except BaseException:
            # Said to be there, it sends others to look; they meet the failure themselves.
            self._shard_states[shard_id] = _ShardState.LOCAL
            raise
        with self._lock:
            self.cache_usage += delta
            self._shard_access_times[shard_id] = time_ns()
            self._shard_states[shard_id] = _ShardState.LOCAL

    def _ready_thread(self, it: _Iterator) -> None:
        self._executor.submit(self._watch, it)
        super()._ready_thread(it)

    def _watch(self, it: _Iterator) -> None:
        """While it is iterated, send on those who wait for a shard whose maker was killed."""
        while not (it.should_exit() or self._event.is_set() or it.yield_index == it.total):
            for shard_id in np.flatnonzero(self._shard_states.numpy() == _ShardState.PREPARING):
                maker = int(self._shard_access_times[int(shard_id)])
                if maker < 1 << 32 and not _is_alive(maker):
                    self._shard_states[int(shard_id)] = _ShardState.LOCAL
            sleep(_WATCH_SECONDS)

    def on_exception(self, future: Future[Any]) -> None:
        """Remember why a background thread failed; `__iter__` raises it."""
        exception = future.exception()
        if exception is not None:
            self.failure = exception
            self._event.set()
            self._iterator.on_exit()  # it failed before it could say so itself

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from super().__iter__()
        except RuntimeError:
            if self.failure is not None:
                raise self.failure from None
            raise
        if getattr(self, "_event", None) is not None and self._event.is_set():
            # The stock iterator ends its epoch without a word here.
            raise self.failure or RuntimeError("a background thread of the dataset failed")


def _is_alive(process: int) -> bool:
    """Whether a process of this machine runs still; one that nobody has waited for does not."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return not Path("/proc/self/stat").exists()
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
