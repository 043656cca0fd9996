"""JSON Schemas of the YAML files, for editors that complete and check as one writes.

    models -> pydantic's schema -> tidied -> sources told apart by `kind`
           -> what no model can say: a file that extends another holds only what it changes

Where the language takes a number with a unit, an editor sees text (`15%`) or a number (`3e-4`); the
models say both. A schema sees one file and knows none of its names: `ncamix plan` finds more.
Editors that know draft 7 of JSON Schema alone find the same mistakes in these of draft 2020-12.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from ncamix.curriculum import Curriculum
from ncamix.errors import fail
from ncamix.files import write_whole
from ncamix.quantities import Quantity
from ncamix.sources.base import Spec
from ncamix.study import Study
from ncamix.trainer import Trainer

Json = dict[str, Any]

MODELS: dict[str, type[Spec]] = {"curriculum": Curriculum, "trainer": Trainer, "study": Study}
ABOUT = {
    "curriculum": "What is learned: sources, and the stages that mix them.",
    "trainer": "With what it is learned: model, batch, budget and optimizer.",
    "study": "What is compared: variants of one curriculum, each with every seed.",
}
EXTENDABLE = ("curriculum", "trainer")
EXTENDS: Json = {
    "type": "string",
    "description": "A file of the same sort, relative to this one. This file then holds only what "
    "it changes: mappings merge, stages by name; lists and mixtures replace; null deletes.",
}
_NULL: Json = {"type": "null"}
_STAGE: Json = {"$ref": "#/$defs/StagePart"}
_STAGES: Json = {  # of a file that extends another
    "description": "What changes of the stages, by name; a new one follows the one before it.",
    "anyOf": [
        {"type": "object", "additionalProperties": {"anyOf": [_STAGE, _NULL]}},
        {"type": "array", "items": {"allOf": [_STAGE, {"required": ["name"]}]}},
    ],
}


def json_schema(what: str) -> Json:
    """The JSON Schema (draft 2020-12) of a sort of file, a key of `MODELS`."""
    schema = MODELS[what].model_json_schema(by_alias=True, schema_generator=_Generator)
    defs = {name: _tidy(model) for name, model in schema.pop("$defs", {}).items()}
    whole = _tidy(schema)
    if what == "curriculum":
        source = whole["properties"]["sources"]["additionalProperties"]
        defs["Source"] = _by_kind(source.pop("oneOf"), defs)
        source["$ref"] = _ref("Source")
    if what == "trainer":
        model = whole["properties"]["model"]
        defs["Model"] = _by_kind(model.pop("oneOf"), defs, usual="llama")
        model["$ref"] = _ref("Model")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"ncamix {what}",
        "description": ABOUT[what],
    }
    del whole["description"]
    if what not in EXTENDABLE:
        return {**head, **whole, "$defs": defs}
    whole["properties"] = {"extends": EXTENDS, **whole["properties"]}
    defs["Whole"] = whole
    defs |= {f"{name}Part": _part(name, defs) for name in defs}
    part = defs["WholePart"]
    part["required"] = ["ncamix", "extends", "name"]
    if what == "curriculum":
        part["properties"]["stages"] = _STAGES
    return {
        **head,
        "if": {"required": ["extends"]},
        "then": {"$ref": _ref("WholePart")},
        "else": {"$ref": _ref("Whole")},
        "$defs": defs,
    }


def schema_text(what: str) -> str:
    """The schema of a sort of file as printed and shipped: JSON, sorted and indented."""
    return json.dumps(json_schema(what), indent=1, sort_keys=True) + "\n"


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema to FOLDER/SORT.json; the files. Raises UserError where none can be."""
    files = {folder / f"{what}.json": schema_text(what) for what in MODELS}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            write_whole(file, text.encode())
    except OSError as error:
        what = f"{folder} cannot be written ({error.strerror})"
        raise fail(what, "choose another folder") from None
    return list(files)


