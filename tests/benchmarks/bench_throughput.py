"""Throughput of the parts that training waits for, each beside what it replaces, as ratios.

    python tests/benchmarks/bench_throughput.py

Rounds alternate between the two sides of a comparison, and medians are compared, since machines are
shared and noisy. Prints a table; writes nothing.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pair(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of both, in alternating rounds after one warm-up each."""
    ours(), theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    return median(a for a, _ in times), median(b for _, b in times)


def automata() -> None:
    from ncamix.automata import Automaton

    for alphabet, band in ((2, (0.1, 0.3)), (10, (0.3, 0.4)), (10, (0.5, 1.0)), (15, (0.5, 1.0))):
        automaton = Automaton(alphabet=alphabet)
        index = np.arange(256)
        automaton.samples(1, 2, band, index[:8], 1025)
        took = median(
            seconds(lambda: automaton.samples(1, 2, band, index + 256 * r, 1025))  # noqa: B023
            for r in range(ROUNDS)
        )
        print(
            f"  n={alphabet:2} band {band[0]:.1f}-{band[1]:.1f}  "
            f"{256 * 1025 / took / 1e6:8.2f}M tokens/s, scored and cut to length"
        )


def shards() -> None:
    from streaming import MDSWriter

    from ncamix.shards import ShardFormat, write_dataset

    tokens = np.random.default_rng(0).integers(0, 50_000, (4096, 1025)).astype(np.uint32)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(Path(folder), ShardFormat(1025, "uint16"), [tokens])

    def theirs() -> None:
        with tempfile.TemporaryDirectory() as folder:
            columns = {"tokens": "ndarray:uint16:1025"}
            with MDSWriter(columns=columns, out=folder + "/x") as writer:
                for row in tokens.astype(np.uint16):
                    writer.write({"tokens": row})

    a, b = pair(ours, theirs)
    print(
        f"  writing shards      {4096 / a:10,.0f} samples/s; MDSWriter {4096 / b:,.0f}: "
        f"{b / a:.1f} times as fast"
    )


def loss() -> None:
    import torch

    from ncamix.training.loss import ActiveIds
    from ncamix.training.model import CurriculumModel, build_llama

    spec = SimpleNamespace(
        layers=4,
        heads=4,
        kv_heads=None,
        width=128,
        mlp_width=None,
        rope_theta=1e4,
        tie_embeddings=True,
        attention="sdpa",
        dropout=0.0,
    )
    rows, batch, length = 14_116, 8, 256
    ids = torch.randint(0, 4096, (batch, length + 1))
    data = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "source": torch.zeros(batch).long()}
    model = CurriculumModel(build_llama(spec, rows, length, 0))
    model.active = ActiveIds([(0, 4096)])
    stock = build_llama(spec, rows, length, 0)
    steps: dict[str, Callable[[], object]] = {}
    for name, module in (("ours", model), ("stock", stock)):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

        def step(
            module: torch.nn.Module = module,
            optimizer: torch.optim.AdamW = optimizer,
            name: str = name,
        ) -> None:
            if name == "ours":
                value = module(data)["loss"]
            else:
                value = module(input_ids=ids[:, :-1], labels=ids[:, 1:]).loss
            value.backward()
            optimizer.step()
            optimizer.zero_grad()

        steps[name] = step
    a, b = pair(*(lambda step=step: [step() for _ in range(3)] for step in steps.values()))
    tokens = 3 * batch * length
    print(
        f"  training step       {tokens / a:10,.0f} tokens/s with the chunked loss over 4,096 "
        f"active of {rows:,} rows;\n{'':22}{tokens / b:10,.0f} with the stock loss: "
        f"{b / a:.1f} times as fast"
    )


if __name__ == "__main__":
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores; medians of {ROUNDS} rounds")
    automata()
    shards()
    loss()
