"""Compiled random numbers: Philox4x32-10 of an address, and distributions made of them.

    (key, stream, row, column) -> four 32-bit words -> integers, uniforms, normals, truncated ones

A number depends on its address alone, so the order in which work is done changes nothing. All
floating-point arithmetic is + - * / and sqrt in a written order, without fast-math and without
libm, so every instruction set gives the same bits. These numbers are frozen by known answers in the
tests: other modules compile them in, and numba's disk cache does not see when another file changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled without the interpreter lock, cached on disk where any directory can be written."""
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no directory for its cache
        return numba.njit(nogil=True, error_model="numpy")(function)


LOW32, BITS32 = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)

LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62e42fee00000p-1"), 1.9082149292705877e-10
EXP_FLOOR = -60.0  # below: weights too small for a 53-bit uniform to meet
POWERS = np.ldexp(1.0, -np.arange(90))
FACTORIALS = 1.0 / np.cumprod(np.array([1.0, *range(1, 14)]))

# Normal quantile between -2 and 2: z = q P(q^2) / Q(q^2), q the probability minus 1/2. Fitted by
# least squares; relative error 2e-9, below half a unit in the last place of a float32.
Q_SPAN = 0.9544997361036416  # probability of (-2, 2)
TRUNCATED_STD = 0.8796256610342398  # of a standard normal truncated to (-2, 2)
P0, P1, P2 = 2.506628277481279, -30.746225488857327, 139.14924588856584
P3, P4, P5 = -278.51476606813344, 224.0364953653267, -40.5289739325247
Q1, Q2, Q3 = -13.313166382447477, 67.15108907188228, -157.02217838105187
Q4, Q5 = 163.60121671522478, -55.44259192111333


@compiled
def philox(
    key: np.uint64, stream: np.uint64, row: np.uint64, column: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Four 32-bit words of Philox4x32-10, counter (column, row, low and high half of stream)."""
    k0, k1 = key & LOW32, key >> BITS32
    c0, c1, c2, c3 = column, row, stream & LOW32, stream >> BITS32
    for _ in range(10):
        p0, p1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (
            (p1 >> BITS32) ^ c1 ^ k0,
            p1 & LOW32,
            (p0 >> BITS32) ^ c3 ^ k1,
            p0 & LOW32,
        )
        k0, k1 = (k0 + WEYL_0) & LOW32, (k1 + WEYL_1) & LOW32
    return c0, c1, c2, c3


def derive(key: int, purpose: np.uint64) -> np.uint64:
    """A 64-bit key of its own for one purpose."""
    low, high, _, _ = philox(np.uint64(key), np.uint64(0), np.uint64(0), purpose)
    return np.uint64(low | high << 32)  # compiled code returns int, and typed by size at that


@compiled
def below(bits: np.uint64, bound: np.uint64) -> np.uint64:
    """Uniform integer in [0, bound) from 64 random bits: floor(bits * bound / 2**64).

    bound is at most 2**32; the probability of each value is 1 / bound to within 2**-64.
    """
    high, low = bits >> BITS32, bits & LOW32
    return (high * bound + (low * bound >> BITS32)) >> BITS32


@compiled
def unit(a: np.uint64, b: np.uint64) -> float:
    """Multiple of 2**-53 in [0, 1) made of two 32-bit words."""
    high, low = float(a >> np.uint64(5)), float(b >> np.uint64(6))
    return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0)


@compiled
def uniform(key: np.uint64, stream: np.uint64, row: np.uint64, column: np.uint64) -> float:
    """Uniform multiple of 2**-53 in [0, 1)."""
    a, b, _, _ = philox(key, stream, row, column)
    return unit(a, b)


@compiled
def exp(x: float) -> float:
    """e**x for x <= 0, to 2 ulp; zero below -60."""
    if x < EXP_FLOOR:
        return 0.0
    halvings = int(0.5 - x * LOG2_E)
    r = (x + halvings * LN2_HIGH) + halvings * LN2_LOW
    total = FACTORIALS[13]
    for k in range(12, -1, -1):
        total = total * r + FACTORIALS[k]
    return float(total * POWERS[halvings])


@compiled
def log(x: float) -> float:
    """Natural logarithm for 0 < x <= 1, to 2 ulp."""
    doublings = 0
    while x < 0.7071067811865476:
        x *= 2.0
        doublings += 1
    t = (x - 1.0) / (x + 1.0)
    t2 = t * t
    tail = 0.0
    for k in range(12, 0, -1):
        tail = t2 * (tail + 1.0 / (2 * k + 1))
    return (2.0 * t + (2.0 * t * tail - doublings * LN2_LOW)) - doublings * LN2_HIGH


@compiled
def normal(key: np.uint64, stream: np.uint64, row: np.uint64, column: np.uint64) -> float:
    """Standard normal by the polar method; a rejected try moves on by 2**16 columns."""
    while True:
        a, b, _, _ = philox(key, stream, row, column)
        u = (float(a) + 0.5) * (1.0 / 2147483648.0) - 1.0
        v = (float(b) + 0.5) * (1.0 / 2147483648.0) - 1.0
        s = u * u + v * v
        if s < 1.0:
            return u * math.sqrt(-2.0 * log(s) / s)
        column += np.uint64(65536)


@compiled
def truncated_normal(word: np.uint64) -> float:
    """Standard normal truncated to (-2, 2), the quantile of a 32-bit word."""
    q = ((float(word) + 0.5) * (1.0 / 4294967296.0) - 0.5) * Q_SPAN
    t = q * q
    above = ((((P5 * t + P4) * t + P3) * t + P2) * t + P1) * t + P0
    below = ((((Q5 * t + Q4) * t + Q3) * t + Q2) * t + Q1) * t + 1.0
    return q * above / below
