"""The test of a run: on what nothing was decided by, the same on any number of ranks."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_runs import finished_run
from processes import free_port, output_of, started
from rich.console import Console

from ncamix import cache
from ncamix.compilation.samples import Compiled
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.run_folder import RunFolder
from ncamix.sources import open_generator
from ncamix.splits import split_of_group
from ncamix.text_compilation import held_out_samples, prepare_text, text_facts, tokenizer_file
from ncamix.trainer import load_trainer
from ncamix.training.evaluation import TEST_FIRST, evaluation_set, examination_set
from ncamix.training.handover import stage_model
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel
from ncamix.training.progress import RunProgress
from ncamix.training.stopping import Stopped, StopSignal
from ncamix.training.testing import examine
from ncamix.training.texts import Texts

pytestmark = pytest.mark.usefixtures("one_thread")
CURRICULUM = """\
ncamix: 1
name: tiny
seed: 3
tokenizer: bytes
sources:
  lively: {kind: nca, alphabet: 3, grid: 6, band: {gzip: [0.20, 1.00]}}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.4}, repeat: free}
  jumbled: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.4}, repeat: free,
            transform: shuffle_tokens}
  answers: {kind: pairs, files: [pairs.jsonl], prompt: p, response: r, holdout: {share: 0.4}}
  few: {kind: text, files: ["few/*.txt"], holdout: {share: 0.5}, repeat: free}
stages:
  - {name: warm, duration: 8ba, mixture: {lively: 1}}
  - {name: text, duration: 8ba, mixture: {words: 1, answers: 1}}
evaluate: {sources: [lively, words, jumbled, answers, few], samples: 6, test: 20}
"""
TRAINER = """\
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 64
batch_size: 4
budget: 10ktok
parallelism: PARALLELISM
optimizer: {lr: 1e-3}
"""
SOURCES = ("lively", "words", "jumbled", "answers", "few")


def documents_in(split: str) -> list[str]:
    """Two texts that come into a split, if half is held out."""
    texts = (f"text {i} of a few: " + "that goes on and on " * 8 for i in range(200))
    return [text for text in texts if split_of_group(text, 1 / 2) == split][:2]  # type: ignore[arg-type]


def begun(folder: Path, parallelism: str = "ddp") -> tuple[RunFolder, Plan]:
    """A run whose stages are trained, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "few").mkdir()
    for split in ("train", "validation"):  # and nothing to test on
        for i, text in enumerate(documents_in(split)):
            (folder / f"few/{split}{i}.txt").write_text(text)
    pairs = ({"p": f"p{i}", "r": f"response {i * i}"} for i in range(80))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    trainer = TRAINER.replace("PARALLELISM", parallelism)
    run, plan = finished_run(folder, CURRICULUM, trainer, ("warm", "text"))
    return RunFolder(run), plan


def pass_test(folder: RunFolder, plan: Plan, stop: StopSignal) -> None:
    """All that a run does to be tested."""
    texts = Texts(plan, None, None, stop, lambda sized: None)
    with RunProgress(plan.num_tokens, Console(quiet=True), True) as progress:
        examine(plan, folder, texts, "cpu", progress, stop)


def examined(folder: RunFolder, plan: Plan) -> dict[str, Any]:
    pass_test(folder, plan, StopSignal())
    found: dict[str, Any] = json.loads(folder.file("test.json").read_text())
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that was examined, its plan with exact sizes, what was found, and its cache."""
    home = tmp_path_factory.mktemp("tested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NCAMIX_CACHE", str(home / "cache"))
        folder, plan = begun(home / "work")
        found = examined(folder, plan)
        return folder, prepare_text(plan), found, home / "cache"


@pytest.fixture
def tested(run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, where its cache is this test's."""
    monkeypatch.setenv("NCAMIX_CACHE", str(run[-1]))
    return run[:-1]


def facts_of(plan: Plan) -> Any:
    file = tokenizer_file(plan)
    assert file is not None
    return text_facts(file, plan.vocabulary.text_rows)


def test_every_evaluated_source_is_tested(tested: Any) -> None:
    _, plan, found = tested
    assert (found["split"], found["tokens"]) == ("test", plan.num_tokens)
    assert tuple(found["sources"]) == SOURCES
    assert found["sources"]["few"] is None
    for name, figures in found["sources"].items():
        if figures is None:
            continue
        assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
        assert figures["loss"] < figures["loss_all_rows"]
        assert (figures["documents"] is None) == (name in ("lively", "jumbled"))
        assert (figures["bits_per_byte"] is None) == (figures["num_bytes"] is None)
        if documents := figures["documents"]:
            bits = figures["loss"] * figures["num_tokens"]
            assert sum(documents["nats"]) == pytest.approx(bits)
            assert sum(documents["num_tokens"]) == figures["num_tokens"]
            assert sum(documents["num_bytes"]) == figures["num_bytes"]
            assert len(documents["nats"]) > 2 and min(documents["num_tokens"]) > 0


