"""Studies: the grammar of study files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from plan_files import problem, problems

from ncamix.reading import read_document
from ncamix.study import Metric, Study
from ncamix.validation import validate

STUDY = """\
ncamix: 1
name: orders
base: base.yaml
trainer: small.yaml
seeds: [1, 2]
tune: {stages.two.optimizer.lr.peak: [0.5x, 1x], seeds: [101], on: validation}
variants:
  up: {}
  less: {stages.one: null, match: natural}
grid: {}
compare: {primary: [up, less], metric: loss/simple, smallest_effect: 0.01}
"""


def load(folder: Path, text: str) -> Study:
    (folder / "s.yaml").write_text(text)
    return validate(Study, read_document(folder / "s.yaml"))


def test_values_are_exact(tmp_path: Path) -> None:
    study = load(tmp_path, STUDY)
    assert study.seeds == (1, 2)
    assert study.tune is not None and study.tune.seeds == (101,)
    assert study.tune.settings == {"stages.two.optimizer.lr.peak": ("0.5x", "1x")}
    assert study.variants["less"].settings == {"stages.one": None}
    assert (study.variants["less"].match, study.variants["up"].match) == ("natural", None)
    assert study.compare is not None
    assert study.compare.metric == Metric("loss", "simple")
    assert study.compare.smallest_effect == Fraction(1, 100)


@pytest.mark.parametrize(
    ("old", "new", "path", "what"),
    [
        ("name: orders", "name: 1 2", "name", "cannot name a study"),
        ("name: orders\n", "", "name", "missing"),
        ("base: base.yaml\n", "", "base", "missing"),
        ("base: base.yaml", "base: [a]", "base", "text is wanted"),
        ("grid: {}", "grids: {}", "grids", "unknown key 'grids'"),
        ("seeds: [1, 2]", "seeds: 1", "seeds", "not a list of seeds"),
        ("seeds: [1, 2]", "seeds: []", "seeds", "not a list of seeds"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "seeds.1", "this seed stands twice"),
        ("seeds: [1, 2]", "seeds: [1, -2]", "seeds.1", "'-2' is not a seed"),
        ("seeds: [1, 2]", "seeds: [1, true]", "seeds.1", "'True' is not a seed"),
        ("tune: {", "tune: {}\n#", "tune", "nothing is tuned"),
        ("[0.5x, 1x]", "0.5x", "tune.stages.two.optimizer.lr.peak", "a list of two or more"),
        ("[0.5x, 1x]", "[1x]", "tune.stages.two.optimizer.lr.peak", "a list of two or more"),
        ("[0.5x, 1x]", "[1x, 1x]", "tune.stages.two.optimizer.lr.peak.1", "1x stands twice"),
        ("seeds: [101], ", "", "tune.seeds", "not a list of seeds"),
        ("on: validation", "on: training", "tune.on", "'training' cannot be tuned on"),
        ("up: {}", "up: down", "variants.up", "a mapping of paths to values"),
        ("match: natural", "match: tokens", "variants.less.match", "unknown match 'tokens'"),
        ("grid: {}", "grid: [1]", "grid", "a mapping of paths to values"),
        ("grid: {}", "grid: {seed: 1}", "grid.seed", "the values of a grid are a list"),
        (
            "primary: [up, less]",
            "primary: up",
            "compare.primary",
            "two different arms are compared",
        ),
        ("primary: [up, less]", "primary: [up, up]", "compare.primary", "two different arms"),
        ("loss/simple", "losses/simple", "compare.metric", "a figure and a source"),
        ("loss/simple", "loss", "compare.metric", "a figure and a source"),
        ("effect: 0.01", "effect: 0", "compare.smallest_effect", "not above 0"),
        (", smallest_effect: 0.01", "", "compare.smallest_effect", "missing"),
        ("metric:", "metrics:", "compare.metrics", "unknown key 'metrics'"),
        ("0.01}", "0.01, speedup: {to: up, of: []}}", "compare.speedup.of", "no arm's speed-up"),
        ("0.01}", "0.01, speedup: {to: up, of: up}}", "compare.speedup.of", "held against"),
        (
            "0.01}",
            "0.01, speedup: {to: up, of: [less, up]}}",
            "compare.speedup.of.1",
            "'up' is what the others are held against",
        ),
        (
            "0.01}",
            "0.01, speedup: {to: up, of: less, lengths: [1x]}}",
            "compare.speedup.lengths",
            "takes another length",
        ),
        (
            "0.01}",
            "0.01, speedup: {to: up, of: less, lengths: 2x}}",
            "compare.speedup.lengths",
            "not a list of lengths",
        ),
    ],
)
def test_refused_studies(tmp_path: Path, old: str, new: str, path: str, what: str) -> None:
    assert old in STUDY
    found = problems(load, tmp_path, STUDY.replace(old, new))
    assert (path, True) in [(p.path, what in p.what) for p in found]
    assert all(p.line and p.remedy for p in found)


def test_one_other_length_is_enough_for_a_speed_up(tmp_path: Path) -> None:
    text = STUDY.replace("0.01}", "0.01, speedup: {to: up, of: less, lengths: [0.5x]}}")
    compare = load(tmp_path, text).compare
    assert compare is not None and compare.speedup is not None
    assert compare.speedup.lengths == (Fraction(1, 2), Fraction(1))


def test_every_mistake_is_found(tmp_path: Path) -> None:
    text = STUDY.replace("[1, 2]", "[]").replace("loss/", "los/").replace("on: val", "on: inval")
    assert [p.path for p in problems(load, tmp_path, text)] == [
        "seeds",
        "tune.on",
        "compare.metric",
    ]


def test_the_nearest_is_offered(tmp_path: Path) -> None:
    found = problem(load, tmp_path, STUDY.replace("loss/simple", "los/simple"))
    assert "did you mean 'loss'?" in found.remedy
