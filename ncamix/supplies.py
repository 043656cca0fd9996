"""Supplies: the three ways in which the shards of a stream come to hand.

    generated   made when first asked for; of a dead run nothing is kept, for making is cheap
    fetched     from a folder or an object store; what is there and sound is kept
    in place    compiled text in ncamix's own cache, others' data sets: no cache limit deletes it

Every shard has a hash, by which whoever opens it finds damage: in the index, or in a file beside
the shards (the shard's number times eight bytes in: xxh64). Of others' data sets that are read in
place, and whose index has no hashes, the size is all that is known.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from streaming import Stream
from streaming.base.compression import decompress
from streaming.base.constant import TICK
from streaming.base.format.base.reader import FileInfo
from streaming.base.format.mds.reader import MDSReader
from streaming.base.hashing import get_hash, is_hash
from streaming.base.util import wait_for_file_to_exist
from streaming.base.world import World

from ncamix import cache
from ncamix.disk import unwritable
from ncamix.errors import UserError, fail
from ncamix.files import beside, write_whole
from ncamix.keeping import KEPT_HASHES
from ncamix.keys import fingerprint
from ncamix.remote import HASHES, Remote, read_hash, write_hash
from ncamix.shards import HASH, INDEX, SIZE_LIMIT, damage_in, read_index, shard_name
from ncamix.stored_layout import Layout
from ncamix.stores import PATIENCE, Store, is_url
from ncamix.trust import trusted
from ncamix.waiting import tell

_HASH_BYTES = 8

Hash = tuple[str, str]  # an algorithm, and what it gave, in hexadecimal


class Supply(Stream):
    """A stream whose shards can be checked, and made or fetched again.

    in_place: nothing of it is ever deleted. replaces: a shard that is not sound stays until another
    has come. layout: how its rows become samples, where somebody else wrote them.
    """

    in_place = False
    replaces = False
    layout: Layout | None = None

    def hash_of(self, reader: Any, number: int) -> Hash | None:
        """The hash that the uncompressed file of shard `number` should have."""
        return _index_hash(reader.raw_data)

    def damage(self, reader: Any, number: int) -> str | None:
        """What is wrong with a shard's file. Raises FileNotFoundError."""
        data = (Path(self.local) / reader.raw_data.basename).read_bytes()
        return _damage_in(data, reader.raw_data, self.hash_of(reader, number))

    def get_index_size(self) -> int:
        """Nothing: a cache limit is one of shards."""
        return 0

    def give_up(self, file: str, reason: str) -> UserError:
        """The error for a shard that cannot be had."""
        raise NotImplementedError


