"""Plans of what stages do to each other: early ends, replays, lengths, shares and entries."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_files import SOURCES, TRAINER, curriculum, plan_of, problem, problems, stage

from ncamix.plan import Plan
from ncamix.planning import decide

EVALUATE = "evaluate: {every: 5ba, sources: [hiss]}\n"
UNTIL = ", until: {loss/hiss: {below: 1.0}}"


def counted(plan: Plan) -> list[int]:
    return [s.num_batches for s in plan.stages]


def early(folder: Path, rest: str = "", last: str = "rest") -> Plan:
    """100 batches: 40 of hiss that may end early, 20 of both, the rest of simple to rich."""
    stages = (
        stage("{0%: {hiss: 1}, 100%: {simple: 1}}", "40%", more=UNTIL)
        + stage("{hiss: 1, simple: 1}", "20ba", "two")
        + stage("{0%: {simple: 1}, 100%: {rich: 1}}", last, "three")
    )
    return plan_of(folder, curriculum(stages, rest=EVALUATE + rest))


def test_what_a_stage_leaves_goes_to_the_rest(tmp_path: Path) -> None:
    plan = early(tmp_path)
    assert counted(plan) == [40, 20, 40]
    after = decide(plan, {"one": 10})
    assert counted(after) == [10, 20, 70]
    assert [s.clock_batches for s in after.stages] == [40, 20, 70]
    assert after.stages[2].first_token == 30 * 256
    assert after.fingerprint == plan.fingerprint  # the run is known by what it was started with
    assert decide(after, {"one": 10}) is after
    # The past is as it was: the same batches, rates and evaluations, cut short.
    one, other = plan.stages[0], after.stages[0]
    assert (one.apportionment.counts[:10] == other.apportionment.counts).all()
    assert [one.rate.at(t) for t in range(10)] == [other.rate.at(t) for t in range(10)]
    assert other.evaluations == tuple(t for t in one.evaluations if t < 10)
    assert after.stages[1].first_sample["hiss"] == other.counts["hiss"]


def test_without_a_rest_it_is_not_trained(tmp_path: Path) -> None:
    plan = early(tmp_path, last="40%")
    assert counted(decide(plan, {"one": 10})) == [10, 20, 40]


def test_however_it_ends_enough_samples_are_planned(tmp_path: Path) -> None:
    plan = early(tmp_path)
    for batches in range(5, 40, 5):
        after = decide(plan, {"one": batches})
        for each in after.stages:
            for name in each.sources:
                end = each.first_sample[name] + each.counts[name]
                assert end <= plan.sources[name].samples_needed


def test_a_text_must_suffice_however_a_stage_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words that are a text of their own\n" * 200)
    text = SOURCES + "  code: {kind: text, files: [a.txt], repeat: 4, duplicates: keep}\n"
    stages = stage("{hiss: 1}", "50%", more=UNTIL) + stage("{code: 1}", name="two")
    written = curriculum(stages, text, "tokenizer: bytes\n" + EVALUATE)
    trainer = TRAINER.replace("25600tok", "60000tok")
    plan = plan_of(tmp_path, written, trainer)
    assert plan.sources["code"].samples_needed > plan.stages[1].counts["code"]
    found = problem(plan_of, tmp_path, written, TRAINER.replace("25600tok", "120000tok"))
    assert found.path == "sources.code" and "too small for its share" in found.what


def test_epochs_last_as_long_as_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 6400)
    text = SOURCES + "  code: {kind: text, files: [a.txt]}\n"
    stages = stage("{code: 50%, hiss: 50%}", "1ep") + stage("{hiss: 1}", name="two")
    plan = plan_of(tmp_path, curriculum(stages, text, "tokenizer: bytes\n"))
    assert plan.estimated == ("one",)
    assert any("its length is a guess until 'code' is tokenized" in w for w in plan.warnings)
    assert counted(plan) == [50, 50]  # 100 samples of code, and as many of hiss


def test_a_replay_deals_again_what_was_drawn(tmp_path: Path) -> None:
    stages = (
        stage("{hiss: 1, simple: 1}", "25%")
        + stage("{hiss: 1}", "25%", "two", ", draw: {hiss: replay}")
        + stage("{hiss: 1}", name="three")
    )
    plan = plan_of(tmp_path, curriculum(stages))
    assert plan.stages[1].replayed == {"hiss": 50}
    assert [s.first_sample["hiss"] for s in plan.stages] == [0, 0, 50]
    assert plan.sources["hiss"].samples_needed == 250
    unseen = stage("{simple: 1}", "25%") + stage(
        "{hiss: 1}", name="two", more=", draw: {hiss: replay}"
    )
    found = problem(plan_of, tmp_path, curriculum(unseen))
    assert found.path == "stages.two.draw.hiss"
    assert "no earlier stage draws from it" in found.what


def test_samples_of_another_length_are_a_dataset_of_their_own(tmp_path: Path) -> None:
    stages = stage("{hiss: 1}", "50%") + stage(
        "{hiss: 1}", name="two", more=", sequence_length: 128"
    )
    plan = plan_of(tmp_path, curriculum(stages, rest=EVALUATE))
    assert list(plan.sources) == ["hiss", "hiss@128"]
    assert counted(plan) == [50, 25]
    assert plan.dataset_of("hiss", plan.stages[1]).sequence_length == 128
    assert plan.stages[1].first_sample == {"hiss": 200}  # no sample number twice
    assert plan.sources["hiss@128"].samples_needed == 300
    assert plan.num_tokens == 25600


def test_a_share_of_the_run_may_be_bounded(tmp_path: Path) -> None:
    sources = SOURCES.replace("symbols: 100}", "symbols: 100, max_share: 30%}")
    plan_of(tmp_path, curriculum(stage("{hiss: 30%, rich: 70%}"), sources))
    found = problem(plan_of, tmp_path, curriculum(stage("{hiss: 31%, rich: 69%}"), sources))
    assert found.path == "sources.hiss.max_share"
    assert "gets 31% of the run's tokens, more than 30%" in found.what


def test_owners_split_every_batch(tmp_path: Path) -> None:
    trainer = TRAINER + "canonical_nodes: 2\n"
    one = curriculum(stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two"))
    plan = plan_of(tmp_path, one, trainer)
    assert plan.fingerprint != plan_of(tmp_path, one).fingerprint
    odd = curriculum(
        stage("{hiss: 1}", "50%", more=", batch_size: 3") + stage("{hiss: 1}", name="two")
    )
    found = problem(plan_of, tmp_path, odd, trainer)
    assert found.path == "stages.one.batch_size" and "2 canonical nodes" in found.what


@pytest.mark.parametrize(
    ("enter", "path", "what"),
    [
        ("{reinitialize: [{attention: 0..1}]}", "reinitialize", "beyond the model"),
        ("{keep_only: {mlp: 3}}", "keep_only.mlp", "beyond the model"),
        ("{permute: {mlp: 3}}", "permute.mlp", "beyond the model"),
        ("{reinitialize: mlp, permute: {mlp: 0}}", "permute.mlp", "reinitialize has it drawn anew"),
        ("{freeze: {norms: {layers: 1, until: 20%}}}", "freeze.norms", "beyond the model"),
        ("{freeze: {mlp: {until: 60ba}}}", "freeze.mlp.until", "frozen for 60 batches, and"),
        ("{reinitialize: embeddings, spare: [binary]}", "spare.0", "has no rows of 'binary'"),
    ],
)
def test_entries_that_cannot_be(tmp_path: Path, enter: str, path: str, what: str) -> None:
    stages = stage("{hiss: 1}", "50%") + stage("{simple: 1}", name="two", more=f", enter: {enter}")
    found = problem(plan_of, tmp_path, curriculum(stages))
    assert found.path == f"stages.two.enter.{path}"
    assert what in found.what and found.remedy


def test_entries_planned(tmp_path: Path) -> None:
    enter = "{keep_only: attention, freeze: [{mlp: {until: 10%}}, norms], spare: [simple, noise]}"
    stages = stage("{hiss: 1, simple: 1}", "50%") + stage(
        "{simple: 1}", name="two", more=f", enter: {enter}"
    )
    plan = plan_of(tmp_path, curriculum(stages))
    assert plan.stages[1].spared == ((0, 10002), (10002, 10102))
    assert [(str(group), n) for group, n in plan.stages[1].frozen] == [("mlp", 5), ("norms", 50)]
    same = enter.replace("[{mlp: {until: 10%}}, norms]", "[norms, {mlp: {until: 5ba}}]")
    assert (
        plan_of(tmp_path, curriculum(stages.replace(enter, same))).fingerprint == plan.fingerprint
    )
    other = enter.replace("10%", "12%")
    assert (
        plan_of(tmp_path, curriculum(stages.replace(enter, other))).fingerprint != plan.fingerprint
    )


def test_states_of_optimizers_that_cannot_go_on(tmp_path: Path) -> None:
    keep = ", enter: {optimizer_state: keep}"
    found = problem(plan_of, tmp_path, curriculum(stage("{hiss: 1}", more=keep)))
    assert found.path == "stages.one.enter.optimizer_state"
    assert "no stage before" in found.what and "fresh" in found.remedy
    more = f", optimizer: {{kind: adam}}{keep}"
    stages = stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two", more=more)
    found = problem(plan_of, tmp_path, curriculum(stages))
    assert found.path == "stages.two.enter.optimizer_state"
    assert "with adamw, this one with adam" in found.what and "{kind: adamw}" in found.remedy
    plan_of(tmp_path, curriculum(stages.replace("{kind: adam}", "{kind: adamw, lr: 0.1x}")))


def test_keys_of_another_optimizer(tmp_path: Path) -> None:
    more = ", optimizer: {momentum: 0.9}"
    found = problem(plan_of, tmp_path, curriculum(stage("{hiss: 1}", more=more)))
    assert found.path == "stages.one.optimizer.momentum"
    assert found.what == "adamw has no `momentum`" and "kind: muon" in found.remedy
    muon = TRAINER.replace("{lr: 1e-3}", "{kind: muon, lr: 1e-3, adam_ratio: 0.1}")
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}", more=more)), muon)
    chosen = plan.stages[0].optimizer
    assert (float(chosen.momentum or 0), float(chosen.adam_ratio or 0)) == (0.9, 0.1)
    left = ", optimizer: {kind: adamw, lr: 0.1x}"
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}", more=left)), muon)
    assert plan.stages[0].optimizer.adam_ratio is None, "the trainer's is muon's alone"


def test_mistakes_of_all_stages_are_found_at_once(tmp_path: Path) -> None:
    stages = (
        stage("{0%: {hiss: 1}, 90ba: {rich: 1}}", "25%")
        + stage("{0ba: {hiss: 1}, 80ba: {rich: 1}}", "25%", "two")
        + stage("{hiss: 1}", name="three")
    )
    found = problems(plan_of, tmp_path, curriculum(stages))
    assert [p.path for p in found] == ["stages.one.mixture", "stages.two.mixture"]
    rates = [", optimizer: {lr: {0ba: 1x, 90ba: 0.5x}}", ", optimizer: {lr: {warmup: 90ba}}"]
    stages = stage("{hiss: 1}", "50%", more=rates[0]) + stage(
        "{hiss: 1}", name="two", more=rates[1]
    )
    found = problems(plan_of, tmp_path, curriculum(stages))
    assert [p.path for p in found] == ["stages.one.optimizer.lr", "stages.two.optimizer.lr"]


def test_what_is_decided_is_never_refused(tmp_path: Path) -> None:
    """The run is under way: a text comes again, a replay finds nothing and draws new samples."""
    (tmp_path / "a.txt").write_text("some words that are a text of their own\n" * 200)
    text = SOURCES + "  code: {kind: text, files: [a.txt], repeat: 1, duplicates: keep}\n"
    switch = "[{at: 0%, mix: {code: 1}, ease: step}, {at: 50%, mix: {hiss: 1}}]"
    stages = (
        stage(switch, "50%", more=UNTIL)
        + stage("{hiss: 1}", "10%", "two", ", draw: {hiss: replay}")
        + stage("{code: 1, simple: 1}", name="three")
    )
    plan = plan_of(tmp_path, curriculum(stages, text, "tokenizer: bytes\n" + EVALUATE))
    for batches in range(5, 50, 5):
        after = decide(plan, {"one": batches})
        assert after.sources["code"].fingerprint == plan.sources["code"].fingerprint
        assert sum(counted(after)) == 100
        drawn = sum(s.counts.get("code", 0) for s in after.stages)
        assert drawn <= plan.sources["code"].samples_needed
        if batches <= 25:
            assert "hiss" not in after.stages[1].replayed
            assert after.stages[1].first_sample == {"hiss": 0}


def test_how_a_mixture_is_written_decides_nothing(tmp_path: Path) -> None:
    plans = [
        plan_of(tmp_path, curriculum(stage(mixture)))
        for mixture in ("{hiss: 1, rich: 1, simple: 1}", "{simple: 1, rich: 1, hiss: 1, binary: 0}")
    ]
    assert plans[0].fingerprint == plans[1].fingerprint
