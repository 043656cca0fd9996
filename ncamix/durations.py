"""Durations: how many batches each stage has, exactly.

    durations, budget, sizes of epochs -> where each stage ends, in tokens -> whole batches

Stages end at exact cumulative token counts, rounded down to whole batches; what rounding leaves
goes to the next stage. What a stage leaves that ended early, on evidence, goes to a later stage
that says `rest`, or is not trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from ncamix.curriculum import Stage
from ncamix.mixture import StageShape
from ncamix.quantities import Quantity, Refusal, format_count
from ncamix.trainer import Trainer

MAX_BATCHES = 5_000_000
MAX_EVALUATIONS = 10_000  # of a stage
MAX_SAMPLES = 1 << 24  # of a batch


@dataclass
class Lengths:
    """The stages of a curriculum at their lengths, or why it has none.

    faults: with paths in the curriculum.
    """

    stages: list[StageShape] = field(default_factory=list)
    faults: list[Refusal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(length.num_batches * length.tokens_per_batch for length in self.stages)


def stage_lengths(
    stages: Sequence[Stage],
    trainer: Trainer,
    epochs: Mapping[str, Fraction],
    ended: Mapping[str, int],
) -> Lengths:
    """The length of every stage.

    epochs: samples of one epoch of each stage whose duration counts epochs. ended: batches after
    which evidence ended a stage.
    """
    budget, out = trainer.budget.value, Lengths()
    shares = [s for s in stages if s.duration is not None and s.duration.unit == "%"]
    resting = [i for i, s in enumerate(stages) if s.duration is None]
    fixed = sum((_tokens_wanted(s, trainer, epochs) for s in stages if s.duration), Fraction(0))
    last = len(stages) - 1
    if resting and fixed >= budget:
        out.faults.append(
            (
                ("stages", resting[0], "duration"),
                "nothing is left for this stage: the others "
                f"take {tokens(fixed)} of the trainer's {tokens(budget)}",
                "shorten them, or choose a trainer with a larger budget",
            )
        )
        return out
    if shares and not resting and abs(fixed - budget) >= _batch(stages[last], trainer):
        out.faults.append(
            (
                ("stages", last, "duration"),
                f"the durations add up to {tokens(fixed)}, the trainer's budget is "
                f"{tokens(budget)}",
                "make them fill it, or let one stage say `rest`",
            )
        )
        return out
    if not resting and not shares:
        out.remarks.append(
            f"every duration is absolute ({tokens(fixed)}), so the trainer's budget of "
            f"{tokens(budget)} is not used"
        )
    end, used, left = Fraction(0), 0, 0
    for i, stage in enumerate(stages):
        wanted = budget - fixed + left
        if stage.duration is not None:
            wanted = _tokens_wanted(stage, trainer, epochs)
        end += wanted
        size, length = shape(stage, trainer)
        batch = size * length
        clock = int((end - used) // batch)
        if stage.duration is not None and stage.duration.unit == "ep":
            clock = min(clock, int(wanted // batch))  # rounding of others adds no sample too many
        fault = _unfit(stage, trainer, clock, end - used)
        if fault:
            out.faults.append((("stages", i, "duration"), *fault))
            clock = max(1, clock)  # for what else there is to find
        if size % trainer.canonical_nodes:
            what = f"batches of {size} samples do not split over "
            what += f"{trainer.canonical_nodes} canonical nodes"
            remedy = "choose a multiple, or a trainer with other canonical_nodes"
            out.faults.append((("stages", i, "batch_size"), what, remedy))
        positions = trainer.model.positions
        if positions is not None and length > positions:
            what = f"sequences of {length:,} tokens, and the model has {positions:,} positions"
            remedy = "shorten the trainer's or the stage's sequence_length, or choose another model"
            out.faults.append((("stages", i, "sequence_length"), what, remedy))
        batches = min(clock, ended.get(stage.name, clock))
        found = StageShape(stage.mixture, stage.cycle, clock, batches, size, length, used)
        out.stages.append(found)
        used += batches * batch
        left += (clock - batches) * batch
        end -= (clock - batches) * batch
    return out


def evaluation_batches(every: Quantity, length: StageShape, run_tokens: int) -> tuple[int, ...]:
    """After how many batches of a stage the run's tokens reach multiples of an interval; at most
    one evaluation a batch, and one more than MAX_EVALUATIONS in all.

    run_tokens: of the run as planned.
    """
    batch = length.tokens_per_batch
    step = {
        "ba": every.value * batch,
        "tok": every.value,
        "%": every.value / 100 * run_tokens,
    }[every.unit]
    step = max(step, Fraction(batch))
    at: list[int] = []
    k = int(length.first_token // step) + 1
    while len(at) <= MAX_EVALUATIONS:
        done = -int((length.first_token - k * step) // batch)  # the first to reach k intervals
        if done >= length.num_batches:
            break
        at.append(done)
        k += 1
    return tuple(at)


def shape(stage: Stage, trainer: Trainer) -> tuple[int, int]:
    """(samples in a batch, tokens in a sample) of a stage."""
    return (
        stage.batch_size or trainer.batch_size,
        stage.sequence_length or trainer.sequence_length,
    )


def _batch(stage: Stage, trainer: Trainer) -> int:
    """Tokens of one of a stage's batches."""
    size, length = shape(stage, trainer)
    return size * length


def _tokens_wanted(stage: Stage, trainer: Trainer, epochs: Mapping[str, Fraction]) -> Fraction:
    duration = stage.duration
    assert duration is not None
    if duration.unit == "%":
        return duration.value / 100 * trainer.budget.value
    if duration.unit == "ba":
        return duration.value * _batch(stage, trainer)
    if duration.unit == "ep":
        return duration.value * epochs[stage.name] * shape(stage, trainer)[1]
    return duration.value


def _unfit(stage: Stage, trainer: Trainer, batches: int, room: Fraction) -> tuple[str, str] | None:
    """What is wrong with a stage of so many batches, and the way out."""
    size, length = shape(stage, trainer)
    if size > MAX_SAMPLES:
        return (
            f"a batch of {size:,} samples is beyond any machine",
            f"write a batch_size of {MAX_SAMPLES:,} at most",
        )
    if batches > MAX_BATCHES:
        return (
            f"this stage has {batches:,} batches of {tokens(size * length)}; a plan counts "
            f"{MAX_BATCHES:,} a stage at most",
            "give it larger batches, a shorter duration or a smaller budget",
        )
    if batches < 1:
        return (
            f"this stage gets {tokens(room)}, less "
            f"than one batch of {size} x {length} = {tokens(size * length)}",
            "give it a longer duration, a larger budget or a smaller batch",
        )
    return None


def tokens(count: Fraction | int) -> str:
    """A number of tokens for a reader."""
    return format_count(float(count)) + " tokens"
