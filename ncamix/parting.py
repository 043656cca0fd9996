"""Where two plans part: the first batch that is not the same in both.

    two plans -> model, then stage by stage: conditions, counts, rates -> Parting

A batch is the same if the same samples are trained on, at the same rate, by the same model in the
same state, so everything before it has to be the same, too. What counts is what was planned, not
how it was written: sources are told apart by what determines their samples, rates by their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.entry import Enter
from ncamix.groups import parts
from ncamix.plan import Plan, PlannedStage
from ncamix.quantities import counted

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


def find_parting(plans: Plans) -> Parting | None:
    """Where two plans part; None if every batch is the same."""
    why = _unlike([_model(plan) for plan in plans])
    pairs = list(zip(plans[0].stages, plans[1].stages, strict=False))
    for stages in pairs:
        batch, why = (0, why) if why else _first_unlike(plans, stages)
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


def _place(stage: PlannedStage, batch: int) -> tuple[str, int] | None:
    return (stage.name, batch + 1) if batch < stage.num_batches else None


def _unlike(facts: list[dict[str, Any]]) -> str:
    """The keys in which two dicts differ, in words; nothing if they are equal."""
    return ", ".join(f"another {key}" for key in facts[0] if facts[0][key] != facts[1][key])


def _model(plan: Plan) -> dict[str, Any]:
    """What decides over the model before its first batch."""
    return {
        "model": plan.trainer.trainer.model,
        "number of vocabulary rows": plan.vocabulary.rows,
        "seed of the weights": plan.seeds.init,
        "average of the weights": plan.trainer.trainer.averaging,
    }


def _first_unlike(plans: Plans, stages: Stages) -> tuple[int, str]:
    """(batch, why) where two stages part, all before them being the same; no words if nowhere."""
    why = _unlike([_conditions(*pair) for pair in zip(plans, stages, strict=True)])
    if why:
        return 0, why
    shared = min(stage.num_batches for stage in stages)
    counts, frozen = _first_unlike_counts(plans, stages), _first_unlike_frozen(plans, stages)
    batch = min(shared, counts, frozen)
    batch = min(batch, _first_unlike_rates(stages, min(batch + 1, shared)))
    if batch == shared:
        ended = min(stages, key=lambda stage: stage.num_batches)
        same = stages[0].num_batches == stages[1].num_batches
        length = counted(ended.num_batches, "batch", "batches")
        of = f"the stage '{ended.name}' of {length} has ended"
        return batch, "" if same else of
    reasons = []
    if counts == batch:
        reasons.append(_other_samples(plans, stages, batch))
    if frozen == batch:
        reasons.append("other frozen groups")
    rates = [stage.rate.at(batch) for stage in stages]
    if rates[0] != rates[1]:
        reasons.append(f"a learning rate of {rates[0]:.6g} and {rates[1]:.6g}")
    return batch, ", ".join(reasons)


def _conditions(plan: Plan, stage: PlannedStage) -> dict[str, Any]:
    """What decides over a stage's training beside samples and rates."""
    enter = stage.enter or Enter()
    redrawn = enter.redrawn(plan.trainer.trainer.model.layers)
    active = plan.vocabulary.softmax == "active"
    return {
        "batch size": stage.batch_size,
        "sequence length": stage.sequence_length,
        "precision": stage.precision,
        "set of groups drawn anew": redrawn,
        "way of drawing them": (enter.initializer, stage.spared) if redrawn else None,
        "name, which keys what is drawn anew": stage.name if redrawn else None,
        "run to start from": stage.origin.meaning() if stage.origin is not None else None,
        "state of the optimizer": enter.optimizer_state,
        **{f"{key} of the optimizer": v for key, v in optimizer_of(stage).items()},
        "softmax": plan.active_ranges(stage) if active else None,
    }


def optimizer_of(stage: PlannedStage) -> dict[str, Any]:
    """A stage's optimizer, without its rate."""
    keys = {key: value for key, value in stage.optimizer if key not in ("lr", "cycle")}
    return {**keys, "kind": stage.optimizer.algorithm}


def _first_unlike_counts(plans: Plans, stages: Stages) -> int:
    """The first batch in which the counts of two stages differ, by what determines the samples;
    the number of batches that both have, if none."""
    columns = [_columns(*pair) for pair in zip(plans, stages, strict=True)]
    shared = min(stage.num_batches for stage in stages)
    first = shared
    for key in {*columns[0], *columns[1]}:
        one, other = (c.get(key, np.zeros(shared, np.int32))[:first] for c in columns)
        unlike = one != other
        first = int(unlike.argmax()) if unlike.any() else first
    return first


def _first_unlike_frozen(plans: Plans, stages: Stages) -> int:
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


def _first_unlike_rates(stages: Stages, end: int) -> int:
    """The first batch before `end` in which two stages' learning rates differ; `end` if none."""
    one, other = (stage.rate for stage in stages)
    if one == other:
        return end
    return next((t for t in range(end) if one.at(t) != other.at(t)), end)


def _columns(plan: Plan, stage: PlannedStage) -> dict[Any, NDArray[Any]]:
    """Samples in each batch of a stage, int [num_batches], by what determines the samples."""
    counts = stage.apportionment.counts
    return {_identity(plan, stage, name): counts[:, i] for i, name in enumerate(stage.sources)}


def _identity(plan: Plan, stage: PlannedStage, name: str) -> tuple[Any, ...]:
    """What determines the samples that a source gives in a stage, and the loss on them."""
    source, again = plan.dataset_of(name, stage), name in stage.replayed
    twins = [s.name for s in plan.sources.values() if s.fingerprint == source.fingerprint]
    order = plan.order_key(name) if source.spec.finite or again else None
    weight = source.spec.loss_weight
    samples = source.fingerprint, source.limit, twins.index(name), plan.owned(source)
    return *samples, order, again, source.loss_start, weight


def _other_samples(plans: Plans, stages: Stages, batch: int) -> str:
    """How the samples of a batch differ, in words."""
    counts = [
        dict(zip(s.sources, s.apportionment.counts[batch].tolist(), strict=True)) for s in stages
    ]
    names = [n for n in {**counts[0], **counts[1]} if counts[0].get(n, 0) != counts[1].get(n, 0)]
    told = [f"{counts[0].get(n, 0)} and {counts[1].get(n, 0)} of {n}" for n in names]
    if told:
        return f"other samples ({', '.join(told)})"
    pairs = list(zip(plans, stages, strict=True))
    names = [n for n in counts[0] if counts[0][n] and len({_identity(*p, n) for p in pairs}) > 1]
    return f"other samples of {', '.join(names)}"
