"""Two thousand curricula drawn at random keep the promises; a thousand broken files are refused.

A drawn curriculum is either planned, and then every count, counter and order of it is checked by
brute force, or refused with located messages.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from generated import curriculum, mutated, trainer

from ncamix.errors import UserError
from ncamix.library import shipped
from ncamix.loading import load_curriculum
from ncamix.order import SourceOrder, StageOrder
from ncamix.plan import Plan, PlannedStage
from ncamix.plan_output import plan_json
from ncamix.planning import make_plan
from ncamix.schedule import SCALE
from ncamix.trainer import load_trainer

CHUNK = 100


def planned(folder: Path, text: str, under: str) -> Plan | None:
    """A plan, or None where it is refused, with located messages alone."""
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    (folder / "t.yaml").write_text(under, encoding="utf-8")
    try:
        return make_plan(load_curriculum(folder / "c.yaml"), load_trainer(folder / "t.yaml"))
    except UserError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.file in (str(folder / "c.yaml"), str(folder / "t.yaml")), problem
            assert problem.what, problem
            assert problem.line or "missing" in problem.what or "empty" in problem.what, problem
        return None


@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_drawn_curricula_keep_the_promises(tmp_path: Path, first: int) -> None:
    made = 0
    for seed in range(first, first + CHUNK):
        random = Random(seed)
        text = curriculum(random)
        plan = planned(tmp_path, text, trainer(random))
        if plan is None:
            continue
        made += 1
        try:
            check(plan)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\n{text}") from error
    assert made > CHUNK // 2  # or the drawing has gone astray


def check(plan: Plan) -> None:
    """Counts, totals, counters and order of a plan, by brute force."""
    json.dumps(plan_json(plan))
    used = 0
    drawn: dict[str, list[int]] = {}
    for stage in plan.stages:
        assert stage.first_token == used
        used += stage.num_tokens
        check_counts(stage)
        check_order(plan, stage, drawn)


def check_counts(stage: PlannedStage) -> None:
    """Exact sums, nothing from nothing, and never a whole sample away from the schedule."""
    counts = stage.apportionment.counts
    assert counts.shape == (stage.num_batches, len(stage.sources))
    assert (counts >= 0).all()
    assert (counts.sum(axis=1) == stage.batch_size).all()
    assert stage.apportionment.largest_deviation < 1
    owed = dict.fromkeys(stage.mixture.leaves, Fraction(0))
    rest = dict(stage.counts)
    weights = [
        dict(zip(stage.mixture.leaves, stage.mixture.at(t), strict=True))
        for t in range(stage.num_batches)
    ]
    if stage.spec.transform == "reverse":  # exact as seen from the stage's end
        weights, counts = weights[::-1], counts[::-1]
    given = dict.fromkeys(stage.mixture.leaves, 0)
    for row, weight in zip(counts.tolist(), weights, strict=True):
        assert sum(weight.values()) == SCALE
        for name, share in weight.items():
            count = row[stage.sources.index(name)] if name in stage.sources else 0
            assert share or not count
            owed[name] += Fraction(share * stage.batch_size, SCALE)
            given[name] += count
            assert abs(owed[name] - given[name]) < 1
    assert {n: c for n, c in given.items() if c} == rest


def check_order(plan: Plan, stage: PlannedStage, drawn: dict[str, list[int]]) -> None:
    """Endless sources never repeat a sample, replays deal each again before any twice."""
    orders = tuple(
        SourceOrder(
            stage.first_sample[name],
            replayed=stage.replayed.get(name, 0),
            key=plan.order_key(name),
        )
        for name in stage.sources
    )
    order = StageOrder(stage.apportionment.counts, orders)
    dealt: dict[str, list[int]] = {name: [] for name in stage.sources}
    for batch in range(stage.num_batches):
        source, sample = order.batch(batch)
        for s, n in zip(source.tolist(), sample.tolist(), strict=True):
            dealt[stage.sources[s]].append(n)
    for name, samples in dealt.items():
        assert plan.dataset_of(name, stage).samples_needed > max(samples)
        before = drawn.setdefault(name, [])
        if name in stage.replayed:
            seen = stage.replayed[name]
            times = [samples.count(n) for n in range(seen)]
            assert sum(times) == len(samples) and max(times) - min(times) <= 1
        else:
            assert not set(samples) & set(before)
            assert sorted(samples) == list(range(len(before), len(before) + len(samples)))
            before += samples


@pytest.mark.parametrize("first", range(0, 1000, CHUNK))
def test_broken_files_are_planned_or_refused(tmp_path: Path, first: int) -> None:
    files = sorted(shipped("curricula").glob("*.yaml"))
    pairs = [json.dumps({"question": f"{n} + {n}?", "answer": str(2 * n)}) for n in range(100)]
    (tmp_path / "problems.jsonl").write_text("\n".join(pairs) + "\n")  # paper_finetune's
    refused = 0
    for seed in range(first, first + CHUNK):
        random = Random(seed)
        text = random.choice((curriculum(random), random.choice(files).read_text()))
        under = (shipped("trainers") / "cpu.yaml").read_text()
        if random.random() < 0.2:
            under = mutated(random, under)
        else:
            text = mutated(random, text)
        try:
            refused += planned(tmp_path, text, under) is None
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}\n{text}\n{under}") from error
    assert CHUNK // 5 < refused < CHUNK
