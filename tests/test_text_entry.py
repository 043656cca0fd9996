"""Compiled text in the cache: killed, extended, damaged, out of room, and wanted by two at once."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TRAINER
from plain_data import read_samples
from processes import output_of, output_to, started

from ncamix import cache, encoding, inventory, text_compilation, tokenization
from ncamix.errors import UserError
from ncamix.keys import fingerprint
from ncamix.plan import Plan
from ncamix.shard_log import LOG
from ncamix.shards import read_index
from ncamix.splits import HELD_OUT, split_of_group
from ncamix.text_compilation import (
    TextFacts,
    compile_text,
    held_out_samples,
    prepare_text,
    report_lines,
    tokenizer_file,
)

Planner = Callable[..., Plan]

CURRICULUM = """\
tokenizer: bytes
sources:
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free}
stages:
  - {name: first, duration: 100%, mixture: {words: 1}}
"""
SETTINGS = """\
from ncamix import encoding, inventory, text_entry
inventory.SHARD_TOKENS = 8 * 33
encoding.CHUNK_CHARACTERS = 2000
text_entry._SAY_EVERY = 1
"""
COMPILE = (
    SETTINGS
    + """
import os, resource, sys, time
from pathlib import Path
from ncamix.errors import UserError
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.trainer import load_trainer
from ncamix.text_compilation import prepare_text
log, shards = Path(os.environ.get("HOLDS_LOG", "none")), int(os.environ.get("HOLDS_AT", 0))
said = []
def say(what, share):
    said.append(what)
    if "waiting for" in what:
        print("waits", flush=True)
    if log.exists() and log.read_bytes().count(b"\\n") >= shards and not Path("go").exists():
        print("holds", flush=True)
        while not Path("go").exists():
            time.sleep(0.01)
if "MOST_BYTES" in os.environ:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["MOST_BYTES"]),) * 2)
plan = make_plan(load_curriculum(Path("c.yaml")), load_trainer(Path("small.yaml")))
try:
    prepare_text(plan, say)
except UserError as error:
    sys.exit(str(error))
print("worked" if any("tokenizing" in what for what in said) else "watched")
"""
)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 documents of 0.1 to 2 kB, in shards of 8 samples, encoded a few at a time."""
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 8 * 33)
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 2000)
    monkeypatch.setattr("ncamix.text_entry._SAY_EVERY", 1)
    (tmp_path / "corpus").mkdir()
    draw = random.Random(1)
    for i in range(60):
        text = " ".join(str(draw.randrange(10**6)) for _ in range(draw.randrange(20, 250)))
        (tmp_path / f"corpus/{i:02}.txt").write_text(text)
    return tmp_path / "corpus"