def test_losses_are_those_of_the_documents_themselves(tested: Any) -> None:
    """Samples from all over the stream of ids, by the model that was handed over; a document that
    goes on from one to another is one, whatever lies between them."""
    folder, plan, found = tested
    source, facts = plan.sources["words"], facts_of(plan)
    there = held_out_samples(source, "test")
    assert there > 20, "some samples are passed over"
    whole = Compiled(cache.entry(source.fingerprint) / "test").range(0, there)[0].astype(np.int64)
    chosen = [i * there // 20 for i in range(20)]
    samples = whole[chosen]
    model = CurriculumModel(stage_model(plan, plan.stages[-1], folder))
    batch = {"input_ids": samples[:, :-1], "labels": samples[:, 1:]}
    tensors = {key: torch.from_numpy(value.copy()) for key, value in batch.items()}
    losses = model.eval_losses(tensors, ActiveIds([(0, 257)])).double().flatten().tolist()
    documents, nats = [0.0], iter(losses)
    for number, sample in enumerate(whole):
        for target in sample[1:].tolist():
            documents[-1] += next(nats) if number in chosen else 0.0
            if target == facts.end_of_text_id:
                documents.append(0.0)
    wanted = [total for total in documents if total]
    assert found["sources"]["words"]["documents"]["nats"] == pytest.approx(wanted, rel=1e-4)
    assert found["sources"]["words"]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_nothing_is_tested_on_that_was_validated_on(tested: Any) -> None:
    _, plan, _ = tested
    facts = facts_of(plan)
    for name in SOURCES[:-1]:
        tested_on = examination_set(plan, name, facts, None)
        validated = evaluation_set(plan, name, facts, None)
        assert tested_on is not None
        assert len(validated.samples) == 6
        assert len(tested_on.samples) == 20 or (name == "answers" and tested_on.samples.size)
        rows = {row.tobytes() for row in validated.samples}
        if name != "lively":  # of so small a grid some rollouts are alike
            assert not rows & {row.tobytes() for row in tested_on.samples}
    lively = examination_set(plan, "lively", None, None)
    generator = open_generator(plan.sources["lively"].evaluation_meaning())
    assert lively is not None and TEST_FIRST > 6
    assert (lively.samples == generator.samples(TEST_FIRST, 20)).all()


def test_how_often_ids_occur_is_told_of_all_that_is_evaluated(tested: Any) -> None:
    folder, plan, found = tested
    told = json.loads(folder.file("frequencies.json").read_text())
    assert tuple(told) == SOURCES
    facts = facts_of(plan)
    for name, entry in told.items():
        source = plan.sources[name]
        both = [evaluation_set(plan, name, facts, None), examination_set(plan, name, facts, None)]
        targets = np.concatenate([held.labels(slice(None)).ravel() for held in both if held])
        counts = np.unique(targets[targets >= 0], return_counts=True)[1]
        assert (entry["first_id"], entry["num_ids"]) == (source.first_id, source.num_ids)
        ranked = [count for count, ids in entry["counts"] for _ in range(ids)]
        assert ranked == sorted(counts.tolist(), reverse=True)
        assert entry["num_tokens"] == sum(ranked)


def test_it_is_the_same_each_time_and_whole_or_not_there(
    tested: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, _ = tested
    names = ("test.json", "frequencies.json")
    before = [folder.file(name).read_bytes() for name in names]
    folder.forget_end()
    assert not any(folder.file(name).exists() for name in names)
    stop = StopSignal()
    stop.received = signal.SIGTERM
    with pytest.raises(Stopped):
        pass_test(folder, plan, stop)
    assert not any(folder.file(name).exists() for name in names)
    examined(folder, plan)
    assert [folder.file(name).read_bytes() for name in names] == before


def test_nothing_evaluated_is_nothing_tested(tmp_path: Path) -> None:
    folder, plan = begun(tmp_path / "work")
    file = tmp_path / "work/tiny.yaml"
    file.write_text(CURRICULUM.partition("evaluate:")[0])
    plan = make_plan(load_curriculum(file), load_trainer(tmp_path / "work/small.yaml"))
    assert examined(folder, plan)["sources"] == {}
    assert json.loads(folder.file("frequencies.json").read_text()) == {}


RANK = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path

from composer.utils import dist

dist.initialize_dist("cpu")
from test_testing import pass_test
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.run_folder import RunFolder
from ncamix.trainer import load_trainer
from ncamix.training.stopping import StopSignal

folder = Path({folder!r})
plan = make_plan(load_curriculum(folder / "tiny.yaml"), load_trainer(folder / "small.yaml"))
pass_test(RunFolder(folder / "runs/tiny"), plan, StopSignal())
dist.barrier()
"""


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp"])
def test_two_ranks_find_the_same(run: Any, tmp_path: Path, parallelism: str) -> None:
    folder, _ = begun(tmp_path / "work", parallelism)
    code = RANK.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "work"))
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        started(
            [sys.executable, "-c", code],
            tmp_path,
            {**os.environ, **common, **meeting, "RANK": str(i), "LOCAL_RANK": str(i)},
        )
        for i in range(2)
    ]
    for rank in ranks:
        output = output_of(rank)
        assert rank.returncode == 0, output
    alone = run[0]
    names = ("frequencies.json", "test.json")
    (counts, found), (counts_alone, found_alone) = (
        [json.loads(each.file(name).read_text()) for name in names] for each in (folder, alone)
    )
    assert counts == counts_alone and found["tokens"] == found_alone["tokens"]
    for name, figures in found_alone["sources"].items():
        theirs = found["sources"][name]
        if figures is None:
            assert theirs is None
            continue
        assert theirs.keys() == figures.keys()
        for key, value in figures.items():
            for part in value if isinstance(value, dict) else [None]:
                one, other = (v if part is None else v[part] for v in (value, theirs[key]))
                assert other == (one if one is None else pytest.approx(one, rel=1e-5))
