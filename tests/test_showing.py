"""`ncamix show`: what is selected, what is drawn, and what is refused with nothing written."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plan_files import TRAINER

from ncamix.cli import main
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.selection import select
from ncamix.showing import MAX_SIDE, Options, count_tokens, draw
from ncamix.sources import open_generator

CURRICULUM = """\
ncamix: 1
name: few
seed: {init: 1, order: 2, rules: 5}
tokenizer: bytes
sources:
  calm:   {kind: nca, alphabet: 2, band: {gzip: [0.05, 0.30]}}
  pool:   {kind: nca, alphabet: 3, grid: [6, 8], band: {gzip: [0.0, 1.0]}, rules: 2, stride: 2}
  static: {kind: noise, symbols: 8}
  span:   {kind: blend, mixture: {0%: {calm: 1}, 50%: {inner: 1}, 100%: {pool: 1}}}
  inner:  {kind: blend, mixture: {calm: 1, code: 1}}
  code:   {kind: text, files: [code.txt]}
stages:
  - {name: one, duration: 100%, mixture: {span: 1, static: 1}}
"""
TEXT_ONLY = """\
ncamix: 1
name: words
tokenizer: bytes
sources:
  code: {kind: text, files: [code.txt]}
stages: [{name: one, duration: 100%, mixture: {code: 1}}]
"""
SOURCE = "{kind: nca, alphabet: 2, band: {gzip: [0.05, 0.3]}}"
QUICK = ("--samples", "2", "--length", "64", "--rules", "2", "--frames", "3")
FEW = Options(num_rules=2, num_frames=3, num_samples=2, length=64)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs `ncamix show` in a folder that holds few.yaml and words.yaml."""
    folder = tmp_path / "work"  # beside the cache
    folder.mkdir()
    (folder / "few.yaml").write_text(CURRICULUM)
    (folder / "words.yaml").write_text(TEXT_ONLY)
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ncamix", "show", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def files() -> list[str]:
    return sorted(str(p) for p in Path().rglob("*") if p.suffix != ".yaml")


def silent(what: str, share: float) -> None:
    assert 0 <= share <= 1


def size(file: str) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


# ---- what is selected


@pytest.mark.usefixtures("show")
def test_a_curriculum_means_its_synthetic_sources() -> None:
    found = select("few.yaml")
    assert list(found.sources) == ["calm", "pool", "static"]
    assert (found.name, found.title, found.seed) == ("few", "few", 5)
    assert found.left_out == ("code",)
    assert list(found.automata) == ["calm", "pool"]
    assert select("few.yaml", seed=9).seed == 9


@pytest.mark.usefixtures("show")
def test_a_curriculum_and_one_of_its_sources() -> None:
    found = select("few.yaml:static")
    assert list(found.sources) == ["static"]
    assert (found.name, found.title, found.left_out) == ("few_static", "few:static", ())
    assert list(select("code_target:rich").sources) == ["rich"]
    Path("a:b.yaml").write_text(CURRICULUM)
    assert select("a:b.yaml").name == "few"
    assert select("a:b.yaml:calm").name == "few_calm"


@pytest.mark.usefixtures("show")
def test_a_blend_stands_for_what_it_mixes() -> None:
    found = select("few.yaml:span")
    assert list(found.sources) == ["calm", "pool"]
    assert found.left_out == ("code",)


@pytest.mark.usefixtures("show")
def test_settings_change_what_is_drawn() -> None:
    assert select("few.yaml:calm", settings=["sources.calm.patch=3"]).automata["calm"].patch == 3
    for argument, setting, message in (
        ("few.yaml", "trainer.budget=1Mtok", "no trainer has a say in what sources look like"),
        (SOURCE, "sources.nca.patch=3", "--set changes a curriculum, and this is a source"),
    ):
        with pytest.raises(UserError, match=message):
            select(argument, settings=[setting])


def test_a_source_in_yaml() -> None:
    found = select(SOURCE)
    assert list(found.sources) == ["nca"]
    assert (found.name, found.seed) == ("kind_nca_alphabet_2_band_gzip_0.05_0.3", 0)
    assert found.title == found.sources["nca"].summary()
    block = "kind: nca\nalphabet: 2\nband: {gzip: [0.05, 0.3]}\n"
    assert select(block).sources == found.sources


