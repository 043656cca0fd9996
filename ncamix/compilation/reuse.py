"""Reuse: where compiled shards of a dataset lie already, so that none is made twice.

    <NCAMIX_CACHE>/compiled/<dataset's fingerprint>/<hash of a folder>.json   {"folder": ...}

A dataset's fingerprint covers its samples and its format, so shards of one number and size are the
same bytes in every folder of that name. They are copied, so that damage in one folder stays there,
and checked by their hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ncamix import cache
from ncamix.files import write_whole
from ncamix.shards import file_of, is_sound, read_index

_NAME = "compiled"


def register(dataset: str, folder: Path) -> None:
    """Remember that a dataset lies in a folder, whole. A cache that cannot be written is no
    mistake here."""
    place = cache.cache_root() / _NAME / dataset
    name = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    known = place / f"{name}.json"
    if known.exists():
        return
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_whole(known, json.dumps({"folder": str(folder.resolve())}).encode())
    except OSError:
        return


class Elsewhere:
    """The folders but one in which a dataset lies, and their shards."""

    def __init__(self, dataset: str, but: Path) -> None:
        self._found: list[tuple[Path, list[dict[str, Any]]]] = []
        for folder in _registered(dataset):
            if folder == but.resolve():
                continue
            try:
                if json.loads((folder / cache.INFO).read_text())["dataset"] == dataset:
                    self._found.append((folder, read_index(folder)))
            except (OSError, ValueError, LookupError, TypeError):
                continue

    def take(self, shard: int, num_samples: int, folder: Path) -> dict[str, Any] | None:
        """Bring a shard of so many samples into a folder; its index entry, or None."""
        for place, entries in self._found:
            fits = shard < len(entries) and entries[shard]["samples"] == num_samples
            if fits and _bring(place, folder, entries[shard]):
                return entries[shard]
        return None


def _registered(dataset: str) -> Iterator[Path]:
    for known in sorted((cache.cache_root() / _NAME / dataset).glob("*.json")):
        try:
            yield Path(json.loads(known.read_text())["folder"])
        except (OSError, ValueError, LookupError, TypeError):
            continue


def _bring(place: Path, folder: Path, entry: dict[str, Any]) -> bool:
    """Copy a shard's file; whether it arrived sound."""
    name = file_of(entry)["basename"]
    if not is_sound(place, entry):
        return False
    try:
        data = (place / name).read_bytes()
    except OSError:  # removed meanwhile
        return False
    write_whole(folder / name, data)
    return is_sound(folder, entry)
