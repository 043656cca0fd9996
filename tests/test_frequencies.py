"""Zipf's exponent by maximum likelihood, and the plot beside it."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from ncamix.charts import source_colours
from ncamix.frequencies import (
    TokenCounts,
    _number,
    rank_frequency_plot,
    zipf_exponent,
    zipf_shares,
)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("num_ids", [2, 40, 5000])
def test_exact_counts_give_their_exponent(exponent: float, num_ids: int) -> None:
    counts = 1e15 * zipf_shares(exponent, num_ids)
    assert zipf_exponent(counts) == pytest.approx(exponent, abs=1e-6)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_a_sample_gives_its_exponent_within_the_error(exponent: float) -> None:
    rng, num_ids, num_draws = np.random.default_rng(7), 300, 200_000
    shares = zipf_shares(exponent, num_ids)
    counts = rng.multinomial(num_draws, shares)
    logs = np.log(np.arange(1, num_ids + 1))
    spread = shares @ logs**2 - (shares @ logs) ** 2  # the Fisher information of a draw
    error = 1 / math.sqrt(num_draws * spread)
    assert zipf_exponent(counts) == pytest.approx(exponent, abs=5 * error)


def test_equally_likely_ids_give_about_nothing() -> None:
    assert zipf_exponent(np.full(1000, 7)) == pytest.approx(0, abs=1e-8)
    sample = np.random.default_rng(0).multinomial(1_000_000, np.full(1000, 1e-3))
    assert 0 < zipf_exponent(sample) < 0.05


def test_one_id_has_no_exponent() -> None:
    assert math.isnan(zipf_exponent([0, 12, 0]))
    assert math.isnan(zipf_exponent([]))


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(lambda c: np.count_nonzero(c) > 1)
)
def test_no_other_exponent_is_likelier(counts: list[int]) -> None:
    def log_likelihood(exponent: float) -> float:
        ranked = np.array(sorted((c for c in counts if c), reverse=True))
        return float(ranked @ np.log(zipf_shares(exponent, len(ranked))))

    best = zipf_exponent(counts)
    assert best == zipf_exponent(counts[::-1])
    for other in (best - 0.01, best + 0.01, best + 1):
        if other >= 0:
            assert log_likelihood(best) >= log_likelihood(other) - 1e-9


def test_zipf_shares_are_the_law() -> None:
    assert zipf_shares(1, 3) == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    assert zipf_shares(0, 4) == pytest.approx([0.25] * 4)


def test_shares_are_of_ids_that_occur() -> None:
    tokens = TokenCounts("a", np.array([0, 1, 5, 0, 4]))
    assert tokens.shares.tolist() == [0.5, 0.4, 0.1]


def plot(*sources: TokenCounts) -> np.ndarray:
    """The plot as RGB, uint8 [height, width, 3]."""
    colours = source_colours({source.name: "nca" for source in sources})
    data = rank_frequency_plot("a title", "about", sources, colours)
    assert data == rank_frequency_plot("a title", "about", sources, colours)
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[:, :30] == 255).all() and (pixels[:, -30:] == 255).all()  # nothing is cut off
    assert (pixels[:30] == 255).all() and (pixels[-30:] == 255).all()
    for colour in colours.values():
        assert (pixels == np.rint(255 * np.array(to_rgb(colour)))).all(axis=2).any()
    return pixels


def test_plot_at_all_sizes() -> None:
    counts = np.rint(1e6 * zipf_shares(0.8, 9000)).astype(np.int64)
    usual = plot(TokenCounts("rich", counts), TokenCounts("binary", counts[:16]))
    assert (
        usual.shape == plot(TokenCounts("rich", counts), TokenCounts("one", np.ones(1, int))).shape
    )
    assert plot(TokenCounts("n" * 70, counts[:2])).shape[1] > usual.shape[1]
    many = [TokenCounts(f"source_{i}", counts[: 10 + i]) for i in range(14)]
    assert plot(*many).shape[0] == usual.shape[0]
    more = [TokenCounts(f"source_{i}", counts[: 10 + i]) for i in range(30)]
    assert plot(*more).shape[0] > usual.shape[0]


def test_a_steeper_source_is_drawn_steeper() -> None:
    flat, steep = (np.rint(1e6 * zipf_shares(s, 1000)).astype(np.int64) for s in (0.2, 1.2))
    pixels = plot(TokenCounts("flat", flat), TokenCounts("steep", steep))
    tops = []
    for colour in source_colours({"flat": "nca", "steep": "nca"}).values():
        drawn = (pixels == np.rint(255 * np.array(to_rgb(colour)))).all(axis=2)
        tops.append(int(np.flatnonzero(drawn[:, :900].any(axis=1))[0]))  # left of the table
    assert tops[1] < tops[0] - 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1000, "1,000"), (1e4, "10⁴"), (0.2, "0.2"), (0.001, "0.001"), (1e-12, "10⁻¹²")],
)
def test_numbers_on_axes(value: float, text: str) -> None:
    assert _number(value) == text
