"""Rows of intervals: what is drawn, and what is written because it lies too far off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes

from ncamix import charts
from ncamix.over_seeds import Band
from ncamix.statistics import Interval
from ncamix.study_drawings import Panel, Row, interval_rows, later


def drawn(rows: Sequence[Row], zero: bool = False) -> tuple[Axes, set[float], list[str]]:
    """The axes of a panel, the heights of the rows that are drawn there, and all its words."""
    with charts.style():
        (axes,) = interval_rows([Panel("a title", rows, zero, 0.02)], charts.PAGE).axes
    heights = {float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"}
    return axes, heights, [text.get_text() for text in axes.texts]


def row(name: str, mean: float, half: float = 0.02) -> Row:
    return Row(name, mean, Interval(mean - half, mean + half, 0.95))


NEAR = [row("a", 0.0), row("b", 0.02), row("c", -0.03)]


@pytest.mark.parametrize(
    ("mean", "words"), [(2.5, "+2.500 (2.480 to 2.520) →"), (-2.5, "← −2.500 (−2.520 to −2.480)")]
)
def test_a_row_far_off_is_written_at_its_end(mean: float, words: str) -> None:
    axes, heights, said = drawn([*NEAR, row("far", mean)], zero=True)
    assert heights == {0, 1, 2} and words in said
    low, high = axes.get_xlim()
    assert -0.06 < low < -0.04 and 0.03 < high < 0.05


def test_what_is_near_enough_is_drawn() -> None:
    _, heights, said = drawn([*NEAR, row("near", 0.15)])
    assert heights == {0, 1, 2, 3} and not any("→" in words for words in said)


def test_a_wide_row_is_drawn_whole() -> None:
    """It lies among the others, too."""
    axes, heights, _ = drawn([*NEAR, row("wide", 1.0, 1.0)])
    assert heights == {0, 1, 2, 3} and axes.get_xlim()[1] > 2


def test_most_rows_are_drawn() -> None:
    """Of four rows one may be left out, of eight two, of three none."""
    two = [row("far", 2.5), row("farther", 3.0)]
    assert drawn([*NEAR, *two])[1] == {0, 1, 2, 3, 4}
    more = [row(str(i), 0.001 * i) for i in range(3)]
    assert drawn([*NEAR, *more, *two])[1] == set(range(6))
    assert drawn([*NEAR[:2], two[0]])[1] == {0, 1, 2}


def test_rows_without_figures_take_no_part() -> None:
    _, heights, _ = drawn([Row("nothing", None, None), *NEAR, row("far", 2.5)])
    assert heights == {1, 2, 3}
    assert drawn([Row("nothing", None, None)])[1] == set()


def test_curves_may_be_cut_off_where_they_are_worse_and_never_where_they_are_better() -> None:
    def band(*values: float) -> Band:
        mean, tokens = np.array(values), np.arange(len(values)) * 100.0
        return Band(tokens, tokens, mean, mean - 0.1, mean + 0.1, 5)

    bands = {"first": band(9, 4, 3), "better": band(9, 3, 2), "worse": band(9, 8, 7)}
    low, high = later(bands, {"first"})
    assert 1.7 < low < 1.9 and 4.1 < high < 4.3
    assert later(bands, set())[1] > 8
