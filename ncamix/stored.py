"""Data sets of samples that exist already (source kind `mds`): what they hold and where they lie.

    index.json, in place or fetched into the cache -> how many samples, in which shards
    the first sample, where the index lacks it     -> ids a sample
    shards without hashes on this machine          -> hashed, for the source's meaning

A data set that lies unpacked on this machine is read where it lies, and never written to. What is
fetched or unpacked goes to the source's `local` folder if it is remote and names one, else to a
folder of the caller's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.disk import unwritable
from ncamix.errors import Problem, UserError, fail
from ncamix.files import replace_link, write_whole
from ncamix.hashing import file_hashes
from ncamix.keeping import begin_keeping, check_free
from ncamix.keys import derive_key, fingerprint
from ncamix.loading import LoadedCurriculum
from ncamix.plan import Plan
from ncamix.planned_source import PlannedSource, StoredPlan
from ncamix.shards import HASH, INDEX, file_of, parts_of, places_in
from ncamix.sources.base import Meaning
from ncamix.sources.mds import BYTES, MdsIndex, MdsSource, read_mds_index, share_files
from ncamix.stored_layout import Layout, first_length
from ncamix.stores import Store, is_url
from ncamix.waiting import Say, quiet


def known_index(source: PlannedSource) -> MdsIndex | None:
    """The index of a stored source with the ids that a sample holds, if both are known on this
    machine: where it lies, or in the cache.

    Raises:
        UserError: it is not the index of samples of ids, or the first sample cannot be read.
    """
    stored, lacking = _stored(source), None
    for key, place in _index_folders(source):
        if not (place / INDEX).is_file():
            continue
        index = read_mds_index(place, key, source.sequence_length, stored.remote)
        length = index.length or (cache.entry_info(source.fingerprint) or {}).get("length")
        if length is None:
            length = first_length(stored.described(source.name), place, index, stored.dtype)
        if length is not None:
            return replace(index, length=length)
        lacking = _lacks(place, index.shards[0][0], key)
    if lacking is not None and not _is_remote(stored):
        raise lacking
    return None


def with_index(source: PlannedSource, index: MdsIndex) -> PlannedSource:
    """A stored source with what its index says."""
    return replace(
        source,
        num_samples=index.num_samples,
        masked=index.masked,
        short=index.length == source.sequence_length,
    )


def contents(index: MdsIndex, folder: Path, key: str, say: Say = quiet) -> Meaning:
    """What stands, in a meaning, for the data set in `folder`, which the YAML key `key` names: its
    index, and the hash of those shards that the index has none of. Each is hashed as it lies there,
    zipped if it is both.

    Raises:
        UserError: such a shard is not there, or cannot be read.
    """
    files = []
    for entry in index.entries:
        parts = parts_of(entry)
        if any(HASH in (part.get("hashes") or {}) for part in parts):
            continue
        there = (folder / part["basename"] for part in parts)
        file = next((file for file in there if file.is_file()), None)
        if file is None:
            raise _lacks(folder, parts[0]["basename"], key)
        files.append(file)
    own = {"index": index.digest}
    if files:
        digests = [found.digest.hex() for found in file_hashes(files, say)]
        own["shards"] = fingerprint({"shards": digests})
    return own


def misfit(loaded: LoadedCurriculum, source: PlannedSource, index: MdsIndex) -> Problem | None:
    """The problem of a data set whose samples are not of the source's length; None if they are."""
    length, wanted, spec = index.length, source.sequence_length, source.spec
    path: tuple[str, ...] = ("sources", source.name)
    assert length is not None and isinstance(spec, MdsSource)
    if spec.dtype is not None and index.encoding != BYTES:
        return loaded.document.problem(
            (*path, "dtype"),
            f"the ids of the data set have a dtype of their own ('{index.encoding}')",
            "remove it: `dtype` is for a column of bytes",
        )
    if length in (wanted, wanted + 1):
        return None
    remedy = f"write sequence_length: {length - 1} or {length}, or name another data set"
    if index.encoding == BYTES:
        remedy += f"; they are bytes, read as {_stored(source).dtype}: `dtype` says otherwise"
    return loaded.document.problem(
        path,
        f"its samples hold {length:,} ids, and sequences of {wanted:,} tokens need {wanted + 1:,}, "
        f"or {wanted:,}, the last of which then has no target",
        remedy,
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
        if _index_folder(source) == cache.entry(source.fingerprint):
            cache.hold(source.fingerprint)
            cache.note_use(source.fingerprint, plan.name)
        problem_found = misfit(plan.curriculum, source, index)
        if problem_found is not None:
            raise UserError(problem_found)
        _check_kept(plan, source, index)
        sizes[name] = index.num_samples
    return sizes


def _check_kept(plan: Plan, source: PlannedSource, index: MdsIndex) -> None:
    """See that what is fetched of a source may be kept where it says.

    Raises:
        UserError: other things lie there, or another source is read there.
    """
    stored = _stored(source)
    if stored.remote is None or stored.local is None:
        return
    document, path = plan.curriculum.document, ("sources", source.name, "local")
    for other in plan.sources.values():
        if other.stored is None or _is_remote(other.stored):
            continue
        read = Path(other.stored.remote or str(other.stored.local))
        if share_files(stored.local, read):
            what = f"the source '{other.name}' is read in {read}, and nothing is fetched into that"
            raise UserError(document.problem(path, what, "name another folder"))
    try:
        check_free(stored.local, index, stored.described(source.name))
    except UserError as error:
        (found,) = error.problems
        raise UserError(document.problem(path, found.what, found.remedy)) from None


def index_of(source: PlannedSource) -> MdsIndex:
    """The index of a stored source, which is known."""
    index = known_index(source)
    assert index is not None, "the index is fetched before samples are asked for"
    return index


def stored_rows(source: PlannedSource, numbers: NDArray[np.int64]) -> list[tuple[str, int]]:
    """(shard's file, row in it) of samples of a stored source, by their numbers."""
    return places_in(index_of(source).shards, numbers)


def layout_of(source: PlannedSource) -> Layout:
    """How the rows of a stored source become samples. Its index is known."""
    stored, index = _stored(source), index_of(source)
    assert index.length is not None
    what, length = stored.described(source.name), source.sequence_length
    key, transform = None, source.spec.transform
    if transform is not None:  # of the same data set as without it
        own = {name: value for name, value in source.meaning.items() if name != "transform"}
        key = derive_key(transform, fingerprint(own))
    return Layout(what, index.length, length, stored.dtype, source.num_ids, index.masked, key)


def kept_as(source: PlannedSource) -> str:
    """What tells the shards of a stored source from others that were fetched to the same folder.
    Its index is known."""
    stored, shards = _stored(source), source.meaning.get("shards")
    known = {"remote": stored.remote, "index": index_of(source).digest, "shards": shards}
    return fingerprint(known)


def stored_place(source: PlannedSource, folder: Path, keeps: bool = True) -> tuple[str | None, str]:
    """Where the shards of a stored source come from, None where they are read in place, and where
    they are read. Its index is known.

    folder: of the caller's, for what is fetched or unpacked; a link beside it leads to what is read
    in place, since two sources may share a data set, but no two streams a path. keeps: what is
    fetched goes to the source's own folder, if it names one, until this process ends.

    Raises:
        UserError: another run fetches into the source's folder, it holds another data set, or it
            cannot be written.
    """
    stored, index = _stored(source), index_of(source)
    place = _index_folder(source)
    if stored.remote is None and all((place / name).is_file() for name, _ in index.shards):
        link = folder.with_name(f"{folder.name}.mds")
        replace_link(link, place)
        return None, str(link)
    wanted = (place / INDEX).read_bytes()  # the one that the plan counts on
    if keeps and stored.local is not None and stored.remote is not None:
        begin_keeping(stored.local, index, wanted, stored.described(source.name))
        return stored.remote, str(stored.local)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / INDEX, wanted)
    return stored.remote or str(stored.local), str(folder)


