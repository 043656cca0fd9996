"""Composition: what `extends` and `--set` make of several texts, and whom their errors cite."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_files import TRAINER, curriculum, plan_of, problem, problems, stage

from ncamix.composition import MAX_FILES, apply, compose, parse_setting, settings_of
from ncamix.errors import Problem
from ncamix.library import shipped
from ncamix.loading import load_curriculum
from ncamix.optimizer import Scaled
from ncamix.planning import make_plan
from ncamix.reading import parse_document, parse_part
from ncamix.trainer import load_trainer

STAGES = stage("{simple: 1}", "20%", "warm") + stage("{rich: 1}", "30%", "mid")
BASE = curriculum(STAGES + stage("{hiss: 1}", "rest", "end"), rest="seed: 5\n")
HEAD = "ncamix: 1\nname: mine\nextends: base.yaml\n"


def composed(folder: Path, over: str, base: str = BASE) -> Any:
    """The plain values of a file that extends another."""
    document = compose(two(folder, over, base))
    assert not document.problems, document.problems
    return document.tree.plain()


def two(folder: Path, over: str, base: str = BASE) -> Path:
    """Write a base and a file that extends it; the latter."""
    (folder / "base.yaml").write_text(base)
    (folder / "mine.yaml").write_text(HEAD + over)
    return folder / "mine.yaml"


def bases(folder: Path) -> Any:
    return parse_document(BASE, str(folder)).tree.plain()


def faults(folder: Path, over: str, base: str = BASE) -> list[Problem]:
    return list(compose(two(folder, over, base)).problems)


def set_to(*settings: str, text: str = BASE) -> Any:
    """The plain values of a document with settings laid over it."""
    tree = parse_document(text, "x.yaml").tree
    for setting in settings:
        tree = apply(tree, parse_setting(setting))
    return tree.plain()


# ---- extends


def test_a_file_that_adds_nothing_means_the_same(tmp_path: Path) -> None:
    assert composed(tmp_path, "") == {**bases(tmp_path), "name": "mine"}
    assert compose(two(tmp_path, "")).file == str(tmp_path / "mine.yaml")


def test_mappings_merge_null_deletes_and_the_rest_replaces(tmp_path: Path) -> None:
    base = curriculum(
        stage(
            "{0%: {simple: 1}, 50%: {rich: 1}}",
            more=", optimizer: {lr: {peak: 1x, warmup: 5%}, clip: 1, betas: [0.9, 0.95]},"
            " enter: {reinitialize: {mlp: all}, optimizer_state: fresh}",
        ),
        rest="seed: {init: 1, order: 2, rules: 3}\n",
    )
    over = (
        "seed: {init: 9}\nevaluate: {sources: [hiss]}\n"
        "sources: {binary: null, hiss: {symbols: 7}}\n"
        "stages: [{name: one, mixture: {hiss: 1}, optimizer: {lr: {peak: 2x}, clip: null,"
        " betas: [0.8, 0.9]}, enter: {reinitialize: {attention: 3}}}]\n"
    )
    made = composed(tmp_path, over, base)
    assert made["seed"] == {"init": 9, "order": 2, "rules": 3}
    assert made["evaluate"] == {"sources": ["hiss"]}
    assert list(made["sources"]) == ["simple", "rich", "hiss"]
    assert made["sources"]["hiss"] == {"kind": "noise", "symbols": 7}
    (one,) = made["stages"]
    assert one["mixture"] == {"hiss": 1}
    assert one["optimizer"]["lr"] == {"peak": "2x"}
    assert "clip" not in one["optimizer"]
    assert one["enter"] == {"reinitialize": {"attention": 3}, "optimizer_state": "fresh"}
    assert one["duration"] == "rest"


def test_a_source_of_another_kind_and_a_band_replace_whole(tmp_path: Path) -> None:
    over = "sources:\n  rich: {kind: noise, symbols: 5}\n  simple: {band: {quantile: [0, 0.5]}}\n"
    sources = composed(tmp_path, over)["sources"]
    assert sources["rich"] == {"kind": "noise", "symbols": 5}
    assert list(sources["simple"]["band"]) == ["quantile"]
    assert sources["simple"]["alphabet"] == 10
    named = curriculum(
        stage("{lr: 1}"), "  lr: {kind: noise, symbols: 3}\n  band: {kind: noise, symbols: 4}\n"
    )
    merged = composed(tmp_path, "sources: {lr: {distribution: zipf}, band: {symbols: 9}}\n", named)
    assert merged["sources"] == {
        "lr": {"kind": "noise", "symbols": 3, "distribution": "zipf"},
        "band": {"kind": "noise", "symbols": 9},
    }


def test_a_cycle_goes_with_the_schedule_beside_it(tmp_path: Path) -> None:
    base = curriculum(
        stage(
            "{0%: {simple: 1}, 50%: {rich: 1}}",
            more=", cycle: 10ba, optimizer: {lr: {0%: 1x, 50%: 0x}, cycle: 5ba}",
        )
    )
    (one,) = composed(tmp_path, "stages: {one: {mixture: {hiss: 1}}}\n", base)["stages"]
    assert "cycle" not in one
    assert one["optimizer"]["cycle"] == "5ba"
    over = "stages: {one: {mixture: {0%: {hiss: 1}, 9%: {rich: 1}}, cycle: 7ba}}\n"
    assert composed(tmp_path, over, base)["stages"][0]["cycle"] == "7ba"


@pytest.mark.parametrize(
    ("written", "order"),
    [
        ("[{name: new}]", "warm mid end new"),
        ("[{name: new}, {name: mid}]", "warm new mid end"),
        ("[{name: new}, {name: newer}, {name: warm}]", "new newer warm mid end"),
        ("[{name: warm}, {name: new}]", "warm new mid end"),
        ("[{name: warm}, {name: new}, {name: newer}, {name: mid}]", "warm new newer mid end"),
        ("[{name: mid}, {name: new}, {name: warm}]", "warm mid new end"),
        ("[{name: end}, {name: warm}]", "warm mid end"),
        ("{new: {}, end: {}}", "warm mid new end"),
        ("{warm: null, new: {}}", "new mid end"),
        ("{warm: null, mid: null, end: null, new: {}}", "new"),
        ("{mid: {name: middle}}", "warm middle end"),
    ],
)
def test_where_stages_stand(tmp_path: Path, written: str, order: str) -> None:
    made = composed(tmp_path, f"stages: {written}\n")["stages"]
    assert [each["name"] for each in made] == order.split()


def test_both_forms_of_stages_merge_alike(tmp_path: Path) -> None:
    listed = composed(tmp_path, "stages: [{name: mid, duration: 10%}]\n")
    assert composed(tmp_path, "stages: {mid: {duration: 10%}}\n") == listed
    assert listed["stages"][1] == {"name": "mid", "duration": "10%", "mixture": {"rich": 1}}


@pytest.mark.parametrize(
    ("over", "path", "what", "remedy"),
    [
        ("stages: {wram: null}\n", "stages.wram", "no 'wram' to delete", "did you mean 'warm'?"),
        ("sources: {rihc: null}\n", "sources.rihc", "no 'rihc' to delete", "mean 'rich'?"),
        ("seeds: null\n", "seeds", "there is no 'seeds' to delete", "did you mean 'seed'?"),
        ("stages: {warm: }\n", "stages.warm", "nothing is written for 'warm'", "write null"),
        ("stages:\n  warm:\n", "stages.warm", "nothing is written for 'warm'", "write null"),
        ("sources:\n", "sources", "nothing is written for 'sources'", "write null"),
        ("stages: {warm: 5}\n", "stages.warm", "a stage is a mapping", "duration"),
        ("stages: [{duration: 5%}]\n", "stages.0", "this one has none", "add `name:`"),
        ("stages: [warm]\n", "stages.0", "this one has none", "add `name:`"),
        ("stages: [{name: a}, {name: a}]\n", "stages.a.name", "two stages are named 'a'", "rename"),
    ],
)
def test_what_does_not_merge(tmp_path: Path, over: str, path: str, what: str, remedy: str) -> None:
    (found,) = faults(tmp_path, over)
    assert (found.path, found.file) == (path, str(tmp_path / "mine.yaml"))
    assert found.line >= 4
    assert what in found.what
    assert remedy in found.remedy


def test_stages_by_name_belong_to_files_that_extend(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(curriculum("  one: {duration: rest, mixture: {hiss: 1}}\n"))
    found = problem(load_curriculum, file)
    assert (found.path, found.line) == ("stages", 8)
    assert "a list" in found.what


def test_errors_cite_the_file_that_holds_the_value(tmp_path: Path) -> None:
    base = BASE.replace("symbols: 100", "symbols: many").replace("20%", "200%")
    over = "sources: {rich: {alphabet: 0x10}, hiss: {distribution: zipv}}\nevalute: {}\n"
    found = problems(load_curriculum, two(tmp_path, over, base))
    own, other = str(tmp_path / "mine.yaml"), str(tmp_path / "base.yaml")
    places = {(p.file, p.line, p.column, p.path) for p in found}
    assert places == {
        (other, 8, 32, "sources.hiss.symbols"),
        (other, 10, 28, "stages.warm.duration"),
        (own, 4, 28, "sources.rich.alphabet"),
        (own, 4, 56, "sources.hiss.distribution"),
        (own, 5, 1, "evalute"),
    }
    shown = {p.path: str(p) for p in found}
    assert shown["sources.hiss.symbols"].splitlines()[1:3] == [
        "    hiss: {kind: noise, symbols: many}",
        "                        ^^^^^^^^^^^^^",
    ]
    assert "did you mean 'evaluate'?" in shown["evalute"]


def test_problems_of_every_file_are_told_at_once(tmp_path: Path) -> None:
    found = faults(tmp_path, "seed: 1\nseed: 2\nstages: {x: null}\n", BASE + "name: again\n")
    assert [Path(p.file).name for p in found] == ["mine.yaml", "base.yaml", "mine.yaml"]
    (tmp_path / "mine.yaml").write_text(HEAD.replace("base", "gone") + "seed: 1\nseed: 2\n")
    twice, gone = problems(compose, tmp_path / "mine.yaml")
    assert ("stands twice" in twice.what, gone.path) == (True, "extends")


def test_paths_are_relative_to_the_file_that_holds_them(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder, name in ((tmp_path, "here"), (inner, "there")):
        (folder / "text.txt").write_text(f"{name} " * 3000)
    text = "  {}: {{kind: text, files: ['*.txt'], repeat: free}}\n"
    (inner / "base.yaml").write_text(
        curriculum(stage("{a: 1, b: 1}"), text.format("a"), "tokenizer: bytes\n")
    )
    (tmp_path / "mine.yaml").write_text(
        HEAD.replace("base.yaml", "inner/base.yaml") + "sources:\n" + text.format("b")
    )
    (tmp_path / "t.yaml").write_text(TRAINER)
    loaded = load_curriculum(tmp_path / "mine.yaml")
    sources = make_plan(loaded, load_trainer(tmp_path / "t.yaml")).sources
    for name, folder in (("a", inner), ("b", tmp_path)):
        planned = sources[name].text
        assert planned is not None and planned.files is not None
        assert [file.path for file in planned.files] == [folder / "text.txt"]


def test_chains_of_files(tmp_path: Path) -> None:
    (tmp_path / "low").mkdir()
    (tmp_path / "low" / "root.yaml").write_text(BASE)
    (tmp_path / "low" / "middle.yaml").write_text(
        "ncamix: 1\nname: middle\nextends: root\nseed: 6\nstages: {mid: {duration: 10%}}\n"
    )
    file = tmp_path / "top.yaml"
    file.write_text("ncamix: 1\nextends: low/middle.yaml\nname: top\nstages: {warm: null}\n")
    made = load_curriculum(file).curriculum
    assert (made.name, made.seed.init) == ("top", 6)
    assert [(each.name, str(each.duration)) for each in made.stages] == [
        ("mid", "10%"),
        ("end", "None"),
    ]


def test_shipped_files_are_extended_by_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("ncamix: 1\nname: mine\nextends: code_target\nstages: {automata: null}\n")
    assert [each.name for each in load_curriculum(file).curriculum.stages] == ["code"]
    file.write_text("ncamix: 1\nname: mine\nextends: cpu\nbudget: 2Mtok\nmodel: {layers: 2}\n")
    trainer = load_trainer(file).trainer
    assert (trainer.budget.value, trainer.model.layers, trainer.model.width) == (2e6, 2, 128)


@pytest.mark.parametrize(
    ("extends", "what", "remedy"),
    [
        ("code_targt", "no such curriculum: 'code_targt'", "did you mean 'code_target'?"),
        ("gone/base.yaml", "no such curriculum: 'gone/base.yaml'", "mean 'base'?"),
        ("[a, b]", "`extends` names the file", "extends: base.yaml"),
        ("null", "`extends` names the file", "extends: base.yaml"),
        ("mine.yaml", "a circle: ", "alone"),
        (f"{'x' * 5000}", "no such curriculum", "known ones"),
    ],
)
def test_bases_that_cannot_be_had(tmp_path: Path, extends: str, what: str, remedy: str) -> None:
    file = two(tmp_path, "")
    file.write_text(f"ncamix: 1\nname: mine\nextends: {extends}\n")
    found = problem(load_curriculum, file)
    assert (found.file, found.line, found.path) == (str(file), 3, "extends")
    assert what in found.what
    assert remedy in found.remedy
    assert len(str(found)) < 2000


def test_circles_show_the_way_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, base in (("a", "b"), ("b", "c"), ("c", "b")):
        Path(f"{name}.yaml").write_text(f"ncamix: 1\nname: {name}\nextends: {base}.yaml\n")
    found = problem(load_curriculum, "a.yaml")
    assert (found.file, found.line) == ("c.yaml", 3)
    assert found.what.endswith("a.yaml extends b.yaml extends c.yaml extends b.yaml")


def test_long_chains_are_refused(tmp_path: Path) -> None:
    for i in range(MAX_FILES + 1):
        text = f"ncamix: 1\nname: n{i}\nextends: {i + 1}.yaml\n"
        (tmp_path / f"{i}.yaml").write_text(text)
    assert f"more than {MAX_FILES} files" in problem(load_curriculum, tmp_path / "0.yaml").what


def test_every_file_has_a_version_and_one_that_extends_a_name(tmp_path: Path) -> None:
    file = two(tmp_path, "", BASE.replace("ncamix: 1\n", ""))
    found = problem(load_curriculum, file)
    assert (found.file, found.what) == (
        str(tmp_path / "base.yaml"),
        "the language version is missing",
    )
    two(tmp_path, "").write_text(HEAD.replace("name: mine\n", ""))
    found = problem(load_curriculum, file)
    assert (found.path, found.line) == ("extends", 2)
    assert "add `name: mine`" in found.remedy


Plain = dict[str, Any]
PLAIN = st.recursive(
    st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)


def laid_over(base: Any, over: Any) -> Any:
    """Merging as it is defined."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: laid_over(base.get(key), value) for key, value in over.items()}


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), PLAIN), min_size=1, max_size=3))
def test_merging_is_what_it_is_defined_to_be(layers: list[Plain]) -> None:
    wanted: Plain = {"ncamix": 1, "name": "n0"}
    with tempfile.TemporaryDirectory() as folder:
        for i, layer in reversed(list(enumerate(layers))):
            extends = {"extends": f"{i + 1}.yaml"} if i + 1 < len(layers) else {}
            written = {"ncamix": 1, "name": f"n{i}"} | extends | layer
            (Path(folder) / f"{i}.yaml").write_text(json.dumps(written))
            wanted = laid_over(wanted, layer)
        document = compose(Path(folder) / "0.yaml")
    assert not document.problems
    assert document.tree.plain() == wanted


