"""Dyck languages: brackets match, depth keeps its bounds, shares are as said, as in the twin."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meanings import meaning

from ncamix import random
from ncamix.keys import derive_key, fingerprint
from ncamix.sources import DyckSource, open_generator

STYLES = ("nested", "shuffle")


def dyck(style: str, p_open: float = 0.5, **keys: Any) -> dict[str, Any]:
    return meaning("dyck", style=style, p_open=Decimal(str(p_open)), **keys)


def twin(full: dict[str, Any], sample: int) -> list[int]:
    """The same sample by the letter of the description: [sequence_length + 1]."""
    key, symbols = derive_key("dyck", fingerprint(full)), full["symbols"]
    (low, high), p_open = full["depth"], Fraction(full["p_open"])
    ids: list[int] = []
    opened: list[int] = []  # symbols of the brackets that are open
    kinds: list[int] = []  # each of these symbols once
    climbing = False
    for j in range(full["sequence_length"] + 1):
        words = random.philox(*map(np.uint64, (key, sample, 0, j)))
        decision, choice = words[0] | words[1] << 32, words[2] | words[3] << 32
        climbing = not opened or (climbing and len(opened) < low)
        if climbing or (len(opened) < high and decision < int(p_open * 2**64)):
            symbol = choice * symbols >> 64
            opened.append(symbol)
            if symbol not in kinds:
                kinds.append(symbol)
            ids.append(symbol)
        else:
            if full["style"] == "nested":
                symbol = opened.pop()
            else:
                symbol = kinds[choice * len(kinds) >> 64]
                opened.remove(symbol)
            if symbol not in opened:
                kinds[kinds.index(symbol)] = kinds[-1]
                kinds.pop()
            ids.append(symbol + symbols)
    return [i + full["first_id"] for i in ids]


SHAPES = st.fixed_dictionaries(
    {
        "style": st.sampled_from(STYLES),
        "symbols": st.integers(1, 70),
        "depth": st.tuples(st.integers(1, 20), st.integers(1, 20)).map(sorted),
        "p_open": st.sampled_from([1e-30, 0.03, 0.3, 0.5, 0.9, 1 - 1e-12]),
    }
)


@given(SHAPES, st.integers(0, 2**40))
@settings(max_examples=60)
def test_samples_are_those_of_the_twin(shape: dict[str, Any], first: int) -> None:
    full = dyck(**shape, first_id=9, length=150)
    rows = open_generator(full).samples(first, 3, num_threads=1)
    assert rows.tolist() == [twin(full, first + i) for i in range(3)]


@given(SHAPES)
@settings(max_examples=60)
def test_brackets_match_and_depth_keeps_its_bounds(shape: dict[str, Any]) -> None:
    symbols, (low, high) = shape["symbols"], shape["depth"]
    for row in open_generator(dyck(**shape, length=200)).samples(0, 4).tolist():
        opened: list[int] = []
        peak = low  # depth reached since the ground was left
        for token in row:
            if token < symbols:
                peak = peak if opened else 0
                opened.append(token)
                peak = max(peak, len(opened))
                assert len(opened) <= high
            else:
                assert token < 2 * symbols and peak >= low
                if shape["style"] == "nested":
                    assert opened.pop() == token - symbols
                else:
                    opened.remove(token - symbols)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("p_open", [0.5, 0.3])
def test_shares_are_as_said(style: str, p_open: float) -> None:
    symbols, length, high = 10, 1000, 6
    rows = open_generator(dyck(style, p_open, symbols=symbols, depth=high, length=length))
    decisions: Counter[tuple[int, bool]] = Counter()
    kinds: Counter[int] = Counter()
    closed: dict[int, Counter[int]] = {}  # by the number of symbols open: rank of the one closed
    for row in rows.samples(0, 40).tolist():
        opened: list[int] = []
        for token in row:
            decisions[len(opened), token < symbols] += 1
            if token < symbols:
                kinds[token] += 1
                opened.append(token)
            else:
                choices = sorted(set(opened))
                rank = choices.index(token - symbols)
                closed.setdefault(len(choices), Counter())[rank] += 1
                opened.reverse()  # the last one
                opened.remove(token - symbols)
                opened.reverse()
    assert decisions[0, False] == decisions[high, True] == 0
    for depth in range(1, high):
        total = decisions[depth, True] + decisions[depth, False]
        assert abs(decisions[depth, True] - p_open * total) < 4 * np.sqrt(total / 4)
    assert_uniform([kinds[symbol] for symbol in range(symbols)])
    if style == "shuffle":  # whatever their counts
        for choices, ranks in closed.items():
            assert_uniform([ranks[rank] for rank in range(choices)])


def assert_uniform(counts: list[int]) -> None:
    expected = sum(counts) / len(counts)
    chi, freedom = sum((n - expected) ** 2 / expected for n in counts), len(counts) - 1
    assert chi < freedom + 4 * np.sqrt(2 * freedom) + 4


def test_samples_are_independent() -> None:
    rows = open_generator(dyck("nested", symbols=2, depth=2, length=9)).samples(0, 4000)
    assert abs((rows[:, 0] == 0).mean() - 0.5) < 0.04
    assert abs((rows[1:, 0] == rows[:-1, 0]).mean() - 0.5) < 0.04


@pytest.mark.parametrize("style", STYLES)
def test_many_symbols_and_great_depths(style: str) -> None:
    deep = dyck(style, 0.9, symbols=1 << 19, depth=1 << 16, length=300)
    assert open_generator(deep).samples(0, 3).tolist() == [twin(deep, i) for i in range(3)]
    climb = open_generator(dyck(style, depth=[400, 400], length=300)).samples(0, 1)
    assert (climb < 30 + 34 * (style == "shuffle")).all()  # cut before anything closes


def test_defaults_are_those_of_the_paper() -> None:
    nested, shuffle = (DyckSource(kind="dyck", style=style) for style in STYLES)  # type: ignore
    assert (nested.range_name(), nested.num_ids()) == ("dyck 30", 60)
    assert (shuffle.range_name(), shuffle.num_ids()) == ("dyck 64", 128)
    assert nested.meaning()["depth"] == [1, 16] and nested.meaning()["p_open"] == "1/2"
    assert shuffle.summary() == "dyck, shuffle, 64 symbols, depth 1-16"
    assert dyck("nested") == dyck("nested", 0.50, symbols=30, depth=[1, 16])


@pytest.mark.parametrize("style", STYLES)
def test_bytes_stay_what_they_are(style: str) -> None:
    """A change here needs a new generator version."""
    rows = open_generator(dyck(style, depth=[2, 5])).samples(3, 2)
    digests = {
        "nested": "aef96ad3ea20a5ebd144b3024e52980a",
        "shuffle": "8f59d36d48e435be1c83a18d642c6f4a",
    }
    assert fingerprint({"rows": rows.tolist()}) == digests[style]
