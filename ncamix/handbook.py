"""Pages of help: the language as users read it, whole or a section at a time, as Markdown."""

from __future__ import annotations

from pathlib import Path

from ncamix.errors import fail, nearest

_LANGUAGE = Path(__file__).with_name("language.md")


def topics() -> dict[str, str]:
    """Topic -> its page: `language` is the whole page, the others are its sections."""
    page = _LANGUAGE.read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    titled = {section.split("\n", 1)[0].lower(): f"## {section}" for section in sections}
    return {"language": page, **titled}


def _parts(pages: dict[str, str]) -> dict[str, str]:
    """The parts of sections that have a title of their own, by it."""
    parts = [part for page in list(pages.values())[1:] for part in page.split("\n### ")[1:]]
    return {part.split("\n", 1)[0].lower(): f"### {part}" for part in parts}


def find_page(topic: str) -> str:
    """The page of a topic, which may be shortened to its first words: a section, a part of one
    (`loggers`, `muon`), or that about a key. Raises UserError."""
    pages = topics()
    wanted = topic.lower()
    found = [name for name in pages if name == wanted] or [
        name for name in pages if name.startswith(wanted)
    ]
    if not found and wanted:
        for name, part in _parts(pages).items():
            if name.startswith(wanted):
                return part
    if not found:  # a key: the first section that is about it, further down than the whole page
        found = [n for n, page in list(pages.items())[1:] if f"`{wanted}:`" in page][:1]
    if len(found) != 1:
        raise fail(f"no such topic: '{topic}'", nearest(wanted, found or pages, "topics"))
    return pages[found[0]]