def files_of(folder: Path) -> dict[str, bytes]:
    """What an entry holds, but for who used it."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != cache.USES
    }


def compiler(folder: Path, cache_folder: Path, **more: object) -> subprocess.Popen[str]:
    """A compilation in a process of its own, which may hold when a log has so many shards."""
    env = {name: str(value) for name, value in more.items()}
    command = [sys.executable, "-c", COMPILE]
    return started(command, folder, {**os.environ, "NCAMIX_CACHE": str(cache_folder), **env})


# Killed, and two at once


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prepare_text(plan_of(CURRICULUM)).sources["words"]
    whole = files_of(cache.entry(source.fingerprint))
    assert len(read_index(cache.entry(source.fingerprint))) > 20
    log = tmp_path / "other" / source.fingerprint / LOG
    reached = [0]
    for more in (1, 6, 9):
        stop = reached[-1] + more
        killed = compiler(tmp_path, tmp_path / "other", HOLDS_LOG=log, HOLDS_AT=stop)
        output_to(killed, "holds")
        killed.send_signal(signal.SIGKILL)
        output_of(killed)
        reached.append(log.read_bytes().count(b"\n"))
        kept = {n: d for n, d in files_of(log.parent).items() if n.startswith("shard.0")}
        monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "other"))
        assert plan_of(CURRICULUM).sources["words"].num_samples is None
        assert kept.items() <= whole.items()
    assert reached == sorted(set(reached))
    encoded: list[int] = []
    encode = encoding.PlainText.encode
    monkeypatch.setattr(
        encoding.PlainText,
        "encode",
        lambda self, texts: encoded.append(sum(map(len, texts))) or encode(self, texts),
    )
    prepare_text(plan_of(CURRICULUM))
    assert files_of(log.parent) == whole
    packed = reached[-1] * 8 * 32  # ids, each a byte; what is encoded again is of a few documents
    assert source.text is not None and source.text.num_bytes is not None
    assert sum(encoded) < source.text.num_bytes - packed + 4000


def test_two_at_once_and_one_does_the_work(corpus: Path, tmp_path: Path, plan_of: Planner) -> None:
    folder = cache.entry(plan_of(CURRICULUM).sources["words"].fingerprint)
    first = compiler(tmp_path, tmp_path / "cache", HOLDS_LOG=folder / LOG, HOLDS_AT=1)
    output_to(first, "holds")
    second = compiler(tmp_path, tmp_path / "cache")
    output_to(second, "waits")
    (tmp_path / "go").touch()
    assert output_of(first).split() == ["worked"] and "worked" not in output_of(second)
    assert [p.returncode for p in (first, second)] == [0, 0]
    assert sorted(e.kind for e in cache.entries()) == ["text", "tokenizer"]


# Damaged


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(data[:-100])
    else:
        data[-50] ^= 4
        file.write_bytes(data)


def forget() -> None:
    """As in a process of its own: no hash was compared yet."""
    text_compilation._hashed.clear()


@pytest.mark.parametrize("transform", ["", "transform: shuffle_tokens, "])
@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_a_damaged_shard_is_made_again_and_said(
    corpus: Path, plan_of: Planner, capsys: pytest.CaptureFixture[str], how: str, transform: str
) -> None:
    body = CURRICULUM.replace("repeat:", f"{transform}repeat:")
    source = prepare_text(plan_of(body)).sources["words"]
    folder = cache.entry(source.fingerprint)
    whole, last = files_of(folder), len(read_index(folder)) - 1
    hit = (f"shard.{last:05}.mds", "shard.00005.mds", "shard.00006.mds", "test/shard.00000.mds")
    for name in hit:
        damage(folder / name, how)
    forget()
    said: list[str] = []
    exact = prepare_text(plan_of(body), lambda what, share: said.append(what))
    assert exact.sources["words"] == source and files_of(folder) == whole
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"'words' in the cache: {len(hit)} of " in told
    assert "shards damaged or missing; made again" in told
    assert any("checking 'words'" in what for what in said)
    forget()
    prepare_text(plan_of(body))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", [LOG, "index.json", "source.json", f"validation/{LOG}", "test/index.json"]
)
def test_other_damage_is_mended_and_said_as_well(
    corpus: Path, plan_of: Planner, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = prepare_text(plan_of(CURRICULUM)).sources["words"]
    folder = cache.entry(source.fingerprint)
    whole = files_of(folder)
    for harm in (b"", whole[name][: len(whole[name]) // 2], whole[name].replace(b"[", b"{")):
        (folder / name).write_bytes(harm)
        forget()
        assert prepare_text(plan_of(CURRICULUM)).sources["words"] == source
        assert files_of(folder) == whole
        what = (
            "torn; compiled anew, all of it" if LOG in name else f"{name} was damaged; made again"
        )
        assert capsys.readouterr().err == f"ncamix: 'words' in the cache: {what}\n"


def test_a_shard_that_comes_out_otherwise_is_compiled_with_all_others(
    hub: Path, plan_of: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(HUB.replace("HUB", str(hub)), name="hub")
    source = prepare_text(plan).sources["words"]
    folder = cache.entry(source.fingerprint)
    (folder / "shard.00003.mds").unlink()
    rows = (hub / "a.jsonl").read_text()
    (hub / "a.jsonl").write_text(rows.replace("xx", "yy"))  # its branch has moved on
    forget()
    compile_text(plan, source)
    assert "compiled anew, all of it" in capsys.readouterr().err
    forget()
    info = compile_text(plan, source)
    assert info["num_samples"] == len(read_samples(folder)) == source.limit


# Files that change after they were hashed


CHANGING = """\
tokenizer: {bpe: 300, train_on: [first]}
sources:
  first: {kind: text, files: ["corpus/*.txt"], repeat: free}
  words: {kind: text, files: ["more/*"], holdout: {share: 0.2}, repeat: free}
