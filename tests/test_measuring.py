"""The measures of a corpus: known answers, the same whatever the order on disk, and the command."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ncamix.cli import main
from ncamix.errors import UserError
from ncamix.frequencies import zipf_exponent, zipf_shares
from ncamix.measure.corpora import find_corpora
from ncamix.measure.measures import GROUPS, Measured, Options, limit_of, measure, zipf_of
from ncamix.measure.output import as_near, measured_json, print_measured, short_name, tenth_shares
from ncamix.measure.picture import measure_picture

WORDS = "the of and automata token rule frame band sample text state grid patch window"
BYTES = Options(tokenizer="bytes", window=256)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def write(folder: str, texts: list[str]) -> None:
    Path(folder).mkdir()
    for i, text in enumerate(texts):
        (Path(folder) / f"{i:03}.txt").write_text(text)


def babble(num_documents: int, seed: int = 0) -> list[str]:
    """Documents of about 600 characters, of words drawn at random."""
    draw = random.Random(seed)
    return [
        "\n".join(" ".join(draw.choices(WORDS.split(), k=10)) for _ in range(10))
        for _ in range(num_documents)
    ]


def measured(path: str, options: Options = BYTES) -> Measured:
    (corpus,) = find_corpora([path])
    return measure(corpus, options)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: Any, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["ncamix", "measure", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(ended.value.code or 0), out + err


# ---- known answers


def test_constant_text() -> None:
    line = "always the same old line\n"
    write("texts", [line * 400] * 30)
    m = measured("texts")
    assert (m.num_documents, m.num_bytes) == (30, 30 * 400 * len(line)) and m.is_whole
    assert m.num_tokens == m.num_bytes  # a token is a byte
    assert m.duplication.documents == 29 / 30
    assert m.duplication.lines == (12_000 - 1) / 12_000
    assert m.duplication.grams > 0.99
    assert m.raw[65_536][0].value < 0.01 < m.raw[256][0].value < 0.25
    assert m.tokens.value < 0.1 < m.shuffled < m.ceiling
    assert m.tokens.low <= m.tokens.value <= m.tokens.high


def test_text_of_random_letters_reaches_its_entropy() -> None:
    draw = random.Random(1)
    letters = [chr(code) for code in range(48, 112)]  # 64 of them: 6 bits of 8
    write("texts", ["".join(draw.choices(letters, k=20_000)) for _ in range(25)])
    m = measured("texts")
    assert 0.75 < m.raw[65_536][0].value < 0.76
    assert m.raw[1440][0].value < m.raw[256][0].value
    assert m.tokens.value == pytest.approx(m.shuffled, abs=0.003)  # order means nothing
    assert m.zipf.value < 0.05
    assert m.duplication.documents == m.duplication.lines == m.duplication.grams == 0


def test_a_hand_counted_zipf() -> None:
    write("texts", ["aaaabbc" * 100])
    m = measured("texts")
    assert m.num_tokens == 700
    assert m.zipf.value == zipf_exponent([400, 200, 100])
    # By hand: p = (4, 2, 1) / 7, so the law's mean log rank is (2 ln 2 + ln 3) / 7.
    mean = float(zipf_shares(m.zipf.value, 3) @ np.log([1, 2, 3]))
    assert mean == pytest.approx((2 * math.log(2) + math.log(3)) / 7, abs=1e-8)
    assert math.isnan(m.zipf.low)  # one document, and no 20 stretches of it


def test_a_long_document_has_intervals_too() -> None:
    Path("long.txt").write_text("\n".join(babble(200)))
    m = measured("long.txt")
    assert m.num_documents == 1
    assert m.zipf.unit == "stretches of 4,096 tokens" and m.zipf.low < m.zipf.value < m.zipf.high
    assert m.tokens.unit == "windows" and m.tokens.low < m.tokens.value < m.tokens.high


def test_the_interval_of_the_exponent_covers() -> None:
    rng, shares, covered = np.random.default_rng(3), zipf_shares(0.9, 40), 0
    for _ in range(100):
        counts = rng.multinomial(2000, shares, size=GROUPS)
        found = zipf_of(counts, "documents")
        covered += found.low <= 0.9 <= found.high
    assert 88 <= covered <= 100


def test_windows_of_tokens_hold_the_ends_of_text() -> None:
    write("texts", ["x" * 35] * 100)  # with its end of text 36 ids: ten documents a window
    m = measured("texts")
    assert m.num_tokens == 3500 and len(m.sizes) == 10
    assert len(set(m.sizes.tolist())) == 1


def test_a_bpe_is_trained_on_the_text_itself() -> None:
    write("texts", babble(40))
    m = measured("texts", Options(tokenizer="300", window=256))
    assert m.tokenizer == "its own BPE of 300" and m.num_ids <= 300
    assert m.num_tokens < m.num_bytes / 2 < measured("texts").num_tokens


def test_a_pretrained_tokenizer() -> None:
    from ncamix.tokenization import train_bpe

    train_bpe(iter(babble(10)), 280).save("tokenizer.json")
    write("texts", babble(40))
    m = measured("texts", Options(tokenizer="tokenizer.json", window=256))
    assert m.tokenizer == "tokenizer.json" and m.num_ids == 280
    Path("tokenizer.json").write_text('{"model": {"vocab": {}}}')
    with pytest.raises(UserError, match="its vocabulary is empty"):
        measured("texts", Options(tokenizer="tokenizer.json", window=256))


def test_gpt2s_files_are_a_pretrained_tokenizer() -> None:
    from ncamix.tokenization import train_bpe

    model = json.loads(train_bpe(iter(babble(10)), 280).to_str())["model"]
    Path("gpt").mkdir()
    (Path("gpt") / "vocab.json").write_text(json.dumps(model["vocab"]))
    (Path("gpt") / "merges.txt").write_text("\n".join(" ".join(m) for m in model["merges"]) + "\n")
    write("texts", babble(40))
    m = measured("texts", Options(tokenizer="gpt", window=256))
    train_bpe(iter(babble(10)), 280).save("tokenizer.json")
    assert m.num_ids == 280
    assert m.tokens == measured("texts", Options(tokenizer="tokenizer.json", window=256)).tokens


# ---- what decides, and what does not


def told(m: Measured) -> dict[str, Any]:
    return dict(measured_json([m])["corpora"][0], name="")


def test_the_order_on_disk_decides_nothing_and_the_seed_does() -> None:
    texts = babble(60)
    write("texts", texts)
    Path("other").mkdir()
    for i in reversed(range(60)):
        (Path("other") / f"{i:03}.txt").write_text(texts[i])
    few = Options("bytes", 256, 40)
    assert told(measured("texts", few)) == told(measured("other", few))
    others = Options("bytes", 256, 40, seed=1)
    assert told(measured("texts", others)) != told(measured("texts", few))
    assert measured("texts", others).num_tokens == measured("texts", few).num_tokens


def test_a_limit_reads_a_part_and_says_how_much() -> None:
    write("texts", babble(60))
    whole = measured("texts")
    part = measured("texts", Options("bytes", 256, limit=whole.num_bytes // 4))
    assert part.num_bytes == whole.num_bytes // 4 and not part.is_whole
    assert part.share_read == pytest.approx(0.25, abs=0.01)
    assert 15 <= part.num_documents <= 16
    assert measured("texts", Options("bytes", 256, limit=whole.num_bytes)).is_whole
    # What is read is a sample of all: its mean lies within what intervals allow.
    assert abs(part.tokens.value - whole.tokens.value) < part.tokens.high - part.tokens.low


def test_a_limit_cuts_no_character() -> None:
    Path("umlauts.txt").write_text("ä" * 3000)
    m = measured("umlauts.txt", Options("bytes", 256, limit=4001))
    assert m.num_bytes == 4000 and m.share_read == pytest.approx(2 / 3)


def test_progress_is_told() -> None:
    write("texts", babble(40))
    heard: list[tuple[str, float]] = []
    (corpus,) = find_corpora(["texts"])
    measure(corpus, Options("300", 256), lambda what, share: heard.append((what, share)))
    steps = list(dict.fromkeys(what for what, _ in heard))
    assert [step.split(": ")[1] for step in steps] == [
        "reading",
        "training a tokenizer of 300 ids",
        "tokenizing",
        "looking for the nearest bands",
    ]
    assert all(0 <= share <= 1 for _, share in heard)


# ---- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "no such path: 'nowhere'"),
        (("empty",), "there is no text in empty"),
        (("short.txt",), "short.txt holds 80 bytes of text, less than a window of 4,096"),
        (("short.txt", "--window", "64", "--tokenizer", "bytes"), "80 tokens, less than a window"),
        (("texts", "--window", "1001"), "--window 1001: not a multiple of 4"),
        (("texts", "--window", "0"), "--window 0"),
        (("texts", "--tokenizer", "100"), "--tokenizer 100: a BPE has 257 to"),
        (("texts", "--tokenizer", "no/such"), "the tokenizer 'no/such' is no local path"),
        (("texts", "--limit", "much"), "--limit much: not a number of bytes"),
        (("texts", "--limit", "9B"), "9 bytes of text of texts were read, less than a window"),
        (("texts", "--limit", "9"), "raise --limit, or write a smaller --window"),
        (("texts", "--limit", "9tok"), "--limit 9tok: not a number of bytes"),
        (("texts", "--limit", "0"), "--limit 0: not a number of bytes"),
        (("texts", "--limit", "1e400"), "--limit 1e400: not a number of bytes"),
        (("texts", "--windows", "0"), "windows"),
        ((), "Missing argument"),
    ],
)
def test_mistakes_end_with_status_2(
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("texts", babble(10))
    write("empty", ["", " \n\n"])
    Path("short.txt").write_text("x" * 80)
    status, out = run(capsys, monkeypatch, *arguments)
    assert status == 2 and message in out


def test_options_are_refused_all_at_once() -> None:
    with pytest.raises(UserError) as refused:
        Options(tokenizer="7", window=3)
    assert len(refused.value.problems) == 2


def test_limits_as_they_are_written() -> None:
    assert [limit_of(text) for text in ("50MB", "2G", "1.5k", "123")] == [
        50_000_000,
        2_000_000_000,
        1500,
        123,
    ]


# ---- what is shown


def test_tables_and_json_tell_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("texts", babble(60))
    write("others", [text.upper() for text in babble(45, seed=2)])
    arguments = ("texts", "others", "--tokenizer", "300", "--window", "512")
    status, out = run(capsys, monkeypatch, *arguments, "--json")
    assert status == 0
    found = json.loads(out)
    assert "No claim" in found["heuristic"] and "Not comparable" in found["comparable"]
    status, out = run(capsys, monkeypatch, *arguments)
    assert status == 0
    for name, corpus in zip(("texts", "others"), found["corpora"], strict=True):
        assert corpus["name"] == name and corpus["share_read"] == 1.0
        assert corpus["bytes_per_token"] == corpus["bytes"] / corpus["tokens"]
        tokens = corpus["token_gzip"]
        assert sum(tokens["share"].values()) == pytest.approx(1)
        assert tokens["interval_over"] == "documents"
        low, high = tokens["interval"]
        assert f"{tokens['value']:.3f} ({low:.3f} to {high:.3f})" in out
        assert [raw["window_bytes"] for raw in corpus["raw_gzip"]] == [512, 1440, 4096, 16384]
        for near in corpus["nearest"]:
            assert f"{near['distance']:.3f}" in out
        assert f"like scale:       {corpus['nearest'][0]['source']}" in out
        assert f"authors' mapping: {corpus['authors_mapping']}" in out
    for words in ("No claim that a model", "Not comparable", "joined by a newline", "seed 0"):
        assert words in " ".join(out.split())


def test_what_was_left_out_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("texts", babble(20))
    (Path("texts") / "image.bin").write_bytes(b"\x00" * 50)
    arguments = ("texts", "--tokenizer", "bytes", "--window", "256")
    status, out = run(capsys, monkeypatch, *arguments, "--json")
    assert status == 0
    left_out = json.loads(out)["corpora"][0]["left_out"]
    assert left_out == {"binary": {"count": 1, "first": "image.bin"}}
    status, out = run(capsys, monkeypatch, *arguments)
    assert status == 0 and "left out of texts: 1 binary, first image.bin\n" in out
    Path("texts/a.zip").write_text("no zip")
    status, out = run(capsys, monkeypatch, *arguments)
    assert status == 0 and "all readable" in out
    assert "left out of texts: 1 unreadable, first a.zip: cannot read" in out
    Path("broken").mkdir()
    Path("texts/a.zip").rename("broken/a.zip")
    status, out = run(capsys, monkeypatch, "broken")
    assert status == 2 and "there is no text in broken (1 unreadable): cannot read" in out


def test_columns_that_do_not_fit_come_below() -> None:
    write("texts", babble(20))
    m = measured("texts")
    heads = {}
    for width in (80, 160):
        out = io.StringIO()
        print_measured([m] * 4, Console(file=out, width=width))
        assert "…" not in out.getvalue()
        heads[width] = out.getvalue().count("documents  ")
    assert heads[80] > heads[160] >= 1


def test_bands_that_chance_cannot_tell_apart() -> None:
    write("texts", babble(60))
    m = measured("texts")
    slack = (m.tokens.high - m.tokens.low) / 2
    for near in m.nearest:
        assert as_near(m, near) == (near.distance <= m.nearest[0].distance + slack)


def test_shares_of_tenths() -> None:
    scores = np.array([0.0, 0.0999, 144 / 1440, 432 / 1440, 0.95, 1.2])
    assert tenth_shares(scores) == pytest.approx([2 / 6, 1 / 6, 0, 1 / 6, 0, 0, 0, 0, 0, 2 / 6])


def test_names_keep_their_ends() -> None:
    assert short_name("texts", 10) == "texts"
    assert short_name("/a/long/way/to/texts", 10) == "…/to/texts"


def test_the_picture(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write("texts", babble(40))
    arguments = ("texts", "--tokenizer", "bytes", "--window", "256", "--plot", "new/picture.png")
    status, out = run(capsys, monkeypatch, *arguments)
    assert status == 0 and "wrote new/picture.png" in out
    with Image.open("new/picture.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[:, :20] == 255).all() and (pixels[:, -20:] == 255).all()  # nothing is cut off
    m = measured("texts")
    assert measure_picture([m]) == Path("new/picture.png").read_bytes()
    status, out = run(capsys, monkeypatch, *arguments[:-1], ".")
    assert status == 2 and "choose another file with --plot" in out
