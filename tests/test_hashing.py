"""Hashes of files: right, remembered, and never the worse for a memory that fails."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ncamix import hashing
from ncamix.errors import UserError
from ncamix.hashing import Watched, file_hashes


def written(folder: Path, texts: dict[str, str], age: float = 60.0) -> list[Path]:
    """Files that were last changed `age` seconds ago."""
    paths = []
    for name, text in texts.items():
        paths.append(folder / name)
        paths[-1].write_text(text)
        os.utime(paths[-1], (time.time() - age,) * 2)
    return paths


def expected(paths: list[Path]) -> list[bytes]:
    return [hashlib.blake2b(p.read_bytes(), digest_size=16).digest() for p in paths]


def file_digests(paths: list[Path]) -> list[bytes]:
    return [known.digest for known in file_hashes(paths)]


def remembered(cache: Path) -> set[str]:
    file = cache / hashing.MEMORY
    if not file.exists():
        return set()
    with closing(sqlite3.connect(file)) as memory:
        return {os.path.basename(row[0]).decode() for row in memory.execute("SELECT * FROM hashes")}


def test_hashes_are_of_contents_and_in_order(tmp_path: Path, own_cache: Path) -> None:
    paths = written(tmp_path, {f"{i}.txt": f"text {i}\n" * i for i in range(1200)})
    for _ in range(2):
        assert file_digests(paths) == expected(paths)
    assert file_digests(paths[::-1] + paths[:2]) == expected(paths[::-1] + paths[:2])
    assert len(remembered(own_cache)) == 1200
    assert file_digests([]) == []


def test_what_is_remembered_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, {"a": "one", "b": "two"})
    first = file_digests(paths)
    monkeypatch.setattr(hashing, "_read_all", lambda *_: pytest.fail("read again"))
    assert file_digests(paths) == first


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    (path,) = written(tmp_path, {"a": "one"})
    first = file_digests([path])
    stat = path.stat()
    path.write_text("two")  # of the same length, in the same inode
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and with the same mtime
    assert file_digests([path]) == expected([path]) != first
    path.unlink()
    path.write_text("six")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_digests([path]) == expected([path])


def test_what_changed_a_moment_ago_is_not_remembered(tmp_path: Path, own_cache: Path) -> None:
    old = written(tmp_path, {"old": "one"}, age=3)
    new = written(tmp_path, {"new": "one"}, age=0)
    future = written(tmp_path, {"future": "one"}, age=-100)
    assert file_digests(old + new + future) == expected(old) * 3
    assert remembered(own_cache) == {"old"}


def test_a_broken_memory_is_begun_anew(tmp_path: Path, own_cache: Path) -> None:
    paths = written(tmp_path, {"a": "one"})
    own_cache.mkdir()
    (own_cache / hashing.MEMORY).write_text("no database " * 1000)
    for _ in range(2):
        assert file_digests(paths) == expected(paths)
    assert remembered(own_cache) == {"a"}
    with closing(sqlite3.connect(own_cache / hashing.MEMORY)) as memory:
        memory.execute("DROP TABLE hashes")
    assert file_digests(paths) == expected(paths)
    assert remembered(own_cache) == {"a"}


def test_a_cache_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, {"a": "one"})
    for place in (tmp_path / "a", Path("/proc/nowhere"), tmp_path / "a" / "below"):
        monkeypatch.setenv("NCAMIX_CACHE", str(place))
        assert file_digests(paths) == expected(paths)


def test_a_locked_memory_does_no_harm(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, {"a": "one", "b": "two"})
    file_digests(paths[:1])
    monkeypatch.setattr(hashing, "_TIMEOUT", 0.01)
    with closing(sqlite3.connect(own_cache / hashing.MEMORY)) as memory:
        memory.execute("BEGIN EXCLUSIVE")
        assert file_digests(paths) == expected(paths)
    assert remembered(own_cache) == {"a"}


def test_many_processes_at_once(tmp_path: Path, own_cache: Path) -> None:
    texts = {f"{i}.txt": f"text {i}" for i in range(300)}
    paths = written(tmp_path, texts)
    code = (
        "import sys; from pathlib import Path; from ncamix.hashing import file_hashes\n"
        "paths = sorted(Path(sys.argv[1]).glob('*.txt'))[int(sys.argv[2]):]\n"
        "print(b''.join(known.digest for known in file_hashes(paths)).hex())"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(skip)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for skip in (0, 50, 100)
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    right = b"".join(expected(sorted(paths))).hex()
    assert outputs == [right[32 * skip :] for skip in (0, 50, 100)]
    assert remembered(own_cache) == set(texts)


def test_long_work_says_how_far_it_is_and_keeps_what_it_has(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, {f"{i}": f"{i}" * 500_000 for i in range(8)})
    for name, value in (("_BLOCK_BYTES", 1), ("_SAY_AFTER", 0.0), ("_KEEP_EVERY", 0.0)):
        monkeypatch.setattr(hashing, name, value)
    said: list[float] = []
    kept: list[int] = []

    def say(what: str, share: float) -> None:
        assert what == "hashing the corpus"
        said.append(share)
        kept.append(len(remembered(own_cache)))

    assert [known.digest for known in file_hashes(paths, say)] == expected(paths)
    assert said == sorted(said) and said[0] >= 0 and said[-1] <= 1
    assert kept[-1] > 0


def test_a_few_blocks_are_read_at_a_time(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: what is looked at for each that ends does not grow with them."""
    paths = written(tmp_path, {f"{i}": f"{i}" for i in range(200)})
    monkeypatch.setattr(hashing, "_BLOCK_BYTES", 1)
    seen, stock = [], hashing.wait

    def wait(pending: set[Any], *how: Any) -> Any:
        seen.append(len(pending))
        return stock(pending, *how)

    monkeypatch.setattr(hashing, "wait", wait)
    assert file_digests(paths) == expected(paths)
    assert max(seen) == 2 * hashing.count_threads() and len(seen) >= 200 / max(seen)


