"""Rows of others' data sets: each becomes a sample of the run, or is told."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.collation import labels_of
from ncamix.errors import UserError
from ncamix.sources.base import MASKED, shuffle
from ncamix.stored_layout import FILL, Layout

WHAT = "the data set x of the source 'mine'"
LAYOUT = Layout(WHAT, 3, 2, "int64", 257, masked=False)
DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@given(
    st.lists(st.integers(0, 127), min_size=2, max_size=12),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_targets_are_the_ids_that_follow(
    ids: list[int], dtype: str, as_bytes: bool, short: bool, data: st.DataObject
) -> None:
    length = len(ids) if short else len(ids) - 1
    mask = data.draw(st.none() | st.lists(st.integers(0, 2), min_size=len(ids), max_size=len(ids)))
    layout = Layout(WHAT, len(ids), length, dtype, 257, mask is not None)
    stored = np.array(ids, dtype)
    row: dict[str, Any] = {"tokens": stored.tobytes() if as_bytes else stored, "extra": "x"}
    if mask is not None:
        row["loss_mask"] = np.array(mask, np.uint8)
    sample = pickle.loads(pickle.dumps(layout)).sample(row, 0)
    assert layout.makes_masks == ("loss_mask" in sample) == (short or mask is not None)
    assert sample["tokens"].dtype == np.uint32
    assert sample["tokens"].tolist() == ids + [FILL] * short
    targets = [i if mask is None or mask[j] else MASKED for j, i in enumerate(ids)][1:]
    labels = labels_of(sample["tokens"].astype(np.int64), 1, sample.get("loss_mask"))
    assert labels.tolist() == targets + [MASKED] * short


@pytest.mark.parametrize(
    ("ids", "dtype", "wrong"),
    [
        ([1, 7, 300], np.int16, "300"),
        ([1, -2, 5], np.int64, "-2"),
        ([1, 2, 2**64 - 1], np.uint64, "18446744073709551615"),
    ],
)
def test_ids_that_the_tokenizer_lacks_are_told(ids: list[int], dtype: Any, wrong: str) -> None:
    for row in (np.array(ids, dtype), np.array(ids, dtype).tobytes()):
        layout = replace(LAYOUT, dtype=np.dtype(dtype).name)
        with pytest.raises(UserError, match=f"{WHAT} holds the id {wrong}, .* are 0 to 256"):
            layout.sample({"tokens": row}, 0)


@pytest.mark.parametrize(
    ("tokens", "mask", "said"),
    [
        (np.arange(2), np.ones(2), "a sample of 2 ids; its first sample, or its index, says 3 ids"),
        (np.ones((1, 3), np.int64), np.ones(3), "a sample of 1 x 3 of int64"),
        (np.ones(3, np.float32), np.ones(3), "a sample of 3 of float32"),
        (np.arange(4).tobytes(), np.ones(4), "a sample of 4 ids"),
        (b"1234567", np.ones(3), "a sample of 7 bytes, which are not ids of int64"),
        (b"", np.ones(3), "a sample of 0 bytes"),
        (np.arange(3), np.ones(2, np.uint8), "a loss mask of 2 integers beside 3 ids"),
    ],
)
def test_rows_of_another_form_are_told(tokens: Any, mask: np.ndarray, said: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(LAYOUT, masked=True).sample({"tokens": tokens, "loss_mask": mask}, 0)
    (problem,) = caught.value.problems
    assert f"{WHAT} holds {said}" in problem.what and problem.remedy


@given(st.lists(st.integers(0, 127), min_size=2, max_size=12), st.integers(0, 2**40), st.booleans())
def test_shuffled_ids_take_their_mask_along(ids: list[int], number: int, short: bool) -> None:
    """In the order of the other sources' shuffled samples; what fills up stays at its place."""
    length = len(ids) if short else len(ids) - 1
    layout = Layout(WHAT, len(ids), length, "int64", 257, masked=False, shuffle_key=9)
    row = {"tokens": np.array(ids), "loss_mask": np.array([i % 2 for i in ids], np.uint8)}
    wanted = np.array([ids], np.uint32)
    shuffle(wanted, number, 9)
    sample = layout.sample(row, number)
    assert sample["tokens"].tolist() == wanted[0].tolist() + [FILL] * short
    assert not short or sample["loss_mask"].tolist() == [False, *[True] * (length - 1), False]
    masked = replace(layout, masked=True).sample(row, number)
    assert masked["tokens"].tolist() == sample["tokens"].tolist()
    targets = [bool(i % 2) for i in wanted[0].tolist()] + [False] * short
    assert masked["loss_mask"].tolist() == targets
    other = layout.sample(row, number + 1)["tokens"].tolist()
    assert sorted(other) == sorted(sample["tokens"].tolist())
