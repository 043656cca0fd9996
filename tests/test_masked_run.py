"""A run on documents apart from each other, pairs, stored samples and automata: real processes."""

from __future__ import annotations

import json
import math
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masked_data import END, write_data_set
from plain_data import read_masks, read_samples
from test_run import MODEL, Runner
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from ncamix.collation import Collate, rows_of
from ncamix.inspection import Request, inspect
from ncamix.loading import load_curriculum
from ncamix.order import stage_order
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.sources.base import MASKED
from ncamix.streams import make_dataset
from ncamix.trainer import load_trainer
from ncamix.training.architectures import attention_mask
from ncamix.training.model import build_model

CURRICULUM = """
ncamix: 1
name: tiny
seed: 8589934597
tokenizer: bytes
sources:
  lively: {kind: nca, alphabet: 3, grid: 6, band: {gzip: [0.20, 1.00]}, loss_weight: 2.5}
  words:
    {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free, attention: document}
  answers:
    {kind: pairs, files: [pairs.jsonl], prompt: p, response: r, holdout: {share: 0.2}, repeat: free}
  mine: {kind: mds, local: mine, repeat: free, loss_weight: 0}
  again: {kind: mds, remote: mine, repeat: free}
  blank: {kind: mds, local: blank, repeat: free}
stages:
  - {name: plain, duration: 6ba, mixture: {lively: 1, mine: 1}}
  - {name: mixed, duration: 40ba, mixture: {words: 3, answers: 2, mine: 1, again: 1, lively: 1}}
  - {name: silent, duration: 4ba, mixture: {blank: 1}}
evaluate: {every: 25ba, sources: [words, answers, lively], samples: 8}
"""
TRAINER = (
    MODEL
    + """\
batch_size: 8
microbatch: 3
budget: 25.6ktok
# An eps so large that steps are proportional to gradients, as Adam's usual ones are not.
optimizer: {kind: adamw, lr: 1, eps: 1, betas: [0.9, 0.9], clip: 2.0}
z_loss: 1e-3
checkpoint: {every: 15ba, keep: 2}
"""
)
NUM_BATCHES = 50


