"""Evaluation: held-out samples are masked and kept apart as in training."""

from __future__ import annotations

import json
import math
import tempfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TRAINER, Planner
from masked_data import END, LENGTH
from plain_data import read_masks, read_samples
from test_model import small

from ncamix import cache
from ncamix.collation import Collate
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.sources import open_generator
from ncamix.streams import slots_of
from ncamix.text_compilation import TextFacts, held_out_samples, prepare_text
from ncamix.training.evaluation import EvaluationSet, evaluate, evaluation_set
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel

BODY = """
tokenizer: bytes
sources:
  answers:
    {kind: pairs, files: [a.jsonl], prompt: p, response: r, holdout: {share: 0.2}, repeat: free}
stages:
  - {name: one, duration: rest, mixture: {answers: 1}}
evaluate: {sources: [answers], samples: 6}
"""
FACTS = TextFacts(Path("unused"), END, [0] + [1] * 256)


def pairs_plan(folder: Path, plan_of: Planner) -> Plan:
    pairs = ({"p": f"{i}", "r": f"is {i * i}"} for i in range(300))
    (folder / "a.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return prepare_text(plan_of(BODY))


def test_a_set_is_evaluated_as_it_would_be_trained(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = pairs_plan(tmp_path, plan_of)
    held = evaluation_set(plan, "answers", FACTS, None)
    folder = cache.entry(plan.sources["answers"].fingerprint) / "validation"
    there = held_out_samples(plan.sources["answers"], "validation")
    assert there > 6, "some samples are passed over"
    chosen = [i * there // 6 for i in range(6)]
    tokens, masks = read_samples(folder, there)[chosen], read_masks(folder, there)
    assert masks is not None
    masks = masks[chosen]
    assert held.num_tokens == masks[:, 1:].sum() < 6 * LENGTH
    assert held.num_bytes == (tokens[:, 1:][masks[:, 1:]] != END).sum()

    model = CurriculumModel(small(rows=300))
    samples = [
        {"tokens": ids, "loss_mask": mask.astype(np.uint8), "source": 0, "sample": 0}
        for ids, mask in zip(tokens, masks, strict=True)
    ]
    batch = Collate([held.rows])(samples)
    assert batch["segments"].max() > 1
    text = ActiveIds([(0, 257)])
    wanted = model.eval_losses(batch, text).double().sum().item()
    apart = {k: v for k, v in batch.items() if k != "segments"}
    assert model.eval_losses(apart, text).double().sum().item() != pytest.approx(wanted, rel=1e-6)
    for tokens_at_once in (1 << 13, 64):
        monkeypatch.setattr("ncamix.training.evaluation.BATCH_TOKENS", tokens_at_once)
        found = evaluate(model, held, 300, True, torch.device("cpu"))
        assert found["loss"] == pytest.approx(wanted / held.num_tokens)
        assert held.num_bytes is not None
        assert found["bits_per_byte"] == pytest.approx(wanted / math.log(2) / held.num_bytes)
        assert found["loss_all_rows"] > found["loss"]
        assert (found["num_tokens"], found["num_bytes"]) == (held.num_tokens, held.num_bytes)


def test_a_set_without_targets_has_no_loss(tmp_path: Path, plan_of: Planner) -> None:
    plan = pairs_plan(tmp_path, plan_of)
    held = evaluation_set(plan, "answers", FACTS, None)
    assert held.masks is not None
    silent = EvaluationSet(held.source, held.rows, held.samples, held.masks & False, 0)
    found = evaluate(CurriculumModel(small(rows=300)), silent, 300, True, torch.device("cpu"))
    assert found["num_tokens"] == 0
    for key in ("loss", "perplexity", "bits_per_byte", "loss_all_rows"):
        assert found[key] is None


def test_text_without_masks_counts_every_target(tmp_path: Path, plan_of: Planner) -> None:
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"{i} words and more words\n" * 20)
    keys = "kind: text, files: ['*.txt'], holdout: {share: 0.5}, repeat: free, attention: document"
    plan = plan_of(
        f"tokenizer: bytes\nsources:\n  words: {{{keys}}}\n"
        "stages:\n  - {name: one, duration: rest, mixture: {words: 1}}\n"
        "evaluate: {sources: [words], samples: 3}\n"
    )
    plan = prepare_text(plan)
    held = evaluation_set(plan, "words", FACTS, None)
    assert (held.num_tokens, held.num_bytes) == (3 * LENGTH, 3 * LENGTH)
    assert held.rows.boundary == END and "segments" in held.batch(slice(None))


def test_damaged_samples_are_not_evaluated_on(tmp_path: Path, plan_of: Planner) -> None:
    plan = pairs_plan(tmp_path, plan_of)
    folder = cache.entry(plan.sources["answers"].fingerprint) / "validation"
    (shard,) = folder.glob("shard.*.mds")
    data = shard.read_bytes()
    for harm in (data[:-9] + b"12345678" + data[-1:], data[:50]):
        shard.write_bytes(harm)
        with pytest.raises(UserError, match="validation is damaged: a shard is not what was"):
            evaluation_set(plan, "answers", FACTS, None)


def test_what_is_generated_for_evaluation_stays_within_the_share_of_cores(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    body = (
        "sources: {static: {kind: noise, symbols: 50}}\n"
        "stages: [{name: one, duration: rest, mixture: {static: 1}}]\n"
        "evaluate: {sources: [static], samples: 5}\n"
    )
    plan = plan_of(body, TRAINER + "generator_threads: 1\n")
    with ThreadPoolExecutor(1) as pool:
        with slots_of(plan.trainer.trainer).take():  # as a worker that makes a shard
            made = pool.submit(evaluation_set, plan, "static", None, None)
            assert not wait([made], 0.3).done
        held = made.result(60)
    meaning = plan.sources["static"].evaluation_meaning()
    assert (held.samples == open_generator(meaning).samples(0, 5)).all()
