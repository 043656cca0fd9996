"""Where two plans part: the first batch that is not the same in both.

    two plans -> model, then stage by stage: conditions, counts, rates -> Parting

A batch is the same if the same samples are trained on, at the same rate, by the same model in the
same state, so everything before it has to be the same, too. What counts is what was planned, not
how it was written: sources are told apart by what determines their samples, rates by their values.
Counts are compared as arrays, rates piece by piece: what is the same piece of curve is not walked.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.entry import Enter
from ncamix.groups import parts
from ncamix.keys import fingerprint
from ncamix.optimizer import Optimizer
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.quantities import counted
from ncamix.rates import RateCurve

Plans = tuple[Plan, Plan]
Stages = tuple[PlannedStage, PlannedStage]


@dataclass(frozen=True)
class Parting:
    """The first batch that is not the same in two plans.

    tokens: of the run, trained on before it. places: in either plan, its stage and its number in
    it, from 1; None where the plan has ended.
    """

    tokens: int
    places: tuple[tuple[str, int] | None, tuple[str, int] | None]
    why: str


def find_parting(plans: Plans, by_name: bool = False) -> Parting | None:
    """Where two plans part; None if every batch is the same.

    by_name: a batch is another one, too, if its stage or a source of its samples has another name,
    as it is to the record of a run.
    """
    why = _unlike([_model(plan) for plan in plans])
    pairs = list(zip(plans[0].stages, plans[1].stages, strict=False))
    for stages in pairs:
        batch, why = (0, why) if why else _first_unlike(plans, stages, by_name)
        if why:
            stage = stages[0]
            tokens = stage.first_token + batch * stage.batch_size * stage.sequence_length
            return Parting(tokens, (_place(stages[0], batch), _place(stages[1], batch)), why)
    for i, plan in enumerate(plans):
        if len(plan.stages) > len(pairs):
            place = _place(plan.stages[len(pairs)], 0)
            tokens = plan.stages[len(pairs)].first_token
            return Parting(tokens, (None, place) if i else (place, None), "the other has ended")
    return None


def find_change(plans: Plans, tokens: int) -> Parting | None:
    """Where two plans part within the first `tokens` of a run, as its record tells batches apart;
    None if all of these are the same."""
    parting = find_parting(plans, by_name=True)
    if parting is not None and parting.tokens < tokens:
        return parting
    return _other_average(plans, tokens)


def _other_average(plans: Plans, tokens: int) -> Parting | None:
    """Where a stage that is trained in part has begun to average its weights, and in one plan at
    another batch than in the other; all batches within the first `tokens` are the same."""
    how = plans[0].trainer.trainer.averaging
    for stages in zip(plans[0].stages, plans[1].stages, strict=False) if how is not None else ():
        assert how is not None
        stage = stages[0]
        trained = (tokens - stage.first_token) // (stage.batch_size * stage.sequence_length)
        trained = min(trained, stage.num_batches)
        starts = [how.first_batch(each.clock_batches) for each in stages]
        begun = starts[1]  # until then, an average that was begun is dropped
        if starts[0] != starts[1] and begun < trained:
            ahead = stage.first_token + begun * stage.batch_size * stage.sequence_length
            why = f"weights averaged from batch {starts[0]:,} and from batch {starts[1]:,} on"
            return Parting(ahead, (_place(stage, begun), _place(stages[1], begun)), why)
    return None


def _place(stage: PlannedStage, batch: int) -> tuple[str, int] | None:
    return (stage.name, batch + 1) if batch < stage.num_batches else None


def _unlike(facts: list[dict[str, Any]]) -> str:
    """The keys in which two dicts differ, in words; nothing if they are equal."""
    one, other = facts
    found = [
        f"another {key}{_values(one[key], other[key])}" for key in one if one[key] != other[key]
    ]
    return ("; " if any(":" in words for words in found) else ", ").join(found)


def _values(one: Any, other: Any) -> str:
    """`: 8 and 16`, where two unlike values can be told in a word each."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [key for key in one if key in other and one[key] != other[key]]
        told = [f"{key} {_word(one[key])} and {_word(other[key])}" for key in keys]
        brief = all(_word(value[key]) for key in keys for value in (one, other))
        return f": {', '.join(told)}" if brief and told else ""
    words = _word(one), _word(other)
    return f": {words[0]} and {words[1]}" if all(words) else ""


