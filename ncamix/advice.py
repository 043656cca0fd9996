"""What to write instead: the past of a run, said so that no later change can move it.

    the run's plan, the changed one, how far the run has come
      -> keys of the stages that would differ in the past, in absolute positions
      -> the changed curriculum with these keys: planned, and compared -> the keys, or nothing

Shares of a stage become batches, shares of the run or of a blend tokens, rates numbers. Only what
is known to be accepted is advised: it has been tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import lcm
from typing import Any

from ncamix.composition import apply, parse_setting
from ncamix.errors import UserError
from ncamix.loading import check_curriculum
from ncamix.optimizer import LearningRate
from ncamix.parting import (
    Plans,
    Stages,
    conditions,
    find_change,
    first_unlike_counts,
    first_unlike_frozen,
    first_unlike_rate,
    optimizer_of,
)
from ncamix.plan import Plan, PlannedStage
from ncamix.planning import decide, make_plan
from ncamix.quantities import Quantity
from ncamix.rendering import flow
from ncamix.schedule import Keyframe, Schedule
from ncamix.sources import BlendSource

Written = dict[str, Any]  # YAML: mappings, lists, and scalars as their text
_ENTERING = {  # conditions that `enter` decides over
    "set of groups drawn anew",
    "way of drawing them",
    "set of groups permuted",
    "set of rows that are not permuted",
    "run to start from",
    "state of the optimizer",
}
_DIGITS = 36  # of a number that has more; YAML files take 40
_TRIES = 3  # what is pinned in one stage may move the next


def advise(old: Plan, new: Plan, stage: int, batches: int, tokens: int) -> list[str]:
    """Lines of YAML that keep the past of a run when they are written into the changed curriculum;
    none where no such lines are known.

    old: the run's own plan. new: the changed one. stage, batches: trained are all stages before
    `stage`, an index, and so many batches of that. tokens: trained in all.
    """
    for rest in (False, True):
        written: Written = {}
        changed = new
        for _ in range(_TRIES):
            if find_change((old, changed), tokens) is None:
                return _block(_listed(written))
            more = _pins((old, changed), stage, batches)
            if rest and changed.stages[-1].spec.duration is not None:
                more.setdefault("stages", {})[changed.stages[-1].name] = {
                    **more.get("stages", {}).get(changed.stages[-1].name, {}),
                    "duration": "rest",
                }
            if not more or _over(written, more) == written:
                break
            written = _over(written, more)
            try:
                changed = _with(new, written, old)
            except UserError:
                break
    return []


def _with(plan: Plan, written: Written, old: Plan) -> Plan:
    """A plan made again with more in its curriculum, evidence ending what it has ended."""
    document = plan.curriculum.document
    tree = document.tree
    for path, value in _settings(written):
        tree = apply(tree, parse_setting(f"{path}={value}"))
    loaded = check_curriculum(replace(document, tree=tree))
    sizes = {name: s.num_samples for name, s in plan.sources.items() if s.num_samples}
    return decide(make_plan(loaded, plan.trainer, sizes=sizes), plan.ended)


def _settings(written: Written) -> Iterator[tuple[str, str]]:
    """(path, value) of what is to be written, as settings are."""
    for section, names in written.items():
        for name, keys in names.items():
            if section == "vocabulary":
                yield f"{section}.{name}", keys
                continue
            for key, value in keys.items():
                inside = isinstance(value, dict) and key in ("optimizer", "enter")
                below = value.items() if inside else [(None, value)]
                for inner, item in below:
                    path = ".".join(filter(None, (section, name, key, inner)))
                    yield path, _flow(item)


def _over(base: Written, over: Written) -> Written:
    """Mappings merged; what is no mapping on both sides is replaced."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    merged = {k: _over(base[k], v) if k in base else v for k, v in over.items()}
    return {**base, **merged}


# -- what to pin -----------------------------------------------------------------------------------


def _pins(plans: Plans, stage: int, batches: int) -> Written:
    """Keys that would have to be as they were, by section and name."""
    old, new = plans
    found: Written = {}
    rows = old.vocabulary.rows
    if rows != new.vocabulary.rows:
        found["vocabulary"] = {"rows": str(rows)}
    for pair in zip(old.stages[: stage + 1], new.stages, strict=False):
        whole = pair[0].index < stage
        trained = pair[0].num_batches if whole else batches
        keys = _stage_pins(plans, pair, trained, whole) if trained else {}
        if keys:
            found.setdefault("stages", {})[pair[0].name] = keys
        if "mixture" in keys:
            for name, blend in _blends(old, pair[0]).items():
                found.setdefault("sources", {})[name] = blend
    return found


