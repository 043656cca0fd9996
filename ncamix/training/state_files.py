"""The state of a training run as a file or a folder, read without running code from it.

    a tree of tensors and plain values, whole on the first rank -> one file
    the same, of which every rank holds a part -> torch's shards, state.json for the rest -> folder

Torch's own formats hold pickles. A file is read by torch's restricted unpickler; the one pickle of
a folder, `.metadata`, by one that knows the few names that torch writes there. Before that, either
is held against its checksums (CRC-32), so that what is damaged is told from what is not safe.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from composer.utils import dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.tensor import DTensor
from torch.serialization import get_unsafe_globals_in_checkpoint

from ncamix.errors import fail
from ncamix.files import write_whole
from ncamix.training.parallelism import shared_like, whole
from ncamix.trust import TRUST_IT, trusted

Tree = dict[str, Any]
"""Tensors and plain values (numbers, text, lists and dicts of them) by name, nested."""

BY_PARAMETER = ("model", "moments")  # parts of a tree whose tensors are those of parameters
STATE, METADATA = "state.json", ".metadata"  # of a folder
_TENSOR = "tensor:"  # a text that begins so stands, in state.json, for a tensor
_CHUNK = 1 << 22  # bytes
_SHARDS = "torch.distributed.checkpoint"
_NAMES = {  # all that torch's metadata of shards is made of, beside number formats
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    (f"{_SHARDS}.filesystem", "_StorageInfo"),
    *(
        (f"{_SHARDS}.metadata", name)
        for name in (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}


class Damaged(Exception):
    """A state is torn, or not what was written."""


def write_file(path: Path, tree: Tree) -> None:
    """Write a tree that is whole, on one rank."""
    with path.open("wb") as file:
        torch.save(tree, file)
        file.flush()
        os.fsync(file.fileno())


def write_folder(folder: Path, tree: Tree) -> None:
    """Write a tree of which ranks hold parts. All ranks call it; the folder is empty.

    Raises (on all ranks, if any of them fails):
        torch.distributed.checkpoint.CheckpointException
    """
    tensors: dict[str, Tensor] = {}
    plain = _take_tensors(tree, (), tensors)
    writer = dcp.FileSystemWriter(str(folder), sync_files=True)
    dcp.save(tensors, storage_writer=writer)
    if dist.get_global_rank() == 0:
        sums = {p.name: [p.stat().st_size, _sum(p)] for p in sorted(folder.iterdir())}
        write_whole(folder / STATE, json.dumps({"files": sums, "state": plain}).encode())


def check(path: Path) -> None:
    """See that a state is sound, and safe to read.

    Raises:
        Damaged: it is not sound. UserError: it holds what would run code, and is not trusted.
    """
    try:
        if path.is_dir():
            _check_folder(path)
        else:
            _check_file(path)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from None


def read(path: Path, patterns: Mapping[str, Tensor]) -> Tree:
    """Read a state that was checked, each rank for itself: tensors on the CPU, whole.

    patterns: parameters by name. Where one is a DTensor, the weights and moments under its name
    and of its shape become DTensors, too: this rank's part, which alone is read of a folder.

    Raises:
        UserError: it holds what would run code, and is not trusted.
    """

    def pattern(names: Sequence[str], size: torch.Size) -> Tensor | None:
        if len(names) < 2 or names[0] not in BY_PARAMETER:
            return None
        found = patterns.get(names[1])
        return found if isinstance(found, DTensor) and found.shape == size else None

    if not path.is_dir():
        tree = _load(path)

        def placed(names: tuple[str, ...], value: Tensor) -> Tensor:
            found = pattern(names, value.shape)
            return value if found is None else shared_like(value, found)

        return _mapped(tree, placed)
    plain = json.loads((path / STATE).read_bytes())["state"]
    reader = _Reader(str(path))
    known = reader.read_metadata().state_dict_metadata
    tensors: dict[str, Tensor] = {}
    for key, found in known.items():
        assert isinstance(found, TensorStorageMetadata), "the reader sees to it"
        like = pattern(key.split("/"), found.size)
        dtype = found.properties.dtype
        tensors[key] = (
            torch.empty(found.size, dtype=dtype)
            if like is None
            else torch.empty_like(like.detach(), dtype=dtype)
        )
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    return _with_tensors(plain, tensors)


def gathered(tree: Tree) -> Tree:
    """A tree made whole, on the CPU of the first rank; empty on others. All ranks call it."""
    first = dist.get_global_rank() == 0

    def gather(names: tuple[str, ...], value: Tensor) -> Tensor | None:
        if not first and not isinstance(value, DTensor):
            return None
        value = whole(value)
        return value if first else None

    return _mapped(tree, gather)


def _check_file(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        raise Damaged("it is torn, or no checkpoint")
    try:
        with zipfile.ZipFile(path) as members:
            wrong = members.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise Damaged(str(error)) from None
    if wrong is not None:
        raise Damaged(f"its checksum of {wrong} is wrong")
    if trusted():
        return
    try:
        names = get_unsafe_globals_in_checkpoint(path)
    except Exception as error:
        raise Damaged(_line(error)) from None
    if names:
        raise unsafe(path, names)


def _check_folder(path: Path) -> None:
    try:
        files = json.loads((path / STATE).read_bytes())["files"]
        for name, (size, wanted) in files.items():
            if name != Path(name).name:
                raise Damaged(f"it names a file outside its folder: {name}")
            file = path / name
            if not file.is_file() or file.stat().st_size != size or _sum(file) != wanted:
                raise Damaged(f"{name} is not what was written")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Damaged(f"{STATE} is not what was written") from None
    stored = _Reader(str(path)).read_metadata().storage_data
    if not {METADATA, *(found.relative_path for found in stored.values())} <= set(files):
        raise Damaged("its metadata name other files")


def _load(path: Path) -> Tree:
    try:
        tree = torch.load(path, map_location="cpu", mmap=True, weights_only=not trusted())
    except pickle.UnpicklingError:  # it has changed since it was checked
        raise unsafe(path, ["a pickled object"]) from None
    return dict(tree)


def unsafe(path: Path, names: list[str]) -> Exception:
    """The error that a state holds more than tensors and plain values."""
    return fail(
        f"the checkpoint {path} holds what may run code: {', '.join(names[:3])}",
        f"remove it if you do not know where it comes from; {TRUST_IT}",
    )


class _Unpickler(pickle.Unpickler):
    """Makes what torch's metadata of shards consist of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = (module, name) in _NAMES or trusted()
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


