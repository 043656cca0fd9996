"""`ncamix plan A B`: differences key by key, as a table and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from plan_files import SOURCES, curriculum, plan_of, stage
from rich.console import Console

from ncamix.comparison import Comparison, compare, comparison_json, print_comparison

TWO = stage("{hiss: 1}", "40ba") + stage("{0%: {hiss: 1}, 100%: {simple: 1}}", name="two")


def compared(folder: Path, one: str, other: str) -> Comparison:
    return compare(plan_of(folder, one), plan_of(folder, other))


def differences(comparison: Comparison) -> dict[str, tuple[object, object]]:
    return {d.path: (d.first, d.second) for d in comparison.differences}


def printed(comparison: Comparison, width: int = 80) -> str:
    out = io.StringIO()
    print_comparison(comparison, "trainer [small]", Console(file=out, width=width))
    assert max(map(len, out.getvalue().splitlines())) <= width
    return out.getvalue()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{hiss: 1}", "{hiss: 100%}"),
        ("mixture: {hiss: 1}", "mixture: [{at: 0%, mix: {hiss: 3}}]"),
        ("100%: {simple: 1}", "60ba: {simple: 2}"),
        ("duration: 40ba", "duration: 10240tok"),
        ("duration: rest", "duration: 60%"),
        ("name: two", "name: two, optimizer: {lr: 1e-3}"),
        ("name: two", "name: two, optimizer: {lr: {peak: 1x, decay: constant}}"),
        ("[0.30, 0.40]", "[0.3, 0.4]"),
        ("seed: 3", "seed: {init: 3, order: 3, rules: 3}"),
        ("every: 10%", "every: 10.0%"),
    ],
)
def test_another_spelling_is_no_difference(tmp_path: Path, old: str, new: str) -> None:
    text = curriculum(TWO, rest="seed: 3\nevaluate: {every: 10%, sources: [hiss]}\n")
    assert old in text
    found = compared(tmp_path, text, text.replace(old, new))
    assert found.parting is None and not found.differences
    assert "the two plans are the same" in printed(found)
    assert comparison_json(found)["same"] is True


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rich", "rich", {}),
        ("every: 10%", "every: 25ba", {"evaluate.every": ("10%", "25ba")}),
        (
            "seed: 3",
            "seed: {init: 3, order: 4, rules: 3}",
            {"seed.order": (3, 4)},
        ),
        (
            "name: two",
            "name: two, optimizer: {lr: {peak: 0.5x, warmup: 10%}}",
            {
                "stages.two.optimizer.lr": (
                    "0%: 0.001",
                    "peak 0.5x, warmup 10%, decay constant, floor 0",
                )
            },
        ),
        (
            "name: two",
            "name: two, enter: {reinitialize: [head, mlp], initializer: {normal: 0.5}}",
            {
                "stages.two.enter.reinitialize": ("", "head, mlp"),
                "stages.two.enter.initializer": ("model", "0.5"),
            },
        ),
        (
            "0%: {hiss: 1}, 100%: {simple: 1}",
            "0%: {simple: 1}, 100%: {hiss: 1}",
            {
                "stages.two.mixture": (
                    "0%: 100% hiss; 100%: 100% simple",
                    "0%: 100% simple; 100%: 100% hiss",
                )
            },
        ),
    ],
)
def test_one_key(
    tmp_path: Path, old: str, new: str, expected: dict[str, tuple[object, object]]
) -> None:
    text = curriculum(TWO, rest="seed: 3\nevaluate: {every: 10%, sources: [hiss]}\n")
    assert old in text
    assert differences(compared(tmp_path, text, text.replace(old, new))) == expected


def test_sources_and_what_follows_from_them(tmp_path: Path) -> None:
    text = curriculum(TWO)
    other = text.replace("[0.30, 0.40]", "[0.30, 0.45]").replace("symbols: 100", "symbols: 90")
    found = differences(compared(tmp_path, text, other))
    assert found["sources.simple.band"] == ("gzip 0.30-0.40", "gzip 0.30-0.45")
    assert found["sources.hiss.symbols"] == (100, 90)
    assert found["vocabulary.noise 100"] == ("10,002 to 10,101", None)
    assert found["vocabulary.rows"] == (10_102, 10_092)
    prints = [f"sources.{name}.fingerprint" for name in ("simple", "hiss")]
    assert all(path in found for path in prints)
    assert not any(path.startswith("stages") for path in found)


def test_stages_and_sources_of_one_plan_alone(tmp_path: Path) -> None:
    blend = SOURCES + "  both: {kind: blend, mixture: {0%: {hiss: 1}, 100%: {rich: 1}}}\n"
    one = curriculum(TWO)
    other = curriculum(stage("{both: 1}", "70ba", "two") + stage("{hiss: 1}", name="x"), blend)
    comparison = compared(tmp_path, one, other)
    found = differences(comparison)
    assert found["sources.simple"] == ("nca, 10 states, gzip 0.30-0.40", None)
    assert found["sources.both"] == (None, "blend of hiss, rich")
    assert found["stages.one"] == ("40 batches", None)
    assert found["stages.x"] == (None, "30 batches")
    assert found["stages.two.batches"] == (60, 70)
    assert found["stages.two.first token"] == (40 * 256, 0)
    assert found["samples.simple"][0] == found["stages.two.samples.simple"][0] == 120
    text = printed(comparison)
    assert "stages.two" in text and "70 (+10)" in text


def test_another_order_of_stages(tmp_path: Path) -> None:
    first, second = stage("{hiss: 1}", "50ba", "a"), stage("{simple: 1}", "50ba", "b")
    found = differences(compared(tmp_path, curriculum(first + second), curriculum(second + first)))
    assert found["order of stages"] == ("a, b", "b, a")
    assert "stages.a.batches" not in found


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_says_where_they_part(tmp_path: Path, width: int) -> None:
    one = curriculum(TWO)
    other = one.replace("100%: {simple: 1}", "50%: {simple: 1}").replace("tried", "sooner")
    comparison = compared(tmp_path, one, other)
    text = printed(comparison, width)
    assert text.startswith("tried and sooner under trainer [small]")
    assert comparison.parting is not None
    tokens, (_, batch) = comparison.parting.tokens, comparison.parting.places[0]  # type: ignore[misc]
    assert f"the same until token {tokens:,} (from batch {batch - 1} of stage two on)" in text


def test_the_same_batches_with_other_evaluations(tmp_path: Path) -> None:
    one = curriculum(TWO)
    text = printed(compared(tmp_path, one, one + "evaluate: {every: 20%}\n"))
    assert "the same in every batch; what differs:" in text and "20%" in text


def test_the_comparison_as_json(tmp_path: Path) -> None:
    one = curriculum(TWO)
    comparison = compared(tmp_path, one, one.replace("100%: {simple: 1}", "100%: {rich: 1}"))
    told = json.loads(json.dumps(comparison_json(comparison)))
    assert told["same"] is False and told["trainer"] == "small"
    assert [plan["num_tokens"] for plan in told["plans"]] == [25_600, 25_600]
    assert comparison.parting is not None
    assert told["same_until"]["token"] == comparison.parting.tokens
    assert told["same_until"]["stages"] == ["two", "two"]
    assert {"path", "first", "second"} == set(told["differences"][0])
