"""Remarks: each is made where it should be, and only there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plan_files import SOURCES, TRAINER, curriculum, plan_of, stage

from ncamix import remarks
from ncamix.plan import Plan

LAYERS = TRAINER.replace("layers: 1", "layers: 4")
LONG = TRAINER.replace("sequence_length: 64", "sequence_length: 640").replace("25600", "256000")
COSINE = ", optimizer: {lr: {peak: 1x, decay: cosine}}"


@dataclass(frozen=True)
class Group:
    """A group of parameters as `enter` holds it."""

    name: str
    layers: tuple[int, int] | None = None


def entering(plan: Plan, **keys: Any) -> Plan:
    """The plan with other ways of entering its last stage."""
    usual = {"reinitialize": (), "keep_only": (), "freeze": (), "initializer": "model"}
    last = plan.stages[-1]
    spec = last.spec.model_copy(update={"enter": SimpleNamespace(**{**usual, **keys})})
    return replace(plan, stages=(*plan.stages[:-1], replace(last, spec=spec)))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two stages of noise for a model of 4 layers."""
    stages = stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two")
    return plan_of(tmp_path_factory.mktemp("two"), curriculum(stages), LAYERS)


def test_data_that_meets_a_rate_near_zero(tmp_path: Path) -> None:
    late = stage("{0%: {hiss: 1}, 85%: {hiss: 1}, 100%: {simple: 1}}", more=COSINE)
    (found,) = remarks.wasted_sources(plan_of(tmp_path, curriculum(late)))
    assert found.startswith("stage 'one': 100% of the source 'simple' comes while")
    early = stage("{0%: {simple: 1}, 15%: {hiss: 1}, 100%: {hiss: 1}}", more=COSINE)
    assert not list(remarks.wasted_sources(plan_of(tmp_path, curriculum(early))))


def test_a_rate_that_is_low_for_all_wastes_no_source(tmp_path: Path) -> None:
    mixture = "{0%: {hiss: 1}, 100%: {simple: 1}}"
    slow = ", optimizer: {lr: [{at: 0%, to: 1x, ease: step}, {at: 10%, to: 0.01x}]}"
    assert not list(
        remarks.wasted_sources(plan_of(tmp_path, curriculum(stage(mixture, more=slow))))
    )
    constant = stage("{hiss: 1, simple: 1}", more=slow)
    assert not list(remarks.wasted_sources(plan_of(tmp_path, curriculum(constant))))


def test_sources_without_a_sample(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1, simple: 1e-9}")))
    (found,) = remarks.unsampled_sources(plan)
    assert "stage 'one': the source 'simple' gets no sample" in found
    assert found in plan.warnings
    zero = plan_of(tmp_path, curriculum(stage("{hiss: 1, simple: 0}")))
    assert not list(remarks.unsampled_sources(zero))


def test_sources_without_a_sample_inside_a_blend(tmp_path: Path) -> None:
    sources = SOURCES + "  both: {kind: blend, mixture: {hiss: 1, simple: 1e-9}}\n"
    plan = plan_of(tmp_path, curriculum(stage("{both: 1}"), sources))
    assert len(list(remarks.unsampled_sources(plan))) == 1


def test_an_alphabet_that_dominates(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1, simple: 1}")))
    (found,) = remarks.dominant_alphabets(plan)
    assert found.startswith("'nca 10 states 2x2' takes 99% of the vocabulary's 10,102 rows")
    rows = "vocabulary: {rows: 20000}\n"
    wide = plan_of(tmp_path, curriculum(stage("{hiss: 1, simple: 1}"), rest=rows))
    alone = plan_of(tmp_path, curriculum(stage("{simple: 1}")))
    assert not [*remarks.dominant_alphabets(wide), *remarks.dominant_alphabets(alone)]


@pytest.mark.parametrize(
    ("frozen", "redrawn", "names"),
    [
        (Group("attention"), "attention", "attention is"),
        (Group("attention", (0, 1)), Group("attention", (1, 3)), "attention is"),
        (Group("head"), "embeddings", "head is"),
        (Group("embeddings"), Group("embedding"), "embeddings is"),
        (Group("attention", (0, 1)), Group("attention", (2, 3)), None),
        (Group("mlp"), "attention", None),
        (Group("mlp"), None, None),
    ],
)
def test_frozen_groups_that_are_redrawn(
    two: Plan, frozen: Group, redrawn: Any, names: str | None
) -> None:
    plan = entering(two, freeze=(frozen,), reinitialize=() if redrawn is None else (redrawn,))
    found = list(remarks.frozen_noise(plan))
    assert [f"stage 'two': {names} re-initialised" in text for text in found] == [True] * bool(
        names
    )


def test_frozen_groups_beside_those_that_are_kept(two: Plan) -> None:
    kept = (Group("attention", (0, 2)), Group("mlp"))
    inside = entering(two, keep_only=kept, freeze=(Group("mlp"), Group("attention", (0, 1))))
    assert not list(remarks.frozen_noise(inside))
    beyond = entering(two, keep_only=kept, freeze=(Group("attention"), Group("norms", (0, 0))))
    (found,) = remarks.frozen_noise(beyond)
    assert "attention and norms are re-initialised" in found


def test_rollouts_of_few_frames(tmp_path: Path) -> None:
    text = curriculum(stage("{hiss: 1, simple: 1, binary: 1}"))
    (found,) = remarks.short_rollouts(plan_of(tmp_path, text))
    assert "samples of 'simple' and 'binary' hold 1.7 frames each" in found  # 65 tokens, 38 a frame
    assert not list(remarks.short_rollouts(plan_of(tmp_path, text, LONG)))


@pytest.mark.parametrize(
    ("initializer", "deviation"),
    [("torch", "1"), ("{normal: 0.1}", "0.1"), ("{normal: 0.02}", None), ("model", None)],
)
def test_embeddings_of_another_scale(
    tmp_path: Path, initializer: str, deviation: str | None
) -> None:
    enter = f", enter: {{reinitialize: [embeddings], initializer: {initializer}}}"
    stages = stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two", more=enter)
    found = list(remarks.other_embedding_scales(plan_of(tmp_path, curriculum(stages))))
    assert len(found) == (deviation is not None)
    assert all(
        f"'two' draws embeddings with a standard deviation of {deviation}," in f for f in found
    )


def test_other_scales_that_no_control_lacks(tmp_path: Path) -> None:
    attention = ", enter: {reinitialize: [attention], initializer: torch}"
    stages = stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two", more=attention)
    assert not list(remarks.other_embedding_scales(plan_of(tmp_path, curriculum(stages))))
    first = stage("{hiss: 1}", more=attention.replace("attention", "embeddings"))
    assert not list(remarks.other_embedding_scales(plan_of(tmp_path, curriculum(first))))


def test_evidence_that_no_evaluation_looks_for(two: Plan) -> None:
    waiting = [replace(s, spec=s.spec.model_copy(update={"until": "any"})) for s in two.stages]
    waiting[1] = replace(waiting[1], evaluations=())
    (found,) = remarks.unseen_evidence(replace(two, stages=tuple(waiting)))
    assert found.startswith("stage 'two' says `until`, but no evaluation falls inside it")
    assert not list(remarks.unseen_evidence(two))
