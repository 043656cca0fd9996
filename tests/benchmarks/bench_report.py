"""Speed of `ncamix report` on many long runs: the whole command, in a new process.

    python tests/benchmarks/bench_report.py [--runs 100] [--lines 10000]

Runs are those of a study of ten arms: folders as training leaves them, with figures drawn at
random. Timed are the study's report and that of its runs named one by one; memory is the process's
largest. What it takes to import the command alone is timed beside them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from finished_studies import BASE, Figures, write_study  # noqa: E402
from timing import headline, write_results  # noqa: E402

ROUNDS = 3
SEEDS = 10
STUDY = """\
ncamix: 1
name: many
base: bands.yaml
trainer: small.yaml
seeds: SEEDS
variants:
  up: {}
  down: {stages.automata.transform: reverse}
  even: {stages.automata.transform: flatten}
  simple: {stages.automata.mixture: {simple: 1}}
  rich: {stages.automata.mixture: {rich: 1}}
  binary: {stages.automata.mixture: {binary: 1}}
  attention: {stages.code.enter.reinitialize: [attention]}
  mlp: {stages.code.enter.reinitialize: [mlp]}
  everything: {stages.code.enter.reinitialize: [embeddings, attention, mlp, norms, final_norm]}
  scratch: {stages.automata: null, match: total}
controls: []
compare: {primary: [up, even], metric: bits_per_byte/code, smallest_effect: 0.01}
"""
COMMAND = """
import resource, sys, time
start = time.perf_counter()
sys.argv = ["ncamix", "report", *sys.argv[1:]]
from ncamix.cli import app
try:
    app()
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(int(peak.split()[1]) / 1024, file=sys.stderr)
"""


def timed(arguments: list[str]) -> dict[str, float]:
    """Seconds of the command in a new process, of its processors, and its largest memory."""
    seconds, core_seconds, memory = [], [], []
    for _ in range(ROUNDS):
        before, start = os.times(), time.perf_counter()
        run = [sys.executable, "-c", COMMAND, *arguments]
        ended = subprocess.run(run, check=True, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        after = os.times()
        spent = after.children_user + after.children_system
        core_seconds.append(spent - before.children_user - before.children_system)
        memory.append(float(ended.stderr.splitlines()[-1]))
    return {
        "seconds": median(seconds),
        "core_seconds": median(core_seconds),
        "peak_mib": max(memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--lines", type=int, default=10_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NCAMIX_CACHE"] = str(Path(folder) / "cache")
        seeds = list(range(1, -(-asked.runs // SEEDS) + 1))
        text = STUDY.replace("SEEDS", str(seeds))
        home = write_study(Path(folder) / "study", text, BASE, Figures(), batches=asked.lines)
        runs = sorted(str(path.parent) for path in home.glob("*/*/plan.json"))
        size = sum(path.stat().st_size for path in home.glob("*/*/metrics.jsonl"))
        what = f"report on {len(runs)} runs of {asked.lines:,} lines, {size / 1e6:,.0f} MB of them"
        print(headline(what, f"medians of {ROUNDS} rounds"))
        results: dict[str, Any] = {
            "the command's help": timed(["--help"]),
            "a study": timed([str(home)]),
            "its runs": timed([*runs, "--out", str(Path(folder) / "out")]),
        }
    for name, figures in results.items():
        print(f"{name:20}" + "  ".join(f"{k} {v:,.2f}" for k, v in figures.items()))
    write_results("report", {what: results})


if __name__ == "__main__":
    main()
