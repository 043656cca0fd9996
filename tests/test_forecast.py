"""Forecasts: epochs, rates and bytes, checked against the tables and files that come of a plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plain_data import write_dataset
from plan_files import SOURCES, TRAINER, curriculum, plan_of, stage

from ncamix import cache_limits, forecast, inventory
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.shards import ShardFormat

BYTES = "tokenizer: bytes\n"


def with_text(folder: Path, stages: str, num_samples: int | None) -> Plan:
    """A plan whose source `code` has so many samples."""
    (folder / "a.txt").write_text("x" * 50_000)
    sources = SOURCES + "  code: {kind: text, files: [a.txt], repeat: free}\n"
    plan = plan_of(folder, curriculum(stages, sources, BYTES))
    sized = replace(plan.sources["code"], num_samples=num_samples)
    return replace(plan, sources={**plan.sources, "code": sized})


def test_an_epoch_ends_where_the_counts_say(tmp_path: Path) -> None:
    rising = "{0%: {hiss: 1}, 100%: {code: 1}}"
    stages = (
        stage(rising, "40ba") + stage("{hiss: 1}", "20ba", "two") + stage("{code: 1}", name="x")
    )
    plan = with_text(tmp_path, stages, 100)
    epochs = forecast.epochs_of(plan, "code")
    assert epochs is not None and epochs.exact and epochs.num_samples == 100
    drawn = np.concatenate(
        [
            s.apportionment.counts[:, s.sources.index("code")]
            if "code" in s.sources
            else np.zeros(s.num_batches, int)
            for s in plan.stages
        ]
    )
    batch = int(np.flatnonzero(drawn.cumsum() >= 100)[0]) + 1
    assert batch > 60 and epochs.first_end == (batch * 256, "x", batch - 60)
    assert epochs.used == drawn.sum() / 100
    assert epochs.batches == {"one": 40 * 100 / drawn[:40].sum(), "x": 25}


@pytest.mark.parametrize(("num_samples", "ends"), [(400, 100), (401, None), (4, 1)])
def test_the_last_sample_of_an_epoch_counts(
    tmp_path: Path, num_samples: int, ends: int | None
) -> None:
    epochs = forecast.epochs_of(with_text(tmp_path, stage("{code: 1}"), num_samples), "code")
    assert epochs is not None
    assert epochs.first_end == (None if ends is None else (ends * 256, "one", ends))


def test_guessed_and_endless_epochs(tmp_path: Path) -> None:
    plan = with_text(tmp_path, stage("{code: 1, hiss: 1}"), None)
    guess = forecast.epochs_of(plan, "code")
    assert guess is not None and not guess.exact
    assert guess.num_samples == plan.sources["code"].estimated_samples
    assert forecast.epochs_of(plan, "hiss") is None
    told = json.loads(json.dumps(plan_json(plan)))["sources"]
    assert told["code"]["batches_per_epoch"] == {"one": guess.num_samples / 2}
    assert told["hiss"]["batches_per_epoch"] is None and told["hiss"]["samples_drawn"] == 200


@pytest.mark.parametrize(
    ("lr", "peak"),
    [
        ("{peak: 1x, warmup: 3ba, decay: inverse_sqrt}", 1e-3),
        ("[{at: 0%, to: 0}, {at: 50%, to: 7e-4}, {at: 51%, to: 0}]", 7e-4),
        ("{0%: 1e-5, 100%: 2e-5}, cycle: 7ba", 2e-5),
    ],
)
def test_the_peak_is_found_however_short(tmp_path: Path, lr: str, peak: float) -> None:
    more = f", optimizer: {{lr: {lr}}}"
    (only,) = plan_of(tmp_path, curriculum(stage("{hiss: 1}", "2000ba", more=more))).stages
    highest = max(only.rate.at(t) for t in range(2000))
    assert forecast.peak_rate(only) == highest == pytest.approx(peak, rel=0.2)


def test_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    stages = stage("{hiss: 1}", "90%") + stage("{hiss: 1, simple: 1}", name="two")
    plan = plan_of(tmp_path, curriculum(stages))
    disk = forecast.disk(plan)
    source = plan.sources["hiss"]
    form, num = ShardFormat(65, "uint16"), forecast.samples_to_compile(source)
    write_dataset(tmp_path, form, [np.zeros((num, 65), np.uint32)])
    assert num >= source.samples_needed
    assert disk.compiled["hiss"] == (tmp_path / "shard.00000.mds").stat().st_size
    assert disk.generated == sum(n or 0 for n in disk.compiled.values())  # a shard of each
    assert disk.num_checkpoints == 1 + 2 + 1  # of the first stage, two kept, one being written
    rows = plan.vocabulary.rows
    assert disk.checkpoint == 12 * plan.trainer.trainer.model.num_parameters(rows)


def test_long_stages_take_many_shards(tmp_path: Path) -> None:
    trainer = TRAINER.replace("25600tok", "10Mtok")
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}")), trainer)
    per = plan.sources["hiss"].samples_per_shard
    shards = -(-plan.stages[0].counts["hiss"] // per)
    assert shards > 20
    assert forecast.disk(plan).generated == shards * ShardFormat(65, "uint16").num_bytes(per)


@pytest.mark.parametrize("usual", [None, 10**6])
def test_no_more_shards_lie_at_once_than_the_cache_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: int | None
) -> None:
    """Of a written limit, and of the usual one."""
    trainer = TRAINER.replace("25600tok", "1Mtok")
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 1 << 10)  # two megabytes of small shards
    whole = forecast.disk(plan_of(tmp_path, curriculum(stage("{hiss: 1}")), trainer)).generated
    if usual is not None:
        monkeypatch.setattr(cache_limits, "USUAL_LIMIT", usual)
    else:
        trainer += "cache_limit: 1MB\n"
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}")), trainer)
    assert forecast.disk(plan).generated == 10**6 < whole
    assert plan_json(plan)["disk"]["generated_bytes_at_once"] == 10**6
