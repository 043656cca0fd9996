"""A sheet to draw on: text, pixels and axes placed by pixels from its top left corner.

Sizes of text are points (1/72 inch); `dpi` says how many pixels an inch is. Nothing is resampled.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncamix.charts import TEXT, WHITE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL, HEADING, TITLE = TEXT - 2, TEXT + 1, 18.0


def text_pixels(text: str, dpi: int, size: float = SMALL, weight: str = "normal") -> float:
    """How wide `text` is drawn, in pixels."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, _, _ = RendererAgg(1, 1, dpi).get_text_width_height_descent(text, font, ismath=False)
    return float(width)


class Canvas:
    """A white sheet of width x height pixels. Coordinates (x, y) run right and down.

    Draw under `charts.style`.
    """

    def __init__(self, width: float, height: float, dpi: int) -> None:
        self.width, self.height = round(width), round(height)
        self.figure = new_figure(self.height * 72 / dpi, self.width * 72 / dpi, dpi)
        self.figure.set_facecolor(WHITE.paper)

    def text(self, x: float, y: float, text: str, size: float = TEXT, **look: Any) -> None:
        """Write `text` in the colour of ink, its baseline at y; `look` says how else."""
        look = {"color": WHITE.ink, "fontsize": size, **look}
        self.figure.text(x / self.width, 1 - y / self.height, text, **look)

    def note(self, x: float, y: float, text: str, size: float = SMALL, **look: Any) -> None:
        """Write `text` quietly."""
        self.text(x, y, text, size, color=WHITE.muted, **look)

    def line(self, x: float, y: float, length: float, **look: Any) -> None:
        """Draw a line from (x, y) to the right."""
        from matplotlib.lines import Line2D

        ends, height = [x / self.width, (x + length) / self.width], 1 - y / self.height
        self.figure.add_artist(Line2D(ends, [height, height], **look))

    def image(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Put RGBA pixels, uint8 [height, width, 4], as they are, with their corner at (x, y)."""
        self.figure.figimage(pixels, x, self.height - y - len(pixels), origin="upper")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes that span width x height pixels, with their corner at (x, y)."""
        bottom = 1 - (y + height) / self.height
        box = (x / self.width, bottom, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def brightness(self) -> NDArray[np.float64]:
        """Brightness of every pixel, 0 (black) to 1: float64 [height, width]."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return np.asarray(np.asarray(canvas.buffer_rgba())[..., :3].mean(axis=2) / 255)
