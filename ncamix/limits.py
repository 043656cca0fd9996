"""What can be written and planned, but not trained or compiled yet: refused here, all of it.

    plan -> a located problem for every such key that the plan makes use of

A key leaves this list when its effect is built; nothing that is written is ever ignored.
"""

from __future__ import annotations

from collections.abc import Iterator

from ncamix.errors import Problem, UserError
from ncamix.plan import Plan
from ncamix.sources import CorpusSource, LeafSource, TextSource
from ncamix.validation import in_order

UNTRAINED_KINDS = ("pairs", "mds")
UNTRAINED_ENTER = {"freeze": "freeze", "from": "from_run"}  # key -> attribute

Path = tuple[str | int, ...]


def refuse_untrained(plan: Plan) -> None:
    """Refuse what this version plans but neither trains nor compiles.

    Raises:
        UserError: the plan holds such keys; with every one of them.
    """
    document = plan.curriculum.document
    problems: list[Problem] = []

    def bad(path: Path, what: str, remedy: str) -> None:
        what = f"{what} can be planned, but this version of ncamix cannot train or compile it yet"
        problems.append(document.problem(path, what, remedy))

    for source in plan.sources.values():
        for path, what, remedy in _of_source(source.spec):
            bad(("sources", source.name, *path), what, remedy)
    for stage in plan.stages:
        for key, attribute in UNTRAINED_ENTER.items():
            if getattr(stage.enter, attribute, None):
                bad(("stages", stage.index, "enter", key), f"`{key}`", "remove it")
        if stage.enter is not None and stage.enter.optimizer_state == "keep":
            path = ("stages", stage.index, "enter", "optimizer_state")
            bad(path, "keeping the optimizer's state", "write optimizer_state: fresh")
    if problems:
        raise UserError(in_order(problems))


def _of_source(spec: LeafSource) -> Iterator[tuple[Path, str, str]]:
    """(path below the source, what, remedy) of everything that is not trained yet."""
    if spec.kind in UNTRAINED_KINDS:
        yield ("kind",), f"the kind {spec.kind}", "leave it out of every mixture"
    if spec.loss_weight != 1:
        yield ("loss_weight",), "a loss weight other than 1", "remove it"
    if isinstance(spec, TextSource) and spec.attention == "document":
        yield ("attention",), "attention within documents", "write attention: whole"
    if isinstance(spec, TextSource) and spec.duplicates == "near":
        yield ("duplicates",), "dropping near duplicates", "write duplicates: drop"
    if isinstance(spec, CorpusSource) and spec.holdout and spec.holdout.by == "repository":
        yield ("holdout", "by"), "a holdout by repository", "write by: package, or by: document"
