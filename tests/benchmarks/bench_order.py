"""The order of one stage of a billion samples: opening it, looking up, reading on from anywhere.

    python tests/benchmarks/bench_order.py

Five sources in batches of 512, shares that move, two sources finite; 122,000 shards on the fly.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from streaming.base.shared import SharedMemory
from timing import headline, seconds, write_results
from torch.utils.data import DataLoader

from ncamix.dataset import CurriculumDataset
from ncamix.order import SourceOrder, StageOrder
from ncamix.owners import OwnedShards, share_out
from ncamix.remote import Remote
from ncamix.supplies import GeneratedStream

NUM_BATCHES, BATCH, PER_SHARD = 1_953_125, 512, 8192
LOOKUPS = 1000
FINITE = {2: 100_000_000, 3: 5_000_001}
NOISE = {
    "kind": "noise",
    "version": 1,
    "symbols": 50,
    "exponent": "1",
    "sequence_length": 32,
    "first_id": 0,
}


def table() -> NDArray[np.int16]:
    """Counts, int16 [batches, 5], that go from one mixture to another; rounded as they add up."""
    x = np.linspace(0, 1, NUM_BATCHES + 1)[:, None]
    start, end = np.array([0.5, 0.3, 0.1, 0.07, 0.03]), np.array([0.1, 0.1, 0.6, 0.15, 0.05])
    upto = (start * x + (end - start) * x * x / 2).cumsum(axis=1)  # integrals of the first sources
    upto[:, -1] = x[:, 0]
    bounds = np.rint(upto * (NUM_BATCHES * BATCH)).astype(np.int64)
    return np.diff(np.diff(bounds, axis=0), axis=1, prepend=0).astype(np.int16)


def resident() -> float:
    """Memory of this process in MB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1e3


def lookups(order: StageOrder) -> dict[str, float]:
    """Milliseconds of looking up random positions; the first use loads compiled code."""
    positions = np.random.default_rng(0).integers(0, NUM_BATCHES * BATCH, LOOKUPS).tolist()
    first = seconds(lambda: order.batch(0))
    taken = [1e3 * seconds(lambda p=p: order.at(p)) for p in positions]
    batches = [1e3 * seconds(lambda p=p: order.batch(p // BATCH)) for p in positions]
    return {
        "first_use_ms": 1e3 * first,
        "median_ms": median(taken),
        "99th_percentile_ms": float(np.percentile(taken, 99)),
        "worst_ms": max(taken),
        "whole_batch_median_ms": median(batches),
    }


def one_owner(counts: NDArray[np.int16]) -> tuple[StageOrder, dict[str, float]]:
    before = resident()
    sources = tuple(SourceOrder(0, FINITE.get(s, 0), s) for s in range(5))
    order = StageOrder(counts, sources)
    opening = seconds(lambda: order.shares)
    found = {
        "table_mb": counts.nbytes / 1e6,
        "opening_seconds": opening,
        "more_mb": order.shares.sums.nbytes / 1e6 + order.shares.shifts.nbytes / 1e6,
        **lookups(order),
        "resident_growth_mb": resident() - before,
    }
    print(f"  order: opened in {opening:.2f} s, {found['more_mb']:.1f} MB beyond the table's")
    return order, found


def eight_owners(counts: NDArray[np.int16]) -> dict[str, float]:
    drawn = np.zeros((5, 8), np.int64)
    share_out(counts[:512], drawn)  # compiles
    start = time.perf_counter()
    shares = share_out(counts, drawn)
    dealing = time.perf_counter() - start
    shards = OwnedShards(PER_SHARD, drawn[0])
    sources = tuple(
        SourceOrder(0, FINITE.get(s, 0), s, shards=None if s in FINITE else shards)
        for s in range(5)
    )
    print(f"  eight owners: dealt in {dealing:.2f} s")
    return {
        "dealing_seconds": dealing,
        "more_mb": shares.sums.nbytes / 1e6 + shares.shifts.nbytes / 1e6,
        **lookups(StageOrder(counts, sources, shares)),
    }


def dataset(counts: NDArray[np.int16], folder: Path) -> dict[str, float]:
    before = resident()
    order = StageOrder(counts, tuple(SourceOrder(0) for _ in range(5)))
    streams = []
    for s, total in enumerate(counts.sum(axis=0).tolist()):
        source = Remote({**NOISE, "seed": s}, 50, PER_SHARD, -(-total // PER_SHARD))
        source.shard(0)  # compiles
        streams.append(
            GeneratedStream(source, source.save(folder / f"{s}.json"), str(folder / f"{s}"))
        )
    sizes: list[int] = []
    stock = SharedMemory.__init__

    def counted(self: SharedMemory, *args: object, **keys: object) -> None:
        stock(self, *args, **keys)  # type: ignore[arg-type]
        sizes.append(self.shm.size)

    SharedMemory.__init__ = counted  # type: ignore[method-assign]
    start = time.perf_counter()
    opened = CurriculumDataset(streams, order, BATCH, predownload=BATCH)
    opening = time.perf_counter() - start
    SharedMemory.__init__ = stock  # type: ignore[method-assign]
    found = {
        "shards": float(len(opened.shards)),
        "opening_seconds": opening,
        "shared_memory_mb": sum(sizes) / 1e6,
        "resident_growth_mb": resident() - before,
    }
    start = time.perf_counter()
    pickled = pickle.dumps(opened)
    found |= {"pickle_mb": len(pickled) / 1e6, "pickle_seconds": time.perf_counter() - start}
    opened.load_state_dict(opened.state_dict(900_000_000 // BATCH * BATCH, True) | {"epoch": 0})
    start = time.perf_counter()
    batches = iter(DataLoader(opened, batch_size=BATCH, collate_fn=list))
    sample = next(batches)[0]
    found["first_batch_at_900m_seconds"] = time.perf_counter() - start
    assert (sample["source"], sample["sample"]) == order.at(900_000_000 // BATCH * BATCH)
    del batches
    opened.release()
    print(
        f"  dataset: opened in {opening:.2f} s with {found['shared_memory_mb']:.1f} MB of shared "
        f"memory,\n{'':11}first batch at sample 9e8 after "
        f"{found['first_batch_at_900m_seconds']:.2f} s, {found['pickle_mb']:.0f} MB for a worker"
    )
    return found


def main() -> None:
    print(headline("order of a billion samples", "each measured once"))
    counts = table()
    assert (counts.sum(axis=1) == BATCH).all() and counts.min() >= 0
    _, one = one_owner(counts)
    results = {"one_owner": one, "eight_owners": eight_owners(counts)}
    for name, found in results.items():
        print(
            f"  look-up, {name.replace('_', ' ')}: {found['median_ms']:.3f} ms, "
            f"99% within {found['99th_percentile_ms']:.3f} ms, worst of {LOOKUPS} "
            f"{found['worst_ms']:.3f} ms;\n{'':11}a whole batch "
            f"{found['whole_batch_median_ms']:.2f} ms, the first {found['first_use_ms']:.0f} ms"
        )
    with tempfile.TemporaryDirectory() as folder:
        results["dataset"] = dataset(counts, Path(folder))
    write_results("order", results)


if __name__ == "__main__":
    main()
