"""The plans of studies: every variant planned, matched to the base, with models of one size."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from plan_files import SOURCES, TRAINER, curriculum, stage
from rich.console import Console

from ncamix.arms import Arm, check_compared, problems_of, study_json, tokens_of
from ncamix.study_plan import plan_study
from ncamix.study_tables import study_table, study_words
from ncamix.variants import LoadedStudy, load_study

BATCH = 4 * 64  # tokens; the trainer's budget is a hundred of them
BASE = curriculum(
    stage("{simple: 1}", "20%", "one") + stage("{notes: 80%, rich: 20%}", name="two"),
    SOURCES + "  notes: {kind: text, files: [notes.txt], repeat: free}\n",
    "tokenizer: bytes\nevaluate: {sources: [simple]}\n",
)
HEAD = "ncamix: 1\nname: tried\nbase: base.yaml\ntrainer: small.yaml\nseeds: [1]\n"


def load(folder: Path, body: str, base: str = BASE) -> LoadedStudy:
    (folder / "base.yaml").write_text(base)
    (folder / "small.yaml").write_text(TRAINER)
    (folder / "notes.txt").write_text("a line of notes\n" * 50)
    (folder / "s.yaml").write_text(HEAD + body)
    return load_study(folder / "s.yaml")


def planned(folder: Path, body: str, base: str = BASE) -> dict[str, Arm]:
    return {item.name: item for item in plan_study(load(folder, body, base))}


def batches(item: Arm) -> int:
    assert item.plan is not None, item.problems
    return sum(stage.num_batches for stage in item.plan.stages)


def test_variants_are_matched_to_the_base(tmp_path: Path) -> None:
    variants = """\
variants:
  up: {}
  natural: {stages.one: null, match: natural}
  total: {stages.one: null, match: total}
  wide: {stages.two.batch_size: 16, match: steps}
  as_budgeted: {stages.two.batch_size: 16}
