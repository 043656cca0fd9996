"""Full meanings of endless sources, as the plan builds them, for tests of the generators."""

from __future__ import annotations

from typing import Any

from ncamix.sources import KINDS

LENGTH = 32


def meaning(
    kind: str, first_id: int = 0, seed: Any = 0, length: int = LENGTH, **keys: Any
) -> dict[str, Any]:
    """The full meaning of a source with these YAML keys, of samples of `length` + 1 ids."""
    spec = KINDS[kind](kind=kind, **keys)  # type: ignore[call-arg]
    return {**spec.meaning(), "sequence_length": length, "first_id": first_id, "seed": seed}