stages:
  - {name: first, duration: 100%, mixture: {words: 1, first: 1}}
evaluate: {benchmarks: "bench/*"}
"""


@pytest.fixture
def changing(corpus: Path) -> Path:
    """A text, one that comes after it in an archive and rows, and a benchmark of either kind."""
    for name in ("more", "bench"):
        (corpus.parent / name).mkdir()
    texts = [path.read_text() for path in sorted(corpus.glob("*.txt"))]
    rows = [json.dumps({"text": f"{i} {texts[i % 60]}"}) for i in range(600)]
    (corpus.parent / "more/b.jsonl").write_text("\n".join(rows))
    with zipfile.ZipFile(corpus.parent / "more/a.zip", "w") as archive:
        archive.writestr("x.txt", texts[3][::-1])
    (corpus.parent / "bench/a.txt").write_text("one two three " * 20)
    (corpus.parent / "bench/b.jsonl").write_text('{"q": "four five six"}')
    return corpus.parent


@pytest.mark.parametrize(
    "name", ["corpus/17.txt", "more/a.zip", "more/b.jsonl", "bench/a.txt", "bench/b.jsonl"]
)
def test_a_file_that_changes_after_the_plan_is_told_and_nothing_is_filed(
    changing: Path, plan_of: Planner, name: str
) -> None:
    plan = plan_of(CHANGING)
    data = (changing / name).read_bytes()
    for harm in (data.replace(b"1", b"2").replace(b"four", b"nine") + b"\n", None):
        (changing / name).unlink() if harm is None else (changing / name).write_bytes(harm)
        told = f"{name} has {'vanished' if harm is None else 'changed'} while"
        with pytest.raises(UserError, match=re.escape(told)):
            compile_text(plan, plan.sources["words"])
        assert cache.entry_info(plan.sources["words"].fingerprint) is None
    (changing / name).write_bytes(data)
    compile_text(plan, plan.sources["words"])


def test_a_file_that_changes_while_it_is_read_leaves_only_what_it_held(
    changing: Path, plan_of: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(CHANGING)
    source, file = plan.sources["words"], changing / "more/b.jsonl"
    folder, rows = cache.entry(source.fingerprint), file.read_text()

    def say(what: str, share: float) -> None:
        if what.startswith("tokenizing") and (folder / "shard.00001.mds").exists():
            file.write_text(rows.replace("7", "8"))

    with pytest.raises(UserError, match=r"b\.jsonl has changed while"):
        compile_text(plan, source, say)
    assert (folder / "shard.00001.mds").exists() and cache.entry_info(source.fingerprint) is None
    file.write_text(rows)
    compile_text(plan, source)  # goes on from there
    made = files_of(folder)
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "undisturbed"))
    compile_text(plan, source)
    assert files_of(cache.entry(source.fingerprint)) == made


def test_a_tokenizer_that_changes_after_the_plan_is_told(corpus: Path, plan_of: Planner) -> None:
    file = corpus.parent / "tokenizer.json"
    tokenization.byte_tokenizer().save(str(file))
    plan = plan_of(CURRICULUM.replace("bytes", "{pretrained: tokenizer.json}"))
    tokenization.train_bpe(iter(["other words"]), 260).save(str(file))
    with pytest.raises(UserError, match=r"tokenizer\.json has changed while"):
        prepare_text(plan)
    assert cache.entries() == []


# A disk that fills


def test_a_full_disk_is_told_and_compiling_goes_on(
    corpus: Path, tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prepare_text(plan_of(CURRICULUM)).sources["words"]
    whole = files_of(cache.entry(source.fingerprint))
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here; a limit on file sizes is tested beside this")
    try:
        full = compiler(tmp_path, small)
        said = output_of(full)
        assert full.returncode == 1, said
        assert "there is no room left for the text 'words' in the cache" in said
        assert "No space left on device" in said and "NCAMIX_CACHE" in said
        folder = small / source.fingerprint
        left = files_of(folder)
        assert not [name for name in left if "tmp" in name] and "source.json" not in left
        shards = {n: d for n, d in left.items() if n.endswith(".mds")}
        assert len(shards) > 5 and shards.items() <= whole.items()
        remounted = ["mount", "-o", "remount,size=4m", str(small)]
        subprocess.run(remounted, check=True)
        monkeypatch.setenv("NCAMIX_CACHE", str(small))
        prepare_text(plan_of(CURRICULUM))
        assert files_of(folder) == whole
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_file_that_may_not_grow_is_told(corpus: Path, tmp_path: Path, plan_of: Planner) -> None:
    plan = plan_of(CURRICULUM)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    prepare_text(plan)
    fingerprints = [e.fingerprint for e in cache.entries() if e.kind == "text"]
    cache.note_use(fingerprints[0], "c")
    limited = compiler(tmp_path, tmp_path / "other", MOST_BYTES=1 << 9)
    said = output_of(limited)
    assert limited.returncode == 1, said
    assert "there is no room left for" in said and "File too large" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "other").rglob("*.tmp"))


# Extended

HUB = """\
tokenizer: bytes
sources:
  words: {kind: text, hub: "HUB", holdout: {share: 0.2}, repeat: free}
