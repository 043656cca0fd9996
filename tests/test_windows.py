"""Windows drawn from a stream, their gzip sizes, and intervals of their means."""

from __future__ import annotations

import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_deflate import needs_zlib

from ncamix.measure.windows import WindowDraw, compressed_sizes, mean_of, scattered


def drawn(stream: np.ndarray, cuts: list[int], size: int, most: int, key: int = 7) -> WindowDraw:
    draw = WindowDraw(size, most, key, np.uint32)
    for number, part in enumerate(np.split(stream, sorted(cuts))):
        draw.add(part, number)
    return draw


@settings(max_examples=100)
@given(st.integers(0, 300), st.lists(st.integers(0, 300)), st.integers(1, 20), st.integers(1, 40))
def test_a_draw_is_of_whole_windows_however_the_stream_is_cut(
    length: int, cuts: list[int], size: int, most: int
) -> None:
    stream = np.arange(length, dtype=np.uint32)
    draw = drawn(stream, cuts, size, most)
    windows, owners = draw.drawn()
    assert draw.num_windows == length // size
    assert len(windows) == len(owners) == min(most, length // size)
    for window, owner in zip(windows, owners, strict=True):
        begin = int(window[0])
        assert begin % size == 0 and window.tolist() == list(range(begin, begin + size))
        assert owner == sum(cut <= begin for cut in cuts)  # the document that holds its first id
    assert (np.diff(windows[:, 0].astype(int)) > 0).all()
    assert (windows == drawn(stream, [], size, most).drawn()[0]).all()


def test_every_window_is_as_likely() -> None:
    times = np.zeros(40, int)
    for key in range(1000):
        stream = np.arange(40, dtype=np.uint32)
        times[drawn(stream, [], 1, 10, key).drawn()[0][:, 0]] += 1
    expected, spread = 250, math.sqrt(1000 * 0.25 * 0.75)
    assert np.abs(times - expected).max() < 4.5 * spread


def test_places_are_the_reference_of_splitmix() -> None:
    # The first outputs of SplitMix64 from state 1234567, as published with it.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = scattered(np.uint64(1234567), np.arange(3))
    assert found.tolist() == expected


def test_memory_is_bounded() -> None:
    draw = WindowDraw(4, 50, 1, np.uint8)
    for number in range(400):
        draw.add(np.zeros(1000, np.uint8), number)
        assert len(draw._windows) <= 2 * 50 + 250  # what one document adds
    assert draw.num_windows == 100_000


@needs_zlib
def test_sizes_are_those_of_gzip() -> None:
    rng = np.random.default_rng(3)
    text = b"the quick brown fox jumps over the lazy dog, again and again; " * 300
    tokens = rng.integers(0, 4096, (5, 360)).astype(np.uint32)
    tokens[1], tokens[2] = 7, np.arange(360) % 19
    raw = np.frombuffer(text[:16_000], np.uint8).reshape(4, 4000)
    large = np.frombuffer((text * 2)[:32_768], np.uint8).reshape(2, 16_384)
    for windows in (tokens, raw, large):
        stored = windows.astype("<u4") if windows.dtype == np.uint32 else windows
        expected = [len(gzip.compress(row.tobytes(), 9, mtime=0)) for row in stored]
        assert compressed_sizes(windows).tolist() == expected


def test_an_interval_over_documents_covers() -> None:
    """Windows of one document are alike, so intervals over windows alone would be too narrow."""
    rng, covered = np.random.default_rng(11), {"documents": 0, "windows": 0}
    for trial in range(120):
        means = rng.normal(0.4, 0.05, 60)
        owners = np.repeat(np.arange(60), rng.integers(1, 12, 60))
        values = means[owners] + rng.normal(0, 0.02, len(owners))
        by_document = mean_of(values, owners, trial)
        by_window = mean_of(values, np.zeros_like(owners), trial)
        for found in (by_document, by_window):
            covered[found.unit] += found.low <= 0.4 <= found.high
    assert 0.88 < covered["documents"] / 120 < 0.99
    assert covered["windows"] / 120 < 0.75


def test_few_documents_and_few_windows() -> None:
    values = np.array([0.2, 0.3, 0.4])
    found = mean_of(values, np.array([0, 0, 1]), 0)
    assert found.value == pytest.approx(0.3) and found.unit == "windows"
    assert (found.low, found.high) == pytest.approx((0.2, 0.4))  # each three times: 1 in 27
    assert found == mean_of(values, np.array([0, 0, 1]), 0)
    alone = mean_of(values[:1], np.array([0]), 0)
    assert alone.value == 0.2 and math.isnan(alone.low) and alone.unit == ""
