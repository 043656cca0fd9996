"""Collation: labels, masks, segments and digests of batches."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ncamix.collation import Collate, Rows, labels_of, segments_of
from ncamix.shards import sample_digest
from ncamix.sources.base import MASKED

END = 0
IDS = st.lists(st.integers(END, 3), min_size=2, max_size=20).map(
    lambda ids: np.array(ids, np.int64)
)


def sample(ids: Any, source: int = 0, mask: Any = None, dtype: Any = np.uint16) -> dict[str, Any]:
    made = {"tokens": np.array(ids, dtype), "source": source, "sample": 0}
    return made if mask is None else {**made, "loss_mask": np.array(mask, np.uint8)}


def test_digests_and_ids_do_not_depend_on_storage() -> None:
    ids = np.random.default_rng(0).integers(0, 60_000, (3, 9))
    batches = []
    for dtype in (np.uint16, np.uint32):
        rows = [
            {"tokens": r.astype(dtype), "source": i % 2, "sample": i} for i, r in enumerate(ids)
        ]
        batches.append(Collate([Rows(1), Rows(4)])(rows))
    narrow, wide = batches
    for key in ("input_ids", "labels", "source", "digest"):
        assert narrow[key].dtype == torch.int64
        assert torch.equal(narrow[key], wide[key])
    assert narrow["input_ids"].tolist() == ids[:, :-1].tolist()
    assert narrow["labels"][0].tolist() == ids[0, 1:].tolist()
    assert narrow["labels"][1].tolist() == [-100] * 3 + ids[1, 4:].tolist()
    assert narrow["source"].tolist() == [0, 1, 0]
    signed = [np.uint64(sample_digest(r)).astype(np.int64) for r in ids]
    assert narrow["digest"].tolist() == signed
    mixed = Collate([Rows(1), Rows(4)])(
        [{"tokens": r.astype((np.uint16, np.uint32)[i % 2]), "source": 0, "sample": 0}
         for i, r in enumerate(ids)]
    )  # fmt: skip
    assert torch.equal(mixed["digest"], narrow["digest"])


@given(IDS)
def test_segments_are_documents(ids: np.ndarray) -> None:
    expected, number = [], 0
    for token in ids.tolist():
        expected.append(number)
        number += token == END
    assert segments_of(ids, END).tolist() == expected
    assert segments_of(np.stack([ids, ids]), END).tolist() == [expected, expected]


@given(IDS, st.data())
def test_labels_are_the_ids_that_follow(ids: np.ndarray, data: st.DataObject) -> None:
    start = data.draw(st.integers(1, len(ids) - 1))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    expected = [ids[j] if j >= start else MASKED for j in range(1, len(ids))]
    assert labels_of(ids, start, None).tolist() == expected
    expected = [label if mask[j] else MASKED for j, label in enumerate(expected, 1)]
    for dtype in (np.bool_, np.uint8, np.int64):
        assert labels_of(ids, start, mask.astype(dtype)).tolist() == expected


def test_rows_with_masks_and_documents_beside_rows_without() -> None:
    collate = Collate([Rows(1, boundary=END), Rows(3), Rows(1)])
    assert pickle.loads(pickle.dumps(collate)).sources == collate.sources
    plain = [sample([5, END, 6, END, 7], 1), sample([5, END, 6, END, 7], 2)]
    assert "segments" not in collate(plain), "nothing of whole attention is slowed down"
    batch = collate([sample([5, END, 6, END, 7], 0, [0, 1, 0, 0, 1]), *plain])
    assert batch["labels"].tolist() == [
        [END, MASKED, MASKED, 7],
        [MASKED, MASKED, END, 7],
        [END, 6, END, 7],
    ]
    assert batch["segments"].tolist() == [[0, 0, 1, 1], [0] * 4, [0] * 4]
    assert {t.dtype for t in batch.values()} == {torch.int64}
    assert batch["source"].tolist() == [0, 1, 2]
