"""What is known of an automaton's bands: how random rules spread over them, and what samples cost.

    automaton, measure -> table | the user's cache | measured now, once -> Spread
    quantiles -> the band of scores between them
    sources -> core-seconds to generate them

A spread is measured with a fixed seed, so it is the same wherever it comes from.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from dataclasses import asdict
from fractions import Fraction

from ncamix import cache
from ncamix.automata import (
    COUNTED_BYTES,
    SPREAD_RULES,
    VERSION,
    Automaton,
    Band,
    Spread,
    measure_spread,
    scored_steps,
    shipped_spread,
    spread_from_json,
    whole,
)
from ncamix.files import write_whole
from ncamix.keys import fingerprint
from ncamix.waiting import Say, quiet

# Seconds on one core of an AMD EPYC of 2023 (Zen 4).
STEP_CELL, STEP_CELL_STATE = 3.5e-9, 0.43e-9  # a cell's step, and more for each state
WEIGHT, GRID_CELL, SEARCH = 6e-9, 12e-9, 6e-6  # a weight and a cell drawn; a candidate beside that
# A byte or cell that is scored, and what a byte costs more for each byte before it.
MEASURED = {"gzip": (10e-9, 9.5e-12), "zstd": (8e-9, 0.0), "change_rate": (1e-9, 0.0)}

_known: dict[tuple[Automaton, str], Spread] = {}


def measure_version(automaton: Automaton, measure: str) -> str:
    """What amounts depend on beside ncamix: a release of zstd, or of zlib for large grids."""
    if measure == "gzip" and whole(automaton, measure) > COUNTED_BYTES:
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    if measure != "zstd":
        return ""
    import zstandard

    return ".".join(map(str, zstandard.ZSTD_VERSION))


def spread_of(automaton: Automaton, measure: str, say: Say = quiet) -> Spread:
    """The spread of an automaton's rules; measured and kept in the user's cache if it is new."""
    spread = shipped_spread(automaton, measure) or _known.get((automaton, measure))
    if spread is not None:
        return spread
    file = cache.cache_root() / f"spread-{_fingerprint(automaton, measure)}.json"
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError, AttributeError):
        kept = spread_from_json(automaton, json.loads(file.read_text()))
        if (kept.measure, kept.num_rules) == (measure, SPREAD_RULES):
            spread = kept
    if spread is None:
        what = f"measuring how rules of {automaton.alphabet} states spread"
        say(what, 0.0)
        spread = measure_spread(automaton, measure, told=lambda share: say(what, share))
        with contextlib.suppress(OSError):  # where no cache can be written there is none
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(spread.to_json()).encode())
    _known[automaton, measure] = spread
    return spread


def quantile_band(automaton: Automaton, low: Fraction, high: Fraction) -> Band | None:
    """The gzip band between two quantiles of the scores; None if no score lies between them."""
    spread = spread_of(automaton, "gzip")
    first, end = spread.quantile(low), spread.quantile(high)
    return Band(first, end) if first < end else None


def scoring_seconds(automaton: Automaton, measure: str) -> float:
    """Core-seconds to draw and score one candidate, about."""
    size, (linear, square) = whole(automaton, measure), MEASURED[measure]
    rollout = _rollout_seconds(automaton, scored_steps(automaton))
    return rollout + size * (linear + square * size)


def sample_seconds(automaton: Automaton, num_tokens: int) -> float:
    """Core-seconds to roll out a sample of `num_tokens` tokens once its rule is found, about."""
    num_frames = -(-num_tokens // automaton.tokens_per_frame)
    return _rollout_seconds(automaton, automaton.burn_in + (num_frames - 1) * automaton.stride)


def _rollout_seconds(automaton: Automaton, steps: int) -> float:
    cells = automaton.grid[0] * automaton.grid[1]
    step = cells * (STEP_CELL + STEP_CELL_STATE * automaton.alphabet)
    return steps * step + cells * GRID_CELL + automaton.num_weights * WEIGHT + SEARCH


def _fingerprint(automaton: Automaton, measure: str) -> str:
    return fingerprint(
        {
            "version": VERSION,
            "automaton": asdict(automaton),
            "measure": measure,
            "measure_version": measure_version(automaton, measure),
            "rules": SPREAD_RULES,
        }
    )
