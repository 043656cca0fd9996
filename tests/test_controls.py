"""Controls: each differs in one thing from the arm that it stands beside, and equals it in all
else, to the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plan_files import TRAINER

from ncamix.arms import Arm, problems_of, study_json, tokens_of
from ncamix.controls import is_natural
from ncamix.origins import Origin
from ncamix.plan import Plan
from ncamix.study import CONTROLS
from ncamix.study_plan import plan_study, planned_run
from ncamix.study_tables import study_words
from ncamix.variants import LoadedStudy, load_study
from ncamix.verdicts import NO_NATURAL, UNTUNED

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


LENGTHS = "compare: {primary: [up, text], metric: loss/notes, smallest_effect: 0.1, speedup: "
SIMPLE = "  - {name: automata, duration: 30%, mixture: {simple: 1}}\n"
NOTES = "  - {name: text, duration: rest, mixture: {notes: 1}}\n"


def with_stages(*stages: str) -> str:
    """The base with other stages."""
    head, tail = BASE.split("stages:\n")
    return f"{head}stages:\n{''.join(stages)}evaluate:{tail.split('evaluate:')[1]}"


def drawn(arm: Arm) -> dict[str, dict[str, int]]:
    """Samples of each source in each stage."""
    return {s.name: {n: k for n, k in s.counts.items() if k} for s in plan_of(arm).stages}


def test_what_begins_where_the_automata_ended_keeps_its_rate(tmp_path: Path) -> None:
    """Without them nothing is kept or continued; the rate that they reached stays."""
    warm = SIMPLE.replace("}}", "}, optimizer: {lr: {peak: 1x, decay: cosine, floor: 0.2x}}}")
    more = "enter: {optimizer_state: keep}, optimizer: {lr: {start: continue, decay: linear}}"
    text = NOTES.replace("}}", f"}}, {more}}}")
    body = "variants: {up: {}}\ncontrols: {use: [scratch_natural, scratch_steps, text]}\n"
    arms = arms_of(tmp_path, body, with_stages(warm, text))

    def rates(name: str) -> list[float]:
        stage = plan_of(arms[name]).stages[-1]
        return [stage.rate.at(i) for i in range(stage.num_batches)]

    assert rates("up")[0] == pytest.approx(0.2e-3, rel=0.02)
    for name in ("scratch_natural", "text", "text_plain"):
        assert rates(name) == pytest.approx(rates("up"))
    assert rates("scratch_steps")[0] == pytest.approx(0.2e-3, rel=0.02)
    assert plan_of(arms["scratch_natural"]).stages[0].enter.optimizer_state == "fresh"  # type: ignore[union-attr]
    assert plan_of(arms["text"]).stages[1].enter.optimizer_state == "keep"  # type: ignore[union-attr]

    # where another stage is left before, its rate is not taken for that of the automata
    slow = SIMPLE.replace("}}", "}, optimizer: {lr: {peak: 0.5x}}}")
    first = "  - {name: first, duration: 20%, mixture: {notes: 1}}\n"
    named = body.replace("use:", "stage: automata, use:")
    arms = arms_of(tmp_path, named, with_stages(first, slow, text))
    assert rates("up")[0] == pytest.approx(0.5e-3, rel=0.02)
    assert rates("scratch_natural") == pytest.approx(rates("up"))
    assert plan_of(arms["scratch_natural"]).stages[1].enter.optimizer_state == "keep"  # type: ignore[union-attr]


def test_automata_amid_texts_are_controlled_for_by_name(tmp_path: Path) -> None:
    sources = "sources:\n  other: {kind: text, files: [notes/1*.txt], repeat: free}\n"
    first = "  - {name: first, duration: 20%, mixture: {other: 1}}\n"
    text = NOTES.replace("}}", "}, enter: {reinitialize: [embeddings], spare: [nca]}}")
    base = with_stages(first, SIMPLE, text).replace("sources:\n", sources)
    use = "use: [scratch_natural, scratch_total, text, dyck_nested], transition: same"
    arms = arms_of(
        tmp_path, f"variants: {{up: {{}}}}\ncontrols: {{stage: automata, {use}}}\n", base
    )
    begun = {"first": {"other": 80}}
    assert {name: drawn(arm) for name, arm in arms.items()} == {
        "up": {**begun, "automata": {"simple": 120}, "text": {"notes": 200}},
        "scratch_natural": {**begun, "text": {"notes": 200}},
        "scratch_total": {**begun, "text": {"notes": 320}},
        "text": {**begun, "automata": {"notes": 120}, "text": {"notes": 200}},
        "dyck_nested": {**begun, "automata": {"control_dyck_nested": 120}, "text": {"notes": 200}},
    }
    spared = {name: plan_of(arm).stages[-1].enter.spare for name, arm in arms.items()}  # type: ignore[union-attr]
    assert spared == {**dict.fromkeys(arms, ()), "up": ("nca",)}


def test_what_is_replayed_is_drawn_anew_where_nothing_drew_it(tmp_path: Path) -> None:
    more = "draw: {simple: replay}, enter: {reinitialize: [embeddings], spare: [nca]}"
    text = NOTES.replace("{notes: 1}}", f"{{notes: 3, simple: 1}}, {more}}}")
    arms = arms_of(tmp_path, "variants: {up: {}}\n" + ALL, with_stages(SIMPLE, text))
    for name, arm in arms.items():
        last = plan_of(arm).stages[-1]
        again = arm.control in (None, "shuffled", "permuted")
        assert last.replayed == ({"simple": 120} if again else {}), name
        if arm.control != "scratch_total" and arm.control != "scratch_steps":
            assert drawn(arm)["text"] == {"notes": 210, "simple": 70}
        if arm.transition:  # automata are trained behind it, so their rows are spared still
            assert last.enter is not None and last.enter.spare == ("nca",)


def test_rows_are_spared_between_automata_as_long_as_there_are_any(tmp_path: Path) -> None:
    more = (
        "  - {name: more, duration: 10%, mixture: {rich: 1}, enter: {reinitialize: [embeddings], "
    )
    text = NOTES.replace("}}", "}, enter: {reinitialize: [embeddings]}}")
    base = with_stages(SIMPLE, more + "spare: [nca]}}\n", text)
    arms = arms_of(tmp_path, "variants: {up: {}}\n" + ALL, base)
    for name, arm in arms.items():
        kept = {s.name: s.enter.spare for s in plan_of(arm).stages if s.enter is not None}
        scratch, in_place = (
            arm.control and "scratch" in arm.control,
            arm.control
            not in (
                None,
                "shuffled",
                "permuted",
            ),
        )
        assert kept.get("more") == (None if scratch else () if in_place else ("nca",)), name


def test_text_beside_automata_stays_beside_what_stands_in_their_place(tmp_path: Path) -> None:
    mixed = "  - {name: mixed, duration: 30%, mixture: {simple: 3, notes: 1}}\n"
    body = (
        "variants: {up: {}}\ncontrols: {stage: mixed, use: [scratch_natural, text, noise_zipf]}\n"
    )
    arms = arms_of(tmp_path, body, with_stages(mixed, NOTES))
    assert {name: drawn(arm).get("mixed") for name, arm in arms.items()} == {
        "up": {"notes": 30, "simple": 90},
        "scratch_natural": None,
        "text": {"notes": 120},
        "noise_zipf": {"notes": 30, "control_noise_zipf": 90},
    }


def test_automata_behind_the_text_are_no_natural_stage(tmp_path: Path) -> None:
    """Neither more tokens nor another length of the text changes them."""
    text, last = NOTES.replace("rest", "50%"), SIMPLE.replace("automata", "last")
    body = "variants: {up: {}}\ncontrols: [scratch_total, text]\n" + LENGTHS
    body += "{to: up, of: [text, scratch_total], lengths: [0.5x]}}\n"
    arms = arms_of(tmp_path, body, with_stages(SIMPLE, text, last.replace("30%", "rest")))
    assert {name: stages(arm) for name, arm in arms.items()} == {
        "up": {"automata": 30, "text": 50, "last": 20},
        "scratch_total": {"text": 80, "last": 20},
        "text": {"automata": 30, "text": 50, "last": 20},
        "text,length=0.5x": {"automata": 30, "text": 25, "last": 20},
        "scratch_total,length=0.5x": {"text": 40, "last": 20},
    }


@pytest.mark.parametrize(
    ("controls", "made", "path", "what"),
    [
        ("[text, shuffled]", NOTES, "controls", "before the first of natural text, 'text'"),
        ("[text]", SIMPLE.replace("30%", "rest"), "controls", "text comes behind 'automata'"),
        ("{stage: text, use: [text]}", SIMPLE + NOTES, "controls.stage", "comes behind 'text'"),
        (
            "{stage: [automata, txt], use: text}",
            SIMPLE + NOTES,
            "controls.stage.1",
            "there is no stage 'txt'",
        ),
    ],
)
def test_a_curriculum_that_cannot_be_cut_says_so_once(
    tmp_path: Path, controls: str, made: str, path: str, what: str
) -> None:
    body = f"variants: {{up: {{}}}}\ncontrols: {controls}\n"
    arms = plan_study(load(tmp_path, body, with_stages(made)))
    (problem,) = problems_of(arms)
    assert (problem.path, problem.line) == (path, 7) and problem.column and problem.remedy
    assert what in problem.what
    assert all(arm.plan is None for arm in arms if arm.control)


def test_another_length_of_what_has_no_text_is_refused(tmp_path: Path) -> None:
    last = "  - {name: last, duration: rest, mixture: {simple: 1}}\n"
    body = "variants: {up: {}, text: {stages.last.batch_size: 2}}\n" + LENGTHS
    loaded = load(tmp_path, body + "{to: up, of: text}}\n", with_stages(last))
    found = problems_of(plan_study(loaded))
    assert [p.path for p in found] == ["compare.speedup.of"]
    assert all("no stage of natural text could be longer" in p.what for p in found)


def test_what_begins_with_other_weights_is_not_natural(tmp_path: Path) -> None:
    """What they have seen is not known."""
    plan = plan_of(arms_of(tmp_path, "variants: {up: {}}\n", with_stages(NOTES))["up"])
    assert is_natural(plan)
    weights = Origin("runs/other/automata", tmp_path / "weights.pt", "", (), ())
    begun = replace(plan.stages[0], origin=weights)
    assert not is_natural(replace(plan, stages=(begun,)))


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
    body += "compare: {primary: [up, scratch_natural], metric: loss/notes, smallest_effect: 0.1}\n"
    loaded = load(tmp_path, body)
    arms = {arm.name: arm for arm in plan_study(loaded)}
    points = loaded.tuning_points()
    assert len(points) == 4
    for name, different in (("up", 4), ("scratch_natural", 2)):
        plans = [planned_run(loaded, arms[name], 9, point) for point in points.values()]
        assert len({plan.fingerprint for plan in plans}) == different
        assert {plan.seeds.init for plan in plans} == {9}
    words = study_words(loaded, list(arms.values()))
    assert "before that, 8 runs to tune 4 settings of every arm, on validation" in words


def test_what_is_compared_beside_the_primary_pair_is_told(tmp_path: Path) -> None:
    body = "variants: {up: {}, down: {stages.automata.transform: reverse}}\ncontrols: CONTROLS\n"
    body += "compare: {primary: [up, TO], metric: loss/notes, smallest_effect: 0.1}\n"

    def words(controls: str, to: str) -> list[str]:
        loaded = load(tmp_path, body.replace("CONTROLS", controls).replace("TO", to))
        return study_words(loaded, plan_study(loaded))

    both = "the variants with scratch_natural and up with each of its controls"
    assert f"{both}, adjusted for how many they are" in words("[scratch_natural, text]", "down")
    alone = words("[]", "down")
    assert not any("adjusted" in line for line in alone)
    assert NO_NATURAL in alone and UNTUNED in alone
