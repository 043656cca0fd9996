"""Completions of prompts, drawn from a model one token at a time, each by a stream of its own.

    prompt, numbers of samples -> logits -> temperature, top-p -> one uniform number a token and
    sample -> the token there in the cumulative distribution -> text, cut at the first stop

A sample is keyed by (seed, prompt's name, its number): it does not depend on the samples beside it,
on what was drawn before, or on where a run was interrupted, as far as a model's own arithmetic does
not depend on the size of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ncamix.keys import derive_key


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. stops: what ends one, and is cut off. longest: in tokens.

    A temperature of 0 takes the likeliest token.
    """

    temperature: float
    top_p: float
    seed: int
    longest: int
    stops: tuple[str, ...]


class Sampler:
    """A model and its tokenizer, loaded from a folder onto a device."""

    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", trust_remote_code=False
        )
        self.model = model.to(device).eval()
        self.device = device

    def room(self, sampling: Sampling) -> tuple[int, int]:
        """(tokens of a prompt at most, tokens that are drawn at most): a completion takes up to
        half of what the model can see."""
        limit = min(
            self.tokenizer.model_max_length,
            getattr(self.model.config, "max_position_embeddings", None) or 1 << 20,
        )
        drawn = min(sampling.longest, limit // 2)
        return limit - drawn, drawn

    def is_cut(self, prompt: str, sampling: Sampling) -> bool:
        """Whether the beginning of a prompt is left out, since it is too long for the model."""
        return len(self.tokenizer(prompt).input_ids) > self.room(sampling)[0]

    @torch.no_grad()
    def complete(
        self, name: str, prompt: str, numbers: Sequence[int], sampling: Sampling
    ) -> list[str]:
        """The samples of some numbers of a prompt, in that order, without what stopped them."""
        kept, drawn = self.room(sampling)
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids[:, -kept:].to(self.device)
        batch = ids.expand(len(numbers), -1)
        processors = LogitsProcessorList()
        if sampling.temperature > 0:
            if sampling.temperature != 1:
                processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                processors.append(TopPLogitsWarper(sampling.top_p))
            keys = [derive_key("sample", sampling.seed, name, number) for number in numbers]
            processors.append(_Drawn(keys, drawn, ids.shape[1]))
        output = self.model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            do_sample=False,
            max_new_tokens=drawn,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList(
                [_Stopped(self.tokenizer, sampling.stops, ids.shape[1])]
            ),
            pad_token_id=self.tokenizer.eos_token_id,
        )
        return [
            cut_at_stop(self._text(row[ids.shape[1] :].tolist()), sampling.stops) for row in output
        ]

    def _text(self, ids: list[int]) -> str:
        """The text of drawn ids, up to the end of text."""
        end = self.tokenizer.eos_token_id
        return self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to where the first of the stops begins."""
    return text[: min((place for s in stops if (place := text.find(s)) >= 0), default=len(text))]


class _Drawn(LogitsProcessor):
    """Leaves of each row's distribution the one token that its next uniform number falls on."""

    def __init__(self, keys: Sequence[int], longest: int, prompt: int) -> None:
        self.prompt = prompt
        self.uniforms = np.stack(
            [np.random.Generator(np.random.Philox(key=key)).random(longest) for key in keys]
        )

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.from_numpy(self.uniforms[:, input_ids.shape[1] - self.prompt, None])
        reached = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
        # At most the last of the tokens that have a probability, however sums are rounded.
        aim = (1 - uniform.to(scores.device)) * reached[:, -1:]
        place = (reached < aim).sum(dim=-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, place, 0.0)


class _Stopped(StoppingCriteria):
    """Ends a row as soon as its text holds a stop."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt: int) -> None:
        self.tokenizer, self.stops, self.prompt = tokenizer, stops, prompt
        self.longest = max(map(len, stops), default=0)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        # A token holds a character at most in part: a few more than the stop has bytes will do.
        first = max(self.prompt, input_ids.shape[1] - 4 * self.longest)
        texts = self.tokenizer.batch_decode(input_ids[:, first:])
        ended = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(ended, device=input_ids.device)
