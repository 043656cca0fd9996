"""Owners: each draws from its own shards, all of them make up the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TRAINER as SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from streaming.base.world import World

from ncamix import inventory
from ncamix.dataset import LazyWork
from ncamix.order import stage_order
from ncamix.owners import STRIDE, OwnedShards, shards_needed, share_out
from ncamix.parting import find_parting
from ncamix.permutations import interleave
from ncamix.plan import Plan

CURRICULUM = """\
tokenizer: bytes
sources:
  hiss: {kind: noise, symbols: 50}
  rain: {kind: noise, symbols: 60}
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
stages:
  - {name: one, duration: 40%, mixture: {0%: {hiss: 3, rain: 1}, 100%: {rain: 2, words: 1}}}
  - {name: two, duration: 30%, mixture: {hiss: 1, words: 2}, batch_size: 48}
  - {name: three, duration: rest, mixture: {hiss: 5, rain: 2}}
"""
TRAINER = SMALL.replace("batch_size: 8", "batch_size: 24").replace("10ktok", "80ktok")
PER_SHARD = 16
Batches = list[list[tuple[str, int]]]


@pytest.fixture
def planned(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], Plan]:
    """Plans three stages under so many owners; one source is finite."""
    monkeypatch.setattr(inventory, "SHARD_TOKENS", PER_SHARD * 33)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "0.txt").write_text("a text " * 100)

    def plan(owners: int) -> Plan:
        made = plan_of(CURRICULUM, f"{TRAINER}canonical_nodes: {owners}\n")
        made.sources["words"] = replace(made.sources["words"], num_samples=37)
        return made

    return plan


def batches_of(plan: Plan, index: int, ranks: int | None = None) -> Batches:
    """(source, sample number) at each place of a stage's batches."""
    stage = plan.stages[index]
    order = stage_order(plan, stage)
    made = (order.batch(t, ranks) for t in range(order.num_batches))
    return [[(stage.sources[s], int(i)) for s, i in zip(*b, strict=True)] for b in made]


def whole_run(plan: Plan) -> Batches:
    return [batch for stage in plan.stages for batch in batches_of(plan, stage.index)]


def owner_of(number: int, owners: int) -> tuple[int, int]:
    """(owner, its counter) of a sample of an endless source, from where it lies."""
    shard, row = divmod(number, PER_SHARD)
    return shard % owners, shard // owners * PER_SHARD + row


@pytest.mark.parametrize("owners", [1, 2, 3, 4, 8])
def test_each_part_of_a_batch_is_its_owners(planned: Callable[[int], Plan], owners: int) -> None:
    plan, single = planned(owners), whole_run(planned(1))
    for stage in plan.stages:
        part = stage.batch_size // owners
        for counts, batch in zip(
            stage.apportionment.counts, batches_of(plan, stage.index), strict=True
        ):
            assert [sum(name == n for name, _ in batch) for n in stage.sources] == counts.tolist()
            for place, (name, number) in enumerate(batch):
                if name != "words":
                    assert owner_of(number, owners)[0] == place // part
    # The finite source is one, whoever fetches it.
    for ours, theirs in zip(whole_run(plan), single, strict=True):
        words = [sorted(i for n, i in batch if n == "words") for batch in (ours, theirs)]
        assert words[0] == words[1]


@pytest.mark.parametrize("owners", [1, 2, 3, 4, 8])
def test_nothing_is_drawn_twice_and_nothing_is_left_out(
    planned: Callable[[int], Plan], owners: int
) -> None:
    plan = planned(owners)
    drawn = [sample for batch in whole_run(plan) for sample in batch]
    needed = shards_needed(plan)
    assert set(needed) == {"hiss", "rain"}
    for name in needed:
        numbers = [i for n, i in drawn if n == name]
        assert len(numbers) == plan.sources[name].samples_needed > 300
        assert needed[name] == max(numbers) // PER_SHARD + 1
        for owner in range(owners):
            counters = [k for c, k in (owner_of(i, owners) for i in numbers) if c == owner]
            assert sorted(counters) == list(range(len(counters)))
            assert abs(len(counters) - len(numbers) / owners) < 3


def test_owners_are_part_of_the_plan(planned: Callable[[int], Plan]) -> None:
    assert len({planned(owners).fingerprint for owners in (1, 2, 4)}) == 3


@pytest.mark.parametrize("owners", [1, 2])
def test_a_plan_is_the_same_where_its_batches_are(
    planned: Callable[[int], Plan], plan_of: Callable[..., Plan], owners: int
) -> None:
    """The trainer's own length decides over the shards of samples of any length, which owners are
    dealt."""
    body = CURRICULUM.replace("mixture", "sequence_length: 8, mixture")
    plans = []
    for length in (32, 64):
        trainer = TRAINER.replace("length: 32", f"length: {length}")
        made = plan_of(body, f"{trainer}canonical_nodes: {owners}\n")
        made.sources["words@8"] = replace(made.sources["words@8"], num_samples=37)
        plans.append(made)
    one, other = (
        [[sorted(batch) for batch in batches_of(plan, stage.index)] for stage in plan.stages]
        for plan in plans
    )
    assert (one == other) == (owners == 1)
    assert (plans[0].fingerprint == plans[1].fingerprint) == (owners == 1)
    assert (find_parting((plans[0], plans[1])) is None) == (owners == 1)


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@pytest.mark.parametrize("owners", [2, 3, 4, 8])
def test_nodes_touch_their_owners_shards_only(planned: Callable[[int], Plan], owners: int) -> None:
    plan = planned(owners)
    stage = plan.stages[0]
    order = stage_order(plan, stage)
    offsets = np.arange(len(stage.sources)) * 10**6
    expected = [sorted((offsets[order.batch(t)[0]] + order.batch(t)[1]).tolist()) for t in range(9)]
    for nodes in divisors(owners):
        for each in (e for e in (1, 2, 3) if 24 % (nodes * e) == 0):
            found: list[list[int]] = [[] for _ in expected]
            for rank in range(nodes * each):
                share = 24 // (nodes * each)
                work = LazyWork(order, offsets, 0, World(nodes, each, 1, rank), share)
                for t, batch in enumerate(found):
                    mine = [work[i] for i in range(t * share, (t + 1) * share)]
                    batch += mine
                    for source, number in (divmod(i, 10**6) for i in mine):
                        if stage.sources[source] != "words":
                            node = owner_of(number, owners)[0] * nodes // owners
                            assert node == rank // each
            assert [sorted(batch) for batch in found] == expected


