"""Baked datasets: the curriculum's batches, for programs that know nothing of ncamix."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_data import read_masks, read_samples
from tokenizers import Tokenizer

from ncamix import cache, inventory
from ncamix.batches import batch_of, digest_of, ids_of
from ncamix.collation import Collate, rows_of
from ncamix.compilation.compiled import check_data
from ncamix.compilation.datasets import Writing, compile_plan
from ncamix.errors import UserError
from ncamix.plan import Plan, PlannedStage
from ncamix.shards import read_index, read_shard
from ncamix.sources import open_generator
from ncamix.text_compilation import tokenizer_file
from ncamix.tokenization import end_of_text_id
from ncamix.waiting import quiet

CURRICULUM = """\
tokenizer: {bpe: 300, train_on: [words]}
vocabulary: {rows: 70000}
sources:
  alive: {kind: nca, alphabet: 2, grid: 6, band: {gzip: [0, 1]}, burn_in: 2, loss_from_frame: 1}
  static: {kind: noise, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free}
  wide: {kind: noise, symbols: 66000}
  apart: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free,
    duplicates: keep, attention: document}
  pairs: {kind: pairs, files: [pairs.jsonl], prompt: p, response: r, holdout: {share: 0.2},
    repeat: free, pack: isolated}
stages:
  - name: early
    duration: 40%
    mixture: {0%: {alive: 1, static: 1}, 100%: {words: 1, static: 1}}
    until: {loss/static: {below: 0.1}}
  - {name: late, duration: 20%, mixture: {words: 2, static: 1}, draw: {static: replay}}
  - {name: within, duration: 20%, mixture: {words: 1, apart: 2, pairs: 1, static: 1}}
  - {name: short, duration: 20%, mixture: {wide: 1, words: 1}, sequence_length: 24, batch_size: 4}
evaluate: {every: 50%, sources: [static, words], samples: 24}
"""
READ = """
import json, sys
sys.modules["ncamix"] = None
import numpy as np, xxhash
from streaming import StreamingDataset
from torch.utils.data import DataLoader
folder, batch_size = sys.argv[1], int(sys.argv[2])
dataset = StreamingDataset(
    local=folder, num_canonical_nodes=1, shuffle=False, batch_size=batch_size
)
def digest(rows):
    ids = [row["tokens"].astype("<u4").tobytes() for row in rows]
    whole = np.zeros_like(rows[0]["tokens"][:-1])
    segments = [row.get("segments", whole).tolist() for row in rows]
    return sum(map(xxhash.xxh64_intdigest, ids)) % 2**64, segments
