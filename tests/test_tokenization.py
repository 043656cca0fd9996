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
from ncamix.tokenization import open_pretrained, read_pretrained

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
    file.write_text('{"model": {"vocab": {}}}')
    with pytest.raises(UserError, match="its vocabulary is empty"):
        read_pretrained(file)
    file.write_text('{"model": {"vocab": {"</s>": 0}}}')  # what only the library finds out
    read_pretrained(file)
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        open_pretrained(file)
    file.write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(UserError, match="no end-of-text token"):
        plan_of(CURRICULUM)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("vocab.json", b"", "vocab.json is not the vocabulary of a GPT-2 tokenizer: it is empty"),
        ("vocab.json", b"{}", "its vocabulary is empty"),
        ("vocab.json", b'{"a": 0', "it is not JSON"),
        ("vocab.json", b'["a"]', "it is not a mapping of tokens to ids"),
        ("vocab.json", b'{"a": 1.5}', "the id of 'a' is '1.5', and no whole number"),
        ("vocab.json", b'{"a": 0}', "of line 2 is not in the vocabulary"),
        ("merges.txt", b"", "is not the merges of a GPT-2 tokenizer: it holds no merge"),
        ("merges.txt", b"#version: 0.2\n", "it holds no merge"),
        ("merges.txt", b"\xff\xfe", "merges.txt is not the merges .*: it is not UTF-8"),
        ("merges.txt", b"#version: 0.2\na b c\n", "line 2 is not two tokens: 'a b c'"),
        ("merges.txt", b"#version: 0.2\n\n", "line 2 is not two tokens: ''"),
        ("merges.txt", b"t 7\n", "'t7' of line 1 is not in the vocabulary"),
    ],
)
def test_broken_files_of_gpt2s_are_told_by_the_plan(
    gpt: Path, plan_of: Callable[..., Plan], name: str, data: bytes, told: str
) -> None:
    (gpt / name).write_bytes(data)
    with pytest.raises(UserError, match=told) as caught:
        plan_of(CURRICULUM)
    (problem,) = caught.value.problems
    assert problem.path == "tokenizer.pretrained" and "Fetch it anew" in problem.remedy


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
