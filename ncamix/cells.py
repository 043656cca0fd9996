"""Grids of cell states as pixels: one palette for every picture of an automaton.

    states uint8 [num_frames, H, W] -> RGBA uint8 [height, width, 4] -> PNG

A cell's colour depends on its state alone in alphabets of up to 16 states, and on state and
alphabet in larger ones. A cell is a whole number of pixels, so nothing is ever resampled.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

# In OKLab, any two of the first ten are 0.16 apart, any two at all 0.09; simulated colour-blindness
# halves that. Cells have no border, so neighbours have to differ.
HUES = [
    *("#1d2440", "#f6edd9", "#cb4a64", "#2989b8", "#edae49", "#6b4b99", "#6cc5bf", "#7d1a20"),
    *("#869a3e", "#005653", "#e3b1dd", "#405bd7", "#b193d2", "#8a5a2b", "#c5d8c6", "#ee6c00"),
]
ABSENT = 255  # stands for no state: a cell that is not drawn
NUM_SHADES = 192  # of the ramp: with the hues, and greys for text, they fit the palette of a GIF


def palette() -> Pixels:
    """All colours of cells, RGB, uint8 [len(HUES) + NUM_SHADES, 3]: hues, then the ramp."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    ramp = colormaps["inferno"](np.linspace(0.02, 0.98, NUM_SHADES))
    colours = np.concatenate([to_rgba_array(HUES), ramp])[:, :3]
    return np.rint(255 * colours).astype(np.uint8)


def palette_indices(alphabet: int) -> NDArray[np.uint8]:
    """Where the colours of the states 0 .. alphabet - 1 stand in the palette, uint8 [alphabet].

    Up to 16 states are told apart by hue. More than that no set of hues keeps apart: they run from
    dark to light, in steps that look even.
    """
    if alphabet <= len(HUES):
        return np.arange(alphabet, dtype=np.uint8)
    shades = np.linspace(0, NUM_SHADES - 1, alphabet)
    return (len(HUES) + np.rint(shades)).astype(np.uint8)


def state_colours(alphabet: int) -> Pixels:
    """Colours of the states 0 .. alphabet - 1, RGB, uint8 [alphabet, 3]."""
    return palette()[palette_indices(alphabet)]


def cell_scale(grid: tuple[int, int], side: int) -> int:
    """Pixels a side of a cell, so that a grid (height, width) comes out about `side` pixels."""
    return max(1, round(side / max(grid)))


def enlarge(cells: NDArray[Any], scale: int) -> NDArray[Any]:
    """Each entry of [H, W, ...] as scale x scale equal ones."""
    return cells.repeat(scale, axis=0).repeat(scale, axis=1)


def strip(states: NDArray[np.uint8], scale: int, gap: int, colours: Pixels) -> Pixels:
    """Grids [num_frames, H, W] from left to right, RGBA, uint8 [H * scale, width, 4].

    A cell is scale x scale pixels of colours[state], clear if ABSENT; `gap` clear pixels part the
    grids.
    """
    inks = np.zeros((ABSENT + 1, 4), np.uint8)
    inks[: len(colours)] = np.insert(colours, 3, 255, axis=1)
    num_frames, height, width = states.shape
    pitch = width * scale + gap
    picture = np.zeros((height * scale, num_frames * pitch - gap, 4), np.uint8)
    for i, grid in enumerate(states):
        picture[:, i * pitch : i * pitch + width * scale] = enlarge(inks[grid], scale)
    return picture


def strip_png(states: NDArray[np.uint8], alphabet: int, side: int) -> bytes:
    """Grids [num_frames, H, W], each about `side` pixels, as a PNG for a page of any colour."""
    from matplotlib.image import imsave

    scale = cell_scale(states.shape[1:], side)
    buffer = io.BytesIO()
    nothing: dict[str, Any] = {"Software": None}
    picture = strip(states, scale, max(1, side // 14), state_colours(alphabet))
    imsave(buffer, picture, format="png", metadata=nothing)
    return buffer.getvalue()
