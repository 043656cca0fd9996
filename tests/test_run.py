"""`ncamix run` as a user runs it: real processes, real files, killed at bad moments."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import SECONDS, output_of, output_to, started, wait_until

from ncamix import cache

CURRICULUM = """
ncamix: 1
name: tiny
seed: 3
tokenizer: {bpe: 300, train_on: [words]}
sources:
  still: {kind: nca, alphabet: 2, grid: 6, band: {gzip: [0.0, 0.30]}}
  lively: {kind: nca, alphabet: 3, grid: 6, band: {gzip: [0.20, 1.00]}}
  static: {kind: noise, distribution: zipf, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free}
stages:
  - name: warm
    duration: 40%
    mixture: {0%: {still: 3, static: 1}, 100%: {lively: 1}}
    optimizer: {lr: {peak: 0.5x, warmup: 10%, decay: cosine}}
  - name: text
    duration: rest
    enter: {reinitialize: [embeddings]}
    mixture: {words: 90%, lively: 10%}
evaluate: {every: 25%, sources: [words, lively], samples: 8}
"""
MODEL = """
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
"""
TRAINER = (
    MODEL
    + """\
batch_size: 4
budget: 25.6ktok
optimizer: {kind: adamw, lr: 1e-2, clip: 1.0}
checkpoint: {every: 15ba, keep: 2}
"""
)
OTHER_CURRICULUM = """
ncamix: 1
name: tiny
seed: {init: 1, order: 2, rules: 3}
tokenizer: bytes
vocabulary: {layout: overlay, softmax: all, rows: 400}
sources:
  lively: {kind: nca, alphabet: 4, grid: [6, 8], band: {gzip: [0, 1]}, rules: 16}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2, by: package}}
stages:
  - name: one
    duration: 12ba
    batch_size: 8
    mixture: {lively: 1}
    optimizer:
      kind: adam
      lr: [{at: 0%, to: 1e-3, ease: cosine}, {at: 50%, to: 1x, ease: step}, {at: -2ba, to: 0}]
  - name: two
    duration: 20ba
    mixture: {0%: {words: 1}, 50%: {lively: 1}}
    cycle: 10ba
    enter: {reinitialize: [embedding, head, attention], initializer: {normal: 0.05}}
