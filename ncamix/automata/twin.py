"""The automaton in plain NumPy: a slow twin that the compiled kernel must equal bit for bit.

Same weights, grids and keyed random numbers in, same frames out; only the stepping is its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncamix import random
from ncamix.automata.draws import STEP_ROW


def logits(rule: NDArray[np.float32], state: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rule [52 n + 64] on a torus of states [H, W]: float32 [n, H, W] (paper: automaton)."""
    n = (rule.size - 64) // 52
    first, inner, outer = np.split(rule, [36 * n, 36 * n + 64])
    first, inner, outer = first.reshape(4, 3, 3, n), inner.reshape(16, 4), outer.reshape(n, 16)

    def tap(dy: int, dx: int) -> NDArray[np.float32]:
        return first[:, dy, dx, np.roll(state, (1 - dy, 1 - dx), (0, 1))]

    rows = [(tap(dy, 0) + tap(dy, 1)) + tap(dy, 2) for dy in range(3)]
    hidden = _mix(inner, (rows[0] + rows[1]) + rows[2])
    return _mix(outer, np.where(hidden > 0, hidden, np.float32(0)))


def frames(
    rule: NDArray[np.float32],
    grid: NDArray[np.uint8],
    key: np.uint64,
    stream: np.uint64,
    temperature: float,
    margin: np.float32,
    identity_bias: float,
    num_steps: int,
) -> NDArray[np.uint8]:
    """States after 0 .. num_steps steps from a grid [H, W]: uint8 [num_steps + 1, H, W]."""
    states = [grid]
    for step in range(num_steps):
        scores = logits(rule, states[-1])
        if identity_bias:
            scores[states[-1], *np.indices(grid.shape)] += np.float32(identity_bias)
        state = scores.argmax(0).astype(np.uint8)
        second, best = np.sort(scores, axis=0)[-2:]
        for y, x in np.argwhere(best - second < margin):
            gaps = (scores[:, y, x].astype(np.float64) - float(best[y, x])) / temperature
            cumulative = np.cumsum([random.exp(gap) for gap in gaps])
            column = np.uint64(y * grid.shape[1] + x)
            u = random.uniform(key, stream, STEP_ROW + np.uint64(step), column)
            state[y, x] = np.searchsorted(cumulative, u * cumulative[-1], side="right")
        states.append(state)
    return np.stack(states)


def _mix(weights: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """1x1 convolution [out, in] of x [in, H, W], summed from the first input to the last."""
    total: NDArray[np.float32] = weights[:, 0, None, None] * x[0]
    for i in range(1, len(x)):
        total = total + weights[:, i, None, None] * x[i]
    return total
