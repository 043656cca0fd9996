"""Compile a small curriculum and read it with a plain StreamingDataset, as any trainer can."""

import tempfile
from pathlib import Path

from streaming import StreamingDataset

from ncamix.compilation.datasets import compile_plan
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.trainer import load_trainer

CURRICULUM = """
ncamix: 1
name: example
sources:
  calm: {kind: nca, alphabet: 2, band: {gzip: [0.0, 0.1]}}
  noise: {kind: noise, symbols: 64}
stages:
  - {name: only, duration: 100%, mixture: {calm: 75%, noise: 25%}}
"""
TRAINER = """
ncamix: 1
name: example
model: {layers: 1, heads: 2, width: 32}
sequence_length: 128
batch_size: 8
budget: 100ktok
optimizer: {lr: 1e-3}
"""

with tempfile.TemporaryDirectory() as folder:
    home = Path(folder)
    (home / "curriculum.yaml").write_text(CURRICULUM)
    (home / "trainer.yaml").write_text(TRAINER)
    plan = make_plan(load_curriculum(home / "curriculum.yaml"), load_trainer(home / "trainer.yaml"))
    compile_plan(plan, home / "data", lambda what, share: None)
    dataset = StreamingDataset(
        remote=str(home / "data/calm"), local=str(home / "local"), batch_size=8
    )
    print(f"{len(dataset):,} samples of {len(dataset[0]['tokens'])} ids; the first ids of three:")
    for i in range(3):
        print("  ", dataset[i]["tokens"][:16].tolist())
