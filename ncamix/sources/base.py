"""What every source kind has: a grammar, a meaning, and its samples.

A kind is one file: a pydantic model of its YAML keys that also knows which ids it emits, what
determines its bytes (its *meaning*, plain JSON), and how to make them. The grammar side imports
neither torch nor numba; generation imports what it needs when it is asked for samples.

A sample is `sequence_length + 1` ids; position j of it is trained to predict id j + 1. A transform
moves the ids of a sample about after they are drawn, so that only their order is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from ncamix.keys import derive_key, fingerprint
from ncamix.quantities import NotNegative, Quantity, quantity_of, quantity_pattern, refuse
from ncamix.threads import spread

Meaning = dict[str, Any]
MASKED = -100  # label of a position without loss, as in torch and Hugging Face


class Spec(BaseModel):
    """Base of everything that is read from YAML: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    later: ClassVar[tuple[str, ...]] = ()  # keys of the language that this version refuses
    nulls: ClassVar[bool] = False  # whether null means something


class SourceSpec(Spec):
    """What the plan asks of a source, whatever its kind."""

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

    def attends_within_documents(self) -> bool:
        """Whether a token attends to its own document alone, not to all of the sample before it."""
        return False

    def meaning(self) -> Meaning:
        """What determines the source's bytes beside seed, sequence length and vocabulary."""
        raise NotImplementedError

    def summary(self) -> str:
        """A few words for tables and pictures."""
        raise NotImplementedError


def _max_share(written: Any) -> Quantity:
    share = quantity_of(written, ("%",), "20%")
    if not 0 < share.value <= 100:
        raise refuse("not a share of the run", "write more than 0%, and 100% at most")
    return share


MaxShare = Annotated[
    Quantity,
    PlainValidator(_max_share),
    WithJsonSchema({"type": "string", "pattern": quantity_pattern("%")}),
]


class LeafSource(SourceSpec):
    """A source with samples of its own: the YAML keys that all kinds but `blend` share."""

    transform: Literal["shuffle_tokens"] | None = Field(
        None, description="shuffle_tokens: the ids of every sample in random order, as a control."
    )
    loss_weight: NotNegative = Field(
        Fraction(1), description="Factor of the source's targets in the loss, 0 or more."
    )
    max_share: MaxShare | None = Field(
        None, description="Largest share of the run's tokens, in %; a plan that needs more fails."
    )

    def own_meaning(self) -> Meaning:
        """The meaning before any transform."""
        raise NotImplementedError

    def own_summary(self) -> str:
        """The summary before any transform."""
        raise NotImplementedError

    def meaning(self) -> Meaning:
        own = self.own_meaning()
        return own if self.transform is None else {**own, "transform": self.transform}

    def summary(self) -> str:
        own = self.own_summary()
        return own if self.transform is None else f"{own}, {self.transform.split('_')[1]} shuffled"


@dataclass(frozen=True)
class Generator(ABC):
    """Makes the samples of an endless source from its full meaning, which is plain JSON.

    The full meaning adds `sequence_length`, `first_id` (where the vocabulary range begins) and
    `seed` to the kind's own. The transform, kept apart from it here, changes nothing of what is
    drawn: a shuffled sample is a permutation of the sample of that number of the same source.
    """

    meaning: Meaning
    transform: str | None = None

    def samples(self, first: int, count: int, num_threads: int | None = None) -> NDArray[np.uint32]:
        """Samples first .. first + count - 1, uint32 [count, sequence_length + 1], global ids."""
        samples = self.drawn(first, count, num_threads)
        if self.transform is not None:
            size = self.frame_length() if self.transform == "shuffle_frames" else 1
            key = derive_key(self.transform, fingerprint(self.meaning))
            shuffle(samples, first, key, size, num_threads)
        return samples

    @abstractmethod
    def drawn(self, first: int, count: int, num_threads: int | None) -> NDArray[np.uint32]:
        """As `samples`, before any transform."""

    def frame_length(self) -> int:
        """Ids of a frame with its delimiters, for kinds whose samples are made of frames."""
        raise NotImplementedError


def shuffle(
    samples: NDArray[np.uint32],
    first: int,
    key: int,
    size: int = 1,
    num_threads: int | None = None,
) -> None:
    """Put the runs of `size` ids that make up each sample into a random order, in place.

    samples: uint32 [N, length], of the numbers from `first`; the order belongs to (key, number).
    What is left at a sample's end, less than `size` ids, stays.
    """
    from ncamix.sources.kernels import shuffle_runs

    def work(rows: slice) -> None:
        shuffle_runs(np.uint64(key), first + rows.start, size, samples[rows])

    spread(work, len(samples), num_threads)


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
