"""Plans by name: files that are given for what they are not."""

from __future__ import annotations

from pathlib import Path

from plan_files import problem

from ncamix.library import shipped
from ncamix.plans import find_study, plans_named
from ncamix.waiting import quiet


def test_a_trainer_is_no_curriculum_and_a_curriculum_no_trainer() -> None:
    trainer = str(shipped("trainers") / "cpu.yaml")
    curriculum = str(shipped("curricula") / "code_target.yaml")
    found = problem(plans_named, [trainer], None, (), quiet)
    assert found.what == f"'{trainer}' is a trainer, and this takes a curriculum"
    assert f"--trainer {trainer}" in found.remedy
    found = problem(plans_named, [curriculum], curriculum, (), quiet)
    assert found.what == f"--trainer {curriculum} names a curriculum, and takes a trainer"


def test_nothing_but_a_study_is_studied_and_no_study_is_planned_or_extended(tmp_path: Path) -> None:
    study, more = tmp_path / "study.yaml", tmp_path / "more.yaml"
    study.write_text("ncamix: 1\nname: study\nbase: code_target\ntrainer: cpu\n")
    more.write_text(f"ncamix: 1\nname: more\nextends: {study}\n")
    assert find_study(str(study)) == study
    for name, sort, role in (("code_target", "curriculum", "base"), ("cpu", "trainer", "trainer")):
        found = problem(find_study, name)
        assert found.what == f"'{name}' is a {sort}, and this takes a study"
        assert f"as its {role}" in found.remedy
    found = problem(plans_named, [str(study)], None, (), quiet)
    assert found.what == f"'{study}' is a study, and this takes a curriculum"
    found = problem(plans_named, ["code_target"], str(study), (), quiet)
    assert found.what == f"--trainer {study} names a study, and takes a trainer"
    found = problem(plans_named, [str(more)], None, (), quiet)
    assert (found.line, found.what) == (3, f"'{study}' is a study, and this takes a curriculum")
