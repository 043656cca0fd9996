"""Blends by size: exact weights for known sizes, their limits, and the plans that they make."""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.plan_tables import print_plan
from ncamix.planning import decide
from ncamix.proportions import proportional_shares

Planner = Callable[..., Plan]
SLACK = 1 + Fraction(1, 10**25)
SIZES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 10**15), min_size=1)

BODY = """\
tokenizer: bytes
sources:
  code: {kind: text, files: [code/*.txt], repeat: free, holdout: {share: 0.1}}
  docs: {kind: text, files: [docs.txt], repeat: free}
  asks: {kind: pairs, files: [asks.jsonl], prompt: q, response: a, repeat: free}
  hiss: {kind: noise, symbols: 8}
  both: {kind: blend, proportional: %s}
stages:
  - {name: one, duration: 100%%, mixture: %s}
"""


@pytest.fixture(autouse=True)
def texts(tmp_path: Path) -> None:
    """9,000 bytes of code in two files, 1,000 of docs, and 160 of pairs."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.txt").write_text("a" * 4000)
    (tmp_path / "code" / "b.txt").write_text("b" * 5000)
    (tmp_path / "docs.txt").write_text("d" * 1000)
    (tmp_path / "asks.jsonl").write_text('{"q": "one", "a": "1"}\n'.ljust(160, " "))


def body(blend: str, mixture: str = "{both: 1}") -> str:
    return BODY % (blend, mixture)


# ---- weights


@given(SIZES)
def test_at_1_weights_are_the_sizes_exactly(sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    assert proportional_shares(sizes, Fraction(1)) == {
        name: Fraction(size, total) for name, size in sizes.items()
    }


@given(SIZES, st.fractions(1, 10**6))
def test_weights_are_between_sizes_and_equality(sizes: dict[str, int], t: Fraction) -> None:
    shares = proportional_shares(sizes, t)
    assert sum(shares.values()) == 1
    for a in sizes:
        for b in sizes:
            if sizes[a] >= sizes[b]:
                assert 1 <= shares[a] / shares[b] <= Fraction(sizes[a], sizes[b]) * SLACK


@given(st.integers(1, 10**15), st.integers(1, 10**15))
def test_at_2_weights_are_square_roots(a: int, b: int) -> None:
    shares = proportional_shares({"a": a, "b": b}, Fraction(2))
    low, high = min(a, b), max(a, b)
    ratio = min(shares["a"], shares["b"]) / max(shares["a"], shares["b"])
    root = Fraction(isqrt((low << 240) // high), 1 << 120)  # below it by 2**-120 at most
    assert abs(ratio - root) < Fraction(1, 10**28)


def test_known_answers() -> None:
    """Digits that any platform gives; 100 ** (1 / 3) was looked up."""
    sizes = {"a": 1, "b": 100, "c": 10_000}
    assert proportional_shares(sizes, Fraction(2)) == {
        "a": Fraction(1, 111),
        "b": Fraction(10, 111),
        "c": Fraction(100, 111),
    }
    third = proportional_shares({"a": 1, "b": 100}, Fraction(3))
    assert third["a"] / third["b"] == Fraction("0.215443469003188372175929356652")
    assert proportional_shares({"a": 7}, Fraction(3)) == {"a": Fraction(1)}


def test_a_high_temperature_makes_all_equal() -> None:
    shares = proportional_shares({"a": 1, "b": 10**12}, Fraction(10**6))
    assert float(shares["a"]) == pytest.approx(0.5, abs=1e-5)


def test_the_users_decimal_settings_change_nothing() -> None:
    expected = proportional_shares({"a": 3, "b": 11}, Fraction(5, 2))
    with decimal.localcontext() as context:
        context.prec, context.rounding = 4, decimal.ROUND_UP
        assert proportional_shares({"a": 3, "b": 11}, Fraction(5, 2)) == expected


# ---- plans


def test_counts_follow_the_sizes(plan_of: Planner) -> None:
    plan = plan_of(body("[code, docs]"))
    (stage,) = plan.stages
    total = stage.num_batches * stage.batch_size
    assert plan.blends_by_size() == {"both": {"code": Fraction(9, 10), "docs": Fraction(1, 10)}}
    assert abs(stage.counts["code"] - Fraction(9, 10) * total) < 1
    assert sum(stage.counts.values()) == total
    flat = plan_of(body("[code, docs], temperature: 2"))
    docs = flat.blends_by_size()["both"]["docs"]  # 1 / (1 + 3), to the digits that are kept
    assert 0 < Fraction(1, 4) - docs < Fraction(1, 10**29)
    assert abs(flat.stages[0].counts["docs"] - Fraction(1, 4) * total) < 1


def test_a_blend_by_size_means_what_its_weights_mean(plan_of: Planner) -> None:
    found = plan_of(body("[code, docs]")).fingerprint
    assert plan_of(body("[docs, code]")).fingerprint == found
    written = body("[code, docs]").replace(
        "proportional: [code, docs]", "mixture: {code: 9, docs: 1}"
    )
    assert plan_of(written).fingerprint == found


def test_more_text_is_another_plan(plan_of: Planner, tmp_path: Path) -> None:
    before = plan_of(body("[code, docs]"))
    (tmp_path / "code" / "c.txt").write_text("c" * 81_000)
    after = plan_of(body("[code, docs]"))
    assert after.blends_by_size()["both"]["docs"] == Fraction(1, 91)
    assert after.stages[0].counts != before.stages[0].counts


def test_wherever_a_blend_is_used(plan_of: Planner) -> None:
    """Inside other blends, beside other sources, over keyframes; pairs have a size, too."""
    text = body("[code, docs, asks]", "{0%%: {outer: 1}, 100%%: {both: 50%%, hiss: 50%%}}")
    text = text.replace("%%", "%").replace(
        "stages:", "  outer: {kind: blend, mixture: {both: 1, docs: 1}}\nstages:"
    )
    (stage,) = plan_of(text).stages
    whole, last = 9000 + 1000 + 160, stage.num_batches - 1
    weights = dict(zip(stage.mixture.leaves, stage.mixture.at(0), strict=True))
    assert weights["docs"] / (1 << 60) == pytest.approx((1 + 1000 / whole) / 2, abs=0.02)
    weights = dict(zip(stage.mixture.leaves, stage.mixture.at(last), strict=True))
    assert weights["asks"] / (1 << 60) == pytest.approx(160 / whole / 2, rel=0.05)


def test_a_blend_that_nothing_deals(plan_of: Planner) -> None:
    plan = plan_of(body("[code, docs]", "{hiss: 1, both: 0}"))
    assert plan.stages[0].sources == ("hiss",)
    assert plan.blends_by_size() == {}


def test_a_decision_keeps_the_sizes(plan_of: Planner, tmp_path: Path) -> None:
    """Evidence ends a stage while the run is under way, and files are not looked at again."""
    text = body("[code, docs]").replace(
        "stages:\n  - {name: one, duration: 100%",
        (
            "evaluate: {every: 5ba, sources: [code]}\nstages:\n"
            "  - {name: first, duration: 30%, mixture: {hiss: 1, both: 1},"
            " until: {loss/code: {below: 2}}}\n"
            "  - {name: one, duration: rest"
        ),
    )
    plan = plan_of(text)
    for file in (*(tmp_path / "code").iterdir(), tmp_path / "docs.txt"):
        file.unlink()
    after = decide(plan, {"first": 5})
    assert after.stages[0].num_batches == 5
    assert after.blends_by_size() == plan.blends_by_size()
    last = after.stages[1]
    assert abs(last.counts["code"] - 0.9 * last.num_batches * last.batch_size) < 1


def test_the_plan_shows_the_shares(plan_of: Planner, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(body("[code, docs], temperature: 2"))
    print_plan(plan, "trainer small", Console(width=120))
    out = capsys.readouterr().out
    assert "both: by size of files at temperature 2, code 75.0%, docs 25.0%" in out
    shown = json.loads(json.dumps(plan_json(plan)))
    assert shown["blends_by_size"] == {"both": {"code": 0.75, "docs": 0.25}}


# ---- what cannot be weighed


@pytest.mark.parametrize(
    ("blend", "place", "what"),
    [
        ("[code, doc]", 1, "unknown source 'doc'"),
        ("[hiss, code]", 0, "'hiss' is of kind noise, and only text and pairs in files"),
        ("[web]", 0, "'web' lies on the hub, and only text and pairs in files"),
        ("[ready]", 0, "'ready' is of kind mds"),
        ("[code, mixed]", 1, "'mixed' is of kind blend"),
    ],
)
def test_sources_without_a_size(plan_of: Planner, blend: str, place: int, what: str) -> None:
    more = (
        "  web: {kind: text, hub: owner/name}\n  ready: {kind: mds, local: data}\n"
        "  mixed: {kind: blend, mixture: {code: 1}}\nstages:"
    )
    with pytest.raises(UserError) as refused:
        plan_of(body(blend).replace("stages:", more))
    (problem,) = refused.value.problems
    assert problem.path == f"sources.both.proportional.{place}"
    assert what in problem.what and problem.remedy


def test_a_blend_by_size_cannot_hold_itself(plan_of: Planner) -> None:
    with pytest.raises(UserError) as refused:
        plan_of(body("[both]"))
    assert any("contains itself" in problem.what for problem in refused.value.problems)


def test_a_text_that_is_not_there(plan_of: Planner, tmp_path: Path) -> None:
    (tmp_path / "docs.txt").unlink()
    with pytest.raises(UserError, match="docs"):
        plan_of(body("[code, docs]"))
