"""Files of a Hugging Face model, as far as a plan looks into them.

    folder | config.json | hub id -> config.json -> sizes of the model
                                  -> headers of its safetensors files -> number of parameters
                                  -> its tokenizer's files, to know them again

No weight is loaded, and no code of the model's own is ever run: pickled weights and architectures
that transformers does not have are refused. On the hub a commit stands for the contents of all
files; of local weights the hashes do, which are remembered. What is cached is never asked for
again; weights that are not are fetched when they are loaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ncamix.errors import UserError, fail
from ncamix.hashing import file_hashes
from ncamix.keys import fingerprint
from ncamix.tokenization import VOCAB, hub_reason, read_pretrained

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", VOCAB)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin.index.json")
UNTOLD = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")
_FLOATS = ("F64", "F32", "F16", "BF16")
_MOST_HEADER = 100_000_000  # bytes, as the safetensors library has it
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_WIDTH = ("hidden_size", "n_embd", "d_model")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_PLAIN_MLP = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "codegen", "phi", "opt"}
_PLAIN_MLP |= {"bloom", "falcon", "mpt", "starcoder2", "persimmon", "biogpt", "xglm"}
_LEARNED = ("gpt2", "gpt_neo", "gpt_bigcode", "opt", "biogpt")  # position embeddings

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]  # data type and shape, by name


@dataclass(frozen=True)
class ModelFiles:
    """What a plan knows of a Hugging Face model.

    config: config.json. weights: their files, if they are to be read and on this machine; else hub
    is the (id, commit) to fetch them from. content: what stands for the weights; None where only
    the architecture is taken. tokenizers: contents of its own. fixed, per_row: parameters beside
    the vocabulary's, and of each of its rows.
    """

    config: dict[str, Any]
    weights: tuple[Path, ...]
    hub: tuple[str, str] | None
    content: Any
    tokenizers: tuple[str, ...]
    fixed: int
    per_row: int

    @property
    def layers(self) -> int:
        return _number(self.config, _LAYERS)

    @property
    def heads(self) -> int:
        return _number(self.config, _HEADS)

    @property
    def width(self) -> int:
        return _number(self.config, _WIDTH)

    @property
    def rows(self) -> int:
        return _number(self.config, ("vocab_size",))

    @property
    def positions(self) -> int | None:
        """Tokens that a sequence may have; None if the config does not say."""
        found = next((self.config[key] for key in _POSITIONS if self.config.get(key)), None)
        return None if found is None else int(found)

    def facts(self) -> dict[str, Any]:
        """What is known of the model, for readers, as plain JSON."""
        return {
            "model_type": self.config["model_type"],
            "layers": self.layers,
            "heads": self.heads,
            "width": self.width,
            "rows": self.rows,
            "content": fingerprint(self.meaning()),
        }

    def meaning(self) -> Any:
        """What determines the model before its first batch, as plain JSON."""
        told = {key: value for key, value in self.config.items() if key not in UNTOLD}
        return {"kind": "huggingface", "config": told, "weights": self.content}


def find_model(name: str, folder: Path, revision: str | None, weights: bool) -> ModelFiles:
    """The model behind a path (relative to `folder`) or a hub id.

    weights: whether its weights are wanted, or its architecture alone, which may also be a file.

    Raises:
        UserError: there is none, the hub cannot be reached, or it cannot be trained.
    """
    place = folder / os.path.expanduser(name)
    if not place.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise fail(f"there is no {place}", "name the folder of a model, or a hub id")
        return _on_hub(name, revision, weights)
    if revision is not None:
        raise fail(f"{place} is on this machine and has no revisions", "remove `revision`")
    file = place / CONFIG if place.is_dir() else place
    if weights and not place.is_dir():
        raise fail(f"{place} is no folder with weights", "name its folder, or write `config:`")
    config = _config(file)
    files = _weight_files(file.parent, needed=weights) if place.is_dir() else ()
    tensors = {} if not files else _headers(files)
    content = [each.digest.hex() for each in file_hashes(files)] if weights else None
    known = _tokenizers(file.parent / each for each in TOKENIZERS) if weights else ()
    return _found(config, tensors, files if weights else (), None, content, known)


def fetched(files: ModelFiles) -> tuple[Path, ...]:
    """The files of the weights on this machine, fetched from the hub if they are still there.

    Raises:
        UserError: they cannot be had.
    """
    if files.hub is None or files.weights:
        return files.weights
    name, commit = files.hub
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
        wanted = [CONFIG, WEIGHTS, INDEX, "model-*.safetensors"]
        folder = Path(snapshot_download(name, revision=commit, allow_patterns=wanted))
    except Exception as error:  # the hub's client raises many kinds
        raise _out_of_reach(name, "its weights", error) from None
    return _weight_files(folder, needed=True)


def _on_hub(name: str, revision: str | None, weights: bool) -> ModelFiles:
    file = _hub_file(name, CONFIG, revision)
    config, commit = _config(file), file.parent.name
    files = _weight_files(file.parent, needed=False)
    if not weights:
        return _found(config, _headers(files) if files else {}, (), None, None, ())
    if files:
        tensors: Tensors = _headers(files)
    else:
        try:
            from huggingface_hub import HfApi
            from huggingface_hub.errors import NotASafetensorsRepoError

            told = HfApi().get_safetensors_metadata(name, revision=commit)
        except NotASafetensorsRepoError:
            raise _pickled(f"the model '{name}'") from None
        except Exception as error:  # the hub's client raises many kinds
            raise _out_of_reach(name, "its weights", error) from None
        tensors = {
            tensor: (info.dtype, tuple(info.shape))
            for each in told.files_metadata.values()
            for tensor, info in each.tensors.items()
        }
    content = {"hub": name, "commit": commit}
    known = _tokenizers(
        found
        for each in TOKENIZERS
        if (found := _hub_file(name, each, commit, needed=False)) is not None
    )
    return _found(config, tensors, files, (name, commit), content, known)


def _hub_file(name: str, file: str, revision: str | None, needed: bool = True) -> Any:
    """A small file of a model on the hub, or None if it is not `needed` and cannot be had."""
    try:
        from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        if needed and not constants.HF_HUB_OFFLINE:  # a missing network is told at once
            HfApi().model_info(name, revision=revision, timeout=10)
        return Path(hf_hub_download(name, file, revision=revision))
    except Exception as error:  # the hub's client raises many kinds
        if not needed:
            return None
        raise _out_of_reach(name, f"its {file}", error) from None


def _out_of_reach(name: str, what: str, error: Exception) -> UserError:
    return fail(
        f"'{name}' is no local path, and {what} cannot be had from the Hugging Face hub "
        f"({hub_reason(error)})",
        "check its name, its revision and the network, or name a local folder",
    )


def _config(file: Path) -> dict[str, Any]:
    """A config.json, checked. Raises UserError if it is none of a model that we train."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}", f"it needs a {CONFIG}") from None
    except (ValueError, RecursionError) as error:
        raise fail(f"{file} is not JSON ({error})", "is it whole? Fetch it anew") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise fail(f"{file} is not the config of a model: it has no `model_type`")
    for keys in (_LAYERS, _HEADS, _WIDTH, ("vocab_size",)):
        found = next((config[key] for key in keys if key in config), None)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise fail(
                f"{file} gives no whole number as `{keys[0]}`",
                "is it the config of a language model? Models of several parts are not trained",
            )
    kind = config["model_type"]
    if config.get("is_encoder_decoder"):
        raise fail(f"{file}: '{kind}' is an encoder with a decoder", "choose a causal model")
    if config.get("quantization_config"):
        raise fail(f"{file}: its weights are quantised", "choose a model that is not")
    if config.get("output_router_logits"):
        raise fail(
            f"{file}: `output_router_logits` asks for a loss of the routers, which is not trained",
            "write false there",
        )
    if config.get("auto_map") and not _in_transformers(kind):
        raise fail(
            f"{file}: '{kind}' brings code of its own, which is never run",
            "choose an architecture that transformers has",
        )
    return config


