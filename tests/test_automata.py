"""Automata: draws, twin, known automata, scores, samples, threads, forks, settings."""

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
from ncamix.automata import Automaton, Band, UnreachableBand, draws, kernel, search, twin
from ncamix.automata import rule as rule_module

ANY_BAND = Band(0, 1)


def u64(value):
    return np.uint64(value)


# Draws


@pytest.mark.parametrize("alphabet", [2, 10])
def test_rules_are_lecun_normal(alphabet):
    automaton = Automaton(alphabet)
    rules = automaton.rules(3, np.arange(2000))
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
    key = random.derive(5, draws.SAMPLES)
    draws.draw_grids(key, np.arange(4000, dtype=np.uint64), 2, grids)
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
    first, num_rules, num_frames = 2**40 - 5, 5, 6
    rules = automaton.rules(11, [1, 2, 3, 4, 5], [0, 4, 9, 0, 0])
    frames = automaton.rollout(rules, num_frames, seed=12, first=first)
    key = random.derive(12, draws.SAMPLES)
    streams = np.arange(first, first + num_rules, dtype=np.uint64)
    grids = np.empty((num_rules, math.prod(automaton.grid)), np.uint8)
    draws.draw_grids(key, streams, automaton.alphabet, grids)
    for i in range(num_rules):
        expected = twin_frames(automaton, rules[i], grids[i], key, streams[i], num_frames)
        np.testing.assert_array_equal(frames[i], expected)


def twin_frames(automaton, rule, grid, key, stream, num_frames):
    states = twin.frames(
        rule,
        grid.reshape(automaton.grid),
        key,
        stream,
        automaton.temperature,
        np.float32(automaton.temperature * rule_module.CLOSE),
        automaton.identity_bias,
        automaton.burn_in + (num_frames - 1) * automaton.stride,
    )
    return states[automaton.burn_in :: automaton.stride]


@pytest.mark.parametrize("burn_in", [0, 7])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("temperature", [1e-4, 0.02])
def test_states_that_come_back_are_copied_exactly(burn_in, stride, temperature):
    """Two states on a small grid die out, blink or go round: the kernel's short cut."""
    automaton = Automaton(2, (4, 6), burn_in=burn_in, stride=stride, temperature=temperature)
    num_rules, num_frames = 60, 25
    rules = automaton.rules(4, np.arange(num_rules))
    frames = automaton.rollout(rules, num_frames, seed=5)
    key = random.derive(5, draws.SAMPLES)
    grids = np.empty((num_rules, 24), np.uint8)
    draws.draw_grids(key, np.arange(num_rules, dtype=np.uint64), 2, grids)
    periods = set()
    for i in range(num_rules):
        expected = twin_frames(automaton, rules[i], grids[i], key, u64(i), num_frames)
        np.testing.assert_array_equal(frames[i], expected)
        back = [p for p in range(1, 20) if (expected[-1] == expected[-1 - p]).all()]
        periods.add(back[0] if back else None)
    assert len(periods - {None}) > 1  # there were fixed points and longer periods


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
    frames = automaton.rollout(rule, 4, seed=1)
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
    scores = automaton.scores(8, 3, first=3)
    frames = automaton._frames(
        automaton.rules(8, [3, 4, 5]), 8, np.array([3, 4, 5]), 10, purpose=draws.SCORING
    )
    per_frame = automaton.tokens(frames.reshape(3, 10, 12, 12), 380).reshape(3, 10, 38)
    for score, tokens in zip(scores, per_frame[:, :, 1:-1], strict=True):
        data = tokens.astype("<i4").tobytes()
        assert len(data) == 1440
        assert score == len(gzip.compress(data, 9, mtime=0)) / 1440


# Samples


def test_the_first_attempt_inside_the_band_is_taken():
    automaton, band = Automaton(alphabet=4), Band(0.2, 0.4)
    slots = np.array([9, 2, 2**40 - 1, 40])
    attempts, scores = automaton.find_rules(1, band, slots)
    for slot, attempt, score in zip(slots, attempts, scores, strict=True):
        tried = automaton._amounts(1, "gzip", np.full(attempt + 1, slot), np.arange(attempt + 1))
        inside = (tried >= 0.2 * 1440) & (tried < 0.4 * 1440)
        assert inside[-1] and not inside[:-1].any() and tried[-1] / 1440 == score
    search.MEMORY.forget()
    singles = [automaton.find_rules(1, band, [slot])[0][0] for slot in slots]
    assert attempts.tolist() == singles


