"""Controls: what an arm is held against, made from its plan.

    plan of an arm, stages before natural text -> settings that make of it a control, or a length

All stages have absolute lengths then, so that what is to be equal is equal to the batch. Natural
stages are those behind the pre-pre-training ones. Settings are as `--set` takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ncamix.entry import Enter
from ncamix.errors import nearest
from ncamix.groups import GROUPS, LAYERED
from ncamix.optimizer import LearningRate
from ncamix.plan import Plan, PlannedStage
from ncamix.sources.base import LeafSource
from ncamix.study import CONTROLS

TIMES = 10  # what `text_x10` has of the tokens of the stages that it replaces


class Impossible(Exception):
    """A control that cannot be made: what is wrong, and the way out."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


class Uncut(Impossible):
    """A plan without two parts has no control at all. stage: the number of the one that is to
    blame, among those that are controlled for, if it is one of these."""

    def __init__(self, what: str, remedy: str, stage: int | None = None) -> None:
        super().__init__(what, remedy)
        self.stage = stage


@dataclass(frozen=True)
class Parts:
    """An arm's plan, cut in two: its pre-pre-training stages, and its natural ones."""

    plan: Plan
    before: tuple[PlannedStage, ...]
    natural: tuple[PlannedStage, ...]

    @property
    def first(self) -> PlannedStage:
        """The natural stage that the pre-pre-training ones hand over to."""
        return self.natural[0]

    @property
    def left(self) -> tuple[PlannedStage, ...]:
        """What remains without the pre-pre-training stages."""
        return tuple(stage for stage in self.plan.stages if stage not in self.before)

    def endless(self) -> dict[str, LeafSource]:
        """The generated sources of the pre-pre-training stages, by name."""
        plan = self.plan
        found = [plan.dataset_of(name, stage) for stage in self.before for name in stage.sources]
        return {source.name: source.spec for source in found if not source.spec.finite}


def cut(plan: Plan, stages: Sequence[str] = ()) -> Parts:
    """Cut a plan in two: behind the last of `stages`, or before the first stage that draws from a
    finite source. Raises Uncut where either part is empty, or the plan lacks a stage."""
    names = [stage.name for stage in plan.stages]
    for i, name in enumerate(stages):
        if name not in names:
            raise Uncut(f"there is no stage '{name}'", nearest(name, names, "stages"), i)
    natural = [stage.name for stage in natural_stages(plan)]
    first = names.index(natural[0]) if natural else len(names)
    end = max(map(names.index, stages)) + 1 if stages else first
    if end == 0:
        remedy = "add one of automata, or name those that are controlled for: "
        what = f"no stage comes before the first of natural text, '{names[0]}'"
        raise Uncut(what, f"{remedy}controls: {{stage: [...], use: [...]}}")
    if not set(names[end:]) & set(natural):
        last = stages.index(names[end - 1]) if stages else None
        what = f"no stage of natural text comes behind '{names[end - 1]}'"
        raise Uncut(what, "add one" if last is None else "add one, or name earlier stages", last)
    chosen = [s for s in plan.stages[:end] if not stages or s.name in stages]
    return Parts(plan, tuple(chosen), plan.stages[end:])


def natural_stages(plan: Plan, before: Sequence[str] = ()) -> list[PlannedStage]:
    """The stages that draw from a finite source, without those named `before`."""
    return [s for s in plan.stages if s.name not in before and any(_is_finite(plan, s))]


def _is_finite(plan: Plan, stage: PlannedStage) -> list[bool]:
    return [plan.dataset_of(name, stage).spec.finite for name in stage.sources]


def is_natural(plan: Plan) -> bool:
    """Whether a run trains on finite sources alone: text, pairs, datasets. What begins with another
    run's weights does not: they may have seen anything."""
    return all(stage.origin is None and all(_is_finite(plan, stage)) for stage in plan.stages)


def control_settings(kind: str, parts: Parts, transition: bool) -> tuple[str, ...]:
    """What makes a control of an arm. transition: whether it passes the arm's own on entering its
    first natural stage; else that stage begins with the weights as they are.

    Raises:
        Impossible: it cannot be made.
    """
    if kind == "permuted" and not transition:
        return _permuted(parts, transition)
    found = _MAKERS[kind](parts)
    if parts.first.enter is None or transition:
        return found
    where = f"stages.{parts.first.name}.enter"
    return (*(setting for setting in found if not setting.startswith(where)), f"{where}=null")


def has_transition(parts: Parts) -> bool:
    return parts.first.enter is not None


