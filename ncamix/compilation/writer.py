"""Writing datasets: whole shards side by side, each a file of its own, found again after any end.

    Job -> shard numbers, dealt to ranks and threads
        -> kept as it lies | brought from another folder | made: samples, hashes, zstd, file
        -> a line in the journal -> all done: source.json, index.json

A shard is made by one thread from its number alone, so bytes and names are those that one writer
would give, however many threads, ranks and interruptions there were. Every thread holds one shard
at a time, which bounds memory. A shard counts as written if its file has the hash that a journal or
an index gives it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from typing import Any, TypeVar

from ncamix import cache
from ncamix.compilation.jobs import Job
from ncamix.compilation.journal import Journal
from ncamix.compilation.places import Place
from ncamix.compilation.reuse import Elsewhere, register
from ncamix.files import write_whole
from ncamix.ranks import Ranks
from ncamix.shards import INDEX, file_of, index_bytes, own_part
from ncamix.threads import count_threads

Item = TypeVar("Item")


class Watcher:
    """Told how far the writing is; does nothing by itself."""

    def begin(self, num_tokens: int) -> None:
        """So many trained tokens are this rank's to write."""

    def wrote(self, folder: str, samples: int, tokens: int, kept: bool) -> None:
        """A shard of a dataset is there. kept: it was there already."""

    def wrote_all(self, made: int, mended: Mapping[str, int]) -> None:
        """The first rank is told when all ranks are done: how many shards were made or brought, and
        how many of them, by dataset's folder, had been there and were damaged or gone."""


def write_jobs(
    jobs: Sequence[Job],
    place: Place,
    ranks: Ranks,
    watcher: Watcher,
    num_threads: int | None = None,
) -> None:
    """Write datasets into a place that is this command's own; every rank calls it.

    Raises:
        UserError: the place cannot be written. Whatever making samples raises.
    """
    jobs = [_extended(job, place) for job in jobs]
    ranks.wait()  # all have read what is there before any of them writes
    mine = [(job, shard) for job in jobs for shard in range(ranks.rank, job.num_shards, ranks.size)]
    watcher.begin(sum(job.samples_in(shard) * (job.form.length - 1) for job, shard in mine))
    desk = _Desk(jobs, place, Journal(place.folder, ranks.rank), watcher)
    work_off(mine, desk.write, count_threads(num_threads), place.stop)
    _finish(jobs, ranks.gather(desk.entries), place, ranks)
    new = ranks.gather((desk.made, desk.mended))
    if ranks.is_first:
        watcher.wrote_all(sum(made for made, _ in new), sum((lost for _, lost in new), Counter()))


def _extended(job: Job, place: Place) -> Job:
    """A job with all shards that its dataset has already, if it is endless."""
    there = place.listed(job.folder, job.dataset) if job.endless else {}
    there_samples = (max(there) + 1) * job.samples_per_shard if there else 0
    return replace(job, num_samples=max(job.num_samples, there_samples))


class _Desk:
    """Writes shards. entries: what was written, by dataset's folder and shard. made: shards that
    were not there. mended: by dataset's folder, those of them that had been, undamaged."""

    def __init__(
        self, jobs: Sequence[Job], place: Place, journal: Journal, watcher: Watcher
    ) -> None:
        self.entries: dict[tuple[str, int], dict[str, Any]] = {}
        self.made, self.mended = 0, Counter[str]()
        self._place, self._journal, self._watcher = place, journal, watcher
        self._known = {job.folder: place.known(job.folder, job.dataset) for job in jobs}
        self._elsewhere: dict[str, Elsewhere] = {}
        for job in jobs:
            own = place.folder / job.folder
            own.mkdir(parents=True, exist_ok=True)
            self._elsewhere[job.folder] = Elsewhere(job.dataset, own)
        self._lock = threading.Lock()

    def write(self, item: tuple[Job, int]) -> None:
        job, shard = item
        whole = [
            {**job.form.config, **said}
            for said in self._known[job.folder].get(shard, [])
            if said["samples"] == job.samples_in(shard)
        ]
        entry = next((said for said in whole if self._place.holds(job.folder, said)), None)
        kept = entry is not None
        if entry is None:
            entry = self._brought(job, shard) or self._made(job, shard)
            self._journal.add(job.dataset, shard, entry)
        samples = job.samples_in(shard)
        with self._lock:
            self.entries[job.folder, shard] = own_part(entry)
            if not kept:
                self.made += 1
                self.mended[job.folder] += bool(whole)
            self._watcher.wrote(job.folder, samples, samples * (job.form.length - 1), kept)

    def _brought(self, job: Job, shard: int) -> dict[str, Any] | None:
        if not job.shared:
            return None
        folder = self._place.folder / job.folder
        entry = self._elsewhere[job.folder].take(shard, job.samples_in(shard), folder)
        if entry is not None:
            self._place.deliver(f"{job.folder}/{file_of(entry)['basename']}")
        return entry

    def _made(self, job: Job, shard: int) -> dict[str, Any]:
        columns = job.make(shard * job.samples_per_shard, job.samples_in(shard))
        name, data, entry = job.form.pack(shard, *columns)
        write_whole(self._place.folder / job.folder / name, data)
        self._place.deliver(f"{job.folder}/{name}")
        return entry


def _finish(
    jobs: Sequence[Job],
    written: Sequence[dict[tuple[str, int], dict[str, Any]]],
    place: Place,
    ranks: Ranks,
) -> None:
    """Merge what the ranks wrote into indexes; the first rank's work."""
    if not ranks.is_first:
        return
    found = {key: entry for part in written for key, entry in part.items()}
    for job in jobs:
        entries = [
            {**job.form.config, **found[job.folder, shard]} for shard in range(job.num_shards)
        ]
        shards = {file_of(entry)["basename"] for entry in entries}
        files = {cache.INFO: job.info(), INDEX: index_bytes(entries)}
        place.settle(job.folder, files, shards)
        if place.is_local:
            register(job.dataset, place.folder / job.folder)


def work_off(
    items: Iterable[Item],
    work: Callable[[Item], None],
    num_threads: int,
    stop: threading.Event,
) -> None:
    """Do the work of all items in so many threads, in order of their beginning.

    The first exception sets `stop`, which ends the others, and is raised again here.
    """
    waiting, lock = iter(items), threading.Lock()

    def loop() -> None:
        for item in _taken(waiting, lock):
            if stop.is_set():
                return
            work(item)

    with ThreadPoolExecutor(num_threads, "ncamix-shard") as pool:
        try:
            for future in as_completed([pool.submit(loop) for _ in range(num_threads)]):
                future.result()
        except BaseException:
            stop.set()
            raise


def _taken(items: Iterator[Item], lock: threading.Lock) -> Iterator[Item]:
    while True:
        with lock:
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
