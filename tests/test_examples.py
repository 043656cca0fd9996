"""The examples run, each at a reduced size, from a copy in an empty folder; what is shipped of real
runs has its form, and is what their pages say."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from processes import SECONDS, free_port, output_of, started

from ncamix.loading import load_curriculum
from ncamix.statistics import Interval
from ncamix.verdicts import with_interval

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.name[:2].isdigit())
TINY = ["--set", "trainer.model.layers=1", "--set", "trainer.model.width=16"]
BUILT = shutil.ignore_patterns("build", "results", "__pycache__", "runs")
LARGEST_PICTURE = 200_000  # bytes

Run = Callable[..., str]


def copy_of(name: str, folder: Path) -> Path:
    """A copy of an example, without what was made in it."""
    return Path(shutil.copytree(EXAMPLES / name, folder / name, ignore=BUILT))


def example(name: str) -> ModuleType:
    """A script of an example as a module: `01_first_run/results`."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(name: str) -> Any:
    return json.loads((EXAMPLES / name).read_text())


@pytest.fixture
def run() -> Run:
    """Runs a command in a folder, as a shell of this environment would; what it prints."""

    def run(
        *command: str, folder: Path, status: int = 0, seconds: float = SECONDS, **variables: str
    ) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        process = started(command, folder, env | variables)
        said = output_of(process, seconds)
        assert process.returncode == status, said
        return said

    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A few modules of the standard library, in place of all of it."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("argparse", "ast", "dataclasses", "inspect", "shutil", "tarfile", "typing"):
        source = Path(os.__file__).parent / f"{name}.py"
        shutil.copy(source, folder)
    return folder


# ---- what is shipped


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_has_a_page_whose_links_lead_somewhere(folder: Path) -> None:
    page = (folder / "README.md").read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", page)
    assert links and all((folder / link).exists() for link in links)
    for picture in folder.rglob("*.png"):
        assert picture.stat().st_size < LARGEST_PICTURE, picture


def test_pictures_of_the_front_page_exist() -> None:
    links = re.findall(r"\]\((examples/[^)]+)\)", (ROOT / "README.md").read_text())
    assert len(links) >= 3 and all((ROOT / link).is_file() for link in links)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("01_first_run/results", "01_first_run/results/summary.json"),
        ("05_matching_a_corpus/matched", "05_matching_a_corpus/results/measured.json"),
        ("06_bring_your_own_trainer/results", "06_bring_your_own_trainer/results/losses.json"),
        ("07_many_nodes/compare", "07_many_nodes/results/runs.json"),
    ],
)
def test_the_table_of_a_page_is_that_of_its_results(script: str, found: str) -> None:
    page = (EXAMPLES / script).with_name("README.md").read_text()
    assert example(script).table(results(found)) in page


def test_the_curriculum_that_is_shipped_follows_from_what_was_measured() -> None:
    folder = EXAMPLES / "05_matching_a_corpus"
    measured = results("05_matching_a_corpus/results/measured.json")
    written = example("05_matching_a_corpus/matched").curriculum(measured, "python-stdlib")
    assert written == (folder / "matched.yaml").read_text()
    assert "matched" in load_curriculum(folder / "matched.yaml").curriculum.sources


def interval_of(figures: Any) -> Interval:
    return Interval(figures["low"], figures["high"], figures["confidence"])


