"""How the samples of others' data sets become samples of the run.

    first shard -> its first sample            -> ids a sample, where the index does not say
    a row: an array or bytes, perhaps a mask   -> tokens [L + 1], loss mask [L + 1]
    its number, where ids are shuffled         -> the order of the ids, which their mask moves with

A sample of L ids has L - 1 targets. FILL stands at its last place, which is masked: it is neither
an input nor a target, and the same on every path, so that digests agree. Every row is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ncamix.containers import opened, readable
from ncamix.errors import fail
from ncamix.shards import MASK
from ncamix.sources.base import shuffle
from ncamix.sources.mds import BYTES, COLUMN, MdsIndex

FILL = 0  # an id of every tokenizer
_STREAMS = {"gz": "gzip", "bz2": "bz2", "zstd": "zstd"}  # compressions of which a part can be read


@dataclass(frozen=True)
class Layout:
    """The rows of a data set, and what is asked of them; plain data, for worker processes.

    what: the data set in words. length: ids of a row, sequence_length or one more. dtype: of ids
    stored as bytes. num_ids: of the tokenizer. masked: whether a loss mask is beside the ids.
    shuffle_key: of the order of the ids in a sample; None leaves them as they lie.
    """

    what: str
    length: int
    sequence_length: int
    dtype: str
    num_ids: int
    masked: bool
    shuffle_key: int | None = None

    @property
    def makes_masks(self) -> bool:
        """Whether a loss mask comes with the samples that are made."""
        return self.masked or self.length == self.sequence_length

    def sample(self, row: Mapping[str, Any], number: int) -> dict[str, NDArray[Any]]:
        """The columns of the sample of that number, which a row holds: `tokens`, uint32 [L + 1],
        and, where there are masks, `loss_mask`, bool [L + 1].

        Raises:
            UserError: the row holds another number of ids than the first one, no integers, or an
                id that is none of the tokenizer's.
        """
        ids = self._ids(row[COLUMN])
        if ids.shape != (self.length,) or ids.dtype.kind not in "iu":
            raise fail(
                f"{self.what} holds a sample of {_described(ids, 'ids')}; its first sample, or its "
                f"index, says {self.length:,} ids",
                f"write all samples as {self.length:,} integers, or name another data set",
            )
        check_ids(self.what, ids, self.num_ids)
        order = self._order(number)
        tokens = np.full(self.sequence_length + 1, FILL, np.uint32)
        tokens[: self.length] = ids[order]
        if not self.makes_masks:
            return {COLUMN: tokens}
        mask = np.zeros(tokens.shape, np.bool_)
        mask[1 : self.length] = True
        if self.masked:
            own = row[MASK]
            if own.shape != ids.shape:
                raise fail(
                    f"{self.what} holds a loss mask of {_described(own, 'integers')} beside "
                    f"{len(ids):,} ids",
                    "write a mask of one integer for each id",
                )
            mask[: self.length] = (own != 0)[order]
        return {COLUMN: tokens, MASK: mask}

    def _order(self, number: int) -> NDArray[np.uint32] | slice:
        """Where each id of a sample comes from: uint32 [length], or all as they lie."""
        if self.shuffle_key is None:
            return slice(None)
        order = np.arange(self.length, dtype=np.uint32)[None]
        shuffle(order, number, self.shuffle_key, num_threads=1)
        found: NDArray[np.uint32] = order[0]
        return found

    def _ids(self, value: Any) -> NDArray[Any]:
        if not isinstance(value, bytes):
            return np.asarray(value)
        check_bytes(self.what, len(value), self.dtype)
        return np.frombuffer(value, np.dtype(self.dtype).newbyteorder("<"))


def check_ids(what: str, ids: NDArray[Any], num_ids: int) -> None:
    """Check ids of any integer type and shape, which `what` holds.

    Raises:
        UserError: one is none of the `num_ids` ids of the tokenizer.
    """
    for worst in (int(ids.min()), int(ids.max())):
        if not 0 <= worst < num_ids:
            raise fail(
                f"{what} holds the id {worst}, and the tokenizer's ids are 0 to {num_ids - 1:,}",
                "name a data set that this tokenizer made, or its tokenizer",
            )


def check_bytes(what: str, size: int, dtype: str) -> None:
    """Raises UserError if a sample of `what`, of `size` bytes, is not ids of this dtype."""
    if not size or size % np.dtype(dtype).itemsize:
        raise fail(
            f"{what} holds a sample of {size:,} bytes, which are not ids of {dtype}",
            "write the `dtype` that it was made with: dtype: int32",
        )


def first_length(what: str, folder: Path, index: MdsIndex, dtype: str) -> int | None:
    """Ids of the first sample of a data set, whose first shard lies in `folder`, unpacked or
    zipped; None if it does not.

    what: the data set in words. dtype: of ids stored as bytes.

    Raises:
        UserError: the shard cannot be read, or its first sample holds no ids.
    """
    entry = next(entry for entry in index.entries if entry["samples"])
    file, compression = folder / entry["raw_data"]["basename"], None
    if not file.is_file() and entry["zip_data"]:
        file = folder / entry["zip_data"]["basename"]
        compression = str(entry["compression"]).partition(":")[0]
    if not file.is_file():
        return None
    try:
        with readable(file):
            value = _column(_first_row(file, compression), entry)
        if index.encoding == BYTES:
            check_bytes(what, len(value), dtype)
            return len(value) // np.dtype(dtype).itemsize
        return _array_length(value, with_dtype=index.encoding == "ndarray")
    except (ValueError, LookupError, StopIteration) as error:
        raise fail(
            f"the first sample of {what} cannot be read from {file}: {error or 'it is cut off'}",
            "is the file whole? Fetch it anew, or write the data set again",
        ) from None


def _first_row(file: Path, compression: str | None) -> bytes:
    """The bytes of a shard's first sample."""
    if compression is None or compression in _STREAMS:
        with opened(file, _STREAMS.get(compression or "")) as stream:
            return _row(stream)
    import io

    from streaming.base.compression import decompress

    packed = file.read_bytes()
    try:
        return _row(io.BytesIO(decompress(compression, packed)))
    except Exception as error:  # each library has its own
        raise ValueError(str(error)) from None


