"""Automata: random numbers, twin, known automata, scores, bands, threads, forks, settings."""

import gzip
import hashlib
import math
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from ncamix import random
from ncamix.automata import Automaton, UnreachableBand, band_share, complexity, kernel, twin
from ncamix.automata import rule as rule_module

ANY_BAND = (0.0, 2.0)


def u64(value):
    return np.uint64(value)


# Draws


@pytest.mark.parametrize("alphabet", [2, 10])
def test_rules_are_lecun_normal(alphabet):
    automaton = Automaton(alphabet)
    rules = automaton.rules(3, np.arange(2000), np.zeros(2000, int))
    assert rules.shape == (2000, automaton.num_weights) and rules.dtype == np.float32
    layers = np.split(rules, [36 * alphabet, 36 * alphabet + 64], axis=1)
    for weights, fan_in in zip(layers, (9 * alphabet, 4, 16), strict=True):
        units = weights.astype(float) * math.sqrt(fan_in)
        assert units.var() == pytest.approx(1, abs=0.02) and abs(units.mean()) < 0.02
        assert 2.2 < np.abs(units).max() <= 2 / 0.8796
        assert (units**4).mean() == pytest.approx(2.3655, abs=0.06)  # 3 without truncation
    assert abs(np.corrcoef(rules[:, 0], rules[:, 1])[0, 1]) < 0.1


def test_initial_grids_draw_from_softmax_of_normals():
    grids = np.empty((4000, 144), np.uint8)
    key = random.derive(5, kernel.SAMPLES)
    kernel.draw_grids(key, np.arange(4000, dtype=np.uint64), 2, grids)
    share = grids.mean(axis=1)  # sigmoid of a normal of variance 2
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.var() == pytest.approx(0.0684 + 0.0013, abs=0.005)  # between grids, and within


# Steps


@pytest.mark.parametrize(
    "automaton",
    [
        Automaton(),
        Automaton(alphabet=2, temperature=0.5, patch=4),
        Automaton(alphabet=3, grid=(6, 9), patch=3, temperature=0.5, identity_bias=0.7, burn_in=2),
        Automaton(alphabet=7, grid=(2, 5), patch=1, temperature=0.01, stride=3, burn_in=0),
        Automaton(alphabet=15, grid=(10, 14), identity_bias=-1.5),
        Automaton(alphabet=64, grid=(5, 5), patch=1, temperature=1.0, burn_in=1),
        Automaton(alphabet=4, grid=(1, 1), patch=1, temperature=1.0),
    ],
    ids=str,
)
def test_kernel_equals_its_numpy_twin(automaton):
    indices, num_frames = [0, 7, 2**40 - 1], 6
    rules = automaton.rules(11, [1, 2, 3], [0, 4, 9])
    frames = automaton.rollout(rules, 12, indices, num_frames)
    key = random.derive(12, kernel.SAMPLES)
    grids = np.empty((3, math.prod(automaton.grid)), np.uint8)
    kernel.draw_grids(key, np.array(indices, np.uint64), automaton.alphabet, grids)
    for i, index in enumerate(indices):
        expected = twin.frames(
            rules[i],
            grids[i].reshape(automaton.grid),
            key,
            u64(index),
            automaton.temperature,
            np.float32(automaton.temperature * rule_module.CLOSE),
            automaton.identity_bias,
            automaton.burn_in + (num_frames - 1) * automaton.stride,
        )
        np.testing.assert_array_equal(frames[i], expected[automaton.burn_in :: automaton.stride])


def game_of_life():
    """Conway's rule as weights: alive next if 2 * neighbours + alive is 5, 6 or 7."""
    first, inner, outer = np.zeros((4, 3, 3, 2)), np.zeros((16, 4)), np.zeros((2, 16))
    first[0, :, :, 1], first[0, 1, 1, 1] = 1, 0  # neighbours
    first[1, 1, 1, 1] = 1  # alive
    first[2, 1, 1, :] = 1  # a constant, for want of biases
    for k, threshold in enumerate((4, 5, 7, 8)):
        inner[k] = 2, 1, -threshold, 0
    inner[4, 2] = 1
    outer[0, 4] = 0.5
    outer[1, :4] = 1, -1, -1, 1
    return np.concatenate([w.ravel() for w in (first, inner, outer)]).astype(np.float32)


