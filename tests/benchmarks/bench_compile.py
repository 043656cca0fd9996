"""`ncamix compile` beside the bare generator of the same samples, as a ratio, and its memory.

python tests/benchmarks/bench_compile.py [--tokens 100Mtok]

Every round makes the same samples both ways, each in a process of its own: the generator alone, so
many at a time that all cores are busy, and the whole command (hashes, zstd, files, journal, index).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from timing import headline, write_results

CURRICULUM = """\
ncamix: 1
name: bench
sources:
  rich: {kind: nca, alphabet: 10, band: {gzip: [0.5, 1.0]}}
stages:
  - {name: only, duration: 100%, mixture: {rich: 1}}
"""
TRAINER = """\
ncamix: 1
name: bench
model: {layers: 1, heads: 2, width: 32}
sequence_length: 1024
batch_size: 16
budget: TOKENS
optimizer: {lr: 1e-3}
"""
WORK = """
import json, sys, time
from pathlib import Path
from ncamix.compilation.datasets import compile_plan
from ncamix.compilation.compiled import compiled_samples
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.sources import open_generator
from ncamix.trainer import load_trainer
from ncamix.waiting import quiet
plan = make_plan(load_curriculum(Path("c.yaml")), load_trainer(Path("t.yaml")))
(source,) = plan.sources.values()
num_samples, per = compiled_samples(plan)["rich"], source.samples_per_shard
generator = open_generator(source.meaning)
generator.samples(0, 8)  # compiled, and loaded
start = time.perf_counter()
if sys.argv[1] == "bare":
    for first in range(0, num_samples, 16 * per):
        generator.samples(first, min(16 * per, num_samples - first))
else:
    compile_plan(plan, Path(sys.argv[2]), quiet)
taken = time.perf_counter() - start
sys.path.insert(0, sys.argv[3])
from timing import peak_memory
found = {"tokens": num_samples * 1024, "seconds": taken, "peak_bytes": peak_memory()}
print(json.dumps(found))
"""


def measure(way: str, home: Path, number: int) -> dict[str, float]:
    """Tokens, seconds and peak bytes of one way, in a process of its own."""
    command = [sys.executable, "-c", WORK, way, f"out-{number}", str(Path(__file__).parent)]
    # A cache of its own for each: compiled shards would be copied.
    environment = {**os.environ, "NCAMIX_CACHE": str(home / f"cache-{way}-{number}")}
    ended = subprocess.run(
        command, cwd=home, env=environment, check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="10Mtok", help="how much to compile: 10Mtok")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    print(headline("compile", f"medians of {wanted.rounds} rounds"))
    taken: dict[str, list[dict[str, float]]] = {"bare": [], "compiled": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "c.yaml").write_text(CURRICULUM)
        (home / "t.yaml").write_text(TRAINER.replace("TOKENS", wanted.tokens))
        for number in range(wanted.rounds):
            for way, found in taken.items():
                found.append(measure(way, home, number))
    speed = {
        way: median(run["tokens"] / run["seconds"] for run in runs) for way, runs in taken.items()
    }
    ratio = median(
        bare["seconds"] / whole["seconds"]
        for bare, whole in zip(taken["bare"], taken["compiled"], strict=True)
    )
    peak = max(run["peak_bytes"] for run in taken["compiled"])
    print(
        f"  {wanted.tokens} of n=10, band 0.5 to 1.0: {speed['compiled']:,.0f} tokens/s; the bare "
        f"generator {speed['bare']:,.0f}: ratio {ratio:.2f} (bar 0.80); peak "
        f"{peak / 1e9:.2f} GB (bar 1.5)"
    )
    write_results(
        "compile",
        {
            "tokens": wanted.tokens,
            "tokens_per_second": speed,
            "ratio": ratio,
            "peak_bytes": peak,
            "rounds": taken,
        },
    )


if __name__ == "__main__":
    main()
