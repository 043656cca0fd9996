"""Text compiled beside training: what it costs the first stage, and what the run waits for.

    python tests/benchmarks/bench_background.py [megabytes] [tokens of the first stage]

The corpus is the Python source of whatever is installed. Two runs of one curriculum, automata and
then text, each with an empty cache. The first tells when things happen. In the second, the process
that compiles is paused every other moment, and throughput is compared between such moments: so it
does not matter what else the machine does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from timing import headline, write_results

MEGABYTES, TOKENS = 20, 150_000
MOMENT = 4.0  # seconds that the child is paused, or not
CURRICULUM = """
ncamix: 1
name: background
tokenizer: {{bpe: 8192, train_on: [code]}}
sources:
  rich: {{kind: nca, alphabet: 10, band: {{gzip: [0.5, 1.0]}}}}
  code: {{kind: text, files: ["corpus/**/*.py"], holdout: {{share: 0.02}}, repeat: free}}
stages:
  - {{name: automata, duration: {tokens}tok, mixture: {{rich: 1}}}}
  - {{name: code, duration: 20ba, mixture: {{code: 1}}}}
evaluate: {{every: 50%, sources: [rich, code], samples: 16}}
"""


def gather(folder: Path, megabytes: float) -> tuple[int, float]:
    """Copy installed Python files, in the order of their names; (files, megabytes)."""
    packages = Path(sysconfig.get_paths()["purelib"])
    size, count = 0, 0
    for file in sorted(packages.rglob("*.py")):
        place = folder / file.relative_to(packages)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        size, count = size + place.stat().st_size, count + 1
        if size >= megabytes * 1e6:
            break
    return count, size / 1e6


class Watched:
    """A run of the curriculum that began with an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.run, self.cache = folder / "runs/background", folder / "cache"
        for old in (folder / "runs", self.cache):
            shutil.rmtree(old, ignore_errors=True)
        self.said = folder / "output.txt"
        command = [sys.executable, "-m", "ncamix", "run", "background.yaml", "-t", "cpu"]
        command += ["--set", "trainer.batch_size=2"]
        env = {**os.environ, "NCAMIX_CACHE": str(self.cache)}
        self.start = time.monotonic()
        with self.said.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=output, stderr=output
            )

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def batches(self) -> int:
        metrics = self.run / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0

    def plan(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "plan.json").read_text()))

    def is_ready(self) -> bool:
        """Whether the text is compiled."""
        if not (self.run / "plan.json").is_file():
            return False
        entry = self.cache / self.plan()["sources"]["code"]["fingerprint"]
        return (entry / "source.json").is_file()

    def child(self) -> int | None:
        """The process that compiles text, and leader of its group."""
        for child in psutil.Process(self.process.pid).children():
            if "ncamix.background" in child.cmdline():
                return child.pid
        return None


def events(folder: Path) -> dict[str, Any]:
    """When things happen, in seconds from the start."""
    watched, at, ready = Watched(folder), list[float](), 0.0
    while watched.process.poll() is None:
        at += [watched.seconds()] * (watched.batches() - len(at))
        if not ready and watched.is_ready():
            ready = watched.seconds()
        time.sleep(0.05)
    said = watched.said.read_text()
    assert watched.process.returncode == 0, said
    batches = watched.plan()["stages"][0]["num_batches"]
    waited = re.search(r"waited ([\d.]+ \w+) for its text", said)
    return {
        "first_step_seconds": at[0],
        "text_ready_seconds": ready,
        "first_stage_ends_seconds": at[batches - 1],
        "second_stage_begins_seconds": at[batches],
        "batches_before_text_ready": sum(t < ready for t in at),
        "waited": waited[1] if waited else "not a second",
    }


def rates(folder: Path) -> dict[str, float]:
    """Batches a second while text is compiled, and while that is paused, in the first stage."""
    watched = Watched(folder)
    child: int | None = None
    spent, trained = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    try:
        while watched.batches() < 2:
            time.sleep(0.05)
        child, batches = watched.child(), watched.plan()["stages"][0]["num_batches"]
        at_work = True
        while child is not None and watched.batches() < batches - 20 and not watched.is_ready():
            os.killpg(child, signal.SIGCONT if at_work else signal.SIGSTOP)
            before, began = watched.batches(), time.monotonic()
            time.sleep(MOMENT)
            trained[at_work] += watched.batches() - before
            spent[at_work] += time.monotonic() - began
            at_work = not at_work
    finally:
        watched.process.kill()
        watched.process.wait()
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGCONT)  # so that it sees that its run has ended
    assert all(trained.values()), "the first stage is too short"
    return {"beside": trained[True] / spent[True], "alone": trained[False] / spent[False]}


def main(megabytes: float, tokens: int) -> None:
    print(headline("text beside training", "one run each"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, size = gather(folder / "corpus", megabytes)
        (folder / "background.yaml").write_text(CURRICULUM.format(tokens=tokens))
        print(f"  {files:,} files, {size:.0f} MB")
        found = events(folder)
        for what, value in found.items():
            shown = value if isinstance(value, str) else f"{value:.1f}"
            print(f"  {what.replace('_', ' '):32} {shown}")
        rate = rates(folder)
    ratio = rate["beside"] / rate["alone"]
    print(
        f"  training while text is compiled: {ratio:.0%} of the speed while that is paused "
        f"({rate['beside']:.2f} and {rate['alone']:.2f} batches/s)"
    )
    write_results("background", {"files": files, "megabytes": size, **found, **rate})


if __name__ == "__main__":
    given = sys.argv[1:]
    main(float(given[0]) if given else MEGABYTES, int(given[1]) if given[1:] else TOKENS)
