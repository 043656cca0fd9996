"""Copies: exact ones as a set finds them, near ones as brute force does, the same everywhere."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ncamix import duplicates
from ncamix.duplicates import BANDS, MOST_ALIKE, NEAR, SHINGLE, SLOTS, Digests, Signatures, sign
from ncamix.errors import UserError
from ncamix.words import shingles

FROZEN = "6f4ca76b339c68f8322731d2bc1b25a44247db18f6d8a60f714424f033dd349d\n"


def runs(text: str) -> set[int]:
    return set(shingles([text], SHINGLE)[0].tolist())


def jaccard(one: str, other: str) -> float:
    a, b = runs(one), runs(other)
    return len(a & b) / len(a | b)


def prose(seed: int, num_words: int = 400) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(500)}" for _ in range(num_words)]


def edited(words: list[str], num_edits: int, seed: int = 0) -> str:
    """A text with so many of its words changed, far from each other."""
    changed, step = list(words), len(words) // max(1, num_edits)
    for i in range(num_edits):
        changed[i * step] = f"new{seed}x{i}"
    return " ".join(changed)


def agreement(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    return float((one.view(np.uint8) == other.view(np.uint8)).mean())


# Exact copies


@settings(max_examples=40)
@given(st.lists(st.lists(st.text("ab", max_size=4), max_size=12), max_size=6))
def test_digests_are_a_set(batches: list[list[str]]) -> None:
    digests, seen = Digests(), set()
    for batch in batches:
        for text, known in zip(batch, digests.add(batch), strict=True):
            assert known == (text in seen)
            seen.add(text)
    assert digests.num_held == len(seen)


def test_the_set_grows() -> None:
    digests = Digests()
    texts = [f"text {i}" for i in range(5000)]
    for i in range(0, 5000, 700):
        assert not digests.add(texts[i : i + 700]).any()
    assert digests.add(texts).all() and digests.num_held == 5000
    assert len(digests.table) == 1 << 14  # where 5000 more than are there have place
    assert not digests.add(["text 5000"]).any()


# Near copies


@pytest.mark.parametrize(
    ("num_words", "num_edits"), [(400, 0), (400, 2), (400, 8), (400, 40), (12, 1), (30, 1)]
)
def test_slots_agree_as_often_as_runs_do(num_words: int, num_edits: int) -> None:
    found, exact = [], []
    for seed in range(40):
        words = prose(seed, num_words)
        texts = [" ".join(words), edited(words, num_edits)]
        found.append(agreement(*sign(texts)))
        exact.append(jaccard(*texts))
    expected = np.mean(exact) + (1 - np.mean(exact)) / 256
    assert abs(np.mean(found) - expected) < 4 * (0.25 / SLOTS / 40) ** 0.5


def twin(signatures: NDArray[np.uint64]) -> list[bool]:
    """Which texts are near copies, by their signatures: bands as lists, compared one by one."""
    slots = signatures.view(np.uint8).reshape(len(signatures), SLOTS)
    bands: dict[tuple[int, bytes], list[int]] = {}
    near = []
    for i, own in enumerate(slots):
        keys = [(b, own[8 * b : 8 * b + 8].tobytes()) for b in range(BANDS)]
        met = {j for key in keys for j in bands.get(key, [])}
        near.append(own.any() and any((slots[j] == own).sum() >= NEAR for j in met))
        if own.any() and not near[-1]:
            for key in keys:
                if len(bands.setdefault(key, [])) < MOST_ALIKE:
                    bands[key].append(i)
    return near


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 40))
def test_near_copies_are_those_of_the_twin(seed: int, num_texts: int, size: int) -> None:
    rng = random.Random(seed)
    texts = [
        edited(prose(rng.randrange(3), 60), rng.choice([0, 0, 1, 1, 2, 3]), rng.randrange(40))
        for _ in range(num_texts)
    ] + ["", "...", "one", "One!", "one two"]
    rng.shuffle(texts)
    known = Signatures()
    found = [bool(x) for i in range(0, len(texts), size) for x in known.add(texts[i : i + size])]
    assert found == twin(sign(texts))
    assert known.num_held == sum(bool(runs(text)) for text in texts) - sum(found)


def test_brute_force_finds_the_same_where_it_is_clear() -> None:
    rng = random.Random(5)
    texts = []
    for seed in range(60):
        words = prose(seed)
        texts.append(" ".join(words))
        texts.append(edited(words, rng.choice([1, 2, 3, 25, 40, 60])))
    rng.shuffle(texts)
    found, stayed = Signatures().add(texts), list[str]()
    clear = 0
    for text, near in zip(texts, found, strict=True):
        closest = max((jaccard(text, other) for other in stayed), default=0.0)
        if not 0.65 < closest < 0.9:
            assert near == (closest > 0.8), closest
            clear += closest > 0
        if not near:
            stayed.append(text)
    assert clear > 40 and 30 <= sum(found) < 60


def test_the_tables_grow_and_crowded_bands_stay_short() -> None:
    known = Signatures()
    alike = [edited(prose(1, 60), 3, seed) for seed in range(300)]  # near 0.6 to each other
    others = [" ".join(prose(seed, 30)) for seed in range(1000, 2500)]
    texts = alike + others
    near = np.concatenate([known.add(texts[i : i + 100]) for i in range(0, len(texts), 100)])
    assert near.tolist() == twin(sign(texts))
    assert known.num_held > 1500 and len(known.signatures) == 2048
    assert known.slots.shape == (BANDS, 4096)
    assert known.add(others).all()


def test_what_has_no_word_is_no_copy() -> None:
    assert not Signatures().add(["", "?!", "...", "?!"]).any()
    assert Signatures().add(["a b", "A, b.", "b a", "a b c"]).tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_the_same_signatures_on_any_number_of_threads() -> None:
    code = """
        import hashlib, random
        from ncamix.duplicates import sign
        rng = random.Random(3)
        texts = [" ".join(str(rng.randrange(99)) for _ in range(5 + i)) for i in range(500)]
        print(hashlib.sha256(sign(texts).tobytes()).hexdigest())
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert outputs == {FROZEN}


def test_another_algorithm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ALGORITHM", 1)
    with pytest.raises(UserError, match="algorithm 2 of its MinHash"):
        sign(["a"])