def _word(value: Any) -> str:
    """A number, a name or nothing as a word; "" of what takes more."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float | Fraction):
        return f"{float(value):.6g}"
    return value if isinstance(value, str) and len(value) <= 24 else ""


def _model(plan: Plan) -> dict[str, Any]:
    """What decides over the model before its first batch."""
    return {
        "model": plan.trainer.trainer.model.meaning(),
        "number of pretrained rows": plan.kept_rows,
        "number of vocabulary rows": plan.vocabulary.rows,
        "seed of the weights": plan.seeds.init,
        "average of the weights": plan.trainer.trainer.averaging,
    }


def _first_unlike(plans: Plans, stages: Stages, by_name: bool) -> tuple[int, str]:
    """(batch, why) where two stages part, all before them being the same; no words if nowhere."""
    why = _unlike([conditions(*pair) for pair in zip(plans, stages, strict=True)])
    if by_name and stages[0].name != stages[1].name:
        why = f"the name of the stage, '{stages[0].name}' and '{stages[1].name}'"
    if why:
        return 0, why
    shared = min(stage.num_batches for stage in stages)
    counts = first_unlike_counts(plans, stages, by_name)
    frozen = first_unlike_frozen(plans, stages)
    batch = min(shared, counts, frozen)
    rates = (stages[0].rate, stages[1].rate)
    batch = min(batch, first_unlike_rate(rates, min(batch + 1, shared)))
    if batch == shared:
        ended = min(stages, key=lambda stage: stage.num_batches)
        same = stages[0].num_batches == stages[1].num_batches
        length = counted(ended.num_batches, "batch", "batches")
        of = f"the stage '{ended.name}' of {length} has ended"
        return batch, "" if same else of
    reasons = []
    if counts == batch:
        reasons.append(_other_samples(plans, stages, batch, by_name))
    if frozen == batch:
        reasons.append("other frozen groups")
    one, other = (rate.at(batch) for rate in rates)
    if one != other:
        told = [f"{rate:.6g}" for rate in (one, other)]
        told = told if told[0] != told[1] else [repr(one), repr(other)]
        reasons.append(f"a learning rate of {told[0]} and {told[1]}")
    return batch, ", ".join(reasons)


def conditions(plan: Plan, stage: PlannedStage) -> dict[str, Any]:
    """What decides over a stage's training beside samples and rates."""
    enter = stage.enter or Enter()
    layers = plan.trainer.trainer.model.layers
    redrawn, permuted = enter.redrawn(layers), enter.permuted(layers)
    active = plan.vocabulary.softmax == "active"
    return {
        "batch size": stage.batch_size,
        "sequence length": stage.sequence_length,
        "precision": stage.precision,
        "set of groups drawn anew": redrawn,
        "way of drawing them": (enter.initializer, stage.spared) if redrawn else None,
        "set of groups permuted": permuted,
        "set of rows that are not permuted": stage.spared if permuted else None,
        "name, which keys what is drawn": stage.name if redrawn or permuted else None,
        "run to start from": stage.origin.meaning() if stage.origin is not None else None,
        "state of the optimizer": enter.optimizer_state,
        **{f"{key} of the optimizer": v for key, v in optimizer_of(stage).items()},
        "softmax": plan.active_ranges(stage) if active else None,
        "z-loss": plan.trainer.trainer.z_loss,
    }


def optimizer_of(stage: PlannedStage) -> dict[str, Any]:
    """A stage's optimizer, without its rate; what is not given has its default."""
    return {
        key: stage.optimizer.meant(key)
        for key in Optimizer.model_fields
        if key not in ("lr", "cycle")
    }


def first_unlike_counts(plans: Plans, stages: Stages, by_name: bool = False) -> int:
    """The first batch in which the counts of two stages differ, by what determines the samples
    (`by_name`: and by their sources' names); the number of batches that both have, if none."""
    columns = [_columns(*pair, by_name) for pair in zip(plans, stages, strict=True)]
    shared = min(stage.num_batches for stage in stages)
    first = shared
    for key in {*columns[0], *columns[1]}:
        one, other = (c.get(key, np.zeros(shared, np.int32))[:first] for c in columns)
        unlike = one != other
        first = int(unlike.argmax()) if unlike.any() else first
    return first


def first_unlike_frozen(plans: Plans, stages: Stages) -> int:
    """The first batch in which not the same parameters are frozen; one that neither stage has, if
    that is never so."""
    one, other = (
        {
            part: num_batches
            for group, num_batches in stage.frozen
            for part in parts([group], plan.trainer.trainer.model.layers)
        }
        for plan, stage in zip(plans, stages, strict=True)
    )
    ends = [(one.get(part, 0), other.get(part, 0)) for part in {**one, **other}]
    longest = max(stage.num_batches for stage in stages)
    return min((min(pair) for pair in ends if pair[0] != pair[1]), default=longest)


