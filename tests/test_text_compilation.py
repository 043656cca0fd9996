"""Text: found, split, tokenized and packed; killed, repeated and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from plain_data import read_samples
from tokenizers import Tokenizer, decoders, models

from ncamix import cache, inventory, tokenization
from ncamix.curation import split_documents
from ncamix.documents import Document
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.sources.base import shuffle
from ncamix.splits import HELD_OUT, SPLITS, split_of
from ncamix.text_compilation import (
    prepare_text,
    report_lines,
    text_facts,
    tokenizer_file,
)
from ncamix.text_entry import shuffle_key

CURRICULUM = """\
tokenizer: {bpe: 300, train_on: [words]}
sources:
  words: {kind: text, files: ["corpus/**/*.txt"], holdout: {share: 0.2}, repeat: 10}
stages:
  - {name: first, duration: 100%, mixture: {words: 1}}
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """40 documents in 8 packages."""
    for i in range(40):
        path = tmp_path / "corpus" / f"p{i % 8}" / f"{i:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "\n".join(f"line {j} of {i}: seen {i * j} times, {i + j}" for j in range(30))
        )
    return tmp_path / "corpus"


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def entries() -> dict[str, dict[str, bytes]]:
    """All finished entries of the cache."""
    root = cache.cache_root()
    found = (p for p in root.iterdir() if p.is_dir()) if root.exists() else ()
    return {p.name: files_below(p) for p in found if (p / cache.INFO).exists()}


# Documents


# Tokenizers