def test_a_glider_crosses_the_torus():
    rule = game_of_life()[None]
    grid = np.zeros((9, 7), np.uint8)
    grid[[0, 1, 2, 2, 2], [1, 2, 0, 1, 2]] = 1
    frames = np.empty((1, 10, 63), np.uint8)
    kernel.roll_out(
        rule,
        grid.reshape(1, -1),
        9,
        u64(0),
        np.zeros(1, np.uint64),
        1e-4,
        np.float32(2.3e-3),
        np.float32(0),
        0,
        4,
        frames,
    )
    for period, frame in enumerate(frames[0].reshape(10, 9, 7)):
        np.testing.assert_array_equal(frame, np.roll(grid, (period, period), (0, 1)))


def test_temperature_draws_from_the_softmax():
    """With all channels blind to the state, next states follow one known softmax."""
    automaton = Automaton(alphabet=3, grid=(64, 64), temperature=0.5, burn_in=1)
    rule = np.zeros((1, automaton.num_weights), np.float32)
    rule[0, 4 * 3 : 5 * 3] = 1  # channel 0 is one everywhere
    rule[0, 36 * 3] = 1  # and hidden unit 0
    logits = np.array([0.3, 0.0, 0.6])
    rule[0, 36 * 3 + 64 :: 16] = logits
    frames = automaton.rollout(rule, 1, [0], 4)
    shares = np.bincount(frames.ravel(), minlength=3) / frames.size
    expected = np.exp(logits / 0.5)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.02)


# Tokens and scores


@pytest.mark.parametrize(("alphabet", "patch"), [(10, 1), (10, 2), (5, 3), (3, 4)])
def test_tokens_are_patches_between_delimiters(alphabet, patch):
    automaton = Automaton(alphabet, grid=(12, 24), patch=patch)
    frames = np.random.default_rng(0).integers(0, alphabet, (2, 3, 12, 24), np.uint8)
    num_tokens = 2 * automaton.tokens_per_frame + 5
    tokens = automaton.tokens(frames, num_tokens)
    expected = []
    for frame in frames[1].astype(np.int64):
        expected.append(automaton.frame_start)
        for y in range(0, 12, patch):
            for x in range(0, 24, patch):
                cells = frame[y : y + patch, x : x + patch].ravel()
                expected.append(sum(int(c) * alphabet**k for k, c in enumerate(cells)))
        expected.append(automaton.frame_end)
    assert tokens.dtype == np.uint32 and tokens[1].tolist() == expected[:num_tokens]


def test_the_score_is_the_gzip_ratio_of_int32_tokens():
    automaton = Automaton(alphabet=6, stride=2, burn_in=5)
    slots, attempts = [3, 4, 5], [0, 1, 2]
    scores = automaton.scores(8, slots, attempts)
    rules = automaton.rules(8, slots, attempts)
    key = random.derive(8, kernel.SCORING)
    streams = np.array([s + (a << 40) for s, a in zip(slots, attempts, strict=True)], np.uint64)
    frames = automaton._frames(rules, key, streams, 10).reshape(3, 10, 12, 12)
    per_frame = automaton.tokens(frames, 380).reshape(3, 10, 38)
    for score, tokens in zip(scores, per_frame[:, :, 1:-1], strict=True):
        data = tokens.astype("<i4").tobytes()
        assert len(data) == 1440
        assert score == len(gzip.compress(data, 9, mtime=0)) / 1440


@pytest.mark.parametrize(
    ("alphabet", "shares"),
    [
        (2, (0.674, 0.278, 0.048, 0, 0, 0, 0, 0)),
        (3, (0.451, 0.238, 0.197, 0.114, 0, 0, 0, 0)),
        (10, (0.142, 0.055, 0.071, 0.096, 0.179, 0.341, 0.116, 0)),
        (15, (0.097, 0.041, 0.036, 0.068, 0.110, 0.256, 0.384, 0.008)),
    ],
)
def test_bands_hold_the_shares_of_the_reference(alphabet, shares):
    """4,000 rules on either side: four standard errors of the difference."""
    edges = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1]
    for low, high, share in zip(edges, edges[1:], shares, strict=False):
        error = 4 * math.sqrt(2 * share * (1 - share) / 4000) + 0.001
        assert band_share(Automaton(alphabet), low, high) == pytest.approx(share, abs=error)


def test_the_table_is_what_measuring_gives():
    entry = next(e for e in complexity._table() if e["automaton"]["alphabet"] == 3)
    assert complexity.measure_bands(Automaton(3), entry["num_rules"]) == entry
    assert band_share(Automaton(3, stride=2), 0, 1) is None


# Sampling


def test_the_first_attempt_inside_the_band_is_taken():
    automaton, band = Automaton(alphabet=4), (0.2, 0.4)
    slots = np.array([9, 2, 2**40 - 1, 40])
    attempts, scores = automaton.sample_rules(1, band, slots)
    for slot, attempt, score in zip(slots, attempts, scores, strict=True):
        tried = automaton.scores(1, np.full(attempt + 1, slot), np.arange(attempt + 1))
        inside = (band[0] <= tried) & (tried < band[1])
        assert inside[-1] and not inside[:-1].any() and tried[-1] == score
    singles = [automaton.sample_rules(1, band, [slot])[0][0] for slot in slots]
    assert attempts.tolist() == singles