# ---- settings


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("stages.mid.duration=10%", "stages.1.duration", "10%"),
        ("stages.mid.mixture={hiss: 1}", "stages.1.mixture", {"hiss": 1}),
        ("stages.mid.mixture.12.5%={hiss: 1}", "stages.1.mixture.12_5%", {"hiss": 1}),
        ("stages.mid.optimizer.lr.peak=0.5x", "stages.1.optimizer", {"lr": {"peak": "0.5x"}}),
        ("sources.rich.transform=shuffle_tokens", "sources.rich.transform", "shuffle_tokens"),
        ("sources.rich.band={quantile: [0, 1]}", "sources.rich.band", {"quantile": [0, 1]}),
        ("sources.new={kind: noise}", "sources.new", {"kind": "noise"}),
        ("stages.new={duration: 5%}", "stages.3", {"name": "new", "duration": "5%"}),
        ("stages.mid={duration: 5%}", "stages.1", {"name": "mid", "duration": "5%"}),
        ("evaluate.sources=[hiss, rich]", "evaluate.sources", ["hiss", "rich"]),
        ("stages.mid.until.loss/hiss.below=2", "stages.1.until", {"loss/hiss": {"below": 2}}),
        (" seed = 7", "seed", 7),
        ("name=a=b", "name", "a=b"),
    ],
)
def test_settings(setting: str, path: str, value: object) -> None:
    made = set_to(setting)
    for step in path.split("."):
        made = made[int(step)] if isinstance(made, list) else made[step.replace("_", ".")]
    assert made == value