def test_training_is_the_same_for_any_number_of_threads(tmp_path: Path) -> None:
    code = """
        import hashlib
        from ncamix.sources.corpus import corpus_files
        from ncamix.documents import read_documents
        from ncamix.tokenization import train_bpe
        from pathlib import Path
        files = corpus_files(("python-stdlib",), Path("."))[:150]
        texts = [d.text for d in read_documents(files)]
        made = [train_bpe(iter(texts), 600) for _ in range(2)]
        a, b = (m.to_str() for m in made)
        ids = [e.ids for e in made[0].encode_batch_fast(texts, add_special_tokens=False)]
        print(a == b, hashlib.sha256(a.encode()).hexdigest(), hash(str(ids)))
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": "0"},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1 and outputs.pop().startswith("True")


def test_a_tiny_corpus_leaves_ids_unused() -> None:
    tokenizer = tokenization.train_bpe(iter(["abab"]), 5000)
    assert tokenizer.get_vocab_size() < 300
    assert tokenization.end_of_text_id(tokenizer) == 0
    lengths = tokenization.bytes_per_id(tokenizer, 5000)
    assert len(lengths) == 5000 and lengths[0] == 0 and set(lengths[300:]) == {0}
    assert sum(lengths[i] for i in tokenizer.encode("abab été").ids) == len("abab été".encode())


def test_the_byte_tokenizer_has_one_id_a_byte() -> None:
    tokenizer = tokenization.byte_tokenizer()
    assert tokenizer.get_vocab_size() == tokenization.NUM_BYTE_IDS
    assert tokenization.bytes_per_id(tokenizer, 257) == [0] + [1] * 256
    text = "naïve\n\0 ☃ <|endofte"
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text.encode()) and 0 not in ids
    assert tokenizer.decode(ids) == text


def test_bytes_of_other_kinds_of_tokenizers() -> None:
    vocabulary = {"</s>": 0, "<0x0A>": 1, "\u2581caf": 2, "\u00e9": 3, "the": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["</s>"])
    assert tokenization.end_of_text_id(tokenizer) == 0
    assert tokenization.bytes_per_id(tokenizer, 7) == [0, 1, 4, 2, 3, 0, 0]
    level = tokenization.byte_tokenizer()
    level.add_tokens(["\u00e9\u00e9"])  # added as text, not as byte characters
    assert tokenization.bytes_per_id(level, 258)[257] == 4
    with pytest.raises(UserError, match="no end-of-text token"):
        tokenization.end_of_text_id(Tokenizer(models.BPE({"a": 0}, [])))


def test_text_that_looks_like_the_end_of_text_still_counts_its_bytes(
    corpus: Path, plan_of: Callable[..., Plan]
) -> None:
    plan = prepare_text(plan_of(CURRICULUM))
    facts = text_facts(tokenizer_file(plan), 300)  # type: ignore[arg-type]
    assert facts.end_of_text_id == 0
    assert facts.bytes_per_id[0] == 0 and min(facts.bytes_per_id[1:257]) == 1


# Packing


def test_compiled_samples_are_the_token_stream(corpus: Path, plan_of: Callable[..., Plan]) -> None:
    plan = prepare_text(plan_of(CURRICULUM))
    source = plan.sources["words"]
    folder = cache.entry(source.fingerprint)
    tokenizer = Tokenizer.from_file(str(tokenizer_file(plan)))
    for split, place in [("train", folder), *((s, folder / s) for s in HELD_OUT)]:
        texts = [d.text for d, s in split_documents(source) if s == split]
        assert texts
        stream = [i for t in texts for i in (*tokenizer.encode(t).ids, 0)]
        samples = read_samples(place)
        joined = [int(samples[0, 0]), *samples[:, 1:].ravel().tolist()]
        assert joined == stream[: len(joined)] and len(stream) - len(joined) < 32
        assert np.array_equal(samples[1:, 0], samples[:-1, -1])
    info = cache.entry_info(source.fingerprint)
    assert info and info["num_samples"] == source.num_samples == len(read_samples(folder))
    assert info["num_documents"] == 40
    assert plan_of(CURRICULUM).sources["words"].num_samples == source.num_samples


@pytest.mark.parametrize("per_shard", [2, 100])
def test_shuffled_samples_are_the_samples_in_another_order(
    corpus: Path,
    plan_of: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    per_shard: int,
) -> None:
    monkeypatch.setattr(inventory, "SHARD_TOKENS", per_shard * 33)  # no shard changes a sample
    monkeypatch.setattr("ncamix.encoding.CHUNK_CHARACTERS", 1000)
    own = prepare_text(plan_of(CURRICULUM))
    body = CURRICULUM.replace("repeat", "transform: shuffle_tokens, repeat")
    plan = prepare_text(plan_of(body))
    assert tokenizer_file(plan) == tokenizer_file(own)  # it is of the same text
    source = plan.sources["words"]
    keys = set()
    for split in SPLITS:
        folders = [
            cache.entry(p.sources["words"].fingerprint) / ("" if split == "train" else split)
            for p in (own, plan)
        ]
        drawn, samples = map(read_samples, folders)
        assert len(drawn) == len(samples) > 5
        assert np.array_equal(np.sort(drawn), np.sort(samples))
        assert not (drawn == samples).all(axis=1).any()
        key = shuffle_key(source.meaning, split)
        assert key is not None and shuffle_key(own.sources["words"].meaning, split) is None
        shuffle(drawn, 0, key)
        assert np.array_equal(drawn, samples)
        keys.add(key)
    assert len(keys) == 3


def test_the_holdout_is_out_of_training_and_of_the_tokenizer(
    corpus: Path, plan_of: Callable[..., Plan]
) -> None:
    secret = next(
        d for d, s in split_documents(plan_of(CURRICULUM).sources["words"]) if s != "train"
    )
    tokenizer = Tokenizer.from_file(str(tokenizer_file(plan_of(CURRICULUM))))
    path = corpus / secret.name
    for i in range(10_000):  # another document with another text on the held-out side
        text = "qqqqzzzzxxxx" * 200 + str(i)
        if split_of(Document("", "", text), (Fraction(1, 5), "document")) != "train":
            break
    path.write_text(text)
    again = Tokenizer.from_file(str(tokenizer_file(plan_of(CURRICULUM))))
    assert again.to_str() == tokenizer.to_str()


# Refusals


def test_an_empty_corpus_is_named(corpus: Path, plan_of: Callable[..., Plan]) -> None:
    for path in corpus.rglob("*.txt"):
        path.write_text(" \n" * 500)
    for body in (CURRICULUM, CURRICULUM.replace("{bpe: 300, train_on: [words]}", "bytes")):
        with pytest.raises(UserError, match=r"sources\.words.*empty"):
            prepare_text(plan_of(body))
    assert not any("words" in str(e[cache.INFO]) for e in entries().values())
    assert [e.kind for e in cache.entries()] in (["tokenizer"], [])


def test_a_text_that_is_too_small_is_told_in_epochs(
    corpus: Path, plan_of: Callable[..., Plan]
) -> None:
    (corpus / "big.txt").write_text("unbelievably antidisestablishmentarian " * 250)
    for path in corpus.glob("p[1-7]/*.txt"):
        path.unlink()
    body = CURRICULUM.replace("repeat: 10", "repeat: refuse").replace("bpe: 300", "bpe: 3000")
    told = r"sources\.words.*too small.*epochs, 1 allowed[\s\S]*allow more with `repeat: \d"
    with pytest.raises(UserError, match=told):
        prepare_text(plan_of(body))
    assert len(entries()) == 2  # what was compiled is kept


def test_a_holdout_that_takes_nothing_is_told(corpus: Path, plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(UserError, match=r"sources\.words\.holdout.*no whole sample"):
        prepare_text(plan_of(CURRICULUM.replace("share: 0.2", "share: 1e-9")))


def test_a_cache_that_cannot_be_written_is_told(
    corpus: Path, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCAMIX_CACHE", str(corpus / "p0/00.txt" / "cache"))
    with pytest.raises(UserError, match=r"the cache .* cannot be written.*\n.*NCAMIX_CACHE"):
        prepare_text(plan_of(CURRICULUM))


# The hub


def test_without_a_network_the_hub_is_refused_at_once_in_one_line() -> None:
    code = """
        from ncamix.errors import UserError
        from ncamix.documents import read_documents
        from ncamix.sources import TextSource
        from ncamix.tokenization import pretrained_file
        from pathlib import Path
        for ask in (
            lambda: list(read_documents(None, TextSource(kind="text", hub="a/b"))),
            lambda: pretrained_file("a/b", Path(".")),
        ):
            try:
                ask()
            except UserError as error:
                print(error)
    """
    for offline in ("1", "0"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"},
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        assert len(lines) == 4, done.stdout
        assert lines[0].startswith("the data set a/b cannot be had from the Hugging Face hub (")
        assert lines[2].startswith("the tokenizer 'a/b' is no local path and cannot be had from")
        assert "Retrying" not in done.stderr and "Traceback" not in done.stderr


HUB = """\
tokenizer: {bpe: 300, train_on: [words]}
sources:
  words: {kind: text, hub: "HUB", column: content, holdout: {share: 0.2}, repeat: free}
