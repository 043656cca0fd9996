"""Runs whose future is edited: what was trained stays to the byte, or the edit is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import output_to, started
from rich.console import Console
from ruamel.yaml import YAML
from test_advice import merged

from ncamix import edits, running
from ncamix.edits import past_of
from ncamix.errors import UserError
from ncamix.inspection import Request, inspect
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.planning import decide, make_plan
from ncamix.replanning import read_plan, replan
from ncamix.run_folder import FREQUENCIES, SUMMARY, TEST, WEIGHTS, RunFolder
from ncamix.run_record import read_run
from ncamix.running import is_trained, take_folder, write_files
from ncamix.text_compilation import prepare_text
from ncamix.trainer import load_trainer

CURRICULUM = """
ncamix: 1
name: tiny
seed: 3
vocabulary: {rows: 200, softmax: all}
sources:
  hiss: {kind: noise, symbols: 50}
  hush: {kind: noise, distribution: zipf, symbols: 50}
  hum: {kind: dyck, style: nested, symbols: 10, depth: 4}
stages:
  - name: warm
    duration: 50%
    mixture: {0%: {hiss: 1}, 100%: {hush: 1}}
    optimizer: {lr: {peak: 0.5x, warmup: 10%, decay: cosine}}
  - name: main
    duration: rest
    enter: {reinitialize: [embeddings]}
    mixture: {hush: 1, hum: 1}
evaluate: {every: 25%, sources: [hum], samples: 4}
"""
TRAINER = """
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
batch_size: 4
budget: 7680tok
optimizer: {lr: 1e-2, clip: 1.0}
checkpoint: {every: 10ba, keep: 2}
"""
Written = dict[str, Any]


def read(text: str) -> Written:
    found: Written = YAML(typ="safe").load(text)
    return found


def advised(output: str) -> list[str]:
    """The lines of YAML that a refusal tells to write."""
    lines = output.split("(then and now)\n")[1].split("    write the lines above")[0].split("\n")
    return [line.removeprefix("    ") for line in lines if line]


class EditedRun:
    """A run's folder, whose files change; commands run one after the other in one process."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process
        self.curriculum, self.trainer = read(CURRICULUM), read(TRAINER)
        self.run = folder / "runs/tiny"

    def __call__(self, *extra: str, status: int = 0, stop: int | None = None) -> str:
        (self.folder / "tiny.yaml").write_text(json.dumps(self.curriculum))
        (self.folder / "small.yaml").write_text(json.dumps(self.trainer))
        assert self.process.stdin is not None
        command = [["tiny.yaml", "-t", "small.yaml", *extra], stop]
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        found, output = json.loads(output_to(self.process, "\n").splitlines()[-1])
        assert found == (143 if stop else status), output
        assert "Traceback" not in output
        return str(output)

    def stage(self, name: str) -> Written:
        (found,) = (stage for stage in self.curriculum["stages"] if stage["name"] == name)
        return dict(found) and found

    def metrics(self) -> bytes:
        return (self.run / "metrics.jsonl").read_bytes()

    def rows(self, name: str = "metrics.jsonl", run: str = "runs/tiny") -> list[Written]:
        return [json.loads(x) for x in (self.folder / run / name).read_text().splitlines()]

    @contextmanager
    def past_stays(self, batches: int | None = None) -> Iterator[None]:
        """The first rows of metrics.jsonl stay as they are, to the byte; all of them by default,
        and the files of the folder, too."""
        before = self.metrics()
        if batches is not None:
            before = b"".join(before.splitlines(keepends=True)[:batches])
        files = self.files()
        yield
        assert self.metrics()[: len(before)] == before
        assert batches is not None or files == self.files()

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.run.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path): path.read_bytes() for path in found}


