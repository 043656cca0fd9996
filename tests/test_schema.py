"""JSON Schemas: what editors complete and check is what the language reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from plan_files import TRAINER, problem

from ncamix.library import shipped
from ncamix.reading import parse_part
from ncamix.schema import MODELS, json_schema, schema_text, write_schemas

ROOT = Path(__file__).parent.parent
SORT = {"curricula": "curriculum", "trainers": "trainer"}
SHIPPED = [file for folder in SORT for file in sorted(shipped(folder).glob("*.yaml"))]

CURRICULUM = """\
ncamix: 1
name: tried
sources:
  simple: {kind: nca, band: {gzip: [0.3, 0.4]}}
  code: {kind: text, files: [python-stdlib], holdout: {share: 0.02}}
tokenizer: bytes
stages:
  - name: one
    duration: 15%
    mixture: [{at: 0%, mix: {simple: 1}, ease: cosine}, {at: -10%, mix: {code: 1}}]
    optimizer: {lr: {peak: 0.2x, warmup: 10%, decay: cosine}}
  - {name: two, duration: rest, mixture: {0%: {simple: 80%, code: 20%}, 5Mtok: {code: 1}}}
evaluate: {every: 10%, sources: [code]}
"""
EXTENDING = """\
ncamix: 1
extends: base.yaml
name: changed
sources: {simple: {alphabet: 8, transform: shuffle_tokens}, code: null}
stages: {one: {mixture: {simple: 1}}, two: null, three: {duration: 5%, mixture: {simple: 1}}}
"""
STUDY = """\
ncamix: 1
name: compared
base: base.yaml
trainer: cpu
seeds: [1, 2]
tune: {stages.one.optimizer.lr.peak: [0.5x, 1x], seeds: [9], on: validation}
variants: {up: {}, down: {stages.one.transform: reverse}, less: {stages.two: null, match: natural}}
grid: {sources.simple.alphabet: [2, 10]}
compare: {primary: [up, down], metric: loss/code, smallest_effect: 0.01}
"""
TEXTS = {"curriculum": CURRICULUM, "trainer": TRAINER, "study": STUDY}


def plain(value: Any) -> Any:
    """A document's values as an editor has them: numbers are floats."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