loader = DataLoader(dataset, batch_size=batch_size, num_workers=1, collate_fn=digest)
print(json.dumps(list(loader)))
"""


@pytest.fixture
def plan(plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 16 * 33)
    (tmp_path / "corpus").mkdir()
    for i in range(30):
        text = " ".join(f"{i} times {j} is {i * j}" for j in range(40))
        (tmp_path / "corpus" / f"{i}.txt").write_text(text)
    pairs = [{"p": f"{i} times {i}", "r": f"{i * i}"} for i in range(300)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return compile_plan(plan_of(CURRICULUM), tmp_path / "out", quiet, how=Writing(bake=True))


def test_a_plain_dataset_replays_every_batch(plan: Plan, tmp_path: Path) -> None:
    for stage in plan.stages:
        folder = tmp_path / "out" / f"{stage.index}-{stage.name}"
        command = [sys.executable, "-c", READ, str(folder), str(stage.batch_size)]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        found = json.loads(ended.stdout.splitlines()[-1])
        assert found == [batch_of_training(plan, stage, t) for t in range(stage.num_batches)]


def batch_of_training(plan: Plan, stage: PlannedStage, number: int) -> list[Any]:
    """Its digest, and the documents of its inputs as the model gets them."""
    samples = batch_of(plan, stage, number).samples
    file = tokenizer_file(plan)
    assert file is not None
    end = end_of_text_id(Tokenizer.from_file(str(file)))
    collate = Collate([rows_of(plan.dataset_of(name, stage), end) for name in stage.sources])
    ids = ids_of(plan, samples)
    batch = collate(
        [
            {"tokens": row, "source": stage.sources.index(sample.source), "sample": sample.sample}
            for row, sample in zip(ids, samples, strict=True)
        ]
    )
    segments = batch.get("segments", torch.zeros_like(batch["input_ids"]))
    return [digest_of(ids), segments.tolist()]


def test_documents_are_numbered_where_attention_stays_within_them(
    plan: Plan, tmp_path: Path
) -> None:
    for stage in plan.stages:
        folder = tmp_path / "out" / f"{stage.index}-{stage.name}"
        (names,) = {tuple(entry["column_names"]) for entry in read_index(folder)}
        assert ("segments" in names) == (stage.name == "within")
        facts = json.loads((folder / "source.json").read_text())
        assert facts["attention"] == ("document" if stage.name == "within" else "whole")
    entry = read_index(tmp_path / "out" / "2-within")[0]
    assert entry["column_encodings"][entry["column_names"].index("segments")] == "ndarray:uint16:32"
    rows = read_shard(tmp_path / "out" / "2-within", entry)
    ended = (rows["tokens"][:, :-2] == 0).cumsum(axis=1)
    within = rows["segments"].any(axis=1)
    assert (rows["segments"][within][:, 1:] == ended[within]).all() and not within.all()
    for name, attention in (("words", "whole"), ("apart", "document"), ("pairs", "document")):
        facts = json.loads((tmp_path / "out" / name / "validation" / "source.json").read_text())
        assert facts["attention"] == attention
        assert facts.get("boundary_id") == (0 if attention == "document" else None)
    assert "segments, it numbers the documents" in (tmp_path / "out" / "README.txt").read_text()


def test_ids_are_wide_and_masked_where_they_must_be(plan: Plan, tmp_path: Path) -> None:
    for stage, dtype in zip(plan.stages, ("uint16", "uint16", "uint16", "uint32"), strict=True):
        folder = tmp_path / "out" / f"{stage.index}-{stage.name}"
        (columns,) = {tuple(entry["column_encodings"]) for entry in read_index(folder)}
        assert columns[-1] == f"ndarray:{dtype}:{stage.sequence_length + 1}"
        masks, tokens = read_masks(folder), read_samples(folder)
        assert len(tokens) == stage.num_samples
        assert (masks is None) == (stage.name not in ("early", "within"))
        if stage.name == "early":
            assert masks is not None
            alive = plan.sources["alive"]
            assert alive.loss_start > 1
            own = (tokens[:, 0] >= alive.first_id) & (tokens[:, 0] < alive.first_id + alive.num_ids)
            assert 0 < own.sum() < len(own)
            starts = np.where(own, alive.loss_start, 1)
            assert (masks == (np.arange(tokens.shape[1]) >= starts[:, None])).all()


def test_what_a_run_is_evaluated_on_comes_along(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    own = open_generator(plan.sources["static"].evaluation_meaning()).samples(0, 24)
    assert (read_samples(out / "static" / "validation") == own).all()
    for split in ("validation", "test"):
        stored = read_samples(cache.entry(plan.sources["words"].fingerprint) / split)
        assert (read_samples(out / "words" / split) == stored).all()
    told = (out / "README.txt").read_text()
    for stage in plan.stages:
        assert f"{stage.index}-{stage.name}: B = {stage.batch_size}, L = " in told
    assert "it may end earlier: when loss/static below 0.1" in told
    facts = json.loads((out / "0-early" / "source.json").read_text())
    assert facts["ranges"] == plan.vocabulary.id_map()
    with pytest.raises(UserError, match="was baked for other trainers"):
        check_data(plan, out)


def test_baked_again_it_is_kept(plan: Plan, plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    out = tmp_path / "out"
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.zstd")}
    victim = sorted(times)[1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-2])
    compile_plan(plan_of(CURRICULUM), out, quiet, how=Writing(bake=True))
    assert victim.read_bytes() == whole
    assert {p for p in times if p.stat().st_mtime_ns != times[p]} == {victim}
