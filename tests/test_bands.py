"""What is known of bands: spreads measured once, quantiles, forecasts, and what the plan says."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from plan_files import curriculum, plan_of, problem, stage

from ncamix import bands
from ncamix.automata import Automaton, Band, shipped_spread
from ncamix.sources.nca import NcaGenerator, NcaSource

ODD = Automaton(alphabet=3, grid=(6, 6))  # not in the table


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bands, "_known", {})
    return tmp_path / "cache"


def test_a_spread_is_measured_once_and_kept(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[float] = []
    spread = bands.spread_of(ODD, "gzip", lambda what, share: said.append(share))
    assert said[-1] == 1.0 and spread.num_rules == 4000
    (file,) = own_cache.iterdir()
    bands._known.clear()
    again = bands.spread_of(ODD, "gzip", lambda what, share: pytest.fail("measured again"))
    assert again == spread
    file.write_text('{"measure": "gzip"')  # torn
    bands._known.clear()
    assert bands.spread_of(ODD, "gzip") == spread
    assert json.loads(file.read_text())["rules"] == 4000


def test_common_settings_need_no_measuring_and_no_cache(own_cache: Path) -> None:
    assert bands.spread_of(Automaton(), "gzip") == shipped_spread(Automaton())
    assert not own_cache.exists()


def test_grids_that_zlib_scores_name_it(tmp_path: Path) -> None:
    assert bands.measure_version(Automaton(grid=40), "gzip") == ""
    assert bands.measure_version(Automaton(grid=42), "gzip").startswith("zlib 1.")


def test_a_spread_of_something_else_is_not_believed(own_cache: Path) -> None:
    spread = bands.spread_of(ODD, "gzip")
    (file,) = own_cache.iterdir()
    for wrong in ('{"measure": "gzip", "compressed_byte_counts": {}}', "[]", "7"):
        file.write_text(wrong)
        bands._known.clear()
        assert bands.spread_of(ODD, "gzip") == spread


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "file" / "cache"))
    assert bands.spread_of(ODD, "change_rate").num_rules == 4000


def test_a_quantile_band_holds_its_share_of_the_rules() -> None:
    spread = bands.spread_of(Automaton(), "gzip")
    band = bands.quantile_band(Automaton(), Fraction(1, 4), Fraction(3, 4))
    assert band is not None and spread.share(band) == pytest.approx(0.5, abs=0.02)
    assert bands.quantile_band(Automaton(), Fraction(0), Fraction(1)) == Band(0, 1)
    lump = max(spread.counts, key=spread.counts.__getitem__)  # many rules die out: one size
    below = sum(n for amount, n in spread.counts.items() if amount < lump)
    inside = Fraction(below + 1, 4000), Fraction(below + 2, 4000)
    assert bands.quantile_band(Automaton(), *inside) is None


def source(band: str, more: str = "") -> str:
    return f"  odd: {{kind: nca, alphabet: 10, band: {band}{more}}}\n"


def test_quantiles_mean_the_band_that_they_stand_for(tmp_path: Path) -> None:
    one = curriculum(stage("{odd: 1}"), source("{quantile: [0.5, 1.0]}"))
    plan = plan_of(tmp_path, one)
    median = bands.spread_of(Automaton(), "gzip").quantile(Fraction(1, 2))
    meaning = plan.sources["odd"].meaning
    assert meaning["band"] == ["gzip", str(median), "1"]
    assert NcaGenerator(meaning).band() == Band(median, 1)
    assert plan.sources["odd"].spec.summary() == "nca, 10 states, quantile 0.50-1.00"


@pytest.mark.parametrize("measure", ["zstd", "change_rate"])
def test_other_measures_choose_other_rules(measure: str, tmp_path: Path) -> None:
    text = curriculum(stage("{odd: 1}"), source(f"{{{measure}: [0.2, 0.5]}}"))
    meaning = plan_of(tmp_path, text).sources["odd"].meaning
    version = bands.measure_version(Automaton(), measure)
    assert bool(version) == (measure == "zstd")
    assert meaning["band"] == [*filter(None, (measure, version)), "1/5", "1/2"]
    generator = NcaGenerator(meaning)
    frames, scores = generator.frames(3, 2)
    assert generator.band().measure == measure
    assert ((scores >= 0.2) & (scores < 0.5)).all()


def test_quantiles_without_a_score_are_refused(tmp_path: Path) -> None:
    text = curriculum(stage("{odd: 1}"), source("{quantile: [0.01, 0.0101]}"))
    found = problem(plan_of, tmp_path, text)
    assert found.path == "sources.odd.band" and "quantiles 0.01 and 0.0101" in found.what
    assert "widen it" in found.remedy


def test_quantiles_that_split_a_lump_are_remarked_on(tmp_path: Path) -> None:
    sources = "  odd: {kind: nca, alphabet: 2, band: {quantile: [0.2, 0.35]}}\n"
    plan = plan_of(tmp_path, curriculum(stage("{odd: 1}"), sources))
    assert any("many rules share one score" in warning for warning in plan.warnings)


def test_bands_of_measured_settings_are_checked_too(tmp_path: Path) -> None:
    sources = "  odd: {kind: nca, alphabet: 2, grid: 8, band: {gzip: [0.6, 0.7]}}\n"
    found = problem(plan_of, tmp_path, curriculum(stage("{odd: 1}"), sources))
    assert "no rule with 2 states reaches the band gzip 0.60-0.70" in found.what
    assert "of 4,000 random rules, gzip finds" in found.remedy
    unused = curriculum(stage("{other: 1}"), sources + "  other: {kind: noise}\n")
    plan_of(tmp_path, unused)  # what is never used is not measured either


def test_generation_is_forecast_and_scores_are_counted_once(tmp_path: Path) -> None:
    sources = "".join(
        f"  s{i}: {{kind: nca, band: {{gzip: [{low}, {high}]}}}}\n"
        for i, (low, high) in enumerate([(0.3, 0.4), (0.5, 1.0), (0.1, 0.2)])
    )
    alone = plan_of(tmp_path, curriculum(stage("{s2: 1}"), sources)).generation_seconds["s2"]
    mixed = plan_of(tmp_path, curriculum(stage("{s0: 1, s1: 1, s2: 1}"), sources))
    seconds = mixed.generation_seconds
    assert seconds["s2"] == pytest.approx(alone / 3, rel=0.05)  # the rarest pays for the scores
    assert seconds["s0"] == pytest.approx(seconds["s1"], rel=0.05)
    assert sum(seconds.values()) < 0.5 * alone
    pooled = sources.replace("kind: nca", "kind: nca, rules: 4")
    few = plan_of(tmp_path, curriculum(stage("{s2: 1}"), pooled)).generation_seconds["s2"]
    assert few < alone / 5  # four rules are found, not four hundred
    assert NcaSource.version == 2
