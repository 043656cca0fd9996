"""Variants: studies as loaded, their settings, and every mistake of theirs located."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_files import SOURCES, TRAINER, curriculum, problem, problems, stage
from test_study import STUDY

from ncamix.composition import Setting, parse_setting
from ncamix.planning import make_plan
from ncamix.variants import LoadedStudy, load_study, variants_of

BASE = curriculum(
    stage("{simple: 1}", "50%", "one") + stage("{rich: 1}", name="two"),
    rest="evaluate: {sources: [simple]}\n",
)
UNTUNED = "".join(line for line in STUDY.splitlines(True) if not line.startswith("tune:"))


def load(folder: Path, text: str, base: str = BASE) -> LoadedStudy:
    (folder / "base.yaml").write_text(base)
    (folder / "small.yaml").write_text(TRAINER)
    (folder / "s.yaml").write_text(text)
    return load_study(folder / "s.yaml")


def stages_of(loaded: LoadedStudy, name: str) -> list[str]:
    """The stages of a variant."""
    curriculum, _ = loaded.load(variants_of(loaded)[name].settings)
    return [stage.name for stage in curriculum.curriculum.stages]


def test_variants_change_the_base(tmp_path: Path) -> None:
    loaded = load(tmp_path, STUDY)
    variants = variants_of(loaded)
    assert list(variants) == ["up", "less"]
    assert stages_of(loaded, "up") == ["one", "two"]
    assert stages_of(loaded, "less") == ["two"]
    assert [(s.path, s.value.plain()) for s in variants["less"].settings] == [
        (("stages", "one"), None)
    ]


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    grid = "grid: {sources.simple.alphabet: [2, 10], sources.rich.alphabet: [9, 10]}"
    loaded = load(tmp_path, STUDY.replace("grid: {}", grid))
    variants = variants_of(loaded)
    assert len(variants) == 8
    name = "less,simple.alphabet=2,rich.alphabet=10"
    assert variants[name].written == "less"
    assert len(variants[name].settings) == 3 and len(variants[name].point) == 2
    sources = loaded.load(variants[name].settings)[0].curriculum.sources
    assert (sources["simple"].alphabet, sources["rich"].alphabet) == (2, 10)


def test_a_grid_alone_names_its_points(tmp_path: Path) -> None:
    text = UNTUNED.split("variants:")[0] + "grid: {stages.one.duration: [10%, 20%]}\n"
    loaded = load(tmp_path, text)
    assert list(variants_of(loaded)) == ["duration=10%", "duration=20%"]
    bands = "grid: {sources.rich.band: [{gzip: [0.3, 0.4]}, {gzip: [0.4, 0.5]}]}\n"
    loaded = load(tmp_path, UNTUNED.split("variants:")[0] + bands)
    assert list(variants_of(loaded)) == ["band=1", "band=2"]


def test_trainers_vary_too_and_paths_start_at_the_study(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    text = STUDY.replace("up: {}", "up: {trainer.batch_size: 8}")
    text = text.replace("base.yaml", "../base.yaml").replace("small.yaml", "../small.yaml")
    load(tmp_path, STUDY)
    (tmp_path / "studies" / "s.yaml").write_text(text)
    loaded = load_study(tmp_path / "studies" / "s.yaml")
    assert loaded.load(variants_of(loaded)["up"].settings)[1].trainer.batch_size == 8


@pytest.mark.parametrize(
    ("old", "new", "path", "what"),
    [
        ("base: base.yaml", "base: bse.yaml", "base", "no such curriculum: 'bse.yaml'"),
        ("trainer: small.yaml", "trainer: cpuu", "trainer", "no such trainer: 'cpuu'"),
        ("base: base.yaml", "base: small.yaml", "base", "'small.yaml' is a trainer, and"),
        ("base: base.yaml", "base: s.yaml", "base", "'s.yaml' is a study, and"),
        (
            "trainer: small.yaml",
            "trainer: base.yaml",
            "trainer",
            "'base.yaml' is a curriculum",
        ),
        ("stages.one: null", "stages.on: null", "stages.on", "there is no stage 'on'"),
        ("stages.one: null", "source.rich: null", "source", "there is no 'source' here"),
        ("up: {}", "up: {sources.simpl.patch: 2}", "sources.simpl", "no source 'simpl'"),
        ("up: {}", "up: {stages.one.durtion: 5%}", "stages.one.durtion", "unknown key 'durtion'"),
        ("up: {}", "up: {sources.rich.patch: 0}", "sources.rich.patch", "not a positive number"),
        ("up: {}", "up: {trainer.model.layer: 2}", "model.layer", "unknown key 'layer'"),
        ("up: {}", "up: {name: other}", "variants.up.name", "does not set the name"),
        ("up: {}", "up: {seed: 5}", "variants.up.seed", "does not set the seed"),
        ("  up: {}", "  u p: {}\n  up: {}", "variants.u p", "cannot name a variant"),
        ("lr.peak: [0.5x", "lr.peek: [0.5x", "stages.two.optimizer.lr.peek", "unknown key 'peek'"),
        ("[0.5x, 1x]", "[0.5x, y]", "stages.two.optimizer.lr.peak", "'y' is not understood"),
        ("seeds: [101]", "seeds: [101, 2]", "tune.seeds.1", "the seed 2 is tuned with and"),
        ("loss/simple", "loss/rich", "compare.metric", "'rich' is not evaluated"),
        ("loss/simple", "bits_per_byte/simple", "compare.metric", "'simple' is no text"),
    ],
)
def test_refused_studies(tmp_path: Path, old: str, new: str, path: str, what: str) -> None:
    assert old in STUDY
    found = problems(load, tmp_path, STUDY.replace(old, new))
    assert [(p.path, what in p.what) for p in found[:1]] == [(path, True)], found
    assert all(p.file == str(tmp_path / "s.yaml") and p.line and p.remedy for p in found)


def test_what_a_variant_breaks_elsewhere_names_the_variant(tmp_path: Path) -> None:
    found = problem(load, tmp_path, STUDY.replace("up: {}", "up: {sources.rich: null}"))
    assert found.what == "in the arm 'up': unknown source 'rich'"
    assert (found.file, found.path) == (str(tmp_path / "base.yaml"), "stages.two.mixture.rich")


@pytest.mark.parametrize("end", ["", "compare: null\n"])
def test_what_is_tuned_needs_a_figure_to_tune_by(tmp_path: Path, end: str) -> None:
    found = problem(load, tmp_path, STUDY.split("compare:")[0] + end)
    assert (found.path, found.line) == ("tune", 6)
    assert found.what == "nothing says by which figure it is tuned"


def test_paths_on_the_command_line_start_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the study start at the study, and its runs are started there."""
    for folder, text in (("studies", "beside the study"), ("here", "where I am")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text(f"{text}\n" * 500)
    notes = "  notes: {kind: text, files: [none.txt], repeat: free}\n"
    base = curriculum(stage("{notes: 1}"), SOURCES + notes, "tokenizer: bytes\n")
    study = f"{UNTUNED.split('variants:')[0]}variants: {{up: {{}}, set: VARIANT}}\n"
    study = study.replace("VARIANT", "{sources.notes.files: [notes.txt]}")
    load_here = load(tmp_path / "studies", study, base)
    monkeypatch.chdir(tmp_path / "here")
    written = "sources.notes.files=[notes.txt]"
    loaded = load_study("../studies/s.yaml", None, [written])

    def read(made: LoadedStudy, *settings: str | Setting) -> list[str]:
        plan = make_plan(*made.load(map(parse, settings)))
        text = plan.sources["notes"].text
        assert text is not None
        return [file.path.read_text().splitlines()[0] for file in text.files]

    def parse(setting: str | Setting) -> Setting:
        return parse_setting(setting) if isinstance(setting, str) else setting

    assert read(loaded) == ["where I am"]
    assert read(load_here, *variants_of(load_here)["set"].settings) == ["beside the study"]
    # so do its runs, which are told in words, in the study's folder
    monkeypatch.chdir(tmp_path / "studies")
    (word,) = map(str, loaded.settings)
    assert read(load_here, word) == ["where I am"]
    (word,) = map(str, variants_of(load_here)["set"].settings)
    assert read(load_here, word) == ["beside the study"]


def test_a_wrong_setting_of_the_command_line_is_told_with_the_rest(tmp_path: Path) -> None:
    load(tmp_path, STUDY)
    (tmp_path / "s.yaml").write_text(STUDY.replace("base.yaml", "bse.yaml"))
    found = problems(load_study, tmp_path / "s.yaml", None, ["seed", "trainer=cpu"])
    assert [(p.file, p.path) for p in found[:2]] == [("--set", ""), ("--set", "trainer")]
    assert [p.path for p in found[2:]] == ["base"]


def test_mistakes_of_the_base_come_first(tmp_path: Path) -> None:
    found = problems(load, tmp_path, STUDY, BASE.replace("duration: rest", "duration: rst"))
    assert [p.file for p in found] == [str(tmp_path / "base.yaml")]


def test_every_mistake_is_found_at_once(tmp_path: Path) -> None:
    text = STUDY.replace("seeds: [1, 2]", "seeds: [1, x]").replace("[up, less]", "[up, lss]")
    text = text.replace("base.yaml", "bse.yaml").replace("up: {}", "up: {name: b}")
    assert [p.path for p in problems(load, tmp_path, text)] == [
        "base",
        "seeds.1",
        "variants.up.name",
    ]
    text = STUDY.replace("up: {}", "up: {sources.rich.patch: 0}").replace("s.one: n", "s.o: n")
    found = problems(load, tmp_path, text)
    assert [p.path for p in found] == ["sources.rich.patch", "stages.o"]


def test_something_is_compared_but_not_too_much(tmp_path: Path) -> None:
    empty = UNTUNED.split("variants:")[0]
    assert problem(load, tmp_path, empty).what == "nothing is compared"
    assert problem(load, tmp_path, empty + "variants: {}\n").what == "nothing is compared"
    many = ", ".join(map(str, range(2, 50)))
    grid = f"grid: {{sources.rich.alphabet: [{many}], sources.simple.alphabet: [{many}]}}"
    found = problem(load, tmp_path, STUDY.replace("grid: {}", grid))
    assert (found.path, found.what) == ("grid", "4,608 variants")
