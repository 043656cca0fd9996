"""The plans of a study: one for every arm, with models of one size.

variants -> plans, matched to the base where they say so
  -> controls beside one of them -> lengths of those whose speed-up is asked for -> arms
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

from ncamix.arms import Arm, amount, laid_in
from ncamix.composition import Setting, parse_setting
from ncamix.controls import (
    Impossible,
    Uncut,
    control_settings,
    cut,
    has_transition,
    is_natural,
    length_settings,
)
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.quantities import Quantity, format_count, format_fraction
from ncamix.study import Controls
from ncamix.trainer import LoadedTrainer
from ncamix.variants import LoadedStudy, Variant, variants_of
from ncamix.waiting import Say, quiet

TRIES = 8  # of matching; one is enough where every duration is a share of the budget
FROM_SCRATCH = ("scratch_natural", "scratch_total")  # controls that are there without being asked
PLAIN = "_plain"  # ends the name of a control without the transition


def plan_study(loaded: LoadedStudy, say: Say = quiet) -> list[Arm]:
    """Plan every arm of a study under its trainer, each with the seed of the base.

    All get as many rows of vocabulary as the one that needs most, so that models are of one size,
    and are evaluated at the same intervals in tokens.
    """
    planner = _Planner(loaded, say)
    arms = [planner.variant(variant) for variant in variants_of(loaded).values()]
    arms += planner.controls(arms)
    arms += planner.lengths(arms)
    rows = max((arm.plan.vocabulary.rows for arm in arms if arm.plan), default=0)
    found: list[Arm] = []
    first: dict[str, str] = {}
    for arm in arms:
        if arm.plan and arm.plan.vocabulary.rows < rows:
            laid = (*arm.laid, parse_setting(f"vocabulary.rows={rows}"))
            arm = replace(arm, laid=laid, plan=planner.plan(laid))
        if arm.plan:
            same = first.setdefault(arm.plan.fingerprint, arm.name)
            arm = replace(arm, same_as=same if same != arm.name else None)
        found.append(arm)
    return found


def planned_run(
    loaded: LoadedStudy, arm: Arm, seed: int, point: Sequence[Setting], say: Say = quiet
) -> Plan:
    """The plan of a run: of an arm with a seed, at a point of the tuning. Raises UserError."""
    return make_plan(*loaded.load(laid_in(arm, seed, point)), say)


class _Planner:
    """Plans arms, one after the other."""

    def __init__(self, loaded: LoadedStudy, say: Say) -> None:
        self.loaded, self.study, self.say = loaded, loaded.study, say
        self.every: tuple[Setting, ...] = ()
        self._matches: dict[tuple[str, ...], Plan] = {}
        with suppress(UserError):  # a base that cannot be planned may have variants that can
            base = self._base(())
            every = base.curriculum.curriculum.evaluate.every
            if every.unit == "%":
                tokens = max(1, round(every.value / 100 * base.num_tokens))
                self.every = (parse_setting(f"evaluate.every={tokens}tok"),)
                self._matches.clear()

    def plan(self, laid: Iterable[Setting]) -> Plan:
        return make_plan(*self.loaded.load(laid), self.say)

    def _base(self, point: tuple[Setting, ...]) -> Plan:
        """The base at a point of the grid."""
        key = tuple(map(str, point))
        if key not in self._matches:
            self._matches[key] = self.plan((*self.every, *point))
        return self._matches[key]

    def variant(self, variant: Variant) -> Arm:
        """A variant's arm."""
        self.say(f"planning {variant.name}", 0.0)
        laid = (*self.every, *variant.settings)
        try:
            plan = self.plan(laid)
            if variant.match is not None:
                target = amount(self._base(variant.point), variant.match)
                budget = self._budget(plan, variant, target)
                if budget is not None:
                    laid = (*laid, parse_setting(f"trainer.budget={budget}tok"))
                    plan = self.plan(laid)
        except UserError as error:
            return Arm(variant.name, laid, None, variant.written, problems=tuple(error.problems))
        return Arm(variant.name, laid, plan, variant.written)

    def controls(self, arms: Sequence[Arm]) -> list[Arm]:
        """The controls beside variants, at every point of the grid."""
        asked = self.study.controls
        chosen = asked if asked is not None else self._usual(arms)
        written = {arm.written for arm in arms}
        beside = chosen.beside or self._first(arms)
        made: list[Arm] = []
        taken = {arm.name for arm in arms}
        for arm in arms:
            if arm.plan is None or (arm.written != beside and arm.name != beside and any(written)):
                continue
            at = arm.name.removeprefix(arm.written).removeprefix(",")
            for i, kind in enumerate(chosen.use):
                made += self._control(kind, arm, at, chosen, i, taken)
        return made

    def _where(self, kind: int, error: Impossible) -> tuple[str | int, ...]:
        """Where a study writes what makes a control, the `kind`-th one, impossible."""
        written = self.loaded.document.tree.plain().get("controls")
        if written is None:
            return ()
        where: tuple[str | int, ...] = ("controls",)
        if isinstance(error, Uncut):
            where += () if error.stage is None else ("stage", error.stage)
        else:
            where += ("use", kind) if isinstance(written, dict) else (kind,)
        return where

    def _first(self, arms: Sequence[Arm]) -> str:
        """The variant that controls stand beside where none is named: the first of the primary
        comparison that has automata, or the first one that has."""
        compare = self.study.compare
        order = [*(compare.primary if compare else ()), *(arm.name for arm in arms)]
        plans = {arm.name: arm for arm in arms}
        for name in order:
            arm = plans.get(name)
            if arm is not None and arm.plan is not None and not is_natural(arm.plan):
                return arm.written or arm.name
        return order[0]

    def _usual(self, arms: Sequence[Arm]) -> Controls:
        """The controls of a study that says nothing of them: none where a variant is one."""
        if any(arm.plan is None or is_natural(arm.plan) for arm in arms):
            return Controls(())
        try:
            for arm in arms:
                assert arm.plan is not None
                cut(arm.plan)
        except Impossible:
            return Controls(())
        return Controls(FROM_SCRATCH)

    def _control(
        self,
        kind: str,
        arm: Arm,
        at: str,
        chosen: Controls,
        number: int,
        taken: set[str],
    ) -> list[Arm]:
        """A control beside an arm, with the arm's transition and without it. number: its place in
        `use`."""
        assert arm.plan is not None
        found: list[Arm] = []
        for transition in (True, False) if chosen.both else (True,):
            own = kind if transition else kind + PLAIN
            name = f"{own},{at}" if at else own
            item = Arm(name, arm.laid, None, "", kind, arm.name, transition)
            try:
                if name in taken:
                    raise Impossible(
                        f"a variant is named '{name}', as this control would be",
                        f"rename the variant, or take {kind} out of `controls`",
                    )
                parts = cut(arm.plan, chosen.stages)
                if not transition and not has_transition(parts):
                    continue
                settings = control_settings(kind, parts, transition)
                laid = (*arm.laid, *map(parse_setting, settings))
                item = replace(item, laid=laid, plan=self.plan(laid))
            except Impossible as error:
                where = self._where(number, error)
                found_here = self.loaded.document.problem(where, error.what, error.remedy)
                item = replace(item, problems=(found_here,))
            except UserError as error:
                item = replace(item, problems=tuple(error.problems))
            found.append(item)
        return found

    def lengths(self, arms: Sequence[Arm]) -> list[Arm]:
        """The arms of other lengths that a speed-up is told by."""
        compare = self.study.compare
        wanted = compare.speedup if compare is not None else None
        if wanted is None:
            return []
        known = {arm.name: arm for arm in arms}
        found = []
        for i, name in enumerate(wanted.of):
            arm = known.get(name)
            if arm is None or arm.plan is None:
                continue
            before = self._before(known.get(arm.beside or name, arm))
            for length in wanted.lengths:
                if length != 1:
                    where = ("compare", "speedup", "of", i)
                    found.append(self._lengthened(arm, length, before, where))
        return found

    def _before(self, arm: Arm) -> tuple[str, ...]:
        """The pre-pre-training stages of an arm that is no control, if it has some."""
        with suppress(Impossible):
            if arm.plan is not None:
                stages = self.study.controls.stages if self.study.controls else ()
                return tuple(stage.name for stage in cut(arm.plan, stages).before)
        return ()

    def _lengthened(
        self, arm: Arm, length: Fraction, before: Sequence[str], where: tuple[str | int, ...]
    ) -> Arm:
        """An arm at another length; `before` stays as it is."""
        assert arm.plan is not None
        item = replace(
            arm,
            name=f"{arm.name},length={format_fraction(length)}x",
            plan=None,
            written="",
            length=length,
            lengthened=arm.name,
        )
        try:
            settings = length_settings(arm.plan, length, before)
            laid = (*arm.laid, *map(parse_setting, settings))
            return replace(item, laid=laid, plan=self.plan(laid))
        except Impossible as error:
            found = self.loaded.document.problem(where, error.what, error.remedy)
            return replace(item, problems=(found,))
        except UserError as error:
            return replace(item, problems=tuple(error.problems))

    def _budget(self, plan: Plan, variant: Variant, target: int) -> int | None:
        """Another budget with which a plan has the base's amount to within a batch; None if it has
        it already."""
        match = variant.match
        assert match is not None
        budget = None
        for _ in range(TRIES):
            found = amount(plan, match)
            batch = max(stage.batch_size * stage.sequence_length for stage in plan.stages)
            if abs(found - target) < (1 if match == "steps" else batch):
                return budget
            if not found:
                break
            aim = target + (Fraction(1, 2) if match == "steps" else 0)  # in the middle of a step
            budget = max(1, round(plan.trainer.trainer.budget.value * aim / found))
            plan = make_plan(plan.curriculum, _with_budget(plan.trainer, budget), self.say)
        where = ("variants", variant.written, "match")
        what = {"natural": "natural tokens", "total": "tokens", "steps": "optimizer steps"}[match]
        raise UserError(
            self.loaded.document.problem(
                where,
                f"no budget gives the base's {format_count(target)} {what}; "
                f"this one has {format_count(amount(plan, match))}",
                "let a stage with text say `rest`, or write its durations as shares",
            )
        )


def _with_budget(loaded: LoadedTrainer, tokens: int) -> LoadedTrainer:
    budget = Quantity(Fraction(tokens), "tok")
    return replace(loaded, trainer=loaded.trainer.model_copy(update={"budget": budget}))
