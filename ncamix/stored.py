"""Data sets of samples that exist already (source kind `mds`), read through MosaicML Streaming.

    index.json, in place or fetched into the cache -> how many samples, in which shards
    shards, in place or fetched and unpacked       -> samples, their ids checked

A data set that lies unpacked on this machine is read where it lies, and never written to. What is
fetched or unpacked goes to the source's `local` folder if it is remote and names one, else to a
folder of the caller's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.errors import Problem, UserError, fail
from ncamix.files import replace_link, write_whole
from ncamix.loading import LoadedCurriculum
from ncamix.plan import Plan, PlannedSource, StoredPlan
from ncamix.sources.mds import COLUMN, INDEX, MASK, MdsIndex, is_url, read_mds_index
from ncamix.waiting import Say, quiet

if TYPE_CHECKING:
    from streaming import Stream

ATTEMPTS = 3  # to fetch a file
SECONDS = 60.0  # that one may take


def known_index(source: PlannedSource) -> MdsIndex | None:
    """The index of a stored source, if it is on this machine: where it lies, or in the cache."""
    place = _index_folder(source)
    return read_mds_index(place, "remote", _stored(source).remote) if place is not None else None


def misfit(loaded: LoadedCurriculum, source: PlannedSource, index: MdsIndex) -> Problem | None:
    """The problem of a data set whose samples are not of the source's length; None if they are."""
    length = source.sequence_length
    if index.length == length + 1:
        return None
    return loaded.document.problem(
        ("sources", source.name),
        f"its samples hold {index.length:,} ids, and sequences of {length:,} tokens need "
        f"{length + 1:,}",
        f"write sequence_length: {index.length - 1}, or name another data set",
    )


def stored_sizes(
    plan: Plan, say: Say = quiet, names: Collection[str] | None = None
) -> dict[str, int]:
    """Samples of the plan's stored sources, by dataset; indexes that are not here are fetched.

    names: of the sources that matter; None is all.

    Raises:
        UserError: an index cannot be fetched, or is not one of samples of the source's length.
    """
    sizes = {}
    for name, source in plan.sources.items():
        if source.stored is None or (names is not None and source.name not in names):
            continue
        index = known_index(source)
        if index is None:
            say(f"fetching the index of '{source.name}'", 0.0)
            try:
                index = _fetch_index(plan, source)
            except UserError as error:
                problem = error.problems[0]
                path = ("sources", source.name, "remote")
                raise UserError(
                    plan.curriculum.document.problem(path, problem.what, problem.remedy)
                ) from None
        problem_found = misfit(plan.curriculum, source, index)
        if problem_found is not None:
            raise UserError(problem_found)
        sizes[name] = index.num_samples
    return sizes


def has_masks(source: PlannedSource) -> bool:
    """Whether a loss mask comes with the samples of a stored source, whose index is known."""
    return _index(source).masked


def stored_rows(source: PlannedSource, numbers: NDArray[np.int64]) -> list[tuple[str, int]]:
    """(shard's file, row in it) of samples of a stored source, by their numbers."""
    shards = _index(source).shards
    ends = np.cumsum([samples for _, samples in shards])
    at = np.searchsorted(ends, numbers, side="right")
    rows = numbers - np.concatenate([[0], ends])[at]
    return [(shards[i][0], int(row)) for i, row in zip(at.tolist(), rows, strict=True)]


def stored_shards(source: PlannedSource) -> Iterator[NDArray[np.uint32]]:
    """All samples of a stored source in order, uint32 [n, sequence_length + 1] a shard.

    Raises:
        UserError: a shard cannot be read, or holds an id that is none of the tokenizer's.
    """
    what = _stored(source).described(source.name)
    for _, rows in _shards(source):
        ids = np.stack([row[COLUMN] for row in rows])
        check_ids(what, ids, source.num_ids)
        yield ids.astype(np.uint32)


def stored_masks(source: PlannedSource) -> Iterator[NDArray[np.bool_]]:
    """The loss masks of all samples in order, bool [n, sequence_length + 1] a shard, of a stored
    source that has masks."""
    for _, rows in _shards(source):
        yield np.stack([row[MASK] for row in rows]) != 0


