"""What every source kind has: a grammar, a meaning, and its samples.

A kind is one file: a pydantic model of its YAML keys that also knows which ids it emits, what
determines its bytes (its *meaning*, plain JSON), and how to make them. The grammar side imports
neither torch nor numba; generation imports what it needs when it is asked for samples.

A sample is `sequence_length + 1` ids; position j of it is trained to predict id j + 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Meaning = dict[str, Any]
MASKED = -100  # label of a position without loss, as in torch and Hugging Face


class Spec(BaseModel):
    """Base of everything that is read from YAML: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    later: ClassVar[tuple[str, ...]] = ()  # keys of the language that this version refuses
    later_values: ClassVar[tuple[str, ...]] = ()  # and values of choices


class SourceSpec(Spec):
    """The YAML keys that all source kinds share, and what the plan asks of them."""

    later: ClassVar[tuple[str, ...]] = ("transform", "loss_weight", "max_share")
    version: ClassVar[int] = 1  # generator version: raise it when bytes change
    finite: ClassVar[bool] = False

    kind: str

    def range_name(self) -> str:
        """Name of the vocabulary range that the source's ids stand in."""
        raise NotImplementedError

    def num_ids(self) -> int:
        """Ids that the source can emit, for kinds that bring their own range."""
        raise NotImplementedError

    def loss_start(self) -> int:
        """First position of a sample (1 .. sequence_length) whose id is a trained target."""
        return 1

    def meaning(self) -> Meaning:
        """What determines the source's bytes beside seed, sequence length and vocabulary."""
        raise NotImplementedError

    def summary(self) -> str:
        """A few words for tables and pictures."""
        raise NotImplementedError


@dataclass(frozen=True)
class Generator(ABC):
    """Makes the samples of an endless source from its full meaning, which is plain JSON.

    The full meaning adds `sequence_length`, `first_id` (where the vocabulary range begins) and
    `seed` to the kind's own.
    """

    meaning: Meaning

    @abstractmethod
    def samples(self, first: int, count: int, num_threads: int | None = None) -> NDArray[np.uint32]:
        """Samples first .. first + count - 1, uint32 [count, sequence_length + 1], global ids."""


def plain(value: Any) -> Any:
    """JSON for a checked value, for fingerprints: models and tuples opened, numbers exact text."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | bool | None) else repr(value)
