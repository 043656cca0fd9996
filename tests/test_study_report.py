"""A study's page: whole, escaped, the same each time; for few arms and many, finished or not."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
from finished_studies import BASE, STUDY, Figures, write_study
from plan_files import problem
from web_pages import Page, assert_whole

from ncamix import pages
from ncamix.study_record import read_study
from ncamix.study_report import write_comparison, write_study_report
from ncamix.study_results import results_of
from ncamix.study_runs import StudyRun

PICTURES = {  # of the whole page: a part of each picture's label
    "Values of all arms",
    "over natural tokens",
    "over all tokens",
    "Planned and realised mixture",
    "loss drop on repeated ids",
    "prefix-matching attention",
    "each point of the tuning",
    "Share of tokens by rank",
    "Epiplexity by arm",
}
MANY = """\
ncamix: 1
name: many
base: bands.yaml
trainer: small.yaml
seeds: [1, 2]
variants:
  from_low_to_high: {}
  from_high_to_low: {stages.automata.transform: reverse}
grid:
  stages.automata.duration: [10%, 20%, 30%, 40%]
  sources.rich.alphabet: [10, 15]
controls: {use: [scratch_natural], beside: from_low_to_high, transition: same}
compare:
  primary:
    - from_low_to_high,duration=20%,alphabet=10
    - from_high_to_low,duration=20%,alphabet=10
  metric: bits_per_byte/code
  smallest_effect: 0.01
