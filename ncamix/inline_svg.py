"""Figures as SVG for a page: its fonts, and its colours, which follow light and dark schemes.

Neutral colours of the theme `PAGE` are stand-ins that become CSS variables of the page.
"""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from ncamix.charts import PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIABLES = {PAGE.ink: "ink", PAGE.muted: "muted", PAGE.line: "line", PAGE.paper: "paper"}


def to_svg(fig: Figure, label: str, prefix: str) -> str:
    """The figure as an <svg> element for an HTML page: same figure, same text.

    Neutral colours become CSS variables, ids get `prefix` (a page holds several charts), numbers
    are cut to 2 decimals (of a pixel), and all metadata goes.
    """
    buffer = io.StringIO()
    fig.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    svg = buffer.getvalue()
    width, height = (72 * float(v) for v in fig.get_size_inches())
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="(halo)[^"]*"', r'<g class="\1"', body)
    used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", body)
    body = re.sub(r'((?: id="|href="#|url\(#))([\w-]+)', rf"\g<1>{prefix}-\g<2>", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", _two_decimals, tag[0]), body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", body)
    for colour, name in _VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    body = re.sub(r"\n\s*", "\n", body)
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
    return head + body


def _two_decimals(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
