"""Controls: each differs in one thing from the arm that it stands beside, and equals it in all
else, to the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_files import TRAINER

from ncamix.arms import Arm, study_json, tokens_of
from ncamix.plan import Plan
from ncamix.study import CONTROLS
from ncamix.study_plan import plan_study, planned_run
from ncamix.variants import LoadedStudy, load_study

BASE = """\
ncamix: 1
name: base
tokenizer: bytes
sources:
  simple: {kind: nca, alphabet: 8, grid: 6, band: {gzip: [0.0, 0.6]}}
  rich: {kind: nca, alphabet: 10, grid: 6, band: {gzip: [0.3, 0.8]}}
  notes: {kind: text, files: [notes/*.txt], repeat: free, holdout: {share: 0.2}}
stages:
  - name: automata
    duration: 30%
    mixture: {0%: {simple: 1}, 100%: {rich: 1}}
    optimizer: {lr: {peak: 0.5x, warmup: 10%, decay: cosine}}
  - name: text
    duration: 33ba
    mixture: {notes: 1}
    enter: {reinitialize: [embeddings], initializer: torch, spare: [nca], optimizer_state: keep}
  - {name: late, duration: rest, mixture: {notes: 1}, batch_size: 8}
evaluate: {every: 10%, sources: [notes]}
"""
HEAD = "ncamix: 1\nname: tried\nbase: base.yaml\ntrainer: small.yaml\nseeds: [1, 2]\n"
ALL = f"controls: [{', '.join(CONTROLS)}]\n"


def load(folder: Path, body: str, base: str = BASE) -> LoadedStudy:
    (folder / "notes").mkdir(exist_ok=True)
    for i in range(20):
        (folder / f"notes/{i}.txt").write_text(f"a line of notes, the {i}th\n" * 50)
    (folder / "base.yaml").write_text(base)
    (folder / "small.yaml").write_text(TRAINER.replace("layers: 1", "layers: 2"))
    (folder / "s.yaml").write_text(HEAD + body)
    return load_study(folder / "s.yaml")


def arms_of(folder: Path, body: str, base: str = BASE) -> dict[str, Arm]:
    return {arm.name: arm for arm in plan_study(load(folder, body, base))}


def plan_of(arm: Arm) -> Plan:
    assert arm.plan is not None, [str(problem) for problem in arm.problems]
    return arm.plan


def stages(arm: Arm) -> dict[str, int]:
    return {stage.name: stage.num_batches for stage in plan_of(arm).stages}


def test_every_control_is_made_with_the_transition_and_without(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, "variants: {up: {}}\n" + ALL)
    assert list(arms) == ["up", *(n for kind in CONTROLS for n in (kind, f"{kind}_plain"))]
    up = plan_of(arms["up"])
    for name, arm in arms.items():
        plan = plan_of(arm)
        assert (arm.control or "up", arm.beside) == (
            name.removesuffix("_plain"),
            "up" if arm.control else None,
        )
        assert plan.vocabulary.rows == plan_of(arms["noise_zipf"]).vocabulary.rows
        enter = next(stage for stage in plan.stages if stage.name == "text").enter
        if arm.control and not arm.transition and arm.control != "permuted":
            assert enter is None
        elif arm.transition:
            assert enter is not None and enter.initializer == "torch"
            assert enter.redrawn(2) == up.stages[1].enter.redrawn(2)  # type: ignore[union-attr]


def test_lengths_are_equal_to_the_batch(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, "variants: {up: {}}\n" + ALL)
    up = stages(arms["up"])
    warm = plan_of(arms["up"]).stages[0]
    assert up == {"automata": 30, "text": 33, "late": 18}
    for suffix in ("", "_plain"):
        found = {name: stages(arms[name + suffix]) for name in CONTROLS}
        assert found["scratch_natural"] == {"text": 33, "late": 18}
        total = plan_of(arms["scratch_total" + suffix])
        assert total.num_tokens == plan_of(arms["up"]).num_tokens
        assert found["scratch_total"] == {"text": 33, "late": 18 + warm.num_batches // 2}
        assert found["scratch_steps"] == {"text": 33, "late": 18 + warm.num_batches}
        assert found["text_x10"] == {**up, "automata": 10 * up["automata"]}
        for same in ("text", "shuffled", "permuted", "dyck_nested", "noise_uniform", "noise_zipf"):
            assert found[same] == up
    late = {name: plan_of(arm).stages[-1].evaluations for name, arm in arms.items()}
    assert late["shuffled"] == late["up"] == late["permuted"]


def test_what_stands_in_place_of_the_automata(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, "variants: {up: {}}\n" + ALL)

    def drawn(name: str) -> dict[str, int]:
        return plan_of(arms[name]).stages[0].counts

    assert drawn("text") == {"notes": 120} and drawn("text_x10") == {"notes": 1200}
    assert (
        drawn("shuffled") == drawn("up") == drawn("permuted") and sum(drawn("up").values()) == 120
    )
    for name in ("dyck_nested", "dyck_shuffle", "noise_uniform", "noise_zipf"):
        assert drawn(name) == {f"control_{name}": 120}
    shuffled = plan_of(arms["shuffled"]).curriculum.curriculum.sources
    assert [getattr(shuffled[n], "transform", None) for n in ("simple", "rich", "notes")] == [
        "shuffle_tokens",
        "shuffle_tokens",
        None,
    ]
    noise = plan_of(arms["noise_uniform"]).sources["control_noise_uniform"]
    assert noise.num_ids == plan_of(arms["up"]).sources["rich"].num_ids


def test_weights_that_are_carried_over_are_permuted(tmp_path: Path) -> None:
    base = BASE.replace("reinitialize: [embeddings]", "reinitialize: {embeddings: all, mlp: 0..0}")
    arms = arms_of(tmp_path, "variants: {up: {}}\ncontrols: [permuted]\n", base)
    written = [str(arms[name].laid[-1]) for name in ("permuted", "permuted_plain")]
    assert written == [
        "stages.text.enter.permute=[attention, {mlp: 1..1}, norms, final_norm]",
        "stages.text.enter={permute: [embedding, head, attention, mlp, norms, final_norm]}",
    ]


def test_what_a_study_without_a_word_of_controls_gets(tmp_path: Path) -> None:
    scratch = ["scratch_natural", "scratch_natural_plain", "scratch_total", "scratch_total_plain"]
    arms = arms_of(tmp_path, "variants: {up: {}, down: {stages.automata.transform: reverse}}\n")
    assert list(arms) == ["up", "down", *scratch]
    natural = "none: {stages.automata: null, stages.text.enter: null, match: natural}"
    assert list(arms_of(tmp_path, f"variants: {{up: {{}}, {natural}}}\n")) == ["up", "none"]
    assert list(arms_of(tmp_path, "variants: {up: {}}\ncontrols: []\n")) == ["up"]
    text = BASE.replace("{0%: {simple: 1}, 100%: {rich: 1}}", "{notes: 1}").replace(
        "spare: [nca], ", ""
    )
    variants = "variants: {up: {}, down: {stages.late.batch_size: 2}}\n"
    assert list(arms_of(tmp_path, variants, text)) == ["up", "down"]


def test_controls_stand_beside_a_variant_at_every_point_of_the_grid(tmp_path: Path) -> None:
    body = "variants: {up: {}, down: {stages.automata.transform: reverse}}\n"
    body += "grid: {stages.automata.duration: [10ba, 20ba]}\n"
    body += "controls: {use: [scratch_natural, text], beside: down, transition: same}\n"
    arms = arms_of(tmp_path, body)
    assert list(arms)[4:] == [
        "scratch_natural,duration=10ba",
        "text,duration=10ba",
        "scratch_natural,duration=20ba",
        "text,duration=20ba",
    ]
    assert arms["text,duration=20ba"].beside == "down,duration=20ba"
    assert stages(arms["text,duration=20ba"])["automata"] == 20


def test_arms_that_are_one_are_told(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, "variants: {up: {}, again: {stages.late.batch_size: 8}}\n" + ALL)
    assert arms["again"].same_as == "up" and arms["up"].same_as is None
    assert arms["text"].same_as is None


def test_other_lengths_scale_the_natural_stages_alone(tmp_path: Path) -> None:
    body = "variants: {up: {}, down: {stages.automata.transform: reverse}}\n"
    body += "compare: {primary: [up, down], metric: loss/notes, smallest_effect: 0.1, "
    body += "speedup: {to: scratch_natural, of: [up], lengths: [0.5x, 2x]}}\n"
    arms = arms_of(tmp_path, body)
    lengths = {name: stages(arm) for name, arm in arms.items() if arm.lengthened}
    assert lengths == {
        "scratch_natural,length=0.5x": {"text": 16, "late": 9},
        "scratch_natural,length=2x": {"text": 66, "late": 36},
        "up,length=0.5x": {"automata": 30, "text": 16, "late": 9},
        "up,length=2x": {"automata": 30, "text": 66, "late": 36},
    }
    up = plan_of(arms["up"])
    for name in ("up,length=0.5x", "up,length=2x"):
        assert plan_of(arms[name]).beginning(1) == up.beginning(1)  # it is trained once


@pytest.mark.parametrize(
    ("body", "path", "what"),
    [
        ("controls: [scrach_natural]\n", "controls.0", "unknown control 'scrach_natural'"),
        ("controls: {use: [text], besides: up}\n", "controls.besides", "unknown key 'besides'"),
        ("controls: {use: [text], beside: uup}\n", "controls.beside", "unknown variant 'uup'"),
        ("controls: {use: [text], transition: no}\n", "controls.transition", "unknown transition"),
        ("controls: 3\n", "controls", "controls are a list of kinds"),
    ],
)
def test_refused_controls(tmp_path: Path, body: str, path: str, what: str) -> None:
    from plan_files import problems

    found = problems(load, tmp_path, "variants: {up: {}}\n" + body)
    assert any(p.path == path and what in p.what for p in found), [str(p) for p in found]


def test_controls_that_cannot_be_made_say_why(tmp_path: Path) -> None:
    taken = "variants: {up: {}, text: {stages.late.batch_size: 4}}\ncontrols: [text]\n"
    arms = plan_study(load(tmp_path, taken))
    (found,) = [p for arm in arms for p in arm.problems if "text_plain" not in arm.name]
    assert found.path == "controls.0" and "a variant is named 'text'" in found.what
    done = "variants: {up: {sources.rich.transform: shuffle_frames}}\ncontrols: [shuffled]\n"
    arms = plan_study(load(tmp_path, done))
    assert "'rich' is transformed already" in arms[1].problems[0].what


def test_an_arm_is_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in study.json, laid over the base by `--set`, is the arm."""
    from ncamix.loading import load_curriculum
    from ncamix.planning import make_plan
    from ncamix.trainer import load_trainer

    body = "variants: {up: {sources.notes.files: [notes/1*.txt]}, none: {stages.automata: null, "
    body += "stages.text.enter: null, match: natural}}\n" + ALL
    loaded = load(tmp_path, body)
    arms = plan_study(loaded)
    monkeypatch.chdir(tmp_path)
    made = study_json(loaded, arms)
    for arm in arms:
        settings = made["arms"][arm.name]["settings"]
        plan = make_plan(
            load_curriculum("base.yaml", settings), load_trainer("small.yaml", settings)
        )
        assert plan.fingerprint == plan_of(arm).fingerprint, arm.name
        assert tokens_of(plan) == made["arms"][arm.name]["tokens"]


def test_a_point_about_a_stage_that_an_arm_lacks_leaves_it_as_it_is(tmp_path: Path) -> None:
    body = "variants: {up: {}}\ncontrols: [scratch_natural]\n"
    body += "tune: {stages.automata.optimizer.lr.peak: [0.1x, 1x], stages.late.optimizer.lr: "
    body += "[0.5x, 1x], seeds: [9]}\n"
    loaded = load(tmp_path, body)
    arms = {arm.name: arm for arm in plan_study(loaded)}
    points = loaded.tuning_points()
    assert len(points) == 4
    for name, different in (("up", 4), ("scratch_natural", 2)):
        plans = [planned_run(loaded, arms[name], 9, point) for point in points.values()]
        assert len({plan.fingerprint for plan in plans}) == different
        assert {plan.seeds.init for plan in plans} == {9}
