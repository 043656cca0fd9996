"""Compiling ahead: the samples of a run, for any trainer; kept, killed, torn and refused."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TRAINER
from streaming import StreamingDataset
from torch.utils.data import DataLoader

from ncamix import cache, inventory
from ncamix.compilation import Writing, compile_plan, prepare
from ncamix.compiled import check_data, compiled_samples
from ncamix.errors import UserError
from ncamix.owners import shards_needed
from ncamix.plan import Plan
from ncamix.shards import read_index, read_samples, sample_digest, shard_name
from ncamix.sources import open_generator
from ncamix.streams import make_dataset
from ncamix.text_compilation import quiet
from ncamix.writer import Watcher

CURRICULUM = """\
tokenizer: {bpe: 300, train_on: [words]}
sources:
  alive: {kind: nca, alphabet: 2, grid: 6, band: {gzip: [0, 1]}, burn_in: 2}
  static: {kind: noise, distribution: zipf, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free}
stages:
  - {name: first, duration: 100%, mixture: {alive: 1, static: 1, words: 2}}
"""
PER_SHARD = 16


@pytest.fixture(autouse=True)
def small_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "SHARD_TOKENS", PER_SHARD * 33)
    (tmp_path / "corpus").mkdir()
    for i in range(30):
        text = " ".join(f"{i} times {j} is {i * j}" for j in range(40))
        (tmp_path / "corpus" / f"{i}.txt").write_text(text)


class Told(Watcher):
    """Counts samples by dataset."""

    def __init__(self, samples: dict[str, int], kept: bool | None = None) -> None:
        self.samples, self.kept = samples, kept

    def wrote(self, folder: str, samples: int, tokens: int, kept: bool) -> None:
        if self.kept in (None, kept):
            self.samples[folder] = self.samples.get(folder, 0) + samples


def files_below(folder: Path) -> dict[str, bytes]:
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".data.lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def test_the_samples_are_those_of_a_run(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    told: dict[str, int] = {}
    out = tmp_path / "out"
    plan = compile_plan(plan_of(CURRICULUM), out, quiet, Told(told))
    tops = {"alive", "static", "words", "tokenizer.json", "plan.json", ".data.lock"}
    assert {p.name for p in out.iterdir()} == tops
    assert json.loads((out / "plan.json").read_text())["fingerprint"] == plan.fingerprint
    for name, source in plan.sources.items():
        samples = read_samples(out / name)
        assert told[name] == len(samples) == compiled_samples(plan)[name]
        assert {e["compression"] for e in read_index(out / name)} == {"zstd:3"}
        if source.text is None:
            assert np.array_equal(samples, open_generator(source.meaning).samples(0, len(samples)))
            assert len(samples) == shards_needed(plan)[name] * PER_SHARD
        else:
            for split in ("", "validation", "test"):
                own = read_samples(cache.entry(source.fingerprint) / split)
                assert len(own) and np.array_equal(read_samples(out / name / split), own)


def test_a_plain_streaming_dataset_loads_it(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    for name in plan.sources:
        dataset = StreamingDataset(local=str(tmp_path / "out" / name), batch_size=4)
        found = np.stack(
            [s["tokens"] for s in DataLoader(dataset, batch_size=None, collate_fn=dict)]
        )
        assert np.array_equal(np.unique(found, axis=0), np.unique(read_samples(
            tmp_path / "out" / name), axis=0))  # fmt: skip


def test_a_stage_is_the_same_from_compiled_data(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    data = tmp_path / "out"
    compile_plan(plan_of(CURRICULUM), data, quiet)
    orders = []
    # The first half on the fly, the second compiled, and the other way round, in one folder each.
    for ways in ((None, data), (data, None), (None, None)):
        found: list[tuple[int, int, int]] = []
        (tmp_path / f"{len(orders)}").mkdir()
        for half, way in enumerate(ways):
            plan = prepare(plan_of(CURRICULUM), quiet, way)
            stage = plan.stages[0]
            dataset = make_dataset(plan, stage, tmp_path / f"{len(orders)}", way, 1)
            dataset.load_state_dict(dataset.state_dict(half * 20 * 8, True) | {"epoch": 0})
            samples = iter(DataLoader(dataset, batch_size=None, collate_fn=dict))
            for _ in range((39 - 20) * 8 if half else 20 * 8):
                s = next(samples)
                found.append((s["source"], s["sample"], sample_digest(np.asarray(s["tokens"]))))
            del samples
            dataset.release()
        orders.append(found)
    assert orders[0] == orders[1] == orders[2]


def test_owners_need_shards_of_their_own(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """Numbered through all owners, whole to the last that one of them needs."""
    text, out = CURRICULUM.replace("duration: 100%", "duration: 10ba"), tmp_path / "out"
    compile_plan(plan_of(text), out, quiet)
    assert len(read_index(out / "static")) == 2  # 20 samples
    owned = plan_of(text, TRAINER.replace("sequence", "canonical_nodes: 4\nsequence", 1))
    with pytest.raises(UserError, match=r"has 32 samples, 64 are needed"):
        check_data(owned, out)
    exact = compile_plan(owned, out, quiet)
    assert compiled_samples(exact)["static"] == 64 == len(read_samples(out / "static"))
    check_data(owned, out)
    check_data(plan_of(text), out)


def test_what_is_complete_is_kept(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_plan(plan_of(CURRICULUM), out, quiet)

    def times() -> dict[str, int]:
        return {
            n: (out / n / "index.json").stat().st_mtime_ns for n in ("alive", "static", "words")
        }

    first, whole = times(), files_below(out)
    compile_plan(plan_of(CURRICULUM), out, quiet)
    assert times() == first and files_below(out) == whole
    changed = CURRICULUM.replace("symbols: 50", "symbols: 51")
    compile_plan(plan_of(changed), out, quiet)
    again = times()
    assert {n for n in first if first[n] != again[n]} == {"static"}
    shorter = changed.replace("duration: 100%", "duration: 20ba")  # less is needed: enough is there
    compile_plan(plan_of(shorter), out, quiet)
    assert times() == again
    (out / "alive" / f"{shard_name(1)}.zstd").unlink()  # torn
    compile_plan(plan_of(changed), out, quiet)
    assert {n for n in first if times()[n] != again[n]} == {"alive"}
    check_data(plan_of(changed), out)
    (out / ".building-gone").mkdir()  # of a killed process
    compile_plan(plan_of(CURRICULUM), out, quiet)
    assert files_below(out) == whole and not (out / ".building-gone").exists()


def test_only_the_finished_folder_of_the_same_curriculum_is_taken(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    out, plan = tmp_path / "out", plan_of(CURRICULUM)

    def refused(why: str, planned: Plan = plan) -> None:
        with pytest.raises(UserError, match=why) as caught:
            check_data(planned, out)
        assert len(caught.value.problems) == 1
        assert "compile it: ncamix compile" in caught.value.problems[0].remedy or "repeat" in why

    refused("holds no finished compilation")
    exact = compile_plan(plan, out, quiet)
    assert check_data(plan, out).sources == exact.sources
    refused("holds another 'static'", plan_of(CURRICULUM.replace("symbols: 50", "symbols: 60")))
    refused("holds another 'words'", plan_of(CURRICULUM.replace("share: 0.2", "share: 0.3")))
    other = CURRICULUM.replace("  static", "  more: {kind: noise, symbols: 5}\n  static").replace(
        "static: 1", "static: 1, more: 1"
    )
    refused("holds another", plan_of(other))
    for file in ("alive/index.json", f"static/{shard_name(0)}.zstd", "words/validation/index.json"):
        whole = (out / file).read_bytes()
        (out / file).write_bytes(whole[:-3])
        refused("is not whole")
        (out / file).unlink()
        refused("is not whole")
        (out / file).write_bytes(whole)
    check_data(plan, out)
    for broken in ("", "{}", "[]", '{"sources": []}', '{"sources": {"alive": 3}}'):
        (out / "plan.json").write_text(broken)
        refused("holds no finished compilation|holds another")


def test_too_few_samples_are_refused(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    out = tmp_path / "out"
    compile_plan(plan_of(CURRICULUM.replace("duration: 100%", "duration: 10ba")), out, quiet)
    with pytest.raises(UserError, match=r"has 32 samples, \d+ are needed"):
        check_data(plan_of(CURRICULUM), out)
    once = CURRICULUM.replace("repeat: free", "repeat: 3")
    body = once.replace("words: 2", "words: 900").replace("duration: 100%", "duration: 150ba")
    compile_plan(plan_of(once), out, quiet)
    with pytest.raises(UserError, match=r"too small for its share"):
        check_data(plan_of(body), out)


def test_a_folder_that_cannot_be_written_is_told(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written.*\n.*--out"):
        compile_plan(plan_of(CURRICULUM), tmp_path / "file" / "out", quiet)


def test_a_second_compiler_is_refused(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is compiling into"):
            compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)


COMPILE = """
import sys, time
from pathlib import Path
from ncamix import inventory
from ncamix.compilation import compile_plan
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.text_compilation import quiet
from ncamix.writer import Watcher
from ncamix.trainer import load_trainer
inventory.SHARD_TOKENS = 16 * 33
plan = make_plan(load_curriculum(Path("c.yaml")), load_trainer(Path("small.yaml")))
def done(name, samples):
    if name == sys.argv[1]:
        Path("reached").touch()
        time.sleep(60)
