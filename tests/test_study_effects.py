"""What a study shows beside its findings: planted costs, scalings and grids are found again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from finished_studies import BASE, Figures, write_study

from ncamix.statistics import paired_test
from ncamix.study_record import read_study
from ncamix.study_results import StudyResults, results_of, tuning_remarks

HEAD = """\
ncamix: 1
name: tried
base: bands.yaml
trainer: small.yaml
seeds: [1, 2, 3, 4]
"""
COMPARE = "compare: {primary: [PAIR], metric: bits_per_byte/code, smallest_effect: 0.01}\n"


def study(
    folder: Path, body: str, pair: str, effects: Mapping[str, float], base: str = BASE
) -> StudyResults:
    text = HEAD + body + COMPARE.replace("PAIR", pair)
    home = write_study(folder, text, base, Figures(effects, own=0.001, documents=0))
    return results_of(read_study(home))


def test_what_drawing_groups_anew_costs(tmp_path: Path) -> None:
    body = """\
variants:
  embeddings: {}
  nothing: {stages.code.enter.reinitialize: []}
  attention: {stages.code.enter.reinitialize: [attention]}
  some_layers: {stages.code.enter.reinitialize: [embeddings, {attention: 0..0}]}
  otherwise: {stages.code.enter.initializer: torch}
  kept: {stages.code.enter: {keep_only: [mlp]}}
  slower: {stages.code.optimizer: {lr: {peak: 0.5x}}}
controls: [scratch_natural]
"""
    effects = {"attention": 0.05, "embeddings": 0.02, "kept": 0.09}
    results = study(tmp_path, body, "embeddings, nothing", effects)
    (found,) = results.redrawings
    assert (found.reference, found.what) == ("nothing", "nothing")
    costs = {one.arm: one for one in found.arms}
    assert set(costs) == {"embeddings", "attention", "some_layers", "otherwise", "kept"}
    assert costs["attention"].what == "attention"
    assert costs["some_layers"].what == "embeddings, attention 0"
    assert costs["otherwise"].what == "embeddings (from torch)"
    assert costs["kept"].what == "all but mlp"
    values = {row.arm.name: row.summary.values for row in results.rows}
    for arm, one in costs.items():
        differences = [values[arm][seed] - values["nothing"][seed] for seed in (1, 2, 3, 4)]
        assert one.test == paired_test(differences, 0.95)
        assert one.difference == pytest.approx(effects.get(arm, 0), abs=0.005)


def test_arms_that_differ_in_more_are_no_cost_of_redrawing(tmp_path: Path) -> None:
    body = """\
variants:
  up: {}
  both: {stages.code.enter.reinitialize: [mlp], stages.automata.transform: reverse}
  frozen: {stages.code.enter: {reinitialize: [mlp], freeze: [attention]}}
controls: [scratch_natural]
"""
    assert study(tmp_path, body, "up, both", {}).redrawings == []


BANDS = """\
variants:
  two: {sources.rich: {kind: nca, alphabet: 2, band: {quantile: [0.5, 1.0]}}}
  ten: {sources.rich: {kind: nca, alphabet: 10, band: {quantile: [0.5, 1.0]}}}
"""
ONE_BAND = BASE.replace(
    "{0%: {simple: 80%, binary: 20%}, 60%: {simple: 40%, rich: 60%}, 100%: {rich: 1}}", "{rich: 1}"
)


def test_a_line_an_alphabet_over_tokens_of_automata(tmp_path: Path) -> None:
    body = BANDS + "grid: {stages.automata.duration: [10%, 20%, 40%]}\ncontrols: []\n"
    effects = {f"two,duration={share}%": -0.01 * share / 10 for share in (10, 20, 40)}
    pair = '"two,duration=20%", "ten,duration=20%"'
    results = study(tmp_path, body, pair, effects, ONE_BAND)
    two, ten = results.scalings
    assert (two.label, ten.label) == ("2 states", "10 states")
    for line, name in ((two, "two"), (ten, "ten")):
        arms = [f"{name},duration={share}%" for share in (10, 20, 40)]
        assert [arm for _, arm, *_ in line.points] == arms
        tokens = [tokens for tokens, *_ in line.points]
        assert tokens == [results.record.arms[arm].tokens["rich"] for arm in arms]
        assert tokens == sorted(set(tokens))
        assert all(interval is not None for *_, interval in line.points)
    assert two.points[2][2] - two.points[0][2] == pytest.approx(-0.03, abs=0.005)


def test_arms_with_as_many_tokens_are_lines_of_their_own(tmp_path: Path) -> None:
    kept = "  kept: {sources.rich.alphabet: 2, stages.code.enter: null}\n"
    low = ONE_BAND.replace("band: {gzip: [0.50, 1.00]}", "band: {quantile: [0.5, 1.0]}")
    body = BANDS + kept + "grid: {stages.automata.duration: [10%, 20%]}\ncontrols: []\n"
    pair = '"two,duration=20%", "ten,duration=20%"'
    results = study(tmp_path, body, pair, {}, low)
    labels = [line.label for line in results.scalings]
    assert labels == ["2, two", "10, ten", "2, kept"]


def test_no_line_where_alphabets_or_tokens_are_the_same(tmp_path: Path) -> None:
    same_tokens = study(tmp_path / "a", BANDS + "controls: []\n", "two, ten", {}, ONE_BAND)
    assert same_tokens.scalings == []
    body = "grid: {stages.automata.duration: [10%, 20%]}\ncontrols: []\n"
    same_alphabet = study(tmp_path / "b", body, '"duration=10%", "duration=20%"', {}, ONE_BAND)
    assert same_alphabet.scalings == []


def test_a_value_on_the_edge_of_the_grid_is_told(tmp_path: Path) -> None:
    body = """\
variants: {up: {}, down: {stages.automata.transform: reverse}}
controls: []
tune: {stages.code.optimizer.lr.peak: [GRID], seeds: [101, 102]}
"""
    inner = study(tmp_path / "a", body.replace("GRID", "0.5x, 1x, 2x"), "up, down", {})
    assert [tuned.chosen for tuned in inner.tuned] == ["peak=1x", "peak=1x"]
    assert [tuned.edge for tuned in inner.tuned] == [(), ()] and tuning_remarks(inner) == []
    assert all(len(values) == 2 for tuned in inner.tuned for _, values in tuned.points)
    outer = study(tmp_path / "b", body.replace("GRID", "1x, 2x, 4x"), "up, down", {})
    path = "stages.code.optimizer.lr.peak"
    assert [tuned.edge for tuned in outer.tuned] == [(path,), (path,)]
    (remark,) = tuning_remarks(outer)
    assert remark.startswith(path) and "up, down" in remark and "wider grid" in remark