def test_settings_delete_and_come_in_order() -> None:
    made = set_to("stages.warm=null", "sources.simple=null", "seed=~")
    assert [each["name"] for each in made["stages"]] == ["mid", "end"]
    assert "simple" not in made["sources"]
    assert "seed" not in made
    assert set_to("seed=null", "seed=4", "seed=3")["seed"] == 3
    lr = set_to("stages.mid.optimizer.lr=1e-3", "stages.mid.optimizer.lr={}")
    assert lr["stages"][1]["optimizer"] == {"lr": {}}


@pytest.mark.parametrize(
    ("setting", "path", "what", "remedy"),
    [
        ("seed", "", "a setting is PATH=VALUE", "stages.code.optimizer.lr.peak=3e-4"),
        ("", "", "a setting is PATH=VALUE", "stages.code.optimizer.lr.peak=3e-4"),
        ("=5", "", "not a path", "write"),
        ("a..b=5", "a.", "not a path", "write"),
        ("seed=", "seed", "no value is given", "write seed=null"),
        ("seed=# 5", "seed", "no value is given", "write seed=null"),
        ("seed=[1", "", "not valid YAML", "mend"),
        ("seed={a: 1, a: 2}", "", "the key 'a' stands twice", "keep one"),
        ("seed=!!int 5", "", "tags", "remove"),
        ("ncamix=2", "ncamix", "by the file itself", "write it there"),
        ("extends=b.yaml", "extends", "by the file itself", "write it there"),
        ("trainer=gpu", "trainer", "no part of a curriculum", "--trainer"),
        ("stages.mdi.duration=5%", "stages.mdi", "there is no stage 'mdi'", "mean 'mid'?"),
        ("stages.1.duration=5%", "stages.1", "there is no stage '1'", "warm, mid, end"),
        ("stages.mdi=null", "stages.mdi", "there is no stage 'mdi'", "did you mean 'mid'?"),
        ("sources.rihc.transform=x", "sources.rihc", "there is no source 'rihc'", "mean 'rich'?"),
        ("sources.rich.grdi=null", "sources.rich.grdi", "there is no 'grdi' here", "alphabet"),
        ("evaluate.sources=null", "evaluate", "there is no 'evaluate' here", "seed"),
        ("seed.init=3", "seed.init", "'seed' is 5, and", "as a whole: seed={init: 3}"),
        ("seed.init.x=3", "seed.init", "'seed' is 5, and", "as a whole: seed={init: ...}"),
        ("sources.rich.band.gzip.0=0.4", "sources.rich.band.gzip.0", "is a list", "gzip=[...]"),
        ("stages.mid=5%", "stages.mid", "a stage is a mapping", "mid.duration"),
    ],
)
def test_settings_that_are_refused(setting: str, path: str, what: str, remedy: str) -> None:
    found = problem(set_to, setting)
    assert (found.file, found.line, found.path) == ("--set", 0, path)
    assert what in found.what
    assert remedy in found.remedy
    if setting:
        assert str(found).splitlines()[1] == f"    {setting}"


