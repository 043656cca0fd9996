"""What all tests share: a cache of their own, no network, and plans of small curricula."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import processes
import pytest

from ncamix.plan import Plan

hypothesis.settings.register_profile(  # no test is a matter of speed
    "ncamix", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ncamix")

TRAINER = """\
ncamix: 1
name: small
model: {layers: 1, heads: 1, width: 8}
sequence_length: 32
batch_size: 8
budget: 10ktok
optimizer: {lr: 1e-3}
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's cache, or the network."""
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """What a test starts ends with it, however the test ends."""
    yield
    processes.end_all()


Planner = Callable[..., Plan]


@pytest.fixture
def plan_of(tmp_path: Path) -> Planner:
    """Plans a curriculum given as its lines below `name`, under a trainer of 39 batches of 8."""

    def plan(body: str, trainer: str = TRAINER, name: str = "c") -> Plan:
        from ncamix.loading import load_curriculum
        from ncamix.planning import make_plan
        from ncamix.trainer import load_trainer

        curriculum_file, trainer_file = tmp_path / f"{name}.yaml", tmp_path / "small.yaml"
        curriculum_file.write_text(f"ncamix: 1\nname: {name}\n{body}")
        trainer_file.write_text(trainer)
        return make_plan(load_curriculum(curriculum_file), load_trainer(trainer_file))

    return plan


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices as small as those of a test's only lose time between threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
