"""Sizes of `gzip -9`, counted: equal to zlib's for whatever data; known answers without it."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.automata import complexity, deflate

# Other compressors of that name (zlib-ng) make other choices: there is nothing to compare with.
PROBE = np.arange(8000) ** 3 % 1_000_003 % 100
IS_ZLIB = len(zlib.compress(PROBE.astype("<i4").tobytes(), 9, wbits=31)) == 9794
needs_zlib = pytest.mark.skipif(not IS_ZLIB, reason="this interpreter's zlib is another one")


def counted(tokens):
    sizes = np.empty(len(tokens), np.int64)
    deflate.gzip_sizes(np.ascontiguousarray(tokens, np.uint32), sizes)
    return sizes.tolist()


def compressed(tokens):
    rows = np.asarray(tokens).astype("<u4")
    return [len(zlib.compress(row.tobytes(), 9, wbits=31)) for row in rows]


@st.composite
def token_rows(draw):
    """Rows with the traits that matter: alphabet, length, repeats near and far, runs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    length = draw(st.integers(1, 500) | st.integers(3000, 4095))
    largest = draw(st.sampled_from([1, 2, 5, 16, 40, 255, 10_000, 65_536, 2**32 - 1]))
    rows = rng.integers(0, largest, (3, length), dtype=np.uint64, endpoint=True)
    period = draw(st.integers(1, length))
    if draw(st.booleans()):
        rows = np.resize(rows[:, :period].T, (length, 3)).T.copy()
        changed = rng.random(rows.shape) < draw(st.sampled_from([0, 0.003, 0.05, 0.5]))
        rows[changed] = rng.integers(0, largest, changed.sum(), dtype=np.uint64)
    if draw(st.booleans()):
        rows = np.sort(rows, axis=1) if draw(st.booleans()) else rows.repeat(5, axis=1)[:, :length]
    if draw(st.booleans()):  # a skewed distribution, for codes of very different lengths
        rows = (rows.astype(float) ** 3 / max(1, largest) ** 2).astype(np.uint64)
    return rows.astype(np.uint32)


@needs_zlib
@given(token_rows())
@settings(max_examples=300)
def test_sizes_equal_those_of_zlib(rows):
    assert counted(rows) == compressed(rows)


@needs_zlib
def test_rows_are_stored_exactly_where_zlib_stores_them():
    rng = np.random.default_rng(3)
    for length in range(1, 60):
        rows = rng.integers(0, 2**32, (40, length), dtype=np.uint64).astype(np.uint32)
        rows[:, : rng.integers(0, 6)] = 0  # about as long stored as packed
        assert counted(rows) == compressed(rows)


FIBONACCI = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584]


def symbol_lengths(counts, limit):
    lengths = np.empty(len(counts), np.int32)
    scratch = np.empty(1200, np.int64), np.empty(1200, np.int32), np.empty(1200, np.int32)
    last = deflate.code_lengths(np.asarray(counts, np.int32), limit, lengths, *scratch)
    return lengths, last


@needs_zlib
@pytest.mark.parametrize(
    ("seed", "powers", "limit"), [(0, 0, 15), (1, 0, 15), (380, 10, 7), (2793, 10, 7)]
)
def test_codes_that_are_too_long_are_shortened_as_zlib_does(seed, powers, limit):
    """Compressed without matches, so that counts of bytes decide the codes alone.

    Fibonacci counts want codes of over 15 bits. Powers of two, as many as Fibonacci numbers say,
    make code lengths whose own codes want over 7.
    """
    rng = np.random.default_rng(seed)
    counts = np.array(FIBONACCI[1:])  # the end of the block is one more
    if powers:
        counts = 2 ** rng.permutation(np.arange(powers)).repeat(FIBONACCI[:powers])
    counts = rng.permutation(counts)
    symbols = rng.choice(256, len(counts), replace=False)
    literals = np.zeros(deflate.NUM_LITERALS, np.int32)
    literals[symbols], literals[deflate.END_OF_BLOCK] = counts, 1
    wanted = literals
    if powers:
        wanted = np.zeros(deflate.NUM_LENGTHS, np.int32)
        deflate.count_runs(*symbol_lengths(literals, 15), wanted)
    assert symbol_lengths(wanted, 30)[0].max() > limit  # so there is something to shorten
    data = np.repeat(symbols, counts).astype(np.uint8).tobytes()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 8, zlib.Z_HUFFMAN_ONLY)
    scratch = np.empty(335, np.int32), np.empty(574, np.int64), np.empty(1148, np.int32)
    distances = np.zeros(deflate.NUM_DISTANCES, np.int32)
    counted = deflate.block_bytes(len(data), literals, distances, *scratch)
    assert counted == len(packer.compress(data) + packer.flush())


def test_known_answers():
    """As zlib 1.2 and 1.3 give them: scores are the same where zlib is another compressor."""
    k = np.arange(360)
    rows = [k * 0, k % 7, k**3 % 101, k * k % 9973, k**5 % 10_007, k * 77_777_777]
    assert counted(rows) == [32, 52, 189, 892, 961, 1463]


def test_rows_longer_than_a_block_are_left_to_zlib():
    tokens = np.random.default_rng(1).integers(0, 50, (2, 5000)).astype(np.uint32)
    assert tokens[0].nbytes > deflate.MAX_BYTES
    assert complexity.gzip_sizes(tokens).tolist() == compressed(tokens)
    short = tokens[:, : deflate.MAX_BYTES // 4]
    assert counted(short) == complexity.gzip_sizes(short).tolist()
