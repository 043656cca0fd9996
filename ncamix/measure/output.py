"""What `ncamix measure` found: tables for people, JSON for machines, and how it was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ncamix.measure.measures import RAW_BYTES, Measured
from ncamix.measure.nearness import WINDOW_BYTES, WINDOW_TOKENS, Nearest
from ncamix.measure.repetition import GRAM_WORDS, LINE_CHARACTERS
from ncamix.measure.windows import FEWEST_OWNERS, Estimate
from ncamix.omissions import worded
from ncamix.quantities import format_bytes, format_count

NAME_WIDTH, COLUMN = 23, 26  # of a corpus: characters of its name (the end is kept), of its column
BAR_CELLS = 14
QUANTILES = (5, 25, 50, 75, 95)
TENTHS = 10

HOW = (
    "Raw text: documents in an order drawn from their files' names, joined by a newline, cut into "
    "windows that lie one behind the other; of each size at most {num_windows:,} are drawn (and "
    f"{RAW_BYTES >> 20} MB), seed {{seed}}. Tokens: each document closed by its end of text, in "
    f"windows of {WINDOW_TOKENS} ids as little-endian int32, {WINDOW_BYTES:,} bytes. A ratio is "
    "the size after gzip -9, 18 bytes of header and trailer counted, by the size before; means "
    "over windows. In brackets, 95%: documents drawn anew with all their windows (bootstrap; "
    f"windows where fewer than {FEWEST_OWNERS} documents begin one); for Zipf's exponent, 20 "
    "groups of documents left out in turn (jackknife). Repeated: stood earlier in what was read; "
    f"lines of {LINE_CHARACTERS} characters or more, runs of {GRAM_WORDS} words between white "
    "space."
)
ALIKE = (
    f"Comparable: {WINDOW_TOKENS} tokens of 4 bytes under one gzip, for text and automata. Not "
    "comparable: what makes a score high. Ids of a larger vocabulary or alphabet fill more of the "
    "4 bytes, and score higher whatever their structure: the ceiling is what independent, equally "
    "likely ids score. A text stays below it because some tokens are frequent (shuffled: the same "
    "tokens in random order), and below that because of their order; a rule of equal score may do "
    "so for other reasons."
)
HEURISTIC = (
    "Both mappings are heuristics. The first compares scores on the scale that bands live on; the "
    "second takes the gzip ratio of raw text for a band, as the paper's authors did (code, about "
    "0.32: 0.3 to 0.4; web and mathematics, 0.6 to 0.7: 0.5 and above). No claim that a model "
    "trains better on either."
)


def measured_json(found: Sequence[Measured]) -> dict[str, Any]:
    """All that was found, as plain JSON; ratios are compressed bytes by bytes before."""
    options = found[0].options
    return {
        "how": HOW.format(num_windows=options.num_windows, seed=options.seed),
        "comparable": ALIKE,
        "heuristic": HEURISTIC,
        "corpora": [_corpus_json(m) for m in found],
    }


def _corpus_json(m: Measured) -> dict[str, Any]:
    return {
        "name": m.name,
        "documents": m.num_documents,
        "bytes": m.num_bytes,
        "whole": m.is_whole,
        "share_read": 1.0 if m.is_whole else m.share_read and float(m.share_read),
        "left_out": m.left_out,
        "tokenizer": {"name": m.tokenizer, "ids": m.num_ids},
        "tokens": m.num_tokens,
        "bytes_per_token": m.num_bytes / m.num_tokens,
        "repeated": {
            "documents": m.duplication.documents,
            "lines": m.duplication.lines,
            "13-grams": m.duplication.grams,
        },
        "window": m.options.window,
        "raw_gzip": [
            {"window_bytes": size, "windows": count, **_estimate_json(estimate)}
            for size, (estimate, count) in m.raw.items()
        ],
        "token_gzip": {
            "window_tokens": WINDOW_TOKENS,
            "window_bytes": WINDOW_BYTES,
            "windows": len(m.sizes),
            **_estimate_json(m.tokens),
            "quantiles": {f"{q}%": float(np.quantile(m.scores, q / 100)) for q in QUANTILES},
            "share": dict(zip(_tenths(), tenth_shares(m.scores), strict=True)),
            "shuffled": m.shuffled,
            "ceiling": m.ceiling,
        },
        "zipf_exponent": _estimate_json(m.zipf),
        "nearest": [
            {
                "source": near.source,
                "alphabet": near.alphabet,
                "band": [float(near.band.low), float(near.band.high)],
                "distance": near.distance,
                "as_near": as_near(m, near),
                "share_of_rules": near.share,
                "ceiling": near.ceiling,
            }
            for near in m.nearest
        ],
        "authors_mapping": m.authors,
    }


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    known = not math.isnan(estimate.low)
    return {
        "value": None if math.isnan(estimate.value) else estimate.value,
        "interval": [estimate.low, estimate.high] if known else None,
        "interval_over": estimate.unit or None,
    }


def tenth_shares(scores: NDArray[np.float64]) -> list[float]:
    """Share of scores in each band of 0.1; the last takes in what lies above it."""
    tenths = np.minimum(np.floor(scores * TENTHS + 1e-9), TENTHS - 1).astype(np.intp)
    return [float(n) / len(scores) for n in np.bincount(tenths, minlength=TENTHS)]


def as_near(m: Measured, near: Nearest) -> bool:
    """Whether a band cannot be told from the nearest one: its distance is larger by no more than
    half the interval of the corpus's mean score, which is what chance moves distances by."""
    slack = (m.tokens.high - m.tokens.low) / 2
    return near is m.nearest[0] or near.distance - m.nearest[0].distance <= slack


