"""The cache: who uses what, waits for whom, and what may be removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ncamix import cache
from ncamix.errors import UserError


def make(fingerprint: str, name: str = "words") -> None:
    with cache.building(
        fingerprint,
        "the text",
    ) as folder:
        (folder / "data").write_bytes(b"12345")
        cache.write_info(fingerprint, {"kind": "text", "name": name})


def other(code: str) -> subprocess.Popen[str]:
    """Another process on the same cache, which ends when its stdin is closed."""
    code = f"import sys; from ncamix import cache\n{code}\nsys.stdin.read()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=30)


def test_entries_are_listed_with_what_used_them() -> None:
    assert cache.entries() == []
    make("a")
    make("b", "code")
    (cache.entry("c")).mkdir()
    (cache.entry("c") / "shard").write_bytes(b"1")
    cache.note_use("a", "first")
    cache.note_use("a", "second")
    found = {e.fingerprint: e for e in cache.entries()}
    assert {e.kind for e in found.values()} == {"text", "unfinished"}
    assert found["a"].curricula == ("first", "second") and found["b"].curricula == ()
    assert found["b"].name == "code" and found["c"].num_bytes == 1
    assert found["a"].num_bytes > found["b"].num_bytes >= 5
    assert all(0 <= e.age < 60 and not e.in_use for e in found.values())
    cache.hold("b")
    assert {e.fingerprint for e in cache.entries() if e.in_use} == {"b"}
    assert not cache.remove("b") and cache.entry_info("b") is not None


def test_what_another_process_reads_is_not_removed() -> None:
    make("a")
    process = other("cache.hold('a'); cache.hold('a'); print('held', flush=True)")
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert cache.in_use("a") and not cache.remove("a")
    process.kill()  # a lock dies with its process
    process.wait(30)
    assert not cache.in_use("a") and cache.remove("a")
    assert not cache.entry("a").exists() and cache.entries() == []


def test_who_builds_second_waits_and_says_so() -> None:
    process = other(
        "with cache.building('a', 'x') as folder:\n"
        " (folder / 'data').write_text('1'); print('built', flush=True); sys.stdin.read()"
    )
    assert process.stdout is not None and process.stdout.readline() == "built\n"
    assert cache.in_use("a") and not cache.remove("a")
    said: list[str] = []

    def say(what: str, share: float) -> None:
        said.append(what)
        if len(said) == 1:
            assert process.stdin is not None
            process.stdin.close()

    with cache.building("a", "the text 'words'", say) as folder:
        assert (folder / "data").read_text() == "1"
    assert said[0] == "waiting for another process: the text 'words'"
    process.wait(30)


def test_nothing_is_left_of_what_was_not_begun_or_removed() -> None:
    with pytest.raises(ValueError), cache.building("a", "the text") as folder:
        (folder / "empty").mkdir()
        raise ValueError
    assert not cache.entry("a").exists()
    make("b")
    left = cache.cache_root() / ".removing-x"
    left.mkdir()
    assert cache.remove("b") and not left.exists()
    assert [p.name for p in cache.cache_root().iterdir()] == [".locks"]


def test_locks_of_another_cache_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("a")
    cache.hold("a")
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "second"))
    cache.hold("a")
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "cache"))
    assert not cache.in_use("a")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "file" / "cache"))
    cache.hold("a")
    cache.note_use("a", "first")
    with (
        pytest.raises(UserError, match=r"the cache .* cannot be written"),
        cache.building("a", "x"),
    ):
        raise AssertionError("not reached")


def test_a_later_use_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    make("a")
    cache.note_use("a", "first")
    (before,) = cache.entries()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert cache.entries()[0].age > 3000
    cache.note_use("a", "first")
    assert cache.entries()[0].last_use >= before.last_use + 3500
