"""Supplies: the three ways in which the shards of a stream come to hand.

    generated   made when first asked for; of a dead run nothing is kept, for making is cheap
    fetched     compiled datasets, local or remote; leftovers are kept if they have their hash
    in place    compiled text in ncamix's own cache, others' data sets: no cache limit deletes it

Every shard has a hash, by which whoever opens it finds damage: in the index, or, of generated
shards, in a file beside them (the shard's number times eight bytes in: xxh64).
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import Stream
from streaming.base.constant import TICK
from streaming.base.format.base.reader import FileInfo
from streaming.base.format.mds.reader import MDSReader
from streaming.base.util import wait_for_file_to_exist
from streaming.base.world import World

from ncamix import cache
from ncamix.errors import UserError, fail
from ncamix.remote import Remote, read_hash
from ncamix.shards import HASH, INDEX, SIZE_LIMIT, damage_of, read_index, shard_name
from ncamix.stored_layout import Layout
from ncamix.stores import ANSWER_SECONDS, ATTEMPTS
from ncamix.waiting import tell

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Supply(Stream):
    """A stream whose shards can be checked, and made or fetched again.

    layout: how its rows become samples, where somebody else wrote them.
    """

    in_place = False
    layout: Layout | None = None

    def hash_of(self, reader: Any, number: int) -> str | None:
        """The hash that the uncompressed file of shard `number` should have."""
        found: str | None = reader.raw_data.hashes.get(HASH)
        return found

    def damage(self, reader: Any, number: int) -> str | None:
        """What is wrong with a shard's file. Raises FileNotFoundError."""
        raw = reader.raw_data
        return damage_of(Path(self.local) / raw.basename, raw.bytes, self.hash_of(reader, number))

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

    def hash_of(self, reader: Any, number: int) -> str | None:
        return read_hash(Path(self.local), number)

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
    """A stream of a compiled dataset, copied from where it lies; index, hashes and damage checked.

    Raises (while opening and reading):
        UserError: the dataset cannot be read, or is damaged where it lies.
    """

    def __init__(self, remote: str, local: str) -> None:
        super().__init__(
            remote=remote, local=local, download_retry=ATTEMPTS, download_timeout=ANSWER_SECONDS
        )

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
                os.replace(self._download_file(INDEX, f"{INDEX}.tmp"), index)
        else:  # the stock method gives up after one timeout, while the leader may try again
            reason = f"{index} was not fetched"
            patience = ATTEMPTS * (ANSWER_SECONDS + 2**ATTEMPTS)
            wait_for_file_to_exist(str(index), TICK, patience, reason)
        self._check_index(index.parent, INDEX)
        readers: list[Any] = super().get_shards(world, allow_unsafe_types)
        files = [reader.zip_data or reader.raw_data for reader in readers]
        if all(HASH in file.hashes for file in files):
            self.validate_hash = HASH
        return readers

    def set_up_local(self, shards: list[Any], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """Keep what an earlier run fetched and what has its hash."""
        for number, reader in enumerate(shards):
            raw = Path(self.local) / reader.raw_data.basename
            try:
                reason = self.damage(reader, number)
            except FileNotFoundError:
                continue
            if reason is not None or self.hash_of(reader, number) is None:
                raw.unlink(missing_ok=True)
                tell(f"{raw} was left by an earlier run: {reason or 'no hash'}; fetched again")
            elif reader.zip_data is not None:
                (Path(self.local) / reader.zip_data.basename).unlink(missing_ok=True)
        super().set_up_local(shards, cache_usage_per_shard)

    def _check_index(self, folder: Path, name: str) -> None:
        try:
            read_index(folder, name, nested=self.layout is not None)
        except (OSError, ValueError) as error:
            (folder / name).unlink(missing_ok=True)
            raise fail(
                f"{self.remote}/{INDEX} is not the index of a dataset: {error}",
                self._way_out(),
            ) from None

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        try:
            local: str = super()._download_file(from_basename, to_basename)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise fail(
                f"{self.remote}/{from_basename} cannot be read, after {ATTEMPTS} attempts: "
                f"{reason}",
                "see that it is there and can be reached, and run the same command again to resume",
            ) from error
        if from_basename == INDEX:
            self._check_index(Path(self.local), to_basename or INDEX)
        return local

    def _prepare_shard_part(
        self, raw_info: FileInfo, zip_info: FileInfo | None = None, compression: str | None = None
    ) -> int:
        """Fetch a shard, and once more if what came is damaged."""
        file = (zip_info or raw_info).basename
        for last in (False, True):
            try:
                delta: int = super()._prepare_shard_part(raw_info, zip_info, compression)
                return delta
            except (UserError, OSError):
                raise
            except Exception as error:  # a hash that is not the file's, or torn compressed bytes
                for info in (raw_info, zip_info):
                    if info is not None:
                        (Path(self.local) / info.basename).unlink(missing_ok=True)
                reason = "its bytes do not have their hash"
                if not isinstance(error, ValueError):
                    reason = str(error)
                if last:
                    raise self.give_up(file, reason) from None
                tell(f"{self.remote}/{file} came damaged: {reason}; fetched again")
        raise AssertionError


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
        readers: list[Any] = super().get_shards(world, allow_unsafe_types)
        return readers

    def set_up_local(self, shards: list[Any], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """All shards are there, and count for nothing (a byte says that they are there)."""
        cache_usage_per_shard[:] = 1
