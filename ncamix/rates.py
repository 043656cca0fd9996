"""Learning rates: a stage's schedule as a number for every batch, the same on every platform."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ncamix.optimizer import LearningRate, Optimizer, Scaled
from ncamix.quantities import Quantity
from ncamix.schedule import Clock, Curve, Keyframe, resolve_number, square_root


@dataclass(frozen=True)
class RateCurve:
    """Learning rate of each batch of a stage, evaluated at batch midpoints.

    tail: (position in batches, peak); from there on, the rate is peak * sqrt(position / x).
    """

    curve: Curve
    tail: tuple[Fraction, Fraction] | None = None

    def at(self, batch: int) -> float:
        """The rate of a batch (from 0)."""
        return float(self._exact(Fraction(2 * batch + 1, 2)))

    def after(self, num_batches: int) -> Fraction:
        """The rate at the instant when so many batches, at least one, have ended.

        Where a cycle ends there too, it is the rate that the cycle ends with.
        """
        cycle = self.curve.cycle
        if cycle and num_batches * self.curve.unit % cycle == 0:
            return Fraction(self.curve.values[-1][0])
        return self._exact(Fraction(num_batches))

    def _exact(self, x: Fraction) -> Fraction:
        """The rate at a position in half batches or whole ones."""
        if self.tail is not None and x > self.tail[0]:
            return self.tail[1] * square_root(self.tail[0] / x)
        return self.curve.number(int(x * self.curve.unit))

    def meaning(self) -> dict[str, Any]:
        """Everything that the rate of a batch depends on, exactly, as plain JSON."""
        curve = self.curve
        return {
            "positions": [str(Fraction(at, curve.unit)) for at in curve.positions],
            "values": [str(value) for (value,) in curve.values],
            "eases": list(curve.eases[:-1]),
            "cycle": str(Fraction(curve.cycle, curve.unit)),
            "tail": [str(value) for value in self.tail or ()],
        }


def resolve_rate(
    optimizer: Optimizer, base: Fraction, clock: Clock, start: Fraction | None = None
) -> RateCurve:
    """Resolve a stage's learning rate.

    base: what `1x` means. start: the rate that the last stage left, for `start: continue`.

    Raises:
        ValueError: keyframes or the warm-up do not fit the stage, or there is no rate to continue;
            the message is for the user.
    """
    rate = optimizer.lr
    assert rate is not None and not isinstance(rate, Scaled), "laid over the trainer's by now"
    if not isinstance(rate, LearningRate):
        return RateCurve(resolve_number(rate, clock, optimizer.cycle, base))

    def absolute(quantity: Quantity) -> Quantity:
        return Quantity(quantity.value * (base if quantity.unit == "x" else 1), "")

    warmup = clock.position(rate.warmup)
    if warmup > clock.num_batches:
        raise ValueError(f"the warm-up of {rate.warmup} is longer than the stage")
    first = Quantity(Fraction(0), "")
    if rate.start == "continue":
        if start is None:
            raise ValueError("there is no stage before this one whose rate could be continued")
        first = Quantity(start, "")
    peak, floor = first if rate.peak is None else absolute(rate.peak), absolute(rate.floor)
    at_warm, at_end = Quantity(warmup, "ba"), Quantity(clock.length, "ba")
    frames = [Keyframe(Quantity(Fraction(0), "ba"), first)] if warmup else []
    if rate.decay == "inverse_sqrt":
        begin = max(warmup, Fraction(1))
        curve = resolve_number((*frames, Keyframe(at_warm, peak)), clock)
        return RateCurve(curve, (begin, peak.value))
    if rate.decay == "constant" or warmup == clock.num_batches:
        return RateCurve(resolve_number((*frames, Keyframe(at_warm, peak)), clock))
    frames += [Keyframe(at_warm, peak, rate.decay), Keyframe(at_end, floor)]
    return RateCurve(resolve_number(tuple(frames), clock))
