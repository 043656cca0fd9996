"""`ncamix batch`: the batches that the dataset yields, the ids that it trained on, and mistakes."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TRAINER
from PIL import Image
from plain_data import read_samples
from streaming.base.world import World
from torch.utils.data import DataLoader

from ncamix import cache, inventory
from ncamix.automata import Automaton
from ncamix.batches import batch_of, digest_of, find_token, ids_of, with_sizes
from ncamix.cells import ABSENT, state_colours
from ncamix.cli import main
from ncamix.compilation.datasets import compile_plan
from ncamix.dataset import LazyWork
from ncamix.decoding import as_text, frames_of, rule_scores
from ncamix.errors import UserError
from ncamix.inspection import FEW, Request, inspect, places_of
from ncamix.loading import load_curriculum
from ncamix.order import stage_order
from ncamix.pictures import Rollouts, contact_sheet, rows_height
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.planning import decide, make_plan
from ncamix.replanning import replan
from ncamix.run_folder import DECISIONS, RunFolder
from ncamix.shards import read_index, read_shard, sample_digest
from ncamix.streams import make_dataset
from ncamix.tokenization import END_OF_TEXT
from ncamix.waiting import quiet

CURRICULUM = """\
tokenizer: bytes
sources:
  alive: {kind: nca, alphabet: 2, grid: 8, band: {gzip: [0, 1]}, burn_in: 2}
  static: {kind: noise, distribution: zipf, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
stages:
  - {name: first, duration: 50%, mixture: {0%: {alive: 3, static: 1}, 100%: {words: 3, static: 1}}}
  - {name: second, duration: 50%, mixture: {words: 3, alive: 1}}
"""
OTHERS = """\
sources:
  few: {kind: dyck, style: nested, symbols: 3}
  many: {kind: dyck, style: shuffle, symbols: 5}
stages: [{name: only, duration: 100%, mixture: {few: 1, many: 1}}]
"""
LONG = """\
ncamix: 1
name: small
model: {layers: 1, heads: 1, width: 8}
sequence_length: 64
batch_size: 8
budget: 10ktok
optimizer: {lr: 1e-3}
"""
TEXTS = [f"{i} was a text, of about sixty bytes,\n\tthis one. " * 2 for i in range(10)]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sized_plan_of(tmp_path: Path, plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans curricula over a small corpus, in shards of 16 samples of 33 ids; with exact sizes."""
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 16 * 33)
    (tmp_path / "corpus").mkdir()
    for i, text in enumerate(TEXTS):
        (tmp_path / "corpus" / f"{i}.txt").write_text(text)

    def sized(*args: Any, **kwargs: Any) -> Plan:
        planned: Plan = plan_of(*args, **kwargs)
        for stage in planned.stages:
            planned = with_sizes(planned, stage, None)
        return planned

    return sized


@pytest.fixture
def plan(sized_plan_of: Any) -> Plan:
    """Stages of 19 and 20 batches of 8 from three sources; the text is seen several times."""
    planned: Plan = sized_plan_of(CURRICULUM)
    assert [stage.num_batches for stage in planned.stages] == [19, 20]
    return planned


def yielded(plan: Plan, index: int, folder: Path) -> list[list[dict[str, Any]]]:
    """The batches that a stage trains on, on one rank."""
    folder.mkdir()
    dataset = make_dataset(plan, plan.stages[index], folder, None, 1)
    try:
        return list(DataLoader(dataset, batch_size=8, collate_fn=list, drop_last=True))
    finally:
        dataset.release()


def write_run(plan: Plan, tmp_path: Path, ends: tuple[int, ...]) -> Path:
    """The folder of a run that came so far in its stages."""
    folder = tmp_path / "runs" / "c"
    folder.mkdir(parents=True)
    rows = []
    for stage, end in zip(plan.stages, ends, strict=True):
        for t, batch in enumerate(yielded(plan, stage.index, tmp_path / stage.name)[:end]):
            digest = sum(sample_digest(s["tokens"]) for s in batch) % 2**64
            tokens = stage.first_token + 8 * stage.sequence_length * (t + 1)
            row = {"stage": stage.name, "batch": t, "tokens": tokens}
            names = sorted({stage.sources[s["source"]] for s in batch})
            losses = {f"loss/{name}": 5 - t / 100 + len(name) for name in names}
            rows.append({**row, "loss": 5 - t / 100, **losses, "lr": 1e-3, "digest": digest})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"st')
    (folder / "plan.json").write_text(json.dumps(plan_json(plan)))
    for name, document in (("curriculum", plan.curriculum), ("trainer", plan.trainer)):
        (folder / f"{name}.yaml").write_text(document.document.text)
    return folder


