"""Remarks: each is made where it should be, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_files import SOURCES, TRAINER, curriculum, plan_of, stage

from ncamix import remarks
from ncamix.entry import Enter
from ncamix.plan import Plan

LAYERS = TRAINER.replace("layers: 1", "layers: 4")
LONG = TRAINER.replace("sequence_length: 64", "sequence_length: 640").replace("25600", "256000")
COSINE = ", optimizer: {lr: {peak: 1x, decay: cosine}}"


def entering(plan: Plan, **keys: Any) -> Plan:
    """The plan with another way of entering its last stage."""
    last = plan.stages[-1]
    spec = last.spec.model_copy(update={"enter": Enter.model_validate(keys)})
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


@pytest.mark.parametrize(
    ("lr", "said"),
    [
        ("5e-4", "0.0005 is absolute; for trainers of other sizes, write it relative to the"),
        ("{peak: 3e-3, decay: cosine}", "3x"),
        ("{0%: 0.1x, 50%: 2e-4, 100%: 1e-4}", "0.2x"),
        ("{start: continue, peak: 1e-4}", "0.1x"),
        ("0.5x", None),
        ("{start: continue}", None),
        ("{peak: 1x, decay: cosine, floor: 1e-5}", None),
        ("{0%: 0, 100%: 1x}", None),
    ],
)
def test_rates_that_do_not_follow_the_trainer(tmp_path: Path, lr: str, said: str | None) -> None:
    more = f", optimizer: {{lr: {lr}}}"
    stages = stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two", more=more)
    found = list(remarks.absolute_rates(plan_of(tmp_path, curriculum(stages))))
    assert len(found) == (said is not None)
    assert all("stage 'two': the peak rate" in text and str(said) in text for text in found)


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
        ("attention", "attention", "attention is"),
        ({"attention": "0..1"}, {"attention": "1..3"}, "attention is"),
        ({"attention": {"layers": 2, "until": "20%"}}, "attention", "attention is"),
        ("head", "embeddings", "head is"),
        ("embeddings", ["embedding"], "embeddings is"),
        ({"attention": "0..1"}, {"attention": "2..3"}, None),
        ("mlp", "attention", None),
        ("mlp", [], None),
    ],
)
def test_frozen_groups_that_are_redrawn(
    two: Plan, frozen: Any, redrawn: Any, names: str | None
) -> None:
    found = list(remarks.frozen_noise(entering(two, freeze=frozen, reinitialize=redrawn)))
    assert [f"stage 'two': {names} re-initialised" in text for text in found] == [True] * bool(
        names
    )


def test_frozen_groups_beside_those_that_are_kept(two: Plan) -> None:
    kept = [{"attention": "0..2"}, "mlp"]
    inside = entering(two, keep_only=kept, freeze=["mlp", {"attention": "0..1"}])
    assert not list(remarks.frozen_noise(inside))
    beyond = entering(two, keep_only=kept, freeze=["attention", {"norms": 0}])
    (found,) = remarks.frozen_noise(beyond)
    assert "attention and norms are re-initialised" in found


def test_a_stage_that_trains_nothing(two: Plan) -> None:
    most = ["attention", "mlp", "embeddings", "final_norm"]
    assert not list(remarks.frozen_models(entering(two, freeze=most)))
    (found,) = remarks.frozen_models(entering(two, freeze=[*most, "norms"]))
    assert found.startswith("stage 'two' freezes every group")


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


def test_evidence_that_no_evaluation_looks_for(tmp_path: Path) -> None:
    until = ", until: {loss/hiss: {below: 2}}"
    stages = stage("{hiss: 1}", "85%", more=until) + stage("{hiss: 1}", name="two", more=until)
    for every, unseen in (("40%", 1), ("10%", 0)):
        rest = f"evaluate: {{every: {every}, sources: [hiss]}}\n"
        found = list(remarks.unseen_evidence(plan_of(tmp_path, curriculum(stages, rest=rest))))
        assert len(found) == unseen
        says = "stage 'two' says `until`, but no evaluation falls inside it"
        assert all(text.startswith(says) for text in found)


@pytest.mark.parametrize(("cycle", "remarked"), [("1ba", True), ("1.5ba", True), ("2ba", False)])
def test_cycles_too_short_to_be_seen(tmp_path: Path, cycle: str, remarked: bool) -> None:
    mixture = "{0%: {hiss: 1}, 50%: {rich: 1}, 100%: {hiss: 1}}"
    text = curriculum(stage(mixture, more=f", cycle: {cycle}"))
    assert any("shorter than two" in w for w in plan_of(tmp_path, text).warnings) == remarked


@pytest.mark.parametrize(
    ("packages", "by", "empty"),
    [
        ("g0 g1 g7", "package", None),
        ("g1 g2 g3", "package", "validation and test"),
        ("g0 g1", "package", "test"),
        ("g7 g1", "package", "validation"),
        ("g1 g2 g3", "document", None),
    ],
)
def test_held_out_splits_that_no_package_comes_into(
    tmp_path: Path, packages: str, by: str, empty: str | None
) -> None:
    for package in packages.split():
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.txt").write_text(f"{package} words " * 9000)
    holdout = f"holdout: {{share: 0.5, by: {by}}}"
    sources = SOURCES + f"  code: {{kind: text, files: ['*/a.txt'], {holdout}}}\n"
    body = curriculum(stage("{code: 1}"), sources, "tokenizer: bytes\n")
    found = list(remarks.empty_holdouts(plan_of(tmp_path, body)))
    if empty is None:
        assert not found
    else:
        (remark,) = found
        assert (
            f"none of its {len(packages.split())} packages comes into the {empty} split" in remark
        )


def test_nothing_is_said_of_packages_that_are_known_when_rows_are_read(tmp_path: Path) -> None:
    row = '{"path": "a/b.py", "text": "words of a package"}\n'
    (tmp_path / "rows.jsonl").write_text(row * 9000)
    holdout = "holdout: {share: 0.01, by: package}"
    sources = SOURCES + f"  code: {{kind: text, files: [rows.jsonl], {holdout}}}\n"
    body = curriculum(stage("{code: 1}"), sources, "tokenizer: bytes\n")
    assert not list(remarks.empty_holdouts(plan_of(tmp_path, body)))


def test_rates_of_other_optimizers(tmp_path: Path) -> None:
    muon = ", optimizer: {kind: muon}"
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}", more=muon)))
    (found,) = remarks.rates_of_other_kinds(plan)
    assert "with muon at the rate that the trainer has for adamw" in found and "`lr`" in found
    for fine in (", optimizer: {kind: muon, lr: 20x}", ", optimizer: {kind: adam}"):
        plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}", more=fine)))
        assert not list(remarks.rates_of_other_kinds(plan))


def test_moments_of_weights_that_were_averaged(tmp_path: Path) -> None:
    keep = ", enter: {optimizer_state: keep}"
    text = curriculum(stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two", more=keep))
    assert not list(remarks.moments_of_other_weights(plan_of(tmp_path, text)))
    averaged = plan_of(tmp_path, text, TRAINER + "averaging: {last: 9%}\n")
    (found,) = remarks.moments_of_other_weights(averaged)
    assert "'two' keeps an optimizer's state" in found and "fresh" in found
