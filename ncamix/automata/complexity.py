"""Complexity of rules: the gzip measure, and the shares of random rules that measured bands hold.

    tokens [N, T] -> compressed bytes -> score = compressed bytes / bytes
    bands.json (settings -> compressed size -> number of rules) -> share of a band

The table answers in microseconds, without compiled code, whether a band can be reached.
"""

from __future__ import annotations

import functools
import json
import warnings
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ncamix.automata.rule import Automaton

TABLE = Path(__file__).with_name("bands.json")
SCORED_FRAMES = 10
PROBE_BYTES = 9794  # what zlib 1.2 and 1.3 make of a fixed probe


def gzip_bytes(tokens: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Size of each row of tokens [N, T] as little-endian int32, gzip -9: int64 [N] (paper)."""
    _check_zlib()
    return np.array([_gzipped(row) for row in tokens], np.int64)


def band_share(automaton: Automaton, low: float, high: float) -> float | None:
    """Share of random rules that score in [low, high); None if these settings were not measured."""
    for entry in _table():
        if entry["automaton"] == {**asdict(automaton), "grid": list(automaton.grid)}:
            size = entry["serialized_bytes"]
            sizes = entry["sizes"].items()
            inside = sum(num for packed, num in sizes if low <= int(packed) / size < high)
            return float(inside / entry["num_rules"])
    return None


def measure_bands(automaton: Automaton, num_rules: int = 4000, key: int = 0) -> dict[str, Any]:
    """Entry of the table: histogram of compressed sizes (bytes -> rules) over random rules."""
    serialized_bytes = 4 * SCORED_FRAMES * automaton.patches_per_frame
    scores = automaton.scores(key, np.arange(num_rules), np.zeros(num_rules, np.int64))
    sizes = np.rint(scores * serialized_bytes).astype(np.int64)
    return {
        "automaton": {**asdict(automaton), "grid": list(automaton.grid)},
        "num_rules": num_rules,
        "serialized_bytes": serialized_bytes,
        "sizes": {
            str(size): int(num)
            for size, num in zip(*np.unique(sizes, return_counts=True), strict=True)
        },
    }


def _gzipped(tokens: NDArray[Any]) -> int:
    data = tokens.astype("<i4").tobytes()
    return len(zlib.compress(data, 9, wbits=31))  # 31: with gzip's 18 bytes of header and trailer


@functools.cache
def _table() -> list[dict[str, Any]]:
    return list(json.loads(TABLE.read_text("utf-8")))


@functools.cache
def _check_zlib() -> None:
    """Warn where zlib is a fork such as zlib-ng: a tenth of its sizes differ by a byte or more."""
    probe = np.arange(8000, dtype=np.int64) ** 3 % 1_000_003 % 100
    if _gzipped(probe) != PROBE_BYTES:
        warnings.warn(
            f"zlib {zlib.ZLIB_RUNTIME_VERSION} here compresses unlike zlib's own releases: scores "
            "of automata, hence the rules a band accepts, may differ from other machines",
            stacklevel=2,
        )
