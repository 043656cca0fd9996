"""Packing: ids of documents, or of prompts and responses, -> samples of `length + 1` ids.

    text    d0 d0 d0 E d1 d1 E d2 ...      one stream of ids, E the end of text
            [----------)                    a sample; the next one begins with its last id, so that
                      [----------)          every id but the very first is a target exactly once

    pairs   p0 p0 r0 E p1 r1 E E E E        whole pairs, then ends of text to fill up
                  *  *    *  *              the loss mask: responses and their ends of text

Pure: no files, no tokenizer. A *mark* is where a shard begins: (number of the document, ids of it
that are already packed). From a shard's mark on, the same documents give the same shards, which is
what resuming, extending and mending rest on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

VERSION = 2  # of all bytes that tokenizing and packing give; part of what they are named by

Mark = tuple[int, int]
START: Mark = (0, 0)
END: Mark = (1 << 62, 0)  # behind every document


@dataclass(frozen=True)
class Packed:
    """A shard. tokens: uint32 [num_samples, length + 1]. mask: bool of that shape, or None where
    every id but the first is a target. after: the mark of the next shard. counts: of pairs: ids
    that `fill` up, pairs `truncated`, and pairs left out since no id `without_response` is left.
    """

    tokens: NDArray[np.uint32]
    mask: NDArray[np.bool_] | None
    after: Mark
    counts: dict[str, int] = field(default_factory=dict)


class Packer(Protocol):
    """Documents in, shards of at most `per_shard` samples out."""

    @property
    def num_samples(self) -> int:
        """Samples packed from the first document on, whole ones that wait for a shard included."""

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached, so that no further document matters."""

    def add(self, document: int, ids: NDArray[np.uint32], mask: NDArray[np.bool_] | None) -> None:
        """Append a document: its number, uint32 [n] ids with the end of text, bool [n] targets."""

    def shard(self) -> Packed | None:
        """A full shard, if there is one."""

    def rest(self) -> Packed | None:
        """What is left once there are no more documents: a last, smaller shard, or nothing."""


class StreamPacker:
    """Text: documents joined into one stream of ids. Less than a sample at its end is dropped.

    mark, num_samples: where to go on, and what was packed before. limit: samples at most.
    """

    def __init__(
        self,
        length: int,
        per_shard: int,
        mark: Mark = START,
        num_samples: int = 0,
        limit: int | None = None,
    ) -> None:
        self.length, self.per_shard, self.limit = length, per_shard, limit
        self._mark, self._taken = mark, num_samples
        self._parts: deque[tuple[int, int, NDArray[np.uint32]]] = deque()
        self._held = 0  # ids in the parts, each (document, number of its first id, ids)

    @property
    def num_samples(self) -> int:
        whole = self._taken + max(0, self._held - 1) // self.length
        return whole if self.limit is None else min(whole, self.limit)

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.num_samples >= self.limit

    def add(
        self, document: int, ids: NDArray[np.uint32], mask: NDArray[np.bool_] | None = None
    ) -> None:
        assert mask is None, "every id of a text is a target"
        first = 0
        if document <= self._mark[0] and not self._parts:
            if document < self._mark[0]:
                return
            first = self._mark[1]
        if not self.is_full and first < len(ids):
            self._parts.append((document, first, ids[first:]))
            self._held += len(ids) - first

    def shard(self) -> Packed | None:
        ready = self.num_samples - self._taken
        return self._take(self.per_shard) if ready >= self.per_shard else None

    def rest(self) -> Packed | None:
        ready = self.num_samples - self._taken
        return self._take(ready) if ready else None

    def _take(self, num: int) -> Packed:
        left = num * self.length  # ids that no later sample needs
        taken = []
        while left >= len(self._parts[0][2]):
            _, _, ids = self._parts.popleft()
            taken.append(ids)
            left -= len(ids)
        document, first, ids = self._parts[0]
        taken.append(ids[: left + 1])
        self._parts[0] = (document, first + left, ids[left:])
        self._held -= num * self.length
        self._taken += num
        self._mark = (document, first + left)
        stream = np.concatenate(taken)
        tokens = np.empty((num, self.length + 1), np.uint32)
        tokens[:, :-1] = stream[:-1].reshape(num, self.length)
        tokens[:, -1] = stream[self.length :: self.length]
        return Packed(tokens, None, self._mark)


class PairPacker:
    """Pairs, each whole within one sample; ends of text fill up. A pair's first id is no target.

    isolated: a pair goes into the first sample of the open shard that has room for it; one that
    fits nowhere closes the shard and opens the next, so no pair moves further than a shard.
    Otherwise every pair has a sample to itself. fill: the id of the end of text. What is longer
    than a sample loses its end.
    """

    def __init__(
        self,
        length: int,
        per_shard: int,
        fill: int,
        isolated: bool,
        mark: Mark = START,
        num_samples: int = 0,
        limit: int | None = None,
    ) -> None:
        self.length, self.per_shard, self.limit = length, per_shard, limit
        self.fill, self.isolated = fill, isolated
        self._first, self._before = mark[0], num_samples
        self._room = np.full(per_shard, length + 1)
        self._pairs: list[list[tuple[NDArray[np.uint32], NDArray[np.bool_]]]] = []
        self._full: deque[Packed] = deque()
        self._left_out = 0

    @property
    def num_samples(self) -> int:
        return self._before + len(self._pairs)

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.num_samples >= self.limit

    def add(self, document: int, ids: NDArray[np.uint32], mask: NDArray[np.bool_] | None) -> None:
        if document < self._first or self.is_full:
            return
        assert mask is not None
        if not mask[1 : self.length + 1].any():
            self._left_out += 1
            return
        ids, mask = ids[: self.length + 1], mask[: self.length + 1]
        at = int(np.argmax(self._room >= len(ids))) if self.isolated else len(self._pairs)
        if at >= self.per_shard or self._room[at] < len(ids):
            self._full.append(self._close((document, 0)))
            at = 0
        if at == len(self._pairs):
            self._pairs.append([])
        self._pairs[at].append((ids, mask))
        self._room[at] -= len(ids)

    def shard(self) -> Packed | None:
        return self._full.popleft() if self._full else None

    def rest(self) -> Packed | None:
        return self._close(None) if self._pairs else None

    def _close(self, after: Mark | None) -> Packed:
        shape = (len(self._pairs), self.length + 1)
        tokens, mask = np.full(shape, self.fill, np.uint32), np.zeros(shape, np.bool_)
        for row, pairs in enumerate(self._pairs):
            start = 0
            for ids, targets in pairs:
                tokens[row, start : start + len(ids)] = ids
                mask[row, start + 1 : start + len(ids)] = targets[1:]
                start += len(ids)
        counts = {
            "fill": int(self._room[: len(self._pairs)].sum()),
            "truncated": int((tokens[:, -1] != self.fill).sum()),  # without an end of text
            "without_response": self._left_out,
        }
        self._left_out = 0
        self._before += len(self._pairs)
        self._pairs = []
        self._room[:] = self.length + 1
        return Packed(tokens, mask, after or END, counts)
