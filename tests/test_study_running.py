"""Studies, conducted by workers that train nothing: what is known when, whose turn it is, and what
the command ends with."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ncamix.errors import UserError
from ncamix.jobs import Done, Job
from ncamix.run_folder import TEST
from ncamix.shares import Shard
from ncamix.study_agenda import Agenda, open_study
from ncamix.study_running import check_place, train_study
from ncamix.study_runs import StudyRun, state_of
from ncamix.variants import load_study
from ncamix.waiting import quiet

BASE = """\
ncamix: 1
name: base
sources:
  hiss: {kind: noise, symbols: 50}
  hum: {kind: dyck, style: nested, symbols: 10, depth: 4}
stages:
  - {name: before, duration: 10%, mixture: {0%: {hiss: 1}, 100%: {hum: 1}}}
  - {name: main, duration: rest, mixture: {hum: 1}}
evaluate: {every: 50%, sources: [hum], samples: 4}
"""
TRAINER = """\
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
batch_size: 4
budget: 5120tok
optimizer: {lr: 1e-2}
"""
STUDY = """\
ncamix: 1
name: tried
base: base.yaml
trainer: small.yaml
seeds: [1, 2]
tune: {stages.main.optimizer.lr: [0.1x, 1x], seeds: [9]}
variants: {up: {}, down: {stages.before.transform: reverse}}
compare: {primary: [up, down], metric: loss/hum, smallest_effect: 0.01}
"""
WHOLE = Shard()


@dataclass
class Idle:
    """Workers that leave a finished run without training it, or the end that a test wants."""

    study: Studied
    jobs: list[Job] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    @property
    def free(self) -> int:
        return 0 if self.done else 1

    def start(self, job: Job) -> None:
        self.jobs.append(job)
        folder = str(job.folder.relative_to(self.study.out))
        run = next(run for run in self.study.agenda().known() if run.folder == folder)
        said = self.study.wrong.get(folder, "")
        write(job.folder / "plan.json", {"fingerprint": run.fingerprint})
        if not said:
            self.study.finish(run)
        self.done.append(Done(job, 2 if said else 0, said and f"ncamix: {said}"))

    def wait(self, seconds: float) -> list[Done]:
        done, self.done = self.done, []
        return done

    def stop(self) -> None:
        self.done.clear()


class Studied:
    """A study in a folder. wrong: by a run's folder, what its process ends with; losses: of runs to
    tune with, by their points."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "runs/tried"
        (folder / "base.yaml").write_text(BASE)
        (folder / "small.yaml").write_text(TRAINER)
        self.write(STUDY)
        self.wrong: dict[str, str] = {}
        self.losses = {"lr=0.1x": 2.0, "lr=1x": 1.0}
        self.test = 1.0
        self.said = ""

    def write(self, text: str) -> None:
        (self.folder / "study.yaml").write_text(text)

    def agenda(self, settings: Sequence[str] = ()) -> Agenda:
        loaded = load_study(self.folder / "study.yaml", settings=settings)
        return open_study(loaded, self.out, quiet)

    def finish(self, run: StudyRun) -> None:
        """What a run leaves that has ended."""
        after = {"hum": {"after": {"loss": self.losses.get(str(run.point), 1.0)}}}
        facts = {"plan_fingerprint": run.fingerprint, "stages": [{"evaluation": after}]}
        write(self.out / run.folder / TEST, {"sources": {"hum": {"loss": self.test}}})
        write(self.out / run.folder / "summary.json", facts)

    def __call__(self, status: int = 0, shard: Shard = WHOLE) -> list[str]:
        """Run the study; the folders of the runs that it started."""
        workers, out = Idle(self), io.StringIO()
        console = Console(file=out, width=400)
        try:
            found = train_study(self.agenda(), lambda: workers, None, shard, console)
        finally:
            self.said = out.getvalue()
        assert found == status, self.said
        return [str(job.folder.relative_to(self.out)) for job in workers.jobs]

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "study.json").read_text())
        return found

    def states(self) -> dict[str, str]:
        return {run.folder: state_of(run, self.out) for run in self.agenda().known()}