def mistakes(sort: str, text: str) -> list[str]:
    """Paths of what the schema finds wrong in a file, for editors that know draft 7 alone, too."""
    schema, written = json_schema(sort), plain(parse_part(text, "x.yaml").tree.plain())
    new, old = (
        sorted(
            {
                ".".join(map(str, error.absolute_path))
                for error in draft(schema).iter_errors(written)
            }
        )
        for draft in (Draft202012Validator, Draft7Validator)
    )
    assert new == old
    return new


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a schema."""
    if isinstance(schema, dict):
        yield schema
    for item in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(item, dict | list):
            yield from nodes(item)


@pytest.mark.parametrize("sort", MODELS)
def test_the_committed_schema_is_what_the_command_prints(sort: str) -> None:
    committed = (ROOT / "ncamix/schemas" / f"{sort}.json").read_text()
    assert committed == schema_text(sort), "run `make schemas`"


@pytest.mark.parametrize("sort", MODELS)
def test_schemas_are_sound(sort: str) -> None:
    schema = json_schema(sort)
    Draft202012Validator.check_schema(schema)
    for node in nodes(schema):
        if "$ref" in node:
            found: Any = schema
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step]
        if "default" in node:
            Draft202012Validator({**node, "$defs": schema["$defs"]}).validate(node["default"])
        if "properties" in node and "type" in node and "allOf" not in node:
            assert "additionalProperties" in node or "propertyNames" in node
    titles = {node["title"] for node in nodes(schema) if isinstance(node.get("title"), str)}
    assert titles == {f"ncamix {sort}"}


@pytest.mark.parametrize("sort", MODELS)
def test_every_key_says_what_it_takes_and_what_it_is_for(sort: str) -> None:
    schema = json_schema(sort)
    models = [m for name, m in schema["$defs"].items() if not name.endswith("Part")]
    for model in [schema, *models]:
        for key, form in model.get("properties", {}).items():
            assert form.keys() - {"description", "default"}, key
            assert key == "kind" or "description" in json.dumps(form), key


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_files_fit_the_schema_that_they_name(file: Path) -> None:
    sort = SORT[file.parent.name]
    text = file.read_text()
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named and (file.parent / named[1]).resolve() == ROOT / "ncamix/schemas" / f"{sort}.json"
    assert mistakes(sort, text) == []


@pytest.mark.parametrize("sort", MODELS)
def test_good_files_pass(sort: str) -> None:
    assert mistakes(sort, TEXTS[sort]) == []


@pytest.mark.parametrize(
    ("sort", "old", "new", "path"),
    [
        ("curriculum", "name: tried", "name: tried\nseeed: 1", ""),
        ("curriculum", "name: tried\n", "", ""),
        ("curriculum", "ncamix: 1", "ncamix: 2", "ncamix"),
        ("curriculum", "kind: nca", "kind: ncaa", "sources.simple.kind"),
        ("curriculum", "{kind: nca, ", "{", "sources.simple"),
        ("curriculum", "kind: nca, ", "kind: nca, style: nested, ", "sources.simple"),
        ("curriculum", "kind: nca, ", "kind: nca, patch: 0, ", "sources.simple.patch"),
        ("curriculum", "gzip: [0.3", "gzip2: [0.3", "sources.simple.band"),
        ("curriculum", "share: 0.02", "share: 2%", "sources.code.holdout.share"),
        ("curriculum", "    duration: 15%\n", "", "stages.0"),
        ("curriculum", "duration: 15%", "duration: 15", "stages.0.duration"),
        ("curriculum", "duration: 15%", "duration: 15Mtk", "stages.0.duration"),
        ("curriculum", "ease: cosine", "ease: cosin", "stages.0.mixture"),
        ("curriculum", "mix: {simple: 1}", "to: {simple: 1}", "stages.0.mixture"),
        ("curriculum", "peak: 0.2x", "peek: 0.2x", "stages.0.optimizer.lr"),
        ("curriculum", "decay: cosine", "decay: cos", "stages.0.optimizer.lr"),
        ("curriculum", "every: 10%", "every: often", "evaluate.every"),
        ("trainer", "layers: 1", "layers: one", "model.layers"),
        ("trainer", "layers: 1", "layer: 1", "model"),
        ("trainer", "25600tok", "25600", "budget"),
        ("trainer", "batch_size: 4", "batch_size: 4.5", "batch_size"),
        ("study", "seeds: [1, 2]", "seeds: [1, 1]", "seeds"),
        ("study", "match: natural", "match: nature", "variants.less.match"),
        ("study", "loss/code", "losses/code", "compare.metric"),
        ("study", "primary: [up, down]", "primary: [up]", "compare.primary"),
        ("study", "on: validation", "on: training", "tune.on"),
        ("study", "alphabet: [2, 10]", "alphabet: 2", "grid.sources.simple.alphabet"),
    ],
)
def test_typical_mistakes_are_found_where_they_are(
    sort: str, old: str, new: str, path: str
) -> None:
    assert old in TEXTS[sort]
    assert mistakes(sort, TEXTS[sort].replace(old, new)) == [path]


def test_a_file_that_extends_another_holds_only_what_it_changes() -> None:
    assert mistakes("curriculum", EXTENDING) == []
    assert mistakes("curriculum", EXTENDING.replace("extends: base.yaml\n", "")) != []
    for old, new, path in (
        ("alphabet: 8", "alphabt: 8", "sources.simple"),
        ("alphabet: 8", "alphabet: 0", "sources.simple"),
        ("{alphabet: 8", "{kind: dyck, alphabet: 8", "sources.simple"),
        ("two: null", "two: 5", "stages"),
        ("one: {mixture", "one: {mixtur", "stages"),
        ("name: changed", "names: changed", ""),
    ):
        assert path in mistakes("curriculum", EXTENDING.replace(old, new)), new
    listed = EXTENDING.split("stages:")[0] + "stages: [{name: one, mixture: {simple: 1}}]\n"
    assert mistakes("curriculum", listed) == []
    assert mistakes("curriculum", listed.replace("name: one, ", "")) == ["stages"]
    assert mistakes("trainer", "ncamix: 1\nextends: cpu\nname: big\nmodel: {layers: 8}\n") == []


def test_schemas_are_written_side_by_side(tmp_path: Path) -> None:
    files = write_schemas(tmp_path / "made" / "schemas")
    assert [file.name for file in files] == ["curriculum.json", "trainer.json", "study.json"]
    assert all(json.loads(file.read_text())["$schema"] for file in files)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in problem(write_schemas, tmp_path / "file").what
