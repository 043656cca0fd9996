"""Editing the future, in plans alone: what is accepted, by brute force, and what is advised."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plan_files import TRAINER, plan_of
from ruamel.yaml import YAML

from ncamix.advice import advise
from ncamix.errors import UserError
from ncamix.order import stage_order
from ncamix.parting import find_change
from ncamix.plan import Plan

Written = dict[str, Any]

MIXTURES: list[Any] = [
    {"hiss": 1},
    {"hiss": 2, "hush": 1},
    {"0%": {"hiss": 1}, "50%": {"hush": 1, "hiss": 1}},
    {"0%": {"hiss": 1}, "-30%": {"hush": 1}, "-1ba": {"hum": 1}},
    [{"at": "2ba", "mix": {"hiss": 1}, "ease": "step"}, {"at": "1ktok", "mix": {"hush": 1}}],
    {"span": 1, "hum": 1},
]
RATES: list[Any] = [
    None,
    "0.5x",
    {"warmup": "30%"},
    {"warmup": "2ba", "decay": "cosine", "floor": "0.1x"},
    {"peak": "2e-3", "decay": "inverse_sqrt", "warmup": "10%"},
    {"0%": "1x", "100%": "0.1x"},
    {"0ba": "1x", "4ba": "0.3x"},
]
DURATIONS = ["5ba", "8ba", "30%"]
SOURCES = {
    "hiss": {"kind": "noise", "symbols": 100},
    "hush": {"kind": "noise", "symbols": 100, "distribution": "zipf"},
    "hum": {"kind": "dyck", "style": "nested", "symbols": 10, "depth": 4},
    "span": {"kind": "blend", "clock": "run", "mixture": {"0%": {"hiss": 1}, "100%": {"hush": 1}}},
}


def stage_named(name: str) -> st.SearchStrategy[Written]:
    return st.fixed_dictionaries(
        {
            "name": st.just(name),
            "duration": st.sampled_from(DURATIONS),
            "mixture": st.sampled_from(MIXTURES),
            "lr": st.sampled_from(RATES),
            "replay": st.booleans(),
            "transform": st.sampled_from([None, None, None, "reverse"]),
            "decay": st.sampled_from([None, 0, 0.1]),
        }
    )


@st.composite
def edited(draw: st.DrawFn) -> tuple[Written, Written]:
    """A curriculum with its budget, and the same with some edits."""
    before: Written = {
        "budget": draw(st.sampled_from([20, 25])),
        "softmax": draw(st.sampled_from(["active", "all"])),
        "stages": [draw(stage_named(name)) for name in "abc"[: draw(st.integers(1, 3))]],
    }
    before["stages"][-1]["duration"] = draw(st.sampled_from(["rest", "rest", "12ba"]))
    after = copy.deepcopy(before)
    for _ in range(draw(st.integers(1, 2))):
        what = draw(st.sampled_from(["stage", "key", "key", "key", "add", "drop", "budget", "end"]))
        stages = after["stages"]
        at = draw(st.integers(0, len(stages) - 1))
        if what == "stage":
            stages[at] = draw(stage_named(stages[at]["name"]))
        elif what == "key":
            other = draw(stage_named(stages[at]["name"]))
            key = draw(st.sampled_from(sorted(other)))
            stages[at][key] = other[key]
        elif what == "add":
            stages.append(draw(stage_named(f"more{len(stages)}")))
        elif what == "drop" and len(stages) > 1:
            stages.pop()
        elif what == "budget":
            after["budget"] = draw(st.sampled_from([20, 25, 40]))
        elif what == "end":  # the last stage goes on, by keyframes of its own
            stages[-1] |= {"duration": "15ba", "mixture": {"0ba": {"hiss": 1}, "13ba": {"hum": 1}}}
    return before, after


def file_of(written: Written) -> Written:
    """The curriculum as YAML has it."""
    stages = []
    for i, s in enumerate(written["stages"]):
        stage: Written = {"name": s["name"], "duration": s["duration"], "mixture": s["mixture"]}
        optimizer = {"lr": s["lr"], "weight_decay": s["decay"]}
        stage["optimizer"] = {key: value for key, value in optimizer.items() if value is not None}
        if s["transform"]:
            stage["transform"] = s["transform"]
        if s["replay"] and i and s["mixture"] != {"span": 1, "hum": 1}:
            stage["draw"] = {"hiss": "replay"}
        stages.append(stage)
    return {
        "ncamix": 1,
        "name": "tried",
        "vocabulary": {"rows": 400, "softmax": written["softmax"]},
        "sources": SOURCES,
        "stages": stages,
        "evaluate": {"sources": ["hiss", "hush", "hum"]},
    }


def planned(folder: Path, file: Written, budget: int) -> Plan | None:
    """The plan of a curriculum, None if it cannot work."""
    trainer = TRAINER.replace("25600tok", f"{budget * 256}tok")
    try:
        return plan_of(folder, json.dumps(file), trainer)
    except UserError as error:
        assert all(p.path.startswith("stages.") for p in error.problems), error
        return None


def walk(plan: Plan) -> list[Any]:
    """(tokens before it, everything that decides over it) of each batch of a run."""
    batches, tokens = [], 0
    for stage in plan.stages:
        order, active = stage_order(plan, stage), plan.active_ranges(stage)
        for t in range(stage.num_batches):
            source, number = order.batch(t)
            names = [stage.sources[i] for i in source.tolist()]
            samples = sorted(zip(names, number.tolist(), strict=True))
            facts = (stage.name, float(stage.optimizer.weight_decay or 0), samples)
            softmax = active if plan.vocabulary.softmax == "active" else None
            batches.append((tokens, facts, softmax, stage.rate.at(t)))
            tokens += stage.batch_size * stage.sequence_length
    return batches


def merged(file: Written, lines: list[str]) -> Written:
    """A curriculum with the advised lines written into it."""
    advised = YAML(typ="safe").load("\n".join(lines))
    file = copy.deepcopy(file)
    for key in ("vocabulary", "sources"):
        for name, value in advised.get(key, {}).items():
            file[key][name] = {**file[key][name], **value} if key == "sources" else value
    for stage in advised.get("stages", ()):
        (mine,) = (s for s in file["stages"] if s["name"] == stage["name"])
        optimizer = {**mine.get("optimizer", {}), **stage.pop("optimizer", {})}
        mine.update(stage, **({"optimizer": optimizer} if optimizer else {}))
    return file


@settings(max_examples=100)
@given(edited(), st.integers(0, 60))
def test_an_edit_is_accepted_exactly_if_the_past_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, both: tuple[Written, Written], trained: int
) -> None:
    folder = tmp_path_factory.mktemp("edited")
    old, new = (planned(folder, file_of(each), each["budget"]) for each in both)
    assume(old is not None and new is not None)
    assert old is not None and new is not None
    assume(old.fingerprint != new.fingerprint)
    ours, theirs = walk(old), walk(new)
    trained = min(trained, len(ours))
    tokens = 256 * trained
    change = find_change((old, new), tokens)
    unlike = [t for t in range(trained) if t >= len(theirs) or ours[t] != theirs[t]]
    assert (change is None) == (not unlike)
    if change is None:
        return
    assert change.tokens == ours[unlike[0]][0]
    stage = next(s for s in old.stages if tokens <= s.first_token + s.num_tokens)
    batches = (tokens - stage.first_token) // 256
    lines = advise(old, new, stage.index, batches, tokens)
    if lines:
        told = planned(folder, merged(file_of(both[1]), lines), both[1]["budget"])
        assert told is not None, lines
        assert walk(told)[:trained] == ours[:trained], lines


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"reinitialize": ["embeddings"]}, {"reinitialize": ["mlp"]}),
        ({"reinitialize": ["embeddings"]}, None),
        (None, {"reinitialize": ["mlp"], "initializer": "torch"}),
        (None, {"permute": ["mlp"]}),
        ({"permute": ["embedding"], "spare": ["noise"]}, {"permute": ["embedding"]}),
        (None, {"freeze": ["attention"]}),
        ({"optimizer_state": "keep"}, None),
    ],
)
def test_how_a_stage_was_entered_is_told(
    tmp_path: Path, before: Written | None, after: Written | None
) -> None:
    stages = [
        {"name": name, "duration": "5ba", "mixture": {"hiss": 1}, "lr": None, "decay": None}
        for name in "ab"
    ]
    written = {"softmax": "all", "stages": [{**s, "transform": None, "replay": 0} for s in stages]}
    files = [file_of(copy.deepcopy(written)) for _ in range(2)]
    for file, enter in zip(files, (before, after), strict=True):
        file["stages"][1] |= {"enter": enter} if enter is not None else {}
    old, new = (planned(tmp_path, file, 20) for file in files)
    assert old is not None and new is not None
    assert find_change((old, new), 256 * 8) is not None
    told = planned(tmp_path, merged(files[1], advise(old, new, 1, 3, 256 * 8)), 20)
    assert told is not None and find_change((old, told), 256 * 8) is None
