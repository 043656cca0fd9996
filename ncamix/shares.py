"""Shares of a study: `--shard i/n` trains the i-th of n parts of its runs, on a host of its own.

    runs -> groups that should stay together -> n shares of about as many tokens

A tuned arm stays together, with its other lengths, since its last runs wait for its first; without
tuning, runs that begin alike do. Runs that are one are never of two shares. Every host finds the
same shares, if it names the same runs, whatever is trained by then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ncamix.errors import fail
from ncamix.study_runs import StudyRun, shared_tokens


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `of` shares, from 1."""

    number: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_shard(written: str) -> Shard:
    """Read `2/4`. Raises UserError where it is none."""
    match = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", written)
    if match is None:
        raise fail(f"--shard {written}: not a share", "write 1/4 for the first of four")
    shard = Shard(int(match[1]), int(match[2]))
    if not 1 <= shard.number <= shard.of:
        raise fail(f"--shard {written}: shares are numbered 1 to {shard.of}", f"write 1/{shard.of}")
    return shard


def share_of(
    runs: Sequence[StudyRun], shard: Shard, tuned_as: Mapping[str, str] | None = None
) -> Callable[[StudyRun], bool]:
    """Which runs are of a share. Groups go, the largest first, to the share that has fewest tokens
    by then.

    runs: all of the study, those to compare as if nothing were tuned.
    tuned_as: of each arm, the one at whose point it is compared; an arm that is not named, its own.
    """
    homes: dict[str, str] = {}  # of groups, and of runs; the end of the chain is the group's name
    groups: dict[str, list[StudyRun]] = {}
    tuned = any(run.tuning for run in runs)

    def own(run: StudyRun) -> str:
        if tuned:
            return (tuned_as or {}).get(run.arm, run.arm)
        return (run.beginnings or (run.fingerprint,))[0]

    def home(key: str) -> str:
        while homes.setdefault(key, key) != key:
            key = homes[key]
        return key

    for run in runs:  # groups that have a run in common are one
        homes[home(f"run {run.fingerprint}")] = home(own(run))
    for run in runs:
        groups.setdefault(home(own(run)), []).append(run)
    sized = sorted(
        ((shared_tokens(group)[1], name) for name, group in groups.items()),
        key=lambda pair: (-pair[0], pair[1]),
    )
    load, mine = [0] * shard.of, set[str]()
    for tokens, name in sized:
        lightest = load.index(min(load))
        load[lightest] += tokens
        if lightest == shard.number - 1:
            mine.add(name)
    return lambda run: home(own(run)) in mine
