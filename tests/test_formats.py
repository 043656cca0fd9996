"""Formats: what a suffix says."""

from __future__ import annotations

import pytest

from ncamix.formats import Format, format_of, legible


@pytest.mark.parametrize(
    ("names", "form"),
    [
        ("a a.txt a.py A.JSON .zip a.zip.gz a.parquet.zst a.jsonlx", Format("text")),
        ("a.gz a.txt.gz .jsonl.gz", Format("text", "gzip")),
        ("a.zst a.tar/b.zst", Format("text", "zstd")),
        ("a.zip a.WHL a.b.whl", Format("zip")),
        ("a.tar x/a.Tar", Format("tar")),
        ("a.tgz a.tar.gz a-1.0.tar.gz", Format("tar", "gzip")),
        ("a.tar.zst a.tzst", Format("tar", "zstd")),
        ("a.tar.xz", Format("tar", "xz")),
        ("a.tar.bz2", Format("tar", "bz2")),
        ("a.jsonl a.ndjson", Format("jsonl")),
        ("a.jsonl.gz a.ndjson.gz", Format("jsonl", "gzip")),
        ("a.jsonl.zst", Format("jsonl", "zstd")),
        ("a.parquet", Format("parquet")),
    ],
)
def test_a_suffix_tells(names: str, form: Format) -> None:
    own = [format_of(name) for name in names.split()]
    if form.holds == "text" and form.compression is None:
        assert all(found.holds == "text" for found in own)
    else:
        assert [found for found in own if found.holds == form.holds]
        assert all(f == form or f.holds == "text" for f in own) and own[0] == form


def test_names_become_text() -> None:
    for name in ("plain", "caf\u00e9", "\udce9", "\ud800\udc00"):
        assert legible(name).encode().decode() == legible(name)
    assert legible("caf\u00e9/\udce9") == "caf\u00e9/\\udce9"
