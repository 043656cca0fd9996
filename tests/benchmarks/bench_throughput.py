"""Throughput of the parts that training waits for, each beside what it replaces, as ratios.

python tests/benchmarks/bench_throughput.py [ROUNDS]     (of the runs on the fly and compiled)
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from timing import alternate, headline, write_results

SPEC = SimpleNamespace(
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
NUM_BATCHES = 300
CURRICULUM = f"""\
ncamix: 1
name: streams
tokenizer: bytes
sources:
  simple: {{kind: nca, alphabet: 10, band: {{gzip: [0.30, 0.40]}}}}
  rich: {{kind: nca, alphabet: 10, band: {{gzip: [0.50, 1.00]}}}}
stages: [{{name: one, duration: {NUM_BATCHES}ba, mixture: {{simple: 1, rich: 1}}}}]
"""


def streams(rounds: int) -> dict[str, Any]:
    """The same small curriculum trained on the fly and from compiled shards, in turns.

    Shards are a quarter of the usual size, so that a short run makes several of each source in its
    timed part, which begins with the first batch; nothing is remembered from run to run.
    """
    from rich.console import Console

    from ncamix import inventory
    from ncamix.automata import search
    from ncamix.compilation.datasets import compile_plan
    from ncamix.library import find
    from ncamix.loading import load_curriculum
    from ncamix.planning import make_plan
    from ncamix.run_folder import RunFolder
    from ncamix.trainer import load_trainer
    from ncamix.training.progress import RunProgress
    from ncamix.training.ranks import set_up_ranks
    from ncamix.training.stages import train
    from ncamix.training.stopping import StopSignal
    from ncamix.training.texts import Texts
    from ncamix.waiting import quiet

    inventory.SHARD_TOKENS //= 4
    set_up_ranks("cpu")
    silent = Console(file=io.StringIO())
    with tempfile.TemporaryDirectory() as home:
        work = Path(home)
        (work / "streams.yaml").write_text(CURRICULUM)
        curriculum = load_curriculum(work / "streams.yaml")
        plan = make_plan(curriculum, load_trainer(find("trainers", "cpu")))
        compile_plan(plan, work / "data", quiet)

        def seconds(run: str, data: Path | None) -> float:
            search.MEMORY.forget()
            folder = RunFolder(work / run)
            with folder.hold(), RunProgress(plan.num_tokens, silent, False) as progress:
                stop = StopSignal()
                texts = Texts(plan, data, None, stop, lambda exact: None)
                train(plan, folder, data, texts, "cpu", progress, stop)
            facts = (folder.checkpoints(0, "one") / "stage.json").read_text()
            return float(json.loads(facts)["seconds"])

        ways = {"fly": None, "compiled": work / "data"}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(rounds):
            for way in sorted(ways, reverse=bool(i % 2)):
                taken[way].append(seconds(f"{way}-{i}", ways[way]))
    pairs = sorted(b / a for a, b in zip(taken["fly"], taken["compiled"], strict=True))
    fly, compiled = (plan.num_tokens / median(taken[way]) for way in ("fly", "compiled"))
    print(
        f"  on the fly          {fly:10,.0f} tokens/s; from compiled shards {compiled:,.0f}: "
        f"{fly / compiled:.3f} of it ({rounds} rounds, {pairs[0]:.3f} to {pairs[-1]:.3f})"
    )
    return {"tokens_per_second": fly, "compiled_tokens_per_second": compiled, "ratios": pairs}


def shards() -> dict[str, float]:
    from streaming import MDSWriter

    from ncamix.files import write_whole
    from ncamix.shards import ShardFormat, write_index

    tokens = np.random.default_rng(0).integers(0, 50_000, (4096, 1025)).astype(np.uint32)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            name, data, entry = ShardFormat(1025, "uint16", hashed=True).pack(0, tokens)
            write_whole(Path(folder) / name, data)
            write_index(Path(folder), [entry])

    def theirs() -> None:
        with tempfile.TemporaryDirectory() as folder:
            columns = {"tokens": "ndarray:uint16:1025"}
            with MDSWriter(columns=columns, hashes=["xxh64"], out=folder + "/x") as writer:
                for row in tokens.astype(np.uint16):
                    writer.write({"tokens": row})

    taken = alternate({"ours": ours, "theirs": theirs})
    a, b = 4096 / taken["ours"], 4096 / taken["theirs"]
    print(
        f"  writing shards      {a:10,.0f} samples/s; MDSWriter {b:,.0f}: {a / b:.1f} times as fast"
    )
    return {"samples_per_second": a, "mdswriter_samples_per_second": b}


def loss() -> dict[str, float]:
    import torch

    from ncamix.training.loss import ActiveIds
    from ncamix.training.model import CurriculumModel, build_llama

    rows, batch, length = 14_116, 8, 256
    ids = torch.randint(0, 4096, (batch, length + 1))
    data = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "source": torch.zeros(batch).long()}
    model = CurriculumModel(build_llama(SPEC, rows, length, 0))
    model.active = ActiveIds([(0, 4096)])
    stock = build_llama(SPEC, rows, length, 0)
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
    taken = alternate(
        {name: lambda step=step: [step() for _ in range(3)] for name, step in steps.items()}
    )
    tokens = 3 * batch * length
    a, b = tokens / taken["ours"], tokens / taken["stock"]
    print(
        f"  training step       {a:10,.0f} tokens/s with the chunked loss over 4,096 active of "
        f"{rows:,} rows;\n{'':22}{b:10,.0f} with the stock loss: {a / b:.1f} times as fast"
    )
    return {"tokens_per_second": a, "stock_loss_tokens_per_second": b}


def attention() -> dict[str, float]:
    """A step of training on documents of about 100 ids, apart from each other or not."""
    import torch

    from ncamix.training.model import CurriculumModel, build_llama

    found = {}
    for batch, length in ((8, 256), (2, 1024)):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, 4096, (batch, length + 1), generator=generator)
        segments = (torch.rand(batch, length, generator=generator) < 0.01).long().cumsum(1)
        whole = {
            "input_ids": ids[:, :-1],
            "labels": ids[:, 1:],
            "source": torch.zeros(batch).long(),
        }
        model = CurriculumModel(build_llama(SPEC, 4096, length, 0))

        def step(data: dict[str, torch.Tensor], model: CurriculumModel = model) -> None:
            model(data)["loss"].backward()
            model.zero_grad()

        works = {"whole": whole, "document": {**whole, "segments": segments}}
        taken = alternate({name: lambda data=data: step(data) for name, data in works.items()})
        ratio = taken["document"] / taken["whole"]
        print(f"  attention           {ratio:10.2f} times the time within documents, {length} ids")
        found[f"document_over_whole_{length}"] = ratio
    return found


if __name__ == "__main__":
    print(headline("throughput"))
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    results = {
        "shards": shards(),
        "training_step": loss(),
        "attention": attention(),
        "streams": streams(rounds),
    }
    write_results("throughput", results)