"""


def read_page(file: Path) -> tuple[str, Page]:
    html = file.read_text("utf-8")
    page = Page(html)
    assert_whole(html, page)
    return html, page


def labels(html: str) -> set[str]:
    return set(re.findall(r'<svg [^>]*aria-label="([^"]*)"', html))


def test_a_finished_study(tmp_path: Path) -> None:
    home = write_study(tmp_path, STUDY, figures=Figures({"shuffled": 0.03}))
    written = write_study_report(home)
    assert [file.name for file in written] == [
        *("study.html", "results.json", "results.csv", "results.md"),
    ]
    html, page = read_page(written[0])
    found = labels(html)
    assert len(found) == len(PICTURES)
    assert all(any(part in label for label in found) for part in PICTURES)
    results = results_of(read_study(home))
    assert results.findings.primary is not None
    text = " ".join(page.text.split())
    for words in [results.findings.primary, *results.findings.others]:
        assert words.words[1:] in text
    for run in results.record.runs:
        assert run.command in page.text
    assert (home / "study.yaml").read_text() in page.text
    assert "Unfinished" not in text and "Not tested" not in text and "Failed" not in text
    assert "arXiv 2601.03220" in text and "divided by ln 2" in text
    assert "over documents, these runs given" in text
    assert json.loads(written[1].read_text())["answer"][0] == results.findings.primary.words


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    home = write_study(tmp_path, STUDY)
    first = [file.read_bytes() for file in write_study_report(home)]
    again = write_study_report(home, tmp_path / "runs", tmp_path / "picture.svg")
    assert [file.read_bytes() for file in again[:4]] == first
    picture = again[4].read_bytes()
    assert b"<svg" in picture
    write_study_report(home, plot=tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == picture
    write_study_report(home, plot=tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["picture.gif", "findings.jpg", "table.md", "of.v2"])
def test_a_picture_of_no_known_sort_is_refused_before_a_file_is_written(
    tmp_path: Path, name: str
) -> None:
    home = write_study(tmp_path, STUDY)
    found = problem(write_study_report, home, tmp_path / "out", tmp_path / name)
    assert name in found.what and ".svg" in found.remedy
    assert not (tmp_path / "out").exists() and not (tmp_path / name).exists()


def test_an_unfinished_study_says_what_is_missing(tmp_path: Path) -> None:
    def state(run: StudyRun) -> str:
        if run.tuning:
            return "finished"
        if run.seed == 1:
            return "untested"
        return {4: "begun", 5: "missing"}.get(
            run.seed, "finished" if run.arm != "down" else "failed"
        )

    home = write_study(tmp_path, STUDY, state=state)
    html, page = read_page(write_study_report(home)[0])
    text = " ".join(page.text.split())
    assert "Unfinished. 19 of 35 runs to compare are finished." in text
    assert "Not tested. 7 runs finished without a figure on the test split" in text
    assert "up, seed 1; down, seed 1" in text
    assert "Failed. 2 runs ended without a result." in text
    assert "down, seed 2: failed: no room on the disk" in text
    assert "down: seed 4 under way or interrupted, seed 5 not begun" in text


@pytest.mark.parametrize("state", ["missing", "begun", "failed"])
def test_a_study_without_any_result(tmp_path: Path, state: str) -> None:
    home = write_study(tmp_path, STUDY, state=lambda run: state)
    html, page = read_page(write_study_report(home)[0])
    assert "not measured" in page.text.lower()
    assert not any("Values of all arms" in label for label in labels(html))


def test_one_seed_shows_no_interval_and_no_test(tmp_path: Path) -> None:
    one = STUDY.replace("seeds: [1, 2, 3, 4, 5]", "seeds: [3]")
    home = write_study(tmp_path, one, figures=Figures(documents=0))
    html, page = read_page(write_study_report(home)[0])
    assert "no test is possible" in page.text or "not measured" in page.text.lower()
    assert not re.search(r"\d \([−\d.]+ to [−\d.]+\)", page.text), "an interval of one seed"


def test_many_arms_with_long_names(tmp_path: Path) -> None:
    home = write_study(tmp_path, MANY, figures=Figures(documents=0))
    html, page = read_page(write_study_report(home)[0])
    arms = read_study(home).arms
    assert len(arms) == 24 and all(name in page.text for name in arms)
    assert len(html) < 3_000_000
    widest = re.findall(r'<svg viewBox="0 0 (\d+) ', html)
    assert set(widest) == {"960"}, "no picture is wider than the page"


def test_what_several_arms_plan_is_counted_once(tmp_path: Path) -> None:
    def state(run: StudyRun) -> str:
        return "missing" if run.arm.startswith("from") and run.seed == 2 else "finished"

    twin = MANY.replace("  from_high_to_low:", "  twin: {}\n  from_high_to_low:", 1)
    home = write_study(tmp_path, twin, state=state)
    record = read_study(home)
    twins = [arm for arm in record.arms.values() if arm.same_as]
    assert len(twins) == 8
    num = 2 * (len(record.arms) - len(twins))
    _, page = read_page(write_study_report(home)[0])
    told = re.search(r"(\d+) of (\d+) runs to compare are finished", page.text)
    assert told and tuple(map(int, told.groups())) == (num - 16, num)
    assert f"{num} runs, {num - 16} finished, 16 missing" in page.text


def test_names_are_escaped(tmp_path: Path) -> None:
    base = BASE.replace("  simple:", "  s&<b>:").replace("simple:", "s&<b>:")
    home = write_study(tmp_path, STUDY, figures=Figures(documents=0))
    facts = json.loads((home / "study.json").read_text())
    facts["name"] = "<script>alert(1)</script>"
    facts["runs"][-1]["command"] = "ncamix run '<script>'"
    (home / "study.json").write_text(json.dumps(facts))
    (home / "study.yaml").write_text(base)
    html, page = read_page(write_study_report(home)[0])
    assert "<script" not in html and "<script>alert(1)</script>" in page.text


def test_several_runs_are_compared_without_a_test(tmp_path: Path) -> None:
    home = write_study(tmp_path, STUDY)
    out = tmp_path / "both"
    out.mkdir()
    folders = [home / arm / str(seed) for arm in ("up", "even") for seed in (1, 2, 3)]
    written = write_comparison(folders, out)
    html, page = read_page(written[0])
    assert "Nothing was declared to be compared" in page.text and "verdict" not in page.text
    assert any("over natural tokens" in label for label in labels(html))
    facts = json.loads(written[1].read_text())
    assert [arm["arm"] for arm in facts["arms"]] == ["up", "even"]
    assert all(arm["low"] < arm["mean"] < arm["high"] for arm in facts["arms"])
    assert facts["primary"] is None and facts["comparisons"] == [] and facts["finished"]
    assert "verdict" not in written[3].read_text()


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write_study(tmp_path, STUDY, figures=Figures(documents=0))

    def refused(path: Path, data: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(pages, "write_whole", refused)
    found = problem(write_study_report, home)
    assert f"{home} cannot be written" in found.what and "--out" in found.remedy