def _tenths() -> list[str]:
    return [f"{k / 10:.1f}-{(k + 1) / 10:.1f}" for k in range(TENTHS)]


# ---- for people


def print_measured(found: Sequence[Measured], console: Console) -> None:
    """Corpora side by side, their windows over the bands, and the bands nearest to each."""
    abreast = max(1, (console.width - COLUMN) // COLUMN)
    for first in range(0, len(found), abreast):
        some = found[first : first + abreast]
        console.print(_measures(some))
        console.print(Text("\ntoken windows in each band of 0.1", "bold"))
        console.print(_histogram(some))
        console.print()
    look: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
    for m in found:
        for reason, what in m.left_out.items():
            first = what["first"] + (f": {what['why']}" if "why" in what else "")
            line = f"left out of {m.name}: {what['count']:,} {worded(reason)}, first {first}"
            console.print(line, **look)
    if any(m.left_out for m in found):
        console.print()
    for m in found:
        console.print(Text(f"bands nearest to {m.name}", "bold"), soft_wrap=True)
        console.print(_nearest_table(m))
        console.print(f"  like scale:       {m.nearest[0].source}", **look)
        console.print(f"  authors' mapping: {m.authors}\n", **look)
    options = found[0].options
    for note in (HEURISTIC, ALIKE, HOW.format(num_windows=options.num_windows, seed=options.seed)):
        console.print(Text(note + "\n", "dim"))


def _plain_table(found: Sequence[Measured], first: str) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for m in found:
        table.add_column(short_name(m.name), no_wrap=True)
    return table


def _measures(found: Sequence[Measured]) -> Table:
    table = _plain_table(found, "")

    def row(title: str, cell: Callable[[Measured], str], style: str = "") -> None:
        table.add_row(title, *(cell(m) for m in found), style=style)

    row("documents", lambda m: f"{m.num_documents:,}")
    row("text read", _amount_read)
    if any(m.left_out for m in found):
        row("left out", _left_out)
    row("tokenizer", lambda m: short_name(m.tokenizer))
    row("tokens", _tokens)
    row("repeated documents", lambda m: f"{m.duplication.documents:.2%}")
    row("repeated lines", lambda m: f"{m.duplication.lines:.1%}")
    row("repeated 13-grams", lambda m: f"{m.duplication.grams:.1%}")
    row("Zipf's exponent", lambda m: show(m.zipf))
    row("gzip ratio, raw text", lambda m: "")
    for size in sorted({size for m in found for size in m.raw}):
        main = size == found[0].options.window
        row(f"  {size:,}-byte windows", lambda m, s=size: _raw(m, s), "bold" if main else "dim")  # type: ignore[misc]
    row("gzip ratio, tokens", lambda m: "")
    row(f"  {WINDOW_TOKENS}-token windows", lambda m: show(m.tokens), "bold")
    row("  shuffled", lambda m: f"{m.shuffled:.3f}", "dim")
    row("  ceiling", lambda m: f"{m.ceiling:.3f}", "dim")
    return table


def _amount_read(m: Measured) -> str:
    size = format_bytes(m.num_bytes)
    if m.is_whole:
        return f"{size}, all {'readable' if 'unreadable' in m.left_out else 'of it'}"
    return f"{size}, a part" if m.share_read is None else f"{size}, {float(m.share_read):.0%} of it"


def _left_out(m: Measured) -> str:
    parts = (f"{found['count']:,} {worded(reason)}" for reason, found in m.left_out.items())
    return "\n".join(parts) or "–"


def _tokens(m: Measured) -> str:
    return f"{format_count(m.num_tokens)}, {m.num_bytes / m.num_tokens:.2f} bytes each"


def _raw(m: Measured, size: int) -> str:
    return show(m.raw[size][0]) if size in m.raw else "–"


def show(estimate: Estimate) -> str:
    """An estimate with its interval, as a reader writes it."""
    if math.isnan(estimate.value):
        return "–"
    if math.isnan(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _histogram(found: Sequence[Measured]) -> Table:
    shares = [tenth_shares(m.scores) for m in found]
    most = max(max(share) for share in shares)
    table = _plain_table(found, "score")
    for k, name in enumerate(_tenths()):
        if any(share[k:] != [0] * (TENTHS - k) for share in shares):
            cells = [f"{share[k]:6.1%} {_bar(share[k] / most)}" for share in shares]
            table.add_row(name, *cells)
    return table


def _bar(share: float) -> str:
    return "█" * round(BAR_CELLS * share) or ("▏" if share else "")


def _nearest_table(m: Measured) -> Table:
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("  alphabet")
    table.add_column("band")
    for name in ("distance", "its rules", "ceiling"):
        table.add_column(name, justify="right")
    table.add_column("")
    for near in m.nearest:
        ends = f"[{float(near.band.low):.2f}, {float(near.band.high):.2f})"
        first, near_too = near is m.nearest[0], as_near(m, near)
        table.add_row(
            f"  {near.alphabet}",
            ends,
            f"{near.distance:.3f}",
            f"{near.share:.1%}",
            f"{near.ceiling:.3f}",
            "nearest" if first else "as near" if near_too else "",
            style="" if near_too else "dim",
        )
    return table


def short_name(name: str, width: int = NAME_WIDTH) -> str:
    """A corpus's name at the head of a column: of a long one the end."""
    return name if len(name) <= width else "…" + name[-(width - 1) :]
