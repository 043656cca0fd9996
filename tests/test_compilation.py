"""Compiling ahead: the samples of a run, for any trainer; kept, killed, torn and refused."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from conftest import TRAINER
from plain_data import read_samples
from processes import free_port, status_of, wait_until
from small_disks import mounted_disk
from streaming import StreamingDataset
from torch.utils.data import DataLoader

from ncamix import cache, inventory
from ncamix.compilation.compiled import check_data, compiled_samples
from ncamix.compilation.datasets import Writing, compile_plan, prepare
from ncamix.compilation.writer import Watcher
from ncamix.errors import UserError
from ncamix.files import DATA_LOCK
from ncamix.owners import shards_needed
from ncamix.plan import Plan
from ncamix.shards import ShardFormat, read_index, sample_digest, shard_name
from ncamix.sources import open_generator
from ncamix.streams import make_dataset
from ncamix.text_compilation import quiet

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
        self.made, self.mended = 0, dict[str, int]()

    def wrote(self, folder: str, samples: int, tokens: int, kept: bool) -> None:
        if self.kept in (None, kept):
            self.samples[folder] = self.samples.get(folder, 0) + samples

    def wrote_all(self, made: int, mended: Mapping[str, int]) -> None:
        self.made, self.mended = made, dict(mended)


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
    shorter = CURRICULUM.replace("duration: 100%", "duration: 20ba")  # less is needed: it is there
    compile_plan(plan_of(shorter), out, quiet)
    assert times() == first
    compile_plan(plan_of(CURRICULUM), out, quiet)
    assert files_below(out) == whole


def test_what_is_finished_is_not_replaced_by_another(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    compile_plan(plan_of(CURRICULUM), out, quiet)
    whole = files_below(out)
    changed = plan_of(CURRICULUM.replace("symbols: 50", "symbols: 51"))
    for plan, how in ((changed, Writing()), (plan_of(CURRICULUM), Writing(bake=True))):
        with pytest.raises(UserError, match="holds the finished datasets of 'c'"):
            compile_plan(plan, out, quiet, how=how)
        assert files_below(out) == whole
    (out / "plan.json").unlink()  # an unfinished one may be
    (out / "static" / shard_name(0)).write_bytes(b"unpacked of what is replaced")
    compile_plan(changed, out, quiet)
    assert set(files_below(out)) == set(whole)


@pytest.mark.parametrize("harm", ["gone", "cut", "flipped", "no index", "torn index", "no source"])
def test_what_is_damaged_is_made_again_and_nothing_else(
    plan_of: Callable[..., Plan], tmp_path: Path, harm: str
) -> None:
    out = tmp_path / "out"
    compile_plan(plan_of(CURRICULUM), out, quiet)
    whole, shard = files_below(out), out / "alive" / f"{shard_name(1)}.zstd"
    (out / DATA_LOCK).unlink()  # as copies have it that leave hidden files out
    data = bytearray(shard.read_bytes())
    if harm == "gone":
        shard.unlink()
    elif harm == "cut":
        shard.write_bytes(data[:-1])
    elif harm == "flipped":
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    elif harm == "torn index":
        (out / "alive" / "index.json").write_text('{"version": 2, "sha')
    else:
        (out / "alive" / {"no index": "index.json"}.get(harm, "source.json")).unlink()
    made: dict[str, int] = {}
    unpacked = out / "words" / shard_name(0)
    unpacked.write_bytes(b"by a reader")
    told = Told(made, kept=False)
    compile_plan(plan_of(CURRICULUM), out, quiet, told)
    assert unpacked.read_bytes() == b"by a reader"
    unpacked.unlink()
    assert files_below(out) == whole
    alone = harm in ("gone", "cut", "flipped")
    assert made == {"alive": PER_SHARD if alone else len(read_samples(out / "alive"))}
    assert told.made == made["alive"] // PER_SHARD
    assert {k: v for k, v in told.mended.items() if v} == ({"alive": 1} if alone else {})


def test_more_samples_extend_a_source(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    """What exists is neither written again nor looked away from, also where less is asked for."""
    out, long = tmp_path / "out", plan_of(CURRICULUM)
    short = plan_of(CURRICULUM.replace("duration: 100%", "duration: 10ba"))
    compile_plan(short, out, quiet)
    before = {n: (out / n).stat().st_mtime_ns for n in files_below(out) if "shard" in n}
    made: dict[str, int] = {}
    compile_plan(long, out, quiet, Told(made, kept=False))
    assert {n: (out / n).stat().st_mtime_ns for n in before} == before
    had, has = compiled_samples(short), compiled_samples(long)
    assert made == {n: has[n] - had[n] for n in ("alive", "static")}
    compile_plan(long, tmp_path / "at once", quiet)
    assert files_below(out) == files_below(tmp_path / "at once")
    compile_plan(short, out, quiet)
    check_data(long_again := plan_of(CURRICULUM), tmp_path / "at once")
    assert len(read_samples(out / "alive")) == compiled_samples(long_again)["alive"]


def test_another_curriculum_copies_the_shards_it_shares(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    pack = ShardFormat.pack
    monkeypatch.setattr(
        ShardFormat, "pack", lambda form, i, *columns: made.append(i) or pack(form, i, *columns)
    )
    short = CURRICULUM.replace("duration: 100%", "duration: 20ba")
    compile_plan(plan_of(short), tmp_path / "one", quiet)
    victim = tmp_path / "one" / "static" / f"{shard_name(0)}.zstd"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")  # found out, not passed on
    there = sum("shard" in name for name in files_below(tmp_path / "one"))
    made.clear()
    compile_plan(plan_of(CURRICULUM, name="other"), tmp_path / "two", quiet)
    shards = [name for name in files_below(tmp_path / "two") if "shard" in name]
    assert len(made) == len(shards) - (there - 1) and made.count(0) == 1
    assert {(tmp_path / "two" / name).stat().st_nlink for name in shards} == {1}
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "empty"))
    compile_plan(plan_of(CURRICULUM, name="other"), tmp_path / "alone", quiet)
    assert files_below(tmp_path / "two") == files_below(tmp_path / "alone")


@pytest.mark.parametrize("zstd", [None, 9])
def test_compression_is_a_setting(
    plan_of: Callable[..., Plan], tmp_path: Path, zstd: int | None
) -> None:
    compile_plan(plan_of(CURRICULUM), tmp_path / "usual", quiet)
    out, plan = tmp_path / "out", plan_of(CURRICULUM)
    compile_plan(plan, out, quiet, how=Writing(zstd=zstd))
    check_data(plan_of(CURRICULUM), out)
    for name in plan.sources:
        entries = read_index(out / name)
        assert {e["compression"] for e in entries} == {zstd and f"zstd:{zstd}"}
        assert np.array_equal(read_samples(out / name), read_samples(tmp_path / "usual" / name))
    compile_plan(plan_of(CURRICULUM), out, quiet)  # another level: written anew
    assert files_below(out) == files_below(tmp_path / "usual")


def test_threads_change_nothing(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 5):
        monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / f"cache{threads}"))
        compile_plan(
            plan_of(CURRICULUM), tmp_path / str(threads), quiet, how=Writing(threads=threads)
        )
    assert files_below(tmp_path / "1") == files_below(tmp_path / "5")


def test_what_goes_wrong_in_a_thread_ends_all(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ncamix.sources import NoiseGenerator

    def fails(self: Any, first: int, count: int, num_threads: int | None) -> Any:
        raise RuntimeError("no such symbol")

    whole, out = tmp_path / "whole", tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(NoiseGenerator, "drawn", fails)
        with pytest.raises(RuntimeError, match="no such symbol"):
            compile_plan(plan_of(CURRICULUM), out, quiet)
    assert not (out / "plan.json").exists()
    compile_plan(plan_of(CURRICULUM), out, quiet)
    compile_plan(plan_of(CURRICULUM), whole, quiet)
    assert files_below(out) == files_below(whole)


def test_every_folder_maps_its_ids(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet)
    for name, source in plan.sources.items():
        facts = json.loads((tmp_path / "out" / name / "source.json").read_text())
        assert facts["fingerprint"] == source.fingerprint
        assert (facts["first_id"], facts["num_ids"]) == (source.first_id, source.num_ids)
        first, size = plan.vocabulary.ranges[
            "text" if name == "words" else source.spec.range_name()
        ]
        assert facts["ranges"] == plan.vocabulary.id_map()
        assert facts["attention"] == "whole" and "boundary_id" not in facts
        samples = read_samples(tmp_path / "out" / name)
        for at in facts["special_ids"].values():
            assert (samples == at).any() and first <= at < first + size
    assert facts["special_ids"].keys() == {"end_of_text"}


def test_only_the_finished_folder_of_the_same_curriculum_is_taken(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    out, plan = tmp_path / "out", plan_of(CURRICULUM)

    def refused(why: str, planned: Plan = plan) -> None:
        with pytest.raises(UserError, match=why) as caught:
            check_data(planned, out)
        assert len(caught.value.problems) == 1
        assert "ncamix compile" in caught.value.problems[0].remedy or "repeat" in why

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
import os, signal, sys, time
from pathlib import Path
from ncamix import inventory
from ncamix.compilation import places
from ncamix.compilation.datasets import Writing, compile_plan
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.waiting import quiet
from ncamix.trainer import load_trainer
from ncamix.compilation.writer import Watcher
inventory.SHARD_TOKENS = 16 * 33
plan = make_plan(load_curriculum(Path("c.yaml")), load_trainer(Path("small.yaml")))
out, stop_at, wait = sys.argv[1], sys.argv[2], float(sys.argv[3])
class Slow(Watcher):
    def begin(self, num_tokens):
        Path(out + ".began").touch()
    def wrote(self, folder, samples, tokens, kept):
        if folder == stop_at:
            Path(out + ".reached").touch()
            time.sleep(60)
        time.sleep(0 if kept else wait)
left = int(os.environ.get("DIES_AT_FILE", -1))  # files that are written when all shards are there
write = places.write_whole
def write_or_die(path, data):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(path, data)
places.write_whole = write_or_die
compile_plan(plan, out if "://" in out else Path(out), quiet, Slow(), Writing(threads=2))
"""


