"""Places where datasets are written: a folder, or a URL with a folder that files pass through.

    folder    DIR/SOURCE/shard...                         written where it stays
    URL       <NCAMIX_CACHE>/uploads/<hash of the URL>/   written, sent, deleted

A place is one command's at a time. On one machine a lock sees to that; in S3 a small object does,
.compiling.json, which names the command that writes there, and goes when it ends. Other stores have
nothing of the kind. Below a URL a dataset's source.json lies in its folder before its first shard,
and says whose the folder is, finished or not. Journals stay on this machine.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ncamix import cache
from ncamix.compilation.journal import Done, read_journals, remove_journals
from ncamix.errors import fail
from ncamix.files import DATA_LOCK, leave_nothing, make_folder, write_whole
from ncamix.locks import lock_own
from ncamix.processes import identity, is_dead
from ncamix.shards import INDEX, file_of, is_sound, own_part, read_index
from ncamix.stores import Store, is_url, misfit_url
from ncamix.waiting import tell

Entries = dict[int, dict[str, Any]]
PLAN, TOKENIZER, README = TOPS = ("plan.json", "tokenizer.json", "README.txt")  # beside datasets
MARKER = ".compiling.json"  # at a URL, while a command writes there
_SHARDS = "shard.*.mds*"
_THERE = ".there"  # copies of what is at a URL


class Place(ABC):
    """Where a command writes. folder: local, where files are written first. stop: set when the
    command ends."""

    is_local = True
    url = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stop = threading.Event()
        self._journals: Done = {}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Own the place: create it, lock it; leave nothing where nothing was written.

        Raises:
            UserError: it cannot be written, is another's, or another process writes there.
        """
        if _is_compiled(self.folder):  # copied without hidden files
            (self.folder / DATA_LOCK).touch()
        created = make_folder(self.folder, DATA_LOCK)
        with (self.folder / DATA_LOCK).open("a") as lock:
            if not lock_own(lock, self.folder / DATA_LOCK):
                raise fail(f"another process is compiling into {self}", "wait for it")
            cache.note_url(lock, self.url)
            try:
                yield
            finally:
                leave_nothing(self.folder, created, DATA_LOCK)

    @abstractmethod
    def begin(self, infos: Mapping[str, bytes]) -> None:
        """Make room for datasets, the bytes of their source.json by folder: what is there of
        others goes.

        Raises:
            UserError: what is there is another's.
        """

    def read(self) -> None:
        """Read what earlier tries left here."""
        self._journals = read_journals(self.folder)

    @abstractmethod
    def listed(self, folder: str, dataset: str) -> Entries:
        """The index entries of a dataset that was finished, by shard; nothing of another."""

    def known(self, folder: str, dataset: str) -> dict[int, list[dict[str, Any]]]:
        """What index and journals say of a dataset's shards: files, as they were written."""
        listed = self.listed(folder, dataset)  # first: another machine may have finished it
        found = {shard: [own_part(entry)] for shard, entry in listed.items()}
        for shard, said in self._journals.get(dataset, {}).items():
            found.setdefault(shard, []).extend(said)
        return found

    @abstractmethod
    def holds(self, folder: str, entry: dict[str, Any]) -> bool:
        """Whether a shard is there as it was written."""

    @abstractmethod
    def deliver(self, file: str) -> None:
        """Bring a file that lies whole in the folder to where it stays."""

    def put(self, file: str, data: bytes) -> None:
        """Write a file whole, and bring it to where it stays."""
        write_whole(self.folder / file, data)
        self.deliver(file)

    @abstractmethod
    def settle(self, folder: str, files: Mapping[str, bytes], shards: Collection[str]) -> None:
        """Finish a dataset: write files in their order, and keep only these and its shards."""

    def end(self) -> None:
        """All is written."""
        remove_journals(self.folder)


class LocalPlace(Place):
    """A folder."""

    def __str__(self) -> str:
        return str(self.folder)

    def begin(self, infos: Mapping[str, bytes]) -> None:
        (self.folder / PLAN).unlink(missing_ok=True)
        for name, info in infos.items():
            dataset, own = _dataset_of(info), self.folder / name
            own.mkdir(parents=True, exist_ok=True)
            for left in own.glob(".*.tmp"):  # by a killed process; the lock is ours
                left.unlink()
            there = _dataset_in(own)
            if there is not None and there != dataset:
                for old in own.glob(_SHARDS):
                    old.unlink()
            if there != dataset:
                (own / INDEX).unlink(missing_ok=True)
                (own / cache.INFO).unlink(missing_ok=True)  # last: killed before, it is done again

    def listed(self, folder: str, dataset: str) -> Entries:
        return _entries_in(self.folder / folder, dataset)

    def holds(self, folder: str, entry: dict[str, Any]) -> bool:
        return is_sound(self.folder / folder, entry)

    def deliver(self, file: str) -> None:
        pass

    def settle(self, folder: str, files: Mapping[str, bytes], shards: Collection[str]) -> None:
        own = self.folder / folder
        missing = [name for name in shards if not (own / name).exists()]
        if missing:
            raise fail(
                f"{own / missing[0]}, which another rank wrote, is not there",
                "give --out a folder that all hosts share, or the URL of an object store",
            )
        for name, data in files.items():
            if not (own / name).exists() or (own / name).read_bytes() != data:
                write_whole(own / name, data)
        for file in own.glob(_SHARDS):
            if not {file.name, f"{file.name}.zstd"} & set(shards):  # readers unpack them in place
                file.unlink()


