"""Speed of the automata: rollouts, samples of a band, scores; on one core and on all.

    python tests/benchmarks/bench_automata.py

12x12 cells in 2x2 patches, 1,025 tokens a sample. Rates are of new work: what was scored before is
forgotten between rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import alternate, headline, seconds, write_results

from ncamix.automata import Automaton, Band, search
from ncamix.sources import KINDS, open_generator

TOKENS = 1025
BANDS = ((2, 0.1, 0.3), (10, 0.3, 0.4), (10, 0.5, 1.0), (15, 0.5, 1.0))
REFERENCE = {  # tokens/s and rules/s of the paper's code on two cores of such a machine
    "rollout, n=2": 0.6e6,
    "rollout, n=10": 0.24e6,
    "band 0.3-0.4, n=10": 0.03e6,
    "band 0.5-1.0, n=10": 0.10e6,
    "scores, n=10": 1000 / 2.8,
}
FIRST_USE = """
from ncamix.automata import Automaton, Band
Automaton().samples(1, Band(0.5, 1), 4, 1025)
"""


def roll(automaton: Automaton, rules: NDArray[np.float32], threads: int) -> None:
    automaton.rollout(rules, -(-TOKENS // automaton.tokens_per_frame), seed=2, num_threads=threads)


def sample(automaton: Automaton, bands: list[Band], threads: int) -> None:
    search.MEMORY.forget()
    for band in bands:
        automaton.samples(1, band, 256, TOKENS, num_threads=threads)


def works() -> dict[str, tuple[Callable[[int], object], float, str]]:
    """Name -> what to do with so many threads, how many units of work it is, and the unit."""
    made: dict[str, tuple[Callable[[int], object], float, str]] = {}
    for alphabet in (2, 10, 15):
        automaton = Automaton(alphabet)
        rules = automaton.rules(1, np.arange(512))
        work = partial(roll, automaton, rules)
        made[f"rollout, n={alphabet}"] = (work, 512 * TOKENS, "tokens")
    for alphabet, low, high in BANDS:
        work = partial(sample, Automaton(alphabet), [Band(low, high)])
        made[f"band {low}-{high}, n={alphabet}"] = (work, 256 * TOKENS, "tokens")
    three = [Band(0.3, 0.4), Band(0.5, 1.0), Band(0.4, 0.5)]
    made["these and 0.4-0.5, n=10"] = (partial(sample, Automaton(), three), 768 * TOKENS, "tokens")
    for measure in ("gzip", "zstd", "change_rate"):

        def score(threads: int, measure: str = measure) -> None:
            Automaton().scores(1, 2000, measure=measure, num_threads=threads)

        name = "scores, n=10" if measure == "gzip" else f"scores by {measure}, n=10"
        made[name] = (score, 2000, "rules")
    for name, kind, keys in (
        ("noise, uniform over 4,096", "noise", {}),
        ("noise, zipf over 4,096", "noise", {"distribution": "zipf"}),
        ("dyck, nested", "dyck", {"style": "nested"}),
        ("dyck, shuffle", "dyck", {"style": "shuffle"}),
    ):
        spec: Any = KINDS[kind](kind=kind, **keys)  # type: ignore[call-arg]
        full = {**spec.meaning(), "sequence_length": TOKENS - 1, "first_id": 0, "seed": 0}
        made[name] = (partial(open_generator(full).samples, 0, 2048), 2048 * TOKENS, "tokens")
    return made


def first_use() -> dict[str, float]:
    """Seconds of a new process to its first samples: without compiled code on disk, and with."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-c", FIRST_USE]
        env = {**os.environ, "NUMBA_CACHE_DIR": folder}
        cold, warm = (seconds(lambda: subprocess.run(run, env=env, check=True)) for _ in range(2))
    return {"compiling": cold, "compiled before": warm}


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    made = works()
    jobs = {}
    for name, (work, _, _) in made.items():
        jobs[f"{name}|1"], jobs[f"{name}|{cores}"] = partial(work, 1), partial(work, cores)
    taken = alternate(jobs)
    print(headline("automata"))
    print(f"{'':42}{'one core':>12}{f'{cores} cores':>12}   of the reference's")
    results = {}
    for name, (_, size, unit) in made.items():
        one, all_cores = size / taken[f"{name}|1"], size / taken[f"{name}|{cores}"]
        ratio = all_cores / REFERENCE[name] if name in REFERENCE else None
        results[name] = {"unit": f"{unit}/s", "one_core": one, "all_cores": all_cores}
        if ratio:
            results[name]["of_reference"] = ratio
        shown = [f"{v / 1e6:.2f}M" if v > 1e5 else f"{v:,.0f}" for v in (one, all_cores)]
        times = f"{ratio:12.0f}x" if ratio else ""
        print(f"{name:30}{unit + '/s':>12}{shown[0]:>12}{shown[1]:>12}{times}")
    start = first_use()
    for name, value in start.items():
        print(f"first samples of a new process, {name}: {value:.1f} s")
    write_results("automata", {"rates": results, "first_use_seconds": start})


if __name__ == "__main__":
    main()
