"""Others' data sets through the commands: in place and fetched, compiled, baked and looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_data import read_masks, read_samples
from streaming import MDSWriter
from test_run import MODEL, Runner

from ncamix.cli import main
from ncamix.keys import derive_key, fingerprint
from ncamix.loading import load_curriculum
from ncamix.order import stage_order
from ncamix.planning import make_plan
from ncamix.shards import sample_digest
from ncamix.sources.base import shuffle
from ncamix.trainer import load_trainer

LENGTH = 32
NUM = 24  # samples of a data set
# name -> encoding, ids a sample, dtype, compression
SETS = {
    "newer": ("ndarray:int32", LENGTH, "int32", "zstd"),
    "longer": ("ndarray:int32", LENGTH + 1, "int32", None),
    "free": ("ndarray", LENGTH, "uint16", None),
    "frees": ("ndarray", LENGTH + 1, "uint32", "gz"),
    "older": ("bytes", LENGTH, "int64", None),
    "small": ("bytes", LENGTH + 1, "int32", None),
}
CURRICULUM = """
ncamix: 1
name: tiny
tokenizer: bytes
sources:
  newer: {kind: mds, local: newer, repeat: free}
  longer: {kind: mds, local: longer, repeat: free}
  free: {kind: mds, remote: free, repeat: free, transform: shuffle_tokens}
  frees: {kind: mds, remote: frees, local: kept, repeat: free, transform: shuffle_tokens}
  older: {kind: mds, local: older, repeat: free}
  small: {kind: mds, local: small, dtype: int32, repeat: free}
stages:
  - name: one
    duration: 20ba
    mixture: {newer: 1, longer: 1, free: 1, frees: 1, older: 1, small: 1}
"""
TRAINER = (
    MODEL
    + """\
batch_size: 8
workers: 1
budget: 5120tok
optimizer: {lr: 1e-2}
"""
)


class StoredRunner(Runner):
    """One working folder with a data set of each kind; `ids`: what was written, by name."""

    curriculum, trainer = CURRICULUM, TRAINER

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ids = {}
        for seed, (name, (encoding, length, dtype, compression)) in enumerate(SETS.items()):
            self.ids[name] = np.random.default_rng(seed).integers(33, 120, (NUM, length))
            how: dict[str, Any] = {"compression": compression, "size_limit": 1 << 11}
            columns = {"tokens": encoding}
            with MDSWriter(out=str(folder / name), columns=columns, **how) as writer:
                for row in self.ids[name].astype(dtype):
                    writer.write({"tokens": row.tobytes() if encoding == "bytes" else row})


def test_every_path_gives_the_batches_that_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = StoredRunner(tmp_path / "work")
    runner.run()
    in_place = runner.rows()
    folder = runner.folder
    monkeypatch.setenv("NCAMIX_CACHE", str(runner.cache))
    monkeypatch.chdir(folder)

    def ncamix(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ncamix", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out

    plan = make_plan(load_curriculum(folder / "tiny.yaml"), load_trainer(folder / "small.yaml"))
    for name in ("free", "frees"):
        meaning = dict(plan.sources[name].meaning)
        samples = runner.ids[name].astype(np.uint32)
        shuffle(samples, 0, derive_key(meaning.pop("transform"), fingerprint(meaning)))
        assert (samples != runner.ids[name]).any()
        runner.ids[name] = samples
    (stage,) = plan.stages
    order, batches = stage_order(plan, stage), []
    for t in range(stage.num_batches):
        drawn = [(stage.sources[i], n) for i, n in zip(*order.batch(t), strict=True)]
        batches.append([(name, runner.ids[name][n]) for name, n in drawn])

    for rows, batch in zip(in_place, batches, strict=True):
        padded = [np.concatenate([ids, [0] * (LENGTH + 1 - len(ids))]) for _, ids in batch]
        assert rows["digest"] == sum(map(sample_digest, padded)) % (1 << 64)
    last = in_place[-1]
    for name, (_, length, *_) in SETS.items():
        drawn_of = sum(which == name for batch in batches for which, _ in batch)
        assert last[f"loss_tokens/{name}"] == drawn_of * (length - 1)

    ncamix("compile", "tiny.yaml", "-t", "small.yaml", "--out", "data")
    runner.run("--data", "data", "--out", "again")
    assert runner.rows("again") == in_place, "the same batches, losses and targets"

    ncamix("compile", "tiny.yaml", "-t", "small.yaml", "--out", "baked", "--bake")
    tokens, masks = read_samples(folder / "baked/0-one"), read_masks(folder / "baked/0-one")
    assert masks is not None
    whole = [sample for batch in batches for sample in batch]
    for found, mask, (_, ids) in zip(tokens, masks, whole, strict=True):
        assert found[: len(ids)].tolist() == ids.tolist()
        assert mask.tolist() == [0 < i < len(ids) for i in range(LENGTH + 1)]

    shown = ncamix("batch", "runs/tiny", "--batch", "7", "--decode", "--json")
    for sample, (name, ids) in zip(json.loads(shown)["samples"], batches[7], strict=True):
        assert (sample["source"], sample["ids"]) == (name, ids.tolist())
