"""Runs of words as hashes: equal to a plain twin, blind to layout, the same for ever."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.words import BASE, MIX_1, MIX_2, OFFSET, PRIME, grams, shingles

MASK = (1 << 64) - 1
TEXTS = st.text("aBz09 .\n_-\0é☃", max_size=80) | st.text(max_size=30)
FROZEN = ["adaa93db1958181f", "1105837a2bc02523"]


def mix(value: int) -> int:
    for factor in (int(MIX_1), int(MIX_2)):
        value = (value ^ value >> 33) * factor & MASK
    return value ^ value >> 33


def hash_words(words: list[bytes]) -> int:
    total = 0
    for word in words:
        value = int(OFFSET)
        for byte in word:
            value = (value ^ byte) * int(PRIME) & MASK
        total = (total * int(BASE) + mix(value)) & MASK
    return mix(total)


def words_of(text: str) -> list[bytes]:
    return re.findall(rb"[0-9A-Za-z\x80-\xff]+", text.encode().lower())


def twin(text: str, size: int) -> list[int]:
    words = words_of(text)
    return [hash_words(words[i : i + size]) for i in range(len(words) - size + 1)]


@given(TEXTS, st.integers(1, 6))
def test_the_kernel_is_its_twin(text: str, size: int) -> None:
    found = grams(text, size)
    assert found.dtype == np.uint64
    assert found.tolist() == twin(text, size)


@given(st.lists(TEXTS, max_size=8), st.integers(1, 6))
def test_shingles_of_many_texts_are_those_of_each(texts: list[str], size: int) -> None:
    runs, ends = shingles(texts, size)
    assert len(ends) == len(texts) + 1 and ends[-1] == len(runs)
    for text, start, end in zip(texts, ends, ends[1:], strict=False):
        words = words_of(text)
        short = [hash_words(words)] if 0 < len(words) < size else []
        assert runs[start:end].tolist() == (short or twin(text, size))


def test_many_texts_over_threads_are_in_order() -> None:
    texts = [f"one two three {i} " * (i % 5) for i in range(3000)]
    runs, ends = shingles(texts, 5)
    for i in (0, 1, 1500, 2998, 2999):
        assert runs[ends[i] : ends[i + 1]].tolist() == shingles([texts[i]], 5)[0].tolist()


@pytest.mark.parametrize("other", ["The  CAT,\nsat!", "the\tcat|sat", "(the) 'cat' sat..."])
def test_layout_and_case_do_not_count(other: str) -> None:
    assert grams(other, 3).tolist() == grams("the cat sat", 3).tolist()


def test_words_and_their_order_count() -> None:
    texts = ["the cat sat", "the sat cat", "thecat sat on", "the cat sät", "the cat sat1"]
    assert len({grams(text, 3)[0] for text in texts}) == len(texts)
    assert grams("one_two three", 3).tolist() == grams("one two three", 3).tolist()


def test_these_numbers_are_frozen() -> None:
    found = grams("To be, or not to be: ÜBER", 6).tolist()
    assert [f"{value:016x}" for value in found] == FROZEN