def test_samples_depend_on_their_own_number_only():
    automaton, band = Automaton(alphabet=5), Band(0.3, 0.6)
    together = automaton.samples(1, band, 40, 100, grid_seed=2)
    search.MEMORY.forget()
    for first, count in ((31, 1), (6, 9)):
        apart = automaton.samples(1, band, count, 100, first=first, grid_seed=2, num_threads=1)
        np.testing.assert_array_equal(together[first : first + count], apart)
    assert len(np.unique(together, axis=0)) == 40
    np.testing.assert_array_equal(together[:, :80], automaton.samples(1, band, 40, 80, grid_seed=2))
    assert not (together == automaton.samples(1, band, 40, 100)).all(axis=1).any()


def test_a_pool_repeats_rules_with_fresh_grids():
    automaton, band = Automaton(), Band(0.5, 1)
    tokens = automaton.samples(1, band, 7, 500, grid_seed=2, pool=3)
    assert len(np.unique(tokens, axis=0)) == 7
    attempts, _ = automaton.find_rules(1, band, [1])
    rules = automaton.rules(1, [1], attempts)
    for sample in (1, 4):
        frames = automaton.rollout(rules, 14, seed=2, first=sample)
        np.testing.assert_array_equal(tokens[sample], automaton.tokens(frames, 500)[0])


def test_empty_requests_give_empty_answers():
    automaton = Automaton()
    assert automaton.samples(0, ANY_BAND, 0, 100).shape == (0, 100)
    assert automaton.scores(0, 0).shape == (0,)


# The same bytes everywhere

DIGEST = """
import hashlib, sys
from ncamix.automata import Automaton, Band
threads = int(sys.argv[1])
digest = hashlib.sha256()
for automaton in (Automaton(), Automaton(3, (6, 9), 3, 0.5, 0.2), Automaton(2, temperature=1.0)):
    for measure in ("gzip", "change_rate"):
        digest.update(automaton.scores(5, 40, measure=measure, num_threads=threads).tobytes())
    samples = automaton.samples(5, Band(0.1, 0.9), 40, 200, num_threads=threads)
    digest.update(samples.tobytes())
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
    tokens = Automaton().samples(1, ANY_BAND, 100, 200, num_threads=2)
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
    code = "import ncamix.automata as a, sys; a.shipped_spread(a.Automaton()); print(*sys.modules)"
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
        ({"alphabet": 2.5}, "alphabet must be a whole number"),
        ({"grid": (12.0, 12.0)}, "multiples of patch"),
        ({"patch": 2.0}, "patch must be a whole number"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Automaton(**changes)


def test_a_square_grid_may_be_its_side():
    assert Automaton(alphabet=3, grid=8) == Automaton(alphabet=3, grid=(8, 8))


def test_impossible_requests_are_refused():
    automaton = Automaton()
    with pytest.raises(ValueError, match="low < high"):
        Band(0.5, 0.5)
    with pytest.raises(ValueError, match="measure must be one of"):
        automaton.scores(0, 1, measure="bzip2")
    with pytest.raises(ValueError, match="num_rules"):
        automaton.scores(0, -1)
    with pytest.raises(ValueError, match="first must be"):
        automaton.samples(0, ANY_BAND, 1, 10, first=-1)
    with pytest.raises(ValueError, match="negative"):
        automaton.rules(0, [-1])
    with pytest.raises(ValueError, match="64 bits"):
        automaton.rules(-1, [0])
    with pytest.raises(ValueError, match="rules must be"):
        automaton.rollout(np.zeros((1, 3), np.float32), 1)
    with pytest.raises(ValueError, match="num_frames"):
        automaton.rollout(np.zeros((1, automaton.num_weights), np.float32), 0)
    with pytest.raises(ValueError, match="64 bits"):
        automaton.samples(1.7, ANY_BAND, 1, 10)
    with pytest.raises(ValueError, match=r"frames must be \[N, F, 12, 12\]"):
        automaton.tokens(np.zeros((1, 1, 5, 12), np.uint8), 17)
    with pytest.raises(ValueError, match="states of 10 and above"):
        automaton.tokens(np.full((1, 1, 12, 12), 10, np.uint8), 38)
    with pytest.raises(ValueError, match="do not hold"):
        automaton.tokens(np.zeros((1, 1, 12, 12), np.uint8), 39)
    with pytest.raises(UnreachableBand, match="none of 4,000 random rules"):
        Automaton(2).samples(0, Band(0.6, 0.7), 5, 100)
