"""Noise: thresholds are the true ones, symbols are those of a plain search, shares are as said."""

from __future__ import annotations

import decimal
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meanings import meaning
from numpy.typing import NDArray

from ncamix import random
from ncamix.keys import derive_key, fingerprint
from ncamix.sources import noise as noise_module
from ncamix.sources import open_generator
from ncamix.sources.noise import DRAW_BITS, inversion


def noise(**keys: Any) -> dict[str, Any]:
    if "exponent" in keys:
        keys |= {"distribution": "zipf", "exponent": Decimal(str(keys["exponent"]))}
    return meaning("noise", **keys)


def twin(full: dict[str, Any], sample: int) -> NDArray[np.uint32]:
    """The same sample by a binary search of all thresholds: uint32 [sequence_length + 1]."""
    key = np.uint64(derive_key("noise", fingerprint(full)))
    thresholds = inversion(full["symbols"], full["exponent"])[0]
    draws = []
    for j in range(full["sequence_length"] + 1):
        a, b, _, _ = random.philox(key, np.uint64(sample), np.uint64(0), np.uint64(j))
        draws.append((a | b << 32) >> (64 - DRAW_BITS))
    symbols = np.searchsorted(thresholds, np.array(draws, np.uint64), side="right")
    return symbols.astype(np.uint32) + np.uint32(full["first_id"])


@given(st.integers(1, 3000), st.sampled_from([0, 0.5, 1, 1.07, 4]), st.integers(0, 2**40))
@settings(max_examples=40)
def test_samples_are_those_of_the_twin(symbols: int, exponent: float, first: int) -> None:
    full = noise(symbols=symbols, exponent=exponent, first_id=7, length=100)
    rows = open_generator(full).samples(first, 2, num_threads=1)
    assert np.array_equal(rows, [twin(full, first), twin(full, first + 1)])


@pytest.mark.parametrize(("symbols", "exponent"), [(1 << 20, 0), (50_000, 0.8)])
def test_samples_of_many_symbols_are_those_of_the_twin(symbols: int, exponent: float) -> None:
    full = noise(symbols=symbols, exponent=exponent, length=2000)
    assert np.array_equal(open_generator(full).samples(5, 1)[0], twin(full, 5))


@pytest.mark.parametrize("exponent", [None, 0.3, 0.5, 1, 1.07, 1.5, 2, 4])
def test_shares_are_as_said(exponent: float | None) -> None:
    full = noise(symbols=20, seed=7, **({} if exponent is None else {"exponent": exponent}))
    rows = open_generator(full).samples(0, 1000)
    counts = np.bincount(rows.ravel(), minlength=20)
    share = 1 / np.arange(1, 21, dtype=float) ** (exponent or 0)
    expected = share / share.sum() * rows.size
    large = expected > 5
    chi = ((counts - expected)[large] ** 2 / expected[large]).sum()
    freedom = large.sum() - 1
    assert abs(chi - freedom) < 4 * np.sqrt(2 * freedom) + 2
    pairs = np.corrcoef(rows[:, :-1].ravel(), rows[:, 1:].ravel())[0, 1]
    assert abs(pairs) < 0.03  # neighbours are independent


@pytest.mark.parametrize(("symbols", "exponent"), [(1, 0), (7, 0), (300, 1), (300, 2), (60, 4)])
def test_thresholds_of_whole_exponents_are_the_true_ones(symbols: int, exponent: int) -> None:
    weights = [Fraction(1, k**exponent) for k in range(1, symbols + 1)]
    true = [int(sum(weights[:k]) / sum(weights) * 2**DRAW_BITS) for k in range(1, symbols + 1)]
    assert inversion(symbols, str(exponent))[0].tolist() == true


@pytest.mark.parametrize(("symbols", "exponent"), [(2, "1/2"), (500, "107/100"), (4096, "7/3")])
def test_thresholds_do_not_depend_on_digits_or_on_the_context(
    symbols: int, exponent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = inversion.__wrapped__(symbols, exponent)[0]
    with decimal.localcontext(decimal.Context(prec=5, rounding=decimal.ROUND_UP)):
        assert np.array_equal(inversion.__wrapped__(symbols, exponent)[0], usual)
    monkeypatch.setattr(noise_module, "DIGITS", 70)
    assert np.array_equal(inversion.__wrapped__(symbols, exponent)[0], usual)
    weights = np.arange(1, symbols + 1) ** -float(Fraction(exponent))
    assert np.allclose(usual / 2**DRAW_BITS, weights.cumsum() / weights.sum(), rtol=1e-12)


@pytest.mark.parametrize(("symbols", "exponent"), [(1, "0"), (2, "4"), (3, "1/2"), (4096, "4")])
def test_thresholds_rise_and_end_exactly_at_one(symbols: int, exponent: str) -> None:
    thresholds, guide = inversion(symbols, exponent)
    assert len(thresholds) == symbols and thresholds[-1] == 1 << DRAW_BITS
    assert (np.diff(thresholds.astype(np.int64)) > 0).all()
    assert guide[0] == 0 and symbols < len(guide) <= 2 * symbols and guide.max() < symbols


def test_bytes_stay_what_they_are() -> None:
    """A change here needs a new generator version."""
    rows = [
        open_generator(noise(symbols=50, **shape)).samples(3, 1)[0].tolist()
        for shape in ({}, {"exponent": 1}, {"exponent": 1.07})
    ]
    assert fingerprint({"rows": rows}) == "4dbd9a038bee5fe0d654183a17af93e1"