def test_a_bare_rate_is_not_overwritten_by_a_part_of_it() -> None:
    text = BASE.replace("{hiss: 1}}", "{hiss: 1}, optimizer: {lr: 3e-4}}")
    found = problem(lambda: set_to("stages.end.optimizer.lr.peak=1x", text=text))
    assert "'stages.end.optimizer.lr' is 3e-4, and nothing stands below it" in found.what
    assert found.remedy.endswith("stages.end.optimizer.lr={peak: 1x}")
    assert found.excerpt.splitlines()[1].index("^") == len("stages.end.optimizer.lr.")


def test_settings_of_two_stages_with_one_name_touch_the_first() -> None:
    text = curriculum(stage("{hiss: 1}", "5%") + stage("{rich: 1}", "5%"))
    made = set_to("stages.one.duration=6%", text=text)["stages"]
    assert [each["duration"] for each in made] == ["6%", "5%"]


def test_settings_go_to_the_curriculum_or_to_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(BASE)
    (tmp_path / "t.yaml").write_text(TRAINER)
    settings = ["trainer.budget=51200tok", "stages.end.optimizer.lr.peak=3e-4", "trainer.name=big"]
    loaded = load_curriculum(tmp_path / "c.yaml", settings)
    rate = loaded.curriculum.stages[2].optimizer.lr
    assert isinstance(rate, Scaled)  # the trainer's own, with another peak
    assert float(rate.peak.value) == 3e-4
    assert loaded.document.settings == (settings[1],)
    trainer = load_trainer(tmp_path / "t.yaml", settings)
    assert (trainer.trainer.budget.value, trainer.trainer.name) == (51200, "big")
    assert make_plan(loaded, trainer).num_tokens == 51200


