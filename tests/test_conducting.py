"""Conducting: which run of a study trains when, and what becomes of it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from ncamix import conducting
from ncamix.conducting import TRIES, Conductor
from ncamix.errors import UserError
from ncamix.files import RUN_LOCK
from ncamix.jobs import Done, Job
from ncamix.plan import Plan
from ncamix.run_folder import DIVERGED, TEST, WEIGHTS
from ncamix.study_runs import StudyRun, state_of, why_failed


def run(name: str, *stages: str, tuning: bool = False) -> StudyRun:
    """A run whose stages are told by their names: those of equal names in a row are alike."""
    begun = ["/".join(stages[: n + 1]) for n in range(len(stages))]
    return StudyRun(
        name,
        1,
        None,
        f"{name}/1",
        (),
        "/".join([*begun[-1:], "" if tuning else name]),
        tuple((stage, 10) for stage in stages),
        tuple(100 for _ in stages),
        tuple(begun[:-1]),
        tuning,
    )


def write(file: Path, facts: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(facts))


def leave_stage(folder: Path, stages: Sequence[tuple[str, int]], number: int) -> None:
    """What a run's folder holds when so many of its stages are over."""
    for index, (name, batches) in enumerate(stages[:number]):
        home = folder / f"checkpoints/{index}-{name}"
        home.mkdir(parents=True, exist_ok=True)
        (home / WEIGHTS).touch()
        (home / f"ba{batches:06}.pt").touch()


@dataclass
class Hand:
    """Workers that do what a test says, a step at each look."""

    runs: dict[str, StudyRun]
    slots: int = 2
    ends: dict[str, list[int]] = field(default_factory=dict)  # statuses of a run's tries; then 0
    started: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    at: dict[str, tuple[Job, int]] = field(default_factory=dict)
    most: int = 0
    said: str = "it went wrong"  # by those that do not end with 0
    arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.slots - len(self.at)

    def start(self, job: Job) -> None:
        name = job.name.partition(",")[0]
        assert self.free > 0 and name not in self.at
        own = self.runs[name]
        write(job.folder / "plan.json", {"fingerprint": own.fingerprint})
        self.at[name] = (job, 0)
        self.started.append(name)
        self.arguments[name] = job.arguments
        self.most = max(self.most, len(self.at))

    def wait(self, seconds: float) -> list[Done]:
        ended = []
        for name, (job, number) in list(self.at.items()):
            own = self.runs[name]
            status = (self.ends.get(name) or [0])[0]
            if status or number == len(own.stages):
                if self.ends.get(name):
                    self.ends[name].pop(0)
                if not status:
                    write(job.folder / TEST, {"sources": {}})
                    write(job.folder / "summary.json", {"plan_fingerprint": own.fingerprint})
                del self.at[name]
                self.order.append(name)
                ended.append(Done(job, status, f"ncamix: {self.said}\n  so" if status else ""))
            else:
                leave_stage(job.folder, own.stages, number + 1)
                self.at[name] = (job, number + 1)
        return ended

    def stop(self) -> None:
        self.at.clear()


@dataclass
class Study:
    """A study in a folder, its workers, and what it has said and forked."""

    folder: Path
    hand: Hand
    said: list[str] = field(default_factory=list)
    forks: list[tuple[str, str, int]] = field(default_factory=list)

    def conduct(self, pending: Callable[[Conductor], Iterable[StudyRun]]) -> Conductor:
        conductor = Conductor(
            self.folder,
            self.folder,
            self.hand,
            lambda run: cast(Plan, run),
            lambda run: ("run", run.arm),
            self.said.append,
        )
        shown: list[int] = []
        conductor.conduct(lambda: list(pending(conductor)), lambda now: shown.append(len(now)))
        assert shown[-1] == 0
        return conductor


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    made = Study(tmp_path, Hand({}))

    def fork(donor: Path, plan: Any, number: int, folder: Path) -> None:
        assert not folder.exists()
        leave_stage(folder, plan.stages, number)
        made.forks.append((plan.arm, str(donor.relative_to(tmp_path)), number))

    monkeypatch.setattr(conducting, "fork", fork)
    return made


def all_of(runs: Sequence[StudyRun]) -> Callable[[Conductor], Iterable[StudyRun]]:
    return lambda conductor: [r for r in runs if not conductor.is_over(r)]


def given(study: Study, *runs: StudyRun) -> list[StudyRun]:
    study.hand.runs = {r.arm: r for r in runs}
    return list(runs)


def test_what_begins_alike_is_trained_once_and_the_others_go_on_from_it(study: Study) -> None:
    runs = given(study, run("a", "x", "p"), run("b", "x", "q"), run("c", "x", "r"))
    study.hand.slots = 3
    study.conduct(all_of(runs))
    assert study.hand.started == ["a", "b", "c"]
    assert study.forks == [("b", "a/1", 1), ("c", "a/1", 1)]
    assert study.hand.most == 3  # they wait no longer than for the stage
    assert "b, seed 1: goes on from a, seed 1 after x" in study.said