@pytest.fixture
def run(plan: Plan, tmp_path: Path) -> Path:
    """The folder of a run that was stopped after 5 batches of its second stage."""
    return write_run(plan, tmp_path, (19, 5))


@pytest.fixture
def ncamix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs `ncamix batch` in the folder of the curriculum."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ncamix", "batch", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


# ---- what a batch holds


def test_every_batch_is_what_the_dataset_yields(plan: Plan, tmp_path: Path) -> None:
    """Source, number, shard, row, epoch and ids of every sample of both stages."""
    times: dict[tuple[str, int], int] = {}  # that a sample of text came
    size = plan.sources["words"].num_samples
    drawn = 0
    assert size is not None and size < 60
    for stage in plan.stages:
        folder = tmp_path / stage.name
        for t, expected in enumerate(yielded(plan, stage.index, folder)):
            batch = batch_of(plan, stage, t)
            named = [(stage.sources[s["source"]], s["sample"]) for s in expected]
            assert [(s.source, s.sample) for s in batch.samples] == named
            assert [s.place for s in batch.samples] == list(range(8))
            assert batch.counts == {n: sum(n == m for m, _ in named) for n in stage.sources}
            assert batch.end_token == batch.first_token + 256 == stage.first_token + 256 * (t + 1)
            ids = ids_of(plan, batch.samples)
            assert all((a == b["tokens"]).all() for a, b in zip(ids, expected, strict=True))
            epochs = set()
            for s in batch.samples:
                if s.source == "words":
                    assert s.epoch == times.get((s.source, s.sample), 0)
                    times[s.source, s.sample] = s.epoch + 1
                    epochs.add(s.epoch)
                    drawn += 1
                else:
                    assert s.epoch is None
            assert not epochs or max(epochs) == (drawn - 1) // size
        for s in batch_of(plan, stage, 18).samples:
            if s.source != "words":
                assert (folder / s.source / s.shard).is_file()
    assert max(times.values()) >= 3


def test_shards_and_rows_are_those_of_compiled_datasets(plan: Plan, tmp_path: Path) -> None:
    compile_plan(plan, tmp_path / "data", quiet)
    for stage in plan.stages:
        samples = batch_of(plan, stage, 17).samples
        again = ids_of(plan, samples, tmp_path / "data")
        for s, ids, other in zip(samples, ids_of(plan, samples), again, strict=True):
            entries = json.loads((tmp_path / "data" / s.source / "index.json").read_text())
            files = [e["zip_data"]["basename"] for e in entries["shards"]]
            before = sum(e["samples"] for e in entries["shards"][: files.index(f"{s.shard}.zstd")])
            stored = read_samples(tmp_path / "data" / s.source)[before + s.row]
            assert (stored == ids).all() and (other == ids).all()


def test_shards_and_rows_are_right_whoever_compiled_them(
    sized_plan_of: Any, tmp_path: Path
) -> None:
    """Trainers of another length, whose shards of endless sources hold other numbers of samples."""
    body = CURRICULUM.replace("%, mixture", "%, sequence_length: 24, mixture")
    first, *others = [
        sized_plan_of(body, TRAINER.replace("length: 32", f"length: {n}")) for n in (32, 48, 24)
    ]
    compile_plan(first, tmp_path / "data", quiet)
    looked_at = Counter[str]()
    for plan, data in (others[0], tmp_path / "data"), (others[0], None), (others[1], None):
        for stage in plan.stages:
            for s in batch_of(plan, stage, 9, data=data).samples:
                source = plan.sources[s.dataset]
                if data is None and source.text is None:  # generated while training
                    continue
                folder = data / s.dataset if data else cache.entry(source.fingerprint)
                index = {entry["raw_data"]["basename"]: entry for entry in read_index(folder)}
                row = read_shard(folder, index[s.shard])["tokens"][s.row]
                assert (row == ids_of(plan, [s])[0]).all()
                looked_at[s.source] += 1
    assert looked_at.keys() == {"alive", "static", "words"}


