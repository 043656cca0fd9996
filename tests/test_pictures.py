"""Contact sheet and animation: known states at known cells, nothing cut off, same bytes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ncamix.cells import state_colours, strip
from ncamix.pictures import (
    FRAME_GAP,
    FRAME_SIDE,
    TILE_SIDE,
    Rollouts,
    animation,
    contact_sheet,
    sheet_size,
)


def rollouts(
    name: str = "rich",
    alphabet: int = 10,
    grid: tuple[int, int] = (12, 12),
    num_rules: int = 2,
    num_frames: int = 4,
    settings: str = "10 states",
) -> Rollouts:
    rng = np.random.default_rng([alphabet, *grid])
    frames = rng.integers(0, alphabet, (num_rules, num_frames, *grid)).astype(np.uint8)
    scores = np.linspace(0.3, 0.4, num_rules)
    return Rollouts(name, settings, "gzip 0.30-0.40", alphabet, frames, scores, 10, 1)


def decoded(data: bytes) -> np.ndarray:
    """A PNG as RGB, uint8 [height, width, 3]; its border is white, so nothing is cut off."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    for border in (pixels[:30], pixels[-30:], pixels[:, :30], pixels[:, -30:]):
        assert (border == 255).all()
    return pixels


def places(pixels: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Every (y, x) at which `pixels` hold `part`."""
    height, width = part.shape[:2]
    corners = np.argwhere((pixels == part[0, 0]).all(axis=2)).tolist()
    return [
        (y, x)
        for y, x in corners
        if np.array_equal(pixels[y, x : x + width], part[0])
        and np.array_equal(pixels[y : y + height, x : x + width], part)
    ]


def rows(pixels: np.ndarray, source: Rollouts) -> list[tuple[int, int]]:
    """Where each rule's row of frames stands on a sheet: exactly once, with white gaps."""
    scale, _, _ = source.scaled(FRAME_SIDE)
    found = []
    for states in source.frames:
        row = strip(states, scale, FRAME_GAP, state_colours(source.alphabet))
        flat = np.where(row[..., 3:] == 255, row[..., :3], np.uint8(255))
        (place,) = places(pixels, flat)
        found.append(place)
    return found


@pytest.mark.parametrize("alphabet", [2, 10, 15, 16, 17, 64])
@pytest.mark.parametrize("grid", [(12, 12), (32, 16), (4, 24)])
def test_a_sheet_shows_every_cell(alphabet: int, grid: tuple[int, int]) -> None:
    source = rollouts(alphabet=alphabet, grid=grid)
    pixels = decoded(contact_sheet("title", "about", [source]))
    (first, left), (second, other) = rows(pixels, source)
    assert left == other and second - first >= source.scaled(FRAME_SIDE)[1] + FRAME_GAP


def test_a_known_state_at_a_known_cell() -> None:
    source = rollouts(alphabet=3, num_rules=1, num_frames=2)
    frames = np.zeros_like(source.frames)
    frames[0, 1, 5, 7] = 2
    pixels = decoded(contact_sheet("title", "about", [replace(source, frames=frames)]))
    ((top, left),) = rows(pixels, replace(source, frames=frames))
    scale, _, width = source.scaled(FRAME_SIDE)
    y, x = top + 5 * scale, left + width + FRAME_GAP + 7 * scale
    assert (pixels[y : y + scale, x : x + scale] == state_colours(3)[2]).all()
    assert (pixels[y, x - 1] == state_colours(3)[0]).all()
    assert (pixels[y - 1, x] == state_colours(3)[0]).all()


def test_sources_stand_below_one_another() -> None:
    sources = [rollouts("a", 2), rollouts("b", 15, (32, 16), 3), rollouts("c", 40, (3, 3))]
    pixels = decoded(contact_sheet("title", "about", sources))
    found = [rows(pixels, source) for source in sources]
    tops = [y for place in found for y, _ in place]
    assert tops == sorted(tops)
    assert len({x for place in found for _, x in place}) == 1


def test_what_is_as_above_is_not_written_again() -> None:
    same = decoded(contact_sheet("t", "a", [rollouts("a"), rollouts("b")]))
    other = decoded(contact_sheet("t", "a", [rollouts("a"), rollouts("b", settings="others")]))
    later = decoded(contact_sheet("t", "a", [rollouts("a"), replace(rollouts("b"), first_step=11)]))
    assert same.shape[0] < other.shape[0] == later.shape[0]


@pytest.mark.parametrize(
    "sources",
    [
        [rollouts("n" * 90)],
        [rollouts(settings="s" * 150), rollouts("b", 2)],
        [rollouts(grid=(256, 3), num_frames=40)],
        [rollouts(grid=(3, 256), num_rules=9)],
        [replace(rollouts(num_frames=1, num_rules=1), first_step=1_000_000, stride=1000)],
        [replace(rollouts(grid=(200, 3), num_frames=9), first_step=1_000_000, band="b" * 60)],
    ],
    ids=["long name", "long settings", "tall", "wide", "single", "late"],
)
def test_nothing_is_cut_off(sources: list[Rollouts]) -> None:
    decoded(contact_sheet("title", "about", sources))
    decoded(contact_sheet("t" * 80, "about", sources))
    with Image.open(io.BytesIO(animation("t" * 80, sources))) as image:
        pixels = np.asarray(image.convert("RGB"))
    for border in (pixels[:16], pixels[-16:], pixels[:, :16], pixels[:, -16:]):
        assert (border == 255).all()


def test_the_size_of_a_sheet_is_known_ahead() -> None:
    sources = [rollouts("a", num_rules=3), rollouts("b", grid=(64, 32), num_rules=2)]
    grids = [source.frames.shape[2:] for source in sources]
    height, width = sheet_size(grids, [3, 2], 4)
    drawn = decoded(contact_sheet("t", "a", sources)).shape
    assert height <= drawn[0] <= height + 400
    assert width <= drawn[1] <= width + 400


def test_drawing_twice_gives_the_same_bytes() -> None:
    sources = [rollouts("a", 2), rollouts("b", 64)]
    assert contact_sheet("t", "a", sources) == contact_sheet("t", "a", sources)
    assert animation("t", sources) == animation("t", sources)


def moving(data: bytes) -> tuple[list[np.ndarray], list[int]]:
    """Frames of a GIF as RGB, and how long each is shown, in milliseconds. It loops for ever."""
    frames, times = [], []
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "GIF" and image.info["loop"] == 0
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
            times.append(image.info["duration"])
    return frames, times


def test_an_animation_shows_every_cell_of_every_frame() -> None:
    sources = [
        rollouts("a", 2),
        rollouts("b", 15, (32, 16), 9),
        rollouts("c", 64),
        rollouts("d", 33),
    ]
    frames, times = moving(animation("title", sources))
    assert times == [200, 200, 200, 1000]
    assert len({frame.shape for frame in frames}) == 1
    for source in sources:
        scale, height, width = source.scaled(TILE_SIDE)
        for rule in source.frames:
            tiles = [strip(grid[None], scale, 0, state_colours(source.alphabet)) for grid in rule]
            ((y, x),) = places(frames[0], tiles[0][..., :3])
            for frame, tile in zip(frames, tiles, strict=True):
                assert (frame[y : y + height, x : x + width] == tile[..., :3]).all()


def test_only_tiles_move() -> None:
    source = rollouts(num_rules=1)
    frames, _ = moving(animation("title", [source]))
    changed = np.argwhere((frames[0] != frames[1]).any(axis=2))
    _, height, width = source.scaled(TILE_SIDE)
    assert (np.ptp(changed, axis=0) < (height, width)).all()


def test_an_automaton_that_stands_still() -> None:
    source = rollouts(num_frames=1)
    four = replace(source, frames=source.frames.repeat(4, axis=1))
    for still in (source, four):
        with Image.open(io.BytesIO(animation("title", [still]))) as image:
            pixels = np.asarray(image.convert("RGB"))
        tile = strip(source.frames[0], source.scaled(TILE_SIDE)[0], 0, state_colours(10))
        assert len(places(pixels, tile[..., :3])) == 1


def test_cut_keeps_the_first_frames() -> None:
    source = rollouts(num_frames=5)
    assert (source.cut(2).frames == source.frames[:, :2]).all()