def _in_transformers(kind: str) -> bool:
    """Whether the library has a model of that kind; without importing it."""
    found = importlib.util.find_spec("transformers")
    places = found.submodule_search_locations if found else None
    name = kind.replace("-", "_")
    return any((Path(place) / "models" / name).is_dir() for place in places or ())


def _weight_files(folder: Path, needed: bool) -> tuple[Path, ...]:
    """The safetensors files of a folder; none if they are not `needed` and not all there."""
    index = folder / INDEX
    names = {WEIGHTS}
    if not (folder / WEIGHTS).is_file() and index.is_file():
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise fail(f"{index} is not an index of weights", "fetch it anew") from None
    files = tuple(folder / name for name in sorted(names) if Path(name).name == name)
    missing = [file for file in files if not file.is_file()]
    if not missing:
        return files
    if not needed:
        return ()
    if any(True for pattern in PICKLED for _ in folder.glob(pattern)):
        raise _pickled(str(folder))
    raise fail(
        f"{folder} lacks {missing[0].name}",
        "name a folder with a model's config and weights; `config:` takes the architecture alone",
    )


def _pickled(what: str) -> UserError:
    return fail(
        f"{what} holds its weights as pickles, which can run code and are never loaded",
        "write them as safetensors: model.save_pretrained(FOLDER) of transformers does, where "
        "you trust the file; or choose a revision that has them",
    )


