"""Small multiples: panels of one scale, their places, and what is cut off."""

from __future__ import annotations

import numpy as np
import pytest

from ncamix import charts
from ncamix.charts import WIDTH, in_lines, shortened, text_width
from ncamix.multiples import multiples


@pytest.mark.parametrize("count", [1, 3, 7, 25, 60])
def test_panels_lie_side_by_side_on_the_page(count: int) -> None:
    titles = [f"arm {i}" for i in range(count)]
    fig, panels = multiples(titles, (0, 10), (1, 3), charts.WHITE, [(0, "0"), (10, "10")], str, "x")
    height = 72 * fig.get_size_inches()[1]
    boxes = [(p.left, p.top, p.left + p.width, p.top + p.height) for p in panels]
    assert len(panels) == count
    assert all(x0 > 0 and x1 <= WIDTH and y0 > 0 and y1 < height for x0, y0, x1, y1 in boxes)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        for other in boxes[:i]:
            assert x1 <= other[0] or other[2] <= x0 or y1 <= other[1] or other[3] <= y0
    words = [text.get_text() for text in fig.axes[0].texts]
    assert [word for word in words if word.startswith("arm")] == titles


def test_a_panel_has_its_own_units_and_cuts_what_lies_beyond() -> None:
    _, (panel, _) = multiples(["a", "b"], (0, 10), (1, 3), charts.WHITE, [], str, "")
    assert panel.x([0, 10]).tolist() == [panel.left, panel.left + panel.width]
    assert panel.y([3, 1]).tolist() == [panel.top, panel.top + panel.height]
    panel.line([0, 5], [2, 99])
    panel.band([0, 5], [1, np.nan], [2, 3])
    line, band = panel.ax.lines[-1], panel.ax.collections[-1]
    for drawn in (line, band):
        box = drawn.get_clip_box()
        assert box is not None
        assert box.x1 - box.x0 == pytest.approx(panel.width + 6)
        assert abs(box.y1 - box.y0) == pytest.approx(panel.height + 6)


def test_long_names_keep_their_ends_and_break_at_commas() -> None:
    name = "upper_half_from_low_to_high,alphabet=10,duration=20%"
    room = 30 * text_width("m")
    assert shortened("short", room) == "short"
    assert shortened("x" * 30, room) == "x" * 30, "what just fits stays whole"
    cut = shortened(name, room)
    assert len(cut) == 30 and cut.startswith("upper_half") and cut.endswith("duration=20%")
    assert in_lines("short,name", room) == "short,name"
    assert in_lines(name, room) == "upper_half_from_low_to_high,\nalphabet=10,duration=20%"
    assert in_lines("y" * 40, room) == shortened("y" * 40, room)