def test_errors_cite_the_setting(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(BASE)
    (tmp_path / "t.yaml").write_text(TRAINER)
    settings = (
        "stages.end.optimizer.lr.peak=fast",
        "stages.en.duration=4",
        "trainer.budgte=1Mtok",
        "trainer.model.layers",
        "sources.hiss={kind: noise, symbols: 1_000}",
    )
    found = problems(load_curriculum, tmp_path / "c.yaml", settings)
    assert {(p.file, p.path) for p in found} == {
        ("--set", "stages.end.optimizer.lr.peak"),
        ("--set", "stages.en"),
        ("--set", "sources.hiss.symbols"),
    }
    assert str(next(p for p in found if "hiss" in p.path)).splitlines()[1:3] == [
        "    sources.hiss={kind: noise, symbols: 1_000}",
        "                               ^^^^^^^^^^^^^^",
    ]
    found = problems(load_trainer, tmp_path / "t.yaml", settings)
    assert sorted((p.file, p.path) for p in found) == [("--set", ""), ("--set", "budgte")]


def test_paths_in_settings_start_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "c.yaml").write_text(
        curriculum(stage("{a: 1}"), "  a: {kind: text, files: [x.txt]}\n", "tokenizer: bytes\n")
    )
    document = compose("below/c.yaml")
    assert document.folder_of(("sources", "a", "files")) == tmp_path / "below"
    document = compose("below/c.yaml", ["sources.a.files=[y.txt]"])
    assert document.folder_of(("sources", "a", "files")) == tmp_path
    assert document.folder_of(("sources", "a", "kind")) == tmp_path / "below"


