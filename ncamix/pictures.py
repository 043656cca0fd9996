"""Rules at work, drawn: a contact sheet to look through, and an animation.

    rollouts of each source -> contact sheet (PNG): a block a source, a row a rule
                            -> animation (GIF):     a block a source, a tile a rule

Positions and sizes are pixels from the top left corner, sizes of text are points.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ncamix.canvas import HEADING, TITLE, Canvas, text_pixels
from ncamix.cells import (
    HUES,
    Pixels,
    cell_scale,
    enlarge,
    palette,
    palette_indices,
    state_colours,
    strip,
)
from ncamix.charts import TEXT, style

SHEET_DPI, SHEET_MARGIN = 144, 44
FRAME_SIDE, FRAME_GAP = 120, 8  # side: of a grid, about
SHEET_HEAD, BLOCK_HEAD, SHORT_HEAD, BLOCK_FOOT = 158, 118, 50, 38
LEAST_ROW = 30  # height of a row with room for one line of text
WRAPPED_GAP = 20  # below rules whose frames take several lines

GIF_DPI, GIF_MARGIN, GIF_WIDTH = 96, 24, 760
TILE_SIDE, TILE_GAP, TILE_FOOT, LEAST_TILE = 112, 14, 26, 44
GIF_HEAD, TILES_HEAD, TILES_FOOT = 76, 54, 30
FRAME_MS, LAST_FRAME_MS = 200, 1000
NUM_GREYS = 16


@dataclass(frozen=True)
class Rollouts:
    """Rules of one source at work.

    settings, band: what to write beside them. frames: cell states, uint8 [rules, frames, H, W];
    frame f is the state after first_step + f * stride steps. scores: float64 [rules].
    For contact sheets alone: labels, lines beside each rule instead of its score and band; side,
    of a grid, in pixels, about; in_line, the frames after which a rule goes on below, None: never.
    """

    name: str
    settings: str
    band: str
    alphabet: int
    frames: NDArray[np.uint8]
    scores: NDArray[np.float64]
    first_step: int
    stride: int
    labels: tuple[tuple[str, ...], ...] = ()
    side: int = FRAME_SIDE
    in_line: int | None = None

    def cut(self, num_frames: int) -> Rollouts:
        """The first frames alone."""
        return replace(self, frames=self.frames[:, :num_frames])

    def like(self, other: Rollouts) -> bool:
        """Whether settings, step numbers and their places are those of `other`."""
        told = [(r.settings, r.first_step, r.stride, r.frames.shape[1:]) for r in (self, other)]
        return told[0] == told[1]

    def label(self, rule: int) -> tuple[str, ...]:
        """The lines of text beside a rule."""
        return self.labels[rule] if self.labels else (f"{self.scores[rule]:.3f}", self.band)

    def lines(self) -> list[slice]:
        """The frames in each line of a rule on a contact sheet."""
        total = self.frames.shape[1]
        step = self.in_line or total
        return [slice(first, min(first + step, total)) for first in range(0, total, step)]

    def scaled(self, side: int | None = None) -> tuple[int, int, int]:
        """Pixels a side of a cell, and height and width of a grid about `side` pixels large."""
        height, width = self.frames.shape[2:]
        scale = cell_scale((height, width), side or self.side)
        return scale, height * scale, width * scale


# ---- the contact sheet


def sheet_size(
    grids: Sequence[tuple[int, int]], num_rules: Sequence[int], num_frames: int
) -> tuple[int, int]:
    """Height and width of a contact sheet in pixels, without its text.

    Each source has its grid (height, width) and its number of rules.
    """
    height, width = 0, 0
    for grid, rules in zip(grids, num_rules, strict=True):
        scale = cell_scale(grid, FRAME_SIDE)
        height += SHORT_HEAD + rules * (max(LEAST_ROW, grid[0] * scale) + FRAME_GAP)
        width = max(width, num_frames * (grid[1] * scale + FRAME_GAP))
    return height, width


def contact_sheet(title: str, about: str, sources: Sequence[Rollouts]) -> bytes:
    """One PNG of all sources: a row a rule, its score and band beside its frames.

    Settings and step numbers that are those of the source above are not written again.
    """
    again = [False, *(below.like(above) for above, below in pairwise(sources))]
    heads = [SHORT_HEAD if repeated else BLOCK_HEAD for repeated in again]
    with style():
        labels = max(_label_width(source) for source in sources)
        left = SHEET_MARGIN + round(labels) + 28
        inner = max(
            text_pixels(title, SHEET_DPI, TITLE, "bold"),
            text_pixels(about, SHEET_DPI, TEXT),
            *(_block_width(source, left - SHEET_MARGIN) for source in sources),
        )
        heights = [head + rows_height(s) for s, head in zip(sources, heads, strict=True)]
        tops = np.cumsum([SHEET_HEAD, *heights]).tolist()
        canvas = Canvas(inner + 2 * SHEET_MARGIN, tops[-1], SHEET_DPI)
        canvas.text(SHEET_MARGIN, SHEET_MARGIN + 36, title, TITLE, fontweight="bold")
        canvas.note(SHEET_MARGIN, SHEET_MARGIN + 78, about, TEXT)
        for source, head, top in zip(sources, heads, tops, strict=False):
            canvas.text(SHEET_MARGIN, top + 30, source.name, HEADING, fontweight="bold")
            if head == BLOCK_HEAD:
                _draw_head(canvas, source, left, top)
            _draw_rows(canvas, source, left, top + head)
        return canvas.png()


def _label_width(source: Rollouts) -> float:
    """Pixels of the widest text beside a source's rules."""
    labels = [_fitted(source, rule) for rule in range(len(source.frames))]
    first = [text_pixels(lines[0], SHEET_DPI, TEXT) for lines in labels if len(lines) > 1]
    rest = [text_pixels(line, SHEET_DPI) for lines in labels for line in lines[len(lines) > 1 :]]
    return max(first + rest)


