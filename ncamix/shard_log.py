"""A dataset that grows by whole shards, and knows of each where it came from.

    shards in order -> shard.00000.mds, then a line of shards.jsonl each -> index.json

A line says how many samples a shard has, its xxh64, the mark at which the next one begins, and what
was held out by then. A process that is killed leaves finished shards with their lines; the next one
goes on behind them. Whatever is damaged is found by size and hash, and made again from its mark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ncamix.files import write_whole
from ncamix.packing import START, Mark, Packed
from ncamix.shards import HASH, INDEX, ShardFormat, is_sound, read_index, write_index
from ncamix.threads import count_threads

LOG = "shards.jsonl"


@dataclass(frozen=True)
class Logged:
    """A finished shard. held: samples of each held-out split that could be had by then. counts: as
    packing gives them."""

    num_samples: int
    digest: str
    after: Mark
    held: tuple[int, ...]
    counts: dict[str, int]

    def line(self) -> bytes:
        parts = [self.num_samples, self.digest, self.after, self.held, self.counts]
        return json.dumps(parts).encode()


def read_log(folder: Path) -> tuple[list[Logged], bool]:
    """The finished shards of a folder in order; whether lines behind them are damaged, beyond a
    last one that a killed process has torn."""
    try:
        lines = (folder / LOG).read_bytes().split(b"\n")[:-1]
    except OSError:
        return [], False
    found: list[Logged] = []
    for line in lines:
        try:
            num_samples, digest, (document, offset), held, counts = json.loads(line)
            after = (int(document), int(offset))
            line_held = tuple(map(int, held))
            found.append(Logged(int(num_samples), str(digest), after, line_held, dict(counts)))
        except (ValueError, TypeError):
            return found, True
    return found, False


@dataclass
class ShardLog:
    """The shards of one folder; the caller holds the entry's lock.

    form: of the shards, hashed and not compressed.
    """

    folder: Path
    form: ShardFormat
    shards: list[Logged] = field(default_factory=list)
    damaged: bool = False

    @classmethod
    def open(cls, folder: Path, form: ShardFormat) -> ShardLog:
        """The log of an existing folder, with what it holds; a torn end is cut off."""
        folder.mkdir(exist_ok=True)
        log = cls(folder, form, *read_log(folder))
        whole = b"".join(shard.line() + b"\n" for shard in log.shards)
        file = folder / LOG
        if not file.exists() or file.read_bytes() != whole:
            write_whole(file, whole)
        return log

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def mark(self) -> Mark:
        """Where the next shard begins."""
        return self.shards[-1].after if self.shards else START

    def start_of(self, number: int) -> Mark:
        """Where a shard begins."""
        return self.shards[number - 1].after if number else START

    def append(self, packed: Packed, held: tuple[int, ...] = ()) -> None:
        """Write the next shard, and then its line. Raises OSError if there is no room."""
        name, data, entry = self.form.pack(len(self.shards), packed.tokens, packed.mask)
        digest = entry["raw_data"]["hashes"][HASH]
        logged = Logged(len(packed.tokens), digest, packed.after, held, packed.counts)
        write_whole(self.folder / name, data)
        file = self.folder / LOG
        size = file.stat().st_size
        try:
            with file.open("ab") as lines:
                lines.write(logged.line() + b"\n")
        except OSError:
            with file.open("r+b") as lines:
                lines.truncate(size)
            raise
        self.shards.append(logged)

    def mend(self, number: int, packed: Packed) -> bool:
        """Write a shard anew; False if it is not what it was."""
        name, data, entry = self.form.pack(number, packed.tokens, packed.mask)
        if entry["raw_data"]["hashes"][HASH] != self.shards[number].digest:
            return False
        write_whole(self.folder / name, data)
        return True

    def entries(self) -> list[dict[str, Any]]:
        """What the index says of each shard."""
        found = []
        for number, shard in enumerate(self.shards):
            entry = self.form.entry(number, shard.num_samples)
            entry["raw_data"]["hashes"] = {HASH: shard.digest}
            found.append(entry)
        return found

    def indexed(self) -> int:
        """Shards that the index tells of, as the log does; -1 if it is damaged or missing."""
        try:
            index = read_index(self.folder)
        except (OSError, ValueError):
            return -1
        return len(index) if index == self.entries()[: len(index)] else -1

    def write_index(self) -> None:
        """Make the index say what the log says, unless it does."""
        if self.indexed() != len(self.shards):
            write_index(self.folder, self.entries())

    def clear(self) -> None:
        """Forget everything."""
        (self.folder / INDEX).unlink(missing_ok=True)
        for file in self.folder.glob("shard.*.mds"):
            file.unlink()
        write_whole(self.folder / LOG, b"")
        self.shards, self.damaged = [], False


def damaged(
    folder: Path, entries: Sequence[dict[str, Any]], told: Callable[[int], None] | None
) -> list[int]:
    """The numbers of shards that are missing or not of the size that the index says; their hashes
    are compared, too, if `told` is given, which hears of every shard that is checked."""

    def sound(entry: dict[str, Any]) -> bool:
        if told is None:
            try:
                raw = entry["raw_data"]
                return (folder / raw["basename"]).stat().st_size == int(raw["bytes"])
            except OSError:
                return False
        checked = is_sound(folder, entry)
        told(1)
        return checked

    with ThreadPoolExecutor(count_threads()) as pool:
        return [i for i, good in enumerate(pool.map(sound, entries)) if not good]