def first_unlike_rate(rates: tuple[RateCurve, RateCurve], end: int) -> int:
    """The first batch before `end` in which two learning rates differ; `end` if none."""
    one, other = rates
    if one == other:
        return end
    pieces = [_pieces(rate, Fraction(end)) for rate in rates]
    starts = sorted({*pieces[0], *pieces[1]})
    meant: list[Any] = [None, None]
    for start, until in zip(starts, [*starts[1:], Fraction(end)], strict=True):
        meant = [piece.get(start, known) for piece, known in zip(pieces, meant, strict=True)]
        if meant[0] == meant[1]:
            continue
        # batches stand at their midpoints; where one of these meets a keyframe, both pieces hold it
        for batch in range(max(0, ceil(start - Fraction(1, 2))), ceil(until - Fraction(1, 2))):
            if one.at(batch) != other.at(batch):
                return batch
    return end


def _pieces(rate: RateCurve, end: Fraction) -> dict[Fraction, Any]:
    """What a rate is from each of these positions on, in batches, up to `end`: the same value means
    the same rate at every place. A curve that repeats is one piece."""
    curve, tail = rate.curve, rate.tail
    if curve.cycle:
        return {Fraction(0): rate.meaning()}
    at = [Fraction(x, curve.unit) for x in curve.positions]
    values = [value for (value,) in curve.values]
    pieces: dict[Fraction, Any] = {Fraction(0): values[0]}
    for i, start in enumerate(at):
        last = i == len(at) - 1
        still = last or curve.eases[i] == "step" or values[i] == values[i + 1]
        way = (start, at[i + 1], *values[i : i + 2], curve.eases[i]) if not still else values[i]
        pieces[start] = way
    if tail is not None:
        pieces = {start: way for start, way in pieces.items() if start < tail[0]}
        pieces[tail[0]] = ("tail", *tail)
    return {start: way for start, way in pieces.items() if start < end}


def _columns(plan: Plan, stage: PlannedStage, by_name: bool) -> dict[Any, NDArray[Any]]:
    """Samples in each batch of a stage, int [num_batches], by what determines the samples."""
    counts = stage.apportionment.counts
    return {
        identity(plan, stage, name, by_name): counts[:, i] for i, name in enumerate(stage.sources)
    }


def identity(plan: Plan, stage: PlannedStage, name: str, by_name: bool) -> tuple[Any, ...]:
    """What determines the samples that a source gives in a stage, and the loss on them. Of sources
    that mean the same, which one it is: by its name, or the first, the second and so on."""
    source, again = plan.dataset_of(name, stage), name in stage.replayed
    twins = [s.name for s in plan.sources.values() if s.fingerprint == source.fingerprint]
    order = plan.order_key(name) if source.spec.finite or again else None
    weight, which = source.spec.loss_weight, name if by_name else twins.index(name)
    samples = source.fingerprint, _tokenizer(source), source.limit, which, plan.owned(source)
    return *samples, order, again, source.loss_start, weight


def _tokenizer(source: PlannedSource) -> str | None:
    """The tokenizer that a data set's ids are said to be of; a text's own fingerprint holds it."""
    if source.stored is None:
        return None
    return fingerprint({k: v for k, v in source.stored.tokenizer.items() if k != "file"})


def _other_samples(plans: Plans, stages: Stages, batch: int, by_name: bool) -> str:
    """How the samples of a batch differ, in words."""
    counts = [
        dict(zip(s.sources, s.apportionment.counts[batch].tolist(), strict=True)) for s in stages
    ]
    names = [n for n in {**counts[0], **counts[1]} if counts[0].get(n, 0) != counts[1].get(n, 0)]
    told = [f"{counts[0].get(n, 0)} and {counts[1].get(n, 0)} of {n}" for n in names]
    if told:
        return f"other samples ({', '.join(told)})"
    pairs = list(zip(plans, stages, strict=True))
    names = [n for n in counts[0] if counts[0][n]]
    names = [n for n in names if len({identity(*pair, n, by_name) for pair in pairs}) > 1]
    reasons = []
    for name in names:
        one, other = (plan.dataset_of(name, stage) for plan, stage in pairs)
        if one.first_id != other.first_id:
            reasons.append(f" (its ids begin at {one.first_id:,} and {other.first_id:,})")
        elif one.limit != other.limit:
            reasons.append(f" (of which {one.limit:,} and {other.limit:,} samples are read)")
        else:
            reasons.append("")
    told = [name + reason for name, reason in zip(names, reasons, strict=True)]
    return f"other samples of {', '.join(told)}"