class _Reader(FileSystemReader):
    """Torch's reader of shards, of tensors alone: it would unpickle anything else."""

    def read_metadata(self) -> Metadata:
        path = Path(self.path) / METADATA
        try:
            with path.open("rb") as file:
                metadata = _Unpickler(file).load()
        except pickle.UnpicklingError as error:
            raise unsafe(path, [_line(error)]) from None
        except (EOFError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise Damaged(f"{METADATA}: {_line(error)}") from None
        if not isinstance(metadata, Metadata):
            raise Damaged(f"{METADATA} is not what was written")
        for key, found in metadata.state_dict_metadata.items():
            if not isinstance(found, TensorStorageMetadata):
                raise Damaged(f"{METADATA} knows '{key}', which is no tensor")
        return metadata


def _take_tensors(tree: Tree, names: tuple[str, ...], tensors: dict[str, Tensor]) -> Tree:
    """The plain values of a tree; its tensors go into `tensors`, by the names that lead there."""
    plain: Tree = {}
    for name, value in tree.items():
        path = (*names, name)
        if isinstance(value, Tensor):
            key = "/".join(path)
            assert key not in tensors, f"two tensors are named {key}"
            tensors[key], plain[name] = value.detach(), f"{_TENSOR}{key}"
        else:
            plain[name] = _take_tensors(value, path, tensors) if isinstance(value, dict) else value
    return plain


def _with_tensors(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(plain, dict):
        return {name: _with_tensors(value, tensors) for name, value in plain.items()}
    if isinstance(plain, str) and plain.startswith(_TENSOR):
        return tensors[plain.removeprefix(_TENSOR)]
    return plain


def _mapped(tree: Tree, made: Callable[[tuple[str, ...], Tensor], Any]) -> Tree:
    """A tree with other tensors in the places of its own."""

    def walk(value: Any, names: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {name: walk(part, (*names, str(name))) for name, part in value.items()}
        return made(names, value) if isinstance(value, Tensor) else value

    return {name: walk(value, (name,)) for name, value in tree.items()}


def _sum(path: Path) -> int:
    found = 0
    for chunk in _chunks(path):
        found = zlib.crc32(chunk, found)
    return found


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
