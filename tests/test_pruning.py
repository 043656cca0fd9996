"""Pruning: what of the cache may go, by age, size and curriculum; and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix import cache
from ncamix.cache import Entry
from ncamix.cache_command import _ago
from ncamix.plan import Plan
from ncamix.pruning import Choice, choose
from ncamix.text_compilation import prepare_text

DAY = 86400.0
CURRICULUM = """\
tokenizer: {bpe: 300, train_on: [words]}
sources:
  words: {kind: text, files: ["*.txt"], repeat: free}
stages:
  - {name: one, duration: 100%, mixture: {words: 1}}
"""


def entry(name: str, size: int, days: float, curricula: str = "a", in_use: bool = False) -> Entry:
    used = tuple(curricula.split())
    return Entry(name, "text", name, "", size, time.time() - days * DAY, used, in_use)


ENTRIES = [
    entry("new", 10, 0.1),
    entry("busy", 100, 90, in_use=True),
    entry("shared", 20, 40, "a b"),
    entry("old", 30, 50, "b"),
]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (Choice(), ["old", "shared", "new"]),
        (Choice(older_than=30 * DAY), ["old", "shared"]),
        (Choice(curriculum="b"), ["old"]),
        (Choice(curriculum="a"), ["new"]),
        (Choice(keep=160), []),
        (Choice(keep=159), ["old"]),
        (Choice(keep=129), ["old", "shared"]),
        (Choice(keep=0), ["old", "shared", "new"]),
        (Choice(keep=0, older_than=45 * DAY), ["old"]),
    ],
)
def test_what_may_go(choice: Choice, chosen: list[str]) -> None:
    assert [found.fingerprint for found in choose(ENTRIES, choice)] == chosen


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 99))), st.integers(0, 500))
def test_no_more_goes_than_must(sizes: list[tuple[int, int]], keep: int) -> None:
    entries = [entry(str(i), size, days) for i, (size, days) in enumerate(sizes)]
    gone = choose(entries, Choice(keep=keep))
    left = sum(e.num_bytes for e in entries) - sum(e.num_bytes for e in gone)
    assert left <= keep
    assert not gone or left + gone[-1].num_bytes > keep
    assert all(e.last_use >= gone[-1].last_use for e in entries if e not in gone and gone)


def ncamix(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ncamix", "cache", *arguments]
    wide = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=wide)


@pytest.fixture
def filled(tmp_path: Path, plan_of: Callable[..., Plan]) -> Plan:
    (tmp_path / "a.txt").write_text("some words and some more of them\n" * 400)
    return prepare_text(plan_of(CURRICULUM))


def test_the_command_lists_and_removes(filled: Plan) -> None:
    source = filled.sources["words"]
    held = ncamix("--keep", "0GB", "--remove")
    assert "0 entries" in held.stdout, "this process still reads both"
    assert "spared of 'c': 2 in use" in ncamix("--curriculum", "c").stdout
    cache._held.give_up()
    listed = json.loads(ncamix("--json").stdout)
    assert {found["kind"] for found in listed} == {"text", "tokenizer"}
    assert all(found["curricula"] == ["c"] and not found["in_use"] for found in listed)
    shown = ncamix()
    assert "just now" in shown.stdout
    assert source.fingerprint[:12] in shown.stdout and "2 entries" in shown.stdout
    assert "0 entries" in ncamix("--older-than", "1h").stdout
    cache.note_use(source.fingerprint, "another")
    one = ncamix("--curriculum", "c").stdout
    assert "1 entry," in one and "spared of 'c': 1 of others, too; --remove removes it" in one
    (cache.entry(source.fingerprint) / cache.USES).write_text('{"c": 1}')
    could = ncamix("--curriculum", "c")
    assert "could go" in could.stdout and cache.entry(source.fingerprint).is_dir()
    assert "2 entries" in ncamix("--curriculum", "c", "--remove").stdout
    assert cache.entries() == [] and not cache.entry(source.fingerprint).exists()
    assert prepare_text(filled).sources["words"].num_samples == source.num_samples


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(59, "just now"), (61, "1 m"), (7100, "118 m"), (47.9 * 3600, "47 h"), (13.9 * DAY, "13 d")],
)
def test_ages_are_whole_and_never_more_than_they_are(seconds: float, shown: str) -> None:
    assert _ago(seconds).removesuffix(" ago") == shown


def test_rows_say_where_data_comes_from(own_cache: Path) -> None:
    cache.entry("a" * 32).mkdir(parents=True)
    (cache.entry("a" * 32) / "index.json").write_text("{}")
    info = {"kind": "mds", "name": "mine", "meaning": {"remote": "s3://bucket/tokens"}}
    cache.write_info("a" * 32, info)
    shown = ncamix().stdout
    assert "mine" in shown and "s3://bucket/tokens" in shown and "1 entry," in shown
    assert json.loads(ncamix("--json").stdout)[0]["url"] == "s3://bucket/tokens"


def test_what_is_on_its_way_to_a_url_is_listed_and_left_alone_while_it_is(own_cache: Path) -> None:
    import fcntl

    folder = own_cache / "uploads" / "ab12"
    folder.mkdir(parents=True)
    (folder / "shard").write_bytes(b"x" * 1000)
    with (folder / cache.DATA_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (found,) = cache.entries()
        assert (found.kind, found.in_use, found.num_bytes) == ("upload", True, 1000)
        assert not cache.remove(found.fingerprint) and folder.is_dir()
    assert cache.remove(found.fingerprint) and not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--remove"], "--remove needs a condition"),
        (["--older-than", "soon", "--remove"], "'soon' is no age"),
        (["--keep", "20", "--remove"], "'20' is no size"),
        (["--curriculum", "nosuch", "--remove"], "no curriculum 'nosuch' has used anything"),
        (["--curriculum", "nosuch", "--json"], "curricula in the cache: c"),
    ],
)
def test_mistakes_remove_nothing(filled: Plan, arguments: list[str], message: str) -> None:
    done = ncamix(*arguments)
    assert done.returncode == 2 and message in done.stderr and len(cache.entries()) == 2
