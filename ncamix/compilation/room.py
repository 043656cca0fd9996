"""Room: how many bytes a compilation writes, and what is said where there are too few.

    sizes of the shards that are there -> bytes a shard -> bytes of all shards, about

What compression saves is known from the shards that are there; where there are none, nothing is
taken to be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ncamix.compilation.jobs import Job
from ncamix.compilation.places import Place
from ncamix.disk import FULL, free_bytes
from ncamix.errors import UserError, fail
from ncamix.quantities import format_bytes
from ncamix.threads import count_threads


@contextmanager
def room_for(jobs: Sequence[Job], place: Place, num_threads: int | None) -> Iterator[None]:
    """Writes into a place, within the block.

    Raises:
        UserError: its folder is full. It says how much is needed, and how much is free.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _full(jobs, place, count_threads(num_threads)) from None


def _full(jobs: Sequence[Job], place: Place, num_threads: int) -> UserError:
    free = format_bytes(free_bytes(place.folder))
    if not place.is_local:
        shards = num_threads * max(map(_raw_shard, jobs))
        return fail(
            f"there is no room left in {place.folder}, which files pass through on their way to "
            f"{place}: up to {format_bytes(shards)} lie there at once, and {free} are free",
            "make room, or set NCAMIX_CACHE to a folder with more, and run the same command again "
            "to continue",
        )
    written, needed = needed_bytes(jobs, place)
    about = "about" if written else "up to"
    return fail(
        f"there is no room left in {place}: the datasets take {about} {format_bytes(needed)} in "
        f"all, {format_bytes(written)} of it are written, and {free} are free",
        "make room and run the same command again to continue, or choose a folder with more "
        "with --out",
    )


def needed_bytes(jobs: Sequence[Job], place: Place) -> tuple[int, int]:
    """Bytes of the shards that are in a local place, and of all that will be, about."""
    sizes = {job.folder: _sizes(job, place) for job in jobs}
    written = sum(map(sum, sizes.values()))
    raw = sum(len(sizes[job.folder]) * _raw_shard(job) for job in jobs)
    share = written / raw if raw else 1.0  # of its uncompressed size, a shard
    needed = 0.0
    for job in jobs:
        there = sizes[job.folder]
        each = sum(there) / len(there) if there else share * _raw_shard(job)
        needed += each * job.num_shards
    return written, max(written, round(needed))


def _sizes(job: Job, place: Place) -> list[int]:
    """Sizes of a dataset's shards in a place, in bytes; not of those that a reader unpacked."""
    pattern = "shard.*.mds" if job.form.zstd is None else "shard.*.mds.zstd"
    return [file.stat().st_size for file in (place.folder / job.folder).glob(pattern)]


def _raw_shard(job: Job) -> int:
    return job.form.num_bytes(min(job.samples_per_shard, job.num_samples))