"""
    made = planned(tmp_path, variants)
    assert batches(made["up"]) == 100
    assert batches(made["natural"]) == 80
    assert batches(made["total"]) == 100
    assert batches(made["wide"]) == 100
    assert batches(made["as_budgeted"]) == 20 + 80 // 4
    notes = {n: tokens_of(i.plan)["notes"] for n, i in made.items() if i.plan}
    assert notes["natural"] == notes["up"] == 64 * BATCH
    assert notes["total"] == 80 * BATCH


def test_one_seed_tests_nothing_and_the_plan_says_so(tmp_path: Path) -> None:
    body = "variants: {up: {}, down: {stages.one.transform: reverse}}\n"
    none = "1 seed: no test is possible, so no difference can be shown"
    compare = "compare: {primary: [up, down], metric: loss/simple, smallest_effect: 0.1}\n"
    loaded = load(tmp_path, body + compare)
    assert none in study_words(loaded, plan_study(loaded))
    loaded = load(tmp_path, body)
    assert none not in study_words(loaded, plan_study(loaded))


def test_a_point_of_the_grid_is_matched_to_the_base_at_that_point(tmp_path: Path) -> None:
    body = "variants: {up: {}, none: {stages.one: null, match: natural}}\n"
    made = planned(tmp_path, body + "grid: {stages.one.duration: [10%, 50%]}\n")
    assert batches(made["none,duration=10%"]) == 90
    assert batches(made["none,duration=50%"]) == 50


def test_what_cannot_be_matched_says_so_in_the_study(tmp_path: Path) -> None:
    absolute = (
        BASE.replace("20%", "20ba").replace("rest", "50ba").replace("rich: 20ba", "rich: 20%")
    )
    made = planned(tmp_path, "variants: {none: {stages.one: null, match: total}}\n", absolute)
    assert made["none"].plan is None
    (found,) = made["none"].problems
    assert (found.path, found.line) == ("variants.none.match", 6)
    assert "no budget gives the base's 17.9k tokens; this one has 12.8k" in found.what
    body = "variants: {none: {stages.two: null, stages.one.duration: rest, match: natural}}\n"
    assert "this one has 0" in planned(tmp_path, body)["none"].problems[0].what


def test_a_variant_that_cannot_be_planned_leaves_the_others(tmp_path: Path) -> None:
    made = planned(tmp_path, "variants: {up: {}, long: {stages.one.duration: 100%}}\n")
    assert made["up"].plan is not None
    assert "nothing is left for this stage" in made["long"].problems[0].what


def test_models_are_of_one_size(tmp_path: Path) -> None:
    made = planned(tmp_path, "variants: {up: {}, small: {sources.rich.alphabet: 8}}\n")
    rows = {item.plan.vocabulary.rows for item in made.values() if item.plan}
    assert rows == {257 + 10_002 + 4_098}  # two delimiters each
    plans = [made[name].plan for name in ("up", "small")]
    first = [plan.sources["simple"].first_id for plan in plans if plan]
    assert first == [257, 257 + 4_098]


def test_the_table_has_a_line_an_arm(tmp_path: Path) -> None:
    loaded = load(tmp_path, "variants: {up: {}, long: {stages.one.duration: 100%}}\n")
    plans = plan_study(loaded)
    Console(file=(out := StringIO()), width=120).print(study_table(plans))
    head, up, long = (line.rstrip() for line in out.getvalue().splitlines())
    assert up.split(maxsplit=4)[:4] == ["up", "variant", "25,600", "100"]
    assert up.endswith("simple 5,120, rich 4,096, notes 16,384")
    assert long.split(maxsplit=2) == ["long", "variant", "cannot be planned"]
    made = json.loads(json.dumps(study_json(loaded, plans)))["arms"]
    assert made["up"]["tokens"] == {"notes": 16384, "rich": 4096, "simple": 5120}
    assert "nothing is left" in made["long"]["problems"][0]


def test_problems_say_which_variants_have_them(tmp_path: Path) -> None:
    text = BASE.replace("duration: 20%", "duration: 100%")
    for variants, where in (
        ("up: {}, one: {stages.one.duration: 5%}", "in the arm 'up': "),
        ("up: {}, even: {stages.one.transform: flatten}", "in every arm: "),
        ("up: {}, down: {}, one: {stages.one.duration: 5%}", "in 2 arms, as 'up': "),
    ):
        (found,) = problems_of(plan_study(load(tmp_path, f"variants: {{{variants}}}\n", text)))
        assert found.what.startswith(f"{where}nothing is left for this stage")
        assert (found.path, found.file) == ("stages.two.duration", str(tmp_path / "base.yaml"))


def test_sources_drawn_at_another_length_only_are_counted(tmp_path: Path) -> None:
    made = planned(tmp_path, "variants: {long: {stages.two.sequence_length: 128}}\n")
    plan = made["long"].plan
    assert plan is not None and "rich" not in plan.sources and "rich@128" in plan.sources
    tokens = tokens_of(plan)
    assert sum(tokens.values()) == plan.num_tokens and tokens["rich"] and tokens["notes"]


@pytest.mark.parametrize("match", ["natural", "total", "steps"])
def test_a_variant_that_changes_nothing_keeps_the_budget(tmp_path: Path, match: str) -> None:
    made = planned(tmp_path, f"variants: {{same: {{match: {match}}}}}\n")
    assert batches(made["same"]) == 100


def test_what_is_compared_is_an_arm(tmp_path: Path) -> None:
    body = "variants: {up: {}, none: {stages.one: null}}\n"
    body += (
        "compare: {primary: [up, upp], metric: loss/simple, smallest_effect: 0.1, against: nun, "
    )
    body += "speedup: {to: no, of: [up, un]}}\n"
    loaded = load(tmp_path, body)
    found = check_compared(loaded, plan_study(loaded))
    assert [problem.path for problem in found] == [
        "compare.primary.1",
        "compare.against",
        "compare.speedup.to",
        "compare.speedup.of.1",
    ]
    assert "no arm is named 'upp'" in found[0].what and "'up'" in (found[0].remedy or "")
