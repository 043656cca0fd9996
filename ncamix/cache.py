"""The cache of compiled text and trained tokenizers, shared by all runs of a user.

Entries are folders named by fingerprint; they appear whole or not at all. The cache lies in
`NCAMIX_CACHE`, or in `~/.cache/ncamix`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

INFO = "source.json"  # what an entry holds; written before the entry appears


def cache_root() -> Path:
    """The cache folder; it need not exist."""
    given = os.environ.get("NCAMIX_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "ncamix"


def entry(fingerprint: str) -> Path:
    """The folder of an entry, existing or not."""
    return cache_root() / fingerprint


def entry_info(fingerprint: str) -> dict[str, Any] | None:
    """What an existing entry says of itself, or None."""
    try:
        info: dict[str, Any] = json.loads((entry(fingerprint) / INFO).read_text())
        return info
    except (OSError, ValueError):
        return None
