"""Containers: streams and archives that are whole, sorted or not, broken, cut off, or hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix import containers
from ncamix.containers import opened, read_members, readable
from ncamix.errors import UserError
from ncamix.formats import format_of
from ncamix.omissions import Omissions

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
MEMBERS = {"b.py": b"b", "a/z.py": b"az", "a.py": b"", "c/d/e.py": b"cde" * 9, "a/b.py": b"ab"}


def tar_of(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def zip_of(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def all_of(stream: IO[bytes], name: str) -> bytes:
    return stream.read()


def members_of(path: Path, omissions: Omissions | None = None) -> list[tuple[str, bytes]]:
    found = read_members(path, format_of(path.name), "x", omissions or Omissions(), all_of)
    return list(found)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_stream_is_what_was_compressed(tmp_path: Path, suffix: str) -> None:
    data = os.urandom(50_000) + bytes(2_000_000)
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](data))
    with opened(path, format_of(path.name).compression) as stream:
        assert stream.read() == data
    path.write_bytes(COMPRESS[suffix](b"one\n") + COMPRESS[suffix](b"two\nthree"))  # two frames
    with opened(path, format_of(path.name).compression) as stream:
        assert [stream.readline(), *stream] == [b"one\n", b"two\n", b"three"]


@pytest.mark.parametrize("suffix", list(COMPRESS)[1:])
@pytest.mark.parametrize("kept", [0.3, 0.999])
def test_a_stream_that_is_cut_off_is_told(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"a.txt{suffix}"
    data = COMPRESS[suffix](os.urandom(100_000) + bytes(100_000))
    path.write_bytes(data[: int(len(data) * kept)])
    with (
        pytest.raises(UserError, match=rf"cannot read {path}: .*\n.*is it whole"),
        readable(path),
        opened(path, format_of(path.name).compression) as stream,
    ):
        stream.read()


@pytest.mark.parametrize("suffix", [".zip", ".whl", ".tgz", *(f".tar{s}" for s in COMPRESS)])
def test_members_come_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    make = zip_of if suffix in (".zip", ".whl") else tar_of
    compress = COMPRESS[".gz" if suffix == ".tgz" else suffix.removeprefix(".tar")] if (
        make is tar_of
    ) else bytes  # fmt: skip
    path.write_bytes(compress(make(MEMBERS)))
    assert members_of(path) == [(f"x/{name}", MEMBERS[name]) for name in sorted(MEMBERS)]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([f"{i:02}" for i in range(12)]), st.binary(max_size=40)),
        max_size=25,
    ),
    st.integers(0, 100),
)
def test_an_unsorted_tar_is_sorted_with_little_memory(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]], limit: int
) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar.gz"
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(made.getvalue()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "HELD_BYTES", limit)
        found = members_of(path)
    assert found == [(f"x/{name}", data) for name, data in sorted(dict(members).items())]


def test_a_sorted_tar_is_read_member_by_member(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar_of({f"{i}": b"text" for i in range(9)})))
    read: list[str] = []

    def note(stream: IO[bytes], name: str) -> bytes:
        read.append(name)
        return stream.read()

    for i, (name, _) in enumerate(read_members(path, format_of(path.name), "x", Omissions(), note)):
        assert name == read[-1] and len(read) == i + 1


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_of_a_tar_only_files_count(tmp_path: Path, suffix: str) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind in (
            ("folder", tarfile.DIRTYPE),
            ("link", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("device", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../../escape.py", "/absolute.py", "caf\udce9.py"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(COMPRESS[suffix.removeprefix(".tar")](made.getvalue()))
    omissions = Omissions()
    found = [name for name, _ in members_of(path, omissions)]
    assert found == ["x/../../escape.py", "x//absolute.py", "x/caf\\udce9.py"]
    assert omissions.report == {"not_a_file": {"count": 4, "first": "x/link"}}
    assert [p.name for p in tmp_path.rglob("*")] == [path.name]  # nothing was extracted


def test_of_a_zip_only_files_count(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("folder")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../escape.py", "x")
    omissions = Omissions()
    assert members_of(path, omissions) == [("x/../escape.py", b"x")]
    assert omissions.report == {"not_a_file": {"count": 1, "first": "x/link"}}


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.zst"])
@pytest.mark.parametrize("broken", ["cut", "flipped", "other", "empty"])
def test_a_broken_archive_is_told(tmp_path: Path, suffix: str, broken: str) -> None:
    members = {f"{i}.txt": os.urandom(3000) for i in range(5)}
    compress = COMPRESS[suffix.removeprefix(".tar")] if suffix != ".zip" else bytes
    data = bytearray(compress((zip_of if suffix == ".zip" else tar_of)(members)))
    if broken == "cut":
        del data[8000:]
    elif broken == "flipped" and suffix == ".tar":
        data[3584] ^= 1  # in a header: contents have no checksum
    elif broken == "flipped" and suffix == ".tar.zst":
        data[0] ^= 0x40
    elif broken == "flipped":
        data[5000] ^= 0x40
    else:
        data = bytearray(b"plain text\n" * 100 if broken == "other" else b"")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"cannot read {path}: "):
        members_of(path)


def test_an_encrypted_member_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    data = bytearray(zip_of({"a.py": b"text"}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"its member a\.py is encrypted"):
        members_of(path)


def test_bombs_are_left_out_in_little_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("bomb.txt", "w") as stream:
            for _ in range(80):
                stream.write(b" " * (1 << 20))
        archive.writestr("good.txt", "text")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo("bomb.txt")
        info.size = 80 << 20
        with (tmp_path / "holes").open("wb+") as holes:
            holes.truncate(info.size)
            tar.addfile(info, holes)
        info = tarfile.TarInfo("good.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"text"))
    code = """
import resource, sys
from pathlib import Path
from ncamix import containers, documents
from ncamix.documents import read_documents
from ncamix.sources.corpus import corpus_files
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = {}
containers.LARGEST_DOCUMENT = documents.LARGEST_DOCUMENT = 1 << 20
files = corpus_files(("a.*",), Path(sys.argv[1]))
texts = [d.text for d in read_documents(files, None, report)]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(texts, report["too_large"]["count"], grown < 30_000)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "['text', 'text'] 2 True\n", done.stderr