SHORTER = "sequence_length: 24, mixture"
AGAIN = "draw: {alive: replay, words: replay}, mixture"
SHAPES = {
    "shorter": (SHORTER, 1),
    "replayed": (AGAIN, 1),
    "owned": ("mixture", 2),
    "shorter and owned": (SHORTER, 2),
    "replayed and owned": (AGAIN, 2),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def shaped(request: pytest.FixtureRequest, sized_plan_of: Any) -> Plan:
    """A plan whose second stage draws in another way than the first, or has several owners."""
    keys, owners = request.param
    body = CURRICULUM.replace("mixture: {words", f"{keys}: {{words")
    planned: Plan = sized_plan_of(body, f"{TRAINER}canonical_nodes: {owners}\n")
    return planned


def test_batches_of_every_shape_are_what_the_dataset_yields(shaped: Plan, tmp_path: Path) -> None:
    stage = shaped.stages[1]
    compile_plan(shaped, tmp_path / "data", quiet)
    for t, expected in enumerate(yielded(shaped, 1, tmp_path / "second")):
        batch = batch_of(shaped, stage, t, ranks=1)
        named = [(stage.sources[s["source"]], s["sample"]) for s in expected]
        assert [(s.source, s.sample) for s in batch.samples] == named
        per_batch = 8 * stage.sequence_length
        assert batch.end_token == batch.first_token + per_batch
        assert batch.first_token == stage.first_token + per_batch * t
        ids = ids_of(shaped, batch.samples)
        stored = ids_of(shaped, batch.samples, tmp_path / "data")
        for s, row, made, read in zip(batch.samples, expected, ids, stored, strict=True):
            assert (made == row["tokens"]).all() and (read == made).all()
            folder = tmp_path / "data" / s.dataset
            shard = next(
                e for e in json.loads((folder / "index.json").read_text())["shards"]
                if e["raw_data"]["basename"] == s.shard
            )  # fmt: skip
            number = int(s.shard.split(".")[1])
            first = number * shaped.sources[s.dataset].samples_per_shard
            assert first + s.row == s.sample and s.row < shard["samples"]


def test_epochs_and_rounds_deal_everything_once(shaped: Plan) -> None:
    dealt: dict[tuple[str, str, int], list[int]] = {}
    drawn: dict[str, list[int]] = {}  # what is new
    for stage in shaped.stages:
        for t in range(stage.num_batches):
            for s in batch_of(shaped, stage, t).samples:
                assert (s.round is not None) == (s.source in stage.replayed)
                if s.round is not None:
                    assert s.epoch is None
                    dealt.setdefault((s.dataset, "round", s.round), []).append(s.sample)
                    continue
                drawn.setdefault(s.source, []).append(s.sample)
                assert (s.epoch is None) == (s.source != "words")
                if s.epoch is not None:
                    dealt.setdefault((s.dataset, "epoch", s.epoch), []).append(s.sample)
    for name in ("alive", "static"):
        assert len(drawn[name]) == len(set(drawn[name]))
    last = {(name, way): max(n for d, w, n in dealt if (d, w) == (name, way))
            for name, way, _ in dealt}  # fmt: skip
    ways = {"epoch", "round"} if shaped.stages[1].replayed else {"epoch"}
    assert {way for (_, way), number in last.items() if number} == ways
    for (name, way, number), samples in dealt.items():
        size = shaped.sources[name].num_samples
        whole = Counter(range(size or 0) if way == "epoch" else drawn[name])
        left = whole - Counter(samples)
        assert left.total() + len(samples) == whole.total()  # nothing else, nothing too often
        assert not left or number == last[name, way]
    for name, way in last:
        assert all((name, way, number) in dealt for number in range(last[name, way]))


@pytest.mark.parametrize("owners", [1, 2, 4])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_places_of_ranks_are_those_that_each_reads(
    sized_plan_of: Any, owners: int, ranks: int
) -> None:
    plan = sized_plan_of(CURRICULUM, f"{TRAINER}canonical_nodes: {owners}\n")
    offsets, share = np.array([0, 10**6, 2 * 10**6], np.int64), 8 // ranks
    for stage in plan.stages:
        order = stage_order(plan, stage)
        read = [
            LazyWork(order, offsets, 0, World(1, ranks, 1, rank), share) for rank in range(ranks)
        ]
        for t in (0, 7, 18):
            found = inspect(plan, Request(stage.name, t, ranks=ranks))
            assert [found.rank(s.place) for s in found.samples] == sorted([*range(ranks)] * share)
            for s in found.samples:
                rank = found.rank(s.place)
                assert rank is not None
                index = t * share + s.place % share
                assert read[rank][index] == offsets[stage.sources.index(s.source)] + s.sample
            same = batch_of(plan, stage, t).samples
            held = [{(s.source, s.sample, s.epoch) for s in some} for some in (found.samples, same)]
            assert held[0] == held[1]


def test_tokens_find_the_batch_whose_loss_stands_there(plan: Plan) -> None:
    first, second = plan.stages
    assert find_token(plan, 1) == (first, 0) == find_token(plan, 256)
    assert find_token(plan, 257) == (first, 1)
    assert find_token(plan, 19 * 256) == (first, 18)
    assert find_token(plan, 19 * 256 + 1) == (second, 0)
    assert find_token(plan, 39 * 256) == (second, 19)
    for token in (0, -5, 39 * 256 + 1):
        with pytest.raises(UserError, match="its tokens are 1 to 9,984"):
            find_token(plan, token)


def test_places() -> None:
    assert places_of("3", 8) == (3,)
    assert places_of(" 7, 0..2,1 ", 8) == (7, 0, 1, 2)
    for written in ("", "x", "1..", "-1", "1-2", "1,,2", "²"):
        with pytest.raises(UserError, match="names no places"):
            places_of(written, 8)
    for written in ("8", "5..3", "0..8"):
        with pytest.raises(UserError, match="its places are 0 to 7"):
            places_of(written, 8)


# ---- what samples hold


def test_text_is_that_of_the_documents(plan: Plan) -> None:
    found = inspect(plan, Request(stage="second", batch=3, decode=True))
    assert found.decoded is not None
    characters = [c for text in TEXTS for c in [*text, END_OF_TEXT]]  # a byte a token
    words = [s for s in found.samples if s.source == "words"]
    assert len(words) == 6
    for s in words:
        whole = "".join(characters[32 * s.sample : 32 * s.sample + 33])
        assert found.decoded.texts[s.place] == whole
    assert found.decoded.scores.keys() == {s.place for s in found.samples} - {
        s.place for s in words
    }


def test_no_text_commands_a_terminal(plan_of: Any, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("red: \x1b[31m, bell: \x07, [bold]\u202e" * 99)
    body = CURRICULUM.replace("second, duration: 50%, mixture: {words: 3, alive: 1}", "b, "
                              "duration: 50%, mixture: {words: 1}")  # fmt: skip
    found = inspect(plan_of(body), Request(stage="b", decode=True))
    assert found.decoded is not None
    text = "".join(found.decoded.texts.values())
    assert "\ufffd[31m, bell: \ufffd, [bold]\ufffd" in text
    assert text.replace("\n", "").isprintable()


def test_noise_is_numbers_and_brackets_are_brackets(plan: Plan, plan_of: Any) -> None:
    source = plan.sources["static"]
    ids = np.array([0, 49, 7], np.uint32) + np.uint32(source.first_id)
    assert as_text(source, ids, None) == "0 49 7"
    few, many = (plan_of(OTHERS, name="d").sources[name] for name in ("few", "many"))
    ids = np.array([0, 3, 2, 1, 4, 5], np.uint32)
    assert as_text(few, ids + np.uint32(few.first_id), None) == "( ) { [ ] }"
    ids = np.array([4, 9, 0], np.uint32)
    assert as_text(many, ids + np.uint32(many.first_id), None) == "(4 )4 (0"


@pytest.mark.parametrize("keys", ["alphabet: 3, grid: [6, 8]", "alphabet: 10", "patch: 1, grid: 5",
                                  "alphabet: 2, grid: 9, patch: 3, rules: 2"])  # fmt: skip
def test_frames_come_back_from_tokens(plan_of: Any, keys: str) -> None:
    """Cells -> tokens -> cells, cut anywhere: what is not there is absent."""
    body = f"sources: {{live: {{kind: nca, {keys}, band: {{gzip: [0, 1]}}}}}}\n"
    planned = plan_of(body + "stages: [{name: a, duration: 100%, mixture: {live: 1}}]\n", LONG)
    source = replace(planned.sources["live"], first_id=300)
    automaton: Automaton = source.spec.automaton
    rules = automaton.rules(1, [0, 1])
    frames = automaton.rollout(rules, 3)
    per = automaton.tokens_per_frame
    for length in (3 * per, 2 * per + 5, 2 * per + 1, 2 * per, 1):
        ids = automaton.tokens(frames, length) + np.uint32(source.first_id)
        found = frames_of(source, ids)
        assert found.shape[2:] == automaton.grid and found.dtype == np.uint8
        seen = found != ABSENT
        assert (found[seen] == frames[:, : found.shape[1]][seen]).all()
        cells = sum(min(max(length - f * per - 1, 0), per - 2) for f in range(3))
        assert seen.sum() == 2 * cells * automaton.patch**2
        assert length == 1 or seen[:, -1, 0, 0].all()  # no frame of which nothing is there


def test_scores_are_those_of_the_rules(plan_of: Any) -> None:
    pool = "sources: {p: {kind: nca, alphabet: 3, band: {gzip: [0.2, 0.9]}, rules: 2}}\n"
    source = plan_of(pool + "stages: [{name: a, duration: 100%, mixture: {p: 1}}]\n", LONG).sources[
        "p"
    ]
    a, b, again = rule_scores(source, [0, 1, 2])
    assert a == again != b and 0.2 <= min(a, b) < max(a, b) < 0.9


def test_a_picture_shows_every_frame_and_none_that_is_not_there(plan: Plan) -> None:
    found = inspect(plan, Request(batch=2, decode=True))
    assert found.decoded is not None and found.decoded.picture is not None
    with Image.open(io.BytesIO(found.decoded.picture)) as image:
        pixels = np.asarray(image.convert("RGB"))
    automata = [s for s in found.samples if s.source == "alive"]
    frames = frames_of(
        plan.sources["alive"], np.stack([found.decoded.ids[s.place] for s in automata])
    )
    assert frames.shape[1:] == (2, 8, 8) and (frames[:, 1, 6:, 4:] == ABSENT).all()
    inks = [tuple(colour) for colour in state_colours(2).tolist()]
    scale = 15
    drawn = sum((pixels == ink).all(axis=2).sum() for ink in inks)
    key = 2 * 18 * 18
    assert drawn - key == (frames != ABSENT).sum() * scale**2


def test_samples_of_many_frames_go_on_below() -> None:
    frames = np.random.default_rng(0).integers(0, 2, (2, 7, 6, 6)).astype(np.uint8)
    labels = (("place 0", "sample 12"), ("place 1", "sample 13"))
    flat = Rollouts("a", "2 states", "gzip", 2, frames, np.zeros(2), 10, 1, labels)
    folded = Rollouts("a", "2 states", "gzip", 2, frames, np.zeros(2), 10, 1, labels, 72, 3)
    assert [(s.start, s.stop) for s in folded.lines()] == [(0, 3), (3, 6), (6, 7)]
    assert rows_height(folded) > 2 * rows_height(flat) * 72 // 120
    sizes = []
    for block in (flat, folded):
        with Image.open(io.BytesIO(contact_sheet("title", "about", [block]))) as image:
            pixels = np.asarray(image.convert("RGB"))
            sizes.append(pixels.shape)
        scale, _, _ = block.scaled()
        for state, ink in enumerate(state_colours(2)):
            drawn = (pixels == ink).all(axis=2).sum() - 18 * 18
            assert drawn == (frames == state).sum() * scale**2
    assert sizes[1][1] < sizes[0][1]


# ---- of a run


def test_a_run_is_as_trained(run: Path, ncamix: Run) -> None:
    status, out, err = ncamix("runs/c", "-s", "first", "-b", "7")
    assert (status, err) == (0, "")
    assert "batch 7 (of 0 to 18)" in out and "tokens 1,793 to 2,048 of the run" in out
    assert "loss 4.9300 nats per token, 4.9400 in the batch before" in out
    assert "as trained: digest" in out and "note" not in out
    row = next(line for line in out.splitlines() if line.startswith("static"))
    assert row.split()[-2:] == ["10.9300", "10.9400"]


def test_a_run_is_planned_again_from_its_own_texts_wherever_it_is(
    run: Path, ncamix: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**record, "curriculum_file": "c.yaml"}))
    original = tmp_path / "c.yaml"
    original.write_text(original.read_text().replace("50%", "40%"))  # edited since
    assert replan(run)[1] == ""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "c.yaml").write_text("another one, without its corpus")
    assert replan(run)[1] == ""
    status, out, _ = ncamix(str(run), "-s", "2", "--json")
    assert status == 0 and json.loads(out)["as_trained"] is True


