"""Source kind `mds`: a MosaicML data set of token samples that exists already.

Its column `tokens` holds as many ids in every sample, and `loss_mask`, if there is one, as many
integers, 0 where the id is no target; other columns are passed over. How many samples there are is
known from its `index.json`, where that lies on this machine; how many ids, only where the index has
their number: others store it with each sample.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ncamix.errors import fail
from ncamix.keys import fingerprint
from ncamix.quantities import refuse
from ncamix.shards import INDEX, MASK, leads_outside
from ncamix.sources.base import Meaning
from ncamix.sources.corpus import FiniteSource
from ncamix.stores import is_url, misfit_url
from ncamix.trust import TRUST_IT, trusted

COLUMN = "tokens"
BYTES = "bytes"  # the encoding of ids whose dtype is nowhere
USUAL_DTYPE = "int64"  # of those
_ENCODING = re.compile(r"ndarray(?::(u?int(?:8|16|32|64))(?::([0-9]+))?)?\Z")

IntegerType = Literal["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@dataclass(frozen=True)
class MdsIndex:
    """What an index says: how ids are encoded, how many a sample holds (None: stored with each of
    them), whether a loss mask is beside them, and its entry of each shard. `digest` stands for all
    of it."""

    encoding: str
    length: int | None
    masked: bool
    digest: str
    entries: tuple[dict[str, Any], ...] = field(repr=False)

    @property
    def shards(self) -> list[tuple[str, int]]:
        """(file name once unpacked, samples) of each shard."""
        return [(str(e["raw_data"]["basename"]), int(e["samples"])) for e in self.entries]

    @property
    def num_samples(self) -> int:
        return sum(samples for _, samples in self.shards)


class MdsSource(FiniteSource):
    """YAML keys of `kind: mds`: where the data set lies, and where a remote one is kept."""

    version: ClassVar[int] = 1
    holdout: ClassVar[None] = None  # a data set of samples is not split

    kind: Literal["mds"] = Field(description="An MDS data set of token samples, column `tokens`.")
    local: str | None = Field(
        None, description="Folder of the data set, or where its shards are kept if it is remote."
    )
    remote: str | None = Field(
        None, description="Folder or URL that the data set is fetched from, such as s3://..."
    )
    dtype: IntegerType | None = Field(
        None, description="The integers that a column `tokens` of bytes holds; int64 by default."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.local is None and self.remote is None:
            raise refuse(
                "an mds source needs `local` or `remote`", "write `local: FOLDER` or `remote: URL`"
            )
        if is_url(self.remote) and (misfit := misfit_url(str(self.remote), written=False)):
            raise refuse(*misfit, suffix=("remote",))
        return self

    def own_meaning(self) -> Meaning:
        """Everything but the index and the shards' contents, which the plan adds of data sets on
        this machine."""
        own = {"kind": "mds", "version": self.version, "remote": self.remote}
        return own if self.dtype in (None, USUAL_DTYPE) else {**own, "dtype": self.dtype}

    def own_summary(self) -> str:
        return f"mds, {self.remote or self.local}"

    def places(self, folder: Path) -> tuple[Path | None, str | None]:
        """Where it lies, `local` and `remote`; paths are relative to `folder`."""

        def path(written: str) -> Path:
            return (folder / os.path.expanduser(written)).resolve()

        remote = self.remote
        if remote is not None and not is_url(remote):
            remote = str(path(remote))
        return path(self.local) if self.local is not None else None, remote

    def index(self, folder: Path, sequence_length: int) -> MdsIndex | None:
        """The data set's index if it is on this machine; paths are relative to `folder`.

        sequence_length: of the stage that draws from it.

        Raises:
            UserError: there is none and it cannot be remote, or it is not one of token samples, or
                what is fetched would come to lie where it is fetched from. The problem's path is
                the key, `local` or `remote`.
        """
        local, remote = self.places(folder)
        if is_url(remote):
            return None
        if local is not None and remote is not None and share_files(local, Path(remote)):
            other = Path(remote)
            nested = local != other and (local in other.parents or other in local.parents)
            raise fail(
                "`local` is where a copy of `remote` is kept, and "
                + (
                    f"one of {local} and {other} is in the other" if nested else f"both are {local}"
                ),
                "remove `remote`, and what is in `local` is read where it lies; or name another "
                "folder",
                path="local",
            )
        key, place = ("local", local) if remote is None else ("remote", Path(remote))
        assert place is not None
        if (place / INDEX).is_file():
            return read_mds_index(place, key, sequence_length)
        raise fail(f"{place} holds no {INDEX}", "name the folder of an MDS data set", path=key)


def share_files(one: Path, other: Path) -> bool:
    """Whether two folders (resolved) are one, or one is in the other."""
    if one.exists() and other.exists() and os.path.samefile(one, other):
        return True
    return one == other or one in other.parents or other in one.parents


def read_mds_index(
    folder: Path, key: str, sequence_length: int, place: str | None = None
) -> MdsIndex:
    """The index of the data set in `folder`, which the YAML key `key` names.

    sequence_length: of the stage that draws from it. place: where it was fetched from.

    Raises:
        UserError: it is not an MDS index of samples of ids, or it names files outside its folder.
    """
    file, shown = folder / INDEX, place or str(folder)
    try:
        shards = json.loads(file.read_text(encoding="utf-8"))["shards"]
        found = {_layout(shard) for shard in shards}
        num_samples = sum(int(shard["samples"]) for shard in shards)
        named = [str(n) for shard in shards for n in _files(shard)]
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}", path=key) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise fail(
            f"{shown}/{INDEX} is not the index of an MDS data set",
            "write it with MDSWriter",
            path=key,
        ) from None
    for name in named:
        if leads_outside(name):
            what = f"the index of {shown} names the file '{name}', outside its folder"
            raise fail(what, "do not use a data set that you do not trust", path=key)
    if num_samples < 1:
        raise fail(f"the data set {shown} has no samples", "name another", path=key)
    if len(found) > 1:
        raise fail(
            f"the shards of {shown} differ in their columns",
            "name a data set of one kind",
            path=key,
        )
    encodings = {name: encoding for name, encoding, _ in found.pop()}
    if COLUMN not in encodings:
        raise fail(
            f"the data set {shown} has no column '{COLUMN}'",
            f"its columns: {', '.join(encodings)}",
            path=key,
        )
    for name, encoding in encodings.items():
        if encoding == "pkl" and not trusted():
            what = f"the column '{name}' of {shown} is pickled: reading it may run any code"
            raise fail(what, f"write the data set without it; or, {TRUST_IT}", path=key)
    encoding = encodings[COLUMN]
    match = _ENCODING.match(encoding)
    if match is None and encoding != BYTES:
        wanted = sequence_length + 1
        raise fail(
            f"the column '{COLUMN}' of {shown} is '{encoding}', not ids",
            f"write it as ndarray:uint32:{wanted}, which is {wanted:,} ids a sample",
            path=key,
        )
    length = int(match[2]) if match is not None and match[2] else None
    if MASK in encodings:
        mask = _ENCODING.match(encodings[MASK])
        if mask is None or (length and mask[2] and int(mask[2]) != length):
            size = f" of as many integers as ids, {length:,}," if length else " of integers"
            raise fail(
                f"the column '{MASK}' of {shown} is '{encodings[MASK]}', not one{size} a sample",
                f"write it as ndarray:uint8:{length or sequence_length + 1}",
                path=key,
            )
    digest = fingerprint({"shards": shards})
    return MdsIndex(encoding, length, MASK in encodings, digest, tuple(shards))


def _layout(shard: Any) -> tuple[tuple[str, str, int | None], ...]:
    """A shard's columns, each with its encoding and its size in bytes, if that is fixed."""
    if shard["format"] != "mds":
        raise ValueError(shard["format"])
    columns = (shard["column_names"], shard["column_encodings"], shard["column_sizes"])
    return tuple(zip(*columns, strict=True))


def _files(shard: Any) -> list[str]:
    """The files that a shard may lie in: unpacked, and zipped."""
    packed = [shard["zip_data"]["basename"]] if shard["zip_data"] else []
    return [shard["raw_data"]["basename"], *packed]