evaluate: {every: 10ba, sources: [words, lively], samples: 8}
"""
OTHER_TRAINER = """
ncamix: 1
name: small
model: {layers: 2, heads: 4, kv_heads: 2, width: 32, tie_embeddings: false}
sequence_length: 32
batch_size: 4
microbatch: 3
workers: 1
budget: 25.6ktok
optimizer: {lr: {peak: 1e-2, warmup: 2ba, decay: inverse_sqrt}}
"""
NUM_BATCHES = 200
FIRST_STAGE = 80
ENDS = ("test.json", "frequencies.json")
ROUNDED = ("loss/", "loss_alphabet/", "grad_norm/")  # of a row: sums over ranks


class Runner:
    """One working folder with a curriculum, a trainer, a corpus and a cache."""

    curriculum, trainer = CURRICULUM, TRAINER

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder
        self.cache = cache or folder / "cache"
        self.env = {
            **os.environ,
            "NCAMIX_CACHE": str(self.cache),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",  # so tiny a model only waits for more
        }
        corpus = folder / "corpus"
        corpus.mkdir(parents=True)
        for i in range(60):
            lines = (f"line {j} of {i}: the quick brown fox {i * j} and {i + j}" for j in range(15))
            (corpus / f"{i}.txt").write_text("\n".join(lines))
        (folder / "tiny.yaml").write_text(self.curriculum)
        (folder / "small.yaml").write_text(self.trainer)

    def command(self, *extra: str) -> list[str]:
        return [sys.executable, "-m", "ncamix", "run", "tiny.yaml", "-t", "small.yaml", *extra]

    def start(self, *extra: str) -> subprocess.Popen[str]:
        return started(self.command(*extra), self.folder, self.env)

    def run(self, *extra: str, status: int = 0) -> str:
        process = self.start(*extra)
        output = output_of(process)
        assert process.returncode == status, output
        assert "Traceback" not in output, output
        assert "leaked" not in output, output
        return output

    def launch(self, *extra: str) -> tuple[int, str]:
        """Status and output of a run over two ranks of this machine."""
        composer = str(Path(sys.executable).with_name("composer"))
        command = [composer, "-n", "2", "-m", *self.command(*extra)[2:]]
        process = started(command, self.folder, self.env)
        output = output_of(process)
        return process.returncode, output

    def rows(self, out: str = "runs/tiny", name: str = "metrics.jsonl") -> list[dict]:
        return [json.loads(line) for line in (self.folder / out / name).read_text().splitlines()]

    def stop_when(self, ready: Callable[[], bool], number: int) -> tuple[int, str]:
        """Start a run, send a signal once `ready` is true; its status and output."""
        process = self.start()
        wait_until(ready, process)
        os.killpg(process.pid, number)
        output = output_of(process)
        return process.returncode, output

    def shared(self) -> dict[Path, int]:
        """Shared memory by file and inode that the run holds, or held when it was killed."""
        prefixes = json.loads((self.folder / "runs/tiny/.lock").read_text())["prefixes"]
        found = (path for prefix in prefixes for path in Path("/dev/shm").glob(f"{prefix}_*"))
        return {path: path.stat().st_ino for path in found}

    def batches(self) -> int:
        path = self.folder / "runs/tiny/metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """An uninterrupted run."""
    runner = Runner(tmp_path_factory.mktemp("whole"))
    runner.run()
    return runner


def gone(shared: dict[Path, int]) -> bool:
    """Whether nothing is left of a run's shared memory; other runs may have some by its names."""
    return bool(shared) and not any(p.exists() and p.stat().st_ino == n for p, n in shared.items())


def same_run(runner: Runner, whole: Runner, out: str = "runs/tiny") -> None:
    """Every batch once, with the digests and the losses of the uninterrupted run, to the bit."""
    assert runner.rows(out) == whole.rows()
    for name in ("evaluations.jsonl", "induction.jsonl"):
        assert runner.rows(out, name) == whole.rows(name=name)
    assert len(runner.rows(out, "speed.jsonl")) == len(whole.rows())  # whose times differ
    for name in ENDS:
        found = (runner.folder / out / name).read_bytes()
        assert found == (whole.folder / "runs/tiny" / name).read_bytes()


def watched(whole: Runner, rows: list[dict], summary: dict) -> None:
    """Every batch has norms and times, every evaluation frames and an induction score."""
    for row in rows:
        groups = {key.removeprefix("grad_norm/") for key in row if key.startswith("grad_norm/")}
        assert groups == {"embedding", "attention", "mlp", "norms", "final_norm"}  # a tied head
        assert all(row[f"grad_norm/{group}"] > 0 for group in groups)
        alone = [row[f"loss/{n}"] for n in ("still", "lively") if f"loss/{n}" in row]
        alphabets = [v for key, v in row.items() if key.startswith("loss_alphabet/")]
        assert alphabets == pytest.approx(alone)  # of one source each
    times = whole.rows(name="speed.jsonl")
    for row, time in zip(rows, times, strict=True):
        assert all(row[key] == time[key] for key in ("stage", "batch", "tokens"))
        assert 0 <= time["data_wait"] <= time["seconds"] and "mfu" not in time
    for row in whole.rows(name="evaluations.jsonl"):
        if row["source"] == "lively":  # 33 ids: three frames of nine patches
            assert row["frames_seen"] == [1, 2] and 0 <= row["cell_accuracy"][0] <= 1
        else:
            assert "frames_seen" not in row
    scores = whole.rows(name="induction.jsonl")
    assert [score["when"] for score in scores].count("end") == 2
    assert all(0 < score["prefix_matching_best"] < 1 for score in scores)
    for stage in summary["stages"]:
        assert stage["induction"].keys() == {"before", "after"} and stage["mfu"] is None
        assert 0 <= stage["data_wait_share"] <= 1