REFUSED = {
    "code_targt": "no such curriculum: 'code_targt'\n    did you mean 'code_target'?",
    "few.yaml:clam": "'few' has no source 'clam'\n    did you mean 'calm'?",
    "few.yaml:": "'few' has no source ''",
    "few.yaml:code": "no synthetic source in 'few.yaml:code'",
    "words.yaml": "no synthetic source in 'words.yaml'\n    name one of kind nca",
    "{kind: text, files: [a]}": "no synthetic source",
    "{kind: blend, mixture: {calm: 1}}": "no synthetic source",
    "{kind: nca": "SOURCE:1:11: not valid YAML",
    "{kind: ncaa}": "kind: unknown kind 'ncaa'\n    {kind: ncaa}\n     ^^^^^^^^^^\n"
    "    did you mean 'nca'?",
    "{band: 1}": "SOURCE:1:1: the source has no `kind`",
    "{kind: nca, bnd: 1}": "SOURCE:1:18: bnd: unknown key 'bnd'",
    "{kind: nca, band: {gzip: [0.4, 0.3]}}": "SOURCE:1:20: band.gzip: the band [0.4, 0.3) is rev",
    "{kind: noise, kind: noise}": "SOURCE:1:15: the key 'kind' stands twice",
    "{kind: nca, alphabet: 2, band: {gzip: [0.8, 0.9]}}": "SOURCE:1:26: band: no rule with 2 states"
    " reaches the band gzip 0.80-0.90",
    "{kind: nca, alphabet: 2, band: {quantile: [0.2, 0.201]}}": "SOURCE:1:26: band: no rule with 2",
    "": "no such curriculum: ''",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_cannot_be_drawn_is_refused_with_nothing_written(show: Run, argument: str) -> None:
    status, out, err = show(argument, *QUICK, "--out", "pictures")
    assert (status, out) == (2, "")
    assert REFUSED[argument] in err
    assert "Traceback" not in err
    assert files() == []


def test_all_mistakes_of_a_source_are_told_at_once() -> None:
    with pytest.raises(UserError) as refused:
        select("{kind: nca, band: {gzip: 1}, grid: 2, bnd: 1}")
    assert len(refused.value.problems) == 3


# ---- what is drawn


def test_files_of_a_curriculum(show: Run) -> None:
    status, out, err = show("few.yaml", *QUICK, "--gif", "--out", "new/pictures")
    assert (status, err) == (0, "")
    names = ["few_rules.png", "few.gif", "few_tokens.png"]
    assert out.splitlines() == [
        "left out code: text is compiled, not generated",
        *(f"wrote new/pictures/{name}" for name in names),
    ]
    assert [p for p in files() if "." in p] == sorted(f"new/pictures/{name}" for name in names)
    before = {p.name: p.read_bytes() for p in Path("new/pictures").iterdir()}
    assert show("few.yaml", *QUICK, "--gif", "--out", "new/pictures")[0] == 0
    assert before == {p.name: p.read_bytes() for p in Path("new/pictures").iterdir()}


def test_here_is_where_pictures_go(show: Run) -> None:
    status, out, _ = show("few.yaml:calm", *QUICK)
    assert status == 0
    assert out == "wrote few_calm_rules.png\nwrote few_calm_tokens.png\n"


def test_more_rules_and_frames_make_a_larger_sheet(show: Run) -> None:
    widths, heights = [], []
    for rules, frames in ((1, 12), (2, 12), (2, 14)):
        amounts = ("--rules", str(rules), "--frames", str(frames))
        assert show(SOURCE, "--samples", "1", *amounts)[0] == 0
        width, height = size("kind_nca_alphabet_2_band_gzip_0.05_0.3_rules.png")
        widths.append(width)
        heights.append(height)
    assert heights[0] < heights[1] == heights[2]
    assert widths[0] == widths[1] < widths[2]


@pytest.mark.usefixtures("show")
def test_a_pool_has_no_more_rules_than_it_says() -> None:
    many = Options(num_rules=5, num_frames=2, num_samples=1, length=64)
    two = Options(num_rules=2, num_frames=2, num_samples=1, length=64)
    found = select("few.yaml:pool")
    assert draw(found, many, silent) == draw(found, two, silent)


def test_frames_of_the_animation(show: Run) -> None:
    assert show(SOURCE, "--samples", "1", "--rules", "6", "--gif")[0] == 0
    with Image.open("kind_nca_alphabet_2_band_gzip_0.05_0.3.gif") as image:
        times = []
        for i in range(image.n_frames):
            image.seek(i)
            times.append(image.info["duration"])
    assert sum(times) == 47 * 200 + 1000


def test_sources_without_frames_have_no_sheet(show: Run) -> None:
    status, out, _ = show("few.yaml:static", *QUICK, "--gif")
    assert status == 0
    assert out.splitlines() == [
        "no automaton among the sources: no frames to draw",
        "wrote few_static_tokens.png",
    ]


@pytest.mark.usefixtures("show")
def test_the_seed_decides_the_rules() -> None:
    sheets = [
        draw(select("few.yaml:calm", seed), FEW, silent)["few_calm_rules.png"]
        for seed in (None, 5, 6)
    ]
    assert sheets[0] == sheets[1] != sheets[2]


def test_the_rules_are_those_that_a_run_trains_on(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(
        "seed: 3\nsources: {calm: {kind: nca, alphabet: 2, band: {gzip: [0.05, 0.3]}}}\n"
        "stages: [{name: one, duration: 100%, mixture: {calm: 1}}]\n",
        TRAINER,
    )
    trained = open_generator(plan.sources["calm"].meaning)
    shown = select(plan.curriculum.document.file).generator("calm", 1024)
    assert trained.meaning != shown.meaning
    assert np.array_equal(trained.frames(4, 1)[1], shown.frames(4, 1)[1])


@pytest.mark.usefixtures("show")
def test_delimiters_are_not_counted() -> None:
    found = select("few.yaml")
    options = Options(num_samples=3, length=4 * 38 - 1)
    calm = count_tokens(found, "calm", options, silent)
    assert calm.counts.shape == (16,) and calm.counts.sum() == 3 * 4 * 36
    static = count_tokens(found, "static", options, silent)
    assert static.counts.shape == (8,) and static.counts.sum() == 3 * 4 * 38
    ids = found.generator("calm", options.length).samples(0, 3)
    assert (calm.counts == np.bincount(ids[ids < 16], minlength=16)).all()


def test_about_a_million_tokens_are_counted_unless_told() -> None:
    assert Options().samples * Options().length == pytest.approx(1e6, rel=1e-3)
    assert Options(length=3_000_000).samples == 1
    assert Options(num_samples=7).samples == 7


# ---- what goes wrong


@pytest.mark.parametrize(
    ("option", "number"), [("--rules", "10000"), ("--rules", "9" * 30), ("--frames", "1000000")]
)
def test_pictures_too_large_are_refused(show: Run, option: str, number: str) -> None:
    status, out, err = show("few.yaml", "--samples", "1", option, number)
    assert (status, out) == (2, "")
    assert "the contact sheet would be" in err and "ask for fewer --rules or --frames" in err
    assert f"{MAX_SIDE:,}" in err
    assert files() == []


@pytest.mark.parametrize("option", ["--rules", "--frames", "--samples", "--length"])
@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_numbers_out_of_range(show: Run, option: str, number: str) -> None:
    status, _, err = show("few.yaml", option, number)
    assert status == 2
    assert option in err and "Traceback" not in err
    assert files() == []


def test_a_folder_that_cannot_be_written(show: Run) -> None:
    Path("file").write_text("in the way")
    for out in ("file", "file/below"):
        status, _, err = show("few.yaml:static", *QUICK, "--out", out)
        assert status == 2
        assert err.startswith(f"ncamix: {out}/few_static_tokens.png cannot be written")
        assert "choose another folder with --out" in err
    assert files() == ["file"]


def test_help_has_an_example(show: Run) -> None:
    status, out, _ = show("--help")
    assert status == 0
    assert "ncamix show code_target:rich" in out


def test_pictures_are_what_their_names_say(show: Run) -> None:
    assert show("few.yaml", *QUICK, "--gif")[0] == 0
    for file in ("few_rules.png", "few_tokens.png", "few.gif"):
        with Image.open(io.BytesIO(Path(file).read_bytes())) as image:
            assert image.format == Path(file).suffix[1:].upper()
