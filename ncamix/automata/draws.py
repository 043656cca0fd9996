"""Compiled draws of an automaton: rule weights and initial grids.

    key, streams -> rules [N, 52 n + 64] float32
    key, streams -> grids [N, cells] uint8

Every number is drawn at an address (key, stream, row, column), so nothing depends on the order in
which the work is done. A rule is one row of float32, in this order (c channels, k hidden units, s
cell states): 3x3 convolution [4 c, 3 dy, 3 dx, n s], 1x1 [16 k, 4 c], ReLU, 1x1 [n s, 16 k]. No
biases: they are zero in the paper. Tap (dy, dx) looks at the cell dy - 1 below and dx - 1 to the
right.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ncamix.random import TRUNCATED_STD, compiled, exp, normal, philox, truncated_normal, unit

# Keys of one user key, by purpose. Rows of a trajectory's stream: logits, cells, then the steps.
RULES, SCORING, SAMPLES = np.uint64(0), np.uint64(1), np.uint64(2)
LOGIT_ROW, CELL_ROW, STEP_ROW = np.uint64(0), np.uint64(1), np.uint64(2)


@compiled
def draw_rules(
    key: np.uint64, streams: NDArray[np.uint64], alphabet: int, rules: NDArray[np.float32]
) -> None:
    """Fill rules [N, 52 n + 64] with LeCun-normal weights, one row a stream (paper: rules)."""
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
def draw_grids(
    key: np.uint64, streams: NDArray[np.uint64], alphabet: int, grids: NDArray[np.uint8]
) -> None:
    """Fill grids [N, cells]: cells of one categorical whose n logits are N(0, 1), per stream.

    A cell is the number of cumulative weights that its uniform of 53 bits reaches; two cells share
    four words of Philox.
    """
    num_cells = grids.shape[1]
    logits, cumulative = np.empty(alphabet, np.float64), np.empty(alphabet, np.float64)
    for i in range(grids.shape[0]):
        top = -np.inf
        for j in range(alphabet):
            logits[j] = normal(key, streams[i], LOGIT_ROW, np.uint64(j))
            top = max(top, logits[j])
        total = 0.0
        for j in range(alphabet):
            total += exp(logits[j] - top)
            cumulative[j] = total
        for pair in range((num_cells + 1) // 2):
            words = philox(key, streams[i], CELL_ROW, np.uint64(pair))
            for k in range(2):
                target, state = unit(words[2 * k], words[2 * k + 1]) * total, 0
                for j in range(alphabet - 1):
                    state += cumulative[j] <= target
                if 2 * pair + k < num_cells:
                    grids[i, 2 * pair + k] = np.uint8(state)
