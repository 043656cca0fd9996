"""Text compiled beside training: who does it, at which priority, how it ends, what it tells."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
from conftest import TRAINER, Planner

from ncamix import background, cache, text_compilation
from ncamix.background import Compiler, Work, error_of, failure_of, start_compiler, uncompiled
from ncamix.errors import UserError, fail
from ncamix.plan import Plan
from ncamix.waiting import Say, quiet

BODY = """\
tokenizer: {bpe: 300, train_on: [words]}
sources:
  static: {kind: noise, symbols: 10}
  words: {kind: text, files: ["words/*.txt"], holdout: {share: 0.2}, repeat: free}
  more: {kind: text, files: ["more/*.txt"], holdout: {share: 0.2}, repeat: free}
stages:
  - {name: first, duration: 20%, mixture: {static: 1}}
  - {name: second, duration: 40%, mixture: {words: 1}, sequence_length: 16}
  - {name: third, duration: rest, mixture: {more: 1}}
evaluate: {every: 20%, sources: [words, static], samples: 8}
"""


@pytest.fixture(autouse=True)
def corpora(tmp_path: Path) -> None:
    for name in ("words", "more"):
        (tmp_path / name).mkdir()
        for i in range(40):
            lines = (f"{name} {j} of {i}: seen {i * j} times, {i + j}" for j in range(20))
            (tmp_path / name / f"{i:02}.txt").write_text("\n".join(lines))


@contextmanager
def compiling(plan: Plan, urgent: tuple[str, ...] = ()) -> Iterator[Compiler]:
    compiler = Compiler(plan, uncompiled(plan), urgent)
    try:
        yield compiler
    finally:
        compiler.close()


def wait_until(ready: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)


def finish(compiler: Compiler) -> None:
    until = time.monotonic() + 60
    while compiler.pending and compiler.failure is None:
        assert time.monotonic() < until
        compiler.poll(0.2)


def locked(plan: Plan, name: str):  # type: ignore[no-untyped-def]
    """Hold a dataset's place in the cache, as a process that compiles it would."""
    return cache.building(plan.sources[name].fingerprint, name)


def test_what_a_run_will_read_is_held_from_its_beginning(plan_of: Planner) -> None:
    from ncamix.training.stopping import StopSignal
    from ncamix.training.texts import Texts

    plan = plan_of(BODY)
    entries = {source.fingerprint for source in plan.sources.values() if source.text}
    assert entries and not any(map(cache.in_use, entries))
    Texts(plan, None, None, StopSignal(), lambda plan: None)
    assert all(map(cache.in_use, entries))


def test_texts_are_compiled_in_the_order_of_need(plan_of: Planner) -> None:
    plan = plan_of(BODY)
    assert [plan.awaited(stage) for stage in plan.stages] == [
        (),
        ("words@16", "words"),
        ("more", "words"),
    ]
    assert uncompiled(plan) == ["words@16", "words", "more"]
    done = [uncompiled(plan)]
    with compiling(plan) as compiler:
        while compiler.pending and compiler.failure is None:
            compiler.poll(0.2)
            if compiler.pending != done[-1]:
                done.append(list(compiler.pending))
        assert compiler.failure is None and compiler.note() == ""
    assert all(names == done[0][-len(names) :] for names in done if names)
    assert uncompiled(plan) == [] and start_compiler(plan) is None


def test_what_is_evaluated_follows_from_the_plan(plan_of: Planner) -> None:
    plan = plan_of(BODY)
    assert [plan.evaluated(s) for s in plan.stages] == [
        ("static",),
        ("words", "static"),
        ("words", "static"),
    ]
    with compiling(plan) as compiler:
        finish(compiler)
    compiled = plan_of(BODY)
    assert [compiled.evaluated(s) for s in compiled.stages] == [
        plan.evaluated(s) for s in plan.stages
    ]
    assert compiled.fingerprint == plan.fingerprint
    watched = plan_of(BODY.replace("{static: 1}", "{static: 1}, until: {loss/words: {below: 1}}"))
    assert watched.evaluated(watched.stages[0]) == ("words", "static")
    assert watched.awaited(watched.stages[0]) == ("words",)
    alone = plan_of(BODY.split("stages:")[0] + "stages:\n"
        "  - {name: first, duration: 100%, mixture: {static: 1}}\n"
        "evaluate: {every: 20%, sources: [words, static]}\n")  # fmt: skip
    assert alone.evaluated(alone.stages[0]) == ("words", "static")