class _Generator(GenerateJsonSchema):
    """Pydantic's schemas, with defaults written as YAML has them."""

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """None is of use here: what has no JSON of its own is left out."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Json:
        return {}

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, Fraction):
            return int(dft) if dft.denominator == 1 else float(dft)
        if isinstance(dft, Quantity):
            return str(dft)
        return None if isinstance(dft, Spec) else super().encode_default(dft)


def _ref(name: str) -> str:
    return f"#/$defs/{name}"


def _tidy(schema: Any) -> Any:
    """A schema without pydantic's titles, nulls for absent keys, and defaults that say nothing."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy: Json = {}
    for key, value in schema.items():
        if key == "properties":
            tidy[key] = {name: _tidy(item) for name, item in value.items()}
        elif key == "default" and (value in (None, []) or isinstance(value, dict)):
            continue
        elif key in ("const", "enum", "required", "default"):
            tidy[key] = value
        elif key not in ("title", "discriminator"):
            tidy[key] = _tidy(value)
    choices = [choice for choice in tidy.pop("anyOf", []) if choice != _NULL]
    if len(choices) == 1:  # what a description or a default stands beside
        return {**choices[0], **tidy}
    return {**tidy, "anyOf": choices} if choices else tidy


def _by_kind(choices: list[Json], defs: Json, usual: str | None = None) -> Json:
    """A source or a model: `kind` decides which keys belong to it, so that a mistake is shown where
    it is. usual: the kind of what says none, if that may be."""
    kinds = {_kind(choice, defs): choice for choice in choices}
    form: Json = {
        "type": "object",
        "properties": {"kind": {"enum": list(kinds)}},
        "allOf": [
            {"if": _of_kind(kind, said=kind != usual), "then": choice}
            for kind, choice in kinds.items()
        ],
    }
    return form if usual else {**form, "required": ["kind"]}


def _of_kind(kind: str, said: bool = True) -> Json:
    """The condition that something is of a kind; unless it has to be `said`, by saying nothing."""
    named: Json = {"properties": {"kind": {"const": kind}}}
    return {**named, "required": ["kind"]} if said else named


def _kind(choice: Json, defs: Json) -> str:
    return str(defs[choice["$ref"].removeprefix(_ref(""))]["properties"]["kind"]["const"])


def _part(name: str, defs: Json) -> Json:
    """The schema of a part of what the model `name` reads: a key may be absent, and one that
    nothing requires may be null, which deletes it."""
    model = defs[name]
    if "allOf" in model:
        return _part_of_source(model, defs)
    part = {key: value for key, value in model.items() if key != "required"}
    part["properties"] = {
        key: form if key in model.get("required", ()) else _or_null(form)
        for key, form in ((key, _part_of_key(name, key, defs)) for key in model["properties"])
    }
    return part


def _part_of_source(source: Json, defs: Json) -> Json:
    """As `_part`, where the extended file may have said the kind: any key of any kind."""
    keys: dict[str, dict[str, Json]] = {}
    rules = []
    for rule in source["allOf"]:
        name = rule["then"]["$ref"].removeprefix(_ref(""))
        kind = defs[name]["properties"]["kind"]["const"]
        rules.append({"if": _of_kind(kind), "then": {"$ref": _ref(f"{name}Part")}})
        for key, form in defs[name]["properties"].items():
            alike = json.dumps(form, sort_keys=True)
            keys.setdefault(key, {}).setdefault(alike, _part_of_key(name, key, defs))
    of_any_kind = {key: {"anyOf": [*forms.values(), _NULL]} for key, forms in keys.items()}
    kindless = {
        "if": {"not": {"required": ["kind"]}},
        "then": {"properties": of_any_kind, "additionalProperties": False},
    }
    part = {key: value for key, value in source.items() if key != "required"}
    return {**part, "allOf": [*rules, kindless]}


def _part_of_key(name: str, key: str, defs: Json) -> Json:
    """What a part of the model `name` may hold under `key`: parts of models, other values whole."""
    form = defs[name]["properties"][key]
    inner = form.get("additionalProperties")
    if "$ref" in form:
        return {**form, "$ref": form["$ref"] + "Part"}
    if isinstance(inner, dict) and "$ref" in inner:
        return {**form, "additionalProperties": _or_null({"$ref": inner["$ref"] + "Part"})}
    return {"$ref": _ref(f"{name}/properties/{key}")}


def _or_null(form: Json) -> Json:
    return {"anyOf": [form, _NULL]}