stages:
  - {name: first, duration: 100%, mixture: {words: 1}}
"""


def test_of_a_hub_data_set_only_what_is_needed_is_packed(
    tmp_path: Path, plan_of: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 16 * 33)
    monkeypatch.setattr("ncamix.encoding.CHUNK_CHARACTERS", 1000)
    monkeypatch.setattr(tokenization, "TRAIN_CHARACTERS", 20_000)
    rows = [
        {"content": f"row {i} holds {i * i} and {i % 7} words. " * 8, "id": i} for i in range(1500)
    ]
    (tmp_path / "rows").mkdir()  # a folder is a data set, too
    (tmp_path / "rows/a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rows/b.jsonl").write_text("{broken")
    body = HUB.replace("HUB", str(tmp_path / "rows"))
    plan = plan_of(body)
    need = plan.sources["words"].samples_needed
    plan = prepare_text(plan)  # and never comes to the end
    source = plan.sources["words"]
    assert source.num_samples == -(-need // 16) * 16 == source.limit
    samples = read_samples(cache.entry(source.fingerprint))
    assert len(samples) == source.num_samples
    with pytest.raises(UserError, match="row 0 of .* has no column 'text'\n.*content, id"):
        prepare_text(plan_of(body.replace("column: content, ", "")))


def test_a_hub_data_set_that_is_broken_is_told(
    tmp_path: Path, plan_of: Callable[..., Plan]
) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a.jsonl").write_text('{"content": "first"}\n{broken')
    with pytest.raises(UserError, match=r"rows cannot be had .*"):
        prepare_text(plan_of(HUB.replace("HUB", str(tmp_path / "rows"))))
    assert entries() == {}


def test_a_tokenizer_that_comes_out_smaller_is_told(
    corpus: Path, plan_of: Callable[..., Plan]
) -> None:
    plan = plan_of(CURRICULUM.replace("bpe: 300", "bpe: 9000"))
    assert not [line for line in report_lines(plan, plan) if "tokenizer" in line]
    made = prepare_text(plan)
    file = tokenizer_file(made)
    assert file is not None
    size = Tokenizer.from_file(str(file)).get_vocab_size()
    (told,) = (line for line in report_lines(made, plan) if "tokenizer" in line)
    assert f"9,000 ids were asked for, and its texts yield {size:,}; {9000 - size:,} rows" in told
    small = plan_of(CURRICULUM)
    assert not [line for line in report_lines(prepare_text(small), small) if "tokenizer" in line]
