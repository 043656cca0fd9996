"""Tokens per second of whole runs on the fly, beside a plain PyTorch loop over random tokens.

python tests/benchmarks/bench_gpu.py [--shape 124m|1b6|tiny] [--batches N] [--rounds N]

Both train the same model with the same loss and optimizer, in turns, a fresh process each; ncamix
generates its automata meanwhile. `tiny` is for machines without a GPU, to see the benchmark work.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from timing import headline, write_results

WARM_UP = 10  # batches that do not count: memory is asked for, kernels are chosen
ROWS = 50_304
TRAINER = """\
ncamix: 1
name: shape
model: {{kind: llama, layers: {layers}, heads: {heads}, width: {width}, mlp_width: {mlp_width},
         tie_embeddings: {tied}}}
sequence_length: {length}
batch_size: {batch}
budget: 1Gtok
precision: {precision}
microbatch: {microbatch}
workers: {workers}
optimizer: {{kind: adamw, lr: 1e-4, betas: [0.9, 0.95], weight_decay: 1e-4, clip: 1.0}}
checkpoint: {{every: 100000ba}}
"""
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "layers": 2, "heads": 2, "width": 32, "mlp_width": 128, "tied": "true", "length": 64,
        "batch": 8, "microbatch": 4, "precision": "fp32", "recompute": "false", "workers": 0,
    },
    "124m": {
        "layers": 12, "heads": 12, "width": 768, "mlp_width": 2048, "tied": "true", "length": 1024,
        "batch": 128, "microbatch": 32, "precision": "bf16", "recompute": "false", "workers": 4,
    },
    "1b6": {
        "layers": 24, "heads": 32, "width": 2048, "mlp_width": 8192, "tied": "false",
        "length": 1024, "batch": 64, "microbatch": 8, "precision": "bf16", "recompute": "false",
        "workers": 4,
    },
}  # fmt: skip
CURRICULUM = """\
ncamix: 1
name: gpu
tokenizer: bytes
vocabulary: {{rows: {rows}}}
sources: {{rich: {{kind: nca, alphabet: 10, band: {{gzip: [0.50, 1.00]}}}}}}
stages: [{{name: one, duration: {batches}ba, mixture: {{rich: 1}}}}]
evaluate: {{every: {batches}ba, samples: 2}}
"""


def _plan(work: Path, shape: str, batches: int) -> Any:
    from ncamix.loading import load_curriculum
    from ncamix.planning import make_plan
    from ncamix.trainer import load_trainer

    (work / "gpu.yaml").write_text(CURRICULUM.format(batches=WARM_UP + batches, rows=ROWS))
    (work / "shape.yaml").write_text(TRAINER.format(**SHAPES[shape]))
    return make_plan(load_curriculum(work / "gpu.yaml"), load_trainer(work / "shape.yaml"))


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ours(shape: str, batches: int) -> dict[str, float]:
    """Seconds of the timed batches of a run, as `seconds`."""
    import torch
    from composer import Trainer
    from composer.core import Callback, State
    from composer.loggers import Logger
    from rich.console import Console

    from ncamix.run_folder import RunFolder
    from ncamix.training import stages
    from ncamix.training.progress import RunProgress
    from ncamix.training.ranks import set_up_ranks
    from ncamix.training.stopping import StopSignal
    from ncamix.training.texts import Texts

    ends: list[float] = []

    class Clock(Callback):
        def batch_end(self, state: State, logger: Logger) -> None:
            if state.timestamp.batch.value in (WARM_UP, WARM_UP + batches):
                _synchronize()
                ends.append(time.perf_counter())

    class Timed(Trainer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "callbacks": [Clock(), *options["callbacks"]]})

    stages.Trainer = Timed  # type: ignore[misc]
    device = "gpu" if torch.cuda.is_available() else "cpu"
    set_up_ranks(device)
    with tempfile.TemporaryDirectory() as home:
        plan, folder = _plan(Path(home), shape, batches), RunFolder(Path(home) / "run")
        silent = RunProgress(plan.num_tokens, Console(file=io.StringIO()), False)
        with folder.hold(), silent as progress:
            stop = StopSignal()
            texts = Texts(plan, None, None, stop, lambda exact: None)
            stages.train(plan, folder, None, texts, device, progress, stop)
    return {"seconds": ends[1] - ends[0]}


def plain(shape: str, batches: int) -> dict[str, float]:
    """`seconds` of as many batches of random tokens in a plain loop, and `flops` of a token."""
    import torch

    from ncamix.sources.base import MASKED
    from ncamix.training.loss import ActiveIds
    from ncamix.training.model import build_model
    from ncamix.training.optimizers import make_optimizer
    from ncamix.training.speed import flops_per_token

    sizes = SHAPES[shape]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as home:
        plan = _plan(Path(home), shape, batches)
    spec = plan.trainer.trainer.model
    model = build_model(spec, ROWS, sizes["length"], 0).to(device)
    optimizer = make_optimizer(model, plan.stages[0])
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    active = ActiveIds(plan.active_ranges(plan.stages[0]))
    (first, last), *_ = active.ranges
    first_frame = plan.sources["rich"].loss_start - 1  # targets without a loss
    num, length, micro = sizes["batch"], sizes["length"], sizes["microbatch"]
    began = 0.0
    for batch in range(WARM_UP + batches):
        if batch == WARM_UP:
            _synchronize()
            began = time.perf_counter()
        optimizer.zero_grad()
        for _ in range(num // micro):
            ids = torch.randint(first, last, (micro, length + 1), device=device)
            targets = ids[:, 1:].clone()
            targets[:, :first_frame] = MASKED
            with torch.autocast(device.type, torch.bfloat16, sizes["precision"] == "bf16"):
                loss, _ = model(
                    input_ids=ids[:, :-1],
                    targets=targets,
                    active=active,
                    scale=1 / (num * (length - first_frame)),
                )
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    _synchronize()
    taken = time.perf_counter() - began
    flops = flops_per_token(model, length, sum(last - first for first, last in active.ranges))
    return {"seconds": taken, "flops": flops}


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def peak() -> float | None:
    from ncamix.training.speed import peak_flops

    return peak_flops(device_name())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="124m")
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=("ours", "plain"), help="for the processes that it starts")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps((ours if asked.one == "ours" else plain)(asked.shape, asked.batches)))
        sys.exit()
    print(headline(f"whole runs, {device_name()}", f"{asked.rounds} rounds in turns"))
    command = [sys.executable, __file__, "--shape", asked.shape, "--batches", str(asked.batches)]
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    flops = 0.0
    tokens = asked.batches * SHAPES[asked.shape]["batch"] * SHAPES[asked.shape]["length"]
    for i in range(asked.rounds):
        for way in sorted(rates, reverse=bool(i % 2)):
            done = subprocess.run(
                [*command, "--one", way], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            rates[way].append(tokens / found["seconds"])
            flops = found.get("flops", flops)
    ratio = median(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    print(
        f"  {asked.shape}: {median(rates['ours']):,.0f} tokens/s on the fly, "
        f"{median(rates['plain']):,.0f} of the plain loop: {ratio:.3f} of it"
    )
    used = {way: median(rate) * flops / peak() for way, rate in rates.items()} if peak() else None
    if used is not None:
        print(f"  MFU: {used['ours']:.1%} on the fly, {used['plain']:.1%} of the plain loop")
    results = {"device": device_name(), "rates": rates, "ratio": ratio, "mfu": used}
    write_results(f"gpu_{asked.shape}", results)
