"""Packing: every id a target once, every pair whole, wherever one begins again."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ncamix.packing import Packed, Packer, PairPacker, StreamPacker

END = 0
Document = tuple[NDArray[np.uint32], NDArray[np.bool_] | None]


def run(packer: Packer, documents: list[Document], first: int = 0) -> list[Packed]:
    """All shards that a packer makes of documents, the first of which has the number `first`."""
    shards = []
    for number, (ids, mask) in enumerate(documents, first):
        packer.add(number, ids, mask)
        while (shard := packer.shard()) is not None:
            shards.append(shard)
    rest = packer.rest()
    return [*shards, rest] if rest is not None else shards


def same(a: list[Packed], b: list[Packed]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.tokens, y.tokens)
        and (x.mask is None or np.array_equal(x.mask, y.mask))
        and x.after == y.after
        for x, y in zip(a, b, strict=True)
    )


documents_of_text = st.lists(st.integers(0, 40), max_size=25).map(
    lambda sizes: [
        (np.array([*range(100 * i, 100 * i + n), END], np.uint32), None)
        for i, n in enumerate(sizes, 1)
    ]
)


@given(documents_of_text, st.integers(1, 12), st.integers(1, 5), st.none() | st.integers(1, 20))
def test_a_stream_is_cut_into_samples_that_share_an_id(
    documents: list[Document], length: int, per_shard: int, limit: int | None
) -> None:
    shards = run(StreamPacker(length, per_shard, limit=limit), documents)
    stream = [int(i) for ids, _ in documents for i in ids]
    naive = [stream[i : i + length + 1] for i in range(0, len(stream), length)]
    naive = [sample for sample in naive if len(sample) == length + 1][:limit]
    assert [row for shard in shards for row in shard.tokens.tolist()] == naive
    assert all(len(shard.tokens) == per_shard for shard in shards[:-1])
    targets = [i for sample in naive for i in sample[1:]]
    assert targets == stream[1 : len(targets) + 1]
    if limit is None:
        assert len(stream) - 1 - len(targets) < length  # what is dropped is no whole sample


@st.composite
def pairs(draw: Any) -> tuple[int, list[Document]]:
    """A length, and pairs of prompt and response with end of text; some are too long."""
    length = draw(st.integers(2, 16))
    made: list[Document] = []
    for i, (p, r) in enumerate(
        draw(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=25)), 1
    ):
        ids = np.array([*range(100 * i, 100 * i + p + r), END], np.uint32)
        made.append((ids, np.arange(p + r + 1) >= p))
    return length, made


@given(pairs(), st.integers(1, 5), st.booleans())
def test_pairs_are_whole_and_keep_their_targets(
    made: tuple[int, list[Document]], per_shard: int, isolated: bool
) -> None:
    length, documents = made
    shards = run(PairPacker(length, per_shard, END, isolated), documents)
    expected = {}
    for ids, mask in documents:
        assert mask is not None
        ids, mask = ids[: length + 1], mask[: length + 1].copy()
        mask[0] = False  # nothing of its own stands before it
        if mask.any():
            expected[int(ids[0])] = (ids.tolist(), mask.tolist())
    found: dict[int, tuple[list[int], list[bool]]] = {}
    fill = 0
    for shard in shards:
        assert shard.mask is not None and len(shard.tokens) <= per_shard
        for tokens, mask in zip(shard.tokens.tolist(), shard.mask.tolist(), strict=True):
            at = in_sample = 0
            while at <= length and (size := len(expected.get(tokens[at], ([],))[0])) > 0:
                assert tokens[at] not in found
                found[tokens[at]] = (tokens[at : at + size], mask[at : at + size])
                if tokens[at] == END:
                    break
                at, in_sample = at + size, in_sample + 1
            assert not any(tokens[at:]) and not any(mask[at:])
            assert in_sample >= 1 if isolated else in_sample == 1
            fill += length + 1 - at
    assert found == expected
    assert sum(shard.counts["fill"] for shard in shards) == fill
    cut = sum(len(i) > length + 1 and int(i[0]) in expected for i, _ in documents)
    assert sum(shard.counts["truncated"] for shard in shards) == cut


def test_pairs_fill_gaps_first_fit() -> None:
    def pair(number: int, size: int) -> Document:
        return np.array([number] * (size - 1) + [END], np.uint32), np.ones(size, np.bool_)

    documents = [pair(1, 6), pair(2, 7), pair(3, 3), pair(4, 2), pair(5, 9)]
    (shard, last) = run(PairPacker(8, 2, END, True), documents)
    assert shard.tokens.tolist() == [[1, 1, 1, 1, 1, 0, 3, 3, 0], [2, 2, 2, 2, 2, 2, 0, 4, 0]]
    assert shard.counts["fill"] == 0 and shard.after == (4, 0)
    assert last.tokens.tolist() == [[5] * 8 + [0]]


@settings(max_examples=60)
@given(documents_of_text, pairs(), st.integers(1, 4), st.booleans())
def test_packing_goes_on_from_the_mark_of_any_shard(
    texts: list[Document], made: tuple[int, list[Document]], per_shard: int, isolated: bool
) -> None:
    length, of_pairs = made

    def stream(mark: Any = (0, 0), before: int = 0) -> Packer:
        return StreamPacker(length, per_shard, mark, before)

    def packed(mark: Any = (0, 0), before: int = 0) -> Packer:
        return PairPacker(length, per_shard, END, isolated, mark, before)

    for new, documents in ((stream, texts), (packed, of_pairs)):
        shards = run(new(), documents)
        before = 0
        for i, shard in enumerate(shards[:-1]):
            before += len(shard.tokens)
            again = new(shard.after, before)
            assert again.num_samples == before
            # documents before the mark may come again: they are passed over
            for first in (0, shard.after[0]):
                packer = new(shard.after, before)
                assert same(run(packer, documents[first:], first), shards[i + 1 :])