class MixedRunner(Runner):
    """One working folder, with short pairs and data sets of somebody else's."""

    curriculum, trainer = CURRICULUM, TRAINER

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        pairs = ({"p": f"p{i}", "r": f"response {i * i}"} for i in range(300))
        (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        write_data_set(folder / "mine", masked=True)
        write_data_set(folder / "blank", masked=False, blank=True)

    def planned(self) -> Plan:
        return make_plan(
            load_curriculum(self.folder / "tiny.yaml"), load_trainer(self.folder / "small.yaml")
        )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> MixedRunner:
    runner = MixedRunner(tmp_path_factory.mktemp("mixed") / "work")
    runner.run()
    return runner


def test_loss_tokens_are_those_of_the_samples(
    mixed: MixedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCAMIX_CACHE", str(mixed.cache))
    plan = mixed.planned()
    masks = {
        name: read_masks(folder)
        for name, folder in {
            "answers": mixed.cache / plan.sources["answers"].fingerprint,
            "mine": mixed.folder / "mine",
            "again": mixed.folder / "mine",
            "blank": mixed.folder / "blank",
        }.items()
    }
    summary = json.loads((mixed.folder / "runs/tiny/summary.json").read_text())
    for stage, found in zip(plan.stages, summary["stages"], strict=True):
        order = stage_order(plan, stage)
        drawn = [order.batch(t) for t in range(stage.num_batches)]
        for i, name in enumerate(stage.sources):
            numbers = np.concatenate([samples[sources == i] for sources, samples in drawn])
            mask = masks.get(name)
            per = plan.sources[name].loss_tokens
            wanted = len(numbers) * per if mask is None else mask[numbers, 1:].sum()
            assert found["loss_tokens"][name] == wanted
        last = [row for row in mixed.rows() if row["stage"] == stage.name][-1]
        assert {n: last[f"loss_tokens/{n}"] for n in stage.sources} == found["loss_tokens"]
    silent = [row for row in mixed.rows() if row["stage"] == "silent"]
    assert [row["loss"] for row in silent] == [None] * 4, "nothing to learn, nothing to divide by"
    assert summary["stages"][2]["train_loss"] is None
    assert summary["stages"][1]["train_loss"] < math.log(257)
    evaluated = summary["stages"][1]["evaluation"]["answers"]["after"]
    held = mixed.cache / plan.sources["answers"].fingerprint / "validation"
    samples, mask = read_samples(held), read_masks(held)
    assert mask is not None and len(samples) > 8
    rows = np.arange(8) * len(samples) // 8  # from all over the split
    targets = samples[rows, 1:][mask[rows, 1:]]
    assert evaluated["num_tokens"] == len(targets)
    assert evaluated["num_bytes"] == (targets > 0).sum(), "a byte an id, but for the end of text"


def reference(plan: Plan, cache: Path, num_batches: int) -> list[float | None]:
    """Losses of the first batches of each stage that trains, by a plain loop in PyTorch: whole
    batches on one rank, full logits, one sum over one divisor."""
    torch.manual_seed(0)
    rows, found = plan.vocabulary.rows, []
    model: Any = build_model(plan.trainer.trainer.model, rows, 32, plan.seeds.init)
    for stage in plan.stages[:2]:
        drawn = [plan.dataset_of(name, stage) for name in stage.sources]
        weights = torch.tensor([float(source.spec.loss_weight) for source in drawn])
        collate = Collate([rows_of(source, END) for source in drawn])
        active = torch.cat([torch.arange(*span) for span in plan.active_ranges(stage)])
        places = torch.full((rows,), MASKED)
        places[active] = torch.arange(len(active))
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=1.0, betas=(0.9, 0.9), eps=1.0, weight_decay=0.0
        )
        folder = cache / stage.name
        folder.mkdir()
        dataset = make_dataset(plan, stage, folder, None, 1, lambda prefix: None)
        try:
            loader: Any = DataLoader(dataset, batch_size=8, collate_fn=collate)
            for batch in islice(loader, num_batches):
                segments = batch.get("segments")
                mask = None if segments is None else attention_mask(segments)
                logits = model(batch["input_ids"], attention_mask=mask).logits[..., active]
                labels = batch["labels"]
                kept = labels != MASKED
                local = torch.where(kept, places[labels.clamp(min=0)], MASKED)
                losses = cross_entropy(logits.transpose(1, 2), local, reduction="none")
                found.append(float(losses.sum() / kept.sum()))
                summed = losses + 1e-3 * kept * torch.logsumexp(logits, -1) ** 2
                (weights[batch["source"], None] * summed).sum().div(kept.sum()).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
                optimizer.step()
                optimizer.zero_grad()
        finally:
            dataset.release()
        if stage.num_batches > num_batches:
            break  # the next one would begin elsewhere
    return found


def test_losses_are_those_of_a_plain_loop_over_whole_batches(
    mixed: MixedRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Microbatches of 3, 3 and 2 samples, their targets masked unevenly, weights of sources."""
    monkeypatch.setenv("NCAMIX_CACHE", str(mixed.cache))
    wanted = reference(mixed.planned(), tmp_path, 16)
    found = [row["loss"] for row in mixed.rows()][: len(wanted)]
    assert len(wanted) == 6 + 16
    assert found == pytest.approx(wanted, abs=2e-4)
    assert max(found) - min(found) > 0.5, "it learns"


def test_killed_and_resumed_and_on_two_ranks(mixed: MixedRunner, tmp_path: Path) -> None:
    killed = MixedRunner(tmp_path / "killed")
    status, _ = killed.stop_when(lambda: killed.batches() >= 24, signal.SIGKILL)
    assert status == -signal.SIGKILL and killed.batches() < NUM_BATCHES
    killed.run()
    assert killed.rows() == mixed.rows()
    assert killed.rows(name="evaluations.jsonl") == mixed.rows(name="evaluations.jsonl")

    two = MixedRunner(tmp_path / "two")
    status, output = two.launch()
    assert status == 0, output
    assert len(two.rows()) == NUM_BATCHES
    for ours, theirs in zip(two.rows(), mixed.rows(), strict=True):
        assert (ours["digest"], ours["tokens"]) == (theirs["digest"], theirs["tokens"])
        for key in theirs:
            if key.startswith(("count/", "loss_tokens/")):
                assert ours[key] == theirs[key]
        assert ours["loss"] == (theirs["loss"] and pytest.approx(theirs["loss"], abs=1e-3))


def test_its_batches_are_found_and_decoded(
    mixed: MixedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCAMIX_CACHE", str(mixed.cache))
    run = mixed.folder / "runs/tiny"
    found = inspect(mixed.planned(), Request(stage="mixed", batch=7, decode=True), run)
    assert found.as_trained and found.decoded is not None
    by_source = {s.source: s for s in found.samples}
    assert "fox" in found.decoded.texts[by_source["words"].place]
    assert "response" in found.decoded.texts[by_source["answers"].place]
    for sample in found.samples:
        if sample.source in ("mine", "again"):
            number = int(sample.shard.split(".")[1]) * 16 + sample.row
            assert number == sample.sample
            assert found.decoded.texts[sample.place].isascii()
    silent = inspect(mixed.planned(), Request(stage="silent", batch=1), run)
    assert silent.as_trained


def test_ids_that_the_tokenizer_lacks_end_the_run(tmp_path: Path) -> None:
    runner = MixedRunner(tmp_path / "work")
    write_data_set(runner.folder / "mine", masked=True, wrong=True)
    output = runner.run(status=2)
    assert f"the data set {runner.folder / 'mine'} of the source 'mine' holds the id 300" in output