STUDIES = sorted(path.parent.parent.name for path in EXAMPLES.glob("*/results/results.json"))


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_of_a_study_holds_what_its_runs_came_to(name: str) -> None:
    """Tables of a finished study stand in its page, and say what its figures do."""
    made = EXAMPLES / name / "results"
    tables, found = (made / "results.md").read_text(), results(f"{name}/results/results.json")
    page = (EXAMPLES / name / "README.md").read_text()
    assert found["finished"] is True and found["missing"] == found["untested"] == []
    assert "(results/findings.png)" in page
    blocks = [block for block in tables.split("\n\n") if block.startswith("| ")]
    assert len(blocks) == 2 and all(block.strip() in page for block in blocks)
    assert all(sentence in tables for sentence in found["answer"])
    rows = [row.strip("| ").split(" | ") for block in blocks for row in block.splitlines()[2:]]
    cells = {row[0].partition(" (plans as ")[0]: row[1:] for row in rows if row[0]}
    for arm in found["arms"]:
        assert cells[arm["arm"]][0] == with_interval(arm["mean"], interval_of(arm))
        assert sorted(map(int, arm["values"])) == found["seeds"]
    for finding in [found["primary"], *found["comparisons"]]:
        shown = cells[f"{finding['arm']} − {finding['other']}"]
        assert shown[0] == with_interval(finding["difference"], interval_of(finding), signed=True)
        assert shown[2] == finding["verdict"]
    for drawn in found["redrawn"]:
        difference = with_interval(drawn["difference"], interval_of(drawn), signed=True)
        assert f"| {drawn['drawn']} | {difference} |" in page
    scaled: dict[str, list[Any]] = {}
    for point in sorted(found["scaling"], key=lambda point: point["tokens"]):
        scaled.setdefault(point["alphabet"], []).append(point)
    for alphabet, points in scaled.items() if any(len(p) > 1 for p in scaled.values()) else ():
        cells_of = [with_interval(point["mean"], interval_of(point)) for point in points]
        assert f"| {' | '.join([alphabet, *cells_of])} |" in page


# ---- 01_first_run


def test_a_first_run(tmp_path: Path, run: Run, corpus: Path) -> None:
    folder = copy_of("01_first_run", tmp_path)
    assert "middle" in run("ncamix", "plan", "code_target", "first.yaml", folder=folder)
    small = ["--trainer", "cpu", "--set", "trainer.budget=40ktok", *TINY]
    small += [
        "--set",
        f"sources.code={{kind: text, files: ['{corpus}/*.py'], holdout: {{share: 0.5}}}}",
    ]
    small += ["--set", "tokenizer={bpe: 400, train_on: [code]}"]
    run("ncamix", "run", "first.yaml", *small, folder=folder)
    table = run(sys.executable, "results.py", "runs/first", "results", folder=folder)
    assert "| code | code " in table and "| middle |" not in table
    summary = json.loads((folder / "results/summary.json").read_text())
    assert set(summary) == set(results("01_first_run/results/summary.json"))
    assert (folder / "results/overview.png").stat().st_size > 10_000
    assert "middle" in run(sys.executable, "library.py", folder=folder)


