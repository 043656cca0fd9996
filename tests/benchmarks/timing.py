"""What the benchmarks share: rounds that alternate, medians, the machine's name, and JSON.

Machines are shared and noisy: a figure is the median of rounds between which all others run too,
and what is compared is compared within one run, as a ratio.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, in alternating rounds after one warm-up each."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: median(taken) for name, taken in times.items()}


def machine() -> dict[str, Any]:
    """The processor's name, the cores that may be used, and what else figures depend on."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def peak_memory() -> int:
    """Largest resident size of this process in bytes (Linux). What `getrusage` says may be that of
    the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def write_results(name: str, results: Mapping[str, Any]) -> None:
    """Write results and the machine to build/bench/NAME.json."""
    file = Path("build/bench") / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine(), **results}, indent=1))
    print(f"wrote {file}")


def headline(what: str, how: str = f"medians of {ROUNDS} rounds") -> str:
    here = machine()
    return f"{what}: {here['processor']}, {here['cores']} cores, load {here['load']:.1f}; {how}"