def test_who_stops_a_study_is_told_what_is_waited_for(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> list[Done]:
        raise KeyboardInterrupt

    monkeypatch.setattr(study.hand, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.conduct(all_of(given(study, run("a", "x"), run("b", "y"))))
    assert study.said == ["stopping: waiting for 2 runs to save their state"]


def test_another_run_is_trained_while_one_waits(study: Study) -> None:
    runs = given(study, run("a", "x", "p"), run("b", "x", "q"), run("c", "y", "r"))
    study.conduct(all_of(runs))
    assert study.hand.started[:2] == ["a", "c"]


def test_runs_go_on_from_the_deepest_common_stage(study: Study) -> None:
    runs = given(study, run("a", "x", "p"), run("b", "x", "y", "p"), run("c", "x", "y", "q"))
    study.hand.slots = 1
    study.conduct(all_of(runs))
    assert study.forks == [("b", "a/1", 1), ("c", "b/1", 2)]


def test_a_donor_that_fails_frees_those_that_wait(study: Study) -> None:
    runs = given(study, run("a", "x", "p"), run("b", "x", "q"))
    study.hand.ends = {"a": [2]}
    conductor = study.conduct(all_of(runs))
    assert [conductor.states[r.fingerprint] for r in runs] == ["failed", "finished"]
    assert study.forks == []
    assert "a, seed 1: failed: it went wrong" in study.said
    assert why_failed(runs[0], study.folder) == "it went wrong"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (2, "No space left on device: /disk/metrics.jsonl"),
        (2, "there is no room left in /disk (Disk quota exceeded): 0 bytes are free"),
        (1, "OSError: [Errno 28] No space left on device"),
    ],
)
def test_no_run_is_started_once_a_disk_is_full(study: Study, status: int, said: str) -> None:
    runs = given(study, *(run(name, "p") for name in "abcd"))
    study.hand.ends = {"a": [status]}
    study.hand.slots, study.hand.said = 1, said
    with pytest.raises(UserError, match="a disk is full") as error:
        study.conduct(all_of(runs))
    assert "make room" in str(error.value) and said in str(error.value)
    assert study.hand.started == ["a"] and state_of(runs[0], study.folder) == "begun"
    study.conduct(all_of(runs))
    assert study.hand.started == ["a", "a", "b", "c", "d"]


def test_a_disk_may_be_too_full_for_words(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = given(study, run("a", "p"), run("b", "q"))
    study.hand.ends, study.hand.slots = {"a": [1]}, 1
    monkeypatch.setattr(conducting, "free_bytes", lambda folder: 4096)
    with pytest.raises(UserError, match="a disk is full"):
        study.conduct(all_of(runs))
    assert study.hand.started == ["a"]


def test_a_failure_is_tried_again_by_the_next_command_alone(study: Study) -> None:
    runs = given(study, run("a", "p"))
    study.hand.ends = {"a": [2]}
    study.conduct(all_of(runs))
    assert study.hand.started == ["a"] and state_of(runs[0], study.folder) == "failed"
    study.conduct(all_of(runs))
    assert study.hand.started == ["a", "a"] and state_of(runs[0], study.folder) == "finished"
    study.conduct(all_of(runs))
    assert study.hand.started == ["a", "a"]


def test_a_run_whose_process_dies_goes_on_a_few_times(study: Study) -> None:
    runs = given(study, run("a", "p"), run("b", "q"))
    study.hand.ends = {"a": [137, -9], "b": [137] * TRIES}
    conductor = study.conduct(all_of(runs))
    assert [conductor.states[r.fingerprint] for r in runs] == ["finished", "failed"]
    assert study.hand.started.count("a") == TRIES == study.hand.started.count("b")


def test_a_run_that_diverged_is_over_for_good(study: Study) -> None:
    runs = given(study, run("a", "p"))
    write(study.folder / "a/1" / DIVERGED, {"fingerprint": runs[0].fingerprint, "what": "no loss"})
    conductor = study.conduct(all_of(runs))
    assert conductor.states[runs[0].fingerprint] == "diverged" and not study.hand.started
    assert why_failed(runs[0], study.folder) == "no loss"


def test_no_failure_is_noted_in_the_folder_of_another_process(study: Study) -> None:
    runs = given(study, run("a", "p"))
    study.hand.ends = {"a": [2]}
    (study.folder / "a/1").mkdir(parents=True)
    with (study.folder / "a/1" / RUN_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        conductor = study.conduct(all_of(runs))
    assert conductor.states[runs[0].fingerprint] == "failed"
    assert "a, seed 1: failed: it went wrong" in study.said
    assert state_of(runs[0], study.folder) == "begun" and not why_failed(runs[0], study.folder)


def test_runs_that_are_one_are_trained_once(study: Study) -> None:
    first = run("a", "p")
    runs = given(study, first)
    study.conduct(all_of([*runs, first]))
    assert study.hand.started == ["a"]


def test_a_run_that_is_planned_otherwise_now_starts_over_and_says_so(study: Study) -> None:
    write(study.folder / "a/1/plan.json", {"fingerprint": "another"})
    study.conduct(all_of(given(study, run("a", "p"))))
    assert study.hand.arguments["a"] == ("run", "a", "--fresh")
    assert any("moved aside" in line for line in study.said)


def test_what_becomes_known_on_the_way_is_trained_too(study: Study) -> None:
    first, second = given(study, run("a", "p"), run("b", "q"))

    def pending(conductor: Conductor) -> list[StudyRun]:
        known = [first, second] if conductor.states.get(first.fingerprint) else [first]
        return [r for r in known if not conductor.is_over(r)]

    study.conduct(pending)
    assert study.hand.started == ["a", "b"]


def test_states_of_finished_stages_stay_only_while_somebody_may_need_them(study: Study) -> None:
    runs = given(study, run("a", "x", "p"), run("b", "y", "p"), run("c", "x", "q"))
    study.hand.slots, left = 1, []

    def pending(conductor: Conductor) -> list[StudyRun]:
        left.append(sorted(str(p.relative_to(study.folder)) for p in study.folder.rglob("*.pt")))
        return [r for r in runs if not conductor.is_over(r)]

    study.conduct(pending)
    assert left == [
        [],
        ["a/1/checkpoints/0-x/ba000010.pt"],
        ["a/1/checkpoints/0-x/ba000010.pt"],
        [],
    ]
    assert len(list(study.folder.rglob(WEIGHTS))) == 6
