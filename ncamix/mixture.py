"""Mixtures of a whole run over leaf sources, resolved: the weights of every batch in integers.

    shapes of the stages + blends -> a curve for each stage's mixture and each blend in it, on its
    clock -> weights of the leaves in any batch

A blend's clock is the stage's, the run's, or its own: the tokens that earlier batches of the run
planned for it. So blends are resolved over all stages at once, each after the blends that hold it.
Weights have 60 fractional bits; positions of the clocks are in units of their curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from graphlib import TopologicalSorter

import numpy as np
from numpy.typing import NDArray

from ncamix.quantities import Quantity, format_count
from ncamix.schedule import (
    BITS,
    SCALE,
    Clock,
    Curve,
    Schedule,
    TokenClock,
    normalised,
    resolve_mixture,
)
from ncamix.sources import BlendSource

STAGE = ""  # stands for the stage's own mixture where blends have their names
LONG = 16_384  # batches from which compiled code is worth the time that numba takes to import


@dataclass(frozen=True)
class StageShape:
    """A stage as far as mixtures need it.

    clock_batches: its planned length, which its keyframes refer to. num_batches: how many of them
    are trained; fewer where the stage ended on evidence.
    first_token: tokens that the run consumed before the stage.
    """

    schedule: Schedule
    cycle: Quantity | None
    clock_batches: int
    num_batches: int
    batch_size: int
    sequence_length: int
    first_token: int

    @property
    def tokens_per_batch(self) -> int:
        return self.batch_size * self.sequence_length


@dataclass(frozen=True)
class MixtureProblem:
    """Why a mixture cannot be: in which stage, by which blend (None: the stage's own mixture)."""

    stage: int
    blend: str | None
    what: str


class MixtureError(ValueError):
    """Every problem that was found while mixtures were resolved."""

    def __init__(self, problems: Sequence[MixtureProblem]) -> None:
        super().__init__("; ".join(problem.what for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class ClockedCurve:
    """A curve of weights, read at the batches of a stage.

    columns: the names that the weights are of. Batch t stands at origin + t * step, or where
    `positions`, int64 [batches], has it: on a clock of the blend's own.
    """

    columns: tuple[str, ...]
    curve: Curve
    origin: int = 0
    step: int = 0
    positions: NDArray[np.int64] | None = None

    def at(self, batch: int) -> tuple[int, ...]:
        if self.positions is None:
            return self.curve.weights(self.origin + batch * self.step)
        return self.curve.weights(int(self.positions[batch]))


@dataclass(frozen=True)
class Mixture:
    """A stage's mixture over leaf sources, with blends multiplied through.

    curves: the stage's own mixture under the name STAGE, then blends, each after all that hold it.
    num_batches: of the stage as planned. backwards: played from its last batch to its first.
    """

    curves: Mapping[str, ClockedCurve]
    leaves: tuple[str, ...]
    num_batches: int
    batch_size: int
    backwards: bool = False

    def at(self, batch: int) -> tuple[int, ...]:
        """Weights of the leaves at a batch's midpoint, 60 fractional bits, sum exactly 1."""
        if self.backwards:
            batch = self.num_batches - 1 - batch
        return normalised(self.weights(batch)[len(self.curves) :])

    @cached_property
    def items(self) -> dict[str, int]:
        """Places of the curves, then of the leaves, among `weights`."""
        return {name: i for i, name in enumerate((*self.curves, *self.leaves))}

    def weights(self, batch: int) -> list[int]:
        """Weights of all items, not yet normalised, of a batch counted forwards."""
        weights = [0] * len(self.items)
        weights[0] = SCALE
        for whole, (curve, targets) in zip(weights, self._targets, strict=False):
            if whole:
                for target, share in zip(targets, curve.at(batch), strict=True):
                    weights[target] += whole * share >> BITS
        return weights

    @cached_property
    def _targets(self) -> list[tuple[ClockedCurve, list[int]]]:
        curves = self.curves.values()
        return [(curve, [self.items[name] for name in curve.columns]) for curve in curves]

    @property
    def is_constant(self) -> bool:
        return all(curve.curve.is_constant for curve in self.curves.values())

    def reversed(self) -> Mixture:
        return replace(self, backwards=not self.backwards)

    def flattened(self, totals: Sequence[int]) -> Mixture:
        """Constant weights of the same leaves, in proportion to `totals`, at least one not 0."""
        weights = normalised([n * SCALE // sum(totals) for n in totals])
        curve = Curve((0,), (weights,), ("linear",), 2)
        return replace(self, curves={STAGE: ClockedCurve(self.leaves, curve)}, backwards=False)


def weights_as_floats(mixture: Mixture, batch: int) -> dict[str, float]:
    """A mixture's weights for a reader: source -> share of 1."""
    return {n: w / SCALE for n, w in zip(mixture.leaves, mixture.at(batch), strict=True)}


def names_of(schedule: Schedule) -> tuple[str, ...]:
    """The names that a mixture's keyframes hold, sorted: how they are written decides nothing."""
    return tuple(sorted({name for frame in schedule for name in frame.value}))


def resolve_mixtures(
    stages: Sequence[StageShape],
    blends: Mapping[str, BlendSource],
    planned: Sequence[StageShape] | None = None,
) -> list[Mixture]:
    """The mixture of each stage of a run.

    planned: the stages as planned before any ended on evidence, all of their batches trained.
        Positions on the run's clock and on a blend's own are shares of these, so that what is
        decided later never changes the past. By default no stage has ended early.

    Raises:
        MixtureError: keyframes that do not fit their stage, the run or the blend's own tokens.
    """
    first = _Resolver(planned or stages, blends)
    mixtures = first.resolve()
    if planned is None:
        return mixtures
    return _Resolver(stages, blends, first).resolve()


class _Resolver:
    """Resolves the mixtures of a run; blends on their own clocks note how far they came.

    Tokens of a blend are whole numbers of 2**-places tokens here, so that a batch's midpoint, in
    halves of these, stays below 62 bits for a run of four times the planned length. Midpoints are
    ahead by `slack` halves, more than all rounding together, so that a batch that meets a keyframe
    or a cycle's end exactly has reached it.
    """

    def __init__(
        self,
        shapes: Sequence[StageShape],
        blends: Mapping[str, BlendSource],
        planned: _Resolver | None = None,
    ) -> None:
        self.shapes, self.blends = shapes, blends
        self.problems: dict[tuple[str, str], MixtureProblem] = {}
        self.curves: list[dict[str, ClockedCurve]] = [{} for _ in shapes]
        self.reached = [_reached(shape.schedule, blends) for shape in shapes]
        if planned is None:
            self.run_tokens = sum(s.clock_batches * s.tokens_per_batch for s in shapes)
            self.slack = 4 * sum(s.clock_batches for s in shapes) + 64
            self.places = max(0, 59 - self.run_tokens.bit_length())
            self.own_totals: dict[str, int] = {}
        else:
            self.run_tokens, self.slack = planned.run_tokens, planned.slack
            self.places, self.own_totals = planned.places, planned.own_totals

    def resolve(self) -> list[Mixture]:
        for i, shape in enumerate(self.shapes):
            self.curves[i][STAGE] = self.on_batches(i, STAGE, shape.schedule, shape.cycle)
        for name in _holders_first(self.blends):
            blend = self.blends[name]
            inside = [i for i, reached in enumerate(self.reached) if name in reached]
            if blend.clock == "self":
                self.on_own_tokens(name, blend, inside)
                continue
            for i in inside:
                if blend.clock == "run":
                    self.curves[i][name] = self.on_run(i, name, blend)
                else:
                    self.curves[i][name] = self.on_batches(i, name, blend.schedule, blend.cycle)
        if self.problems:
            raise MixtureError(list(self.problems.values()))
        return [self.mixture(i) for i in range(len(self.shapes))]

    def mixture(self, stage: int) -> Mixture:
        """A stage's mixture as far as it is resolved; blends that are not yet are leaves."""
        shape, curves = self.shapes[stage], self.curves[stage]
        leaves = tuple(sorted(self.reached[stage] - curves.keys()))
        return Mixture(curves, leaves, shape.clock_batches, shape.batch_size)

    def curve(
        self,
        stage: int,
        name: str,
        schedule: Schedule,
        cycle: Quantity | None,
        clock: Clock | TokenClock,
        grid: int = 0,
    ) -> Curve:
        """A resolved curve; after a problem, one that serves to find others."""
        columns = names_of(schedule)
        try:
            return resolve_mixture(schedule, clock, columns, cycle, grid)
        except ValueError as error:
            problem = MixtureProblem(stage, name or None, str(error))
            where = name if isinstance(clock, TokenClock) else f"{name} in {stage}"
            self.problems.setdefault((where, str(error)), problem)
            return _standing_still(schedule)

    def on_batches(
        self, stage: int, name: str, schedule: Schedule, cycle: Quantity | None
    ) -> ClockedCurve:
        shape = self.shapes[stage]
        clock = Clock(shape.clock_batches, shape.tokens_per_batch)
        curve = self.curve(stage, name, schedule, cycle, clock)
        return ClockedCurve(names_of(schedule), curve, curve.unit // 2, curve.unit)

    def on_run(self, stage: int, name: str, blend: BlendSource) -> ClockedCurve:
        shape, clock = self.shapes[stage], TokenClock(Fraction(self.run_tokens), "the run")
        curve = self.curve(stage, name, blend.schedule, blend.cycle, clock)
        half = curve.unit // 2
        return ClockedCurve(
            names_of(blend.schedule),
            curve,
            (2 * shape.first_token + shape.tokens_per_batch) * half,
            2 * shape.tokens_per_batch * half,
        )

    def on_own_tokens(self, name: str, blend: BlendSource, inside: Sequence[int]) -> None:
        """Curves of a blend on its own clock, in all stages that hold it."""
        done, positions = 0, {}
        for i in inside:
            shape = self.shapes[i]
            a_batch = shape.tokens_per_batch << self.places
            positions[i], done = own_positions(
                self.mixture(i), name, done, a_batch, shape.num_batches
            )
            positions[i] += self.slack
        total = Fraction(self.own_totals.setdefault(name, done), 1 << self.places)
        columns, grid = names_of(blend.schedule), 2 << self.places
        for i in inside:
            if total:
                clock = TokenClock(total, f"the blend's {format_count(float(total))} tokens")
                curve = self.curve(i, name, blend.schedule, blend.cycle, clock, grid)
            else:  # it never weighs anything
                curve = _standing_still(blend.schedule)
            self.curves[i][name] = ClockedCurve(columns, curve, positions=positions[i])


def own_positions(
    mixture: Mixture, blend: str, done: int, a_batch: int, num_batches: int
) -> tuple[NDArray[np.int64], int]:
    """Where a blend's own clock stands at the midpoint of each batch of a stage.

    blend: a leaf of `mixture`. done, a_batch: its tokens before the stage, and those of a batch
    at a weight of 1, in the same fine units.

    Returns positions in halves of these units, int64 [batches], and `done` after `num_batches`.
    """
    if mixture.num_batches >= LONG:
        from ncamix import counting  # numba

        program = counting.make_program(mixture)
        if program is not None:
            return counting.own_positions(program, mixture, blend, done, a_batch, num_batches)
    positions = np.empty(mixture.num_batches, np.int64)
    item, after = mixture.items[blend], done
    for batch in range(mixture.num_batches):
        weight = mixture.weights(batch)[item]
        tokens = (weight * a_batch >> BITS) + (weight > 0)
        positions[batch] = 2 * done + tokens
        done += tokens
        if batch == num_batches - 1:
            after = done
    return positions, after


def _inner(name: str, blends: Mapping[str, BlendSource]) -> tuple[str, ...]:
    return names_of(blends[name].schedule) if name in blends else ()


def _standing_still(schedule: Schedule) -> Curve:
    """The constant curve of a schedule's first weights."""
    first = replace(schedule[0], at=Quantity(Fraction(0), "%"))
    return resolve_mixture((first,), Clock(1, 1), names_of(schedule))


def _reached(schedule: Schedule, blends: Mapping[str, BlendSource]) -> set[str]:
    """Names that a mixture holds, through blends too, whatever their weights."""
    found: set[str] = set()
    queue = list(names_of(schedule))
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += _inner(name, blends)
    return found


def _holders_first(blends: Mapping[str, BlendSource]) -> list[str]:
    """The blends, each after every blend that holds it; none holds itself."""
    inside = {name: [n for n in _inner(name, blends) if n in blends] for name in blends}
    return list(TopologicalSorter(inside).static_order())[::-1]
