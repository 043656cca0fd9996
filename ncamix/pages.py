"""Pages that need no network, no script and no other file: templates, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncamix.disk import UNWRITABLE, unwritable
from ncamix.files import write_whole
from ncamix.quantities import counted, format_count, format_seconds


def render_page(template: str, values: Mapping[str, Any]) -> bytes:
    """A template of `templates/` with values; text is escaped, `Markup` is not."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        count=count,
        counted=counted,
        fixed=fixed,
        duration=format_seconds,
        perplexity=perplexity,
        short=format_count,
        signed=signed,
    )
    return environment.get_template(template).render(values).encode()


def write_page(folder: Path, name: str, page: bytes, way_out: str) -> Path:
    """Write a file into a folder, whole or not at all; its path.

    Raises:
        UserError: the folder cannot be written to. way_out: what helps beside making room.
    """
    file = folder / name
    try:
        write_whole(file, page)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise unwritable(folder, file.name, error, way_out) from None
    return file


# ---- numbers as text; what is none is a dash


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def count(value: Any) -> str:
    return f"{value:,.0f}" if is_finite(value) else "–"


def fixed(value: Any, digits: int = 3) -> str:
    return f"{value:,.{digits}f}" if is_finite(value) else "–"


def perplexity(value: Any) -> str:
    if not is_finite(value):
        return "–"
    return f"{value:,.2f}" if value < 100 else f"{value:,.1f}" if value < 1e4 else f"{value:,.0f}"


def signed(value: int) -> str:
    return f"+{value:,}" if value > 0 else f"−{-value:,}" if value < 0 else "0"