def _headers(files: Iterable[Path]) -> Tensors:
    """Every tensor in safetensors files. Raises UserError if one is none, or is cut off."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        try:
            size = file.stat().st_size
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(min(length, size, _MOST_HEADER)))
            end = 0
            for name, tensor in header.items():
                if name != "__metadata__":
                    found[name] = (str(tensor["dtype"]), tuple(map(int, tensor["shape"])))
                    end = max(end, int(tensor["data_offsets"][1]))
            whole = 8 + length + end == size
        except OSError as error:
            raise fail(f"cannot read {file}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise fail(f"{file} is not a safetensors file, or it is cut off", "fetch it anew")
    return found


def _tokenizers(files: Iterable[Path]) -> tuple[str, ...]:
    """What the tokenizer files that are there and readable stand for."""
    found = []
    for file in files:
        try:
            found.append(read_pretrained(file).content)
        except UserError:  # not there, or no tokenizer that a curriculum could name
            continue
    return tuple(found)


def _found(
    config: dict[str, Any],
    tensors: Tensors,
    weights: tuple[Path, ...],
    hub: tuple[str, str] | None,
    content: Any,
    tokenizers: tuple[str, ...],
) -> ModelFiles:
    fixed, per_row = _counted(config, tensors) if tensors else _estimated(config)
    return ModelFiles(config, weights, hub, content, tokenizers, fixed, per_row)


def _counted(config: dict[str, Any], tensors: Tensors) -> tuple[int, int]:
    """Parameters beside the vocabulary's, and of each of its rows, by the headers.

    What older files hold beside parameters (masks, rotary frequencies) is left out.
    """
    rows, fixed, tables, biases = _number(config, ("vocab_size",)), 0, 0, 0
    for name, (kind, shape) in tensors.items():
        outside = not any(part.isdigit() for part in name.split("."))
        if outside and shape[:1] == (rows,) and len(shape) <= 2:
            tables, biases = tables + (len(shape) == 2), biases + (len(shape) == 1)
        elif kind in _FLOATS and 1 <= len(shape) <= 3 and not name.endswith("inv_freq"):
            fixed += prod(shape)
    if config.get("tie_word_embeddings") is True:
        tables = min(1, tables)
    return fixed, tables * _number(config, _WIDTH) + biases


def _estimated(config: dict[str, Any]) -> tuple[int, int]:
    """The same, about: of the config alone, without biases."""
    kind, width, heads = (
        config["model_type"],
        _number(config, _WIDTH),
        _number(config, _HEADS),
    )
    size = config.get("head_dim") or width // heads
    few = config.get("num_key_value_heads") or heads
    inner = next((config[key] for key in _INNER if config.get(key)), 4 * width)
    experts = next((config[key] for key in _EXPERTS if config.get(key)), 0)
    per_unit = (2 if kind in _PLAIN_MLP else 3) * width
    mlp = per_unit * inner
    if experts:
        own, shared = config.get("moe_intermediate_size"), "shared_expert_intermediate_size"
        mlp = experts * (per_unit * (own or inner) + width) + per_unit * (config.get(shared) or 0)
    layer = 2 * width * size * (heads + few) + mlp + 2 * width
    positions = next((config[key] for key in _POSITIONS if config.get(key)), 0)
    fixed = _number(config, _LAYERS) * layer + width
    fixed += positions * width if kind in _LEARNED else 0
    return fixed, width * (1 if config.get("tie_word_embeddings", True) else 2)


def _number(config: Mapping[str, Any], keys: Iterable[str]) -> int:
    """The first of several keys that a checked config has."""
    return int(next(config[key] for key in keys if key in config))
