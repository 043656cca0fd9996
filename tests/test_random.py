"""Random numbers: the published answers, and the distributions made of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix import random


def u64(value):
    return np.uint64(value)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123, kat_vectors
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, words):
    c, k, w = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    key, stream = u64(k[0] | k[1] << 32), u64(c[2] | c[3] << 32)
    assert list(random.philox(key, stream, u64(c[1]), u64(c[0]))) == w


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**32))
def test_below_is_the_high_half_of_the_product(bits, bound):
    assert random.below(u64(bits), u64(bound)) == bits * bound >> 64


@given(st.floats(-60, 0))
def test_exp_is_accurate(x):
    assert abs(random.exp(x) - math.exp(x)) <= 2 * math.ulp(math.exp(x))


@given(st.floats(1e-20, 1))
def test_log_is_accurate(x):
    assert abs(random.log(x) - math.log(x)) <= 2 * math.ulp(math.log(x))


def test_truncated_normal_is_the_quantile_function():
    def distribution(z):
        return 0.5 * math.erfc(-z / math.sqrt(2))

    below, inside = distribution(-2), distribution(2) - distribution(-2)
    for word in [*range(0, 2**32, 2**26 - 77), 2**32 - 1]:
        z = random.truncated_normal(u64(word))
        assert abs(z) <= 2
        assert (distribution(z) - below) / inside == pytest.approx((word + 0.5) / 2**32, abs=1e-8)


def test_normals_have_normal_moments():
    key = random.derive(1, u64(2))
    z = np.array([random.normal(key, u64(i), u64(0), u64(3)) for i in range(20_000)])
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.03
    assert abs((np.abs(z) > 2).mean() - 0.0455) < 0.006
