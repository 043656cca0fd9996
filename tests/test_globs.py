"""Globs: the standard library's files in an order of our own, and loops that end."""

from __future__ import annotations

import glob
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.globs import fixed_part, matching

NAMES = st.sampled_from(["a", "b", "ab", ".a", "[a]", "b.py", "c.py", ".b.py"])
PARTS = st.sampled_from(["**", "*", "a", "a*", "*.py", ".*", "[[]a]", "[ab]", "?"])


@settings(max_examples=80)
@given(
    st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12),
    st.lists(PARTS, min_size=1, max_size=4),
)
def test_the_same_files_as_the_standard_library_finds(
    paths: list[list[str]], parts: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in paths:
            file = folder.joinpath(*path)
            if not file.exists() and not any(above.is_file() for above in file.parents):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("")
        pattern = "/".join(parts)
        expected = {
            str(folder / p)
            for p in glob.iglob(pattern, root_dir=folder, recursive=True)
            if (folder / p).is_file()
        }
        found = list(matching(pattern, folder))
        assert set(found) == expected
        assert set(matching(f"{name}/{pattern}", Path("/"))) >= expected


def test_loops_of_links_end_and_linked_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/x.txt").write_text("x")
    for i in range(6):  # the standard library would list these forty levels deep: 6^40 folders
        (tmp_path / f"real/loop{i}").symlink_to(tmp_path / "real")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "dangling.txt").symlink_to("nowhere")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "y.txt").write_text("y")
    (tmp_path / "real/out").symlink_to(outside)
    found = [Path(p).relative_to(tmp_path).as_posix() for p in matching("**/*.txt", tmp_path)]
    assert found == ["outside/y.txt", "real/deep/x.txt"]
    found = [Path(p).relative_to(tmp_path).as_posix() for p in matching("real/**", tmp_path)]
    assert found == ["real/deep/x.txt", "real/out/y.txt"]


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [("a/b/*.py", "a/b"), ("a/**/b/*.py", "a"), ("*.py", "."), ("a/b.py", "a"), ("/a/*", "/a")],
)
def test_the_fixed_part_is_above_the_first_wildcard(pattern: str, folder: str) -> None:
    assert fixed_part(pattern) == Path(folder)