def test_an_unreachable_band_is_refused(monkeypatch):
    monkeypatch.setattr(rule_module, "MAX_ATTEMPTS", 300)
    with pytest.raises(UnreachableBand, match="300 attempts"):
        Automaton(alphabet=2).sample_rules(0, (0.6, 0.7), range(50))


def test_samples_depend_on_their_own_index_only():
    automaton, band = Automaton(alphabet=5), (0.3, 0.6)
    indices = np.arange(40)
    together = automaton.samples(1, 2, band, indices, 100)
    apart = automaton.samples(1, 2, band, [31, 6], 100, num_threads=1)
    np.testing.assert_array_equal(together[[31, 6]], apart)
    assert len(np.unique(together, axis=0)) == 40
    np.testing.assert_array_equal(together[:, :80], automaton.samples(1, 2, band, indices, 80))


def test_a_pool_repeats_rules_with_fresh_grids():
    automaton, band = Automaton(), (0.5, 1.0)
    indices = [1, 4, 7]
    tokens = automaton.samples(1, 2, band, indices, 500, pool=3)
    assert len(np.unique(tokens, axis=0)) == 3
    attempts, _ = automaton.sample_rules(1, band, [1])
    rules = automaton.rules(1, [1], attempts).repeat(3, axis=0)
    frames = automaton.rollout(rules, 2, indices, 14)
    np.testing.assert_array_equal(tokens, automaton.tokens(frames, 500))


def test_empty_requests_give_empty_answers():
    automaton = Automaton()
    assert automaton.samples(0, 0, ANY_BAND, [], 100).shape == (0, 100)
    assert automaton.scores(0, [], []).shape == (0,)


# The same bytes everywhere

DIGEST = """
import hashlib, sys
from ncamix.automata import Automaton
threads = int(sys.argv[1])
digest = hashlib.sha256()
for automaton in (Automaton(), Automaton(3, (6, 9), 3, 0.5, 0.2)):
    digest.update(automaton.scores(5, range(40), [1] * 40, threads).tobytes())
    digest.update(automaton.samples(5, 6, (0.1, 0.9), range(40), 200, None, threads).tobytes())
print(digest.hexdigest())
"""


def test_every_instruction_set_and_thread_count_gives_the_same_bytes():
    digests = set()
    for cpu in ({}, {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}):
        for threads in "12":
            run = [sys.executable, "-c", DIGEST, threads]
            digests.add(subprocess.check_output(run, env=os.environ | cpu, text=True))
    assert len(digests) == 1


def digest_into(connection):
    tokens = Automaton().samples(1, 2, ANY_BAND, range(100), 200, num_threads=2)
    connection.send(hashlib.sha256(tokens.tobytes()).hexdigest())


def test_a_forked_child_can_compute_too():
    here, there = multiprocessing.Pipe()
    digest_into(there)
    child = multiprocessing.get_context("fork").Process(target=digest_into, args=(there,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert here.recv() == here.recv()


def test_settings_need_no_compiler():
    code = (
        "import ncamix.automata as a, sys; a.band_share(a.Automaton(), 0, 1); print(*sys.modules)"
    )
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "ncamix.automata.rule" in modules and "numba" not in modules


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alphabet": 1}, "alphabet"),
        ({"alphabet": 65}, "alphabet"),
        ({"patch": 5}, "patch"),
        ({"grid": (12, 11)}, "multiples of patch"),
        ({"alphabet": 10, "patch": 4}, "symbols"),
        ({"temperature": 0.0}, "temperature"),
        ({"stride": 0}, "stride"),
        ({"burn_in": -1}, "burn_in"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Automaton(**changes)


def test_impossible_requests_are_refused():
    automaton = Automaton()
    with pytest.raises(ValueError, match="low < high"):
        automaton.sample_rules(0, (0.5, 0.5), [0])
    with pytest.raises(ValueError, match="negative"):
        automaton.rules(0, [-1], [0])
    with pytest.raises(ValueError, match="64 bits"):
        automaton.rules(-1, [0], [0])
    with pytest.raises(ValueError, match="rules must be"):
        automaton.rollout(np.zeros((1, 3), np.float32), 0, [0], 1)
    with pytest.raises(ValueError, match="do not hold"):
        automaton.tokens(np.zeros((1, 1, 12, 12), np.uint8), 39)