def test_a_run_leaves_what_it_promises(whole: Runner) -> None:
    rows = whole.rows()
    assert len(rows) == NUM_BATCHES
    assert [r["batch"] for r in rows] == [*range(FIRST_STAGE), *range(NUM_BATCHES - FIRST_STAGE)]
    assert [r["tokens"] for r in rows] == [128 * (i + 1) for i in range(NUM_BATCHES)]
    folder = whole.folder / "runs/tiny"
    plan = json.loads((folder / "plan.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    for stage, planned in zip(summary["stages"], plan["stages"], strict=True):
        last = [r for r in rows if r["stage"] == stage["name"]][-1]
        assert stage["planned"] == stage["realised"] == planned["counts"]
        assert stage["realised"] == {n: last[f"count/{n}"] for n in planned["counts"]}
        assert stage["evaluation"].keys() == set(planned["evaluates"])
        assert stage["evaluation"]["lively"]["after"]["bits_per_byte"] is None
    watched(whole, rows, summary)
    words = summary["stages"][1]["evaluation"]["words"]  # from the first stage on that draws text
    assert "words" not in summary["stages"][0]["evaluation"]
    for when in ("before", "after"):
        assert 0 < words[when]["bits_per_byte"] < words[when]["bits_per_byte_all_rows"]
    assert summary["plan_fingerprint"] == plan["fingerprint"]
    after = summary["stages"][1]["evaluation"]["words"]
    assert after["after"]["loss"] < after["before"]["loss"] - 1  # it learned
    tested = json.loads((folder / "test.json").read_text())
    assert (tested["split"], tested["tokens"]) == ("test", 128 * NUM_BATCHES)
    assert tested["sources"].keys() == summary["test"].keys() == {"words", "lively"}
    for name, found in tested["sources"].items():
        documents = found.pop("documents")
        assert (documents is None) == (name == "lively") and summary["test"][name] == found
    assert abs(tested["sources"]["words"]["loss"] - after["after"]["loss"]) < 0.5
    assert json.loads((folder / "frequencies.json").read_text()).keys() == {"words", "lively"}
    assert (folder / "report.html").stat().st_size > 10_000
    assert [p.name for p in sorted((folder / "checkpoints").glob("*/*.pt"))] == [
        "ba000080.pt",
        "ba000120.pt",
    ]


def test_the_learning_rate_follows_the_schedule(whole: Runner) -> None:
    rates = [row["lr"] for row in whole.rows()]
    assert rates[0] == pytest.approx(0.5e-2 * 0.5 / 8)  # the middle of the first warm-up batch
    assert max(rates[:FIRST_STAGE]) <= 0.5e-2
    assert rates[FIRST_STAGE - 1] < 1e-5
    assert rates[FIRST_STAGE:] == [1e-2] * (NUM_BATCHES - FIRST_STAGE)


def test_digests_are_those_of_the_planned_samples(whole: Runner) -> None:
    """Recomputed from the plan, the generators and the compiled text, without any dataset."""
    import numpy as np
    import xxhash
    from plain_data import read_samples

    from ncamix.loading import load_curriculum
    from ncamix.order import stage_order
    from ncamix.planning import make_plan
    from ncamix.sources import open_generator
    from ncamix.trainer import load_trainer

    saved = os.environ.get("NCAMIX_CACHE")
    os.environ["NCAMIX_CACHE"] = str(whole.cache)
    try:
        plan = make_plan(
            load_curriculum(whole.folder / "tiny.yaml"), load_trainer(whole.folder / "small.yaml")
        )
    finally:
        os.environ.pop("NCAMIX_CACHE") if saved is None else os.environ.update(NCAMIX_CACHE=saved)
    rows = iter(whole.rows())
    for stage in plan.stages:
        order = stage_order(plan, stage)
        text = {
            name: read_samples(whole.cache / plan.sources[name].fingerprint)
            for name in stage.sources
            if plan.sources[name].text
        }
        for t in range(stage.num_batches):
            digest = 0
            for index, number in zip(*(a.tolist() for a in order.batch(t)), strict=True):
                name = stage.sources[index]
                if name in text:
                    tokens = text[name][number]
                else:
                    tokens = open_generator(plan.sources[name].meaning).samples(number, 1)[0]
                digest += xxhash.xxh64_intdigest(np.asarray(tokens, "<u4").tobytes())
            assert next(rows)["digest"] == digest % 2**64
            if t == 12:  # enough of each stage; generating sample by sample is slow
                for _ in range(stage.num_batches - t - 1):
                    next(rows)
                break


def test_batches_of_the_run_are_found_as_trained(
    whole: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ncamix.inspection import Request, inspect
    from ncamix.replanning import replan

    monkeypatch.setenv("NCAMIX_CACHE", str(whole.cache))
    run = whole.folder / "runs/tiny"
    plan, difference = replan(run)  # the curriculum's name is relative to another folder
    assert difference == ""
    for row in whole.rows()[:: NUM_BATCHES // 5]:
        found = inspect(plan, Request(token=row["tokens"]), run)
        assert found.as_trained and found.record and found.record.row == row
        assert found.batch.rate == row["lr"]


def test_the_export_generates_without_ncamix(whole: Runner) -> None:
    program = (
        "import sys; sys.modules['ncamix'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained('runs/tiny/export')\n"
        "tokenizer = AutoTokenizer.from_pretrained('runs/tiny/export')\n"
        "out = model.generate(**tokenizer('the quick', return_tensors='pt'), max_new_tokens=8)\n"
        "assert model.config.vocab_size == 300 and out.shape[1] > 2\n"
        "print(tokenizer.decode(out[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=whole.folder,
        env=whole.env,
        text=True,
        capture_output=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the quick")


def test_a_finished_run_says_so_and_another_plan_is_refused(whole: Runner) -> None:
    before = {p: p.stat().st_mtime_ns for p in (whole.folder / "runs/tiny").rglob("*.*")}
    assert "is finished" in whole.run()
    other = whole.folder / "small.yaml"
    other.write_text(TRAINER.replace("lr: 1e-2", "lr: 2e-2"))
    try:
        output = whole.run(status=2)
    finally:
        other.write_text(TRAINER)
    assert "would change its past from batch 0 of stage 'warm' on" in output and "--fresh" in output
    after = {p: p.stat().st_mtime_ns for p in (whole.folder / "runs/tiny").rglob("*.*")}
    before.pop(whole.folder / "runs/tiny/.lock", None)
    after.pop(whole.folder / "runs/tiny/.lock", None)
    assert before == after


@pytest.mark.parametrize("moment", ["compilation", "first stage", "second stage"])
def test_killed_and_rerun_is_the_uninterrupted_run(
    moment: str, whole: Runner, tmp_path: Path
) -> None:
    runner = Runner(tmp_path / "work")
    ready = {
        "compilation": lambda: any(runner.cache.glob("*/shards.jsonl")),
        "first stage": lambda: runner.batches() >= 37,
        "second stage": lambda: runner.batches() >= FIRST_STAGE + 50,
    }[moment]
    status, _ = runner.stop_when(ready, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert runner.batches() < NUM_BATCHES
    left = runner.shared()
    runner.run()
    same_run(runner, whole)
    assert gone(left) or moment == "compilation"


def test_a_second_run_is_refused_and_sigterm_saves_and_exits_143(
    whole: Runner, tmp_path: Path
) -> None:
    runner = Runner(tmp_path / "work", whole.cache)
    refused: list[str] = []
    shared: dict[Path, int] = {}

    def second_is_refused() -> bool:
        if runner.batches() >= 2 and not refused:
            shared.update(runner.shared())
            refused.append(runner.run(status=2))
        return runner.batches() >= 20  # between two regular checkpoints

    status, output = runner.stop_when(second_is_refused, signal.SIGTERM)
    assert "another process is working in" in refused[0]
    assert status == 143, output
    assert "again to resume" in output and "Traceback" not in output
    assert gone(shared)
    stages = [row["stage"] for row in runner.rows()]  # on a busy machine it is in the second by now
    saved = f"checkpoints/*-{stages[-1]}/ba{stages.count(stages[-1]):06}.pt"
    assert list((runner.folder / "runs/tiny").glob(saved))
    assert "resuming" in runner.run()
    same_run(runner, whole)


def test_fresh_moves_the_old_run_aside(whole: Runner, tmp_path: Path) -> None:
    runner = Runner(tmp_path / "work", whole.cache)
    runner.stop_when(lambda: runner.batches() >= 20, signal.SIGKILL)
    assert "moved the old run to" in runner.run("--fresh")
    same_run(runner, whole)
    assert len(list((runner.folder / "runs").glob("tiny.*/metrics.jsonl"))) == 1


def test_killed_behind_its_last_batch_it_is_tested_when_it_goes_on(
    whole: Runner, tmp_path: Path
) -> None:
    runner = Runner(tmp_path / "work", whole.cache)
    run = runner.folder / "runs/tiny"
    shutil.copytree(whole.folder / "runs/tiny", run)
    for name in ("summary.json", *ENDS):
        (run / name).unlink()
    assert "resuming the run in runs/tiny, after 120 batches of stage 'text'" in runner.run()
    same_run(runner, whole)
    assert "is finished" in runner.run()


def test_compiled_datasets_give_the_same_run(whole: Runner, tmp_path: Path) -> None:
    runner = Runner(tmp_path / "work")
    command = [*runner.command()[:3], "compile", *runner.command()[4:], "--out", "data"]
    compiling = started(command, runner.folder, runner.env)
    output = output_of(compiling)
    assert compiling.returncode == 0, output
    for name in ("still", "lively", "static", "words"):
        assert (runner.folder / "data" / name / "index.json").exists()
        assert list((runner.folder / "data" / name).glob("*.mds.zstd"))
    runner.run("--data", "data")
    same_run(runner, whole)


def test_damage_to_the_cache_while_a_run_trains_is_told_and_mended(
    whole: Runner, tmp_path: Path
) -> None:
    runner = Runner(tmp_path / "work")

    def once(batches: int, damage: Callable[[], None], status: int) -> str:
        process = runner.start()
        wait_until(lambda: runner.batches() >= batches, process)
        damage()
        output = output_of(process)
        assert process.returncode == status and "Traceback" not in output, output
        return output

    def tear(pattern: str) -> None:
        for file in runner.cache.glob(pattern):
            os.truncate(file, 20)

    output = once(FIRST_STAGE + 10, lambda: tear("*/shard.*.mds"), 2)
    assert "is damaged: it has 20 of" in output and "run the same command again" in output
    output = once(FIRST_STAGE + 40, lambda: tear("*/tokenizer.json"), 0)
    assert "'words' in the cache: 1 of 3 shards damaged or missing; made again" in output
    assert "the tokenizer in the cache was damaged; made again" in output
    same_run(runner, whole)


def test_automata_train_while_text_is_compiled(
    whole: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ncamix.inspection import Request, inspect
    from ncamix.replanning import replan
    from ncamix.report import write_report

    runner, run = Runner(tmp_path / "work"), tmp_path / "work/runs/tiny"
    monkeypatch.setenv("NCAMIX_CACHE", str(runner.cache))
    words = json.loads((whole.folder / "runs/tiny/plan.json").read_text())["sources"]["words"]
    with cache.building(words["fingerprint"], "the text"):  # so nobody else can
        status, _ = runner.stop_when(lambda: runner.batches() >= 20, signal.SIGKILL)
        assert status == -signal.SIGKILL
        wait_until(lambda: not compilers(runner.folder))  # the run's child ends with it
        known = json.loads((run / "plan.json").read_text())
        assert known["sources"]["words"]["num_samples"] is None
        plan, difference = replan(run)
        assert difference == "" and inspect(plan, Request(token=128), run).as_trained
        write_report(run)
        process = runner.start()
        assert "compiling text: words 0%" in output_to(process, "waiting for text: ")
        assert runner.batches() == FIRST_STAGE
        process.kill()  # at the boundary
        output_of(process)
        process = runner.start()
        output = output_to(process, "waiting for text: ")
        assert runner.batches() == FIRST_STAGE
    output += output_of(process)
    assert process.returncode == 0, output
    same_run(runner, whole)
    plans = [json.loads((r.folder / "runs/tiny/plan.json").read_text()) for r in (runner, whole)]
    assert plans[0] == plans[1] and plans[0]["sources"]["words"] == {
        **known["sources"]["words"],
        **{k: words[k] for k in ("num_samples", *(k for k in words if "epoch" in k))},
    }


def compilers(folder: Path) -> list[str]:
    """Processes that compile text for a run started in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            at_work = b"ncamix.background" in (path / "cmdline").read_bytes()
            if at_work and Path(os.readlink(path / "cwd")) == folder:
                found.append(path.name)
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_text_that_cannot_be_compiled_stops_the_run(ranks: int, tmp_path: Path) -> None:
    runner = Runner(tmp_path / "work")
    extra = ["--set", "sources.words.repeat=1", "--set", "trainer.budget=96ktok"]
    if ranks == 1:
        output = runner.run(*extra, status=2)
        assert "ncamix: tiny.yaml:" in output
    else:
        status, output = runner.launch(*extra)
        assert status, output
    assert "the text is too small for its share" in output, output
    trained = runner.batches()
    assert {row["stage"] for row in runner.rows()} == {"warm"}
    assert (runner.folder / f"runs/tiny/checkpoints/0-warm/ba{trained:06}.pt").exists()
    assert not compilers(runner.folder)


def test_two_ranks_train_on_the_same_batches(whole: Runner, tmp_path: Path) -> None:
    runner = Runner(tmp_path / "work")
    status, output = runner.launch()
    assert status == 0, output
    ours, theirs = runner.rows(), whole.rows()
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        rounded = {key for key in a if key == "loss" or key.startswith(ROUNDED)}
        assert all(a[key] == b[key] for key in a.keys() - rounded)
        assert all(a[key] == pytest.approx(b[key], rel=1e-2, abs=1e-3) for key in rounded)
    ours, theirs = (
        json.loads((r.folder / "runs/tiny/test.json").read_text())["sources"]["words"]
        for r in (runner, whole)
    )
    assert ours["documents"]["nats"] == pytest.approx(theirs["documents"]["nats"], rel=2e-2)
    assert ours["documents"]["num_bytes"] == theirs["documents"]["num_bytes"]


def test_overlaid_vocabulary_worker_processes_and_uneven_microbatches(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "work")
    (runner.folder / "tiny.yaml").write_text(OTHER_CURRICULUM)
    (runner.folder / "small.yaml").write_text(OTHER_TRAINER)
    runner.run()
    rows = runner.rows()
    assert [r["stage"] for r in rows] == ["one"] * 12 + ["two"] * 20
    assert rows[0]["loss"] == pytest.approx(math.log(400), abs=0.1)  # all rows, whatever is emitted
    words = [r["count/words"] for r in rows[12:]]
    assert words[0] == 4 and words[1] == 6  # a cycle that begins with words: quotas 3.6 and 6.4
    assert [r["lr"] for r in rows[10:12]] == [0, 0]  # the last two batches of the first stage
    last = json.loads((runner.folder / "runs/tiny/summary.json").read_text())["stages"][-1]
    assert last["planned"] == last["realised"]
