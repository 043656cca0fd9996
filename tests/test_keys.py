"""Fingerprints and keys: the same meaning, the same name."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from ncamix import cache
from ncamix.keys import canonical, derive_key, fingerprint


def test_spelling_does_not_change_a_fingerprint() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": (1, 2), "a": 1})
    assert canonical({"b": Fraction(1, 2), "a": None}) == '{"a":null,"b":"1/2"}'


@pytest.mark.parametrize("other", [{"a": "1"}, {"a": 2}, {"a": 1, "b": None}, {"a": True}, {}])
def test_another_meaning_has_another_fingerprint(other: dict) -> None:
    assert fingerprint(other) != fingerprint({"a": 1})


def test_keys_are_64_bits_and_depend_on_every_part_and_its_place() -> None:
    parts = [("a", 1), ("a", 2), ("a", "1"), (1, "a"), ("a",), ("a1",), ("a", 1, "")]
    keys = [derive_key(*p) for p in parts]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 1 << 64 for k in keys)
    many = [derive_key("spread", i) for i in range(2000)]
    ones = sum(k.bit_count() for k in many) / len(many)
    assert 31.5 < ones < 32.5


def test_keys_are_the_same_in_every_process() -> None:
    code = "from ncamix.keys import *; print(derive_key('a', 7), fingerprint({'x': [1, 'y']}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(derive_key("a", 7)), fingerprint({"x": [1, "y"]})]
    assert derive_key("a", 7) == 13666753993022310705


def test_the_cache_lies_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("NCAMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.entry("f") == tmp_path / "xdg" / "ncamix" / "f"
    assert cache.entry_info("f") is None
    cache.entry("f").mkdir(parents=True)
    (cache.entry("f") / cache.INFO).write_text('{"num_sam')
    assert cache.entry_info("f") is None
    (cache.entry("f") / cache.INFO).write_text('{"num_samples": 3}')
    assert cache.entry_info("f") == {"num_samples": 3}
