"""Learning rates: a stage's schedule as a number for every batch, the same on every platform."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ncamix.quantities import Quantity
from ncamix.schedule import SCALE, Clock, Curve, Keyframe, inverse_sqrt, resolve
from ncamix.trainer import LearningRate, Optimizer


@dataclass(frozen=True)
class RateCurve:
    """Learning rate of each batch of a stage, evaluated at batch midpoints."""

    curve: Curve
    tail: tuple[Fraction, Fraction] | None = None  # inverse square root: (from batch, peak)

    def at(self, batch: int) -> float:
        """The rate of a batch (from 0)."""
        x = Fraction(2 * batch + 1, 2)
        if self.tail is not None and x > self.tail[0]:
            ratio = self.tail[0] / x
            root = Fraction(inverse_sqrt(ratio.numerator, ratio.denominator), SCALE)
            return float(self.tail[1] * root)
        return float(Fraction(self.curve.at(batch)[0], SCALE))


def resolve_rate(optimizer: Optimizer, base: Fraction, clock: Clock) -> RateCurve:
    """Resolve a stage's learning rate; `base` is what `1x` means.

    Raises:
        ValueError: keyframes or the warm-up do not fit the stage; the message is for the user.
    """
    rate = optimizer.lr
    assert rate is not None
    if not isinstance(rate, LearningRate):
        return RateCurve(resolve(rate, clock, (), optimizer.cycle, base))

    def absolute(quantity: Quantity) -> Quantity:
        return Quantity(quantity.value * (base if quantity.unit == "x" else 1), "")

    warmup = clock.batches(rate.warmup)
    if warmup > clock.num_batches:
        raise ValueError(f"the warm-up of {rate.warmup} is longer than the stage")
    assert rate.peak is not None
    peak, floor = absolute(rate.peak), absolute(rate.floor)
    at_warm, at_end = Quantity(warmup, "ba"), Quantity(Fraction(clock.num_batches), "ba")
    frames = [Keyframe(Quantity(Fraction(0), "ba"), Quantity(Fraction(0), ""))] if warmup else []
    if rate.decay == "inverse_sqrt":
        start = max(warmup, Fraction(1))
        return RateCurve(
            resolve((*frames, Keyframe(at_warm, peak)), clock, ()), (start, peak.value)
        )
    if rate.decay == "constant" or warmup == clock.num_batches:
        return RateCurve(resolve((*frames, Keyframe(at_warm, peak)), clock, ()))
    frames += [Keyframe(at_warm, peak, rate.decay), Keyframe(at_end, floor)]
    return RateCurve(resolve(tuple(frames), clock, ()))