class GeneratedStream(Supply):
    """A stream of an endless source; its readers are built without an index, when asked for."""

    def __init__(self, source: Remote, url: str, local: str) -> None:
        # One attempt: generation is pure, so what failed once fails again.
        super().__init__(remote=url, local=local, download_retry=1)
        self.source = source
        self.config = source.form.config
        self.num_bytes = source.form.num_bytes(source.samples_per_shard)

    def reader(self, number: int) -> MDSReader:
        """The reader of one shard."""
        return MDSReader(
            self.local,
            "",
            self.config["column_encodings"],
            self.config["column_names"],
            self.config["column_sizes"],
            None,
            [],
            FileInfo(shard_name(number), self.num_bytes, {}),
            self.source.samples_per_shard,
            SIZE_LIMIT,
            None,
        )

    def hash_of(self, reader: Any, number: int) -> Hash | None:
        found = read_hash(Path(self.local) / HASHES, number)
        return None if found is None else (HASH, found)

    def give_up(self, file: str, reason: str) -> UserError:
        return fail(
            f"the generated shard {file} is damaged each time that it is read: {reason}",
            "check the disk, and run the same command again to resume",
        )

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[Any]:
        os.makedirs(self.local, exist_ok=True)
        return [self.reader(0)] * self.source.num_shards  # counted only: `ShardReaders` hands out

    def set_up_local(self, shards: list[Any], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """Begin with no shard: one that a dead run left may be torn."""
        shutil.rmtree(self.local, ignore_errors=True)
        os.makedirs(self.local, exist_ok=True)


class FetchedStream(Supply):
    """A stream of a dataset that is copied from where it lies; index, hashes and damage checked.

    key: what tells the dataset from others that were copied to the same folder. What lies there
    when the first run comes is taken if it is sound, by its size where the index has no hashes.

    Raises (while opening and reading):
        UserError: the dataset cannot be read, is damaged where it lies, or there is no room for it.
    """

    replaces = True

    def __init__(self, remote: str, local: str, key: str = "") -> None:
        super().__init__(remote=remote, local=local)
        self._kept = Path(local) / f"{KEPT_HASHES}{key or fingerprint({'remote': remote})}"
        self._numbers: dict[str, int] = {}

    def give_up(self, file: str, reason: str) -> UserError:
        return fail(
            f"the shard {self.remote}/{file} is damaged: {reason}",
            f"{self._way_out()}, and run the same command again to resume",
        )

    def _way_out(self) -> str:
        if self.layout is not None:
            return "bring the data set there anew"
        return "compile it again with `ncamix compile`"

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[Any]:
        """The readers of all shards, of an index that names files of its folder alone."""
        index = Path(self.local) / INDEX
        if world.is_local_leader:
            if not index.exists():
                with self._fetched(INDEX, index) as file:
                    self._check_index(file)
                    self._write(index, file.read_bytes())
        else:  # the stock method gives up after one timeout, while the leader may try again
            wait_for_file_to_exist(str(index), TICK, PATIENCE, f"{index} was not fetched")
        self._check_index(index)
        readers: list[Any] = super().get_shards(world, allow_unsafe_types or trusted())
        self._numbers = {reader.raw_data.basename: i for i, reader in enumerate(readers)}
        return readers

    def hash_of(self, reader: Any, number: int) -> Hash | None:
        if found := super().hash_of(reader, number):
            return found
        kept = read_hash(self._kept, number)
        return None if kept is None else (HASH, kept)

    def damage(self, reader: Any, number: int) -> str | None:
        reason = super().damage(reader, number)
        if reason is None and self.hash_of(reader, number) is None:
            reason = "it has no hash"
        return reason

    def set_up_local(self, shards: list[Any], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """Count what is there and sound. Nothing of the rest is deleted before another comes."""
        folder = Path(self.local)
        self._adopt(shards)
        names = tuple({Path(reader.raw_data.basename).name for reader in shards})
        for place in {(folder / reader.raw_data.basename).parent for reader in shards}:
            for left in place.glob(".*.tmp*"):  # by a killed run, or by a store's client for it
                if left.name[1:].startswith(names):
                    left.unlink(missing_ok=True)
        unsound = []
        for number, reader in enumerate(shards):
            try:
                reason = self.damage(reader, number)
            except FileNotFoundError:
                continue
            if reason is None:
                cache_usage_per_shard[number] = reader.raw_data.bytes
            else:
                unsound.append((folder / reader.raw_data.basename, reason))
        for file, reason in unsound[:1]:
            more = f" (and {len(unsound) - 1:,} more)" if len(unsound) > 1 else ""
            tell(f"{file} was left by an earlier run: {reason}; fetched again{more}")

    def prepare_shard(self, shard: Any) -> int:
        """Fetch and unpack a shard, once more if what came is damaged; its size in bytes."""
        raw, packed = shard.raw_data, shard.zip_data
        place = Path(self.local) / raw.basename
        for last in (False, True):
            with self._at_hand(raw, packed, anew=last) as (file, info):
                data = file.read_bytes()
            reason = _damage_in(data, info, _index_hash(info))
            if reason is None and info is packed:
                try:
                    data = decompress(shard.compression, data)
                except Exception as error:  # each library has its own
                    reason = str(error) or type(error).__name__
                else:
                    reason = _damage_in(data, raw, _index_hash(raw))
            if reason is None:
                break
            if last:
                raise self.give_up(info.basename, reason)
            tell(f"{self.remote}/{info.basename} came damaged: {reason}; fetched again")
        if _index_hash(raw) is None:
            write_hash(self._kept, self._numbers[raw.basename], data)
        self._write(place, data)
        return int(raw.bytes)

    def _adopt(self, shards: list[Any]) -> None:
        """Begin the file of hashes, of what is there if no run ever fetched into the folder."""
        folder, hashes = Path(self.local), bytearray()
        others = [file for file in folder.glob(f"{KEPT_HASHES}*") if file != self._kept]
        if not self._kept.exists():
            for number, reader in enumerate(() if others else shards):
                file = folder / reader.raw_data.basename
                if _index_hash(reader.raw_data) is None and file.is_file():
                    data = file.read_bytes()
                    if _damage_in(data, reader.raw_data, None) is None:
                        hashes.extend(bytes(_HASH_BYTES * number - len(hashes)))
                        hashes += xxhash.xxh64_digest(data)
            self._write(self._kept, bytes(hashes))
        for other in others:
            other.unlink(missing_ok=True)

    @contextmanager
    def _at_hand(
        self, raw: FileInfo, packed: FileInfo | None, anew: bool
    ) -> Iterator[tuple[Path, FileInfo]]:
        """A file of the shard, for the block: packed if it is, but for those that others unpacked.

        anew: not one that lies in the own folder.
        """
        own, remote = Path(self.local), str(self.remote)
        if packed is not None and not anew and (own / packed.basename).is_file():
            yield own / packed.basename, packed
            return
        info = packed or raw
        if not is_url(remote) and not (Path(remote) / info.basename).exists():
            info = raw
        with self._fetched(info.basename, own / info.basename) as file:
            yield file, info

    @contextmanager
    def _fetched(self, name: str, to: Path) -> Iterator[Path]:
        """A file of the dataset, for the block: where it lies, or beside where it will."""
        remote = str(self.remote)
        what = f"{remote}/{name} cannot be read"
        remedy = "see that it is there and can be read, and run the same command again to resume"
        if not is_url(remote):
            file = Path(remote) / name
            try:
                file.open("rb").close()
            except OSError as error:
                raise fail(f"{what}: {error.strerror}", remedy) from None
            yield file
            return
        came = beside(to)
        try:
            if not _store(remote, self.local, os.getpid()).fetch(name, came):
                raise fail(f"{what}: it is not there", remedy)
            yield came
        finally:
            with suppress(OSError):
                came.unlink()

    def _write(self, file: Path, data: bytes) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, data)
        except OSError as error:
            raise unwritable(file.parent, f"what is fetched from {self.remote}", error) from None

    def _check_index(self, file: Path) -> None:
        try:
            read_index(file.parent, file.name, nested=self.layout is not None)
        except (OSError, ValueError) as error:
            if file.parent == Path(self.local):
                file.unlink(missing_ok=True)
            raise fail(
                f"{self.remote}/{INDEX} is not the index of a dataset: {error}",
                self._way_out(),
            ) from None


class InPlaceStream(Supply):
    """A stream of a dataset that is read where it lies; nothing of it is ever deleted."""

    in_place = True

    def __init__(self, local: str) -> None:
        super().__init__(local=local)

    def give_up(self, file: str, reason: str) -> UserError:
        where = Path(self.local).resolve() / file
        remedy = "restore it, and run the same command again to resume"
        if cache.cache_root() in where.parents:
            remedy = "run the same command again: what is damaged is made again, and it resumes"
        return fail(f"the shard {where} is damaged: {reason}", remedy)

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[Any]:
        try:
            read_index(Path(self.local), nested=self.layout is not None)
        except (OSError, ValueError) as error:
            raise self.give_up(INDEX, str(error)) from None
        readers: list[Any] = super().get_shards(world, allow_unsafe_types or trusted())
        return readers

    def set_up_local(self, shards: list[Any], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """All shards are there, and count for nothing (a byte says that they are there)."""
        cache_usage_per_shard[:] = 1


@lru_cache(maxsize=64)
def _store(url: str, folder: str, process: int) -> Store:
    """The store of a stream; a connection is that of one process."""
    return Store(url, Path(folder))


def _index_hash(info: FileInfo) -> Hash | None:
    """A hash of a file that the index has and that can be checked."""
    known = sorted(info.hashes, key=lambda name: (name != HASH, name))
    return next(((name, info.hashes[name]) for name in known if is_hash(name)), None)


def _damage_in(data: bytes, info: FileInfo, wanted: Hash | None) -> str | None:
    """What is wrong with the bytes of a file."""
    name, digest = wanted or (HASH, None)
    return damage_in(data, info.bytes, digest, partial(get_hash, name))