stages:
  - {name: first, duration: 100%, mixture: {words: 1}}
"""


@pytest.fixture
def hub(corpus: Path, tmp_path: Path) -> Path:
    """A data set of 400 rows: a folder is one, too."""
    draw = random.Random(2)
    rows = [{"text": f"{i} " + "x" * draw.randrange(10, 700)} for i in range(400)]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows"


def of_limit(plan: Plan, limit: int) -> Plan:
    source = plan.sources["words"]
    return replace(plan, sources={"words": replace(source, limit=limit, num_samples=None)})


def test_more_samples_extend_an_entry_and_rewrite_nothing(
    hub: Path, plan_of: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(HUB.replace("HUB", str(hub)), name="hub")
    source = plan.sources["words"]
    assert source.limit is not None and "limit" not in source.meaning
    assert source.limit % 8 == 0 and 0 <= source.limit - source.samples_needed < 8
    folder = cache.entry(source.fingerprint)

    def samples(limit: int) -> dict[str, Any]:
        """What a plan with that limit sees in the cache."""
        wanted = of_limit(plan, limit).sources["words"]
        info = compile_text(plan, wanted)
        seen: dict[str, Any] = {"num_documents": info["num_documents"]}
        seen["train"] = read_samples(folder, info["num_samples"]).tolist()
        for split in HELD_OUT:
            most = held_out_samples(wanted, split)
            assert most == info[f"{split}_samples"]
            seen[split] = read_samples(folder / split, most).tolist()
        return seen

    first = samples(400)
    assert len(first["train"]) == 400 and first["num_documents"] < 150
    before = files_of(folder)
    more = samples(1200)
    after = files_of(folder)
    shards = {n: d for n, d in before.items() if n.endswith(".mds")}
    assert shards.items() <= after.items() and len(more["train"]) == 1200
    assert samples(400) == first and files_of(folder) == after
    for split in HELD_OUT:
        assert 0 < len(first[split]) < len(more[split])
        assert more[split][: len(first[split])] == first[split]
    everything = samples(10**6)
    assert 1200 < len(everything["train"]) < 10**6
    assert samples(10**6 + 8) == everything  # there is no more
    monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "other"))
    folder = cache.entry(source.fingerprint)
    assert samples(1200) == more  # at once
    assert samples(400) == first
    assert samples(10**6) == everything


def test_a_limit_is_part_of_the_plan_and_of_the_epoch(hub: Path, plan_of: Planner) -> None:
    plan = plan_of(HUB.replace("HUB", str(hub)), name="hub")
    small, large = of_limit(plan, 400), of_limit(plan, 800)
    assert small.fingerprint != large.fingerprint
    assert small.sources["words"].fingerprint == large.sources["words"].fingerprint
    sizes = [prepare_text(p).sources["words"].num_samples for p in (large, small)]
    assert sizes == [800, 400]


@pytest.mark.parametrize("shards", [51, 70, 99])
def test_an_extension_that_breaks_off(
    hub: Path, plan_of: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    plan = plan_of(HUB.replace("HUB", str(hub)), name="hub")
    small, large = (of_limit(plan, n).sources["words"] for n in (400, 800))
    for name in ("whole", "broken"):
        monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / name))
        folder = cache.entry(small.fingerprint)
        compile_text(plan, small)

        def say(what: str, share: float, folder: Path = folder, name: str = name) -> None:
            if name == "broken" and (folder / LOG).read_bytes().count(b"\n") >= shards:
                raise RuntimeError("broken off")

        before = (folder / "source.json").read_bytes()
        if name == "broken":
            with pytest.raises(RuntimeError):
                compile_text(plan, large, say)
            assert (folder / "source.json").read_bytes() == before
            assert compile_text(plan, small)["num_samples"] == 400
        compile_text(plan, large)
    assert files_of(folder) == files_of(tmp_path / "whole" / small.fingerprint)


# Under other trainers

OWN_LENGTH = """\
tokenizer: bytes
sources:
  own: {SOURCE, holdout: {share: 0.3}, repeat: free}
  hiss: {kind: noise, symbols: 50}
