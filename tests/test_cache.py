"""The cache: who uses what, waits for whom, and what may be removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ncamix import cache
from ncamix.errors import UserError
from ncamix.files import DATA_LOCK

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


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
    make(A)
    make(B, "code")
    (cache.entry(C)).mkdir()
    (cache.entry(C) / "shard").write_bytes(b"1")
    cache.note_use(A, "first")
    cache.note_use(A, "second")
    found = {e.fingerprint: e for e in cache.entries()}
    assert {e.kind for e in found.values()} == {"text", "unfinished"}
    assert found[A].curricula == ("first", "second") and found[B].curricula == ()
    assert found[B].name == "code" and found[C].num_bytes == 1
    assert found[A].num_bytes > found[B].num_bytes >= 5
    assert all(0 <= e.age < 60 and not e.in_use for e in found.values())
    cache.hold(B)
    assert {e.fingerprint for e in cache.entries() if e.in_use} == {B}
    assert not cache.remove(B) and cache.entry_info(B) is not None


def test_what_another_process_reads_is_not_removed() -> None:
    make(A)
    process = other(f"cache.hold('{A}'); cache.hold('{A}'); print('held', flush=True)")
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    assert cache.in_use(A) and not cache.remove(A)
    process.kill()  # a lock dies with its process
    process.wait(30)
    assert not cache.in_use(A) and cache.remove(A)
    assert not cache.entry(A).exists() and cache.entries() == []


def test_who_builds_second_waits_and_says_so() -> None:
    process = other(
        f"with cache.building('{A}', 'x') as folder:\n"
        " (folder / 'data').write_text('1'); print('built', flush=True); sys.stdin.read()"
    )
    assert process.stdout is not None and process.stdout.readline() == "built\n"
    assert cache.in_use(A) and not cache.remove(A)
    said: list[str] = []

    def say(what: str, share: float) -> None:
        said.append(what)
        if len(said) == 1:
            assert process.stdin is not None
            process.stdin.close()

    with cache.building(A, "the text 'words'", say) as folder:
        assert (folder / "data").read_text() == "1"
    assert said[0] == "waiting for another process: the text 'words'"
    process.wait(30)


def test_nothing_is_left_of_what_was_not_begun_or_removed() -> None:
    with pytest.raises(ValueError), cache.building(A, "the text") as folder:
        (folder / "empty").mkdir()
        raise ValueError
    assert not cache.entry(A).exists()
    make(B)
    left = cache.cache_root() / ".removing-x"
    left.mkdir()
    assert cache.remove(B) and not left.exists()
    assert [p.name for p in cache.cache_root().iterdir()] == [".locks"]


def test_locks_of_another_cache_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(A)
    cache.hold(A)
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "second"))
    cache.hold(A)
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "cache"))
    assert not cache.in_use(A)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "file" / "cache"))
    cache.hold(A)
    cache.note_use(A, "first")
    with (
        pytest.raises(UserError, match=r"the cache .* cannot be written"),
        cache.building(A, "x"),
    ):
        raise AssertionError("not reached")


def test_a_later_use_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    make(A)
    cache.note_use(A, "first")
    (before,) = cache.entries()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert cache.entries()[0].age > 3000
    cache.note_use(A, "first")
    assert cache.entries()[0].last_use >= before.last_use + 3500


def test_an_entry_that_cannot_be_written_is_told(own_cache: Path, tmp_path: Path) -> None:
    def build(file: Path) -> None:  # as tests run by root cannot be refused
        with cache.building("0" * 32, "the text"):
            raise PermissionError(13, "Permission denied", str(file))

    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        build(own_cache / ("0" * 32) / "shard.00000.mds")
    with pytest.raises(PermissionError):
        build(tmp_path / "elsewhere")


def test_what_is_read_of_a_url_stays(own_cache: Path) -> None:
    folder = own_cache / "remotes" / "abc"
    folder.mkdir(parents=True)
    (folder / DATA_LOCK).touch()
    cache.hold_folder(folder)
    cache.hold("0" * 32)  # which closes locks of other caches alone
    script = "import sys; from ncamix import cache; sys.exit(not cache.in_use('remotes/abc'))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert not cache.remove("remotes/abc") and folder.is_dir()


def test_nobody_comes_in_while_a_folder_of_a_url_is_removed(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader waits until it is gone, and holds what it makes anew."""
    folder = own_cache / "remotes" / "abc"
    folder.mkdir(parents=True)
    (folder / DATA_LOCK).touch()
    readers = []
    stock = os.replace

    def replace(old: Path, new: Path) -> None:
        code = "print('comes', flush=True); cache.hold_folder(cache.entry('remotes/abc'))"
        reader = other(f"{code}\nprint(cache.entry('remotes/abc').exists(), flush=True)")
        readers.append(reader)
        assert reader.stdout is not None and reader.stdout.readline() == "comes\n"
        time.sleep(0.2)  # it would come in by now
        stock(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        assert cache.remove("remotes/abc")
    (reader,) = readers
    assert reader.stdout is not None and reader.stdout.readline() == "False\n"
    folder.mkdir()
    assert cache.in_use("remotes/abc") and not cache.remove("remotes/abc")
    end(reader)
    assert cache.remove("remotes/abc") and not folder.exists()


def test_what_goes_while_it_is_listed_does_not_count(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_cache / ("0" * 32)
    folder.mkdir(parents=True)
    (folder / "shard.00000.mds").write_bytes(b"12345")
    (folder / ".shards.jsonl.tmp").write_bytes(b"123")
    stock = os.walk

    def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for found in stock(top):
            (folder / ".shards.jsonl.tmp").unlink()
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", walk)
        (entry,) = cache.entries()
    assert entry.num_bytes == 5
