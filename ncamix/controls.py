"""Controls: what an arm is held against, made from its plan.

    plan of an arm, stages before natural text -> settings that make of it a control, or a length

All stages have absolute lengths then, so that what is to be equal is equal to the batch. Natural
stages are those behind the pre-pre-training ones. Settings are as `--set` takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ncamix.entry import Enter
from ncamix.groups import GROUPS, LAYERED
from ncamix.plan import Plan, PlannedStage
from ncamix.sources.base import LeafSource
from ncamix.study import CONTROLS

TIMES = 10  # what `text_x10` has of the tokens of the stages that it replaces


class Impossible(Exception):
    """A control that cannot be made: what is wrong, and the way out."""


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

    def endless(self) -> dict[str, LeafSource]:
        """The generated sources of the pre-pre-training stages, by name."""
        plan = self.plan
        found = [plan.dataset_of(name, stage) for stage in self.before for name in stage.sources]
        return {source.name: source.spec for source in found if not source.spec.finite}


def cut(plan: Plan, stages: Sequence[str] = ()) -> Parts:
    """Cut a plan in two: behind the last of `stages`, or before the first stage that draws from a
    finite source. Raises Impossible where either part is empty."""
    end = _end(plan, stages)
    if end == len(plan.stages):
        raise Impossible("no stage of natural text comes behind the automata", "add one")
    if end == 0:
        raise Impossible("no stage comes before the first of natural text", "add one of automata")
    chosen = [s for s in plan.stages[:end] if not stages or s.name in stages]
    return Parts(plan, tuple(chosen), plan.stages[end:])


def _end(plan: Plan, stages: Sequence[str]) -> int:
    """How many of a plan's first stages are pre-pre-training; all, where no natural one follows."""
    known = [i for i, stage in enumerate(plan.stages) if stage.name in stages]
    if stages:
        return known[-1] + 1 if known else 0
    natural = [any(_is_finite(plan, stage)) for stage in plan.stages]
    return natural.index(True) if True in natural else len(natural)


def _is_finite(plan: Plan, stage: PlannedStage) -> list[bool]:
    return [plan.dataset_of(name, stage).spec.finite for name in stage.sources]


def is_natural(plan: Plan) -> bool:
    """Whether a run trains on finite sources alone: text, pairs, datasets."""
    return all(all(_is_finite(plan, stage)) for stage in plan.stages)


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


def length_settings(plan: Plan, factor: Fraction, stages: Sequence[str] = ()) -> tuple[str, ...]:
    """What gives an arm natural stages of `factor` times their batches; the others stay. stages:
    the pre-pre-training ones, as `cut` takes them."""
    end = _end(plan, stages)
    batches = {
        s.name: max(1, round(s.num_batches * factor)) if s.index >= end else s.num_batches
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
    batches = {s.name: s.num_batches for s in parts.plan.stages if s not in parts.before}
    last = parts.natural[-1]
    batch = last.batch_size * last.sequence_length
    batches[last.name] += more_batches + round(Fraction(more_tokens, batch))
    gone = [f"stages.{stage.name}=null" for stage in parts.before]
    return (*gone, *_as_first(parts), *_lengths(parts.plan, batches))


def _as_first(parts: Parts) -> tuple[str, ...]:
    """What a transition cannot do where no stage comes before: nothing is spared, no state kept."""
    enter, where = parts.first.enter, f"stages.{parts.first.name}.enter"
    if enter is None or parts.natural[0].index > len(parts.before):
        return ()
    found = [f"{where}.spare=null"] if enter.spare else []
    if enter.optimizer_state == "keep":
        found.append(f"{where}.optimizer_state=fresh")
    return tuple(found)


def _tokens(parts: Parts) -> int:
    return sum(stage.num_tokens for stage in parts.before)


def _in_place(parts: Parts, mixture: str, times: int = 1) -> tuple[str, ...]:
    """Another mixture in the pre-pre-training stages, and `times` their length."""
    found: list[str] = []
    for stage in parts.before:
        where = f"stages.{stage.name}"
        found.append(f"{where}.mixture={mixture}")
        found += [
            f"{where}.{key}=null"
            for key in ("transform", "draw", "until")
            if getattr(stage.spec, key)
        ]
    batches = {
        s.name: s.num_batches * (times if s in parts.before else 1) for s in parts.plan.stages
    }
    enter, where = parts.first.enter, f"stages.{parts.first.name}.enter"
    spare = [f"{where}.spare=null"] if enter is not None and enter.spare else []
    return (*found, *spare, *_lengths(parts.plan, batches))


def _text(parts: Parts, times: int = 1) -> tuple[str, ...]:
    counts = {
        name: count
        for name, count in parts.first.counts.items()
        if count and parts.plan.dataset_of(name, parts.first).spec.finite
    }
    shares = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return _in_place(parts, f"{{{shares}}}", times)


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
    """Another generated source alone in place of the automata."""

    def settings(parts: Parts) -> tuple[str, ...]:
        ids = max(spec.num_ids() for spec in _generated(parts).values())
        own = f"sources.control_{name}={source.format(ids=ids)}"
        return (own, *_in_place(parts, f"{{control_{name}: 1}}"))

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
