"""The command line: bad input ends with status 2, one message, no traceback and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from plan_files import SOURCES, TRAINER, curriculum, stage

from ncamix.cli import main

Run = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "numba", "streaming", "composer", "transformers", "matplotlib", "scipy")
GOOD = curriculum(stage("{hiss: 1}"))


@pytest.fixture
def ncamix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command line in a folder that holds good.yaml and small.yaml."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "good.yaml").write_text(GOOD)
    (folder / "small.yaml").write_text(TRAINER)
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ncamix", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def tree() -> dict[str, bytes]:
    """Every file below the working folder, and its content."""
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in Path().rglob("*")}


def refused(ncamix: Run, text: str, *arguments: str) -> str:
    """The message that a curriculum is refused with; nothing else may have happened."""
    Path("bad.yaml").write_text(text)
    before = tree()
    status, out, err = ncamix(*(arguments or ("plan", "bad.yaml", "-t", "small.yaml")))
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    assert tree() == before
    assert all(line.startswith(("ncamix: ", "    ")) for line in err.splitlines())
    return err


BAD = {
    "syntax": (GOOD + "a: [1, 2\n", "bad.yaml:11:1: not valid YAML"),
    "unknown key": (GOOD + "sed: 1\n", "bad.yaml:10:6: sed: unknown key 'sed'"),
    "duplicate key": (GOOD + "name: x\n", "bad.yaml:10:1: the key 'name' stands twice"),
    "no version": ("name: a\n", "bad.yaml:1:1: the language version is missing"),
    "unknown version": ("ncamix: 7\n", "bad.yaml:1:9: ncamix: unknown language version"),
    "band above 1": (
        curriculum(stage("{rich: 1}"), SOURCES.replace("1.00", "1.01")),
        "bad.yaml:5:42: sources.rich.band.gzip: the band [0.5, 1.01) does not lie between 0 and 1",
    ),
    "reversed band": (
        curriculum(stage("{rich: 1}"), SOURCES.replace("[0.50, 1.00]", "[1.00, 0.50]")),
        "sources.rich.band.gzip: the band [1, 0.5) is reversed",
    ),
    "unreachable band": (
        curriculum(stage("{binary: 1}"), SOURCES.replace("[0.10, 0.30]", "[0.80, 0.90]")),
        "sources.binary.band: no rule with 2 states reaches the band gzip 0.80-0.90",
    ),
    "unknown source": (
        curriculum(stage("{hass: 1}")),
        "stages.one.mixture.hass: unknown source 'hass'\n"
        "    - {name: one, duration: rest, mixture: {hass: 1}}\n"
        "                                            ^^^^^^^\n"
        "    did you mean 'hiss'?",
    ),
    "missing file": (
        curriculum(
            stage("{code: 1}"),
            "  code: {kind: text, files: [gone.txt]}\n",
            "tokenizer: bytes\n",
        ),
        "bad.yaml:5:22: sources.code.files: no file matches 'gone.txt'",
    ),
    "small budget": (
        curriculum(stage("{hiss: 1}", "0.1%") + stage("{hiss: 1}", name="two")),
        "stages.one.duration: this stage gets 25.6 tokens, less than one batch of 4 x 64",
    ),
    "not text": ("ncamix: 1\nname: \ud800\n", "not UTF-8 text"),
}


@pytest.mark.parametrize("command", ["plan", "run", "compile"])
@pytest.mark.parametrize("case", BAD)
def test_bad_curricula_are_refused_before_anything(ncamix: Run, case: str, command: str) -> None:
    text, message = BAD[case]
    out = ["--out", "there"] if command == "compile" else []
    if case == "not text":
        Path("bad.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        status, _, err = ncamix(command, "bad.yaml", "-t", "small.yaml", *out)
        assert status == 2
    else:
        err = refused(ncamix, text, command, "bad.yaml", "-t", "small.yaml", *out)
    assert message in err


def test_names_that_mean_nothing(ncamix: Run) -> None:
    err = refused(ncamix, GOOD, "plan", "code_targt")
    assert err.startswith(
        "ncamix: no such curriculum: 'code_targt'\n    did you mean 'code_target'?"
    )
    assert "no such trainer: 'cpuu'" in refused(ncamix, GOOD, "plan", "good.yaml", "-t", "cpuu")
    assert "no such curriculum" in refused(ncamix, GOOD, "run", "gone/c.yaml")
    assert "no such curriculum" in refused(ncamix, GOOD, "plan", "x" * 5000)
    assert "no such curriculum" in refused(ncamix, GOOD, "plan", "")


def test_mistakes_of_both_files_are_reported_at_once(ncamix: Run) -> None:
    Path("wrong.yaml").write_text(TRAINER.replace("layers: 1", "layers: x"))
    err = refused(ncamix, GOOD + "sed: 1\n", "plan", "bad.yaml", "-t", "wrong.yaml")
    assert "bad.yaml:10:6: sed:" in err
    assert "wrong.yaml:3:30: model.layers: not a number" in err


def test_a_good_plan_and_its_json(ncamix: Run) -> None:
    before = tree()
    status, out, err = ncamix("plan", "good.yaml", "-t", "small.yaml")
    assert (status, err) == (0, "")
    assert "25,600" in out
    status, out, err = ncamix("plan", "good.yaml", "-t", "small.yaml", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["stages"][0]["counts"] == {"hiss": 400}
    assert tree() == before


@pytest.mark.parametrize("command", ["plan", "run", "compile"])
def test_settings_are_refused_before_anything(ncamix: Run, command: str) -> None:
    out = ["--out", "there"] if command == "compile" else []
    settings = ["--set", "stages.oen.duration=5%", "--set", "trainer.budgte=1", "--set", "x"]
    arguments = (command, "good.yaml", "-t", "small.yaml", *settings, *out)
    err = refused(ncamix, GOOD, *arguments)
    assert "--set: stages.oen: there is no stage 'oen'\n    stages.oen.duration=5%\n" in err
    assert "did you mean 'one'?" in err
    assert "--set: budgte: unknown key 'budgte'\n    trainer.budgte=1\n" in err
    assert err.count("a setting is PATH=VALUE") == 1


def test_a_plan_with_settings(ncamix: Run) -> None:
    settings = ("--set", "trainer.budget=51200tok", "--set", "stages.one.mixture={rich: 1}")
    status, out, err = ncamix("plan", "good.yaml", "-t", "small.yaml", *settings, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["stages"][0]["counts"] == {"rich": 800}


def test_a_plan_and_its_picture(ncamix: Run) -> None:
    arguments = ("plan", "good.yaml", "-t", "small.yaml", "--plot", "plan.png")
    status, out, err = ncamix(*arguments)
    assert (status, err) == (0, "") and out.endswith("wrote plan.png\n")
    assert Path("plan.png").read_bytes().startswith(b"\x89PNG")
    status, out, err = ncamix(*arguments, "--json")
    assert (status, err) == (0, "") and json.loads(out)["name"] == "tried"


def test_two_plans_compared(ncamix: Run) -> None:
    Path("other.yaml").write_text(GOOD.replace("hiss: 1", "simple: 1"))
    before = tree()
    status, out, err = ncamix("plan", "good.yaml", "other.yaml", "-t", "small.yaml")
    assert (status, err) == (0, "") and "different from the first token on" in out
    status, out, err = ncamix("plan", "good.yaml", "other.yaml", "-t", "small.yaml", "--json")
    assert (status, err) == (0, "") and json.loads(out)["same_until"]["token"] == 0
    status, out, err = ncamix("plan", "good.yaml", "good.yaml", "-t", "small.yaml")
    assert status == 0 and "the two plans are the same" in out
    assert tree() == before


def test_mistakes_of_both_curricula_are_reported_at_once(ncamix: Run) -> None:
    Path("other.yaml").write_text(GOOD.replace("hiss: 1", "hass: 1"))
    arguments = ("plan", "bad.yaml", "other.yaml", "-t", "small.yaml")
    err = refused(ncamix, GOOD + "sed: 1\n", *arguments)
    assert "bad.yaml:10:6: sed:" in err and "unknown source 'hass'" in err
    err = refused(ncamix, GOOD, "plan", "gone", "lost", "-t", "small.yaml")
    assert "no such curriculum: 'gone'" in err and "no such curriculum: 'lost'" in err
    arguments = ("plan", "good.yaml", "good.yaml", "-t", "small.yaml", "--plot", "plan.png")
    assert "--plot draws one curriculum" in refused(ncamix, GOOD, *arguments)


STUDY = """\
ncamix: 1
name: orders
base: good.yaml
trainer: small.yaml
seeds: [1, 2]
tune: {stages.one.optimizer.lr.peak: [0.5x, 1x, 2x], seeds: [9]}
variants: {plain: {}, rich: {stages.one.mixture: {rich: 1}}}
compare: {primary: [plain, rich], metric: loss/hiss, smallest_effect: 0.01}
"""
EVALUATED = GOOD + "evaluate: {sources: [hiss]}\n"


def write_study(text: str = STUDY) -> None:
    Path("study.yaml").write_text(text)
    Path("good.yaml").write_text(EVALUATED)


def test_a_study_is_planned(ncamix: Run) -> None:
    write_study()
    before = tree()
    status, out, err = ncamix("plan", "study.yaml")
    assert (status, err) == (0, "")
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0] == "orders: variants of good under trainer small"
    assert lines[2].split() == ["plain", "variant", "25,600", "100", "hiss", "25,600"]
    assert lines[3].split() == ["rich", "variant", "25,600", "100", "rich", "25,600"]
    assert "4 runs with 2 seeds: 102k tokens" in lines
    assert "before that, 6 runs to tune 3 settings of every arm, on validation" in lines
    assert "compares plain with rich by loss/hiss; 0.01 would matter" in lines
    assert "no arm trains on natural sources alone" in out
    status, out, err = ncamix("plan", "study.yaml", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["arms"]["rich"]["tokens"] == {"hiss": 0, "rich": 25_600}
    assert tree() == before


def test_a_study_under_another_trainer_and_with_settings(ncamix: Run) -> None:
    write_study(STUDY.replace("small.yaml", "gone.yaml"))
    Path("other.yaml").write_text(TRAINER.replace("25600tok", "51200tok"))
    settings = ("--set", "trainer.batch_size=8", "--set", "stages.one.mixture={simple: 1}")
    status, out, err = ncamix("plan", "study.yaml", "-t", "other.yaml", *settings, "--json")
    assert (status, err) == (0, "")
    made = json.loads(out)["arms"]
    assert {name: (v["num_steps"], v["tokens"].get("rich")) for name, v in made.items()} == {
        "plain": (100, None),
        "rich": (100, 51_200),  # a variant's settings are laid over those of the command line
    }
    arguments = ("plan", "study.yaml", "-t", "gone", "--set", "stages.oen.duration=5%")
    assert "no such trainer: 'gone'" in refused(ncamix, GOOD, *arguments)
    arguments = ("plan", "study.yaml", "-t", "other.yaml", "--set", "stages.oen.duration=5%")
    assert "--set: stages.oen: there is no stage 'oen'" in refused(ncamix, GOOD, *arguments)


def test_mistakes_of_a_study_are_reported_at_once(ncamix: Run) -> None:
    write_study(STUDY.replace("seeds: [1, 2]", "seeds: [1, x]").replace("[plain, ", "[plan, "))
    err = refused(ncamix, GOOD, "plan", "study.yaml")
    assert "study.yaml:5:12: seeds.1: 'x' is not a seed" in err
    write_study(STUDY.replace("one.mixture", "oen.mixture").replace("loss/hiss", "loss/rich"))
    err = refused(ncamix, GOOD, "plan", "study.yaml")
    assert "stages.oen: in the arm 'rich': there is no stage 'oen'" in err
    assert "compare.metric: in the arm 'plain': 'rich' is not evaluated" in err


def test_variants_that_cannot_be_planned_are_located_below_the_others(ncamix: Run) -> None:
    write_study(STUDY.replace("plain: {}", "plain: {}, long: {stages.one.duration: 5%}"))
    status, out, err = ncamix("plan", "study.yaml")
    assert status == 2 and "Traceback" not in err
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["plain", "long", "rich"]
    assert err.startswith("ncamix: study.yaml:7:")
    assert "stages.one.duration: in the arm 'long': the durations add up to" in err
    status, out, err = ncamix("plan", "study.yaml", "--json")
    assert status == 2
    made = json.loads(out)["arms"]
    assert "num_tokens" in made["plain"] and "num_tokens" not in made["long"]
    assert "add up to" in made["long"]["problems"][0]


def test_what_takes_a_curriculum_takes_no_study(ncamix: Run) -> None:
    write_study()
    err = refused(ncamix, GOOD, "plan", "study.yaml", "--plot", "plan.png")
    assert "--plot draws one curriculum, and this is a study" in err
    for arguments in (
        ("plan", "good.yaml", "study.yaml"),
        ("plan", "study.yaml", "good.yaml"),
        ("run", "study.yaml"),
        ("compile", "study.yaml", "--out", "there"),
        ("batch", "study.yaml"),
    ):
        err = refused(ncamix, GOOD, *arguments, "-t", "small.yaml")
        assert "'study.yaml' is a study, and this takes a curriculum" in err
        assert err.count("ncamix: ") == 1


@pytest.mark.parametrize("command", ["plan", "run", "compile", "batch", "show"])
def test_every_command_that_plans_takes_settings(ncamix: Run, command: str) -> None:
    out = ["--out", "there"] if command in ("compile", "show") else []
    arguments = (command, "good.yaml", "--set", "stages.oen.duration=5%", *out)
    assert "there is no stage 'oen'" in refused(ncamix, GOOD, *arguments)


def test_wrong_usage(ncamix: Run) -> None:
    for arguments in (("plan",), ("plan", "good.yaml", "--jsn"), ("pla",)):
        status, _, err = ncamix(*arguments)
        assert status == 2
        assert "Traceback" not in err


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("case", ["syntax", "unknown source", "unreachable band"])
def test_the_process_ends_with_status_2(tmp_path: Path, case: str) -> None:
    (tmp_path / "bad.yaml").write_text(BAD[case][0])
    before = sorted(tmp_path.rglob("*"))
    ended = python("-m", "ncamix", "run", "bad.yaml", "-t", "cpu", folder=tmp_path)
    assert ended.returncode == 2
    assert BAD[case][1].split("bad.yaml:")[-1] in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_corpus_is_found_before_training(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(" \n" * 20_000)
    sources = "  code: {kind: text, files: ['*.txt'], repeat: free}\n"
    (tmp_path / "bad.yaml").write_text(
        curriculum(stage("{code: 1}"), sources, "tokenizer: bytes\n")
    )
    (tmp_path / "small.yaml").write_text(TRAINER)
    before = sorted(tmp_path.rglob("*"))
    ended = python("-m", "ncamix", "run", "bad.yaml", "-t", "small.yaml", folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "no document" in ended.stderr or "empty" in ended.stderr
    left = [p for p in sorted(tmp_path.rglob("*")) if p not in before and "cache" not in p.parts]
    assert left == []


@pytest.mark.parametrize("command", [["run"], ["compile"]])
def test_an_output_folder_that_cannot_be_written(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "small.yaml").write_text(TRAINER)
    (tmp_path / "file").write_text("in the way")
    before = sorted(tmp_path.rglob("*"))
    arguments = ("good.yaml", "-t", "small.yaml", "--out", "file/below")
    ended = python("-m", "ncamix", *command, *arguments, folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert "file/below" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_planning_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['ncamix', 'plan', 'code_target', '--json']\n"
        "from ncamix.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    ended = python("-c", code, folder=tmp_path)
    assert ended.stderr == "[]\n"
    assert json.loads(ended.stdout)["name"] == "code_target"


def test_schemas_are_printed_or_written(ncamix: Run) -> None:
    status, out, _ = ncamix("schema", "trainer")
    assert (status, json.loads(out)["title"]) == (0, "ncamix trainer")
    assert json.loads(ncamix("schema")[1])["title"] == "ncamix curriculum"
    status, out, _ = ncamix("schema", "--write", "made")
    assert (status, out.count("wrote made/")) == (0, 3)
    status, _, err = ncamix("schema", "curiculum")
    assert status == 2
    assert "did you mean 'curriculum'?" in err


def test_help_lists_topics_and_prints_pages_as_they_are_into_pipes(ncamix: Run) -> None:
    status, out, _ = ncamix("help")
    assert status == 0
    assert {"  language", "  learning rates"} <= set(out.splitlines())
    status, out, _ = ncamix("help", "learning", "rates")
    assert (status, out.splitlines()[0]) == (0, "## Learning rates")
    assert ncamix("help", "cooking")[0] == 2
