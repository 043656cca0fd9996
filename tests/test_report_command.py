"""`ncamix report` as it is typed: a run, several, a study; and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from finished_studies import STUDY, Figures, write_study

from ncamix.cli import main

SHORT = STUDY.replace("seeds: [1, 2, 3, 4, 5]", "seeds: [1, 2]")
Report = Callable[..., tuple[int, str, str]]


@pytest.fixture
def report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Report:
    """Runs the command in a folder whose runs/mixed_bands is a finished study."""
    write_study(tmp_path / "work", SHORT, figures=Figures(documents=0))
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ncamix", "report", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_study_a_run_and_several_runs(report: Report) -> None:
    status, out, _ = report("runs/mixed_bands")
    names = ["study.html", "results.json", "results.csv", "results.md"]
    assert status == 0 and out.split("wrote ")[1:] == [
        f"runs/mixed_bands/{name}\n" for name in names
    ]
    status, out, _ = report("runs/mixed_bands/up/1")
    assert (status, out) == (0, "wrote runs/mixed_bands/up/1/report.html\n")
    status, out, _ = report("runs/mixed_bands/up/1", "runs/mixed_bands/even/1")
    assert status == 0 and "wrote runs/mixed_bands/comparison/study.html" in out
    status, out, _ = report("runs/mixed_bands/up/1", "runs/mixed_bands/up/2", "--out", "new/both")
    assert status == 0 and sorted(p.name for p in Path("new/both").iterdir()) == sorted(names)


def test_a_study_is_written_elsewhere_and_drawn(report: Report) -> None:
    status, out, _ = report("runs/mixed_bands", "--out", "out", "--plot", "pictures/found.png")
    assert status == 0 and "wrote pictures/found.png" in out
    assert Path("pictures/found.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("out/study.html").is_file() and not Path("runs/mixed_bands/study.html").exists()
    status, _, err = report("runs/mixed_bands", "--plot", "found.xyz")
    assert status == 2 and "--plot" in err


def test_what_is_refused(report: Report) -> None:
    status, _, err = report("runs/mixed_bands", "runs/mixed_bands/up/1")
    assert status == 2 and "is a study, which is reported by itself" in err
    status, _, err = report("runs/mixed_bands/up/1", "--out", "elsewhere")
    assert status == 2 and "--out" in err and not Path("elsewhere").exists()
    status, _, err = report("runs/mixed_bandz")
    assert status == 2 and "not the folder of a run" in err
    status, _, err = report("runs/mixed_bands/up/1", "runs/mixed_bands/up")
    assert status == 2 and "not the folder of a run" in err