compile_plan(plan, Path("killed"), quiet, done)
"""


@pytest.mark.parametrize("source", ["alive", "words"])
def test_killed_and_run_again_it_writes_the_same(
    plan_of: Callable[..., Plan], tmp_path: Path, source: str
) -> None:
    compile_plan(plan_of(CURRICULUM), tmp_path / "whole", quiet)
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILE, source], cwd=tmp_path, env=dict(os.environ)
    )
    while not (tmp_path / "reached").exists():
        assert process.poll() is None
        time.sleep(0.01)
    with pytest.raises(UserError, match="another process is compiling into"):
        compile_plan(plan_of(CURRICULUM), tmp_path / "killed", quiet)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "killed" / f".building-{source}").exists()
    assert not (tmp_path / "killed" / source).exists()
    with pytest.raises(UserError, match="no finished compilation"):
        check_data(plan_of(CURRICULUM), tmp_path / "killed")
    compile_plan(plan_of(CURRICULUM), tmp_path / "killed", quiet)
    assert files_below(tmp_path / "killed") == files_below(tmp_path / "whole")


def test_a_folder_half_deleted_for_another_is_not_kept(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the old datasets of a source make room, then compiled for the old again."""
    out = tmp_path / "out"
    compile_plan(plan_of(CURRICULUM), out, quiet)
    whole = files_below(out)

    class Killed(BaseException):
        pass

    def half(folder: Path, **keys: Any) -> None:
        if folder == out / "static":
            (folder / f"{shard_name(0)}.zstd").unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", half)
        with pytest.raises(Killed):
            compile_plan(plan_of(CURRICULUM.replace("symbols: 50", "symbols: 9")), out, quiet)
    compile_plan(plan_of(CURRICULUM), out, quiet)
    assert files_below(out) == whole
