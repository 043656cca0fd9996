"""Models as trainers write them, and what a plan reads of their files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import COMMIT, serving
from plan_files import SOURCES, curriculum, plan_of, problems, stage
from processes import output_of, started
from safetensors.numpy import save_file

from ncamix.models import HuggingFaceModel
from ncamix.parting import find_parting
from ncamix.plan_output import plan_json
from ncamix.remarks import pretrained_rows
from ncamix.trainer import load_trainer

TRAINER = """\
ncamix: 1
name: small
model: {kind: huggingface, path: m}
sequence_length: 64
batch_size: 4
budget: 25600tok
optimizer: {lr: 1e-3}
"""
CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 20,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
    "n_positions": 64,
}
FIXED = 64 * 8 + 3 * 8  # numbers that are no rows of the vocabulary
TEXT = "  code: {kind: text, files: [a.txt], repeat: free}\n"


def tokenizer_json(size: int = 18) -> str:
    """A tokenizer of one token a letter, and an end of text."""
    vocabulary = {chr(ord("a") + i): i for i in range(size - 1)} | {"<|endoftext|>": size - 1}
    added = [{"id": size - 1, "content": "<|endoftext|>", "special": True}]
    return json.dumps({"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": added})


def model(folder: Path, seed: int = 0, files: int = 1, **changes: Any) -> Path:
    """A folder with config.json and weights, as transformers writes them; GPT-2's masks, too."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    rng = np.random.default_rng(seed)
    tensors = {
        "wte.weight": rng.random((20, 8), np.float32),
        "wpe.weight": rng.random((64, 8), np.float32),
        "h.0.ln_1.weight": rng.random(8, np.float32),
        "h.1.mlp.c_fc.weight": rng.random((8, 2), np.float32),
        "h.0.attn.bias": np.ones((1, 1, 64, 64), np.float32),
    }
    if files == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    places = {name: f"model-0000{i % 2}.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({n: t for n, t in tensors.items() if places[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def trainer_file(folder: Path, written: str = "{kind: huggingface, path: m}") -> Path:
    file = folder / "t.yaml"
    file.write_text(TRAINER.replace("{kind: huggingface, path: m}", written))
    return file


@pytest.mark.parametrize("files", [1, 2])
def test_sizes_come_from_the_config_and_the_headers(tmp_path: Path, files: int) -> None:
    model(tmp_path / "m", files=files)
    found = load_trainer(trainer_file(tmp_path)).trainer.model
    assert (found.layers, found.heads, found.width, found.positions) == (2, 2, 8, 64)
    assert found.num_parameters(20) == FIXED + 20 * 8
    assert found.num_parameters(33) == FIXED + 33 * 8
    assert found.title == "gpt2 (weights of m)" and found.pretrained


def test_the_architecture_alone_may_be_a_file(tmp_path: Path) -> None:
    model(tmp_path / "m")
    written = "{kind: huggingface, config: m/config.json}"
    alone = load_trainer(trainer_file(tmp_path, written)).trainer.model
    assert (alone.layers, alone.pretrained) == (2, False)
    beside = load_trainer(trainer_file(tmp_path, "{kind: huggingface, config: m}")).trainer.model
    assert beside.num_parameters(20) == FIXED + 160 and beside.meaning() == alone.meaning()


def test_what_determines_a_model_is_what_its_files_hold(tmp_path: Path) -> None:
    """Not how its path is written; hashes of contents are remembered, and seen through."""

    def meaning(written: str) -> Any:
        return load_trainer(trainer_file(tmp_path, written)).trainer.model.meaning()

    path = "{kind: huggingface, path: %s}"
    first = meaning(path % model(tmp_path / "m").name)
    model(tmp_path / "same", _name_or_path="elsewhere")
    assert meaning(path % "./same/") == first
    model(tmp_path / "other", seed=1)
    model(tmp_path / "deeper", n_layer=3)
    different = [meaning(path % "other"), meaning(path % "deeper")]
    different += [meaning("{kind: huggingface, config: m}")]
    assert all(each != first for each in different)


@pytest.mark.parametrize(
    ("written", "path", "what"),
    [
        ("{kind: llama, path: m}", "model.path", "is built from sizes"),
        ("{layers: 1, heads: 1, width: 2, config: m}", "model.config", "is built from sizes"),
        ("{kind: huggingface}", "model", "either `path` or `config`"),
        ("{kind: huggingface, path: m, config: m}", "model", "either `path` or `config`"),
        ("{kind: huggingface, path: m, layers: 2}", "model.layers", "unknown key 'layers'"),
        ("{kind: bert}", "model.kind", "not one of the choices"),
        ("{kind: 3}", "model.kind", "not one of the choices"),
        ("m", "model", "a model is a mapping"),
        ("{kind: huggingface, path: 3}", "model.path", "text is wanted here"),
        ("{kind: huggingface, path: ./none}", "model.path", "there is no"),
        ("{kind: huggingface, path: m, revision: main}", "model.path", "has no revisions"),
        ("{kind: huggingface, path: m/config.json}", "model.path", "no folder with weights"),
        ("{kind: huggingface, path: some/where}", "model.path", "cannot be had from the Hugging"),
    ],
)
def test_wrong_models(tmp_path: Path, written: str, path: str, what: str) -> None:
    model(tmp_path / "m")
    (found,) = problems(load_trainer, trainer_file(tmp_path, written))
    assert found.path == path and what in found.what
    assert found.remedy and found.line == 3


def break_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def scribble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no safetensors")


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def spoil_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (break_json, "is not JSON"),
        (pickle_weights, "pickles, which can run code"),
        (cut_off, "is cut off"),
        (scribble, "is not a safetensors file"),
        (lose_weights, "lacks model.safetensors"),
        (spoil_index, "is not an index of weights"),
    ],
)
def test_damaged_files(tmp_path: Path, spoil: Callable[[Path], None], what: str) -> None:
    spoil(model(tmp_path / "m"))
    (found,) = problems(load_trainer, trainer_file(tmp_path))
    assert what in found.what and found.remedy


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": None}, "has no `model_type`"),
        ({"n_layer": "two"}, "gives no whole number as `num_hidden_layers`"),
        ({"vocab_size": 0}, "gives no whole number as `vocab_size`"),
        ({"is_encoder_decoder": True}, "an encoder with a decoder"),
        ({"quantization_config": {"bits": 4}}, "are quantised"),
        ({"output_router_logits": True}, "a loss of the routers"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "mine.M"}}, "code of its own"),
    ],
)
def test_configs_that_are_not_trained(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    model(tmp_path / "m", **changes)
    (found,) = problems(load_trainer, trainer_file(tmp_path))
    assert what in found.what and found.path == "model.path"


def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with one model in it, at one commit."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    home = folder / "models--some--model"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123abcd")
    (home / "snapshots").mkdir()
    return model(home / "snapshots" / "0123abcd")