def test_files_that_cannot_be_read_are_told_and_no_thread_is_left(tmp_path: Path) -> None:
    paths = written(tmp_path, {f"{i}": "text" for i in range(50)})
    with pytest.raises(UserError, match="cannot read /proc/self/mem: Input/output error"):
        file_digests([*paths, Path("/proc/self/mem")])
    paths[7].unlink()
    with pytest.raises(UserError, match=r"cannot read .*/7: No such file"):
        file_digests(paths)
    assert not [t for t in threading.enumerate() if t.name.startswith("ncamix-hashing")]


# Files that are read for what they were when they were hashed


@pytest.mark.parametrize("age", [60.0, 0.0])
def test_a_file_that_stays_as_it_was_is_read_in_peace(tmp_path: Path, age: float) -> None:
    (path,) = written(tmp_path, {"a": "one"}, age)
    (known,) = file_hashes([path])
    assert known.settled == bool(age)
    watched = Watched(path, known)
    path.chmod(0o600)  # of no consequence
    os.link(path, tmp_path / "b")
    watched.check()
    watched.finish()
    os.utime(path)  # touched before it is read
    Watched(path, known).finish()


@pytest.mark.parametrize("how", ["rewritten", "replaced", "grown", "gone", "unreadable"])
def test_a_file_that_changes_is_told_by_its_name(tmp_path: Path, how: str) -> None:
    (path,) = written(tmp_path, {"a": "one"})
    (known,) = file_hashes([path])
    watched = Watched(path, known)
    watched.check()
    if how == "rewritten":
        path.write_text("two")
    elif how == "replaced":
        written(tmp_path, {"other": "two"})[0].replace(path)
    elif how == "grown":
        path.write_text("one and two")
    else:
        path.unlink()
        if how == "unreadable":
            path.mkdir()
    told = "vanished" if how == "gone" else "changed"
    for look in (watched.check, watched.finish, lambda: Watched(path, known)):
        with pytest.raises(UserError, match=f"/a has {told} while .*\n.*the same command again"):
            look()


def test_what_is_written_and_written_back_while_it_is_read_has_changed(tmp_path: Path) -> None:
    (path,) = written(tmp_path, {"a": "one"})
    (known,) = file_hashes([path])
    watched = Watched(path, known)
    path.write_text("two")
    path.write_text("one")
    with pytest.raises(UserError, match="has changed"):
        watched.check()


def test_a_change_that_leaves_the_same_times_is_found_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = written(tmp_path, {"a": "one"}, age=0)
    (known,) = file_hashes([path])
    watched = Watched(path, known)
    state = watched._state()
    path.write_text("two")
    monkeypatch.setattr(Watched, "_state", lambda self: state)
    watched.check()
    with pytest.raises(UserError, match="has changed"):
        watched.finish()
