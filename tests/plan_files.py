"""Curricula and trainers for tests of the grammar, the plan and the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ncamix.errors import Problem, UserError
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.quantities import refusals
from ncamix.trainer import load_trainer

TRAINER = """\
ncamix: 1
name: small
model: {kind: llama, layers: 1, heads: 2, width: 8}
sequence_length: 64
batch_size: 4
budget: 25600tok
optimizer: {lr: 1e-3}
"""

SOURCES = """\
  simple: {kind: nca, alphabet: 10, band: {gzip: [0.30, 0.40]}}
  rich: {kind: nca, alphabet: 10, band: {gzip: [0.50, 1.00]}}
  binary: {kind: nca, alphabet: 2, band: {gzip: [0.10, 0.30]}}
  hiss: {kind: noise, symbols: 100}
"""


def curriculum(stages: str, sources: str = SOURCES, rest: str = "") -> str:
    """A curriculum file of 100 batches of 4 x 64 tokens under TRAINER."""
    return f"ncamix: 1\nname: tried\n{rest}sources:\n{sources}stages:\n{stages}"


def stage(mixture: str, duration: str = "rest", name: str = "one", more: str = "") -> str:
    """A stage, one line."""
    return f"  - {{name: {name}, duration: {duration}, mixture: {mixture}{more}}}\n"


def plan_of(folder: Path, text: str, trainer: str = TRAINER) -> Plan:
    """Write both files and plan them."""
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    (folder / "t.yaml").write_text(trainer, encoding="utf-8")
    return make_plan(load_curriculum(folder / "c.yaml"), load_trainer(folder / "t.yaml"))


def problems(call: Callable[..., Any], *args: Any) -> list[Problem]:
    """The problems that a call is refused with."""
    with pytest.raises(UserError) as caught:
        call(*args)
    for problem in caught.value.problems:
        assert "PydanticCustomError" not in str(problem)
        assert "Input should" not in str(problem)
    return caught.value.problems


def problem(call: Callable[..., Any], *args: Any) -> Problem:
    """The only problem that a call is refused with."""
    found = problems(call, *args)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def refusals_of(read: Callable[[Any], Any], written: Any) -> list[tuple[str, str, str]]:
    """What a validator refuses a value with: (path below it, what, remedy) each."""
    with pytest.raises((PydanticCustomError, ValidationError)) as caught:
        read(written)
    error = caught.value
    if isinstance(error, ValidationError):
        (item,) = error.errors()
        found = item["ctx"]["problems"]
    else:
        found = refusals(error)
    return [(".".join(map(str, below)), what, remedy) for below, what, remedy in found]