def test_settings_of_a_mapping_are_located_in_its_file(tmp_path: Path) -> None:
    written = "{stages.mid: null, sources.rich.transform: shuffle_tokens, trainer.budget: 1Mtok}"
    (tmp_path / "c.yaml").write_text(BASE)
    settings = settings_of(parse_part(written, "study.yaml").tree)
    assert list(map(str, settings)) == [
        "stages.mid=null",
        "sources.rich.transform=shuffle_tokens",
        "trainer.budget=1Mtok",
    ]
    document = compose(tmp_path / "c.yaml", settings)
    assert not document.problems
    assert document.tree.plain() == set_to(*map(str, settings[:2]))
    bad = settings_of(parse_part("x: 1\nstages.mdi.duration: 5%\nseed: zero\n", "s.yaml").tree)
    missing, *_ = compose(tmp_path / "c.yaml", bad).problems
    assert (missing.file, missing.line, missing.column) == ("s.yaml", 2, 8)
    assert missing.excerpt == "stages.mdi.duration: 5%\n       ^^^"
    found = problems(load_curriculum, tmp_path / "c.yaml", bad)
    assert ("s.yaml", 3, "seed") in {(p.file, p.line, p.path) for p in found}
    both = problems(settings_of, parse_part("{a..b: 1, seed: , trainer: cpu}", "s.yaml").tree)
    assert [p.path for p in both] == ["a.", "seed", "trainer"]


