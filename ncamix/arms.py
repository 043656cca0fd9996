"""Arms: all that a study compares, planned. Variants, controls, other lengths of either.

    Arm -> the settings of its runs, its amounts of tokens, what study.json says of it

Natural tokens are those of finite sources: text, pairs, datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ncamix.composition import Setting, parse_setting
from ncamix.controls import is_natural
from ncamix.errors import Problem, nearest
from ncamix.plan import Plan
from ncamix.quantities import format_fraction
from ncamix.study import Match
from ncamix.variants import LoadedStudy, applicable, named


@dataclass(frozen=True)
class Arm:
    """What is compared, and its plan, or the problems that keep it from having one.

    laid: settings over base and trainer, behind the study's own. written: its variant's name in the
    study; empty for a control or a point of the grid alone. control: its kind; beside: the arm that
    it stands beside; transition: whether it passes that one's. length: of its natural stages, of
    those of the arm `lengthened`. same_as: an arm before it whose plan is alike to the last batch.
    """

    name: str
    laid: tuple[Setting, ...]
    plan: Plan | None
    written: str = ""
    control: str | None = None
    beside: str | None = None
    transition: bool = True
    length: Fraction = Fraction(1)
    lengthened: str | None = None
    same_as: str | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def title(self) -> str:
        """What sort of arm it is, in words."""
        if self.lengthened is not None:
            return f"{format_fraction(self.length)}x of {self.lengthened}"
        if self.control is None:
            return "variant"
        without = "" if self.transition else ", no transition"
        return f"control of {self.beside}{without}"


def laid_in(arm: Arm, seed: int, point: Sequence[Setting]) -> tuple[Setting, ...]:
    """All settings of a run behind the study's own. Those of the point that are about a stage or
    a source which the arm lacks are left out."""
    assert arm.plan is not None
    at = applicable(point, arm.plan.curriculum.curriculum)
    return (*arm.laid, *at, parse_setting(f"seed={seed}"))


def problems_of(arms: Sequence[Arm]) -> list[Problem]:
    """What keeps arms from being planned, each problem once, saying which have it."""
    return named({arm.name: arm.problems for arm in arms})


def check_compared(loaded: LoadedStudy, arms: Sequence[Arm]) -> list[Problem]:
    """What `compare` names that is no arm of the study."""
    compare = loaded.study.compare
    if compare is None:
        return []
    names = [arm.name for arm in arms]
    asked: list[tuple[tuple[str | int, ...], str]] = [
        (("compare", "primary", i), name) for i, name in enumerate(compare.primary)
    ]
    if compare.against is not None:
        asked.append((("compare", "against"), compare.against))
    if compare.speedup is not None:
        asked.append((("compare", "speedup", "to"), compare.speedup.to))
        of = enumerate(compare.speedup.of)
        asked += [(("compare", "speedup", "of", i), name) for i, name in of]
    return [
        loaded.document.problem(where, f"no arm is named '{name}'", nearest(name, names, "arms"))
        for where, name in asked
        if name not in names
    ]


def against(loaded: LoadedStudy, arms: Sequence[Arm]) -> str | None:
    """The arm that variants are compared with: as written, else the control from scratch with
    equal natural tokens, else a variant of natural text alone."""
    compare = loaded.study.compare
    if compare is not None and compare.against is not None:
        return compare.against
    from_scratch = [a.name for a in arms if a.control == "scratch_natural" and a.transition]
    natural = [a.name for a in arms if a.written and a.plan and is_natural(a.plan)]
    return next(iter(from_scratch + natural), None)


def amount(plan: Plan, match: Match) -> int:
    """Natural tokens, tokens or optimizer steps of a plan."""
    if match == "steps":
        return sum(stage.num_batches for stage in plan.stages)
    sources = plan.curriculum.curriculum.sources
    return sum(
        count for name, count in tokens_of(plan).items() if match == "total" or sources[name].finite
    )


def tokens_of(plan: Plan) -> dict[str, int]:
    """Tokens of each source over a run."""
    tokens = {source.name: 0 for source in plan.sources.values()}
    for stage in plan.stages:
        for name, count in stage.counts.items():
            tokens[name] += count * stage.sequence_length
    return tokens


def arm_json(arm: Arm) -> dict[str, Any]:
    """An arm as plain JSON."""
    facts: dict[str, Any] = {
        "settings": [str(setting) for setting in arm.laid],
        "written": arm.written,
        "control": arm.control,
        "beside": arm.beside,
        "transition": arm.transition,
        "length": float(arm.length),
        "lengthened": arm.lengthened,
        "same_as": arm.same_as,
    }
    plan = arm.plan
    if plan is None:
        return {**facts, "problems": [str(problem) for problem in arm.problems]}
    return {
        **facts,
        "fingerprint": plan.fingerprint,
        "budget": int(plan.trainer.trainer.budget.value),
        "num_tokens": plan.num_tokens,
        "num_steps": amount(plan, "steps"),
        "natural_tokens": amount(plan, "natural"),
        "rows": plan.vocabulary.rows,
        "tokens": tokens_of(plan),
        "warnings": list(plan.warnings),
    }


def study_json(loaded: LoadedStudy, arms: Sequence[Arm]) -> dict[str, Any]:
    """A study and its arms as plain JSON: what is compared, and how."""
    return {**study_facts(loaded, arms), "arms": {arm.name: arm_json(arm) for arm in arms}}


def study_facts(loaded: LoadedStudy, arms: Sequence[Arm]) -> Mapping[str, Any]:
    """What a study says of all its arms, as plain JSON."""
    study = loaded.study
    base, trainer = loaded.names
    tune, compare = study.tune, study.compare
    return {
        "ncamix": 1,
        "name": study.name,
        "file": loaded.document.file,
        "base": base,
        "trainer": trainer,
        "settings": [str(setting) for setting in loaded.settings],
        "seeds": list(study.seeds),
        "tuning": tune
        and {
            "seeds": list(tune.seeds),
            "metric": str(compare.metric) if compare else None,
            "points": {n: [str(s) for s in p] for n, p in loaded.tuning_points().items()},
        },
        "compare": compare
        and {
            "primary": list(compare.primary),
            "metric": str(compare.metric),
            "smallest_effect": float(compare.smallest_effect),
            "confidence": compare.confidence,
            "power": compare.power,
            "against": against(loaded, arms),
            "speedup": compare.speedup
            and {
                "to": compare.speedup.to,
                "of": list(compare.speedup.of),
                "lengths": [float(length) for length in compare.speedup.lengths],
            },
        },
    }