# ---- 02_mixed_bands: the corpus


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> str:
    """Write a wheel of version 1.0 with these members; its line for packages.txt."""
    about = f"{name}-1.0.dist-info"
    members = {
        **members,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for member, data in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{member},sha256={digest},{len(data)}\n")
    members[f"{about}/RECORD"] = "".join(rows).encode()
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


def test_the_corpus_is_fetched_once_and_without_what_is_left_out(tmp_path: Path, run: Run) -> None:
    folder, wheels = copy_of("02_mixed_bands", tmp_path), tmp_path / "wheels"
    wheels.mkdir()
    taken = {f"one/m{i}.py": f"print({i})\n".encode() for i in range(5)}
    omitted = {
        "one/_vendor/other.py": b"print('vendored')\n",
        "one/tests/test_one.py": b"assert True\n",
        "one/parser.py": b"# Generated by a program, do not edit\n",
        "one/latin.py": "print('\u00e9')".encode("latin-1"),
        "one/data.txt": b"no code",
    }
    lines = [wheel(wheels, "one", {**taken, **omitted})]
    lines.append(wheel(wheels, "two", {"two.py": b"print(2)\n"}))
    (folder / "packages.txt").write_text("# pinned\n" + "".join(lines))
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}

    said = run(sys.executable, "fetch.py", folder=folder, **offline)
    assert "1/2 one 1.0: 5 files" in said and "2 packages, 6 files" in said
    rows = [json.loads(line) for line in (folder / "build/code.jsonl").read_text().splitlines()]
    assert {row["path"]: row["text"].encode() for row in rows} == {
        **{f"one/{name}": data for name, data in taken.items()},
        "two/two.py": b"print(2)\n",
    }
    assert {row["repo_name"] for row in rows} == {"one", "two"}
    manifest = json.loads((folder / "build/packages.json").read_text())
    assert manifest["packages"]["one"]["left_out"] == {
        "generated": 1, "not_utf8": 1, "tests": 1, "vendored": 1,
    }  # fmt: skip

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    again = run(sys.executable, "fetch.py", folder=folder, PIP_NO_INDEX="1")  # asks for nothing
    assert again.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before
    (folder / "build/packages/one/one/m0.py").unlink()
    assert "1/2 one" in run(sys.executable, "fetch.py", folder=folder, **offline)
    (folder / "packages.txt").write_text(lines[1])
    assert "removed one" in run(sys.executable, "fetch.py", folder=folder, **offline)
    assert not (folder / "build/packages/one").exists()
    assert len((folder / "build/code.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "member", ["../out.py", "/tmp/out.py", "a\\..\\out.py", "one/../../out.py"]
)
def test_no_file_of_a_package_leaves_its_folder(tmp_path: Path, member: str) -> None:
    wheel(tmp_path, "one", {member: b"print('out')\n"})
    with pytest.raises(SystemExit, match="would leave its folder"):
        example("02_mixed_bands/fetch").unpack(
            tmp_path / "one-1.0-py3-none-any.whl", tmp_path / "o"
        )
    assert not list(tmp_path.glob("**/out.py")) and not (tmp_path / "o").exists()


def test_links_in_a_package_are_no_code(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("one/link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "one.whl", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("one/code.py", "print(1)\n")
    facts = example("02_mixed_bands/fetch").unpack(tmp_path / "one.whl", tmp_path / "one")
    assert facts["files"] == 1 and not (tmp_path / "one/one/link.py").exists()


def test_a_package_of_another_hash_is_refused(tmp_path: Path, run: Run) -> None:
    folder, wheels = copy_of("02_mixed_bands", tmp_path), tmp_path / "wheels"
    wheels.mkdir()
    line = wheel(wheels, "one", {"one.py": b"print(1)\n"})
    (folder / "packages.txt").write_text(line[:-65] + "0" * 64 + "\n")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    said = run(sys.executable, "fetch.py", folder=folder, status=1, **offline)
    assert "pip could not download one 1.0" in said and "HASH" in said.upper()


def test_the_packages_that_are_pinned_are_split_as_the_page_says() -> None:
    from fractions import Fraction

    from ncamix.splits import HELD_OUT, split_of_group

    names = [p.name for p in example("02_mixed_bands/fetch").read_pins(
        EXAMPLES / "02_mixed_bands/packages.txt")]  # fmt: skip
    page = (EXAMPLES / "02_mixed_bands/README.md").read_text()
    assert len(set(names)) == len(names) == 43
    for split in HELD_OUT:
        held = ", ".join(sorted(n for n in names if split_of_group(n, Fraction("0.2")) == split))
        assert f"| {split} | {held} |" in page


# ---- 05_matching_a_corpus


def test_matching_a_corpus(tmp_path: Path, run: Run, corpus: Path) -> None:
    folder = copy_of("05_matching_a_corpus", tmp_path)
    command = ["ncamix", "measure", f"{corpus}/*.py", "--json", "--tokenizer", "400"]
    found = run(*command, "--windows", "50", "--plot", "corpora.png", folder=folder)
    (folder / "measured.json").write_text(found[found.index("{") :])
    assert (folder / "corpora.png").exists()
    assert set(json.loads((folder / "measured.json").read_text())["corpora"][0]) == set(
        results("05_matching_a_corpus/results/measured.json")["corpora"][0]
    )
    matched = run(sys.executable, "matched.py", "measured.json", f"{corpus}/*.py", folder=folder)
    (folder / "own.yaml").write_text(matched)
    told = run("ncamix", "plan", "own.yaml", "--trainer", "cpu", "--json", folder=folder)
    assert json.loads(told)["stages"][0]["counts"] == {"matched": 584}
    assert "nearest band" in run(sys.executable, "matched.py", "measured.json", folder=folder)


# ---- 06_bring_your_own_trainer


def test_a_trainer_of_ones_own_replays_what_ncamix_batch_says(
    tmp_path: Path, run: Run, corpus: Path
) -> None:
    folder = copy_of("06_bring_your_own_trainer", tmp_path)
    code = f"sources.code={{kind: text, files: ['{corpus}/*.py'], holdout: {{share: 0.5}}}}"
    curriculum = ["curriculum.yaml", "--trainer", "trainer.yaml", "--set", code]
    curriculum += [
        "--set",
        "trainer.budget=40ktok",
        "--set",
        "tokenizer={bpe: 400, train_on: [code]}",
    ]
    run("ncamix", "compile", *curriculum, "--out", "baked", "--bake", folder=folder)
    run("ncamix", "compile", *curriculum, "--out", "data", folder=folder)
    hidden = "import sys; sys.modules['ncamix'] = None; import runpy; sys.argv[0:1] = []; "
    hidden += "runpy.run_path(sys.argv[0], run_name='__main__')"
    run(sys.executable, "-c", hidden, "train.py", "baked", "losses.jsonl", folder=folder)
    run(sys.executable, "results.py", "losses.jsonl", "results", folder=folder)
    found = json.loads((folder / "results/losses.json").read_text())
    shipped = results("06_bring_your_own_trainer/results/losses.json")
    assert [stage["stage"] for stage in found] == [stage["stage"] for stage in shipped]
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert rows[0]["targets"] < 8 * 256  # the first frame of an automaton has no loss
    assert rows[-1]["loss"] < rows[6]["loss"]
    check = [sys.executable, "check.py", "baked", "data", *curriculum]
    assert "48 samples at the places" in run(*check, folder=folder)
    shutil.move(folder / "baked/0-automata", folder / "baked/other")
    shutil.copytree(folder / "baked/1-code", folder / "baked/0-automata")
    assert "AssertionError" in run(*check, folder=folder, status=1)


# ---- 07_many_nodes


def stand_in(folder: Path, name: str, line: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
    (folder / name).chmod(0o755)


TINY_RUN = ["tiny.yaml", "--trainer", "tiny_trainer.yaml", "--set", "trainer.budget=20480tok"]
LAUNCHERS = {
    "torchrun": ["./torchrun.sh"],
    "composer": ["./composer.sh"],
    "srun": ["bash", "run.sbatch"],
}
TELLS_ITS_RANK = """\
import os
rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
if rank is not None:
    open(f"runs/rank{rank}", "w").close()
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that others are compared with, in a copy of the example."""
    folder = copy_of("07_many_nodes", tmp_path_factory.mktemp("launched"))
    command = [sys.executable, "-m", "ncamix", "run", *TINY_RUN, "--out", "runs/alone"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = started(command, folder, {**env, "NCAMIX_CACHE": str(folder / "cache")})
    said = output_of(process)
    assert process.returncode == 0, said
    return folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_train_on_the_same_batches_as_one(alone: Path, run: Run, launcher: str) -> None:
    for told in (alone / "runs").glob("rank*"):
        told.unlink()
    (alone / "sitecustomize.py").write_text(TELLS_ITS_RANK)  # which Python imports as it starts
    path = [str(alone / "simulated"), str(Path(sys.executable).parent), os.environ["PATH"]]
    job = {"PATH": os.pathsep.join(path), "SLURM_JOB_ID": free_port(), "RANKS": "2"}
    meeting = {"HEAD": f"localhost:{free_port()}", "OUT": f"runs/{launcher}"}
    python = {"PYTHONPATH": f"{alone}{os.pathsep}{ROOT}"}
    run(*LAUNCHERS[launcher], *TINY_RUN, folder=alone, **job, **meeting, **python)
    assert {told.name for told in (alone / "runs").glob("rank*")} == {"rank0", "rank1"}
    compare = [sys.executable, "compare.py", "results", "runs/alone", f"runs/{launcher}"]
    assert run(*compare, folder=alone).count("| yes |") == 2
    rows = json.loads((alone / "results/runs.json").read_text())
    assert [row["run"] for row in rows] == ["alone", launcher]
    assert all(len(row["away"]) == 10 and max(row["away"]) < 1e-5 for row in rows)


def test_other_batches_are_seen(alone: Path, run: Run) -> None:
    shutil.copytree(alone / "runs/alone", alone / "runs/other")
    metrics = alone / "runs/other/metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"digest": ', '"digest": 1', 1))
    compare = [sys.executable, "compare.py", "results", "runs/alone", "runs/other"]
    assert "| NO |" in run(*compare, folder=alone, status=1)


@pytest.mark.parametrize(("status", "queued"), [(143, ["requeue 7"]), (0, []), (2, [])])
def test_a_job_that_was_told_to_stop_is_queued_again(
    tmp_path: Path, run: Run, status: int, queued: list[str]
) -> None:
    folder = copy_of("07_many_nodes", tmp_path)
    stand_in(tmp_path / "bin", "srun", f'echo "$@"; exit {status}')
    stand_in(tmp_path / "bin", "scontrol", f'echo "$@" >> {tmp_path}/queued')
    (tmp_path / "queued").touch()
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    job = {"PATH": path, "SLURM_JOB_ID": "7", "OUT": "/shared/a run"}
    said = run("bash", "run.sbatch", "code_target", folder=folder, status=status, **job)
    assert said == "--kill-on-bad-exit=1 ncamix run code_target --out /shared/a run\n"
    assert (tmp_path / "queued").read_text().splitlines() == queued


@pytest.mark.parametrize(
    ("command", "variables", "expected"),
    [
        (
            ["bash", "study.sbatch"],
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"},
            "--out /o --shard 2/4",
        ),
        (
            ["bash", "study.sbatch"],
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "OF": "4"},
            "--out /o --shard 3/4",
        ),
        (["./ray.sh"], {}, "--on ray --out /o"),
        (["./ray.sh"], {"ON": "ray://head:10001"}, "--on ray://head:10001 --out /o"),
    ],
)
def test_which_share_of_a_study_is_asked_for(
    tmp_path: Path, run: Run, command: list[str], variables: dict[str, str], expected: str
) -> None:
    folder = copy_of("07_many_nodes", tmp_path)
    stand_in(tmp_path / "bin", "ncamix", 'echo "$@"')
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    said = run(*command, "orders.yaml", folder=folder, PATH=path, OUT="/o", **variables)
    assert said == f"study orders.yaml {expected}\n"


# ---- 02, 03 and 04: studies


def rows_of_code(folder: Path) -> None:
    """A few modules of the standard library, each as if it were a package, where fetch.py leaves
    its rows."""
    train = ("argparse", "ast", "calendar", "codecs", "configparser", "contextlib")
    held_out = ("threading", "traceback", "pickletools", "subprocess", "tokenize", "base64")
    rows = []
    for name in (*train, *held_out):
        text = Path(os.__file__).with_name(f"{name}.py").read_text()
        rows.append({"repo_name": name, "path": f"{name}/{name}.py", "text": text})
    (folder / "build").mkdir()
    (folder / "build/code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.timeout(900)
def test_the_main_study_at_a_reduced_size(run: Run, tmp_path: Path, own_cache: Path) -> None:
    folder = copy_of("02_mixed_bands", tmp_path)
    rows_of_code(folder)
    said = run("ncamix", "study", "reduced.yaml", folder=folder, seconds=700)
    assert "12 runs are over" in said
    made = folder / "runs/mixed_bands_reduced"
    page = (made / "study.html").read_text()
    assert "mixed" in page and "single" in page and "scratch_natural" in page
    found = json.loads((made / "results.json").read_text())
    assert len(list(made.glob("*/[0-9]/test.json"))) == 6 and found
    assert "are over" in run("ncamix", "study", "reduced.yaml", folder=folder)
    assert "wrote" in run("ncamix", "report", "runs/mixed_bands_reduced", folder=folder)


@pytest.mark.parametrize(
    ("name", "runs"), [("02_mixed_bands", 88), ("03_reinit_ablation", 35), ("04_alphabets", 45)]
)
def test_studies_are_planned(
    run: Run, tmp_path: Path, own_cache: Path, name: str, runs: int
) -> None:
    rows_of_code(copy_of("02_mixed_bands", tmp_path))
    if name != "02_mixed_bands":
        copy_of(name, tmp_path)
    small = ["--set", "tokenizer=bytes", "--set", "trainer.sequence_length=64"]
    small += ["--set", "sources.code.repeat=free"]
    said = run("ncamix", "plan", "study.yaml", *small, "--json", folder=tmp_path / name)
    made = json.loads(said)
    arms = [arm for arm in made["arms"].values() if not arm["same_as"]]
    tuning = made["tuning"]
    points = len(tuning["points"]) * len(tuning["seeds"]) if tuning else 0
    assert len(arms) * (len(made["seeds"]) + points) == runs
    assert all("num_tokens" in arm for arm in arms)
