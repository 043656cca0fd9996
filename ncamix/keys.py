"""Fingerprints and keys: names for meanings, and numbers drawn from them.

A fingerprint is the hash of everything that determines some bytes, taken over canonical JSON, so it
covers meaning and not spelling. A key is a 64-bit integer derived from readable parts; all random
streams of ncamix start from keys, never from `seed + i`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(meaning: Any) -> str:
    """Canonical JSON: sorted keys, no spaces; values are JSON types or have an exact `str`."""
    return json.dumps(meaning, sort_keys=True, separators=(",", ":"), default=str)


def fingerprint(meaning: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that stand for `meaning`."""
    return hashlib.blake2b(canonical(meaning).encode(), digest_size=16).hexdigest()


def derive_key(*parts: str | int) -> int:
    """An unsigned 64-bit key for `parts`; different parts give unrelated keys."""
    digest = hashlib.blake2b(canonical(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
