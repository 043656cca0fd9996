"""Shares of a study: every run is of one share, and arms that are tuned stay whole."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.errors import UserError
from ncamix.shares import Shard, parse_shard, share_of
from ncamix.study_runs import StudyRun


def run(arm: str, seed: int, key: str = "", tuning: bool = False, tokens: int = 100) -> StudyRun:
    stages = (("warm", 1), ("main", 1)) if key else (("main", 1),)
    own = f"{arm} {seed} {tuning}"
    return StudyRun(
        arm,
        seed,
        None,
        own,
        (),
        own,
        stages,
        (tokens,) * len(stages),
        (key,) if key else (),
        tuning,
    )


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1), st.integers(1, 8))
def test_every_run_is_of_exactly_one_share(found: list[tuple[int, bool]], of: int) -> None:
    runs = [run(f"arm{arm}", i, tuning=tuning) for i, (arm, tuning) in enumerate(found)]
    shares = [share_of(runs, Shard(n, of)) for n in range(1, of + 1)]
    assert all(sum(mine(r) for mine in shares) == 1 for r in runs)
    if any(r.tuning for r in runs):
        homes = {(r.arm, n) for r in runs for n, mine in enumerate(shares) if mine(r)}
        assert len(homes) == len({r.arm for r in runs})


def test_shares_are_about_even() -> None:
    runs = [run(f"arm{i}", seed) for i in range(6) for seed in range(5)]
    loads = Counter(n for n in range(1, 5) for r in runs if share_of(runs, Shard(n, 4))(r))
    assert max(loads.values()) - min(loads.values()) <= 1


def test_runs_that_begin_alike_stay_together_where_nothing_is_tuned() -> None:
    runs = [run(f"arm{i}", seed, f"prefix {seed}") for i in range(6) for seed in range(4)]
    for n in (1, 2):
        mine = [r for r in runs if share_of(runs, Shard(n, 2))(r)]
        assert len(mine) == 12 and len({r.beginnings for r in mine}) == 2


def test_what_becomes_known_later_is_of_its_arms_share() -> None:
    runs = [run(f"arm{i}", 101, tuning=True) for i in range(4)]
    shares = [share_of(runs, Shard(n, 2)) for n in (1, 2)]
    assert all(sum(mine(run(r.arm, 1)) for mine in shares) == 1 for r in runs)


def test_arms_that_are_one_stay_together() -> None:
    one = [run("a", s, tuning=s > 100) for s in (101, 1, 2)]
    other = [StudyRun("b", *list(vars(r).values())[1:]) for r in one]
    third = [run("c", s, tuning=s > 100) for s in (101, 1, 2)]
    runs = [*one, *other, *third]
    for n in (1, 2):
        mine = {r.arm for r in runs if share_of(runs, Shard(n, 2))(r)}
        assert mine in ({"a", "b"}, {"c"})


def test_an_arm_is_of_the_share_of_the_one_that_is_tuned_for_it() -> None:
    tuned = [run(arm, 101, tuning=True) for arm in ("a", "b")]
    runs = [*tuned, *(run(arm, 1) for arm in ("a", "b", "a at length", "b at length"))]
    for n in (1, 2):
        mine = share_of(runs, Shard(n, 2), {"a at length": "a", "b at length": "b"})
        assert {r.arm for r in runs if mine(r)} in ({"a", "a at length"}, {"b", "b at length"})


def test_runs_that_are_one_are_never_of_two_shares() -> None:
    """Though they are of arms that are tuned apart, and come after other runs of these."""
    runs = [run(arm, seed, tuning=seed > 100) for seed in (101, 1) for arm in ("a", "b", "c")]
    runs.append(StudyRun("b", *list(vars(run("c", 1)).values())[1:]))
    for n in (1, 2):
        mine = {r.arm for r in runs if share_of(runs, Shard(n, 2))(r)}
        assert mine in ({"a"}, {"b", "c"})


def test_a_share_is_written_as_a_fraction() -> None:
    assert parse_shard("2/4") == Shard(2, 4) and str(Shard(2, 4)) == "2/4"
    for wrong in ("0/4", "5/4", "4", "1/0", "a/b", "1/2/3"):
        with pytest.raises(UserError):
            parse_shard(wrong)
