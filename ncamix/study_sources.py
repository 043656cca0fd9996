"""What the sources of a study hold: epiplexity by stage and source, Zipf's exponent by source.

Each is a mean over seeds with its interval, Student's t; one seed has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ncamix.frequencies import TokenCounts
from ncamix.over_seeds import Estimate, estimate
from ncamix.run_folder import FREQUENCIES
from ncamix.run_record import by_name
from ncamix.study_record import StudyRecord
from ncamix.study_runs import read_json


@dataclass(frozen=True)
class Structure:
    """Epiplexity of a source in a stage of an arm: bits, the final level in nats per token, tokens
    with loss of a run."""

    arm: str
    stage: str
    source: str
    bits: Estimate
    final_loss: Estimate
    num_tokens: int
    num_seeds: int

    @property
    def bits_per_token(self) -> Estimate:
        """The same for each token with loss."""
        bits, interval = self.bits
        if interval is not None:
            low, high = interval.low / self.num_tokens, interval.high / self.num_tokens
            interval = replace(interval, low=low, high=high)
        return bits / self.num_tokens, interval


def structures(record: StudyRecord) -> list[Structure]:
    found = []
    for name, arm in record.arms.items():
        if arm.same_as is not None:
            continue
        rows: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
        for result in record.shown(name).values():
            for e in result.epiplexity:
                found_here = rows.setdefault((e.stage, e.source), [])
                found_here.append((e.bits, e.final_loss, e.num_tokens))
        for (stage, source), of in rows.items():
            bits, level = (estimate([row[i] for row in of], record.confidence) for i in (0, 1))
            tokens = round(sum(row[2] for row in of) / len(of))
            found.append(Structure(name, stage, source, bits, level, tokens, len(of)))
    return found


@dataclass(frozen=True)
class Frequencies:
    """Tokens of a source by rank, of one run, and Zipf's exponent over the runs of that arm.

    first: whether no other source of that name stands before it, which another arm has otherwise.
    """

    label: str
    source: str
    first: bool
    counts: TokenCounts
    exponent: Estimate
    num_seeds: int


def frequencies(record: StudyRecord) -> list[Frequencies]:
    """A source once for each thing that it is in the study: read of the first arm that has it."""
    found: dict[tuple[str, str], Frequencies] = {}
    for name, arm in record.arms.items():
        about = by_name(arm.plan.get("sources", {}))
        new = [s for s in about if (s, str(about[s].get("summary"))) not in found]
        runs = [r for r in record.finals[name].values() if r.state == "finished"] if new else []
        read: dict[str, list[TokenCounts]] = {}
        for run in runs:
            rows = read_json(run.path / FREQUENCIES)
            for source in new:
                if (rows.get(source) or {}).get("counts"):
                    read.setdefault(source, []).append(_counts(source, rows[source]["counts"]))
        for source, of in read.items():
            taken = any(source == other for other, _ in found)
            label = f"{source} ({name})" if taken else source
            exponents = [counts.exponent for counts in of]
            if all(map(math.isfinite, exponents)):
                key = (source, str(about[source].get("summary")))
                value = estimate(exponents, record.confidence)
                found[key] = Frequencies(label, source, not taken, of[0], value, len(of))
    return list(found.values())


def _counts(source: str, pairs: Sequence[Sequence[int]]) -> TokenCounts:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return TokenCounts(source, np.repeat(table[:, 0], table[:, 1]))
