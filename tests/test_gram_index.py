"""The index of runs of words: what is met, by which set, and for the first time by whom."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.gram_index import GramIndex
from ncamix.words import grams


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.text("ab ", max_size=30)), max_size=8),
    st.lists(st.text("abc ", max_size=40), max_size=6),
    st.integers(1, 3),
)
def test_the_index_is_its_twin(held: list[tuple[int, str]], texts: list[str], size: int) -> None:
    sets: dict[int, int] = {}
    for number, text in held:
        for run in grams(text, size).tolist():
            sets[run] = sets.get(run, 0) | 1 << number
    keys = np.array(list(sets), np.uint64)
    index = GramIndex(size, keys, np.array(list(sets.values()), np.uint64))
    found, first = np.zeros(len(keys), np.int32), dict.fromkeys(sets, 0)
    for number, text in enumerate(texts, 1):
        own = [run for run in grams(text, size).tolist() if run in sets]
        met = sum({1 << b for b in range(3) for run in own if sets[run] >> b & 1})
        fresh = {run for run in own if not first[run]}
        assert index.meet(text, number, found) == (met, len(fresh))
        first |= dict.fromkeys(fresh, number)
        assert found.tolist() == list(first.values())


def test_a_long_text_after_a_short_one() -> None:
    text = " ".join(f"word{i}" for i in range(50_000))
    keys = np.unique(grams(text, 13))
    index = GramIndex(13, keys, np.ones(len(keys), np.uint64))
    found = np.zeros(len(keys), np.int32)
    assert index.meet("one two", 1, found) == (0, 0)
    assert index.meet(text, 1, found) == (1, 50_000 - 12)
    assert index.meet(text, 2, found) == (1, 0) and (found == 1).all()