def test_what_is_not_as_trained_is_said(run: Path, ncamix: Run, tmp_path: Path) -> None:
    (tmp_path / "corpus" / "3.txt").write_text("something else than the run read. " * 9)
    status, out, _ = ncamix("runs/c", "-s", "second", "-b", "2")
    assert status == 0
    assert (
        "planned again, this run comes out differently: the source 'words' is not the same "
        "(its files, or those of its tokenizer, have changed, gone or been added since)" in out
    )
    assert "not what the run trained on: its digest is" in out and "as trained" not in out
    found = json.loads(ncamix("runs/c", "-s", "second", "-b", "2", "--json")[1])
    assert found["as_trained"] is False and found["digest"] != found["recorded"]["digest"]
    assert found["plan_differs"].startswith("the source 'words'")


ENDING = """\
tokenizer: bytes
sources:
  static: {kind: noise, distribution: zipf, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
stages:
  - {name: first, duration: 50%, mixture: {static: 3, words: 1}, until: {loss/static: {below: 2}}}
  - {name: second, duration: rest, mixture: {words: 3, static: 1}}
evaluate: {every: 10%, sources: [static]}
"""


def test_batches_behind_a_stage_that_evidence_ended_are_as_trained(
    sized_plan_of: Any, ncamix: Run, tmp_path: Path
) -> None:
    plan = decide(sized_plan_of(ENDING), {"first": 4})
    assert [stage.num_batches for stage in plan.stages] == [4, 35]
    run = write_run(plan, tmp_path, (4, 35))
    RunFolder(run).add_decision("first", 4, 1024, {"loss/static": 1.9})
    again, differs = replan(run)
    assert (again.fingerprint, differs) == (plan.fingerprint, "")
    assert again.stages[1].first_token == 4 * 256
    for arguments in (("-s", "first", "-b", "3"), ("--token", "1025"), ("-s", "2", "-b", "34")):
        found = json.loads(ncamix(str(run), *arguments, "--json")[1])
        assert found["as_trained"] is True and found["plan_differs"] is None
    assert "its batches are 0 to 3" in ncamix(str(run), "-s", "first", "-b", "4")[2]
    (run / DECISIONS).write_text("[1]")
    status, _, err = ncamix(str(run))
    assert status == 2 and "not the decisions of a run" in err