# ---- what a composed document says


def test_files_alone_keep_their_text_to_the_byte(tmp_path: Path) -> None:
    written = ("\ufeff# a remark\r\n" + BASE).encode()
    (tmp_path / "c.yaml").write_bytes(written)
    assert compose(tmp_path / "c.yaml").text.encode() == written


def test_composed_documents_are_written_out_with_their_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two(tmp_path, "stages: {mid: null}\n")
    settings = ["stages.warm.optimizer.lr.peak=1.50e-4", 'stages.end.x\x1b="#\\n"']
    document = compose("mine.yaml", settings)
    lines = document.text.splitlines()
    assert lines[0] == "# composed of mine.yaml, which extends base.yaml"
    assert lines[1] == "# --set stages.warm.optimizer.lr.peak=1.50e-4"
    assert lines[2].startswith('# "--set stages.end.x\\U0000001b=')
    assert lines[3:5] == ["ncamix: 1", "name: mine"]
    assert "peak: 1.50e-4" in document.text
    again = parse_document(document.text, "again.yaml")
    assert again.tree.plain() == document.tree.plain()


@pytest.mark.parametrize("file", sorted(shipped("curricula").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_curricula_composed_mean_the_same(tmp_path: Path, file: Path) -> None:
    whole = load_curriculum(file).curriculum
    (tmp_path / "mine.yaml").write_text(f"ncamix: 1\nname: {whole.name}\nextends: {file}\n")
    loaded = load_curriculum(tmp_path / "mine.yaml", [f"seed={whole.seed.init}"])
    assert loaded.curriculum.fingerprint() == whole.fingerprint()
    (tmp_path / "again.yaml").write_text(loaded.document.text)
    again = load_curriculum(tmp_path / "again.yaml").curriculum
    assert again.fingerprint() == whole.fingerprint()


def test_a_plan_does_not_tell_how_its_curriculum_was_written(tmp_path: Path) -> None:
    changed = (
        BASE.replace("name: tried", "name: mine").replace("30%", "25%").replace("seed: 5\n", "")
    )
    written_out = plan_of(tmp_path, changed.replace("alphabet: 2,", "alphabet: 3,"))
    file = two(tmp_path, "seed: null\nstages: {mid: {duration: 25%}}\n")
    loaded = load_curriculum(file, ["sources.binary.alphabet=3"])
    composed_plan = make_plan(loaded, load_trainer(tmp_path / "t.yaml"))
    assert loaded.curriculum.fingerprint() == written_out.curriculum.curriculum.fingerprint()
    assert composed_plan.fingerprint == written_out.fingerprint