@pytest.fixture
def edited(tmp_path: Path, own_cache: Path) -> EditedRun:
    program = str(Path(__file__).with_name("edited_runs.py"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    process = started([sys.executable, program], tmp_path, env, talks=True)
    return EditedRun(tmp_path, process)


def test_a_run_is_edited_again_and_again(edited: EditedRun) -> None:
    """Its past stays to the byte, and it ends as a run does that had the last files all along."""
    edited(stop=12)
    edited.trainer["budget"] = "10240tok"  # lengthens a stage whose keyframes are in percent
    with edited.past_stays():
        output = edited(status=2)
    assert "from batch 0 of stage 'warm' on: a learning rate of 0.000833333 and 0.000625" in output
    edited.curriculum = merged(edited.curriculum, advised(output))
    with edited.past_stays(12):
        output = edited(stop=25)
    assert "the future has changed from batch 30 of stage 'warm' on" in output

    edited.stage("main")["mixture"] = {"hum": 1}
    with edited.past_stays(25):
        assert "from batch 0 of stage 'main' on" in edited(stop=50)

    edited.stage("main")["mixture"] = {"0ba": {"hum": 1}, "40ba": {"hum": 1}, "50ba": {"hiss": 1}}
    edited.stage("main")["duration"] = "50ba"
    edited.stage("warm")["duration"] = "40ba"  # as it was, of a budget that is not filled any more
    edited.curriculum["stages"].append({"name": "more", "duration": "6ba", "mixture": {"hush": 1}})
    with edited.past_stays(50):
        assert "from batch 40 of stage 'main' on" in edited()
    with edited.past_stays():
        assert "is finished" in edited()
        lr = edited.stage("warm")["optimizer"]["lr"]
        edited.stage("warm")["optimizer"]["lr"] = "1x"
        assert "would change its past" in edited(status=2)
        edited.stage("warm")["optimizer"]["lr"] = lr

    edited.stage("more")["duration"] = "9ba"
    report = (edited.run / "report.html").stat().st_mtime_ns
    with edited.past_stays(96):
        assert "from batch 6 of stage 'more' on" in edited()
    assert (edited.run / "report.html").stat().st_mtime_ns > report
    edited.curriculum["evaluate"] |= {"sources": ["hum", "hush"], "test": 3}
    with edited.past_stays(99):
        assert "no batch with them" in edited()

    summary = json.loads((edited.run / "summary.json").read_text())
    assert [s["num_batches"] for s in summary["stages"]] == [40, 50, 9]
    assert all(s["planned"] == s["realised"] for s in summary["stages"])
    edits = edited.rows("edits.jsonl")
    assert [(e["stage"], e["batches"]) for e in edits] == [
        ("warm", 12),
        ("warm", 25),
        ("main", 10),
        ("more", 6),
        ("more", 9),
    ]
    assert [a["after"] for a in edits] == [
        *(b["before"] for b in edits[1:]),
        summary["plan_fingerprint"],
    ]
    first = read((edited.run / "edits/1/curriculum.yaml").read_text())
    assert first == read(CURRICULUM)

    edited("--out", "runs/whole")
    ours, theirs = edited.rows(), edited.rows(run="runs/whole")
    assert len(ours) == len(theirs) == 99
    assert summary["test"].keys() == {"hum", "hush"}
    assert summary["test"]["hush"]["num_tokens"] == 3 * 32
    for name in (TEST, FREQUENCIES):
        assert (edited.run / name).read_bytes() == (
            edited.folder / "runs/whole" / name
        ).read_bytes()
    for one, other in zip(ours, theirs, strict=True):
        new = {key for key in other if key not in one}  # sources that came to the stage later
        assert one == {key: other[key] for key in one} and not any(other[key] for key in new)
    plan, difference = replan(edited.run)
    assert difference == ""
    for row in ours[::25]:
        found = inspect(plan, Request(token=row["tokens"]), edited.run)
        assert found.as_trained and found.batch.rate == row["lr"]


# -- folders of runs, without training -------------------------------------------------------------

TEXTS = """
ncamix: 1
name: tiny
tokenizer: {bpe: 300, train_on: [words]}
sources:
  hiss: {kind: noise, symbols: 50}
  words: {kind: text, files: [words.txt, more.txt], repeat: free}
stages:
  - {name: warm, duration: 10ba, mixture: {hiss: 1}}
  - {name: text, duration: 2ep, mixture: {words: 1}}
"""


class Folder:
    """A run's folder as far as edits see it: its files, and checkpoints by their names."""

    def __init__(self, folder: Path) -> None:
        self.place, self.folder = folder, RunFolder(folder / "run")
        self.folder.path.mkdir()

    def plan(self, curriculum: str = CURRICULUM, trainer: str = TRAINER) -> Plan:
        (self.place / "c.yaml").write_text(curriculum)
        (self.place / "t.yaml").write_text(trainer)
        loaded = load_curriculum(self.place / "c.yaml")
        return make_plan(loaded, load_trainer(self.place / "t.yaml"))

    def begin(self, plan: Plan) -> str:
        """What `ncamix run` does before it trains, and says."""
        told = io.StringIO()
        plan = take_folder(plan, self.folder, None, False, Console(file=told, width=500))
        write_files(plan, self.folder)
        return told.getvalue()

    def refused(self, plan: Plan) -> str:
        before = {path: path.read_bytes() for path in self.folder.path.rglob("*") if path.is_file()}
        with pytest.raises(UserError) as caught:
            self.begin(plan)
        after = {path: path.read_bytes() for path in self.folder.path.rglob("*") if path.is_file()}
        assert before == after
        return str(caught.value)

    def save(self, stage: str, *batches: int) -> None:
        home = self.folder.path / "checkpoints" / stage
        home.mkdir(parents=True, exist_ok=True)
        for batch in batches:
            (home / f"ba{batch:06}.pt").touch()

    def saved(self) -> list[str]:
        return sorted(path.name for path in self.folder.path.glob("checkpoints/*/*"))

    def record(self) -> list[tuple[str, int]]:
        file = self.folder.file("edits.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [(row["stage"], row["batches"]) for row in rows]


@pytest.fixture
def begun(tmp_path: Path) -> Folder:
    """A run that has trained 20 of 30 batches of its first stage."""
    found = Folder(tmp_path)
    found.begin(found.plan())
    found.save("0-warm", 10, 20)
    return found


LATER = CURRICULUM.replace("{hush: 1, hum: 1}", "{hum: 1}")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(8))
def test_killed_while_an_edit_is_taken_over(
    begun: Folder, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two files is given next, the run goes on, and its record is true."""
    written = 0

    def write(path: Path, data: bytes) -> None:
        nonlocal written
        if written == moment:
            raise Killed
        written += 1
        path.write_bytes(data)

    for given in (LATER, CURRICULUM, LATER):
        with monkeypatch.context() as patch:
            for module in (edits, running):
                patch.setattr(module, "write_whole", write)
            written = 0
            try:
                begun.begin(begun.plan(LATER))
            except Killed:
                assert written == moment
        plan = begun.plan(given)
        begun.begin(plan)
        assert read_plan(begun.folder.path)["fingerprint"] == plan.fingerprint
        assert replan(begun.folder.path)[1] == ""
        assert begun.record() == ([] if given == CURRICULUM else [("warm", 20)])
        kept = begun.folder.path / "edits/1/curriculum.yaml"
        assert not begun.record() or kept.read_text() == CURRICULUM


def test_once_trained_under_new_files_the_old_ones_are_one_more_edit(begun: Folder) -> None:
    begun.begin(begun.plan(LATER))
    begun.save("0-warm", 25)
    (remark,) = read_run(begun.folder.path).remarks
    assert remark.startswith("After 2,560 tokens") and "edits/1/" in remark
    assert "from batch 0 of stage 'main' on" in begun.begin(begun.plan())
    assert begun.record() == [("warm", 20), ("warm", 25)]
    begun.begin(begun.plan(LATER))
    begun.save("0-warm", 30)
    begun.save("1-main", 10)
    assert "from batch 0 of stage 'main' on: other samples" in begun.refused(begun.plan())
    alone = LATER.split("  - name: main")[0].replace("50%", "30ba")
    alone += "evaluate: {sources: [hum]}\n"  # which keeps the ids of others where they are
    assert "of stage 'main' on: it is planned no more" in begun.refused(begun.plan(alone))


def test_a_stage_that_is_to_end_at_a_checkpoint_is_ended_again(begun: Folder) -> None:
    """What belongs to a stage's end, such as its evaluation, was not made there."""
    fixed = "{0ba: {hiss: 1}, 30ba: {hush: 1}}"
    text = CURRICULUM.replace("{0%: {hiss: 1}, 100%: {hush: 1}}", fixed)
    rate = "{lr: {0ba: 1e-3, 20ba: 1e-4}}"
    text = text.replace("{lr: {peak: 0.5x, warmup: 10%, decay: cosine}}", rate)
    begun.folder.file("plan.json").unlink()
    begun.begin(begun.plan(text))
    cut = text.replace("{0ba: {hiss: 1}, 30ba: {hush: 1}}", "{hiss: 1}")
    assert "would change its past" in begun.refused(begun.plan(cut.replace("50%", "20ba")))
    shorter = text.replace("duration: 50%", "duration: 20ba")
    assert "lies outside" in str(pytest.raises(UserError, begun.plan, shorter).value)
    shorter = shorter.replace(fixed, "[{at: 0ba, mix: {hiss: 1}}]")
    steady = text.replace(fixed, "{hiss: 1}")
    begun.folder.file("plan.json").unlink()
    begun.begin(begun.plan(steady))
    begun.begin(begun.plan(shorter))
    assert begun.saved() == ["ba000010.pt"]
    assert past_of(begun.plan(shorter), begun.folder).batches == 10


def test_a_text_that_was_mended_before_anything_was_drawn_of_it(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("some words\n" * 400)
    found = Folder(tmp_path)
    (tmp_path / "more.txt").write_text("mended\n" * 200)
    found.begin(prepare_text(found.plan(TEXTS)))
    found.save("0-warm", 10)
    (tmp_path / "more.txt").write_text("mended again\n" * 200)
    assert "the future has changed from batch 0 of stage 'text'" in found.begin(found.plan(TEXTS))
    found.save("1-text", 1)
    (tmp_path / "more.txt").write_text("mended once more\n" * 200)
    told = found.refused(found.plan(TEXTS))
    assert "from batch 0 of stage 'text' on: other samples of words" in told
    assert "leave 'words' as it is, and declare what differs under another name" in told


def test_paths_start_from_the_file_that_holds_them(tmp_path: Path) -> None:
    """Also where the curriculum that extends that file has changed since."""
    base = tmp_path / "elsewhere/base.yaml"
    base.parent.mkdir()
    base.write_text(TEXTS)
    for name in ("words", "more"):
        (base.parent / f"{name}.txt").write_text("some words\n" * 400)
    extends = "ncamix: 1\nextends: elsewhere/base.yaml\nname: tiny\n"
    found = Folder(tmp_path)
    found.begin(prepare_text(found.plan(extends)))
    found.save("0-warm", 10)
    longer = extends + "stages:\n  text: {duration: 3ep}\n"
    assert "of stage 'text' on" in found.begin(found.plan(longer))
    shorter = extends + "stages:\n  warm: {duration: 5ba}\n"
    assert "duration: 10ba" in found.refused(found.plan(shorter))


def test_lengths_in_epochs_are_known_without_the_cache(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").write_text("some words\n" * 400)
    (tmp_path / "more.txt").write_text("more words\n" * 400)
    found = Folder(tmp_path)
    exact = prepare_text(found.plan(TEXTS))
    found.begin(exact)
    found.save("0-warm", 10)
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "another"))
    plan = found.plan(TEXTS)
    assert plan.estimated and plan.fingerprint != exact.fingerprint
    assert "resuming" in found.begin(plan)
    longer = TEXTS.replace("2ep", "3ep")
    assert "from batch" in found.begin(found.plan(longer))


def test_an_average_that_has_begun_keeps_its_beginning(tmp_path: Path) -> None:
    steady = CURRICULUM.replace("{0%: {hiss: 1}, 100%: {hush: 1}}", "{hiss: 1}")
    steady = steady.replace("    optimizer: {lr: {peak: 0.5x, warmup: 10%, decay: cosine}}\n", "")
    trainer = TRAINER + "averaging: {last: 10%}\n"  # of 30 batches: from 27 on
    found = Folder(tmp_path)
    found.begin(found.plan(steady, trainer))
    found.save("0-warm", 29)
    slightly = found.plan(steady.replace("50%", "31ba"), trainer)
    assert "weights averaged from batch 27 and from batch 28 on" in found.refused(slightly)
    assert "from batch 30" in found.begin(found.plan(steady.replace("50%", "50ba"), trainer))


def test_written_out_defaults_are_no_difference(begun: Folder) -> None:
    trainer = TRAINER.replace(
        "{lr: 1e-2,", "{kind: adamw, eps: 1e-8, betas: [0.9, 0.999], lr: 1e-2,"
    )
    assert begun.plan(trainer=trainer).fingerprint == begun.plan().fingerprint
    assert "no batch with them" in begun.begin(begun.plan(CURRICULUM.replace("25%", "20%")))
    begun.refused(begun.plan(trainer=TRAINER.replace("{lr: 1e-2,", "{eps: 1e-7, lr: 1e-2,")))


def test_what_has_no_checkpoint_is_no_past(tmp_path: Path) -> None:
    found = Folder(tmp_path)
    found.begin(found.plan())
    found.folder.file("metrics.jsonl").write_text('{"stage": "warm", "batch": 0}\n')
    found.folder.file("curriculum.yaml").write_text("nothing: that can be read\n")
    assert "it begins anew" in found.begin(found.plan(LATER.replace("seed: 3", "seed: 4")))
    assert replan(found.folder.path)[1] == "" and found.record() == []


def test_what_begins_anew_leaves_nothing_that_says_it_is_finished(tmp_path: Path) -> None:
    """Such as of a finished run whose checkpoints were removed."""
    found = Folder(tmp_path)
    plan = found.plan()
    found.begin(plan)
    weights = found.folder.checkpoints(0, "warm") / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.touch()
    found.folder.file(SUMMARY).write_text(json.dumps({"plan_fingerprint": plan.fingerprint}))
    found.folder.file(TEST).touch()
    found.folder.file(FREQUENCIES).touch()
    found.begin(found.plan(LATER))
    assert not any(found.folder.file(name).exists() for name in (SUMMARY, TEST, FREQUENCIES))
    found.begin(plan)
    assert not weights.exists() and not is_trained(plan, found.folder.path)


def test_what_cannot_be_compared_is_said_plainly(begun: Folder) -> None:
    kept = begun.folder.file("curriculum.yaml")
    kept.write_text(CURRICULUM.replace("kind: dyck", "kind: brackets"))
    told = begun.refused(begun.plan(LATER))
    assert "cannot be planned again as it was" in told and "unknown kind 'brackets'" in told
    kept.write_text(CURRICULUM.replace("seed: 3", "seed: 4"))
    assert "seeds.init was 3, is 4" in begun.refused(begun.plan(LATER))
    assert "resuming" in begun.begin(begun.plan())  # nothing has changed


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rows: 200", "rows: 300", "vocabulary rows"),
        ("seed: 3", "seed: 4", "keeps its model and its seeds"),
        ("width: 16", "width: 32", "keeps its model and its seeds"),
        ("name: warm", "name: hot", "the name of the stage, 'warm' and 'hot'"),
        ("hiss", "noise", "other samples"),
        ("hiss: {kind: noise,", "hiss: {kind: noise, distribution: zipf,", "under another name"),
        ("symbols: 10,", "symbols: 12,", "hiss (its ids begin at 20 and 24)"),
        ("batch_size: 4", "batch_size: 8", "batch_size: 4"),
        ("lr: 1e-2", "lr: 2e-2", "{at: 30ba, to: 0}"),
    ],
)
def test_what_is_told_of_a_change_of_the_past(begun: Folder, old: str, new: str, told: str) -> None:
    assert told in begun.refused(
        begun.plan(CURRICULUM.replace(old, new), TRAINER.replace(old, new))
    )


def test_decisions_of_stages_that_ended_stay(tmp_path: Path) -> None:
    found = Folder(tmp_path)
    waits = CURRICULUM.replace("50%\n", "50%\n    until: {loss/hum: {below: 3}}\n")
    found.begin(found.plan(waits))
    found.save("0-warm", 10)
    found.folder.add_decision("warm", 15, 15 * 128, {"loss/hum": 2.0})
    sooner = waits.replace("below: 3", "below: 4")
    found.begin(found.plan(sooner))  # it was decided, but its end is not behind a checkpoint
    assert found.folder.decisions() == {}
    found.folder.add_decision("warm", 15, 15 * 128, {"loss/hum": 2.0})
    found.save("0-warm", 15)
    plan = found.plan(waits)
    assert "from batch" not in found.begin(plan)
    assert found.folder.decisions() == {"warm": 15}
    assert past_of(decide(plan, {"warm": 15}), found.folder).stage == 1
    assert "would change" in found.refused(found.plan(waits.replace("50%", "60%")))
