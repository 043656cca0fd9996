"""Compiled: frames of cell states to token ids.

frames [N, F, cells] uint8 -> tokens [N, T] uint32
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncamix.random import compiled


@compiled
def tokenize(
    frames: NDArray[np.uint8],
    width: int,
    patch: int,
    alphabet: int,
    delimited: bool,
    tokens: NDArray[np.uint32],
) -> None:
    """Fill tokens [N, T] from frames [N, F, cells], cut at T (paper: tokens).

    A patch is the number whose base-n digits are its cells, row-major, the first the lowest;
    n**(p*p) opens and n**(p*p) + 1 closes a frame if delimited.
    """
    num_tokens, num_cells = tokens.shape[1], frames.shape[2]
    num_patches, num_digits = num_cells // (patch * patch), patch * patch
    cells = np.empty((num_digits, num_patches), np.uint16)  # of each digit of each patch
    for q in range(num_patches):
        corner = q * patch // width * patch * width + q * patch % width
        for k in range(num_digits):
            cells[k, q] = corner + k // patch * width + k % patch
    edge = 1 if delimited else 0
    start = alphabet**num_digits
    frame_tokens = np.empty(num_patches + 2 * edge, np.uint32)
    if delimited:
        frame_tokens[0], frame_tokens[num_patches + 1] = start, start + 1
    patches = frame_tokens[edge : edge + num_patches]
    for r in range(frames.shape[0]):
        for f in range(frames.shape[1]):
            offset = f * frame_tokens.size
            if offset >= num_tokens:
                break
            frame = frames[r, f]
            patches[:] = 0
            for k in range(num_digits - 1, -1, -1):
                digit = cells[k]
                for q in range(num_patches):
                    patches[q] = patches[q] * np.uint32(alphabet) + np.uint32(frame[digit[q]])
            for t in range(min(frame_tokens.size, num_tokens - offset)):
                tokens[r, offset + t] = frame_tokens[t]
