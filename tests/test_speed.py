"""Speed: times add up, and operations are counted as PaLM counts them."""

from __future__ import annotations

import pytest
from test_model import small

from ncamix.training import speed
from ncamix.training.speed import Stopwatch, flops_per_token, peak_flops


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_times_add_up_and_pauses_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    watch = Stopwatch(flops=50, peak=1000.0)

    def batch(wait: float, work: float) -> dict[str, float]:
        watch.asked()
        clock.now += wait
        watch.received()
        clock.now += work
        return watch.trained(8)

    assert batch(1, 3) == {"seconds": 4, "data_wait": 1, "tokens_per_second": 2, "mfu": 0.1}
    clock.now += 4  # a checkpoint
    assert batch(0, 4)["seconds"] == 8
    watch.pause()
    clock.now += 100
    assert batch(1, 1)["seconds"] == 2
    assert (watch.seconds, watch.waited) == (14, 2)
    assert "mfu" not in Stopwatch(50, None).trained(8)


def test_operations_of_a_token() -> None:
    model = small(rows=40)
    config, sizes = model.config, {n: p.numel() for n, p in model.named_parameters()}
    body = sum(
        n
        for name, n in sizes.items()
        if not name.endswith(("embed_tokens.weight", "lm_head.weight"))
    )
    attention = 12 * config.num_hidden_layers * config.hidden_size * 64
    assert flops_per_token(model, 64, 30) == 6 * (body + 30 * config.hidden_size) + attention


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_are_found_by_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