stages:
  - {name: zero, duration: 10ba, mixture: {hiss: 1}}
  - {name: first, duration: BATCHESba, sequence_length: 16, mixture: {own: 1}}
"""


@pytest.mark.parametrize(
    "source",
    [
        'kind: text, files: ["corpus/*.txt"]',
        'kind: text, hub: "HUB"',
        'kind: pairs, files: ["rows/*.jsonl"], prompt: q, response: a, too_long: truncate',
        'kind: pairs, hub: "HUB", prompt: q, response: a, too_long: truncate',
    ],
    ids=["text", "text of the hub", "pairs", "pairs of the hub"],
)
def test_no_trainer_and_no_earlier_plan_changes_what_a_plan_reads(
    hub: Path, tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    draw = random.Random(3)
    sizes = [(draw.randrange(1, 9), draw.randrange(1, 7)) for _ in range(400)]
    rows = [{"text": f"{i} " + "x" * 7 * m * n, "q": f"{i} " + "x" * m, "a": "y" * n}
            for i, (m, n) in enumerate(sizes)]  # fmt: skip
    (hub / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    body = OWN_LENGTH.replace("SOURCE", source).replace("HUB", str(hub))

    def read(length: int, num_batches: int) -> dict[str, Any]:
        """All that a plan reads in its second stage."""
        trainer = TRAINER.replace("sequence_length: 32", f"sequence_length: {length}")
        plan = prepare_text(plan_of(body.replace("BATCHES", str(num_batches)), trainer))
        own = plan.dataset_of("own", plan.stages[1])
        folder = cache.entry(own.fingerprint)
        seen: dict[str, Any] = {"source": own.fingerprint, "limit": own.limit}
        seen["train"] = read_samples(folder, own.num_samples).tolist()
        assert len(seen["train"]) == own.num_samples > 0
        for split in HELD_OUT:
            most = held_out_samples(own, split)
            seen[split] = read_samples(folder / split, most).tolist()
            assert len(seen[split]) == most > 0
        return seen

    plans = [(32, 28), (16, 11), (64, 11), (16, 28)]
    alone = {}
    for plan in plans:
        monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / "alone-{}-{}".format(*plan)))
        alone[plan] = read(*plan)
    assert alone[16, 11] == alone[64, 11] and alone[32, 28] == alone[16, 28]
    for name, order in ("forth", plans), ("back", plans[::-1]):
        monkeypatch.setenv("NCAMIX_CACHE", str(tmp_path / name))
        for plan in order:
            assert read(*plan) == alone[plan]


def test_a_limit_that_is_all_there_is_holds_out_no_more_when_the_end_is_known(
    hub: Path, tmp_path: Path, plan_of: Planner
) -> None:
    from ncamix.compilation.compiled import check_data, held_out_in
    from ncamix.compilation.datasets import compile_plan
    from ncamix.waiting import quiet

    share = Fraction(1, 5)
    texts = [f"{i} ".ljust(99, "x") for i in range(99)]
    train = [text for text in texts if split_of_group(text, share) == "train"][:63]
    # 64 samples of 32, their last target the next document's first id, and then held-out ones
    rest = [text for text in texts if split_of_group(text, share) != "train"]
    short = next(c for c in "abcdefgh" if split_of_group(c, share) == "train")
    first = train[0].ljust(32 * 64 - sum(len(text) + 1 for text in train[1:20]) - 1, "x")
    assert split_of_group(first, share) == "train"
    rows = [*rest[:5], first, *train[1:20], short, *rest[5:]]
    (hub / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    plan = plan_of(HUB.replace("HUB", str(hub)), name="hub")
    small, large = of_limit(plan, 64), of_limit(plan, 72)

    def held(plan: Plan) -> list[int]:
        return [held_out_samples(plan.sources["words"], split) for split in HELD_OUT]

    before = held(prepare_text(small))
    exact = prepare_text(large)
    assert exact.sources["words"].num_samples == 64 and sum(held(exact)) > sum(before) > 0
    assert held(prepare_text(small)) == before
    compile_plan(large, tmp_path / "data", quiet)
    for own in small, large:
        source = check_data(own, tmp_path / "data").sources["words"]
        assert [held_out_in(tmp_path / "data", source, split) for split in HELD_OUT] == held(own)


def test_folders_that_the_hub_s_client_reads_are_told_apart(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    for name in "ab":
        (tmp_path / name / "rows").mkdir(parents=True)
        (tmp_path / name / "rows/a.jsonl").write_text(json.dumps({"text": f"{name} " * 999}))
        monkeypatch.chdir(tmp_path / name)
        body = HUB.replace("HUB", "rows").replace("holdout: {share: 0.2}, ", "")
        source = prepare_text(plan_of(body)).sources["words"]
        read.append(read_samples(cache.entry(source.fingerprint)))
    assert read[0].shape == read[1].shape and not (read[0] == read[1]).all()


# What an entry says


def test_an_entry_says_its_ids_and_what_was_left_out(
    corpus: Path, plan_of: Planner, tmp_path: Path
) -> None:
    (corpus / "copy.txt").write_bytes((corpus / "00.txt").read_bytes())
    plan = prepare_text(plan_of(CURRICULUM))
    info = cache.entry_info(plan.sources["words"].fingerprint)
    assert info is not None and info["num_documents"] == 60
    text = {"name": "text", "first": 0, "size": 257, "special": {"end_of_text": 0}}
    assert info["ranges"] == [text]
    assert info["report"] == {"exact_copies": 1, "near_copies": 0}
    assert report_lines(plan, plan) == ["words: 1 exact copy"]
    info["report"] |= {
        "not_utf8": {"count": 3, "first": "x.py"}, "binary": {"count": 1, "first": "y"},
        "padding": 0.031,
    }  # fmt: skip
    cache.write_info(plan.sources["words"].fingerprint, info)
    told = replace(plan, warnings=("seen before", "new"))
    assert report_lines(told, replace(plan, warnings=("seen before",))) == [
        "words: 1 binary (first: y), 1 exact copy, 3 not UTF-8 (first: x.py), 3.1% padding",
        "new",
    ]


# Pairs

PAIRS = """\
tokenizer: {bpe: 300, train_on: [words], special: ["<|user|>", "<|model|>"]}
sources:
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
  answers:
    kind: pairs
    files: [pairs.jsonl]
    prompt: q
    response: a
    template: "<|user|>{prompt}<|model|>{response}\\n"
    holdout: {share: 0.3}
    repeat: free
