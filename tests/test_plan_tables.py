"""The printed plan: what it says of stages, samples, epochs, time and disk, at any width."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from plan_files import SOURCES, TRAINER, curriculum, plan_of, stage
from rich.console import Console

from ncamix.origins import Origin
from ncamix.plan import Plan
from ncamix.plan_tables import print_plan, stage_words

LARGE = TRAINER.replace("25600tok", "13Gtok").replace("batch_size: 4", "batch_size: 60000")


def lines(plan: Plan, width: int = 80) -> list[str]:
    out = io.StringIO()
    print_plan(plan, "trainer small", Console(file=out, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def cells(found: list[str], name: str, after: str = "") -> list[str]:
    """The cells of the first row that begins with `name`, below a line that begins with `after`."""
    below = found[next(i for i, line in enumerate(found) if line.startswith(after)) :]
    return next(line.split() for line in below if line.split()[:1] == [name])


def test_samples_of_each_stage_and_of_the_run(tmp_path: Path) -> None:
    rising = "{0%: {hiss: 1}, 100%: {binary: 1}}"
    stages = stage(rising, "20ba") + stage("{hiss: 3, binary: 1}", "10ba", "two")
    found = lines(plan_of(tmp_path, curriculum(stages)))
    assert cells(found, "one", "samples") == ["one", "80", "5,120", "3,640"]
    assert cells(found, "hiss", "one") == ["hiss", "40", "2,560", "2,560", "50.0%", "4", "0"]
    assert cells(found, "binary", "one") == ["binary", "40", "2,560", "1,080", "50.0%", "0", "4"]
    assert cells(found, "hiss", "in all") == ["hiss", "70", "4,480", "4,480", "58.3%"]
    assert any(line.split() == ["in", "all", "120", "7,680", "5,830"] for line in found)
    alone = lines(plan_of(tmp_path, curriculum(stage(rising, "20ba"))))
    assert not any(line.startswith("in all") for line in alone)


@pytest.mark.parametrize("width", [80, 120])
def test_large_numbers_stay_whole(tmp_path: Path, width: int) -> None:
    stages = stage("{0%: {hiss: 1}, 100%: {simple: 1}}", "50%") + stage("{hiss: 1}", name="two")
    plan = plan_of(tmp_path, curriculum(stages), LARGE)
    found = lines(plan, width)
    assert max(map(len, found)) <= width
    text = "\n".join(found)
    for one in plan.stages:
        for number in (one.num_tokens, one.num_samples, *one.counts.values()):
            assert f"{number:,}" in text


def test_tiny_shares_are_not_zero(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1, binary: 1e-6}")), LARGE)
    share = plan.stages[0].counts["binary"] / plan.stages[0].num_samples
    assert cells(lines(plan), "binary", "samples")[4] == f"{100 * share:.0e}%".replace("e-0", "e-")


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [
        (500, "code: an epoch is 500 samples, 125 batches of one; no sample comes twice"),
        (
            400,
            "the first ends after 25,600 tokens of the run (one, batch 100); each sample comes 1",
        ),
        (150, "after 9,728 tokens of the run (one, batch 38); each sample comes 2 or 3 times"),
        (None, "samples, 195 batches of one; no sample comes twice"),
    ],
)
def test_epochs_in_words(tmp_path: Path, num_samples: int | None, expected: str) -> None:
    (tmp_path / "a.txt").write_text("x" * 50_000)
    sources = SOURCES + "  code: {kind: text, files: [a.txt], repeat: free}\n"
    plan = plan_of(tmp_path, curriculum(stage("{code: 1}"), sources, "tokenizer: bytes\n"))
    code = replace(plan.sources["code"], num_samples=num_samples)
    found = lines(replace(plan, sources={"code": code}), 200)
    (line,) = [line for line in found if line.startswith("code: an epoch is ")]
    assert expected in line
    assert ("about" in line) == (num_samples is None)
    assert ("about" in cells(found, "code", "source ")) == (num_samples is None)


def test_costs(tmp_path: Path) -> None:
    found = lines(plan_of(tmp_path, curriculum(stage("{hiss: 1}"))))
    costs = found[found.index("costs") + 1 :]
    assert costs[0] == "generating takes under a second"
    assert costs[1] == "compiling writes 540 kB before compression"
    assert costs[2].startswith("a run generates up to 540 kB for a stage")
    assert costs[3].startswith("a checkpoint takes ") and "up to 3 at once" in costs[3]


def test_what_a_stage_does_in_words(tmp_path: Path) -> None:
    enter = ", enter: {reinitialize: [head, mlp], initializer: {normal: 0.5}}"
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}", more=enter)))
    assert stage_words(plan.stages[0]) == [
        "one: on entering, re-initialises head, mlp, draws from normal(0, 0.5), starts a fresh "
        "optimizer"
    ]
    plain = plan_of(tmp_path, curriculum(stage("{hiss: 1}")))
    assert stage_words(plain.stages[0]) == []
    keys = (
        ", transform: reverse, draw: {hiss: replay}, until: {loss/hiss: {below: 2.0}}"
        ", sequence_length: 32, precision: bf16, enter: {keep_only: {attention: 0..1}, "
        "permute: {attention: 1}, freeze: [head, {mlp: {layers: 1, until: 20%}}], spare: [noise], "
        "optimizer_state: keep}"
    )
    stages = stage("{hiss: 1}", "40%") + stage("{hiss: 1}", name="two", more=keys)
    evaluated = "evaluate: {sources: [hiss]}\n"
    layers = TRAINER.replace("layers: 1", "layers: 2")
    last = plan_of(tmp_path, curriculum(stages, rest=evaluated), layers).stages[1]
    assert stage_words(last) == [
        "two: plays its mixture backwards",
        "two: deals again what earlier stages drew of hiss",
        "two: ends early once loss/hiss below 2",
        "two: has sequences of 32",
        "two: trains in bf16",
        "two: on entering, re-initialises all but attention 0..1, permutes attention 1, spares the "
        "rows of noise, freezes head, mlp 1 until 20%, keeps the optimizer's state",
    ]
    origin = Origin("runs/old/first", tmp_path, "ab" * 16, (), ("rows 0 to 99",))
    begun = stage_words(replace(last, origin=origin))[-1]
    assert "starts from runs/old/first (abababababab; rows 0 to 99), re-init" in begun
    early = stage_words(replace(last, num_batches=7))
    assert f"two: ended on evidence, {last.clock_batches} batches were planned" in early
