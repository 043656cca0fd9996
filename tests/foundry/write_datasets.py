"""Compile a curriculum in both layouts, and the ids of its batches, for LLM Foundry to read.

.venv/bin/python tests/foundry/write_datasets.py FOLDER
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np

from ncamix.batches import batch_of, ids_of
from ncamix.compilation.datasets import Writing, compile_plan
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.shards import read_index, read_shard
from ncamix.trainer import load_trainer
from ncamix.waiting import quiet

CURRICULUM = """\
ncamix: 1
name: foundry
tokenizer: bytes
vocabulary: {rows: 70000}
sources:
  calm: {kind: nca, alphabet: 2, band: {gzip: [0.0, 0.2]}}
  wide: {kind: noise, symbols: 66000}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}}
stages:
  - {name: first, duration: 50%, mixture: {calm: 1, words: 1}}
  - {name: second, duration: 50%, mixture: {wide: 1, calm: 1, words: 1}}
"""
TRAINER = """\
ncamix: 1
name: foundry
model: {layers: 1, heads: 2, width: 32}
sequence_length: 128
batch_size: 8
budget: 40ktok
optimizer: {lr: 1e-3}
"""


def main(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    (home / "corpus").mkdir(parents=True)
    os.environ["NCAMIX_CACHE"] = str(home / "cache")
    for i in range(40):
        text = " ".join(f"{i} times {j} is {i * j}" for j in range(60))
        (home / "corpus" / f"{i}.txt").write_text(text)
    (home / "c.yaml").write_text(CURRICULUM)
    (home / "t.yaml").write_text(TRAINER)
    plan = make_plan(load_curriculum(home / "c.yaml"), load_trainer(home / "t.yaml"))
    plan = compile_plan(plan, home / "sources", quiet)
    compile_plan(plan, home / "baked", quiet, how=Writing(bake=True))
    (home / "expected").mkdir()
    for name in plan.sources:
        folder = home / "sources" / name
        shards = [read_shard(folder, entry)["tokens"] for entry in read_index(folder)]
        np.save(home / "expected" / f"{name}.npy", np.concatenate(shards))
    for stage in plan.stages:
        batches = [batch_of(plan, stage, t).samples for t in range(stage.num_batches)]
        ids = np.stack([row for batch in batches for row in ids_of(plan, batch)])
        # Inside a batch, positions and places are not the same; LLM Foundry's batch is a set, too.
        np.save(home / "expected" / f"{stage.index}-{stage.name}.npy", ids)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
