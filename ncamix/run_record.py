"""The record of a run: what its folder says, read for drawing. Only `plan.json` has to be there.

Losses are nats per token, positions are tokens consumed in the run. A torn or damaged file is read
as far as it goes, and remarked on.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.groups import GROUPS
from ncamix.log_columns import Columns, Floats, read_columns
from ncamix.run_folder import damaged_plan, no_run, read_rows

Json = dict[str, Any]


@dataclass(frozen=True)
class StageRecord:
    """One stage as planned and as recorded so far; arrays are float64.

    `mixture` and `rate` are sampled at `mixture_progress` and `rate_progress` (0 to 1, [points]).
    `tokens` (consumed in the run), `learning_rate`, `counts` (samples so far in the stage) and
    `loss_tokens` (tokens with loss so far in the stage) are [recorded batches]; `losses` holds
    pairs (tokens, nats per token) [batches with that source], `norms` by group of parameters pairs
    (tokens, norm of the gradient before clipping). `speed` holds tokens, tokens per second and the
    share of 1 that was spent waiting for data, [3, timed batches].
    """

    name: str
    first_token: int
    num_tokens: int
    num_batches: int
    batch_size: int
    mixture_progress: Floats
    mixture: dict[str, Floats]
    rate_progress: Floats
    rate: Floats
    tokens: Floats
    learning_rate: Floats
    counts: dict[str, Floats]
    loss_tokens: dict[str, Floats]
    losses: dict[str, tuple[Floats, Floats]]
    norms: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)
    speed: Floats = field(default_factory=lambda: np.zeros((3, 0)))


@dataclass(frozen=True)
class RunRecord:
    """All that a run folder says; `frames` are (states [rules, frames, H, W], scores, alphabet).

    `evaluations` and `induction` are rows as recorded, in the order of tokens.
    """

    plan: Json
    summary: Json
    stages: list[StageRecord]
    evaluations: list[Json]
    frames: dict[str, tuple[NDArray[np.uint8], Floats, int]]
    texts: dict[str, str]
    remarks: list[str] = field(default_factory=list)
    induction: list[Json] = field(default_factory=list)

    @property
    def sources(self) -> dict[str, Json]:
        """The run's sources by name; one drawn in samples of several lengths stands once."""
        return by_name(self.plan["sources"])

    @property
    def batches(self) -> tuple[int, int]:
        """Batches recorded and planned."""
        return sum(len(s.tokens) for s in self.stages), sum(s.num_batches for s in self.stages)

    @property
    def finished(self) -> bool:
        return bool(self.summary.get("finished"))

    @property
    def tokens(self) -> int:
        """Tokens consumed so far."""
        return int(max((s.tokens[-1] for s in self.stages if len(s.tokens)), default=0))