def stored_chosen(source: PlannedSource, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Chosen samples of a stored source, uint32 [len(numbers), sequence_length + 1]; no other shard
    is read.

    Raises:
        UserError: as of `stored_shards`.
    """
    what = _stored(source).described(source.name)
    chosen = np.empty((len(numbers), source.sequence_length + 1), np.uint32)
    ends = np.cumsum([samples for _, samples in _index(source).shards])
    shards = np.searchsorted(ends, numbers, side="right")
    for shard, rows in _shards(source, sorted(set(shards.tolist()))):
        first = int(ends[shard]) - len(rows)
        for i in np.flatnonzero(shards == shard).tolist():
            ids = rows[int(numbers[i]) - first][COLUMN]
            check_ids(what, ids, source.num_ids)
            chosen[i] = ids
    return chosen


def check_ids(what: str, ids: NDArray[Any], num_ids: int) -> None:
    """Check ids of any integer type and shape, which `what` holds.

    Raises:
        UserError: one is none of the `num_ids` ids of the tokenizer.
    """
    for worst in (int(ids.min()), int(ids.max())):
        if not 0 <= worst < num_ids:
            raise fail(
                f"{what} holds the id {worst}, and the tokenizer's ids are 0 to {num_ids - 1:,}",
                "name a data set that this tokenizer made, or its tokenizer",
            )


def stored_stream(source: PlannedSource, folder: Path) -> Stream:
    """A stock stream of a stored source whose index is known.

    folder: of the caller's, for what is fetched or unpacked; a link beside it leads to what is read
    in place, since two sources may share a data set, but no two streams a path.
    """
    from streaming import Stream

    stored, index = _stored(source), _index(source)
    place = _index_folder(source)
    assert place is not None
    if place == stored.local and all((place / name).is_file() for name, _ in index.shards):
        link = folder.with_name(f"{folder.name}.mds")
        replace_link(link, place)
        return Stream(local=str(link))
    local = stored.local if stored.local is not None and stored.remote is not None else folder
    local.mkdir(parents=True, exist_ok=True)
    if not (local / INDEX).is_file():  # the one that the plan counts on
        write_whole(local / INDEX, (place / INDEX).read_bytes())
    return Stream(remote=stored.remote or str(stored.local), local=str(local))


def _shards(source: PlannedSource, wanted: list[int] | None = None) -> Iterator[tuple[int, Any]]:
    """(number, samples by row) of wanted shards, of all without; each there until the next one."""
    from streaming.base.world import World

    with tempfile.TemporaryDirectory(prefix="ncamix-") as scratch:
        stream = stored_stream(source, Path(scratch) / "data")
        stream.apply_default(
            {
                "split": None,
                "download_retry": ATTEMPTS,
                "download_timeout": SECONDS,
                "validate_hash": None,
                "keep_zip": False,
            }
        )
        readers = stream.get_shards(World.detect(), False)
        for number in range(len(readers)) if wanted is None else wanted:
            try:
                stream.prepare_shard(readers[number])
                yield number, readers[number]
            except (OSError, ValueError, RuntimeError) as error:
                raise _unreadable(source, str(error)) from error
            if stream.local.startswith(scratch) and stream.remote is not None:
                readers[number].evict()


def _fetch_index(plan: Plan, source: PlannedSource) -> MdsIndex:
    """Fetch the index of a remote into the cache, unless it is no index."""
    from streaming.base.storage.download import CloudDownloader
    from streaming.base.util import retry

    remote = _stored(source).remote
    assert remote is not None
    with tempfile.TemporaryDirectory(prefix="ncamix-") as scratch:
        local = Path(scratch) / INDEX

        def download() -> None:
            CloudDownloader.direct_download(f"{remote.rstrip('/')}/{INDEX}", str(local), SECONDS)

        try:
            retry(num_attempts=ATTEMPTS)(download)()
        except Exception as error:  # each kind of remote has errors of its own
            raise _unreadable(source, str(error)) from error
        index = read_mds_index(Path(scratch), "remote", remote)
        entry = cache.entry(source.fingerprint)
        entry.mkdir(parents=True, exist_ok=True)
        write_whole(entry / INDEX, local.read_bytes())
    info = {
        "kind": "mds",
        "name": source.name,
        "curriculum": plan.name,
        "num_samples": index.num_samples,
        "meaning": source.meaning,
    }
    write_whole(entry / cache.INFO, json.dumps(info, sort_keys=True).encode())
    return index


def _unreadable(source: PlannedSource, reason: str) -> UserError:
    line = reason.splitlines()[0] if reason else "no reason given"
    return fail(
        f"{_stored(source).described(source.name)} cannot be read: {line}",
        "check where it lies, and that it may be read",
    )


def _stored(source: PlannedSource) -> StoredPlan:
    assert source.stored is not None
    return source.stored


def _index_folder(source: PlannedSource) -> Path | None:
    """The folder on this machine that the source's index lies in, if any."""
    stored = _stored(source)
    places = [] if stored.local is None else [stored.local]
    if stored.remote is not None:
        remote = cache.entry(source.fingerprint) if is_url(stored.remote) else Path(stored.remote)
        places.append(remote)
    return next((place for place in places if (place / INDEX).is_file()), None)


def _index(source: PlannedSource) -> MdsIndex:
    index = known_index(source)
    assert index is not None, "the index is fetched before samples are asked for"
    return index