def unreadable(source: PlannedSource, reason: str | Problem) -> UserError:
    """The error that a stored source cannot be read. reason: of which the first line is told; a
    problem has its own way out."""
    what, remedy = str(reason), "check where it lies, and that it may be read"
    if isinstance(reason, Problem):
        what, remedy = reason.what, reason.remedy
    line = what.splitlines()[0] if what else "no reason given"
    return fail(f"{_stored(source).described(source.name)} cannot be read: {line}", remedy)


def _fetch_index(plan: Plan, source: PlannedSource) -> MdsIndex:
    """Fetch the index of a remote into the cache, unless it is no index; where it does not say how
    many ids a sample holds, the first shard is fetched too, and what it says is kept."""
    stored, length = _stored(source), source.sequence_length
    assert stored.remote is not None
    with tempfile.TemporaryDirectory(prefix="ncamix-") as scratch:
        folder, store = Path(scratch), Store(stored.remote, Path(scratch))
        if not store.fetch(INDEX, folder / INDEX):
            raise unreadable(source, f"there is no {INDEX}")
        index = read_mds_index(folder, "remote", length, stored.remote)
        if index.length is None:
            index = replace(index, length=_fetch_length(source, index, store, folder))
        data = (folder / INDEX).read_bytes()
    info = {
        "kind": "mds",
        "name": source.name,
        "curriculum": plan.name,
        "num_samples": index.num_samples,
        "length": index.length,
        "meaning": source.meaning,
    }
    entry = cache.entry(source.fingerprint)
    try:
        entry.mkdir(parents=True, exist_ok=True)
        write_whole(entry / INDEX, data)
        write_whole(entry / cache.INFO, json.dumps(info, sort_keys=True).encode())
    except OSError as error:
        what = f"the index of {stored.described(source.name)}"
        way_out = "set NCAMIX_CACHE to another folder"
        raise unwritable(cache.cache_root(), what, error, way_out) from None
    return index


def _fetch_length(source: PlannedSource, index: MdsIndex, store: Store, folder: Path) -> int:
    """Fetch the first shard into `folder`; the ids of its first sample."""
    first = next(entry for entry in index.entries if entry["samples"])
    name = file_of(first)["basename"]
    if not store.fetch(name, folder / name):
        raise unreadable(source, f"there is no {name}")
    stored = _stored(source)
    length = first_length(stored.described(source.name), folder, index, stored.dtype)
    assert length is not None, "the shard was fetched"
    return length


def _stored(source: PlannedSource) -> StoredPlan:
    assert source.stored is not None
    return source.stored


def _is_remote(stored: StoredPlan) -> bool:
    return is_url(stored.remote)


def _index_folder(source: PlannedSource) -> Path:
    """The folder on this machine that a known index is read from."""
    return next(place for _, place in _index_folders(source) if (place / INDEX).is_file())


def _index_folders(source: PlannedSource) -> list[tuple[str, Path]]:
    """The folders on this machine that the source's index may lie in, and the YAML keys that name
    them."""
    stored = _stored(source)
    if stored.remote is None:
        assert stored.local is not None
        return [("local", stored.local)]
    return [
        ("remote", cache.entry(source.fingerprint) if _is_remote(stored) else Path(stored.remote))
    ]


def _lacks(folder: Path, name: str, key: str) -> UserError:
    what = f"{folder} lacks {name}, which its {INDEX} names"
    return fail(what, "bring the data set there as a whole", path=key)