def read_run(run: Path) -> RunRecord:
    """Read what there is; only `plan.json` has to be. Raises UserError where that is not so."""
    if not (run / "plan.json").is_file():
        raise no_run(run)
    remarks = _edits(run)
    try:
        plan = json.loads((run / "plan.json").read_text("utf-8"))
    except ValueError:
        raise damaged_plan(run) from None
    try:
        summary = json.loads((run / "summary.json").read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        summary = {}
    evaluations: dict[tuple[Any, ...], Json] = {}
    for row in _lines(run / "evaluations.jsonl", remarks):
        evaluations[row["stage"], row["batch"], row["source"]] = row
    texts = {
        name: (run / name).read_text("utf-8", errors="replace")
        for name in ("curriculum.yaml", "trainer.yaml")
        if (run / name).is_file()
    }
    ordered = sorted(evaluations.values(), key=lambda e: e["tokens"])  # stable: stages in order
    induction = {(r["stage"], r["batch"]): r for r in _lines(run / "induction.jsonl", remarks)}
    return RunRecord(
        plan,
        summary,
        read_stages(run, plan, remarks),
        ordered,
        _frames(run / "frames.npz", remarks),
        texts,
        remarks,
        sorted(induction.values(), key=lambda e: e["tokens"]),
    )


def by_name(datasets: Mapping[str, Json]) -> dict[str, Json]:
    """A plan's sources by name, in their order; one of several lengths stands once."""
    found: dict[str, Json] = {}
    for key, entry in datasets.items():
        found.setdefault(entry.get("source", key), entry)
    return found


def _lines(path: Path, remarks: list[str]) -> Iterator[Json]:
    """Objects of a JSON-lines file; a line torn by a kill is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                if line.endswith("\n") and line.strip():
                    remarks.append(f"{path.name}, line {number} is not readable and was left out.")
                continue
            if isinstance(row, dict) and {"stage", "batch", "tokens"} <= row.keys():
                yield row


def read_stages(
    run: Path, plan: Json, remarks: list[str], watched: bool = True
) -> list[StageRecord]:
    """The stages of a run of that plan, as recorded so far; `watched` with what is looked at of a
    single run: gradients, rates and times."""
    names, sources = [s["name"] for s in plan["stages"]], list(by_name(plan["sources"]))
    keys = [f"{key}/{s}" for s in sources for key in ("loss", "count", "loss_tokens")]
    groups = GROUPS if watched else ()
    keys += [*(f"grad_norm/{group}" for group in groups), *(["lr"] if watched else [])]
    rows = read_columns(run / "metrics.jsonl", names, keys, remarks)
    times: dict[str, Columns] = {}
    if watched:  # runs of earlier versions have none
        keys = ["seconds", "data_wait", "tokens_per_second"]
        times = read_columns(run / "speed.jsonl", names, keys, remarks)
    return [
        _stage(s, sources, groups, rows[s["name"]], times.get(s["name"], {}), remarks)
        for s in plan["stages"]
    ]


def _stage(
    plan: Json,
    sources: Sequence[str],
    groups: Sequence[str],
    rows: Columns,
    times: Columns,
    remarks: list[str],
) -> StageRecord:
    tokens = rows["tokens"]
    counts = {s: np.nan_to_num(rows[f"count/{s}"]) for s in sources}
    loss_tokens = {s: np.nan_to_num(rows[f"loss_tokens/{s}"]) for s in sources}
    not_finite = 0
    for source in sources:
        so_far = loss_tokens[source] if loss_tokens[source].any() else counts[source]
        drawn = np.diff(so_far, prepend=0) > 0
        not_finite += int((drawn & np.isnan(rows[f"loss/{source}"])).sum())
    if not_finite:
        remarks.append(f"Stage {plan['name']}: {not_finite} losses were not finite numbers.")
    mixture, rate = plan["mixture_curve"], plan["learning_rate_curve"]
    return StageRecord(
        name=plan["name"],
        first_token=plan["first_token"],
        num_tokens=plan["num_tokens"],
        num_batches=plan["num_batches"],
        batch_size=plan["batch_size"],
        mixture_progress=np.array([0.0, *mixture["progress"], 1.0]),  # to the stage's very ends
        mixture={
            s: np.pad(np.array(mixture["weights"][s], np.float64), 1, mode="edge")
            for s in sources
            if any(mixture["weights"].get(s, []))
        },
        rate_progress=np.array(rate["progress"], np.float64),
        rate=np.array(rate["rate"], np.float64),
        tokens=tokens,
        learning_rate=rows.get("lr", np.full(len(tokens), np.nan)),
        counts=counts,
        loss_tokens=loss_tokens,
        losses=_traces(rows, "loss", sources),
        norms=_traces(rows, "grad_norm", groups),
        speed=_speed(times) if times else np.zeros((3, 0)),
    )


def _traces(rows: Columns, metric: str, names: Sequence[str]) -> dict[str, tuple[Floats, Floats]]:
    """(tokens, values) of `metric` by name, where there are any."""
    found = {}
    for name in names:
        values = rows[f"{metric}/{name}"]
        known = np.isfinite(values)
        if known.any():
            found[name] = (rows["tokens"][known], values[known])
    return found


def _speed(times: Columns) -> Floats:
    timed = times["seconds"] > 0
    tokens, seconds, waited, speed = (
        times[key][timed] for key in ("tokens", "seconds", "data_wait", "tokens_per_second")
    )
    return np.stack([tokens, speed, np.minimum(1.0, waited / seconds)])


def _frames(path: Path, remarks: list[str]) -> dict[str, tuple[NDArray[np.uint8], Floats, int]]:
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [n for n in arrays.files if not n.endswith((".scores", ".alphabet"))]
            return {
                n: (arrays[n], arrays[f"{n}.scores"], int(arrays[f"{n}.alphabet"])) for n in names
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        remarks.append("frames.npz is not readable and was left out.")
        return {}


def _edits(run: Path) -> list[str]:
    """What a run's record says of edits: which files were in force until when."""
    return [
        f"After {row['tokens']:,} tokens the run went on under other files ({row['why']}); "
        f"those of before are in edits/{row['edit']}/."
        for row in read_rows(run / "edits.jsonl")
        if {"tokens", "why", "edit"} <= row.keys()
    ]
