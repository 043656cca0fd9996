"""`ncamix batch`: the batches that the dataset yields, the ids that it trained on, and mistakes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from ncamix import inventory
from ncamix.automata import Automaton
from ncamix.batches import batch_of, digest_of, find_token, ids_of, with_sizes
from ncamix.cells import ABSENT, state_colours
from ncamix.cli import main
from ncamix.compilation import compile_plan
from ncamix.decoding import as_text, frames_of, rule_scores
from ncamix.errors import UserError
from ncamix.inspection import FEW, Request, inspect, places_of
from ncamix.pictures import Rollouts, contact_sheet, rows_height
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.replanning import replan
from ncamix.shards import read_samples, sample_digest
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
TRAINER = """\
ncamix: 1
name: small
model: {layers: 1, heads: 1, width: 8}
sequence_length: 32
batch_size: 8
budget: 10ktok
optimizer: {lr: 1e-3}
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


SHORTER = "sequence_length: 16, mixture"
AGAIN = "draw: {alive: replay, words: replay}, mixture"
TWO_OWNERS = TRAINER + "canonical_nodes: 2\n"
SHAPES = {
    "shorter samples": (SHORTER, TRAINER),
    "replays": (AGAIN, TRAINER),
    "two owners": ("mixture", TWO_OWNERS),
    "shorter samples of two owners": (SHORTER, TWO_OWNERS),
    "replays of two owners": (AGAIN, TWO_OWNERS),
}


@pytest.mark.parametrize(("keys", "trainer"), SHAPES.values(), ids=SHAPES)
def test_stages_of_every_shape(
    sized_plan_of: Any, tmp_path: Path, keys: str, trainer: str
) -> None:
    """The second stage, in which not everything goes on as in the first."""
    plan = sized_plan_of(CURRICULUM.replace("mixture: {words: 3, a", f"{keys}: {{words: 3, a"),
                         trainer)  # fmt: skip
    compile_plan(plan, tmp_path / "data", quiet)
    drawn: dict[str, list[int]] = {"alive": [], "words": []}  # in the first stage
    for t in range(plan.stages[0].num_batches):
        for s in batch_of(plan, plan.stages[0], t).samples:
            drawn.setdefault(s.source, []).append(s.sample)
    stage, size = plan.stages[1], {name: s.num_samples for name, s in plan.sources.items()}
    dealt: dict[str, list[tuple[int, int | None]]] = {"alive": [], "words": []}
    for t, expected in enumerate(yielded(plan, 1, tmp_path / "second")):
        batch = batch_of(plan, stage, t, ranks=1)
        named = [(stage.sources[s["source"]], s["sample"]) for s in expected]
        assert [(s.source, s.sample) for s in batch.samples] == named
        assert batch.end_token == stage.first_token + 8 * stage.sequence_length * (t + 1)
        again = ids_of(plan, batch.samples, tmp_path / "data")
        for s, ids, other, row in zip(
            batch.samples, ids_of(plan, batch.samples), again, expected, strict=True
        ):
            assert (ids == row["tokens"]).all() and (ids == other).all()
            shard = json.loads((tmp_path / "data" / s.dataset / "index.json").read_text())
            assert (tmp_path / "data" / s.dataset / f"{s.shard}.zstd").is_file()
            assert s.row < shard["shards"][int(s.shard[6:11])]["samples"]
            counted = s.round if stage.replayed else s.epoch
            assert (s.epoch if stage.replayed else s.round) is None
            dealt[s.source].append((s.sample, counted))
    for name, pairs in dealt.items():
        numbers = [number for number, _ in pairs]
        if stage.replayed:  # every round deals what was drawn, each draw once
            assert stage.replayed[name] == len(drawn[name])
            for index in range(max(n or 0 for _, n in pairs) + 1):
                dealt_in = [number for number, n in pairs if n == index]
                rest = list(drawn[name])
                for number in dealt_in:
                    rest.remove(number)
                assert not rest or index == len(numbers) // len(drawn[name])
        elif name == "words":  # every epoch deals every sample once, the first goes on
            length = size["words@16" if stage.sequence_length == 16 else "words"]
            assert length is not None
            before = len(drawn["words"]) if stage.sequence_length == 32 else 0
            for index, (_, epoch) in enumerate(pairs):
                assert epoch == (before + index) // length or trainer == TWO_OWNERS
            known = [(n, e) for n, e in pairs if e == max(p[1] or 0 for p in pairs) - 1]
            assert sorted(n for n, _ in known) == list(range(length))
        else:
            assert all(epoch is None for _, epoch in pairs)
            assert not set(numbers) & set(drawn[name]) and len({*numbers}) == len(numbers)


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
        "planned again, this run comes out differently: the source 'words' is not the same" in out
    )
    assert "not what the run trained on: its digest is" in out and "as trained" not in out
    found = json.loads(ncamix("runs/c", "-s", "second", "-b", "2", "--json")[1])
    assert found["as_trained"] is False and found["digest"] != found["recorded"]["digest"]
    assert found["plan_differs"].startswith("the source 'words'")


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
        assert err == f"ncamix: runs/c: this is not the folder of a run: it holds no {name}\n"
        (run / "aside").rename(run / name)
    for damaged in ("{", "[]", '{"fingerprint": 1}'):
        (run / "plan.json").write_text(damaged)
        status, _, err = ncamix("runs/c")
        assert status == 2 and "not the plan of a run" in err
    assert "no such curriculum: 'gone'" in ncamix("gone")[2]