def length_settings(plan: Plan, factor: Fraction, before: Sequence[str] = ()) -> tuple[str, ...]:
    """What gives an arm natural stages of `factor` times their batches; the others stay. before:
    names of the pre-pre-training ones. Raises Impossible where no stage is natural."""
    scaled = {stage.name for stage in natural_stages(plan, before)}
    if not scaled:
        raise Impossible("no stage of natural text could be longer or shorter", "leave it out")
    batches = {
        s.name: max(1, round(s.num_batches * factor)) if s.name in scaled else s.num_batches
        for s in plan.stages
    }
    return _lengths(plan, batches)


def _lengths(plan: Plan, batches: dict[str, int]) -> tuple[str, ...]:
    """Absolute lengths of stages, and the budget that they fill."""
    tokens = {
        s.name: batches[s.name] * s.batch_size * s.sequence_length
        for s in plan.stages
        if s.name in batches
    }
    settings = [f"stages.{name}.duration={n}tok" for name, n in tokens.items()]
    return (*settings, f"trainer.budget={sum(tokens.values())}tok")


def _scratch(parts: Parts, more_tokens: int = 0, more_batches: int = 0) -> tuple[str, ...]:
    """Without the pre-pre-training stages; the last natural one is longer by so much."""
    batches = {s.name: s.num_batches for s in parts.left}
    names = [stage.name for stage in parts.before]
    last = natural_stages(parts.plan, names)[-1]
    batch = last.batch_size * last.sequence_length
    batches[last.name] += more_batches + round(Fraction(more_tokens, batch))
    gone = [f"stages.{name}=null" for name in names]
    return (*gone, *_handed_over(parts), *_mended(parts, ()), *_lengths(parts.plan, batches))


def _handed_over(parts: Parts) -> Iterator[str]:
    """What stages cannot take over from one that is gone: the state of its optimizer, if none is
    left before them, and the rate that it reached, which is written out."""
    base = parts.plan.trainer.trainer.optimizer.base_rate()
    gone = {stage.index for stage in parts.before}
    for stage in parts.left:
        where, is_first = f"stages.{stage.name}", stage is parts.left[0]
        if stage.index - 1 not in gone:
            continue
        if is_first and stage.enter is not None and stage.enter.optimizer_state == "keep":
            yield f"{where}.enter.optimizer_state=fresh"
        rate = stage.spec.optimizer.lr
        if not isinstance(rate, LearningRate) or rate.start is None:
            continue
        before = parts.plan.stages[stage.index - 1]
        if rate.peak is None:
            peak = before.rate.after(before.num_batches) / base
            yield f"{where}.optimizer.lr.peak={float(peak):.6g}x"
        if is_first:  # the decay in words: a peak alone would stand for the trainer's schedule
            yield f"{where}.optimizer.lr.decay={rate.decay}"
            yield f"{where}.optimizer.lr.start=null"


def _mended(parts: Parts, drawn: Collection[str]) -> tuple[str, ...]:
    """What stages cannot do where the pre-pre-training ones draw from `drawn`, or are gone: replay
    what nothing has drawn, spare rows that nothing trains. New samples are drawn instead."""
    found: list[str] = []
    curriculum = parts.plan.curriculum.curriculum
    seen = set(drawn)
    every = {name for stage in parts.left for name in stage.sources} | seen
    ranges = {curriculum.sources[name].range_name() for name in every if name in curriculum.sources}
    for stage in parts.plan.stages if drawn else parts.left:
        where = f"stages.{stage.name}"
        spared = stage.enter.spare if stage.enter is not None else ()
        kept = [name for name in spared if curriculum.ranges_of(name) & ranges]
        if len(kept) < len(spared):
            found.append(f"{where}.enter.spare=" + (f"[{', '.join(kept)}]" if kept else "null"))
        if stage not in parts.before:
            replays = (name for name, how in stage.spec.draw.items() if how == "replay")
            found += [f"{where}.draw.{name}=null" for name in replays if name not in seen]
            seen |= set(stage.sources)
    return tuple(found)


def _tokens(parts: Parts) -> int:
    return sum(stage.num_tokens for stage in parts.before)