def test_without_text_nothing_is_started(plan_of: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = "sources: {static: {kind: noise, symbols: 10}}\n"
    plain += "stages: [{name: one, duration: 100%, mixture: {static: 1}}]\n"
    assert start_compiler(plan_of(plain)) is None
    monkeypatch.setenv("LOCAL_RANK", "1")  # the node's first rank does it
    assert start_compiler(plan_of(BODY)) is None


def test_only_what_training_waits_for_keeps_its_priority(plan_of: Planner) -> None:
    plan = plan_of(BODY)
    with locked(plan, "words"), compiling(plan, urgent=("words@16", "words")) as compiler:
        process = psutil.Process(compiler._process.pid)
        wait_until(lambda: text_compilation.is_compiled(plan.sources["words@16"]))
        compiler.poll(0.5)
        assert process.nice() == os.getpriority(os.PRIO_PROCESS, 0)
    with locked(plan, "words"), compiling(plan) as compiler:
        process = psutil.Process(compiler._process.pid)
        wait_until(lambda: process.nice() == 19)
        if hasattr(psutil, "IOPRIO_CLASS_IDLE"):
            wait_until(lambda: process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE)
        threads = [os.getpriority(os.PRIO_PROCESS, t.id) for t in process.threads()]
        assert len(threads) >= 2 and set(threads) == {19}
        assert compiler.note() == "compiling text: words 0%"


def test_the_child_ends_with_its_run_and_never_by_a_signal_to_all(
    plan_of: Planner, tmp_path: Path
) -> None:
    plan = plan_of(BODY)
    program = (
        "import pickle, sys, time\n"
        "from ncamix.background import start_compiler\n"
        "compiler = start_compiler(pickle.load(open(sys.argv[1], 'rb')))\n"
        "print(compiler._process.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    (tmp_path / "plan").write_bytes(pickle.dumps(plan))
    with locked(plan, "words@16"):
        command = [sys.executable, "-c", program, str(tmp_path / "plan")]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None
        child = psutil.Process(int(run.stdout.readline()))
        wait_until(lambda: child.nice() == 19)  # at work, and waiting for the lock
        for number in (signal.SIGTERM, signal.SIGINT):
            child.send_signal(number)
        time.sleep(0.2)
        assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        run.kill()
        run.communicate(timeout=60)
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_what_fails_in_the_child_is_told_as_it_was(plan_of: Planner, tmp_path: Path) -> None:
    for file in (tmp_path / "more").iterdir():
        file.write_text("ab")
    plan = plan_of(BODY)
    with compiling(plan) as compiler:
        finish(compiler)
        assert compiler.pending == ["more"] and compiler.failure is not None
        with pytest.raises(UserError) as here:
            text_compilation.compile_text(plan, plan.sources["more"])
        error = error_of(compiler.failure)
        assert isinstance(error, UserError) and str(error) == str(here.value)


def test_a_text_too_small_for_its_share_is_told_by_the_child(plan_of: Planner) -> None:
    small = BODY.replace("repeat: free", "repeat: 1")
    with compiling(plan_of(small, TRAINER.replace("10ktok", "100ktok"))) as compiler:
        finish(compiler)
        assert compiler.failure is not None
        assert "the text is too small for its share" in str(error_of(compiler.failure))


def test_a_child_that_dies_is_told_of(plan_of: Planner) -> None:
    plan = plan_of(BODY)
    with locked(plan, "words@16"), compiling(plan) as compiler:
        compiler._process.kill()
        finish(compiler)
        assert compiler.failure is not None
        with pytest.raises(UserError, match="has ended by signal 9"):
            raise error_of(compiler.failure)


def test_what_the_child_mends_is_told_by_the_run(
    plan_of: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(BODY)
    for name in ("words", "more"):
        text_compilation.compile_text(plan, plan.sources[name])
    (cache.entry(plan.sources["more"].fingerprint) / "shard.00000.mds").unlink()
    with compiling(plan) as compiler:
        finish(compiler)
        assert compiler.failure is None
    told = "'more' in the cache: 1 of 3 shards damaged or missing; made again"
    assert capsys.readouterr().err == f"ncamix: {told}\n"


def test_a_file_that_changes_stops_the_run_by_its_name(plan_of: Planner, tmp_path: Path) -> None:
    plan = plan_of(BODY)
    (tmp_path / "more/03.txt").write_text("other words")
    with compiling(plan) as compiler:
        finish(compiler)
        assert compiler.failure is not None
        assert "more/03.txt has changed while" in str(error_of(compiler.failure))
        assert not text_compilation.is_compiled(plan.sources["more"])


def test_failures_cross_processes() -> None:
    def crossed(error: Exception) -> Exception:
        return error_of(pickle.loads(pickle.dumps(failure_of(error))))

    ours = crossed(fail("bad", "mend it", file="x.yaml", line=3))
    assert isinstance(ours, UserError) and ours.problems[0].remedy == "mend it"
    full = crossed(OSError(28, "No space left on device", "/x"))
    assert isinstance(full, OSError) and (full.errno, full.filename) == (28, "/x")
    assert "ZeroDivisionError: why" in str(crossed(ZeroDivisionError("why")))


def test_the_work_is_small_however_long_the_plan(plan_of: Planner) -> None:
    sizes = []
    for budget in ("100ktok", "100Mtok"):
        plan = plan_of(BODY, TRAINER.replace("10ktok", budget))
        work = Work(replace(plan, stages=(), warnings=()), ("words",), frozenset())
        sizes.append(len(pickle.dumps(work)))
    assert abs(sizes[1] - sizes[0]) < 100


def test_a_stage_waits_aloud_for_its_text_and_gets_its_size(plan_of: Planner) -> None:
    from ncamix.training.stopping import StopSignal
    from ncamix.training.texts import Texts

    plan, told, known = plan_of(BODY), Told(), list[Plan]()
    with compiling(plan) as compiler:
        texts = Texts(plan, None, compiler, StopSignal(), known.append)
        first, seconds = texts.ready(plan, plan.stages[0], told.say)
        assert (first, seconds, told.words) == (plan, 0, [])
        exact, _ = texts.ready(plan, plan.stages[1], told.say)
        assert told.words[0] == "waiting for text: compiling text" and known == [exact]
        assert texts.ready(exact, exact.stages[1], quiet) == (exact, 0)
        sets = texts.sets(exact, exact.stages[1])
    info = cache.entry_info(plan.sources["words"].fingerprint)
    assert info and exact.sources["words"].num_samples == info["num_samples"]
    assert exact.fingerprint == plan.fingerprint
    assert [(s.source.name, s.num_bytes is None) for s in sets] == [
        ("words", False),
        ("static", True),
    ]


def test_lengths_in_epochs_are_known_before_anything_begins(plan_of: Planner) -> None:
    from ncamix.training.stopping import StopSignal
    from ncamix.training.texts import Texts

    body = BODY.replace("duration: 40%", "duration: 1ep")
    plan = plan_of(body, TRAINER.replace("10ktok", "40ktok"))
    assert plan.estimated and set(plan.awaited(plan.stages[0])) == {"words@16", "words", "more"}
    with compiling(plan, plan.awaited(plan.stages[0])) as compiler:
        texts = Texts(plan, None, compiler, StopSignal(), lambda plan: None)
        exact, _ = texts.ready(plan, plan.stages[0], quiet)
        assert not compiler.pending
    size = exact.sources["words@16"].num_samples
    assert size and not exact.estimated and exact.stages[1].num_samples == size // 8 * 8
    assert exact.awaited(exact.stages[0]) == ()


class Told:
    """Listens to what is said to be waited for."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def say(self, what: str, share: float) -> None:
        assert 0 <= share <= 1
        self.words.append(what)


def test_text_goes_on_while_its_run_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a long evaluation: progress that nobody takes is dropped, what is done is not."""
    here, there = Pipe()

    def compile_text(plan: object, source: object, say: Say) -> dict[str, int]:
        for word in range(5_000):
            say("tokenizing", word / 5_000)
        return {"num_samples": 1}

    monkeypatch.setattr(background, "compile_text", compile_text)
    monkeypatch.setattr(background, "_TELL_SECONDS", 0.0)
    plan = SimpleNamespace(sources={"words": None}, estimated=True)
    work = Work(cast(Plan, plan), ("words",), frozenset({"words"}))
    with here, there:
        child = threading.Thread(target=background._compile, args=(work, there), daemon=True)
        child.start()
        child.join(20)
        stuck, said = child.is_alive(), []
        while here.poll(0):
            said.append(here.recv())
    assert not stuck and said[-1] == ("done", "words") and said[0][0] == "at"
