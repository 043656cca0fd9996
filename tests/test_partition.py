"""Held-out documents, told apart in packed samples, against the documents that were packed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ncamix.collation import labels_of
from ncamix.packing import Packed, Packer, PairPacker, StreamPacker
from ncamix.training.partition import Documents, documents_of

END = 0
BYTES = np.array([0, 1, 2, 3])  # of the end of text, and of three more ids
IDS = st.lists(st.integers(1, 3), min_size=1, max_size=12)
Ids = list[int]


def packed(packer: Packer) -> tuple[NDArray[np.uint32], NDArray[np.bool_] | None]:
    """All samples of a packer that has its documents."""

    def shards() -> Iterator[Packed]:
        while (shard := packer.shard()) is not None:
            yield shard
        if (rest := packer.rest()) is not None:
            yield rest

    found = list(shards())
    masks = [shard.mask for shard in found if shard.mask is not None]
    tokens = np.concatenate([np.empty((0, 8), np.uint32), *(shard.tokens for shard in found)])
    return tokens, np.concatenate(masks) if masks else None


def values_of(documents: Documents, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums by document of the ids themselves, as if they were losses; part by part."""
    losses = np.where(labels >= 0, labels, 0).astype(np.float64)
    parts = [slice(first, len(labels), 3) for first in range(3)]
    return sum(
        (documents.sums(part, losses[part]) for part in parts),
        start=np.zeros(len(documents.num_tokens)),
    )


@given(st.lists(IDS, max_size=12), st.integers(1, 3))
def test_a_document_goes_on_over_the_borders_of_samples(texts: list[Ids], per_shard: int) -> None:
    packer = StreamPacker(7, per_shard)
    for number, ids in enumerate(texts):
        packer.add(number, np.array([*ids, END], np.uint32))
    samples, _ = packed(packer)
    labels = labels_of(samples.astype(np.int64), 1, None)
    found = documents_of(samples, labels, END, True, BYTES)
    # All targets of the stream: of the first document all but its first id, of the last what fits.
    stream = [(i, id) for i, ids in enumerate(texts) for id in (*ids, END)][1 : 1 + labels.size]
    whole = [[id for i, id in stream if i == number] for number in range(len(texts))]
    expected = [ids for ids in whole if ids]
    assert found.num_tokens.tolist() == [len(ids) for ids in expected]
    assert found.num_bytes.tolist() == [sum(BYTES[ids]) for ids in expected]
    assert values_of(found, labels).tolist() == [sum(ids) for ids in expected]


@given(st.lists(st.tuples(IDS, IDS), max_size=12), st.booleans(), st.integers(1, 3))
def test_a_pair_is_a_document(pairs: list[tuple[Ids, Ids]], isolated: bool, per_shard: int) -> None:
    """Those that are not left out, cut off where a sample ends; in the order of samples."""
    packer, kept = PairPacker(7, per_shard, END, isolated), []
    for number, (prompt, response) in enumerate(pairs):
        ids = np.array([*prompt, *response, END], np.uint32)
        mask = np.arange(len(ids)) >= len(prompt)
        packer.add(number, ids, mask)
        if mask[1:8].any():
            kept.append(ids[1:8][mask[1:8]].tolist())
    samples, masks = packed(packer)
    labels = labels_of(samples.astype(np.int64), 1, masks)
    found = documents_of(samples, labels, END, False, BYTES)
    told = zip(found.num_tokens.tolist(), found.num_bytes.tolist(), strict=True)
    sums = values_of(found, labels)
    facts = [(n, b, total) for (n, b), total in zip(told, sums.tolist(), strict=True)]
    expected = [(len(ids), sum(BYTES[ids]), sum(ids)) for ids in kept]
    assert sorted(facts) == sorted(expected)  # one that is shorter may stand before a longer one
    if not isolated:
        assert facts == expected


def test_what_has_no_target_is_no_document() -> None:
    samples = np.array([[1, 2, END, 3, 3, END, END, END]], np.uint32)
    mask = np.array([[0, 0, 0, 0, 1, 1, 0, 0]])
    labels = labels_of(samples.astype(np.int64), 1, mask)
    found = documents_of(samples, labels, END, False, BYTES)
    assert (found.num_tokens.tolist(), found.num_bytes.tolist()) == ([2], [3])
    assert found.sums(slice(None), np.where(labels >= 0, 0.5, 0.0)).tolist() == [1.0]
