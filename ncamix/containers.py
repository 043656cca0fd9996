"""Containers of text: compressed files opened as streams, archives read member by member.

    file -> bytes as they were compressed
    zip, tar -> (name, stream) of its members, by name; never written to disk

What is broken, cut off or unreadable is told with the file's name.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, cast

from ncamix.errors import fail
from ncamix.formats import LARGEST_DOCUMENT, Format, legible
from ncamix.omissions import Omissions

HELD_BYTES = 1 << 26  # of members of a compressed tar that come before their turn
_BROKEN = (
    OSError,
    EOFError,
    NotImplementedError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
_BUFFER_BYTES = 1 << 17


class _Strict(tarfile.TarInfo):
    """A broken or cut header in the middle of a tar is an error, not its end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Strict:
        try:
            return super().frombuf(buf, encoding, errors)  # type: ignore[return-value]
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


Read = Callable[[IO[bytes], str], bytes | None]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong within is told as a mistake of the file.

    Raises:
        UserError: the file is not there, not readable, broken or cut off.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, _BROKEN) and not type(error).__module__.startswith("pyarrow"):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        remedy = "" if isinstance(error, OSError) and error.errno else _BROKEN_REMEDY
        raise fail(f"cannot read {path}: {reason.splitlines()[0][:200]}", remedy) from None


_BROKEN_REMEDY = "is it whole, and of the kind that its suffix says? Fetch it anew, or leave it out"


@contextmanager
def opened(path: Path, compression: str | None) -> Iterator[IO[bytes]]:
    """A file's bytes as a stream, decompressed; one that is cut off raises at its end."""
    with path.open("rb") as file:
        match compression:
            case None:
                yield file
            case "gzip":
                with gzip.open(file) as stream:
                    yield cast("IO[bytes]", stream)
            case "bz2":
                with bz2.open(file) as stream:
                    yield cast("IO[bytes]", stream)
            case "xz":
                with lzma.open(file) as stream:
                    yield cast("IO[bytes]", stream)
            case _:  # zstandard's own reader ends in silence where a file is cut off
                import pyarrow

                raw: Any = pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")
                with io.BufferedReader(raw, _BUFFER_BYTES) as stream:
                    yield stream


def read_members(
    path: Path, form: Format, name: str, omissions: Omissions, read: Read
) -> Iterator[tuple[str, bytes]]:
    """The files in an archive, by name: (`name`/member, bytes), one in memory at a time.

    Of members of one name, the last counts. Links and devices are left out, and what `read`, which
    gets a stream and the member's name, returns None for. Of a compressed tar whose members are not
    sorted, up to `HELD_BYTES` wait for their turn; a large one is then read several times.

    Raises:
        UserError: the archive cannot be read, or a member is encrypted.
    """
    with readable(path):
        if form.holds == "zip":
            yield from _zip_members(path, name, omissions, read)
        elif form.compression is None:
            with tarfile.open(path, "r:", tarinfo=_Strict) as archive:
                members = _regular(archive, name, omissions)
                for member in (members[key][1] for key in sorted(members)):
                    data = _tar_read(archive, member, name, read)
                    if data is not None:
                        yield _member_name(name, member.name), data
        else:
            yield from _streamed_members(path, form.compression, name, omissions, read)


def _member_name(archive: str, member: str) -> str:
    return f"{archive}/{legible(member)}"


def _zip_members(
    path: Path, name: str, omissions: Omissions, read: Read
) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        for key in sorted(members):
            info, full = members[key], _member_name(name, key)
            if info.flag_bits & 1:
                raise fail(f"cannot read {path}: its member {key} is encrypted", "decrypt it")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                omissions.add("not_a_file", full)
            elif info.file_size > LARGEST_DOCUMENT:
                omissions.add("too_large", full)
            else:
                with archive.open(info) as stream:
                    data = read(stream, full)
                if data is not None:
                    yield full, data


def _regular(
    archive: tarfile.TarFile, name: str, omissions: Omissions
) -> dict[str, tuple[int, tarfile.TarInfo]]:
    """The regular files of a tar by name, each with its place among the members."""
    found: dict[str, tuple[int, tarfile.TarInfo]] = {}
    for place, member in enumerate(archive):
        archive.members = []  # type: ignore[attr-defined]  # or they pile up
        if member.isreg() and member.size <= LARGEST_DOCUMENT:
            found[member.name] = (place, member)
        elif member.isreg():
            omissions.add("too_large", _member_name(name, member.name))
        elif not member.isdir():
            omissions.add("not_a_file", _member_name(name, member.name))
    return found


def _tar_read(
    archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, read: Read
) -> bytes | None:
    stream = archive.extractfile(member)
    assert stream is not None, "a regular file has content"
    return read(stream, _member_name(name, member.name))


def _streamed_members(
    path: Path, compression: str, name: str, omissions: Omissions, read: Read
) -> Iterator[tuple[str, bytes]]:
    """As `read_members`, for a tar that is read from begin to end, once if it is sorted.

    A member out of turn is held if all that come before it by name, and are still to come, would
    fit into `HELD_BYTES` with it. Every pass gets past the next one at least.
    """
    with opened(path, compression) as stream:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Strict, bufsize=_BUFFER_BYTES) as tar:
            found = _regular(tar, name, omissions)
        while stream.read(_BUFFER_BYTES):  # what is broken is known only at the end
            pass
    order = sorted(found)
    rank = {found[key][0]: i for i, key in enumerate(order)}
    ends = list(accumulate(found[key][1].size for key in order))
    due = 0
    held: dict[int, bytes | None] = {}
    while due < len(order):
        begun = due
        with (
            opened(path, compression) as stream,
            tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER_BYTES) as tar,
        ):
            for place, member in enumerate(tar):
                tar.members = []  # type: ignore[attr-defined]
                own = rank.get(place, -1)
                before = ends[due - 1] if due else 0
                if own < due or own in held:
                    continue
                if own != due and ends[own] - before > HELD_BYTES:
                    continue
                held[own] = _tar_read(tar, member, name, read)
                while due in held:
                    data = held.pop(due)
                    if data is not None:
                        yield _member_name(name, order[due]), data
                    due += 1
                if due == len(order):
                    break
        if due == begun:
            raise tarfile.ReadError("it has changed while it was read")