def test_a_model_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit stands for the weights, and none is read."""
    folder = hub(tmp_path / "hub", monkeypatch)
    written = "{kind: huggingface, path: some/model}"
    found = load_trainer(trainer_file(tmp_path, written)).trainer.model
    assert found.num_parameters(20) == FIXED + 160
    assert found.meaning()["weights"] == {"hub": "some/model", "commit": "0123abcd"}
    assert isinstance(found, HuggingFaceModel) and found.files.weights[0].parent == folder
    (folder / "model.safetensors").unlink()
    (told,) = problems(load_trainer, trainer_file(tmp_path, written))
    assert "its weights cannot be had" in told.what and "network" in told.remedy
    alone = load_trainer(trainer_file(tmp_path, written.replace("path", "config"))).trainer.model
    assert not alone.pretrained and alone.layers == 2


FETCHING = """\
from ncamix.model_files import fetched
from ncamix.trainer import load_trainer
model = load_trainer("t.yaml").trainer.model
print(model.num_parameters(20), model.meaning()["weights"], len(model.files.tokenizers))
print(len(model.files.weights), model.pretrained)
weights = fetched(model.files) if model.pretrained else []
print(*[(file.parent.name, file.stat().st_size) for file in weights])
"""


def test_a_model_is_fetched_from_a_hub_once(tmp_path: Path) -> None:
    """The plan reads the headers alone; the weights come when they are loaded; then all is here."""
    (tmp_path / "work").mkdir()
    trainer_file(tmp_path / "work", "{kind: huggingface, path: some/model}")
    folder = model(tmp_path / "some")
    (folder / "tokenizer.json").write_text(tokenizer_json())
    size = (folder / "model.safetensors").stat().st_size
    env = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}

    def fetch(**more: str) -> list[str]:
        process = started([sys.executable, "-c", FETCHING], tmp_path / "work", env | more)
        output = output_of(process)
        assert process.returncode == 0, output
        return output.splitlines()[-3:]

    with serving("some/model", folder) as (address, asked):
        lines = fetch(HF_ENDPOINT=address)
    told = {"hub": "some/model", "commit": COMMIT}
    assert lines == [f"{FIXED + 160} {told} 1", "0 True", f"('{COMMIT}', {size})"]
    assert sum("config.json" in path for path in asked) == 1
    again = fetch(HF_ENDPOINT=address, HF_HUB_OFFLINE="1")  # nobody answers there any more
    assert again == [lines[0], "1 True", lines[2]]


def test_pickled_weights_on_a_hub_are_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    trainer_file(tmp_path / "work", "{kind: huggingface, path: some/model}")
    folder = model(tmp_path / "some")
    pickle_weights(folder)
    env = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    with serving("some/model", folder) as (address, _):
        command = [sys.executable, "-c", FETCHING]
        process = started(command, tmp_path / "work", env | {"HF_ENDPOINT": address})
        output = output_of(process)
    assert process.returncode and "pickles, which can run code" in output


def test_rows_keep_their_values_under_the_models_own_tokenizer(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (tmp_path / "other.json").write_text(tokenizer_json(15))
    (tmp_path / "more.json").write_text(tokenizer_json(25))
    (tmp_path / "a.txt").write_text("abc " * 20_000)

    def plan(tokenizer: str, sources: str = SOURCES + TEXT) -> Any:
        mixture = "{code: 1, hiss: 1}" if "code" in sources else "{hiss: 1}"
        head = f"tokenizer: {tokenizer}\n" if tokenizer else ""
        return plan_of(tmp_path, curriculum(stage(mixture), sources, head), TRAINER)

    own = plan("{pretrained: m}")
    assert own.kept_rows == own.vocabulary.text_rows == 18
    (remark,) = pretrained_rows(own)
    assert "20 rows and its tokenizer 18 ids" in remark and remark in own.warnings
    assert plan_json(own)["trainer"]["model"]["model_type"] == "gpt2"

    for other in ("bytes", "{pretrained: other.json}"):
        another = plan(other)
        assert another.kept_rows == 0 and another.fingerprint != own.fingerprint
        (remark,) = pretrained_rows(another)
        assert "all rows" in remark and "its tokenizer is not the curriculum's" in remark
        parting = find_parting((own, another))
        assert parting is not None and "another number of pretrained rows" in parting.why
    (remark,) = pretrained_rows(plan("", SOURCES))
    assert "the curriculum has no text" in remark

    (folder / "tokenizer.json").write_text(tokenizer_json(25))
    large = plan("{pretrained: more.json}")
    assert large.kept_rows == 20
    (remark,) = pretrained_rows(large)
    assert "25 ids" in remark and "20 rows" in remark


def test_a_sequence_has_at_most_the_models_positions(tmp_path: Path) -> None:
    model(tmp_path / "m")
    longer = ", sequence_length: 65"
    found = problems(plan_of, tmp_path, curriculum(stage("{hiss: 1}", more=longer)), TRAINER)
    (problem,) = found
    assert problem.path == "stages.one.sequence_length" and "64 positions" in problem.what


def test_z_loss_is_part_of_the_plan(tmp_path: Path) -> None:
    text = curriculum(stage("{hiss: 1}"))
    plain = TRAINER.replace("{kind: huggingface, path: m}", "{layers: 1, heads: 1, width: 2}")
    plans = [plan_of(tmp_path, text, plain + more) for more in ("", "z_loss: 0\n", "z_loss: 1e-4")]
    assert plans[0].fingerprint == plans[1].fingerprint != plans[2].fingerprint
    assert find_parting((plans[0], plans[1])) is None
    parting = find_parting((plans[0], plans[2]))
    assert parting is not None and parting.tokens == 0 and "z-loss" in parting.why


def test_a_model_of_another_kind_replaces_the_one_below(tmp_path: Path) -> None:
    model(tmp_path / "m")
    (tmp_path / "x.yaml").write_text(
        "ncamix: 1\nextends: cpu\nname: x\nmodel: {kind: huggingface, path: m}\n"
    )
    found = load_trainer(tmp_path / "x.yaml").trainer.model
    assert (found.kind, found.layers) == ("huggingface", 2)
    (tmp_path / "y.yaml").write_text(
        "ncamix: 1\nextends: x.yaml\nname: y\nmodel: {config: m, path: null}\n"
    )
    assert not load_trainer(tmp_path / "y.yaml").trainer.model.pretrained
