"""Epiplexity: about how much structure a model took up from a source, in bits.

    training losses of a source's batches, tokens with loss in each -> area above the final level

Epiplexity is what a learner of bounded means can learn from data: the length of the program that
codes them in the fewest bits, beside the bits that stay random to it (Finzi, Qiu, Jiang, Izmailov,
Kolter and Wilson 2026, "From Entropy to Epiplexity", arXiv 2601.03220). Their estimate by
prequential coding (section 4.1) is

    |P| ~ sum_i (log 1/P_i(Z_i) - log 1/P_M(Z_i))

with Z_i the i-th token, P_i the model that is trained on those before it, and P_M the one in the
end: the area between the loss curve and its final level. It is crude, and of the model, its
learning rate and what it knew before as much as of the data: the authors take the best of many
models, and here it is the one that was trained. An error in the final level counts once for every
token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ncamix.log_columns import Floats
from ncamix.run_record import StageRecord

FINAL_SHARE = 20  # the final level is the mean over the last 1/20 of a source's batches
FORMULA = (
    "sum over the batches of a stage of (loss − final level) × tokens with loss, divided by ln 2; "
    "the final level is the mean loss over the last 5% of them"
)
PAPER = (
    "Finzi, Qiu, Jiang, Izmailov, Kolter and Wilson 2026, “From Entropy to Epiplexity”, "
    "arXiv 2601.03220, section 4.1"
)


@dataclass(frozen=True)
class Epiplexity:
    """An estimate for one source in one stage: in bits, the final level in nats per token, and the
    tokens with loss that it is over."""

    stage: str
    source: str
    bits: float
    final_loss: float
    num_tokens: int


def area_bits(losses: Floats, num_tokens: Floats) -> tuple[float, float]:
    """Bits between a loss curve and its final level, and that level in nats per token.

    losses: float64 [batches], mean nats per token; num_tokens: [batches], tokens with loss in
    each. The level is the mean over the last 1/20 of the batches, by tokens; where the curve is
    below it, the area counts as negative. There is one batch at least.
    """
    last = max(1, len(losses) // FINAL_SHARE)
    level = float(np.average(losses[-last:], weights=num_tokens[-last:]))
    return float(((losses - level) * num_tokens).sum() / math.log(2)), level


def epiplexities(stages: Sequence[StageRecord]) -> list[Epiplexity]:
    """The estimate for every source of every stage, as far as batches are recorded.

    Where a run does not say how many tokens had a loss there is none, nor of a single batch.
    """
    found = []
    for stage in stages:
        for source, (tokens, losses) in stage.losses.items():
            at = np.searchsorted(stage.tokens, tokens)
            counted = np.diff(stage.loss_tokens[source], prepend=0.0)[at]
            if len(losses) > 1 and (counted > 0).all():
                bits, level = area_bits(losses, counted)
                found.append(Epiplexity(stage.name, source, bits, level, int(counted.sum())))
    return found
