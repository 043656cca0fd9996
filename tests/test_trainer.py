"""Trainers: the grammar of `trainers/*.yaml`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from plan_files import TRAINER, problem, problems

from ncamix.library import shipped
from ncamix.trainer import Trainer, load_trainer


def load(folder: Path, text: str) -> Trainer:
    (folder / "t.yaml").write_text(text)
    return load_trainer(folder / "t.yaml").trainer


@pytest.mark.parametrize("file", sorted(shipped("trainers").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_trainers_are_valid(file: Path) -> None:
    trainer = load_trainer(file).trainer
    assert trainer.name == file.stem
    assert trainer.optimizer.base_rate() > 0


def test_values_are_exact_and_defaults_fill_in(tmp_path: Path) -> None:
    trainer = load(tmp_path, TRAINER)
    assert trainer.optimizer.base_rate() == Fraction(1, 1000)
    assert trainer.budget.value == 25600
    assert (trainer.precision, trainer.microbatch, trainer.parallelism) == ("fp32", None, "ddp")
    assert trainer.checkpoint.keep == 2
    assert trainer.cache_limit is trainer.generator_threads is None
    assert str(trainer.predownload) == "64ba"
    text = TRAINER + "cache_limit: 1.5GB\npredownload: 1kba\ngenerator_threads: 3\n"
    trainer = load(tmp_path, text)
    assert trainer.cache_limit is not None and trainer.cache_limit.value == 1_500_000_000
    assert (str(trainer.cache_limit), trainer.predownload.value) == ("1500MB", 1000)
    assert trainer.generator_threads == 3
    assert trainer.model.num_parameters(100) == 8 * 8 * 4 + 3 * 8 * 32 + 16 + 8 + 2 * 100 * 8


@pytest.mark.parametrize(
    ("old", "new", "path", "what"),
    [
        ("width: 8", "width: 9", "model", "does not split into 2 heads"),
        ("heads: 2", "heads: 2, kv_heads: 3", "model.kv_heads", "not a multiple of kv_heads"),
        ("layers: 1", "layers: 0", "model.layers", "not a positive number"),
        ("layers: 1", "layers: 1, rope_theta: -1", "model.rope_theta", "not above 0"),
        ("layers: 1", "layers: 1, layer: 2", "model.layer", "unknown key 'layer'"),
        ("layers: 1", "layers: 1, tie_embeddings: 1.5", "model.tie_embeddings", "not true or"),
        ("kind: llama", "kind: gpt", "model.kind", "not one of the choices"),
        ("sequence_length: 64", "sequence_length: 1", "sequence_length", "at least 2 tokens"),
        ("batch_size: 4", "batch_size: 4.5", "batch_size", "not a whole number"),
        ("25600tok", "25600", "budget", "'25600' is not understood here"),
        ("25600tok", "100%", "budget", "'100%' is not understood here"),
        ("25600tok", "0tok", "budget", "more than nothing"),
        ("25600tok", "1e99tok", "budget", "out of all bounds"),
        ("lr: 1e-3", "lr: 0.2x", "optimizer.lr", "cannot be relative to itself"),
        ("lr: 1e-3", "lr: {start: continue}", "optimizer.lr.start", "no stage before it"),
        ("lr: 1e-3", "lr: {}", "optimizer.lr", "cannot be relative to itself"),
        ("lr: 1e-3", "lr: 0", "optimizer.lr", "the learning rate is zero"),
        ("lr: 1e-3", "lr: -1", "optimizer.lr", "negative"),
        ("lr: 1e-3", "clip: 1.0", "optimizer", "no learning rate"),
        ("lr: 1e-3", "lr: {peak: 1e-3, warm: 1%}", "optimizer.lr.warm", "unknown key 'warm'"),
        ("lr: 1e-3", "lr: {peak: 1%}", "optimizer.lr.peak", "'1%' is not understood here"),
        ("lr: 1e-3", "lr: {peak: 1e-3, warmup: 101%}", "optimizer.lr.warmup", "within its stage"),
        ("lr: 1e-3", "lr: {peak: 1e-3, decay: cos}", "optimizer.lr.decay", "unknown decay 'cos'"),
        ("lr: 1e-3", "lr: {peak: 1e-3, floor: 1e-4}", "optimizer.lr.floor", "where a decay ends"),
        ("lr: 1e-3", "lr: 1e-3, weight_decay: -1", "optimizer.weight_decay", "negative"),
        ("lr: 1e-3", "lr: 1e-3, clip: 0", "optimizer.clip", "not above 0"),
        ("lr: 1e-3", "lr: 1e-3, betas: [0.9, 1]", "optimizer.betas", "between 0 and 1"),
        ("lr: 1e-3", "lr: {peak: 1e-3}, cycle: 5ba", "optimizer.cycle", "there are none"),
        ("batch_size: 4", "batch_size: 4\nworkers: -1", "workers", "not a whole number"),
        ("batch_size: 4", "batch_size: 4\nmicrobatch: 0", "microbatch", "not a microbatch"),
        ("batch_size: 4", "batch_size: 4\ncache_limit: 8", "cache_limit", "not understood here"),
        ("batch_size: 4", "batch_size: 4\ncache_limit: 0GB", "cache_limit", "more than nothing"),
        ("batch_size: 4", "batch_size: 4\ncache_limit: 8GiB", "cache_limit", "'8GiB' is not"),
        ("batch_size: 4", "batch_size: 4\npredownload: 64", "predownload", "'64' is not under"),
        ("batch_size: 4", "batch_size: 4\npredownload: 0ba", "predownload", "1 or more"),
        ("batch_size: 4", "batch_size: 4\npredownload: 1.5ba", "predownload", "not a whole"),
        ("batch_size: 4", "batch_size: 4\ngenerator_threads: 0", "generator_threads", "not a num"),
        ("name: small", "name: a b", "name", "cannot name a trainer"),
        ("name: small\n", "", "name", "this key is missing"),
        ("batch_size: 4", "batch_size: 4\ncompile: 2", "compile", "not true or"),
    ],
)
def test_refused_trainers(tmp_path: Path, old: str, new: str, path: str, what: str) -> None:
    assert old in TRAINER
    found = problem(load, tmp_path, TRAINER.replace(old, new))
    assert found.path == path
    assert what in found.what
    assert found.line
    assert found.remedy


def test_every_mistake_of_a_trainer_is_found(tmp_path: Path) -> None:
    text = TRAINER.replace("layers: 1", "layers: x").replace("25600tok", "5") + "budgte: 1Mtok\n"
    found = problems(load, tmp_path, text)
    assert [p.path for p in found] == ["model.layers", "budget", "budgte"]
    assert "did you mean 'budget'?" in found[-1].remedy
