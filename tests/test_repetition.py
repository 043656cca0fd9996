"""What stands in a corpus more than once: known shares, in any order, with little memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.measure.repetition import Repeats, document_hash, gram_hashes, line_hashes


@settings(max_examples=100)
@given(st.lists(st.integers(0, 30), max_size=60), st.randoms(use_true_random=False))
def test_shares_are_exact_in_any_order_and_portions(numbers: list[int], random: object) -> None:
    texts = [f"number {n}" for n in numbers]
    whole, parts = Repeats(), Repeats()
    whole.add(np.concatenate([document_hash(t) for t in texts] or [np.empty(0, np.uint64)]))
    random.shuffle(texts)  # type: ignore[attr-defined]
    for text in texts:
        parts.add(document_hash(text))
        assert 0 <= parts.share < 1
    expected = (len(texts) - len(set(texts))) / len(texts) if texts else 0
    assert whole.share == parts.share == expected
    assert parts.num_items == len(texts)


def test_a_small_memory_finds_about_the_same() -> None:
    rng = np.random.default_rng(5)
    distinct = rng.integers(0, 2**64, 40_000, dtype=np.uint64)
    hashes = rng.choice(distinct, 200_000)
    small, large = Repeats(capacity=1000), Repeats()
    for part in np.split(hashes, 8):
        small.add(part)
    large.add(hashes)
    seen = len(np.unique(hashes))
    assert large.share == 1 - seen / 200_000
    assert small.share == pytest.approx(large.share, abs=0.01)
    assert len(small._known) <= 1000
    other = Repeats(capacity=1000)
    other.add(hashes[::-1])
    assert other.share == small.share


def test_runs_of_words_are_counted_as_one_would() -> None:
    text = "a b c d e f g h i j k l m\nn o p a  b c d e f g h i j k l m z"
    words = text.split()
    runs = Counter(tuple(words[i : i + 13]) for i in range(len(words) - 12))
    found = Counter(gram_hashes(text).tolist())
    assert sorted(runs.values()) == sorted(found.values()) and max(found.values()) == 2
    assert len(gram_hashes("only a few words")) == len(gram_hashes("")) == 0


def test_hashes_of_runs_are_spread_evenly() -> None:
    """The high bits decide which runs are followed when there are many."""
    text = " ".join(f"w{i % 977}x{i}" for i in range(20_000))
    tops = np.bincount((gram_hashes(text) >> np.uint64(60)).astype(int), minlength=16)
    assert tops.min() > 0.85 * 20_000 / 16


def test_lines_are_met_without_the_white_space_around_them() -> None:
    line = "return self.compute(of, this)"
    hashes = line_hashes(f"  {line}\n\telse:\n{line}  \r\n\n}}\nand something else entirely")
    assert len(hashes) == 3 and hashes[0] == hashes[1] != hashes[2]
