"""Compiled counting: the loops of mixtures and apportionment for long stages, in 64-bit integers.

    mixture -> program (arrays) -> weights of every batch -> counts, or positions of a blend's clock

The results are those of the plain forms, to the bit: weights have 60 fractional bits, and products
are taken in halves of 30 bits. A cumulative quota is a whole number and a fraction of 60 bits. The
constants of other modules that are compiled in here never change: numba's cache would not see it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ncamix.random import compiled
from ncamix.rerouting import ACTIVE, LOOSE, UP, reroute
from ncamix.schedule import BITS, EASES, HALF_PI, SCALE, SINE

if TYPE_CHECKING:
    from ncamix.apportionment import Counts
    from ncamix.mixture import Mixture

HALF, MASK = 30, (1 << 30) - 1
COSINE, STEP = EASES.index("cosine"), EASES.index("step")
SERIES = np.array(SINE)
compiled_reroute = compiled(reroute)


class Program(NamedTuple):
    """A mixture as arrays, all int64. Items are curves first, then leaves.

    frames: [curves + 1], where each curve's keyframes begin; positions, eases: [keyframes]; steps:
    [keyframes], bits left beside the distance to the next one; values: [keyframes, columns];
    targets: [curves, columns], the item of each column or -1; clocks: [curves, 3], origin, step and
    cycle; own: [curves], the row of `tables` that holds a curve's positions, or -1; tables:
    [rows, batches].
    """

    frames: NDArray[np.int64]
    positions: NDArray[np.int64]
    eases: NDArray[np.int64]
    steps: NDArray[np.int64]
    values: NDArray[np.int64]
    targets: NDArray[np.int64]
    clocks: NDArray[np.int64]
    own: NDArray[np.int64]
    tables: NDArray[np.int64]


def make_program(mixture: Mixture) -> Program | None:
    """The program of a mixture; None where its positions or its batch need more than 62 bits."""
    curves = list(mixture.curves.values())
    width = max(len(curve.columns) for curve in curves)
    positions: list[int] = []
    tables: list[NDArray[np.int64]] = []
    frames, eases, values, targets, clocks, own = [0], [], [], [], [], []
    for curve in curves:
        positions += curve.curve.positions
        eases += [EASES.index(ease) for ease in curve.curve.eases]
        blank = [0] * (width - len(curve.columns))
        values += [[*value, *blank] for value in curve.curve.values]
        targets.append([*(mixture.items[name] for name in curve.columns), *(-1 for _ in blank)])
        clocks.append([curve.origin, curve.step, curve.curve.cycle])
        frames.append(len(positions))
        own.append(-1 if curve.positions is None else len(tables))
        if curve.positions is not None:
            tables.append(curve.positions)
    last = max(origin + step * mixture.num_batches for origin, step, _ in clocks)
    if max(last, *positions, *(cycle for *_, cycle in clocks)) >> 62 or mixture.batch_size >> 31:
        return None
    distances = [after - before for before, after in pairwise((*positions, positions[-1]))]
    steps = [63 - abs(distance).bit_length() for distance in distances]
    table = np.array(tables).reshape(len(tables), mixture.num_batches)
    lists = (frames, positions, eases, steps, values, targets, clocks, own, table)
    return Program(*[np.array(column, np.int64) for column in lists])


@compiled
def product(x: int, y: int) -> int:
    """floor(x * y / 2**60), for |x| <= 2**60 and 0 <= y <= 2**61."""
    a, b, c, d = x >> HALF, x & MASK, y >> HALF, y & MASK
    return a * c + ((a * d + b * c + (b * d >> HALF)) >> HALF)


@compiled
def quotient(x: int, y: int, step: int) -> int:
    """floor(x * 2**60 / y), for 0 <= x < y, in steps of as many bits as fit beside y in 63."""
    result, left = 0, BITS
    while left > 0:
        n = min(step, left)
        x <<= n
        digit = x // y
        x -= digit * y
        result = result << n | digit
        left -= n
    return result


@compiled
def ease(u: int) -> int:
    """`schedule.cosine_ease`."""
    if 2 * u == SCALE:
        return u
    v = min(u, SCALE - u)
    x = product(v, HALF_PI)
    square = product(x, x)
    total = 0
    for i in range(len(SERIES) - 1, -1, -1):
        total = SERIES[i] - product(total, square)
    sine = product(x, total)
    eased = product(sine, sine)
    return eased if u == v else SCALE - eased


@compiled
def weigh(program: Program, batch: int, weights: NDArray[np.int64]) -> None:
    """Weights of all items in a batch, int64 [items], not yet normalised."""
    weights[:] = 0
    weights[0] = SCALE
    for curve in range(len(program.own)):
        whole = weights[curve]
        if whole == 0:
            continue
        if program.own[curve] < 0:
            x = program.clocks[curve, 0] + program.clocks[curve, 1] * batch
        else:
            x = program.tables[program.own[curve], batch]
        if program.clocks[curve, 2]:
            x %= program.clocks[curve, 2]
        first, last = program.frames[curve], program.frames[curve + 1] - 1
        low, high = first, last
        while low < high:  # the last keyframe at or before x, else the first
            middle = (low + high + 1) // 2
            if program.positions[middle] <= x:
                low = middle
            else:
                high = middle - 1
        u, before = 0, program.positions[low]
        if x > before and low < last and program.eases[low] != STEP:
            distance = program.positions[low + 1] - before
            u = quotient(x - before, distance, program.steps[low])
            if program.eases[low] == COSINE:
                u = ease(u)
        for column in range(program.targets.shape[1]):
            target = program.targets[curve, column]
            if target < 0:
                break
            share = program.values[low, column]
            if u:
                share += product(program.values[low + 1, column] - share, u)
            weights[target] += product(share, whole)


@compiled
def normalise(weights: NDArray[np.int64]) -> None:
    """The first of the largest takes what is missing to 1."""
    weights[np.argmax(weights)] += SCALE - weights.sum()


@compiled
def add_quota(
    weight: int, size: int, s: int, wholes: NDArray[np.int64], rests: NDArray[np.int64]
) -> None:
    """Add weight * size to the cumulative quota of source s, for a size below 2**31."""
    low = (weight & MASK) * size
    high = (weight >> HALF) * size + (low >> HALF)
    rest = rests[s] + ((high & MASK) << HALF | low & MASK)
    wholes[s] += (high >> HALF) + (rest >> BITS)
    rests[s] = rest & (SCALE - 1)


@compiled
def count(
    program: Program,
    batch: int,
    size: int,
    near: int,
    wholes: NDArray[np.int64],
    rests: NDArray[np.int64],
    given: NDArray[np.int64],
    counts: Counts,
    flags: NDArray[np.uint8],
    worst: NDArray[np.int64],
) -> int:
    """`apportionment.PlainCounter.advance`; worst, int64 [1], is the largest deviation so far."""
    curves, sources = len(program.own), counts.shape[1]
    weights = np.empty(curves + sources, np.int64)
    shares = weights[curves:]
    due, remainder = np.empty(sources, np.int64), np.empty(sources, np.int64)
    while batch < len(counts):
        weigh(program, batch, weights)
        normalise(shares)
        left, loose = size, 0
        for s in range(sources):
            due[s], remainder[s], flag = 0, 0, 0
            if shares[s]:
                add_quota(shares[s], size, s, wholes, rests)
                flag = ACTIVE
            whole = wholes[s]
            if rests[s] > SCALE - near:
                whole += 1
            elif rests[s] >= near:
                flag |= LOOSE
            if shares[s]:
                due[s] = max(0, whole - given[s])
                left -= due[s]
                if flag & LOOSE and given[s] <= whole:
                    remainder[s] = rests[s]
                    loose += 1
            flags[batch, s] = flag
        for _ in range(min(left, loose)):
            largest = np.argmax(remainder)
            due[largest] += 1
            remainder[largest] = 0
        for s in range(sources):
            given[s] += due[s]
            counts[batch, s] = due[s]
            if flags[batch, s] & LOOSE and given[s] > wholes[s]:
                flags[batch, s] |= UP
            worst[0] = max(worst[0], abs((wholes[s] - given[s] << BITS) + rests[s]))
        if left < 0 or left > loose:
            break
        batch += 1
    return batch


@compiled
def largest_deviation(program: Program, size: int, counts: Counts) -> int:
    """`apportionment.PlainCounter.deviation`."""
    curves, sources = len(program.own), counts.shape[1]
    weights = np.empty(curves + sources, np.int64)
    shares = weights[curves:]
    wholes, rests = np.zeros(sources, np.int64), np.zeros(sources, np.int64)
    worst = 0
    for batch in range(len(counts)):
        weigh(program, batch, weights)
        normalise(shares)
        for s in range(sources):
            add_quota(shares[s], size, s, wholes, rests)
            wholes[s] -= counts[batch, s]  # what is owed
            worst = max(worst, abs((wholes[s] << BITS) + rests[s]))
    return worst


class CompiledCounter:
    """An `apportionment.Counter` for a program."""

    def __init__(self, program: Program, size: int, near: int, counts: Counts) -> None:
        self.program, self.size, self.near, self.counts = program, size, near, counts
        sources = counts.shape[1]
        self.flags = np.zeros((len(counts), sources + 1), np.uint8)
        self.wholes, self.rests, self.given = np.zeros((3, sources), np.int64)
        self.worst = np.zeros(1, np.int64)

    def advance(self, batch: int) -> int:
        quotas = (self.wholes, self.rests, self.given)
        tables = (self.counts, self.flags, self.worst)
        return int(count(self.program, batch, self.size, self.near, *quotas, *tables))

    def reroute(self, batch: int, change: int) -> int:
        return int(compiled_reroute(self.counts, self.flags, batch, change))

    def deviation(self) -> int:
        return int(largest_deviation(self.program, self.size, self.counts))


@compiled
def sum_tokens(
    program: Program,
    item: int,
    done: int,
    a_batch: int,
    num_batches: int,
    weights: NDArray[np.int64],
    positions: NDArray[np.int64],
) -> int:
    """`mixture.own_positions` of an item; returns the tokens after `num_batches`."""
    after = done
    for batch in range(len(positions)):
        weigh(program, batch, weights)
        weight = weights[item]
        tokens = product(weight, a_batch) + (weight > 0)
        positions[batch] = 2 * done + tokens
        done += tokens
        if batch == num_batches - 1:
            after = done
    return after


def own_positions(
    program: Program, mixture: Mixture, blend: str, done: int, a_batch: int, num_batches: int
) -> tuple[NDArray[np.int64], int]:
    """`mixture.own_positions`."""
    weights = np.empty(len(mixture.curves) + len(mixture.leaves), np.int64)
    positions = np.empty(mixture.num_batches, np.int64)
    item = len(mixture.curves) + mixture.leaves.index(blend)
    return positions, int(sum_tokens(program, item, done, a_batch, num_batches, weights, positions))