@pytest.mark.parametrize(("owners", "bound"), [(1, 1), (2, 1), (3, 1), (4, 1), (8, 1), (6, 2)])
def test_ranks_hold_even_shares_of_every_source(
    planned: Callable[[int], Plan], owners: int, bound: int
) -> None:
    plan = planned(owners)
    order = stage_order(plan, plan.stages[0])
    for ranks in divisors(24):
        for t in range(order.num_batches):
            shares = order.batch(t, ranks)[0].reshape(ranks, -1)
            held = np.array([np.bincount(share, minlength=3) for share in shares])
            assert (held.max(axis=0) - held.min(axis=0)).max() <= bound


@pytest.mark.parametrize("owners", [1, 2, 3])
def test_a_replay_deals_again_what_all_owners_drew(
    planned: Callable[[int], Plan], owners: int
) -> None:
    plan = planned(owners)
    first, second, third = plan.stages
    seen = first.counts["hiss"]
    last_once = batches_of(plan, 2)
    object.__setattr__(second, "replayed", {"hiss": seen})
    object.__setattr__(third, "first_sample", {**third.first_sample, "hiss": seen})
    before = sorted(i for batch in batches_of(plan, 0) for n, i in batch if n == "hiss")
    again = [i for batch in batches_of(plan, 1) for n, i in batch if n == "hiss"]
    assert len(before) == seen and len(again) == second.counts["hiss"]
    for start in range(0, len(again), seen):
        round_ = again[start : start + seen]
        assert len(set(round_)) == len(round_) and set(round_) <= set(before)
    assert again[:20] != before[:20]
    # What comes after goes on where the first stage stopped.
    last = [i for batch in batches_of(plan, 2) for n, i in batch if n == "hiss"]
    for owner in range(owners):
        counters = [k for c, k in (owner_of(i, owners) for i in before + last) if c == owner]
        assert sorted(counters) == list(range(len(counters)))
    assert last_once != batches_of(plan, 2)


# -- the dealing --------------------------------------------------------------------------------


def dealt_plainly(
    counts: NDArray[np.int64], drawn: NDArray[np.int64], owned: list[bool]
) -> Iterator[NDArray[np.int64]]:
    """The owners' counters after each batch, found by trying every shift."""
    num_sources, num_owners = drawn.shape
    turns = interleave(num_owners)
    given = drawn.copy()
    for row in counts:
        tried = []
        for shift in range(num_owners):
            unit, after = shift, given.copy()
            for s in range(num_sources):
                after[s] += row[s] // num_owners
                for _ in range(row[s] % num_owners):
                    after[s, turns[unit % num_owners]] += 1
                    unit += 1
            ahead = num_owners * after - after.sum(axis=1, keepdims=True)
            tried.append((int((ahead[owned] ** 2).sum()), shift, after))
        given = min(tried, key=lambda t: t[:2])[2]
        yield given


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=12)
def test_the_dealing_equals_its_plain_twin(owners: int, sources: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(sources))
    counts = rng.multinomial(owners * int(rng.integers(1, 9)), weights, size=STRIDE + 9)
    drawn = rng.integers(0, 50, (sources, 1)) + rng.integers(0, 3, (sources, owners))
    owned = [True, *(rng.random(sources - 1) < 0.7).tolist()]
    for dtype in (np.int16, np.int32):
        shares = share_out(counts.astype(dtype), drawn, owned)
        assert np.array_equal(shares.before(0), drawn)
        for t, after in enumerate(dealt_plainly(counts, drawn, owned)):
            if t > STRIDE - 5 or t % 50 == 0:
                assert np.array_equal(shares.before(t + 1), after)
        assert np.array_equal(shares.of(3, 90), shares.before(90) - shares.before(3))


@pytest.mark.parametrize(("owners", "bound"), [(2, 2.5), (4, 3.5), (8, 4.0), (64, 6.0)])
def test_owners_stay_even(owners: int, bound: float) -> None:
    """However long the stage: what one owner has more than its due is a few samples."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(owners * 7, [0.4, 0.3, 0.2, 0.1], size=5000).astype(np.int16)
    sums = share_out(counts, np.zeros((4, owners), np.int64)).sums
    assert np.abs(sums - sums.sum(axis=2, keepdims=True) / owners).max() < bound


def test_a_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(AssertionError, match="does not split over the owners"):
        share_out(np.full((3, 2), 5, np.int16), np.zeros((2, 4), np.int64))


def test_shards_are_counted_to_the_last_that_is_needed() -> None:
    def needed(*drawn: int) -> int:
        return OwnedShards(10, np.array(drawn)).num_shards

    assert [needed(n) for n in (0, 1, 10, 11)] == [1, 1, 1, 2]
    assert [needed(0, 0), needed(1, 0), needed(0, 1), needed(11, 10), needed(10, 11)] == [
        1, 1, 2, 3, 4,
    ]  # fmt: skip
