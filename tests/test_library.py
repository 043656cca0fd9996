"""The library: how a name becomes a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_files import problem

from ncamix.library import choose_trainer, find, has_gpu, shipped


def test_files_win_over_names_and_own_ones_over_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("curricula", "code_target") == shipped("curricula") / "code_target.yaml"
    assert find("trainers", "trainers/cpu.yaml") == shipped("trainers") / "cpu.yaml"
    (tmp_path / "curricula").mkdir()
    for name in ("curricula/code_target.yaml", "code_target"):
        Path(name).write_text("")
        assert find("curricula", "code_target") == Path(name)


def test_names_in_a_file_are_seen_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "inner"
    inner.mkdir()
    for path in (tmp_path / "base.yaml", inner / "base.yaml", inner / "cpu.yaml"):
        path.write_text("")
    assert find("curricula", "base.yaml", inner) == inner / "base.yaml"
    assert find("curricula", "base", inner) == inner / "base.yaml"
    assert find("curricula", "../base.yaml", inner).samefile(tmp_path / "base.yaml")
    assert find("trainers", "cpu", inner) == inner / "cpu.yaml"
    assert find("trainers", "gpu", inner) == shipped("trainers") / "gpu.yaml"
    monkeypatch.setenv("HOME", str(inner))
    assert find("curricula", "~/base.yaml", tmp_path) == inner / "base.yaml"
    found = problem(find, "curricula", "bsae", inner)
    assert found.what == "no such curriculum: 'bsae'"
    assert "did you mean 'base'?" in found.remedy


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text("")
    remedy = problem(find, "curricula", "frist.yaml").remedy
    assert remedy.startswith(f"looked in {tmp_path}, did you mean 'first.yaml'?")
    assert "known ones: code_target" in remedy and remedy.count("did you mean") == 1
    remedy = problem(find, "trainers", "gone/cpu.yaml").remedy
    assert remedy.startswith(f"there is no folder {tmp_path / 'gone'}; ")


def test_a_trainer_is_chosen_by_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncamix.library.has_gpu", lambda: True)
    assert choose_trainer(None)[0].stem == "gpu"
    monkeypatch.setattr("ncamix.library.has_gpu", lambda: False)
    assert choose_trainer(None)[0].stem == "cpu"
    assert choose_trainer("gpu")[1] == "trainer gpu, as asked"


def test_a_hidden_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_gpu()


def test_what_is_no_file_is_told_from_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = problem(find, "curricula", "/dev/null")
    assert found.what == "'/dev/null' is no ordinary file, and a curriculum is a YAML file"
    folder = tmp_path / "folder"
    folder.mkdir()
    found = problem(find, "trainers", "folder")
    assert found.what == "'folder' is a folder, and a trainer is a YAML file"
    assert "name a file" in found.remedy
    for name in ("curriculum.yaml", "trainer.yaml"):
        (folder / name).write_text("")
    assert "files there: folder/curriculum.yaml" in problem(find, "curricula", "folder").remedy
    (folder / "plan.json").write_text("")
    run = problem(find, "curricula", "folder").remedy
    assert run == "this is the folder of a run; its curriculum is folder/curriculum.yaml"
    (folder / "plan.json").write_text('{"curriculum_file": "a.yaml", "trainer": {"file": "b"}}')
    assert "started with a.yaml: name that" in problem(find, "curricula", "folder").remedy
    assert "started with b: name that" in problem(find, "trainers", "folder").remedy
