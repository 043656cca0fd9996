"""A stage's mixture over leaf sources, resolved: weights of every batch in integers."""

from __future__ import annotations

from dataclasses import dataclass

from ncamix.schedule import SCALE, Curve, normalised


@dataclass(frozen=True)
class Mixture:
    """A stage's mixture over leaf sources, with blends multiplied through.

    curve: over the names that the stage's mixture holds; blends: over the names each one holds.
    """

    columns: tuple[str, ...]
    curve: Curve
    blends: dict[str, tuple[tuple[str, ...], Curve]]
    leaves: tuple[str, ...]

    def at(self, batch: int) -> tuple[int, ...]:
        """Weights of the leaves at a batch's midpoint, 96 fractional bits, sum exactly 1."""
        weights = dict.fromkeys(self.leaves, 0)
        queue = list(zip(self.columns, self.curve.at(batch), strict=True))
        while queue:
            name, weight = queue.pop()
            if not weight:
                continue
            if name in weights:
                weights[name] += weight
            else:
                columns, curve = self.blends[name]
                inner = curve.at(batch)
                queue += [(c, weight * w >> 96) for c, w in zip(columns, inner, strict=True)]
        return normalised(list(weights.values()))

    @property
    def is_constant(self) -> bool:
        return self.curve.is_constant and all(c.is_constant for _, c in self.blends.values())


def weights_as_floats(mixture: Mixture, batch: int) -> dict[str, float]:
    """A mixture's weights for a reader: source -> share of 1."""
    return {n: w / SCALE for n, w in zip(mixture.leaves, mixture.at(batch), strict=True)}
