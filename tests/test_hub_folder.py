"""Exports load and generate with transformers alone."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plan_files import problem
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ncamix import hub_folder
from ncamix.errors import UserError
from ncamix.hub_folder import MARK, TextVocabulary, read_mark, write_hub_folder
from ncamix.training.model import build_llama

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "def f(x):\n    return x + 1  # naïve\n"
END = "<|endoftext|>"
FILES = {MARK: b'{"vocabulary": "text"}', "README.md": b"# model"}


def write(model: Any, file: Path, out: Path, rows: int, end: int, whole: bool = False) -> None:
    write_hub_folder(model, out, 64, TextVocabulary(file, rows, end), whole, FILES)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE of 300 ids, the last of them the end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=260, show_progress=False, initial_alphabet=alphabet, special_tokens=[]
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    tokenizer.add_special_tokens([END])
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


def model_and_ids(file: Path, tied: bool) -> tuple[PreTrainedModel, int, int]:
    """A model with 40 rows behind the text, the number of text rows, the end of text."""
    tokenizer: Any = Tokenizer.from_file(str(file))
    spec = SimpleNamespace(
        layers=2,
        heads=2,
        kv_heads=1,
        width=32,
        mlp_width=48,
        rope_theta=1e4,
        tie_embeddings=tied,
        attention="sdpa",
        dropout=0.0,
    )
    rows = tokenizer.get_vocab_size()
    return build_llama(spec, rows + 40, 64, seed=1), rows, tokenizer.token_to_id(END)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_bit_for_bit(tokenizer_file: Path, tmp_path: Path, tied: bool) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    write(model, tokenizer_file, tmp_path / "out", rows, end)

    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(loaded).__module__.startswith("transformers.")
    ids = torch.randint(rows, (2, 64), generator=torch.Generator().manual_seed(0))
    model.eval()
    for use_cache in (False, True):
        if use_cache:  # with one, the library's attention rounds differently
            model.set_attn_implementation("sdpa")
        with torch.no_grad():
            expected = model(ids, use_cache=use_cache).logits[..., :rows]
            assert torch.equal(loaded(ids, use_cache=use_cache).logits, expected)

    assert loaded.get_input_embeddings().weight.shape[0] == rows
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert loaded.config.max_position_embeddings == 64 and loaded.config.use_cache
    for settings in (loaded.config, loaded.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (end,) * 3
    assert model.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_export_keeps_every_row(tokenizer_file: Path, tmp_path: Path, tied: bool) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied)
    write(model, tokenizer_file, tmp_path / "text", rows, end, whole=True)
    write_hub_folder(model, tmp_path / "rows", 64, None, True, FILES)
    ids = torch.randint(rows + 40, (2, 64), generator=torch.Generator().manual_seed(0))
    for name in ("text", "rows"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        with torch.no_grad():
            expected = model.eval()(ids, use_cache=False).logits
            assert torch.equal(loaded(ids, use_cache=False).logits, expected)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "text")) == rows
    assert not (tmp_path / "rows" / "tokenizer.json").exists()


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "gptj", "qwen2", "opt", "mamba"])
def test_any_kind_of_model_is_cut_by_its_modules(
    tokenizer_file: Path, tmp_path: Path, kind: str
) -> None:
    """Their embeddings, heads and heads' biases have names of their own."""
    from transformers import AutoConfig

    rows = Tokenizer.from_file(str(tokenizer_file)).get_vocab_size()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "ffn_dim": 16, "num_key_value_heads": 2, "rotary_dim": 4}
    sizes |= {"max_position_embeddings": 64, "word_embed_proj_dim": 16, "pad_token_id": None}
    config = AutoConfig.for_model(kind, vocab_size=rows + 40, **sizes)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
        torch.nn.init.normal_(bias)
    write(model, tokenizer_file, tmp_path / "out", rows, rows - 1)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.randint(rows, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = loaded(ids, use_cache=False).logits
        assert torch.equal(logits, model(ids, use_cache=False).logits[..., :rows])
    assert loaded.config.vocab_size == logits.shape[-1] == rows


def test_half_precision_is_kept(tokenizer_file: Path, tmp_path: Path) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied=False)
    model.bfloat16()
    write(model, tokenizer_file, tmp_path / "out", rows, end)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, model.state_dict()[name][: len(value)])


