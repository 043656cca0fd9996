"""Journals: what an interrupted compilation has finished, a JSON line a shard.

    .journal-<rank>-<random>.jsonl    {"dataset": ..., "shard": 3, "samples": ..., "raw_data": ...}

Every process appends to a file of its own and never rewrites one, so a line may be torn only at a
file's end, where it is ignored. A line is written when its shard lies in its place; whether the
shard still is what the line says is for the reader to check.
"""

from __future__ import annotations

import json
import secrets
import threading
from pathlib import Path
from typing import Any

from ncamix.shards import own_part

_PATTERN = ".journal-*.jsonl"

Done = dict[str, dict[int, list[dict[str, Any]]]]  # dataset -> shard -> what was written of it


class Journal:
    """A process's own journal in a folder; the file appears with its first line."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self._path = folder / f".journal-{rank}-{secrets.token_hex(4)}.jsonl"
        self._lock = threading.Lock()

    def add(self, dataset: str, shard: int, entry: dict[str, Any]) -> None:
        """Append a finished shard. dataset: the fingerprint of a dataset."""
        line = json.dumps({"dataset": dataset, "shard": shard, **own_part(entry)}) + "\n"
        with self._lock, self._path.open("a") as file:
            file.write(line)


def read_journals(folder: Path) -> Done:
    """What all journals in a folder say; entries hold what `Journal` keeps of them."""
    done: Done = {}
    for path in sorted(folder.glob(_PATTERN)):
        for line in path.read_text(errors="replace").splitlines():
            try:
                said = json.loads(line)
                shards = done.setdefault(said["dataset"], {})
                shards.setdefault(int(said["shard"]), []).append(own_part(said))
            except (ValueError, LookupError, TypeError):
                continue
    return done


def remove_journals(folder: Path) -> None:
    """Remove all journals of a folder: what they say stands in the indexes."""
    for path in folder.glob(_PATTERN):
        path.unlink(missing_ok=True)
