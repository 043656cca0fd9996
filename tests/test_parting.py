"""Where two plans part, against a walk over all their batches."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from plan_files import SOURCES, TRAINER, curriculum, plan_of, stage

from ncamix.parting import Parting, find_parting
from ncamix.plan import Plan

MIXTURES = ("{hiss: 1}", "{hiss: 1, simple: 1}", "{0%: {hiss: 1}, 50%: {simple: 1}}", "{rich: 1}")
RATES = ("{peak: 1x}", "{peak: 1e-3}", "{peak: 1x, warmup: 10ba}", "{peak: 1x, decay: cosine}")
ENTERS = ("{}", "{reinitialize: [embeddings]}")


def walk(plan: Plan) -> list[Any]:
    """Everything that decides over each batch of a run, and tokens trained on before it."""
    batches = []
    tokens = 0
    seen: dict[str, int] = {}
    for planned in plan.stages:
        enter = planned.enter and planned.enter.reinitialize
        facts = (
            planned.batch_size,
            planned.optimizer.weight_decay,
            enter and (planned.name, enter),
        )
        for t, row in enumerate(planned.apportionment.counts.tolist()):
            samples = set()
            for name, count in zip(planned.sources, row, strict=True):
                key = plan.sources[name].fingerprint
                samples |= {(key, seen.get(key, 0) + i) for i in range(count)}
                seen[key] = seen.get(key, 0) + count
            batches.append((tokens, facts if t == 0 else None, samples, planned.rate.at(t)))
            tokens += planned.batch_size * planned.sequence_length
    return batches


def random_stages(draw: random.Random) -> str:
    """One to three stages of 20 batches or so, with few choices, so that many are alike."""
    stages = ""
    for i in range(draw.choice((1, 2, 2, 3))):
        more = f", optimizer: {{lr: {draw.choice(RATES)}}}"
        if i:
            more += f", enter: {draw.choice(ENTERS)}"
        name = draw.choice((f"s{i}", f"s{i}", f"t{i}"))
        stages += stage(draw.choice(MIXTURES), draw.choice(("20ba", "20ba", "21ba")), name, more)
    return stages


@pytest.mark.parametrize("seed", range(8))
def test_plans_part_where_a_walk_finds_it(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    rows = "vocabulary: {rows: 11000, softmax: all}\n"
    plans = [plan_of(tmp_path, curriculum(random_stages(draw), rest=rows)) for _ in range(6)]
    for one in plans:
        for other in plans:
            found, (ours, theirs) = find_parting((one, other)), (walk(one), walk(other))
            unlike = [a for a, b in zip(ours, theirs, strict=False) if a != b]
            shorter = min(ours, theirs, key=len)
            if unlike:
                assert found is not None and found.tokens == unlike[0][0]
            elif len(ours) != len(theirs):
                assert found is not None
                assert found.tokens == max(ours, theirs, key=len)[len(shorter)][0]
            else:
                assert found is None


def parting(folder: Path, one: str, other: str) -> Parting | None:
    return find_parting((plan_of(folder, one), plan_of(folder, other)))


def test_where_and_why(tmp_path: Path) -> None:
    first = stage("{hiss: 1}", "40ba")
    plain = curriculum(first + stage("{0%: {hiss: 1}, 100%: {simple: 1}}", name="two"))
    found = parting(tmp_path, plain, plain.replace("{simple: 1}", "{rich: 1}"))
    assert found is not None and found.why == "other samples (1 and 0 of simple, 0 and 1 of rich)"
    assert found.places[0] == found.places[1] == ("two", 1 + (found.tokens // 256 - 40))
    slower = plain.replace("name: two", "name: two, optimizer: {lr: 5e-4}")
    found = parting(tmp_path, plain, slower)
    assert found == Parting(
        40 * 256, (("two", 1), ("two", 1)), "a learning rate of 0.001 and 0.0005"
    )
    found = parting(tmp_path, curriculum(first + stage("{hiss: 1}", name="two")), curriculum(first))
    assert found == Parting(40 * 256, (("two", 1), None), "the other has ended")
    longer = curriculum(first.replace("40ba", "41ba"))
    found = parting(tmp_path, curriculum(first), longer)
    assert found == Parting(
        40 * 256, (None, ("one", 41)), "the stage 'one' of 40 batches has ended"
    )


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("name: tried", "name: other", None),
        ("name: tried", "name: tried\nevaluate: {every: 20%, sources: [hiss]}", None),
        ("name: tried", "name: tried\nseed: {init: 0, order: 9, rules: 0}", None),
        ("name: tried", "name: tried\nseed: {init: 9, order: 0, rules: 0}", "the weights: 0 and 9"),
        (
            "name: tried",
            "name: tried\nseed: {init: 0, order: 0, rules: 9}",
            "other samples of hiss",
        ),
        ("name: tried", "name: tried\nvocabulary: {rows: 200}", "vocabulary rows"),
        ("name: tried", "name: tried\nvocabulary: {softmax: all}", "another softmax"),
        ("hiss", "noise", None),  # a name decides nothing
        ("{hiss: 1}", "{hiss: 7}", None),
        ("{hiss: 1}", "{hiss: 1}, optimizer: {lr: 1x}", None),
        ("{hiss: 1}", "{hiss: 1}, batch_size: 8", "another batch size: 4 and 8"),
        ("{hiss: 1}", "{hiss: 1}, optimizer: {weight_decay: 0.5}", "weight_decay of the optimizer"),
        ("symbols: 100", "symbols: 100, distribution: zipf", "other samples of hiss"),
    ],
)
def test_what_counts_and_what_does_not(tmp_path: Path, old: str, new: str, why: str | None) -> None:
    text = curriculum(stage("{hiss: 1}"))
    assert old in text
    found = parting(tmp_path, text, text.replace(old, new))
    assert (found is None) == (why is None)
    assert found is None or (found.tokens == 0 and str(why) in found.why)


def test_the_order_of_a_text_hangs_on_its_name_and_seed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 100_000)
    sources = SOURCES + "  code: {kind: text, files: [a.txt]}\n"
    text = curriculum(stage("{code: 1}"), sources, "tokenizer: bytes\nseed: 0\n")
    assert parting(tmp_path, text, text) is None
    assert parting(tmp_path, text, text.replace("code", "prose")) is not None
    assert parting(tmp_path, text, text.replace("0\n", "{init: 0, order: 1, rules: 0}\n", 1))


def test_the_first_frame_without_a_loss_counts(tmp_path: Path) -> None:
    text = curriculum(stage("{binary: 1}"))
    masked = text.replace("alphabet: 2,", "alphabet: 2, loss_from_frame: 0,")
    found = parting(tmp_path, text, masked)
    assert found is not None and found.why == "other samples of binary"


def test_twins_are_told_apart(tmp_path: Path) -> None:
    sources = SOURCES + "  hush: {kind: noise, symbols: 100}\n"
    one = plan_of(tmp_path, curriculum(stage("{hiss: 1}"), sources), TRAINER)
    two = plan_of(tmp_path, curriculum(stage("{hiss: 1, hush: 1}"), sources), TRAINER)
    assert one.sources["hiss"].fingerprint == two.sources["hush"].fingerprint
    found = find_parting((one, two))
    assert found is not None and found.tokens == 0


@pytest.mark.parametrize(
    ("one", "other", "batch", "why"),
    [
        ("reinitialize: embeddings", "reinitialize: [head, embedding]", None, ""),
        ("reinitialize: [head]", "keep_only: {embedding: all, attention: all}", 0, "drawn anew"),
        ("spare: [noise]", "optimizer_state: fresh", None, ""),  # nothing is drawn anew
        (
            "reinitialize: head, initializer: torch",
            "reinitialize: head",
            0,
            "another way of drawing them",
        ),
        ("initializer: torch", "initializer: model", None, ""),
        ("permute: mlp", "permute: {mlp: 0}", None, ""),  # of one layer
        ("permute: mlp", "permute: [mlp, norms]", 0, "another set of groups permuted"),
        ("permute: mlp", "optimizer_state: fresh", 0, "another set of groups permuted"),
        ("permute: head, spare: [noise]", "permute: head", 0, "rows that are not permuted"),
        ("optimizer_state: keep", "optimizer_state: fresh", 0, "another state of the optimizer"),
        ("freeze: {mlp: 0}", "freeze: mlp", None, ""),  # of one layer
        ("freeze: mlp", "freeze: head", 0, "other frozen groups"),
        ("freeze: {mlp: {until: 20%}}", "freeze: {mlp: {until: 10ba}}", None, ""),
        ("freeze: {mlp: {until: 7ba}}", "freeze: {mlp: {until: 9ba}}", 7, "other frozen groups"),
        ("freeze: {mlp: {until: 7ba}}", "freeze: mlp", 7, "other frozen groups"),
    ],
)
def test_ways_of_entering_a_stage(
    tmp_path: Path, one: str, other: str, batch: int | None, why: str
) -> None:
    text = curriculum(stage("{hiss: 1}", "50ba") + stage("{hiss: 1}", "50ba", "two", ", ENTER"))
    texts = [text.replace("ENTER", f"enter: {{{way}}}") for way in (one, other)]
    found = parting(tmp_path, *texts)
    assert (found is None) == (batch is None)
    if found is not None and batch is not None:
        assert found.tokens == (50 + batch) * 256 and why in found.why


def test_replayed_samples_are_others(tmp_path: Path) -> None:
    text = curriculum(stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="two"))
    again = text.replace("name: two", "name: two, draw: {hiss: replay}")
    assert parting(tmp_path, again, again) is None
    found = parting(tmp_path, text, again)
    assert found == Parting(50 * 256, (("two", 1), ("two", 1)), "other samples of hiss")
