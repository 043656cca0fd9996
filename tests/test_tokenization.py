"""Tokenizers: the same wherever they are trained, and pretrained ones from what users have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from ncamix import cache, tokenization
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.text_compilation import prepare_text, tokenizer_file
from ncamix.tokenization import read_pretrained

CURRICULUM = """\
tokenizer: {pretrained: gpt}
sources:
  words: {kind: text, files: ["*.txt"], repeat: free}
stages:
  - {name: first, duration: 100%, mixture: {words: 1}}
"""


def test_training_depends_on_neither_hash_seed_nor_threads() -> None:
    code = """
        import hashlib, json, sys
        from ncamix.tokenization import train_bpe
        texts = [f"line {i * 7919 % 1000} of {i}: seen {i * i} times\\n" * 3 for i in range(3000)]
        made = train_bpe(iter(texts), 900, ["<|user|>"])
        print(hashlib.sha256(made.to_str().encode()).hexdigest())
    """
    printed = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for threads, seed in (("1", "0"), ("2", "1"), ("3", "random"))
    }  # fmt: skip
    assert len(printed) == 1


@pytest.fixture
def gpt(tmp_path: Path) -> Path:
    """GPT-2's kind of files: vocab.json and merges.txt, and a text beside them."""
    trained = tokenization.train_bpe(iter(["the words of the text, words"] * 9), 290)
    model = json.loads(trained.to_str())["model"]
    folder = tmp_path / "gpt"
    folder.mkdir()
    vocab = {token: i - 1 for token, i in model["vocab"].items() if i}
    vocab["<|endoftext|>"] = len(vocab)  # GPT-2's is the last
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (tmp_path / "a.txt").write_text("the words of the text, <|endoftext|> words\n" * 100)
    return folder


def test_gpt2s_files_become_a_tokenizer(gpt: Path, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(CURRICULUM)
    size = len(json.loads((gpt / "vocab.json").read_text()))
    assert plan.vocabulary.ranges == {"text": (0, size)}
    assert plan.vocabulary.special == {"text": {"end_of_text": size - 1}}
    plan = prepare_text(plan)
    tokenizer = Tokenizer.from_file(str(tokenizer_file(plan)))
    assert tokenizer.get_vocab_size() == size
    ids = tokenizer.encode(" words été").ids
    assert tokenizer.decode(ids) == " words été" and len(ids) < 8
    assert tokenization.end_of_text_id(tokenizer) == size - 1
    before = plan.sources["words"].fingerprint
    merges = gpt / "merges.txt"
    merges.write_text("\n".join(merges.read_text().split("\n")[:-3]) + "\n")
    assert plan_of(CURRICULUM).sources["words"].fingerprint != before


def test_what_is_no_tokenizer_is_told(gpt: Path, plan_of: Callable[..., Plan]) -> None:
    (gpt / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"gpt holds no tokenizer[\s\S]*vocab.json and merges.txt"):
        plan_of(CURRICULUM)
    file = gpt / "tokenizer.json"
    for data in ("{", "[]", '{"model": {"vocab": {}}}', '{"model": {"vocab": 7}}'):
        file.write_text(data)
        with pytest.raises(UserError, match=r"not a tokenizer\.json"):
            read_pretrained(file)
    file.write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(UserError, match="no end-of-text token"):
        plan_of(CURRICULUM)


def test_special_tokens_of_a_file_are_found_without_the_library(tmp_path: Path) -> None:
    trained = tokenization.train_bpe(iter(["abab"]), 300, ["<|user|>", "<|model|>"])
    file = tmp_path / "tokenizer.json"
    trained.save(str(file))
    found = read_pretrained(file)
    assert found.num_ids == trained.get_vocab_size()
    assert found.special == {"end_of_text": 0, "<|user|>": 1, "<|model|>": 2}
    assert found.special == tokenization.trained_special(["<|user|>", "<|model|>"])
    written = {"<|endoftext|>": 0, "<|user|>": 1, "<|model|>": 2}
    assert tokenization.special_tokens(trained) == written
    unigram = {"model": {"vocab": [["<unk>", 0], ["</s>", 0], ["a", -1]]}}
    file.write_text(json.dumps(unigram))
    assert read_pretrained(file).special == {"end_of_text": 1}


def test_a_damaged_tokenizer_is_made_again(
    gpt: Path, plan_of: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(CURRICULUM)
    file = tokenizer_file(plan)
    assert file is not None
    whole = file.read_bytes()
    for harm in (whole[:-9], whole.replace(b"words", b"sword")):
        file.write_bytes(harm)
        assert tokenizer_file(plan) == file and file.read_bytes() == whole
        assert capsys.readouterr().err.count("tokenizer in the cache was damaged") == 1
    info = cache.entry_info(file.parent.name)
    assert info is not None and info["ranges"][0]["special"].keys() == {"end_of_text"}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{bpe: 300, train_on: [words], special: user}", "`special` lists tokens"),
        ('{bpe: 300, train_on: [words], special: ["<a>", "<a>"]}', "comes twice"),
        ('{bpe: 300, train_on: [words], special: ["<|endoftext|>"]}', "there without being named"),
        ('{bpe: 258, train_on: [words], special: ["<a>", "<b>"]}', "258 ids hold no 257"),
        ("{bpe: 300, train_on: [words], specials: []}", "did you mean 'special'"),
    ],
)
def test_special_tokens_are_checked(
    gpt: Path, plan_of: Callable[..., Plan], written: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        plan_of(CURRICULUM.replace("{pretrained: gpt}", written))
