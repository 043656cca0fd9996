"""Shards that lie elsewhere are copied, never trusted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plain_data import write_dataset

from ncamix.compilation.reuse import Elsewhere, register
from ncamix.shards import ShardFormat, is_sound, read_index, shard_name


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A registered dataset of the fingerprint `abc`: three shards, the last one of 3 samples."""
    folder = tmp_path / "stored"
    folder.mkdir()
    rows = np.arange(19 * 5, dtype=np.uint32).reshape(19, 5)
    form = ShardFormat(5, "uint16", zstd=1, hashed=True)
    write_dataset(folder, form, [rows[:8], rows[8:16], rows[16:]])
    (folder / "source.json").write_text(json.dumps({"dataset": "abc"}))
    register("abc", folder)
    register("abc", folder)
    return folder


def test_a_shard_is_brought(stored: Path, tmp_path: Path) -> None:
    (new := tmp_path / "new").mkdir()
    elsewhere, name = Elsewhere("abc", new), f"{shard_name(1)}.zstd"
    entry = elsewhere.take(1, 8, new)
    assert entry == read_index(stored)[1] and is_sound(new, entry)
    with (new / name).open("r+b") as file:
        file.write(b"damage")
    assert is_sound(stored, entry), "damage stays where it is"
    assert elsewhere.take(1, 8, new) == entry  # again, over itself
    assert [p.name for p in new.iterdir()] == [name]
    assert elsewhere.take(2, 8, new) is None  # it has 3 samples
    assert elsewhere.take(2, 3, new) == read_index(stored)[2]
    assert elsewhere.take(3, 8, new) is None


@pytest.mark.parametrize("harm", ["flipped", "gone", "another now", "no index", "own"])
def test_nothing_else_is_brought(stored: Path, tmp_path: Path, harm: str) -> None:
    (new := tmp_path / "new").mkdir()
    shard = stored / f"{shard_name(0)}.zstd"
    if harm == "flipped":
        shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    elif harm == "gone":
        shard.unlink()
    elif harm == "another now":
        (stored / "source.json").write_text(json.dumps({"dataset": "abd"}))
    elif harm == "no index":
        (stored / "index.json").unlink()
    own = stored if harm == "own" else new
    assert Elsewhere("abc", own).take(0, 8, new) is None
    assert Elsewhere("abd", new).take(0, 8, new) is None
    assert not list(new.iterdir())