def _row(stream: IO[bytes]) -> bytes:
    begin, end = np.frombuffer(stream.read(12), "<u4", 2, 4).tolist()
    stream.read(begin - 12)
    return stream.read(end - begin)


def _column(row: bytes, entry: Mapping[str, Any]) -> bytes:
    """The value of the ids' column in a sample: sizes that are not fixed come first."""
    fixed = entry["column_sizes"]
    num = sum(not size for size in fixed)
    stored, at = iter(np.frombuffer(row, "<u4", num).tolist()), 4 * num
    for name, known in zip(entry["column_names"], fixed, strict=True):
        size = known or next(stored)
        if name == COLUMN:
            return row[at : at + size]
        at += size
    raise LookupError(COLUMN)


def _array_length(value: bytes, with_dtype: bool) -> int:
    """Ids of an array whose shape is stored before its values, and before that perhaps its dtype.

    Raises ValueError if it has not one axis.
    """
    axes, width = divmod(value[int(with_dtype)], 4)
    shape = np.frombuffer(value, f"<u{1 << width}", axes, 1 + int(with_dtype))
    if axes != 1:
        raise ValueError(f"it is an array of {' x '.join(map(str, shape.tolist()))}, not ids")
    return int(shape[0])


def _described(found: NDArray[Any], integers: str) -> str:
    """An array in words: `5 ids` (as `integers` says) or `2 x 5 of float32`."""
    size = " x ".join(f"{n:,}" for n in found.shape)
    plain = found.ndim == 1 and found.dtype.kind in "iu"
    return f"{size} {integers}" if plain else f"{size} of {found.dtype}"
