"""Windows: what a stage needs at hand, and cache limits that do not hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TRAINER

from ncamix import inventory
from ncamix.cache_limits import USUAL_LIMIT, bytes_needed, cache_limit
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.shards import ShardFormat

CURRICULUM = """\
sources:
  much: {kind: noise, symbols: 50}
  rare: {kind: noise, symbols: 60}
stages:
  - {name: first, duration: 50%, mixture: {0%: {much: 1}, 100%: {much: 3, rare: 1}}}
  - {name: again, duration: 50%, mixture: {much: 1}, draw: {much: replay}}
"""
SIZE = ShardFormat(33, "uint16").num_bytes(16)


@pytest.fixture
def planned(plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans two stages in shards of 16 samples, batches of 8, with more lines of the trainer."""
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 16 * 33)
    return lambda lines="": plan_of(CURRICULUM, TRAINER + lines)


def test_the_shards_of_the_batches_ahead_are_counted(planned: Any) -> None:
    plan: Plan = planned("predownload: 10ba\n")
    first, again = plan.stages
    counts = first.apportionment.counts
    much = max(int(counts[t : t + 11, 0].sum()) for t in range(len(counts) - 10))
    rare = max(int(counts[t : t + 11, 1].sum()) for t in range(len(counts) - 10))
    shards = -(-(much + 2) // 16) + 1 + -(-(rare + 2) // 16) + 1
    assert bytes_needed(plan, first) == shards * SIZE
    assert bytes_needed(plan, first, ["rare", "much"]) == 0
    drawn = first.counts["much"]
    assert bytes_needed(plan, again) == (-(-drawn // 16) + 1) * SIZE  # dealt from all of them
    assert cache_limit(plan, first) == USUAL_LIMIT


def test_owners_stand_in_shards_of_their_own(planned: Any) -> None:
    one, four = planned("predownload: 1ba\n"), planned("predownload: 1ba\ncanonical_nodes: 4\n")
    assert bytes_needed(four, four.stages[0]) > bytes_needed(one, one.stages[0])
    assert bytes_needed(four, four.stages[0]) == 4 * 2 * 2 * SIZE


def test_a_limit_that_does_not_hold_the_window_is_refused_by_the_plan(
    planned: Any, tmp_path: Path
) -> None:
    plan = planned("predownload: 10ba\ncache_limit: 100kB\n")
    assert cache_limit(plan, plan.stages[0]) == 100_000
    with pytest.raises(UserError) as caught:
        planned("predownload: 10ba\ncache_limit: 10kB\n")
    (problem,) = caught.value.problems
    assert problem.path == "cache_limit" and problem.line
    assert "needs 13" in problem.what and "a cache of 10kB" in problem.what
    assert "cache_limit: 1MB or more" in problem.remedy


def test_no_batch_depends_on_where_shards_lie(planned: Any) -> None:
    other = planned("predownload: 3ba\ncache_limit: 1GB\ngenerator_threads: 2\n")
    assert other.fingerprint == planned().fingerprint