def _stage_pins(plans: Plans, stages: Stages, trained: int, whole: bool) -> Written:
    """Keys of a stage, `trained` batches of which are trained, the `whole` stage or a part."""
    old, new = stages
    keys: Written = {}
    for key in ("batch_size", "sequence_length", "precision"):
        if getattr(old, key) != getattr(new, key):
            keys[key] = str(getattr(old, key))
    same_length = old.clock_batches == new.clock_batches
    if not same_length and (whole or old.spec.transform or new.num_batches < trained):
        keys["duration"] = f"{old.clock_batches}ba"
    optimizer = {
        key: _value(value)
        for key, value in optimizer_of(old).items()
        if value != optimizer_of(new)[key] and value is not None
    }
    shared = min(trained, new.num_batches)
    theirs = [conditions(*pair) for pair in zip(plans, stages, strict=True)]
    unlike = {key for key in theirs[0] if theirs[0][key] != theirs[1][key]}
    if first_unlike_counts(plans, stages, by_name=True) < trained or "softmax" in unlike:
        if _dealt(old) != _dealt(new):
            keys |= _written(plans, stages, ("draw", "transform"))
        clock = (old.clock_batches, old.batch_size * old.sequence_length)
        mixture = old.spec.mixture
        keys["mixture"] = _schedule(mixture, "mix", clock, old.spec.cycle is not None)
        if old.spec.cycle is not None:
            keys["cycle"] = str(_absolute(old.spec.cycle, clock))
    if first_unlike_rate((old.rate, new.rate), shared) < shared:
        optimizer |= _rate(old)
    if optimizer:
        keys["optimizer"] = optimizer
    if unlike & _ENTERING:
        keys |= _written(plans, stages, ("enter",))
    elif first_unlike_frozen(plans, stages) < trained:
        frozen = {}
        for group, n in old.frozen:
            layers = {} if group.layers is None else {"layers": "{}..{}".format(*group.layers)}
            frozen[group.name] = {**layers, "until": f"{n}ba"}
        keys |= {"enter": {"freeze": frozen}} if frozen else _written(plans, stages, ("enter",))
    if new.clock_batches < old.clock_batches and (optimizer or "mixture" in keys):
        keys["duration"] = f"{old.clock_batches}ba"  # which the positions are within
    return {key: value for key, value in keys.items() if value != {}}


def _dealt(stage: PlannedStage) -> tuple[Any, ...]:
    return dict(stage.spec.draw), stage.spec.transform


def _written(plans: Plans, stages: Stages, keys: Sequence[str]) -> Written:
    """Keys of a stage as the old plan's own curriculum has them; empty where only the new one's has
    them, and they can be."""
    old, new = (
        plan.curriculum.document.tree.value["stages"].value[stage.index].value
        for plan, stage in zip(plans, stages, strict=True)
    )
    found = {key: flow(old[key]) for key in keys if key in old}
    return {**{key: "{}" for key in keys if key in new and key != "transform"}, **found}


def _blends(old: Plan, stage: PlannedStage) -> Written:
    """The blends of a stage's mixture on the clock of the run, in tokens of it."""
    found: Written = {}
    run = sum(s.clock_batches * s.batch_size * s.sequence_length for s in old.stages)
    for name in stage.mixture.curves:
        spec = old.curriculum.curriculum.sources.get(name)
        if isinstance(spec, BlendSource) and spec.clock == "run":
            clock, cycles = (run, 1), spec.cycle is not None
            found[name] = {"mixture": _schedule(spec.schedule, "mix", clock, cycles, "tok")}
            if spec.cycle is not None:
                found[name]["cycle"] = str(_absolute(spec.cycle, clock, "tok"))
    return found


