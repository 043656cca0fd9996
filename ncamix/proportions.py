"""Blends by size: bytes of texts, flattened by a temperature -> weights that are exact fractions.

    bytes ** (1 / temperature), by logarithms in decimals -> rounded -> shares that sum to 1

Decimal logarithms and powers of e are correctly rounded wherever Python runs, so weights are the
same on every platform; nothing depends on a libm.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction

from ncamix.quantities import Quantity
from ncamix.schedule import Keyframe
from ncamix.sources import BlendSource

_WORK = Context(prec=60, rounding=ROUND_HALF_EVEN)
_KEPT = Context(prec=30, rounding=ROUND_HALF_EVEN)  # digits of a weight; mixtures keep 18


def proportional_shares(sizes: Mapping[str, int], temperature: Fraction) -> dict[str, Fraction]:
    """Shares that sum to 1, in proportion to size ** (1 / temperature); exactly so at 1.

    sizes: bytes, 1 or more each.
    """
    largest = max(sizes.values())
    weights = {name: _power(size, largest, temperature) for name, size in sizes.items()}
    total = sum(weights.values(), Fraction(0))
    return {name: weight / total for name, weight in weights.items()}


def _power(size: int, largest: int, temperature: Fraction) -> Fraction:
    """(size / largest) ** (1 / temperature), to 30 digits."""
    if temperature == 1 or size == largest:
        return Fraction(size, largest)
    log = _WORK.subtract(_WORK.ln(Decimal(size)), _WORK.ln(Decimal(largest)))
    scaled = _WORK.divide(
        _WORK.multiply(log, Decimal(temperature.denominator)), Decimal(temperature.numerator)
    )
    return Fraction(_KEPT.plus(_WORK.exp(scaled)))


def weighed(blend: BlendSource, sizes: Mapping[str, int]) -> BlendSource:
    """A blend with its mixture, if it is by size; others as they are.

    Where a size is missing all weights are equal: then nothing deals the blend, or the plan has a
    problem already.
    """
    if blend.proportional is None:
        return blend
    known = all(name in sizes for name in blend.proportional)
    own = {name: sizes[name] if known else 1 for name in blend.proportional}
    shares = proportional_shares(own, blend.temperature)
    mixture = (Keyframe(Quantity(Fraction(0), "%"), shares),)
    return blend.model_copy(update={"mixture": mixture, "proportional": None})
