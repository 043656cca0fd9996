"""Source kind `mds`: a MosaicML data set of token samples that exists already.

Its column `tokens` holds a fixed number of ids a sample. How many samples there are is known from
its `index.json`, where that lies on this machine.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ncamix.errors import fail
from ncamix.keys import fingerprint
from ncamix.quantities import refuse
from ncamix.sources.base import Meaning
from ncamix.sources.corpus import FiniteSource

INDEX = "index.json"
COLUMN = "tokens"
_ENCODING = re.compile(r"ndarray:(u?int(?:8|16|32|64)):([0-9]+)\Z")


@dataclass(frozen=True)
class MdsIndex:
    """What an index says: samples, ids a sample and their dtype; `digest` stands for all of it."""

    num_samples: int
    length: int
    dtype: str
    digest: str


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.local is None and self.remote is None:
            raise refuse(
                "an mds source needs `local` or `remote`", "write `local: FOLDER` or `remote: URL`"
            )
        return self

    def own_meaning(self) -> Meaning:
        """Everything but the digest of the index, which the plan adds where there is no remote."""
        return {"kind": "mds", "version": self.version, "remote": self.remote}

    def own_summary(self) -> str:
        return f"mds, {self.remote or self.local}"

    def index(self, folder: Path) -> MdsIndex | None:
        """The data set's index if it is on this machine; paths are relative to `folder`.

        Raises:
            UserError: there is none and it cannot be remote, or it is not one of token samples.
                The problem's path is the key, `local` or `remote`.
        """
        places = {
            key: folder / os.path.expanduser(place)
            for key in ("local", "remote")
            if (place := getattr(self, key)) is not None and "://" not in place
        }
        for key, place in places.items():
            if (place / INDEX).is_file():
                return read_mds_index(place, key)
        if self.remote is not None and "remote" not in places:
            return None
        key, place = list(places.items())[-1]
        raise fail(f"{place} holds no {INDEX}", "name the folder of an MDS data set", path=key)


def read_mds_index(folder: Path, key: str) -> MdsIndex:
    """The index of the data set in `folder`, which the YAML key `key` names.

    Raises:
        UserError: it is not an MDS index of samples with a fixed number of ids.
    """
    file = folder / INDEX
    try:
        shards = json.loads(file.read_text(encoding="utf-8"))["shards"]
        found = {_layout(shard) for shard in shards}
        num_samples = sum(int(shard["samples"]) for shard in shards)
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}", path=key) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise fail(
            f"{file} is not the index of an MDS data set", "write it with MDSWriter", path=key
        ) from None
    if num_samples < 1:
        raise fail(f"the data set {folder} has no samples", "name another", path=key)
    if len(found) > 1:
        raise fail(
            f"the shards of {folder} differ in their columns",
            "name a data set of one kind",
            path=key,
        )
    columns, encoding = found.pop()
    if encoding is None:
        raise fail(
            f"the data set {folder} has no column '{COLUMN}'",
            f"its columns: {', '.join(columns)}",
            path=key,
        )
    match = _ENCODING.match(encoding)
    if match is None:
        raise fail(
            f"the column '{COLUMN}' of {folder} is '{encoding}', not a fixed number of ids",
            "write it as ndarray:uint32:2049, which is 2,049 ids a sample",
            path=key,
        )
    return MdsIndex(num_samples, int(match[2]), match[1], fingerprint({"shards": shards}))


def _layout(shard: Any) -> tuple[tuple[str, ...], str | None]:
    """A shard's columns, and the encoding of its tokens if it has any."""
    if shard["format"] != "mds":
        raise ValueError(shard["format"])
    encodings = dict(zip(shard["column_names"], shard["column_encodings"], strict=True))
    return tuple(encodings), encodings.get(COLUMN)