stages:
  - {name: first, duration: 100%, mixture: {words: 1, answers: 1}}
"""


@pytest.mark.parametrize("pack", ["isolated", "padded"])
def test_pairs_are_compiled_with_their_loss_masks(
    corpus: Path, plan_of: Planner, tmp_path: Path, pack: str
) -> None:
    from plain_data import read_masks

    rows = [{"q": f"q{i} <|user|>", "a": f"r{i}<|endoftext|>"} for i in range(60)]
    rows += [rows[0], {"q": rows[1]["q"], "a": "another"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    body = PAIRS.replace("    repeat", f"    pack: {pack}\n    too_long: truncate\n    repeat")
    with pytest.raises(UserError, match=r"answers\.too_long[\s\S]* ids long, a sample\s+holds 33"):
        long = {"q": "?", "a": " ".join(map(str, range(9999)))}
        (tmp_path / "pairs.jsonl").open("a").write(json.dumps(long) + "\n")
        prepare_text(plan_of(body.replace("truncate", "refuse")))
    plan = prepare_text(plan_of(body))
    source = plan.sources["answers"]
    folder = cache.entry(source.fingerprint)
    info = cache.entry_info(source.fingerprint)
    special = {"end_of_text": 0, "<|user|>": 1, "<|model|>": 2}
    assert info is not None and info["ranges"][0]["special"] == special
    assert plan.vocabulary.special["text"] == special
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(text_compilation.tokenizer_file(plan)))
    tokenizer.encode_special_tokens = True
    seen: dict[str, list[tuple[str, str]]] = {}
    for split in ("train", *HELD_OUT):
        place = folder if split == "train" else folder / split
        masks = read_masks(place)
        assert masks is not None
        seen[split] = []
        for ids, mask in zip(read_samples(place), masks, strict=True):
            starts = np.flatnonzero(ids == 1).tolist()
            assert len(starts) == 1 or pack == "isolated"
            for first, last in zip(starts, [*starts[1:], len(ids)], strict=True):
                own = ids[first:last]
                model, ends = int(np.flatnonzero(own == 2)[0]), np.flatnonzero(own == 0)
                stop = int(ends[0]) if len(ends) else len(own)
                prompt = tokenizer.decode(own[1:model].tolist())
                answer = tokenizer.decode(own[mask[first:last]].tolist())
                targets = np.zeros(len(own), bool)
                targets[model + 1 : stop + 1] = True
                if len(ends):  # the template's line break stands behind the response
                    targets[stop - 1] = False
                assert np.array_equal(targets, mask[first:last])
                seen[split].append((prompt, answer))
    found = [pair for split in seen.values() for pair in split]
    assert len(found) == 62 and info["report"]["exact_copies"] == 1
    assert info["report"]["truncated"] == 1 and 0 < info["report"]["padding"] < 0.9
    assert {(r["q"], r["a"]) for r in rows} == {p for p in found if p[0] != "?"}
    sides = {split: {q for q, _ in pairs} for split, pairs in seen.items()}
    assert not sides["train"] & (sides["validation"] | sides["test"])
    assert "padding" in report_lines(plan, plan)[-1]


# Fingerprints


def test_a_tokenizer_is_the_same_whatever_stages_and_seeds(corpus: Path, plan_of: Planner) -> None:
    body = CURRICULUM.replace("bytes", "{bpe: 300, train_on: [words]}")
    meanings = []
    for changed in (body, f"seed: 5\n{body}", body.replace("100%", "50%, batch_size: 4")):
        text = plan_of(changed, name="c").sources["words"].text if "50" not in changed else None
        if text is None:
            more = changed + "  - {name: second, duration: rest, mixture: {words: 1}}\n"
            text = plan_of(more).sources["words"].text
        assert text is not None
        meanings.append(fingerprint(text.tokenizer))
    assert len(set(meanings)) == 1


def test_names_of_texts_do_not_matter_to_a_tokenizer(corpus: Path, plan_of: Planner) -> None:
    (corpus.parent / "more").mkdir()
    (corpus.parent / "more/a.txt").write_text("quite other words " * 50)
    body = CURRICULUM.replace("bytes", "{bpe: 300, train_on: [words, more]}").replace(
        "stages:", '  more: {kind: text, files: ["more/*.txt"], repeat: free}\nstages:'
    )
    body = body.replace("{words: 1}", "{words: 1, more: 1}")
    first = tokenizer_file(plan_of(body))
    for old, new in (("words", "zebras"), ("more", "less")):
        body = body.replace(f"{old}]", f"{new}]").replace(f"[{old},", f"[{new},")
        body = body.replace(f"{old}:", f"{new}:")
        assert tokenizer_file(plan_of(body)) == first
    assert tokenizer_file(plan_of(body.replace("[zebras, less]", "[less, zebras]"))) == first
    assert tokenizer_file(plan_of(body.replace("[zebras, less]", "[zebras]"))) != first


def test_compiled_datasets_serve_plans_of_a_smaller_limit_as_the_cache_does(
    hub: Path, plan_of: Planner, tmp_path: Path
) -> None:
    from ncamix.compilation.compiled import check_data
    from ncamix.compilation.datasets import compile_plan
    from ncamix.training.evaluation import EvaluationSet, evaluation_set
    from ncamix.waiting import quiet

    data, facts = tmp_path / "data", TextFacts(Path("unused"), 0, [0] + [1] * 256)
    body = HUB.replace("HUB", str(hub)) + "evaluate: {sources: [words], samples: 500}\n"
    plan = plan_of(body, name="hub")

    def held(exact: Plan, place: Path | None) -> EvaluationSet:
        return evaluation_set(exact, "words", facts, place)

    sets = []
    for limit in (400, 800, 10**6):
        sets.append(held(prepare_text(of_limit(plan, limit)), None))
        compile_plan(of_limit(plan, limit), data, quiet)
        for smaller, before in zip((400, 800, 10**6), sets, strict=False):
            exact = check_data(of_limit(plan, smaller), data)
            there = len(read_samples(data / "words"))
            assert exact.sources["words"].num_samples == min(smaller, there)
            again = held(exact, data)
            assert np.array_equal(again.samples, before.samples)
            assert again.num_bytes == before.num_bytes
        if limit == 800:
            with pytest.raises(UserError, match="has 800 samples, 808 are to be read"):
                check_data(of_limit(plan, 808), data)
    assert 0 < len(sets[0].samples) < len(sets[1].samples) < len(sets[2].samples)
    assert held(check_data(of_limit(plan, 10**5), data), data).num_bytes == sets[2].num_bytes
