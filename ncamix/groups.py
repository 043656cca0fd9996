"""Parameter groups: which parameters a curriculum means, by kind and by layer.

    embeddings | [embeddings, {attention: 0..11}] | {attention: 0..11, mlp: all} -> groups -> parts

Six groups partition the parameters of any model; `embeddings` is the first two of them. Layers
count from 0, and both ends of a range belong to it. A part is a group's share of one layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ncamix import forms
from ncamix.errors import nearest
from ncamix.quantities import Quantity, Refusals, quantity_of, refuse
from ncamix.reading import unknown_key

GROUPS = ("embedding", "head", "attention", "mlp", "norms", "final_norm")
LAYERED = ("attention", "mlp", "norms")
UNIONS = {"embeddings": ("embedding", "head")}
NAMES = (*GROUPS, *UNIONS)

Part = tuple[str, int | None]
"""A group and a layer of it, None where it has no layers."""

_WAY_OUT = "write embeddings, [embeddings, {attention: 0..11}] or {attention: 0..11, mlp: all}"
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Group:
    """A group of parameters, or its layers first to last, both included."""

    name: str
    layers: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name if self.layers is None else f"{self.name} {_range(*self.layers)}"


@dataclass(frozen=True)
class FrozenGroup(Group):
    """A group that is not trained: `until` so far into the stage, or all through it."""

    until: Quantity | None = None

    def __str__(self) -> str:
        return super().__str__() + (f" until {self.until}" if self.until else "")


AnyGroup = TypeVar("AnyGroup", bound=Group)


def parts(groups: Iterable[Group], num_layers: int) -> set[Part]:
    """What `groups` mean in a model of `num_layers` layers, which has every layer they name."""
    found: set[Part] = set()
    for group in groups:
        for name in _members(group):
            assert name in GROUPS
            if name not in LAYERED:
                found.add((name, None))
                continue
            first, last = group.layers or (0, num_layers - 1)
            assert last < num_layers, "refused when planned"
            found.update((name, layer) for layer in range(first, last + 1))
    return found


def all_parts(num_layers: int) -> set[Part]:
    """Every parameter of a model of `num_layers` layers."""
    return parts(map(Group, GROUPS), num_layers)


def covers_all(groups: Iterable[Group]) -> bool:
    """Whether `groups` hold every parameter of any model."""
    return {name for g in groups if g.layers is None for name in _members(g)} == set(GROUPS)


def parse_groups(written: Any) -> tuple[Group, ...]:
    """Read groups; raises PydanticCustomError with every problem found."""
    return _parse(written, lambda name, layers: Group(name, _layers(name, layers)))


def parse_frozen(written: Any) -> tuple[FrozenGroup, ...]:
    """Read groups that may end: `{attention: {layers: all, until: 20%}}`."""
    return _parse(written, _frozen)


def _parse(written: Any, read: Callable[[str, Any], AnyGroup]) -> tuple[AnyGroup, ...]:
    found: list[AnyGroup] = []
    refused = Refusals()
    for i, item in enumerate(written if isinstance(written, list) else [written]):
        above = (i,) if isinstance(written, list) else ()
        if not isinstance(item, str | dict):
            refused.add(above, "not a group of parameters", _WAY_OUT)
            continue
        for name, layers in [(item, "all")] if isinstance(item, str) else item.items():
            place = above if isinstance(item, str) else (*above, name)
            if name not in NAMES:
                refused.add(place, f"unknown group '{name}'", nearest(name, NAMES, "groups"))
                continue
            group = refused.attempt(place, read, name, layers)
            if group is None:
                continue
            if twin := next((other for other in found if _overlap(group, other)), None):
                refused.add(place, f"'{group}' and '{twin}' overlap", "name each parameter once")
            found.append(group)
    refused.stop()
    return tuple(found)


def _layers(name: str, written: Any) -> tuple[int, int] | None:
    if written == "all":
        return None
    if name not in LAYERED:
        raise refuse(f"'{name}' has no layers", f"write {name} alone: {_choices()} have layers")
    if isinstance(written, int) and not isinstance(written, bool) and written >= 0:
        return (written, written)
    match = _RANGE.fullmatch(written) if isinstance(written, str) else None
    if not match:
        raise refuse("these are no layers", "write 0..11 (ends included), 3 or all")
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise refuse(f"the layers {written} are reversed", f"write {_range(last, first)}")
    return (first, last)


def _frozen(name: str, written: Any) -> FrozenGroup:
    if not isinstance(written, dict):
        return FrozenGroup(name, _layers(name, written))
    refused, known = Refusals(), ("layers", "until")
    for key in written:
        if key not in known:
            refused.add((key,), *unknown_key(key, known))
    layers = refused.attempt(("layers",), _layers, name, written.get("layers", "all"))
    until = None
    if "until" in written:
        until = refused.attempt(("until",), _until, written["until"])
    refused.stop()
    return FrozenGroup(name, layers, until)


def _until(written: Any) -> Quantity:
    way_out = "20%, 1Mtok or 500ba"
    until = quantity_of(written, ("%", "tok", "ba"), way_out)
    if until.value <= 0 or (until.unit == "%" and until.value >= 100):
        raise refuse(
            "freezing ends within the stage",
            f"write {way_out}, or leave it out for the whole stage",
        )
    return until


def _members(group: Group) -> tuple[str, ...]:
    return UNIONS.get(group.name, (group.name,))


def _overlap(a: Group, b: Group) -> bool:
    if not set(_members(a)) & set(_members(b)):
        return False
    if a.layers is None or b.layers is None:
        return True
    return a.layers[0] <= b.layers[1] and b.layers[0] <= a.layers[1]


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}..{last}"


def _choices() -> str:
    return ", ".join(LAYERED)


def _form(layers: forms.Form, whole: forms.Form) -> forms.Form:
    name = forms.choice(*NAMES)
    named = forms.mapping({group: layers if group in LAYERED else whole for group in NAMES})
    return forms.either(name, named, {"type": "array", "items": forms.either(name, named)})


_ALL = forms.choice("all")
_LAYERS = forms.either(
    _ALL, {"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+\.\.\d+$"}
)
_UNTIL = forms.about(forms.quantity("%", "tok", "ba"), "Frozen so far into the stage.")
GROUPS_FORM = _form(_LAYERS, _ALL)
FROZEN_FORM = _form(
    forms.either(_LAYERS, forms.mapping({"layers": _LAYERS, "until": _UNTIL})),
    forms.either(_ALL, forms.mapping({"layers": _ALL, "until": _UNTIL})),
)
