"""Speed of planning: the table of a stage of a thousand million samples, in a new process.

    python tests/benchmarks/bench_plan.py

1,953,125 batches of 512 samples from five sources: keyframes, eases, stretches of zeros and a
blend, on the stage's clock and on the blend's own. Memory is of the whole process, at its peak, and
of that what compiled code needs before it counts anything. Short stages are counted without it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Any

from timing import headline, write_results

ROUNDS = 5
SETUP = """
import json, resource, sys, time
from fractions import Fraction
from ncamix.apportionment import apportion
from ncamix.mixture import StageShape, resolve_mixtures
from ncamix.schedule import parse_mixture
from ncamix.sources import BlendSource

def stage(num_batches, clock):
    mixture = parse_mixture([
        {"at": "0%", "mix": {"a": "60%", "b": "40%"}, "ease": "cosine"},
        {"at": "15%", "mix": {"change": 2, "a": 1}},
        {"at": "40%", "mix": {"change": 1, "c": 1}, "ease": "cosine"},
        {"at": "60%", "mix": {"c": 1, "d": 1, "e": Fraction(1, 10**6)}, "ease": "step"},
        {"at": "75.5%", "mix": {"a": 1, "change": 1}},
        {"at": "100%", "mix": {"a": 1, "e": 3}},
    ])
    inner = parse_mixture({"0%": {"b": 1, "d": 1}, "50%": {"d": 1, "e": 2}, "100%": {"a": 1}})
    change = BlendSource.model_construct(mixture=inner, cycle=None, clock=clock)
    shape = StageShape(mixture, None, num_batches, num_batches, 512, 1024, 0)
    return apportion(resolve_mixtures([shape], {"change": change})[0])[1]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
LONG = """
before, start, cpu = peak(), time.perf_counter(), time.process_time()
result = stage(1_953_125, "CLOCK")
seconds, cpu, after = time.perf_counter() - start, time.process_time() - cpu, peak()
assert result.counts.sum() == 10**9 and result.largest_deviation < 1
print(json.dumps({
    "seconds": seconds,
    "core_seconds": cpu,
    "peak_mib": after - before,
    "table_mib": result.counts.nbytes / 2**20,
    "largest_deviation_samples": result.largest_deviation,
}))
"""
COMPILED_ONLY = """
before = peak()
stage(20_000, "stage")
print(json.dumps({"peak_mib": peak() - before}))
"""
SHORT = """
start = time.perf_counter()
stage(10_000, "stage")
assert "numba" not in sys.modules
print(json.dumps({"microseconds_a_batch": (time.perf_counter() - start) * 100}))
"""


def in_new_processes(code: str, rounds: int = ROUNDS) -> dict[str, Any]:
    """Medians of what `code` prints, after one round that fills the cache of compiled code."""
    results = []
    for _ in range(rounds + 1):
        run = [sys.executable, "-c", SETUP + code]
        ended = subprocess.run(run, check=True, capture_output=True, text=True)
        results.append(json.loads(ended.stdout))
    return {key: median(result[key] for result in results[1:]) for key in results[0]}


def main() -> None:
    print(headline("plan"))
    results = {
        "on the stage's clock": in_new_processes(LONG.replace("CLOCK", "stage")),
        "on the blend's own clock": in_new_processes(LONG.replace("CLOCK", "self")),
        "compiled code alone": in_new_processes(COMPILED_ONLY),
        "10,000 batches without it": in_new_processes(SHORT),
    }
    for name, figures in results.items():
        print(f"{name:28}" + "  ".join(f"{k} {v:,.2f}" for k, v in figures.items()))
    write_results("plan", {"a thousand million samples": results})


if __name__ == "__main__":
    main()