def test_tokenizer_and_generation(
    tokenizer_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied=True)
    write(model, tokenizer_file, tmp_path / "out", rows, end)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_max_length == 64
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (end,) * 3
    assert tokenizer(TEXT).input_ids == Tokenizer.from_file(str(tokenizer_file)).encode(TEXT).ids
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT
    assert tokenizer(END).input_ids == [end]

    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    inputs = tokenizer(TEXT, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    length = inputs["input_ids"].shape[1]
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plain = loaded.generate(**inputs)
            brief = loaded.generate(**inputs, max_new_tokens=3)
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.records
    assert length < plain.shape[1] <= 64 and brief.shape[1] <= length + 3
    assert torch.equal(plain[:, :length], inputs["input_ids"])
    padded = tokenizer([TEXT, TEXT[:9]], return_tensors="pt", padding=True, padding_side="left")
    assert loaded.generate(**padded, max_new_tokens=2).shape[0] == 2


def test_nothing_refers_to_ncamix(tokenizer_file: Path, tmp_path: Path) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied=False)
    write(model, tokenizer_file, tmp_path / "out", rows, end)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in config
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names and not any(
        name.endswith((".bin", ".py")) for name in names
    )
    for path in (tmp_path / "out").iterdir():
        assert b"ncamix" not in path.read_bytes() and b"LossLlama" not in path.read_bytes()


def test_replaces_whole_or_not_at_all(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied=True)
    out = tmp_path / "deep" / "out"
    write(model, tokenizer_file, out, rows, end)
    (out / "stray").touch()
    with torch.no_grad():
        model.model.norm.weight.fill_(2)
    write(model, tokenizer_file, out, rows, end)
    assert not (out / "stray").exists()
    first = (out / "model.safetensors").read_bytes()

    with torch.no_grad():
        model.model.norm.weight.fill_(3)
    move = hub_folder.os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".new"):
            raise OSError("disk gone")
        move(source, target)

    monkeypatch.setattr(hub_folder.os, "replace", failing)
    with pytest.raises(OSError, match="disk gone"):
        write(model, tokenizer_file, out, rows, end)
    assert (out / "model.safetensors").read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["out"], "nothing is left beside it"


def test_a_place_that_cannot_be_written(tokenizer_file: Path, tmp_path: Path) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied=True)
    (tmp_path / "file").touch()
    found = problem(write, model, tokenizer_file, tmp_path / "file/below", rows, end)
    assert f"{tmp_path / 'file'} cannot be written" in found.what
    assert "choose another folder with --out" in found.remedy


def test_mistakes_are_refused(tokenizer_file: Path, tmp_path: Path) -> None:
    model, rows, end = model_and_ids(tokenizer_file, tied=True)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=f"of the model's {rows + 40} rows"):
        write(model, tokenizer_file, out, rows + 41, end)
    with pytest.raises(ValueError, match=f"has only {rows - 1} rows"):
        write(model, tokenizer_file, out, rows - 1, end)
    with pytest.raises(ValueError, match="no token with the id 9999"):
        write(model, tokenizer_file, out, rows, 9999)
    assert not list(tmp_path.iterdir())
    out.mkdir()
    (out / "thesis.tex").touch()
    (out / "config.json").touch()  # somebody else's model
    with pytest.raises(UserError, match="not replaced"):
        write(model, tokenizer_file, out, rows, end)
    assert (out / "thesis.tex").exists()
    assert read_mark(out) is None
