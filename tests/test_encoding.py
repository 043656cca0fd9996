"""Encoding: the library's own ids in order, special tokens that are merely written, long texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from ncamix import encoding, tokenization
from ncamix.encoding import PlainText, pair_encoder, pieces, text_encoder

WRITTEN = "a <|endoftext|> is written here, <|user|> too"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["def f(x):\n    return x\n" * 3, "the words of a text, the words"]
    return tokenization.train_bpe(iter(texts), 300, ["<|user|>"])


def test_documents_come_in_order_with_the_ids_of_the_library(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK_CHARACTERS", 100)
    texts = [f"the {i} words\n" * (i % 7) + "é☃" for i in range(200)]
    found = list(text_encoder(tokenizer, str).stream(iter(texts)))
    assert [text for text, _ in found] == texts
    for text, encoded in found:
        assert encoded.ids.dtype == np.uint32 and encoded.mask is None
        assert encoded.ids.tolist() == [*tokenizer.encode(text).ids, 0]
    assert list(text_encoder(tokenizer, str).stream(iter([]))) == []


def test_what_reading_raises_is_raised(tokenizer: Tokenizer) -> None:
    def broken() -> Iterator[str]:
        yield "one"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(text_encoder(tokenizer, str).stream(broken()))


def test_a_special_token_that_is_written_is_text(tokenizer: Tokenizer) -> None:
    for each in (tokenizer, tokenization.byte_tokenizer()):
        ((_, encoded),) = text_encoder(each, str).stream(iter([WRITTEN]))
        *ids, end = encoded.ids.tolist()
        assert end == 0 and not {0, 1} & set(ids) if each is tokenizer else 0 not in ids
        assert each.decode(ids) == WRITTEN


def test_a_text_is_neither_cut_nor_filled_up_nor_encoded_by_chance(tokenizer: Tokenizer) -> None:
    asking = Tokenizer.from_str(tokenizer.to_str())
    asking.enable_truncation(5)
    asking.enable_padding()
    asking.model.dropout = 0.5
    asking = Tokenizer.from_str(asking.to_str())  # as a file says it
    texts = ["the words", "the words of a text, the words", "the"]
    assert {len(each.ids) for each in asking.encode_batch_fast(texts)} == {5}
    found = [encoded.ids.tolist() for _, encoded in text_encoder(asking, str).stream(iter(texts))]
    assert found == [[*tokenizer.encode(text).ids, 0] for text in texts]


def test_a_model_with_special_tokens_among_its_pieces() -> None:
    scores = [(c, -5.0) for c in "abc </s>"] + [("</s>", -1.0), ("abc", -1.0)]
    tokenizer = Tokenizer(models.Unigram(list(dict(scores).items()), unk_id=0))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.encode_special_tokens = True
    end = tokenizer.token_to_id("</s>")
    assert end in tokenizer.encode("abc</s>abc").ids  # the library alone
    (ids,) = PlainText(tokenizer).encode(["abc</s>abc </s>"])
    assert end not in ids
    assert "".join(map(tokenizer.id_to_token, ids.tolist())) == "abc</s>abc </s>"


def test_long_texts_are_cut_before_line_breaks(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PIECE_CHARACTERS", 100)
    for text in ("word word.\n\n  next\n" * 60, ".\n" * 300, "x" * 1000, "short", ""):
        parts = pieces(text)
        assert "".join(parts) == text and max(map(len, parts)) <= 200
        assert all(part.startswith("\n") for part in parts[1:]) or "\n" not in text
        ((_, encoded),) = text_encoder(tokenizer, str).stream(iter([text]))
        if "word" in text:
            assert len(parts) > 5 and encoded.ids.tolist()[:-1] == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("template", "before", "behind"),
    [
        ("{prompt}\n{response}", "what <|user|>\n", ""),
        ("Q: {prompt}\nA: {response}.", "Q: what <|user|>\nA: ", "."),
    ],
)
def test_a_pair_has_its_targets_on_the_response_and_the_end(
    tokenizer: Tokenizer, template: str, before: str, behind: str
) -> None:
    plain = PlainText(tokenizer)
    encoder = pair_encoder(tokenizer, template, lambda pair: pair)
    ((_, encoded),) = encoder.stream(iter([("what <|user|>", "the answer{prompt}")]))
    parts = [ids.tolist() for ids in plain.encode([before, "the answer{prompt}", behind])]
    assert encoded.ids.tolist() == [*parts[0], *parts[1], *parts[2], 0]
    expected = [0] * len(parts[0]) + [1] * len(parts[1]) + [0] * len(parts[2]) + [1]
    assert encoded.mask is not None and encoded.mask.tolist() == expected
    assert 1 not in encoded.ids


def test_special_tokens_of_a_template_are_special(tokenizer: Tokenizer) -> None:
    encoder = pair_encoder(tokenizer, "<|user|>{prompt}<|endoftext|>{response}", lambda pair: pair)
    ((_, encoded),) = encoder.stream(iter([("", "<|user|>")]))
    (written,) = PlainText(tokenizer).encode(["<|user|>"])
    assert encoded.ids.tolist() == [1, 0, *written.tolist(), 0]
    assert encoded.mask is not None and encoded.mask.tolist() == [0, 0, *[1] * len(written), 1]
