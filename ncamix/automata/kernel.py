"""Compiled core of the automata: rule weights, initial grids, rollouts.

    key, streams -> rules [N, 52 n + 64] float32 --.
    key, streams -> grids [N, cells] uint8 --------+-> frames [N, F, cells] uint8

Every random number is Philox4x32-10 of an address (key, stream, row, column), so nothing depends
on the order in which the work is done. All floating-point arithmetic is + - * / and sqrt in a
written order, without fast-math and without libm, so every instruction set gives the same bits.

A rule is one row of float32, in this order (c channels, k hidden units, s cell states):
3x3 convolution [4 c, 3 dy, 3 dx, n s], 1x1 [16 k, 4 c], ReLU, 1x1 [n s, 16 k]. No biases: they are
zero in the paper. Tap (dy, dx) looks at the cell dy - 1 below and dx - 1 to the right.

Inner loops run over all cells of a grid (contiguous float32 lanes), which is what vectorises.
Apart from random numbers it stays in one file: numba's disk cache sees no change in another one.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ncamix.random import TRUNCATED_STD, compiled, exp, normal, philox, truncated_normal, uniform

Floats: TypeAlias = NDArray[np.float32]
Cells: TypeAlias = NDArray[np.uint8]
Codes: TypeAlias = NDArray[np.uint16]
State: TypeAlias = NDArray[np.int32]
Streams: TypeAlias = NDArray[np.uint64]


# Streams of one user key. Rows of a trajectory's stream: logits, initial cells, then the steps.
RULES, SCORING, SAMPLES = np.uint64(0), np.uint64(1), np.uint64(2)
LOGIT_ROW, CELL_ROW, STEP_ROW = np.uint64(0), np.uint64(1), np.uint64(2)

ZERO = np.float32(0)
LOWEST = np.float32(-3e38)


@compiled
def draw_rules(key: np.uint64, streams: Streams, alphabet: int, rules: Floats) -> None:
    """Fill rules [N, 52 n + 64] with LeCun-normal weights, one row a stream (paper)."""
    num_weights = rules.shape[1]
    first, second = 36 * alphabet, 36 * alphabet + 64
    unit = np.empty(num_weights + 3, np.float64)
    for i in range(rules.shape[0]):
        for block in range((num_weights + 3) // 4):
            a, b, c, d = philox(key, streams[i], np.uint64(0), np.uint64(block))
            unit[4 * block] = truncated_normal(a)
            unit[4 * block + 1] = truncated_normal(b)
            unit[4 * block + 2] = truncated_normal(c)
            unit[4 * block + 3] = truncated_normal(d)
        for start, stop, fan_in in (
            (0, first, 9.0 * alphabet),
            (first, second, 4.0),
            (second, num_weights, 16.0),
        ):
            scale = 1.0 / (TRUNCATED_STD * math.sqrt(fan_in))
            for w in range(start, stop):
                rules[i, w] = np.float32(unit[w] * scale)


@compiled
def pick(weights: NDArray[np.float64], total: float, u: float, otherwise: int) -> int:
    """Index whose share of the total, in order, holds u: inverse of the cumulative sum."""
    target = u * total
    cumulative = 0.0
    for j in range(weights.shape[0]):
        cumulative += weights[j]
        if target < cumulative:
            return j
    return otherwise  # rounding can leave the target at the very end


@compiled
def draw_grids(key: np.uint64, streams: Streams, alphabet: int, grids: Cells) -> None:
    """Fill grids [N, cells]: cells of one categorical whose n logits are N(0, 1), per stream."""
    weights = np.empty(alphabet, np.float64)
    for i in range(grids.shape[0]):
        best = 0
        for j in range(alphabet):
            weights[j] = normal(key, streams[i], LOGIT_ROW, np.uint64(j))
            if weights[j] > weights[best]:
                best = j
        top, total = weights[best], 0.0
        for j in range(alphabet):
            weights[j] = exp(weights[j] - top)
            total += weights[j]
        for cell in range(grids.shape[1]):
            u = uniform(key, streams[i], CELL_ROW, np.uint64(cell))
            grids[i, cell] = np.uint8(pick(weights, total, u, best))


@compiled
def encode(
    state: State, height: int, width: int, alphabet: int, pairs: Codes, rights: Codes
) -> None:
    """From state [cells]: (left, centre) codes and right neighbours [(height + 2) * width].

    Both carry a wrapped row above and below, so that all three rows of the stencil are one
    contiguous run of cells each, shifted by a row.
    """
    cells = height * width
    for start in range(0, cells, width):
        above = start + width
        pairs[above] = state[start + width - 1] * alphabet + state[start]
        rights[above + width - 1] = state[start]
        for x in range(1, width):
            pairs[above + x] = state[start + x - 1] * alphabet + state[start + x]
            rights[above + x - 1] = state[start + x]
    for x in range(width):
        pairs[x], rights[x] = pairs[cells + x], rights[cells + x]
        pairs[cells + width + x], rights[cells + width + x] = pairs[width + x], rights[width + x]


@compiled
def convolve(
    rule: Floats,
    pair_sums: Floats,
    alphabet: int,
    pairs: Codes,
    rights: Codes,
    width: int,
    channels: Floats,
) -> None:
    """The 3x3 convolution of a one-hot state as look-ups: channels [4, cells].

    Order of the sum: (left + centre) + right in each row of taps, then (upper + middle) + lower.
    pair_sums [4, 3, n * n] holds left + centre.
    """
    cells = channels.shape[1]
    left_0, left_1, left_2 = pairs[:cells], pairs[width:], pairs[2 * width :]
    right_0, right_1, right_2 = rights[:cells], rights[width:], rights[2 * width :]
    for c in range(4):
        a, b, d = pair_sums[c, 0], pair_sums[c, 1], pair_sums[c, 2]
        taps = rule[9 * c * alphabet : 9 * (c + 1) * alphabet]
        e, f, g = taps[2 * alphabet :], taps[5 * alphabet :], taps[8 * alphabet :]
        out = channels[c]
        for i in range(cells):
            out[i] = ((a[left_0[i]] + e[right_0[i]]) + (b[left_1[i]] + f[right_1[i]])) + (
                d[left_2[i]] + g[right_2[i]]
            )


@compiled
def perceive(rule: Floats, alphabet: int, channels: Floats, hidden: Floats, logits: Floats) -> None:
    """From channels [4, cells] the 1x1 layers: hidden [16, cells], ReLU, logits [n, cells].

    Sums run over inputs in order, first to last.
    """
    cells = channels.shape[1]
    inner = rule[36 * alphabet : 36 * alphabet + 64]
    outer = rule[36 * alphabet + 64 :]
    x0, x1, x2, x3 = channels[0], channels[1], channels[2], channels[3]
    for k in range(16):
        a, b, c, d = inner[4 * k], inner[4 * k + 1], inner[4 * k + 2], inner[4 * k + 3]
        out = hidden[k]
        for i in range(cells):
            total = a * x0[i] + b * x1[i] + c * x2[i] + d * x3[i]
            out[i] = total if total > ZERO else ZERO
    # Eight inputs a pass: enough terms a loop to hide its loads and stores, few enough registers.
    for j in range(alphabet):
        out = logits[j]
        for half in range(2):
            w = outer[16 * j + 8 * half : 16 * j + 8 * half + 8]
            a, b, c, d, e, f, g, h = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]
            y = hidden[8 * half : 8 * half + 8]
            y0, y1, y2, y3, y4, y5, y6, y7 = y[0], y[1], y[2], y[3], y[4], y[5], y[6], y[7]
            if half == 0:
                for i in range(cells):
                    low = a * y0[i] + b * y1[i] + c * y2[i] + d * y3[i]
                    out[i] = low + e * y4[i] + f * y5[i] + g * y6[i] + h * y7[i]
            else:
                for i in range(cells):
                    low = out[i] + a * y0[i] + b * y1[i] + c * y2[i] + d * y3[i]
                    out[i] = low + e * y4[i] + f * y5[i] + g * y6[i] + h * y7[i]


@compiled
def decide(logits: Floats, margin: np.float32, best: Floats, second: Floats, state: State) -> int:
    """Set state [cells] to the argmax (lowest index of a tie); count cells within the margin."""
    cells = state.shape[0]
    for i in range(cells):
        best[i], second[i], state[i] = logits[0, i], LOWEST, np.int32(0)
    for j in range(1, logits.shape[0]):
        row, index = logits[j], np.int32(j)
        for i in range(cells):
            value = row[i]
            higher = value > best[i]
            lesser = best[i] if higher else value
            second[i] = lesser if lesser > second[i] else second[i]
            best[i] = value if higher else best[i]
            state[i] = index if higher else state[i]
    num_close = 0
    for i in range(cells):
        num_close += best[i] - second[i] < margin
    return num_close


@compiled
def roll_out(
    rules: Floats,
    grids: Cells,
    height: int,
    key: np.uint64,
    streams: Streams,
    temperature: float,
    margin: np.float32,
    identity_bias: np.float32,
    burn_in: int,
    stride: int,
    frames: Cells,
) -> None:
    """Fill frames [N, F, cells]: states of rule i [N, 52 n + 64] from grid i [N, cells].

    Frame f is the state after burn_in + f * stride steps. Where the best two logits are closer
    than the margin the next state is drawn from softmax(logits / temperature), elsewhere it is
    the argmax: the margin is wide enough for the difference to be one in 1e10.
    """
    num_cells, alphabet = grids.shape[1], (rules.shape[1] - 64) // 52
    width = num_cells // height
    pairs = np.empty((height + 2) * width, np.uint16)
    rights = np.empty((height + 2) * width, np.uint16)
    pair_sums = np.empty((4, 3, alphabet * alphabet), np.float32)
    channels = np.empty((4, num_cells), np.float32)
    hidden = np.empty((16, num_cells), np.float32)
    logits = np.empty((alphabet, num_cells), np.float32)
    best = np.empty(num_cells, np.float32)
    second = np.empty(num_cells, np.float32)
    state = np.empty(num_cells, np.int32)
    weights = np.empty(alphabet, np.float64)
    for r in range(rules.shape[0]):
        rule = rules[r]
        for c in range(4):
            for dy in range(3):
                taps = rule[(9 * c + 3 * dy) * alphabet :]
                for a in range(alphabet):
                    for b in range(alphabet):
                        pair_sums[c, dy, a * alphabet + b] = taps[a] + taps[alphabet + b]
        for i in range(num_cells):
            state[i] = np.int32(grids[r, i])
        frame, next_frame = 0, burn_in
        step = 0
        while True:
            if step == next_frame:
                out = frames[r, frame]
                for i in range(num_cells):
                    out[i] = np.uint8(state[i])
                frame += 1
                next_frame += stride
                if frame == frames.shape[1]:
                    break
            encode(state, height, width, alphabet, pairs, rights)
            convolve(rule, pair_sums, alphabet, pairs, rights, width, channels)
            perceive(rule, alphabet, channels, hidden, logits)
            if identity_bias != ZERO:
                for i in range(num_cells):
                    logits[state[i], i] += identity_bias
            if decide(logits, margin, best, second, state) > 0:
                row = STEP_ROW + np.uint64(step)
                for i in range(num_cells):
                    if best[i] - second[i] < margin:
                        total, top = 0.0, float(best[i])
                        for j in range(alphabet):
                            weights[j] = exp((float(logits[j, i]) - top) / temperature)
                            total += weights[j]
                        u = uniform(key, streams[r], row, np.uint64(i))
                        state[i] = np.int32(pick(weights, total, u, state[i]))
            step += 1
