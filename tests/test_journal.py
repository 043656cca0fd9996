"""Journals: whole lines count, torn ones do not, and no process rewrites another's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ncamix.compilation.journal import Journal, read_journals, remove_journals


def entry(samples: int) -> dict[str, object]:
    return {"samples": samples, "raw_data": {"bytes": samples}, "zip_data": None, "version": 2}


def kept(samples: int) -> dict[str, object]:
    return {key: value for key, value in entry(samples).items() if key != "version"}


def test_what_is_added_is_read_from_all_journals(tmp_path: Path) -> None:
    one, two = Journal(tmp_path, 0), Journal(tmp_path, 1)
    assert read_journals(tmp_path) == {} and not list(tmp_path.iterdir())
    one.add("a", 0, entry(5))
    two.add("a", 1, entry(6))
    two.add("b", 0, entry(7))
    Journal(tmp_path, 0).add("a", 0, entry(8))
    found = read_journals(tmp_path)
    assert sorted(e["samples"] for e in found["a"].pop(0)) == [5, 8]
    assert found == {"a": {1: [kept(6)]}, "b": {0: [kept(7)]}}
    remove_journals(tmp_path)
    assert not list(tmp_path.iterdir())


def test_threads_share_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: journal.add("a", i, entry(i)), range(200)))
    assert read_journals(tmp_path)["a"] == {i: [kept(i)] for i in range(200)}


@given(cut=st.integers(0, 400))
def test_a_journal_may_end_anywhere(cut: int, tmp_path_factory: object) -> None:
    folder = Path(tmp_path_factory.mktemp("journal"))  # type: ignore[attr-defined]
    journal = Journal(folder)
    for i in range(4):
        journal.add("a", i, entry(i))
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    # A line without its end of line is whole, too, once its last brace is there.
    lines = sum(cut >= end - 1 for end in _ends(whole))
    assert read_journals(folder).get("a", {}) == {i: [kept(i)] for i in range(lines)}


def _ends(whole: bytes) -> list[int]:
    return [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
