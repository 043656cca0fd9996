"""Colours of cells and strips of frames: every pixel is known."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ncamix.cells import ABSENT, HUES, cell_scale, palette, state_colours, strip, strip_png


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Perceptual coordinates (Ottosson 2020) of RGB colours uint8 [n, 3]: lightness first."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = linear @ [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
    return np.cbrt(cones) @ [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]


def closest(rgb: np.ndarray) -> float:
    """Distance of the two colours that are most alike."""
    lab = oklab(rgb)
    return float(min(np.linalg.norm(a - b) for i, a in enumerate(lab) for b in lab[:i]))


def test_hues_are_told_apart() -> None:
    assert closest(state_colours(2)) > 0.6
    assert closest(state_colours(10)) > 0.16
    assert closest(state_colours(len(HUES))) > 0.089
    assert np.abs(oklab(state_colours(10)) - oklab(np.full((1, 3), 255))).max(axis=1).min() > 0.03


def test_a_state_keeps_its_colour_in_small_alphabets() -> None:
    for alphabet in range(2, len(HUES)):
        assert (state_colours(alphabet) == state_colours(len(HUES))[:alphabet]).all()


@pytest.mark.parametrize("alphabet", [17, 40, 64])
def test_large_alphabets_run_from_dark_to_light_in_even_steps(alphabet: int) -> None:
    colours = state_colours(alphabet)
    assert colours.shape == (alphabet, 3) and colours.dtype == np.uint8
    assert len(np.unique(colours, axis=0)) == alphabet
    lightness = oklab(colours)[:, 0]
    assert (np.diff(lightness) > 0).all() and lightness[0] < 0.2 and lightness[-1] > 0.9


def test_all_colours_fit_a_gif_with_room_for_text() -> None:
    assert len(palette()) + 16 <= 256


def test_a_strip_is_the_states_in_colour() -> None:
    states = np.random.default_rng(0).integers(0, 5, (3, 4, 6)).astype(np.uint8)
    colours = state_colours(5)
    picture = strip(states, 7, 2, colours)
    assert picture.shape == (28, 3 * (6 * 7 + 2) - 2, 4) and picture.dtype == np.uint8
    for frame, row, column in np.ndindex(states.shape):
        x = frame * (6 * 7 + 2) + column * 7
        cell = picture[row * 7 : row * 7 + 7, x : x + 7]
        assert (cell[..., :3] == colours[states[frame, row, column]]).all()
        assert (cell[..., 3] == 255).all()
    gaps = [x for x in range(picture.shape[1]) if x % 44 >= 42]
    assert (picture[:, gaps, 3] == 0).all()


def test_absent_cells_are_clear() -> None:
    states = np.array([[[0, 1], [ABSENT, 63]]], np.uint8)
    assert (strip(states, 1, 0, state_colours(64))[..., 3] == [[255, 255], [0, 255]]).all()


def test_a_png_holds_the_strip_as_it_is() -> None:
    states = np.random.default_rng(1).integers(0, 40, (2, 3, 5)).astype(np.uint8)
    data = strip_png(states, 40, 84)
    scale = cell_scale((3, 5), 84)
    assert scale == 17
    expected = strip(states, scale, 6, state_colours(40))
    with Image.open(io.BytesIO(data)) as image:
        assert (np.asarray(image.convert("RGBA")) == expected).all()
    assert data == strip_png(states, 40, 84)


@pytest.mark.parametrize(("grid", "scale"), [((12, 12), 10), ((32, 16), 4), ((256, 3), 1)])
def test_cells_are_whole_pixels(grid: tuple[int, int], scale: int) -> None:
    assert cell_scale(grid, 120) == scale