def started(folder: Path, out: str, stop_at: str = "", wait: float = 0, **env: str) -> Any:
    """A compilation in a process of its own. stop_at: a dataset that it does not get beyond;
    wait: seconds that it takes longer for each shard."""
    command = [sys.executable, "-c", COMPILE, out, stop_at, str(wait)]
    return processes.started(command, folder, {**os.environ, **env})


@pytest.mark.parametrize("source", ["alive", "words"])
def test_killed_and_run_again_it_goes_on(
    plan_of: Callable[..., Plan], tmp_path: Path, source: str
) -> None:
    plan = plan_of(CURRICULUM)
    process = started(tmp_path, "killed", stop_at=source)
    wait_until(lambda: (tmp_path / "killed.reached").exists(), process)
    with pytest.raises(UserError, match="another process is compiling into"):
        compile_plan(plan_of(CURRICULUM), tmp_path / "killed", quiet)
    process.send_signal(signal.SIGKILL)
    status_of(process)
    with pytest.raises(UserError, match="no finished compilation"):
        check_data(plan, tmp_path / "killed")
    (journal,) = (tmp_path / "killed").glob(".journal-*")
    done = len(journal.read_text().splitlines())
    with journal.open("a") as file:
        file.write('{"dataset": "half a li')
    made: dict[str, int] = {}
    compile_plan(plan_of(CURRICULUM), tmp_path / "killed", quiet, Told(made, kept=False))
    compile_plan(plan_of(CURRICULUM), tmp_path / "whole", quiet)
    assert files_below(tmp_path / "killed") == files_below(tmp_path / "whole")
    shards = sum(len(e) for e in map(read_index, datasets_below(tmp_path / "whole")))
    made_again = sum(-(-samples // PER_SHARD) for samples in made.values())
    assert done >= (1 if source == "alive" else 11) and made_again == shards - done


def datasets_below(folder: Path) -> list[Path]:
    return [p.parent for p in folder.rglob("index.json")]


def test_killed_ten_times_it_writes_the_same(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan_of(CURRICULUM)
    (tmp_path / "c.yaml").write_text(
        (tmp_path / "c.yaml").read_text().replace("words: 2", "words: 1")
    )
    random, killed = np.random.default_rng(), 0
    for _ in range(10):
        (tmp_path / "out.began").unlink(missing_ok=True)
        process = started(tmp_path, "out", wait=0.02)  # about 30 shards
        wait_until(lambda: (tmp_path / "out.began").exists(), process)  # noqa: B023
        time.sleep(random.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        killed += status_of(process) == -signal.SIGKILL
    assert killed >= 5, "too late to kill it"
    assert status_of(started(tmp_path, "out")) == 0
    assert status_of(started(tmp_path, "whole", NCAMIX_CACHE=str(tmp_path / "other"))) == 0
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.parametrize("file", [0, 1, 5, 10, 11])
def test_killed_in_the_merge_it_goes_on(
    plan_of: Callable[..., Plan], tmp_path: Path, file: int
) -> None:
    """Before one of the 12 files that are written when all shards are there: source.json and
    index.json of five datasets, tokenizer.json, plan.json."""
    compile_plan(plan_of(CURRICULUM), tmp_path / "whole", quiet)
    assert status_of(started(tmp_path, "out", DIES_AT_FILE=str(file))) == -signal.SIGKILL
    assert not (tmp_path / "out" / "plan.json").exists()
    made: dict[str, int] = {}
    compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet, Told(made, kept=False))
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole") and not made


def test_two_ranks_write_what_one_does(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan_of(CURRICULUM)
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    both = [started(tmp_path, "two", RANK=str(rank), **env) for rank in range(2)]
    assert [status_of(process) for process in both] == [0, 0]
    assert status_of(started(tmp_path, "one", NCAMIX_CACHE=str(tmp_path / "other"))) == 0
    assert files_below(tmp_path / "two") == files_below(tmp_path / "one")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "200k") as disk:
        yield disk


def test_a_full_disk_is_told_and_goes_on_with_room(
    plan_of: Callable[..., Plan], tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_of(CURRICULUM)
    command = [sys.executable, "-m", "ncamix", "compile", "c.yaml", "-t", "small.yaml"]
    command += ["--out", str(small_disk / "out")]
    full = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert full.returncode == 2 and "Traceback" not in full.stderr
    said = re.fullmatch(
        rf"ncamix: there is no room left in {small_disk}/out: the datasets take about (\S+) kB in "
        r"all, (\S+) kB of it are written, and \S+ (?:bytes|kB) are free\n"
        r"    make room and run the same command again to continue, .*--out\n",
        full.stderr,
    )
    assert said is not None, full.stderr
    assert not list(small_disk.rglob("*.tmp")) and not (small_disk / "out/plan.json").exists()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "other"))
    command[-1] = "whole"
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    whole = files_below(tmp_path / "whole")
    assert files_below(small_disk / "out") == whole
    took = sum(len(data) for name, data in whole.items() if "shard" in name) / 1000
    assert took / 2 < float(said[1]) < took * 2 and 0 < float(said[2]) < 200 < took


def test_a_folder_given_to_another_and_back(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while a dataset is replaced, then compiled for the old curriculum again."""
    out = tmp_path / "out"
    compile_plan(plan_of(CURRICULUM), out, quiet)
    whole = files_below(out)

    class Killed(BaseException):
        pass

    class Kills(Watcher):
        def wrote(self, folder: str, samples: int, tokens: int, kept: bool) -> None:
            if folder == "static":
                raise Killed

    other = CURRICULUM.replace("symbols: 50", "symbols: 9")
    (out / "plan.json").unlink()  # what is finished would be refused
    with pytest.raises(Killed):
        compile_plan(plan_of(other), out, quiet, Kills(), Writing(threads=1))
    compile_plan(plan_of(CURRICULUM), out, quiet)
    assert files_below(out) == whole