def _fitted(source: Rollouts, rule: int) -> tuple[str, ...]:
    """What stands beside a row: its lines of text if it is high enough, otherwise one."""
    _, height, _ = source.scaled()
    lines = source.label(rule)
    return lines if height >= LEAST_ROW * len(lines) else ("   ".join(lines),)


def _heights(source: Rollouts) -> tuple[int, int]:
    """Pixels from a line of frames to the next, and from a rule to the next."""
    _, height, _ = source.scaled()
    line, lines = max(LEAST_ROW, height) + FRAME_GAP, len(source.lines())
    return line, lines * line + (WRAPPED_GAP if lines > 1 else 0)


def rows_height(source: Rollouts) -> int:
    """Pixels from the top of a source's rows to the next source."""
    return len(source.frames) * _heights(source)[1] + BLOCK_FOOT


def _block_width(source: Rollouts, labels: int) -> float:
    """Pixels that a source needs between the margins, `labels` of them left of the frames."""
    _, _, width = source.scaled()
    return max(
        labels + source.lines()[0].stop * (width + FRAME_GAP) - FRAME_GAP,
        text_pixels(source.name, SHEET_DPI, HEADING, "bold"),
        text_pixels(source.settings, SHEET_DPI) + 28 + _key(source.alphabet).shape[1],
    )


def _key(alphabet: int) -> Pixels:
    """The colours of the states in order, as one line of pixels."""
    states, colours = np.arange(alphabet, dtype=np.uint8), state_colours(alphabet)
    if alphabet <= len(HUES):
        return strip(states[:, None, None], 18, 4, colours)
    return strip(np.tile(states, (1, 3, 1)), 6, 0, colours)