class RemotePlace(Place):
    """A URL. Nothing of another dataset is ever replaced there, be it finished or not."""

    is_local = False

    def __init__(self, url: str) -> None:
        super().__init__(passage(url, "uploads"))
        self.store = Store(url, self.folder, self.stop)
        self.url = self.store.url
        self._names: set[str] | None = None
        self._marker = b""
        self._there: set[str] = set()

    def __str__(self) -> str:
        return self.url

    @contextmanager
    def hold(self) -> Iterator[None]:
        cache.hold_folder(self.folder)  # from before it is there: nobody clears it away
        with super().hold():
            self._claim()
            try:
                yield
            finally:
                if not self.store.remove(MARKER, self._marker):
                    tell(
                        f"{self}/{MARKER} could not be removed: it keeps other machines out until "
                        "the same command ends well here"
                    )

    def _claim(self) -> None:
        """Write the marker, unless it is that of another command, which may be at work."""
        own, began = identity(), datetime.now(UTC).isoformat(" ", "seconds")
        self._marker = json.dumps({**own, "began": began, "key": secrets.token_hex(8)}).encode()
        there = self.store.claim(MARKER, self._marker)
        if there == self._marker:
            return
        try:
            other = json.loads(there)
            shown = f"process {other['process']} on {other['host']}, since {other['began']}"
            # killed on this machine, or an earlier try of this process: the lock says it has ended
            over = is_dead(other) or own.items() <= other.items()
            if over and self.store.remove(MARKER, there):
                there = self.store.claim(MARKER, self._marker)
        except (ValueError, LookupError, TypeError, AttributeError):
            shown = "unknown"
        if there == self._marker:
            return
        raise fail(
            f"another command is compiling into {self} ({shown})",
            f"wait for it; if it was killed, delete {self}/{MARKER}, and run the same command "
            "again",
        )

    def begin(self, infos: Mapping[str, bytes]) -> None:
        self._names = names = self.store.names()
        if names is not None and PLAN not in names:
            known = (*TOPS, MARKER)
            foreign = [n for n in names if n.rpartition("/")[0] not in infos and n not in known]
            if foreign:
                what = f"{self} holds other things: {min(foreign)}"
                raise fail(what, "choose an empty or a new place with --out")
        unclaimed = []
        for name, info in infos.items():
            there = _dataset_in(self._fetched(name))
            if there is None:
                unclaimed.append(name)
                if not any(n.rpartition("/")[0] == name for n in names or ()):
                    continue
            if there != _dataset_of(info):
                raise fail(
                    f"{self}/{name} holds another dataset than the curriculum's, or one of another "
                    "format (--zstd), finished or not",
                    "choose another place with --out, or delete it there",
                )
        for name in unclaimed:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            self.put(f"{name}/{cache.INFO}", infos[name])
            write_whole(self.folder / _THERE / name / cache.INFO, infos[name])

    def read(self) -> None:
        super().read()
        self._names = self.store.names()

    def listed(self, folder: str, dataset: str) -> Entries:
        return _entries_in(self._fetched(folder), dataset)

    def holds(self, folder: str, entry: dict[str, Any]) -> bool:
        name = f"{folder}/{file_of(entry)['basename']}"
        if self._names is not None:
            return name in self._names
        copy = self.folder / _THERE / name  # no list says what is there
        try:
            return self.store.fetch(name, copy) and is_sound(copy.parent, entry)
        finally:
            copy.unlink(missing_ok=True)

    def deliver(self, file: str) -> None:
        self.store.send(file)

    def settle(self, folder: str, files: Mapping[str, bytes], shards: Collection[str]) -> None:
        for name, data in files.items():
            there = self.folder / _THERE / folder / name
            if not (there.exists() and there.read_bytes() == data):
                self.put(f"{folder}/{name}", data)

    def end(self) -> None:
        super().end()
        for left in self.folder.glob("*/"):
            shutil.rmtree(left, ignore_errors=True)

    def _fetched(self, folder: str) -> Path:
        """A folder with a dataset's source.json and index.json, as far as they are there."""
        to = self.folder / _THERE / folder
        if folder not in self._there:
            to.mkdir(parents=True, exist_ok=True)
            for name in (cache.INFO, INDEX):
                (to / name).unlink(missing_ok=True)  # of a killed command
                if self._names is None or f"{folder}/{name}" in self._names:
                    self.store.fetch(f"{folder}/{name}", to / name)
            self._there.add(folder)
        return to


def place_of(out: Path | str) -> Place:
    """The place that an output folder or a URL names.

    Raises:
        UserError: it is empty, or a URL that cannot be written.
    """
    if isinstance(out, str) and not out.strip():
        raise fail("--out names no place", "name a folder, or a URL: s3://BUCKET/FOLDER")
    if is_url(out) and (misfit := misfit_url(str(out), written=True)):
        raise fail(*misfit)
    return RemotePlace(str(out)) if is_url(out) else LocalPlace(Path(out))


def passage(url: str, kind: str) -> Path:
    """The folder of the cache that belongs to a URL."""
    name = hashlib.blake2b(url.rstrip("/").encode(), digest_size=12).hexdigest()
    return cache.cache_root() / kind / name


def _is_compiled(folder: Path) -> bool:
    """Whether a folder holds a finished compilation."""
    try:
        facts = json.loads((folder / PLAN).read_text())
        return {"fingerprint", "stages", "sources"} <= set(facts)
    except (OSError, ValueError, TypeError):
        return False


def _dataset_in(folder: Path) -> str | None:
    """The fingerprint of the dataset in a folder."""
    try:
        return _dataset_of((folder / cache.INFO).read_bytes())
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _dataset_of(info: bytes) -> str:
    """The fingerprint of a dataset in the bytes of its source.json."""
    return str(json.loads(info)["dataset"])


def _entries_in(folder: Path, dataset: str) -> Entries:
    try:
        return dict(enumerate(read_index(folder))) if _dataset_in(folder) == dataset else {}
    except (OSError, ValueError):
        return {}
