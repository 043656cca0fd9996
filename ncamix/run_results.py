"""What one run of several came to, small enough to hold a hundred of them.

    plan.json, metrics.jsonl -> realised mixture, epiplexity, natural tokens consumed by then
    evaluations.jsonl, induction.jsonl -> figures over training, on the validation split
    test.json -> the figures that count, on the test split
    summary.json -> device, versions, seconds

Natural tokens are those of finite sources: text, pairs, datasets. Losses are nats per token, bits
are bits, positions tokens consumed in the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.drawings import realised_shares
from ncamix.epiplexity import Epiplexity, epiplexities
from ncamix.held_out import Documents, documents_of
from ncamix.log_columns import Floats
from ncamix.run_folder import SUMMARY, TEST, read_rows
from ncamix.run_record import Json, StageRecord, by_name, read_stages
from ncamix.study_runs import read_json

NATURAL = ("text", "pairs", "mds")  # kinds of finite sources
INDUCTION = {
    "loss_drop": "loss drop on repeated ids, nats per token",
    "prefix_matching_best": "prefix-matching attention of the best head, share of 1",
}


@dataclass(frozen=True)
class Points:
    """A figure over a run, at the places where it was evaluated: (stage, batch) int64 [points, 2],
    tokens and natural tokens consumed by then and the values, float64 [points]."""

    places: NDArray[np.int64]
    tokens: Floats
    natural: Floats
    values: Floats


@dataclass(frozen=True)
class RunResult:
    """What a run's folder says.

    tested: source -> figures on the test split; documents: those of the metric's source. curve: the
    metric on the validation split. induction: score -> its values. shares: for each stage, edges of
    windows in tokens [windows + 1] and percent of samples by source [windows].
    """

    tested: dict[str, Json]
    documents: Documents | None
    curve: Points
    induction: dict[str, Points]
    shares: list[tuple[Floats, dict[str, Floats]]]
    epiplexity: list[Epiplexity]
    num_tokens: int
    natural_tokens: int
    seconds: float | None
    device: str
    versions: dict[str, str]
    remarks: list[str] = field(default_factory=list)


def read_result(folder: Path, plan: Json, metric: str) -> RunResult:
    """Read a run of that plan, finished or not. metric: such as `bits_per_byte/code`."""
    remarks: list[str] = []
    stages = read_stages(folder, plan, remarks, watched=False)
    clock = _natural_clock(stages, plan)
    name, _, source = metric.partition("/")
    rows = [row for row in read_rows(folder / "evaluations.jsonl") if row.get("source") == source]
    probes = read_rows(folder / "induction.jsonl")
    numbers = {stage.name: i for i, stage in enumerate(stages)}
    summary, tested = read_json(folder / SUMMARY), tested_sources(folder)
    seconds = [s.get("seconds") for s in summary.get("stages", [])]
    tokens, natural = clock
    return RunResult(
        tested={s: {k: v for k, v in row.items() if k != "documents"} for s, row in tested.items()},
        documents=documents_of(tested.get(source, {}).get("documents"), metric),
        curve=_points(rows, name, numbers, clock),
        induction={key: _points(probes, key, numbers, clock) for key in INDUCTION},
        shares=[realised_shares(stage) for stage in stages],
        epiplexity=epiplexities(stages),
        num_tokens=int(tokens[-1]),
        natural_tokens=round(natural[-1]),
        seconds=math.fsum(seconds) if seconds and None not in seconds else None,
        device=str(summary.get("device", "")),
        versions=dict(summary.get("versions", {})),
        remarks=remarks,
    )


def tested_sources(folder: Path) -> dict[str, Json]:
    """What a run came to on the test split, by source; empty if it was not tested."""
    found = read_json(folder / TEST).get("sources")
    if not isinstance(found, dict):
        return {}
    return {source: row for source, row in found.items() if isinstance(row, dict)}


def natural_sources(plan: Json) -> list[str]:
    """The names of a plan's finite sources."""
    return [s for s, facts in by_name(plan["sources"]).items() if facts.get("kind") in NATURAL]


def _natural_clock(stages: Sequence[StageRecord], plan: Json) -> tuple[Floats, Floats]:
    """Tokens of the run, ascending, and natural tokens consumed by then; float64 [batches + 1]."""
    natural, base = natural_sources(plan), 0.0
    tokens, consumed = [np.zeros(1)], [np.zeros(1)]
    for stage, facts in zip(stages, plan["stages"], strict=True):
        samples = np.sum([stage.counts[s] for s in natural], axis=0) if natural else 0.0
        so_far = base + samples * facts["sequence_length"] + np.zeros_like(stage.tokens)
        tokens.append(stage.tokens)
        consumed.append(so_far)
        base = float(so_far[-1]) if len(so_far) else base
    return np.concatenate(tokens), np.concatenate(consumed)


def _points(
    rows: Sequence[Mapping[str, Any]],
    key: str,
    stages: Mapping[str, int],
    clock: tuple[Floats, Floats],
) -> Points:
    """The finite values of a key, each place once, the last row that has it."""
    found = {}
    for row in rows:
        value = row.get(key)
        known = row.get("stage") in stages and {"batch", "tokens"} <= row.keys()
        if known and isinstance(value, int | float) and math.isfinite(value):
            found[stages[row["stage"]], int(row["batch"])] = (float(row["tokens"]), float(value))
    places = sorted(found)
    table = np.array([found[place] for place in places], np.float64).reshape(-1, 2)
    at = np.searchsorted(clock[0], table[:, 0], side="right") - 1
    return Points(np.array(places, np.int64).reshape(-1, 2), table[:, 0], clock[1][at], table[:, 1])