def _in_place(
    parts: Parts, mixtures: Mapping[str, Mapping[str, int]], times: int = 1
) -> tuple[str, ...]:
    """Other mixtures in pre-pre-training stages, by stage, and `times` the length of all these."""
    found: list[str] = []
    for stage in parts.before:
        if stage.name not in mixtures:
            continue
        where, mixture = f"stages.{stage.name}", mixtures[stage.name].items()
        found.append(f"{where}.mixture={{{', '.join(f'{name}: {n}' for name, n in mixture)}}}")
        found += [
            f"{where}.{key}=null"
            for key in ("transform", "draw", "until")
            if getattr(stage.spec, key)
        ]
    batches = {
        s.name: s.num_batches * (times if s in parts.before else 1) for s in parts.plan.stages
    }
    drawn = {name for mixture in mixtures.values() for name in mixture}
    return (*found, *_mended(parts, drawn), *_lengths(parts.plan, batches))


def _text(parts: Parts, times: int = 1) -> tuple[str, ...]:
    stage = next(stage for stage in natural_stages(parts.plan) if stage in parts.natural)
    counts = _finite_counts(parts, stage)
    return _in_place(parts, {before.name: counts for before in parts.before}, times)


def _finite_counts(parts: Parts, stage: PlannedStage) -> dict[str, int]:
    return {
        name: count
        for name, count in stage.counts.items()
        if count and parts.plan.dataset_of(name, stage).spec.finite
    }


def _shuffled(parts: Parts) -> tuple[str, ...]:
    found = []
    for name, spec in _generated(parts).items():
        if spec.transform is not None:
            what = f"'{name}' is transformed already ({spec.transform})"
            raise Impossible(what, "have the control stand beside another variant")
        found.append(f"sources.{name}.transform=shuffle_tokens")
    return tuple(found)


def _permuted(parts: Parts, transition: bool = True) -> tuple[str, ...]:
    """Permute what is carried over; without the transition, that is everything."""
    enter, where = parts.first.enter or Enter(), f"stages.{parts.first.name}.enter"
    layers = parts.plan.trainer.trainer.model.layers
    drawn = enter.redrawn(layers) if transition else set()
    groups: list[str] = []
    for group in GROUPS:
        kept = [layer for layer in range(layers) if (group, layer) not in drawn]
        if group not in LAYERED:
            groups += [group] if (group, None) not in drawn else []
        elif len(kept) == layers:
            groups.append(group)
        elif kept:
            if kept != list(range(kept[0], kept[-1] + 1)):
                what = f"layers of '{group}' that are carried over do not stand in a row"
                raise Impossible(what, "write that variant yourself: enter: {permute: ...}")
            groups.append(f"{{{group}: {kept[0]}..{kept[-1]}}}")
    if not groups:
        raise Impossible("no weights are carried over", "have it stand beside another variant")
    written = f"[{', '.join(groups)}]"
    return (f"{where}.permute={written}",) if transition else (f"{where}={{permute: {written}}}",)


def _generated(parts: Parts) -> dict[str, LeafSource]:
    found = parts.endless()
    if not found:
        raise Impossible("no source is generated before natural text", "leave this control out")
    return found


def _other(name: str, source: str) -> Callable[[Parts], tuple[str, ...]]:
    """Another generated source in place of the automata; what text stands beside them stays."""

    def settings(parts: Parts) -> tuple[str, ...]:
        ids = max(spec.num_ids() for spec in _generated(parts).values())
        own = f"sources.control_{name}={source.format(ids=ids)}"
        mixtures = {}
        for stage in parts.before:
            kept = _finite_counts(parts, stage)
            generated = sum(stage.counts.values()) - sum(kept.values())
            if generated:
                mixtures[stage.name] = {f"control_{name}": generated if kept else 1, **kept}
        return (own, *_in_place(parts, mixtures))

    return settings


_MAKERS: dict[str, Callable[[Parts], tuple[str, ...]]] = {
    "scratch_natural": _scratch,
    "scratch_total": lambda parts: _scratch(parts, more_tokens=_tokens(parts)),
    "scratch_steps": lambda parts: _scratch(
        parts, more_batches=sum(stage.num_batches for stage in parts.before)
    ),
    "text": _text,
    "text_x10": lambda parts: _text(parts, TIMES),
    "shuffled": _shuffled,
    "permuted": _permuted,
    "dyck_nested": _other("dyck_nested", "{{kind: dyck, style: nested}}"),
    "dyck_shuffle": _other("dyck_shuffle", "{{kind: dyck, style: shuffle}}"),
    "noise_uniform": _other("noise_uniform", "{{kind: noise, symbols: {ids}}}"),
    "noise_zipf": _other("noise_zipf", "{{kind: noise, distribution: zipf, symbols: {ids}}}"),
}

assert tuple(_MAKERS) == CONTROLS, "each can be written, and made"
