"""A run that begins with weights of Hugging Face, with dropout: killed and resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_run import Runner

from ncamix.replanning import replan

CURRICULUM = """
ncamix: 1
name: tiny
sources:
  lively: {kind: nca, alphabet: 3, grid: 6, band: {gzip: [0.20, 1.00]}}
  static: {kind: noise, distribution: zipf, symbols: 50}
stages:
  - {name: one, duration: 12ba, mixture: {lively: 1, static: 1}}
  - {name: two, duration: 12ba, mixture: {lively: 1}, enter: {reinitialize: [{mlp: 1}]}}
"""
TRAINER = """
ncamix: 1
name: small
model: {kind: huggingface, path: ../gpt}
sequence_length: 32
batch_size: 4
microbatch: 3
budget: 3072tok
optimizer: {lr: 1e-2}
checkpoint: {every: 4ba, keep: 2}
"""


class GptRunner(Runner):
    curriculum, trainer = CURRICULUM, TRAINER

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(1)
        config = GPT2Config(vocab_size=60, n_layer=2, n_head=2, n_embd=16, n_positions=32)
        model = GPT2LMHeadModel(config)
        (folder.parent / "gpt").mkdir()
        config.save_pretrained(folder.parent / "gpt")
        weights = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
        save_file(weights, folder.parent / "gpt/model.safetensors", {"format": "pt"})


def test_begun_with_weights_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GptRunner(tmp_path / "whole" / "work")
    whole.run()
    killed = GptRunner(tmp_path / "killed" / "work")
    status, _ = killed.stop_when(lambda: killed.batches() >= 7, signal.SIGKILL)
    assert status == -signal.SIGKILL and killed.batches() < 24
    killed.run()
    assert killed.rows() == whole.rows(), "dropout goes on where it was"
    assert whole.rows()[-1]["loss"] < whole.rows()[0]["loss"]

    monkeypatch.setenv("NCAMIX_CACHE", str(whole.cache))
    monkeypatch.chdir(tmp_path)
    plan, difference = replan(whole.folder / "runs/tiny")  # its path is relative to the trainer's
    assert difference == "" and plan.trainer.trainer.model.pretrained