def test_the_paths_of_a_run_start_from_the_files_that_hold_them(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A curriculum that extends one in another folder, where its text lies."""
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "d.yaml"
    file.write_text("ncamix: 1\nname: d\nextends: ../c.yaml\n")
    monkeypatch.chdir(tmp_path)
    loaded = load_curriculum("own/d.yaml", ["stages.first.mixture={words: 1}"])
    own = make_plan(loaded, plan.trainer)
    run = tmp_path / "runs" / "d"
    run.mkdir(parents=True)
    (run / "plan.json").write_text(json.dumps(plan_json(own)))
    (run / "curriculum.yaml").write_text(loaded.document.text)
    (run / "trainer.yaml").write_text(own.trainer.document.text)
    monkeypatch.chdir(run)
    again, differs = replan(Path())
    assert (again.fingerprint, differs) == (own.fingerprint, "")
    file.write_text(file.read_text() + "seed: 1\n")  # edited since, so not composed again
    with pytest.raises(UserError, match="no file matches"):
        replan(Path())
    (tmp_path / "own" / "corpus").symlink_to(tmp_path / "corpus")
    assert replan(Path())[1] == ""


def test_what_a_run_has_not_reached(run: Path, ncamix: Run) -> None:
    out = ncamix("runs/c", "-s", "second", "-b", "5")[1]
    assert "not in the run's metrics.jsonl: it ends with batch 4 of stage second" in out
    (run / "metrics.jsonl").unlink()
    assert "it holds no batch yet" in ncamix("runs/c")[1]


# ---- the command


def test_nothing_is_compiled_or_written_without_need(
    plan_of: Any, ncamix: Run, tmp_path: Path, own_cache: Path, plan: Plan
) -> None:
    plan_of(OTHERS, name="d")
    for entry in own_cache.iterdir():
        entry.rename(tmp_path / entry.name)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = ncamix("d.yaml", "-t", "small.yaml", "-b", "38", "--ranks", "4")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "d, stage only, batch 38 (of 0 to 38)"
    head = lines.index(next(line for line in lines if line.startswith("place")))
    assert lines[head].split() == ["place", "rank", "source", "sample", "shard", "row"]
    assert [line.split()[1] for line in lines[head + 1 :]] == list("00112233")
    assert sorted(tmp_path.rglob("*")) == before


EPOCHS = """\
tokenizer: {bpe: 300, train_on: [words]}
sources:
  static: {kind: noise, distribution: zipf, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
stages:
  - {name: first, duration: 5ep, mixture: {words: 1}}
  - {name: second, duration: rest, mixture: {static: 1}}
"""


def test_lengths_in_epochs_are_exact_before_a_batch_is_looked_for(
    plan: Plan, plan_of: Any, ncamix: Run, own_cache: Path
) -> None:
    guessed = plan_of(EPOCHS, name="e")
    assert guessed.estimated
    found = inspect(guessed, Request("second"))
    (words,) = (s for s in found.plan.sources.values() if s.text is not None)
    assert words.num_samples is not None and words.num_samples != words.estimated_samples
    assert found.batch.stage.first_token == 5 * words.num_samples // 8 * 256
    shutil.rmtree(own_cache)  # known there, it would be no guess
    out = ncamix("e.yaml", "-t", "small.yaml", "-s", "second", "--json")[1]
    assert json.loads(out)["first_token"] == found.batch.first_token
    run = Path("runs/e")
    run.mkdir(parents=True)
    (run / "plan.json").write_text(json.dumps(plan_json(found.plan)))
    for name, file in (("curriculum", "e.yaml"), ("trainer", "small.yaml")):
        shutil.copy(file, run / f"{name}.yaml")
    shutil.rmtree(own_cache)
    assert replan(run)[1] == "" and not own_cache.exists()  # sizes are those of the run


def test_replays_and_other_lengths_are_shown(sized_plan_of: Any, ncamix: Run) -> None:
    keys = "sequence_length: 24, draw: {alive: replay, words: new}, mixture"
    sized_plan_of(CURRICULUM.replace("mixture: {words", f"{keys}: {{words"), name="d")
    status, out, err = ncamix("d.yaml", "-t", "small.yaml", "-s", "second", "-b", "19")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("place"))
    assert lines[head].split() == ["place", "source", "sample", "shard", "row", "epoch"]
    rows = [line.split() for line in lines[head + 1 :]]
    assert {row[1]: row[5:] for row in rows} == {
        "words@24": ["3"], "alive@24": ["replayed,", "round", "0"]
    }  # fmt: skip
    found = json.loads(ncamix("d.yaml", "-t", "small.yaml", "-s", "second", "--json")[1])
    facts = {(s["source"], s["dataset"], s["epoch"], s["round"]) for s in found["samples"]}
    assert facts == {("words", "words@24", 0, None), ("alive", "alive@24", None, 0)}


def test_a_batch_as_json_with_all_that_it_holds(run: Path, ncamix: Run, tmp_path: Path) -> None:
    status, out, err = ncamix("runs/c", "--token", "5000", "--decode", "--json", "-o", "pictures")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["stage"], found["batch"], found["tokens"]) == ("second", 0, 5120)
    assert found["counts"] == {"alive": 2, "words": 6}
    assert found["picture"] == "pictures/c_second_0.png" and Path(found["picture"]).is_file()
    ids = [np.array(s["ids"], np.uint32) for s in found["samples"]]
    assert digest_of(ids) == found["digest"] == found["recorded"]["digest"]
    for s in found["samples"]:
        assert ("text" in s) == (s["source"] == "words") != ("score" in s)
        assert s["shard"] == f"shard.{s['sample'] // 16:05}.mds" and s["row"] == s["sample"] % 16


def test_text_in_a_line_and_in_full(run: Path, ncamix: Run) -> None:
    out = ncamix("runs/c", "-s", "second", "--decode")[1]
    table = [line for line in out.splitlines() if "words " in line and "shard." in line]
    assert len(table) == 6 and any("bytes, ↵ this one" in line for line in table)
    place = table[0].split()[0]
    out = ncamix("runs/c", "-s", "second", "--decode", "--place", place)[1]
    assert f"place {place}: words, sample" in out and "wrote" not in out
    assert "↵" not in out and "holds" not in out


def test_large_batches_are_cut_on_a_terminal_only(plan: Plan, plan_of: Any) -> None:
    large = plan_of(OTHERS.replace("duration: 100%", "duration: 100%, batch_size: 96"), name="d")
    for request, shown in ((Request(), 96), (Request(few=True), FEW), (Request(places="50"), 1),
                           (Request(few=True, every=True), 96)):  # fmt: skip
        assert len(inspect(large, request).samples) == shown


REFUSED = {
    ("-s", "thrid"): "'c' has no stage 'thrid'",
    ("-s", "3"): "stages, from 1 on: first, second",
    ("-s", "0"): "has no stage '0'",
    ("-s", "first", "-b", "19"): "stage 'first' has no batch 19\n    its batches are 0 to 18",
    ("-b", "-1"): "has no batch -1",
    ("--token", "10000"): "has no token 10,000",
    ("--token", "5", "-b", "2"): "leave --stage and --batch out",
    ("--place", "8"): "its places are 0 to 7",
    ("--place", "all"): "names no places",
    ("--ranks", "3"): "a batch of 8 does not split over 3 ranks",
    ("--data", "nowhere"): "nowhere holds no finished compilation",
    ("--decode", "-o", "c.yaml/here"): "choose another folder with --out",
}


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_mistakes_end_with_status_2(plan: Plan, ncamix: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = ncamix("c.yaml", "-t", "small.yaml", *arguments)
    assert (status, out) == (2, "")
    assert REFUSED[arguments] in err and "Traceback" not in err


def test_folders_that_are_no_runs(run: Path, ncamix: Run) -> None:
    own = "ncamix: a run has its own settings"
    assert ncamix("runs/c", "-t", "small.yaml")[2].startswith(own)
    assert ncamix("runs/c", "--set", "seed=1")[2].startswith(own)
    for name in ("trainer.yaml", "plan.json"):
        (run / name).rename(run / "aside")
        status, _, err = ncamix("runs/c")
        assert status == 2
        assert err.startswith(
            f"ncamix: runs/c: this is not the folder of a run: it holds no {name}\n"
        )
        (run / "aside").rename(run / name)
    for damaged in ("{", "[]", '{"fingerprint": 1}'):
        (run / "plan.json").write_text(damaged)
        status, _, err = ncamix("runs/c")
        assert status == 2 and "not the plan of a run" in err
    assert "no such curriculum: 'gone'" in ncamix("gone")[2]