def _draw_head(canvas: Canvas, source: Rollouts, left: int, top: int) -> None:
    """Below a source's name: settings, key of the states, and step numbers over the frames."""
    canvas.note(SHEET_MARGIN, top + 62, source.settings)
    key_left = SHEET_MARGIN + round(text_pixels(source.settings, SHEET_DPI)) + 28
    canvas.image(key_left, top + 46, _key(source.alphabet))
    _, _, width = source.scaled()
    steps = [source.first_step + source.stride * i for i in range(source.lines()[0].stop)]
    room = text_pixels(f"{steps[-1]}", SHEET_DPI) + 8
    every = int(-(-room // (width + FRAME_GAP)))  # over narrow grids, not every step
    canvas.note(SHEET_MARGIN, top + 106, "step")
    for i in range(0, len(steps), every):
        middle = left + i * (width + FRAME_GAP) + width / 2
        canvas.note(middle, top + 106, f"{steps[i]}", ha="center")


def _draw_rows(canvas: Canvas, source: Rollouts, left: int, top: int) -> None:
    """The rules of a source, from `top` down: labels at the margin, frames from `left` on."""
    scale, height, _ = source.scaled()
    row, colours = max(LEAST_ROW, height), state_colours(source.alphabet)
    line_height, rule_height = _heights(source)
    for rule, states in enumerate(source.frames):
        middle, lines = top + row // 2, _fitted(source, rule)
        if len(lines) == 1:
            canvas.note(SHEET_MARGIN, middle + 7, lines[0])
        else:
            first = middle + 11 - LEAST_ROW * (len(lines) - 1) // 2
            canvas.text(SHEET_MARGIN, first, lines[0])
            for below, line in enumerate(lines[1:], 1):
                canvas.note(SHEET_MARGIN, first + LEAST_ROW * below, line)
        for i, frames in enumerate(source.lines()):
            y = top + i * line_height + (row - height) // 2
            canvas.image(left, y, strip(states[frames], scale, FRAME_GAP, colours))
            if i:
                step = f"from step {source.first_step + source.stride * frames.start}"
                canvas.note(left - 28, y + height // 2 + 7, step, ha="right")
        top += rule_height


# ---- the animation


def animation(title: str, sources: Sequence[Rollouts]) -> bytes:
    """One GIF of all sources, looping: a tile a rule, its score below it.

    All sources have equally many frames, five a second; the last one is held for a second.
    """
    from PIL import Image

    with style():
        still, tiles = _lay_tiles(title, sources)
    greys = np.rint(np.linspace(0, 255, NUM_GREYS)).astype(np.uint8)
    colours = np.concatenate([palette(), greys[:, None].repeat(3, axis=1)])
    images = []
    for frame in range(sources[0].frames.shape[1]):
        picture = still.copy()
        for source, rule, x, y in tiles:
            scale, height, width = source.scaled(TILE_SIDE)
            cells = palette_indices(source.alphabet)[source.frames[rule, frame]]
            picture[y : y + height, x : x + width] = enlarge(cells, scale)
        image = Image.fromarray(picture)
        image.putpalette(colours.tobytes())
        images.append(image)
    times = [FRAME_MS] * (len(images) - 1) + [LAST_FRAME_MS]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    return buffer.getvalue()


def _lay_tiles(
    title: str, sources: Sequence[Rollouts]
) -> tuple[NDArray[np.uint8], list[tuple[Rollouts, int, int, int]]]:
    """What stands still, as indices of colours, uint8 [height, width]; and where tiles go.

    A tile is (source, rule, x, y).
    """
    tiles, heads = [], []
    right, top = GIF_MARGIN + text_pixels(title, GIF_DPI, TITLE, "bold"), GIF_HEAD
    for source in sources:
        about = f"{source.band}, {source.settings}"
        heads.append((top, source.name, about))
        right = max(
            right,
            GIF_MARGIN + text_pixels(source.name, GIF_DPI, HEADING, "bold"),
            GIF_MARGIN + text_pixels(about, GIF_DPI),
        )
        _, height, width = source.scaled(TILE_SIDE)
        room = max(width, LEAST_TILE)  # for its score, too
        in_row = max(1, (GIF_WIDTH + TILE_GAP) // (room + TILE_GAP))
        y = top + TILES_HEAD
        for rule in range(len(source.frames)):
            x = GIF_MARGIN + rule % in_row * (room + TILE_GAP)
            y = top + TILES_HEAD + rule // in_row * (height + TILE_FOOT + TILE_GAP)
            tiles.append((source, rule, x + (room - width) // 2, y))
            right = max(right, x + room)
        top = y + height + TILE_FOOT + TILES_FOOT
    canvas = Canvas(right + GIF_MARGIN, top, GIF_DPI)
    canvas.text(GIF_MARGIN, GIF_MARGIN + 24, title, TITLE, fontweight="bold")
    for top, name, about in heads:
        canvas.text(GIF_MARGIN, top + 14, name, HEADING, fontweight="bold")
        canvas.note(GIF_MARGIN, top + 36, about)
    for source, rule, x, y in tiles:
        _, height, width = source.scaled(TILE_SIDE)
        canvas.note(x + width / 2, y + height + 18, f"{source.scores[rule]:.3f}", ha="center")
    greys = np.rint((NUM_GREYS - 1) * canvas.brightness())
    return (len(palette()) + greys).astype(np.uint8), tiles
