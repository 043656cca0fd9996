"""Speed: how long batches take, how long they wait for data, and what share of a device they use.

    asked for a batch -> batch there -> trained -> a row of speed.jsonl

Times are seconds of the first rank's clock, and stand apart from `metrics.jsonl`, whose rows are
the same every time. A batch takes from the end of the one before (after a pause, from when its data
is asked for) to its own end, so checkpoints count; evaluations do not. It waits for data from the
request to where the batch lies on the device.

Model FLOPs utilisation follows PaLM (Chowdhery et al., 2022, appendix B): a token costs
6 N + 12 L d T floating-point operations, over the peak of all devices. N counts the parameters that
multiply: all but the embedding's rows, of the head those rows that the softmax runs over. Attention
is counted whole, although it is causal, and what is computed twice to save memory, once.
"""

from __future__ import annotations

import re
import time
from typing import Any

from transformers import PreTrainedModel

from ncamix.training.architectures import parameter_groups

# Dense bf16 or fp16 FLOP/s with tensor cores, by names as CUDA gives them; the first that fits.
# From NVIDIA's data sheets; of what those give with sparsity alone, half.
PEAKS = {
    r"GB200": 2500e12,
    r"B200": 2250e12,
    r"H200 NVL": 835e12,
    r"G?H200": 989e12,
    r"H100 PCIe": 756e12,
    r"H100 NVL": 835e12,
    r"H100": 989e12,
    r"A100": 312e12,
    r"A40": 149.7e12,
    r"A30": 165e12,
    r"A10G": 70e12,
    r"A10": 125e12,
    r"L40S": 362e12,
    r"L40": 181e12,
    r"L4": 121e12,
    r"V100-PCIE": 112e12,
    r"V100": 125e12,
    r"T4": 65e12,
    r"RTX 4090": 165.2e12,
    r"RTX 3090": 71e12,
}

_VOCABULARY = ("embedding", "head")  # groups whose rows do not all multiply


def peak_flops(device_name: str) -> float | None:
    """Peak FLOP/s of a device by its name, in bf16 or fp16; None for one that is not known."""
    return next(
        (peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device_name)), None
    )


def flops_per_token(model: PreTrainedModel, sequence_length: int, active_ids: int) -> int:
    """Operations that training on one token takes, forward and backward. Counted while the model
    is whole."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    bodies = [names for group, names in parameter_groups(model).items() if group not in _VOCABULARY]
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    multiplying = sum(sizes[name] for names in bodies for name in names) + active_ids * width
    return 6 * multiplying + 12 * layers * width * sequence_length


class Stopwatch:
    """Times the batches of a stage. flops: of a token; peak: FLOP/s of all devices, if known."""

    def __init__(self, flops: int, peak: float | None) -> None:
        self.flops, self.peak = flops, peak
        self.seconds = 0.0  # of all batches so far
        self.waited = 0.0  # of them, waiting for data
        self._began: float | None = None
        self._asked = 0.0
        self._wait = 0.0

    def pause(self) -> None:
        """What follows is not training."""
        self._began = None

    def asked(self) -> None:
        """A batch is asked for."""
        self._asked = time.monotonic()
        if self._began is None:
            self._began = self._asked

    def received(self) -> None:
        """It is there."""
        self._wait = time.monotonic() - self._asked

    def trained(self, num_tokens: int) -> dict[str, Any]:
        """It is trained on, all `num_tokens` of it: what a row of speed.jsonl says."""
        now = time.monotonic()
        seconds = now - (self._asked if self._began is None else self._began)
        self._began = now
        self.seconds += seconds
        self.waited += self._wait
        speed = num_tokens / max(seconds, 1e-9)
        row: dict[str, Any] = {
            "seconds": round(seconds, 6),
            "data_wait": round(self._wait, 6),
            "tokens_per_second": round(speed, 1),
        }
        if self.peak is not None:
            row["mfu"] = round(speed * self.flops / self.peak, 4)
        return row
