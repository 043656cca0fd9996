"""What can be written and planned, but not trained or compiled yet: refused here, all of it.

    plan -> a located problem for every such key that the plan makes use of

A key leaves this list when its effect is built; nothing that is written is ever ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

from ncamix.errors import Problem, UserError
from ncamix.plan import Plan
from ncamix.sources import LeafSource
from ncamix.validation import in_order

Path = tuple[str | int, ...]


def refuse_untrained(plan: Plan) -> None:
    """Refuse what this version plans but neither trains nor compiles.

    Raises:
        UserError: the plan holds such keys; with every one of them.
    """
    problems = untrained(plan)
    if problems:
        raise UserError(in_order(problems))


def untrained(plan: Plan) -> list[Problem]:
    """What of a plan this version neither trains nor compiles, a problem each."""
    document = plan.curriculum.document
    problems: list[Problem] = []

    def bad(path: Path, what: str, remedy: str) -> None:
        what = f"{what} can be planned, but this version of ncamix cannot train or compile it yet"
        problems.append(document.problem(path, what, remedy))

    for name, spec in {source.name: source.spec for source in plan.sources.values()}.items():
        for path, what, remedy in _of_source(spec):
            bad(("sources", name, *path), what, remedy)
    return problems


def _of_source(spec: LeafSource) -> Iterator[tuple[Path, str, str]]:
    """(path below the source, what, remedy) of everything that is not trained yet."""
    if spec.loss_weight != 1:
        yield ("loss_weight",), "a loss weight other than 1", "remove it"
