"""Files and links that appear whole, whoever else writes the same ones."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ncamix.files import replace_link


def test_links_are_replaced_by_many_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks on hosts with process numbers of their own may have the same one."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    link, target = tmp_path / "link", tmp_path / "target"
    target.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: replace_link(link, target), range(400)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "target"]
    assert link.readlink() == target