def write(file: Path, facts: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(facts))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The studies whose reports would be drawn, as other tests do."""
    found: list[Path] = []

    def draw(folder: Path) -> None:
        found.append(folder)
        (folder / "study.html").touch()

    monkeypatch.setattr("ncamix.study_report.write_study_report", draw)
    return found


@pytest.fixture
def studied(
    tmp_path: Path, own_cache: Path, drawn: list[Path], monkeypatch: pytest.MonkeyPatch
) -> Studied:
    monkeypatch.chdir(tmp_path)
    return Studied(tmp_path)


def test_an_arm_is_not_compared_as_long_as_a_run_of_its_tuning_fails(studied: Studied) -> None:
    studied.wrong = {"tuning/down/lr=1x/9": "it went wrong"}
    started = studied(status=2)
    assert sorted(started) == sorted(
        [f"tuning/{arm}/lr={x}x/9" for arm in ("up", "down") for x in (0.1, 1)] + ["up/1", "up/2"]
    )
    assert "down at lr=1x, seed 9: failed: it went wrong" in studied.said
    assert "down is not compared: its tuning is not over" in studied.said
    arms = studied.record()["arms"]
    assert (arms["up"]["tuned"], arms["up"]["chosen"]) == (True, "lr=1x")
    assert (arms["down"]["tuned"], arms["down"]["chosen"]) == (False, None)

    studied.wrong = {}  # the next command tries it again
    assert studied() == ["tuning/down/lr=1x/9", "down/1", "down/2"]
    assert studied.record()["arms"]["down"]["chosen"] == "lr=1x"


def test_a_run_to_tune_with_that_diverges_counts_as_infinitely_bad(studied: Studied) -> None:
    agenda = studied.agenda()
    bad = next(run for run in agenda.tuning() if run.folder == "tuning/down/lr=1x/9")
    write(studied.out / bad.folder / "diverged.json", {"fingerprint": bad.fingerprint, "what": "!"})
    (studied.out / ".study.lock").touch()
    started = studied()
    assert {"down/1", "down/2"} <= set(started) and bad.folder not in started
    assert studied.record()["arms"]["down"]["chosen"] == "lr=0.1x"


def test_other_lengths_are_of_their_arms_share(studied: Studied) -> None:
    notes = "  notes: {kind: text, files: [notes.txt], repeat: free}\nstages:"
    last = "  - {name: last, duration: 40%, mixture: {notes: 1}}\nevaluate"
    base = BASE.replace("stages:", notes).replace("evaluate", last) + "tokenizer: bytes\n"
    (studied.folder / "base.yaml").write_text(base)
    (studied.folder / "notes.txt").write_text("a line of notes\n" * 500)
    speedup = "speedup: {to: down, of: [up], lengths: [0.5x, 1x, 2x]}"
    text = STUDY.replace("smallest_effect", f"{speedup}, smallest_effect")
    studied.write(f"{text}controls: []\n")
    assert any(arm.lengthened == "up" for arm in studied.agenda().arms.values())
    parts = [studied(shard=Shard(n, 2)) for n in (1, 2)]
    assert all(parts) and not set(parts[0]) & set(parts[1])
    assert set(studied.states().values()) == {"finished"}
    assert studied() == []


def test_a_share_that_is_not_finished_ends_otherwise_than_one_that_is(
    studied: Studied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Idle, "free", property(lambda workers: 0))  # nobody trains
    assert studied(status=2) == []
    assert "8 of 8 runs are still to be trained" in studied.said


def test_a_run_without_its_test_is_tested_again_and_the_report_drawn_anew(
    studied: Studied, drawn: list[Path]
) -> None:
    studied()
    assert len(drawn) == 1 and studied() == [] and len(drawn) == 1
    (studied.out / "up/2" / TEST).unlink()
    (studied.out / "down/1" / TEST).write_text("torn")
    (studied.out / "tuning/up/lr=1x/9" / TEST).unlink()  # nothing is decided by that
    studied.test = 0.5
    assert studied() == ["down/1", "up/2"]
    assert "up, seed 2: is tested again, since its test.json is missing" in studied.said
    assert len(drawn) == 2, "states are what they were, and figures are not"
    assert studied() == [] and len(drawn) == 2

    # nothing helps: the command does not say that all is well
    (studied.out / "up/2" / TEST).unlink()
    studied.wrong = {"up/2": "it went wrong"}
    assert studied(status=2) == ["up/2"]


def test_the_record_tells_what_was_declared_otherwise(studied: Studied, drawn: list[Path]) -> None:
    studied()
    before = studied.record()
    assert before["edits"] == []
    studied.write(STUDY.replace("[up, down]", "[down, up]"))
    assert studied() == [] and len(drawn) == 2
    (edit,) = studied.record()["edits"]
    assert (edit["compare"], edit["seeds"]) == (before["compare"], [1, 2])
    assert edit["num_finished"] == 4
    assert studied() == [] and studied.record()["edits"] == [edit] and len(drawn) == 2


def test_a_study_takes_no_seed_for_all_its_runs(studied: Studied) -> None:
    with pytest.raises(UserError) as error:
        studied.agenda(["seed=3"])
    assert "every run of a study has a seed of its own" in str(error.value)
    assert "`seeds` in the study" in str(error.value)


def test_a_study_runs_here_or_on_ray() -> None:
    for known in (None, "ray", "ray://there:10001"):
        check_place(known)
    for unknown in ("spark", "rays", ""):
        with pytest.raises(UserError, match="only Ray is known"):
            check_place(unknown)