def _rate(stage: PlannedStage) -> Written:
    """A stage's learning rate, as keys of its optimizer."""
    rate, cycle = stage.optimizer.lr, stage.optimizer.cycle
    curve, clock = stage.rate.curve, (stage.clock_batches, stage.batch_size * stage.sequence_length)
    if isinstance(rate, LearningRate) and rate.decay in ("constant", "inverse_sqrt"):
        start = {"start": "continue"} if rate.start else {}
        peak = {} if rate.peak is None else {"peak": _exact(Fraction(curve.values[-1][0]))}
        warmup = {"warmup": str(_absolute(rate.warmup, clock))}
        return {"lr": {**start, **peak, **warmup, "decay": rate.decay}}
    values = [_exact(Fraction(value)) for (value,) in curve.values]
    if len(values) == 1:
        return {"lr": values[0]}
    if cycle is not None:
        assert isinstance(rate, tuple)
        at = [str(frame.at) for frame in rate]
    else:
        at = [f"{_exact(Fraction(x, curve.unit))}ba" for x in curve.positions]
    frames = [
        {"at": place, "to": value, **({} if ease == "linear" else {"ease": ease})}
        for place, value, ease in zip(at, values, curve.eases, strict=True)
    ]
    return {"lr": frames, **({} if cycle is None else {"cycle": str(_absolute(cycle, clock))})}


def _schedule(
    schedule: Schedule, key: str, clock: tuple[int, int], cycles: bool, unit: str = "ba"
) -> Any:
    """A mixture's keyframes at absolute positions; those within a cycle stay as they are."""
    if len(schedule) == 1:
        return _shares(schedule[0])
    return [
        {
            "at": str(frame.at if cycles else _absolute(frame.at, clock, unit)),
            key: _shares(frame),
            **({} if frame.ease == "linear" else {"ease": frame.ease}),
        }
        for frame in schedule
    ]


def _shares(frame: Keyframe) -> Written:
    """A mixture's weights as whole numbers."""
    shares: dict[str, Fraction] = {name: w for name, w in frame.value.items() if w}
    whole = lcm(*(share.denominator for share in shares.values()))
    return {name: str(int(share * whole)) for name, share in shares.items()}


class _Place(Quantity):
    """A position, all its digits written out."""

    def __str__(self) -> str:
        return f"{_exact(self.value)}{self.unit}"


def _absolute(at: Quantity, clock: tuple[int, int], unit: str = "ba") -> _Place:
    """A position or duration on a clock of (length, tokens in a batch), from its start."""
    length, tokens = clock
    if at.unit == "%":
        value = at.value / 100 * length
        return _Place(value + length if value < 0 else value, unit)
    if at.unit == "tok":
        return _Place(at.value + (length * tokens if at.value < 0 else 0), "tok")
    return _Place(at.value + (length if at.value < 0 else 0), at.unit)


def _value(value: Any) -> Any:
    """A checked value as YAML."""
    if isinstance(value, tuple):
        return [_value(item) for item in value]
    return _exact(value) if isinstance(value, Fraction) else str(value)


def _exact(value: Fraction) -> str:
    """A number as a decimal: all of it where it ends, else so many digits that no float differs."""
    rest, places = value.denominator, 0
    while rest % 10 == 0:
        rest, places = rest // 10, places + 1
    while rest % 2 == 0 or rest % 5 == 0:
        rest, places = rest // (2 if rest % 2 == 0 else 5), places + 1
    whole = len(str(abs(int(value))))
    places = min(places, _DIGITS - whole) if rest == 1 else _DIGITS - whole
    digits = round(value * 10**places)
    if not places:
        return str(digits)
    sign, text = "-" * (digits < 0), str(abs(digits)).zfill(places + 1)
    return f"{sign}{text[:-places]}.{text[-places:]}".rstrip("0").rstrip(".")


# -- YAML ------------------------------------------------------------------------------------------


def _flow(value: Any) -> str:
    """YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(value)


def _listed(written: Written) -> Written:
    """Stages as the list that they are in a file."""
    stages = [{"name": name, **keys} for name, keys in written.get("stages", {}).items()]
    return {**written, **({"stages": stages} if stages else {})}


def _block(written: Written, indent: str = "") -> list[str]:
    """A mapping as lines of YAML: a key a line, and a keyframe."""
    lines = []
    for key, value in written.items():
        if isinstance(value, dict) and (not indent or key in ("optimizer", "enter")):
            lines += [f"{indent}{key}:", *_block(value, f"{indent}  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{key}:")
            for item in value:
                if "name" in item:
                    first, *more = _block(item, f"{indent}    ")
                    lines += [f"{indent}  - {first.strip()}", *more]
                else:
                    lines.append(f"{indent}  - {_flow(item)}")
        else:
            lines.append(f"{indent}{key}: {_flow(value)}")
    return lines
