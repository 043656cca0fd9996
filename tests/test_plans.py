"""Plans by name: files that are given for what they are not."""

from __future__ import annotations

from plan_files import problem

from ncamix.library import shipped
from ncamix.plans import plans_named
from ncamix.waiting import quiet


def test_a_trainer_is_no_curriculum_and_a_curriculum_no_trainer() -> None:
    trainer = str(shipped("trainers") / "cpu.yaml")
    curriculum = str(shipped("curricula") / "code_target.yaml")
    found = problem(plans_named, [trainer], None, (), quiet)
    assert found.what == f"'{trainer}' is a trainer, and this takes a curriculum"
    assert f"--trainer {trainer}" in found.remedy
    found = problem(plans_named, [curriculum], curriculum, (), quiet)
    assert found.what == f"--trainer {curriculum} names a curriculum, and takes a trainer"
