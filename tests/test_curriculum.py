"""Curricula: the grammar of `curricula/*.yaml`."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest
from plan_files import SOURCES, curriculum, problem, problems, stage

from ncamix.curriculum import Curriculum, Seeds, Stage
from ncamix.library import shipped
from ncamix.loading import load_curriculum
from ncamix.quantities import Quantity

TEXT = SOURCES + "  code: {kind: text, files: [a.txt]}\n"
BYTES = "tokenizer: bytes\n"


def load(folder: Path, text: str) -> Curriculum:
    (folder / "c.yaml").write_text(text)
    return load_curriculum(folder / "c.yaml").curriculum


@pytest.mark.parametrize("file", sorted(shipped("curricula").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_curricula_are_valid(file: Path) -> None:
    assert load_curriculum(file).curriculum.name == file.stem


def test_seeds_by_purpose(tmp_path: Path) -> None:
    one = stage("{hiss: 1}")
    assert load(tmp_path, curriculum(one, rest="seed: 5\n")).seed == Seeds(5, 5, 5)
    three = "seed: {init: 1, order: 2, rules: 3}\n"
    assert load(tmp_path, curriculum(one, rest=three)).seed == Seeds(1, 2, 3)
    for bad in ("{init: 1}", "-1", "1.5", "{init: 1, order: 2, rules: 3, data: 4}"):
        assert "seed" in problem(load, tmp_path, curriculum(one, rest=f"seed: {bad}\n")).what


def test_fingerprints_cover_meaning_not_spelling(tmp_path: Path) -> None:
    stages = stage("{0%: {simple: 1, rich: 3}, 60%: {hiss: 1}}", more=", batch_size: 4")
    first = load(tmp_path, curriculum(stages)).fingerprint()
    again = "# a remark\n" + stage(
        "[{at: 0.0%, mix: {rich: 75%, simple: 25%}}, {at: 60.0%, mix: {hiss: 7}}]",
        more=", batch_size: 4.0",
    )
    backwards = "".join(reversed(SOURCES.splitlines(keepends=True)))
    spelled = backwards.replace("0.30", "0.3").replace("1.00", "1")
    assert load(tmp_path, curriculum(again, spelled)).fingerprint() == first
    for old, new in (("60%", "61%"), ("rich: 3", "rich: 4"), ("{hiss", "{binary")):
        changed = load(tmp_path, curriculum(stages.replace(old, new)))
        assert changed.fingerprint() != first


def only_stage(folder: Path, more: str, duration: str = "rest") -> Stage:
    (found,) = load(folder, curriculum(stage("{hiss: 1}", duration, more=more))).stages
    return found


def test_keys_of_a_stage(tmp_path: Path) -> None:
    plain = only_stage(tmp_path, "")
    assert (plain.transform, plain.draw, plain.until) == (None, {}, None)
    assert (plain.batch_size, plain.sequence_length, plain.precision) == (None, None, None)
    for transform in ("reverse", "flatten"):
        assert only_stage(tmp_path, f", transform: {transform}").transform == transform
    assert only_stage(tmp_path, ", draw: {hiss: new}").draw == {"hiss": "new"}
    overridden = only_stage(tmp_path, ", batch_size: 2, sequence_length: 32, precision: bf16")
    assert overridden.batch_size == 2
    assert (overridden.sequence_length, overridden.precision) == (32, "bf16")


@pytest.mark.parametrize(
    ("written", "value", "unit"),
    [("15%", 15, "%"), ("164Mtok", 164_000_000, "tok"), ("500ba", 500, "ba"), ("2.5ba", 2.5, "ba")],
)
def test_durations(tmp_path: Path, written: str, value: float, unit: str) -> None:
    assert only_stage(tmp_path, "", written).duration == Quantity(Fraction(value), unit)


@pytest.mark.parametrize(
    ("text", "path", "what", "remedy"),
    [
        (
            curriculum(stage("{code: 1}"), TEXT, "tokenizer: {bpe: 256, train_on: [code]}\n"),
            "tokenizer.bpe",
            "257 to 1,048,576",
            "bpe: 4096",
        ),
        (curriculum(stage("{hiss: 1}", "half")), "stages.one.duration", "'half' is not", "15%"),
        (curriculum(stage("{hiss: 1}", "101%")), "stages.one.duration", "more than the", "100%"),
        (curriculum(stage("{hiss: 1}", "0ba")), "stages.one.duration", "longer than", "500ba"),
        (curriculum("  []\n"), "stages", "at least one stage", "stages:"),
        (curriculum("  - 5\n"), "stages.0", "a mapping of keys to values", "key: value"),
        (
            curriculum(stage("{hiss: 60%, rich: 30%}")),
            "stages.one.mixture",
            "the shares sum to 90%, not 100%",
            "make them sum to 100%",
        ),
        (
            curriculum(stage("{0%: {hiss: 1}, 60%: {hiss: 110%, rich: -10%}}")),
            "stages.one.mixture.60%.rich",
            "the weight is negative",
            "0 or more",
        ),
        (curriculum(stage("{hiss: 1}", "0ep")), "stages.one.duration", "longer than", "10ep"),
        (curriculum(stage("{hiss: 1}", "10x")), "stages.one.duration", "not understood", "10ep"),
        (
            curriculum(stage("{hiss: 1}", more=", transform: revers")),
            "stages.one.transform",
            "not one of the choices",
            "did you mean 'reverse'?",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", draw: {hiss: again}")),
            "stages.one.draw.hiss",
            "not one of the choices",
            "new, replay",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", draw: [hiss]")),
            "stages.one.draw",
            "a mapping of keys to values",
            "key: value",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", sequence_length: 1")),
            "stages.one.sequence_length",
            "at least 2 tokens",
            "256",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", precision: fp8")),
            "stages.one.precision",
            "not one of the choices",
            "choices: fp32, bf16, fp16",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", until: {loss/hiss: {below: 0}}")),
            "stages.one.until.loss/hiss.below",
            "not above 0",
            "above 0",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", enter: {reinitialize: [embedings]}")),
            "stages.one.enter.reinitialize.0",
            "unknown group 'embedings'",
            "did you mean 'embeddings'?",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", enter: {form: a/b}")),
            "stages.one.enter.form",
            "unknown key 'form'",
            "did you mean 'from'?",
        ),
        (
            curriculum(stage("{hiss: 1}", more=", optimiser: {}")),
            "stages.one.optimiser",
            "unknown key 'optimiser'",
            "did you mean 'optimizer'?",
        ),
        (
            curriculum(stage("{hiss: 1}"), rest="vocabulary: {layout: joint}\n"),
            "vocabulary.layout",
            "not one of the choices",
            "did you mean 'disjoint'?",
        ),
    ],
)
def test_refused_curricula(tmp_path: Path, text: str, path: str, what: str, remedy: str) -> None:
    found = problem(load, tmp_path, text)
    assert found.path == path
    assert what in found.what
    assert remedy in found.remedy
    assert found.line
    assert found.file.endswith("c.yaml")


@pytest.mark.parametrize(
    ("source", "path", "what"),
    [
        ("{band: {gzip: [0.3, 0.4]}}", "", "the source has no `kind`"),
        ("5", "", "a source is a mapping with a `kind`"),
        ("{kind: nac}", ".kind", "unknown kind 'nac'"),
        ("{kind: [nca]}", ".kind", "unknown kind"),
        ("{kind: nca}", ".band", "this key is missing"),
        ("{kind: nca, band: 0.3}", ".band", "a band is one measure and its interval"),
        ("{kind: nca, band: {gzip: 0.3}}", ".band.gzip", "a band's interval is [low, high]"),
        ("{kind: nca, band: {gzip: [0.3, 1.1]}}", ".band.gzip", "[0.3, 1.1) does not lie betw"),
        ("{kind: nca, band: {gzip: [0.4, 0.3]}}", ".band.gzip", "[0.4, 0.3) is reversed"),
        ("{kind: nca, band: {gzip: [0.4, 0.4]}}", ".band.gzip", "[0.4, 0.4) is empty"),
        ("{kind: nca, band: {gzip: [30%, 40%]}}", ".band.gzip", "ratios, not percentages"),
        ("{kind: nca, band: {bzip: [0.3, 0.4]}}", ".band.bzip", "unknown measure 'bzip'"),
        ("{kind: nca, band: {gzip: [0.3, 0.4]}, grid: 13}", ".grid", "13 x 13 cells do not"),
        ("{kind: nca, band: {gzip: [0.3, 0.4]}, alphabet: 65}", ".alphabet", "2 to 64 states"),
        ("{kind: nca, band: {gzip: [0.3, 0.4]}, rules: 0}", ".rules", "not a pool of rules"),
        ("{kind: nca, band: {gzip: [0, 1]}, loss_from_frame: -1}", ".loss_from_frame", "whole"),
        ("{kind: nca, band: {gzip: [0, 1]}, alphabt: 3}", ".alphabt", "unknown key 'alphabt'"),
        ("{kind: noise, exponent: 1}", ".exponent", "uniform noise has no exponent"),
        ("{kind: noise, symbols: 0}", ".symbols", "not a positive number"),
        ("{kind: noise, symbols: 1048577}", ".symbols", "more than 1,048,576 symbols"),
        ("{kind: noise, distribution: zipf, exponent: 4.01}", ".exponent", "outside 0 to 4"),
        ("{kind: dyck}", ".style", "this key is missing"),
        ("{kind: dyck, style: shuffled}", ".style", "not one of the choices"),
        ("{kind: dyck, style: nested, symbols: 0}", ".symbols", "not a positive number"),
        ("{kind: dyck, style: nested, symbols: 524289}", ".symbols", "more than 524,288 symbols"),
        ("{kind: dyck, style: nested, depth: 0}", ".depth", "a depth is its maximum or [low, hi"),
        ("{kind: dyck, style: nested, depth: [1]}", ".depth", "a depth is its maximum or [low, h"),
        ("{kind: dyck, style: nested, depth: [9, 4]}", ".depth", "the depth [9, 4] is reversed"),
        ("{kind: dyck, style: nested, p_open: 1}", ".p_open", "a probability lies between 0 and 1"),
        ("{kind: dyck, style: nested, p_open: 50%}", ".p_open", "not a number"),
        ("{kind: text}", "", "needs either `files` or `hub`"),
        ("{kind: text, files: [a], hub: b}", "", "needs either `files` or `hub`"),
        ("{kind: text, files: [a], split: b}", ".split", "belongs to `hub`"),
        ("{kind: text, files: []}", ".files", "not a list of files"),
        ("{kind: text, files: [a], holdout: {share: 2}}", ".holdout.share", "between 0 and 1"),
        ("{kind: text, files: [a], repeat: 0}", ".repeat", "not a number of epochs"),
        ("{kind: blend}", "", "needs either `mixture` or `proportional`"),
        (
            "{kind: blend, mixture: {hiss: 1}, proportional: [hiss]}",
            "",
            "needs either `mixture` or",
        ),
        ("{kind: blend, mixture: {hiss: 1}, temperature: 2}", ".temperature", "to `proportional`"),
        ("{kind: blend, proportional: [a], clock: run}", ".clock", "belongs to `mixture`"),
        ("{kind: blend, proportional: [a], cycle: 5ba}", ".cycle", "belongs to `mixture`"),
        ("{kind: blend, proportional: [a], temperature: 0.5}", ".temperature", "between 1 and"),
        ("{kind: blend, proportional: []}", ".proportional", "not a list of sources"),
        ("{kind: blend, proportional: a}", ".proportional", "not a list of sources"),
        ("{kind: blend, proportional: [a, a]}", ".proportional.1", "'a' stands twice"),
        ("{kind: blend, proportional: [1]}", ".proportional.0", "not the name of a source"),
        ("{kind: blend, mixture: {hiss: 1}, cycle: 0ba}", ".cycle", "longer than nothing"),
    ],
)
def test_refused_sources(tmp_path: Path, source: str, path: str, what: str) -> None:
    text = curriculum(stage("{hiss: 1}"), SOURCES + f"  new: {source}\n", BYTES)
    found = problem(load, tmp_path, text)
    assert found.path == "sources.new" + path
    assert what in found.what
    assert found.line == 9
    assert found.remedy


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
ncamix: 1
name: five
name: six
sources:
  simple: {kind: nca, alphabet: 10, band: {gzip: [0.40, 0.30]}}
  hiss: {kind: noise, symbls: 5}
stages:
  - name: one
    duration: 50 percent
    mixture: {simple: 50%, hiss: 40%}
  - name: two
    duration: rest
    mixture: {simpel: 1}
evaluate: {every: 10%, sources: [hizz]}
"""
    found = problems(load, tmp_path, text)
    assert [(p.line, p.column, p.path) for p in found] == [
        (3, 1, ""),
        (5, 44, "sources.simple.band.gzip"),
        (6, 31, "sources.hiss.symbls"),
        (9, 15, "stages.one.duration"),
        (10, 5, "stages.one.mixture"),
        (13, 23, "stages.two.mixture.simpel"),
        (14, 34, "evaluate.sources.0"),
    ]
    assert found[3].value == "50 percent"
    assert found[5].value == "1"
    assert all(p.remedy for p in found)
    assert all(re.match(r".*c\.yaml:\d+:\d+: ", str(p)) for p in found)


@pytest.mark.parametrize("key", ["until", "cycle", "transform", "batch_size", "enter", "optimizer"])
def test_a_key_with_nothing_behind_it_is_no_default(tmp_path: Path, key: str) -> None:
    found = problem(load, tmp_path, curriculum(stage("{hiss: 1}", more=f", {key}: ")))
    assert found.path == f"stages.one.{key}"
    assert found.what == f"nothing is written for '{key}'"
