"""MDS data sets of others: what their index says, and what is no index of token samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_data import write_dataset
from plan_files import SOURCES, TRAINER, curriculum, plan_of, problem, stage
from streaming import MDSWriter

from ncamix.loading import load_curriculum
from ncamix.shards import ShardFormat
from ncamix.sources import MdsSource
from ncamix.sources.mds import read_mds_index


def load(folder: Path, keys: str) -> MdsSource:
    text = curriculum(stage("{hiss: 1}"), SOURCES + f"  new: {{{keys}}}\n", "tokenizer: bytes\n")
    (folder / "c.yaml").write_text(text)
    source = load_curriculum(folder / "c.yaml").curriculum.sources["new"]
    assert isinstance(source, MdsSource)
    return source


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two shards of 5 and 2 samples of 9 ids."""
    folder = tmp_path / "data"
    folder.mkdir()
    shards = [np.arange(n * 9, dtype=np.uint32).reshape(n, 9) for n in (5, 2)]
    write_dataset(folder, ShardFormat(9, "uint16"), shards)
    return folder


def test_an_index_says_samples_ids_and_dtype(data: Path) -> None:
    index = read_mds_index(data, "local", 8)
    assert (index.num_samples, index.length, index.encoding) == (7, 9, "ndarray:uint16:9")
    other = json.loads((data / "index.json").read_text())
    other["shards"].pop()
    (data / "index.json").write_text(json.dumps(other))
    fewer = read_mds_index(data, "local", 8)
    assert fewer.num_samples == 5 and fewer.digest != index.digest


@pytest.mark.parametrize("encoding", ["ndarray:int32:4", "ndarray:int32", "ndarray", "bytes"])
def test_data_sets_of_mosaicml_are_read(tmp_path: Path, encoding: str) -> None:
    columns = {"tokens": encoding, "extra": "str"}
    with MDSWriter(out=str(tmp_path / "out"), columns=columns) as writer:
        for i in range(3):
            ids = np.full(4, i, np.int32)
            writer.write({"tokens": ids.tobytes() if encoding == "bytes" else ids, "extra": "x"})
    index = read_mds_index(tmp_path / "out", "local", 4)
    length = 4 if encoding.endswith(":4") else None
    assert (index.num_samples, index.length, index.encoding) == (3, length, encoding)


def test_a_loss_mask_counts_and_other_columns_do_not(data: Path) -> None:
    file = data / "index.json"
    whole = file.read_text()
    assert not read_mds_index(data, "local", 8).masked
    for encoding in ("ndarray:int64:9", "ndarray:uint8", "ndarray"):
        file.write_text(shards(add("loss_mask", encoding))(whole))
        assert read_mds_index(data, "local", 8).masked
    file.write_text(shards(add("other", "ndarray:float32"))(whole))
    assert not read_mds_index(data, "local", 8).masked
    file.write_text(shards(place("part/x.mds"))(whole))  # as merged data sets have them
    assert read_mds_index(data, "local", 8).shards == [("shard.00000.mds", 5), ("part/x.mds", 2)]


def test_where_an_index_is_looked_for(tmp_path: Path, data: Path) -> None:
    source = load(tmp_path, "kind: mds, local: data")
    found = source.index(tmp_path, 8)
    assert found is not None and found.num_samples == 7
    assert load(tmp_path, "kind: mds, remote: data").index(tmp_path, 8) == found
    kept = load(tmp_path, f"kind: mds, local: {data}, remote: 's3://bucket/x'")
    assert kept.index(tmp_path, 8) is None, "what is kept may be of another"
    assert load(tmp_path, "kind: mds, remote: 's3://bucket/x'").index(tmp_path, 8) is None
    empty = load(tmp_path, "kind: mds, local: cache, remote: 's3://bucket/x'")
    assert empty.index(tmp_path, 8) is None
    for keys, key in (("local: none", "local"), ("local: cache, remote: none", "remote")):
        refused = problem(load(tmp_path, f"kind: mds, {keys}").index, tmp_path, 8)
        assert refused.path == key and "none holds no index.json" in refused.what


def test_what_the_plan_asks(tmp_path: Path) -> None:
    source = load(tmp_path, "kind: mds, remote: 's3://bucket/x', repeat: 2, max_share: 5%")
    assert (source.finite, source.holdout, source.repeat) == (True, None, 2)
    assert (source.range_name(), source.summary()) == ("text", "mds, s3://bucket/x")
    local = load(tmp_path, "kind: mds, local: data")
    assert local.meaning() == {"kind": "mds", "version": 1, "remote": None}  # wherever it lies
    kept = load(tmp_path, "kind: mds, local: data, remote: 's3://bucket/x'")
    assert kept.meaning() == source.meaning()
    usual = load(tmp_path, "kind: mds, local: data, dtype: int64")
    assert usual.meaning() == local.meaning(), "bytes are int64 unless something else is said"
    assert load(tmp_path, "kind: mds, local: data, dtype: int32").meaning() != local.meaning()


@pytest.mark.parametrize(
    ("keys", "path", "what"),
    [
        ("kind: mds", "", "needs `local` or `remote`"),
        ("kind: mds, local: 5", ".local", "text is wanted here"),
        ("kind: mds, local: a, holdout: {share: 0.1}", ".holdout", "unknown key 'holdout'"),
        ("kind: mds, local: a, dtype: float32", ".dtype", "not one of the choices"),
        ("kind: mds, local: a, repeat: never", ".repeat", "not a number of epochs"),
    ],
)
def test_refused(tmp_path: Path, keys: str, path: str, what: str) -> None:
    found = problem(load, tmp_path, keys)
    assert found.path == "sources.new" + path
    assert what in found.what and found.remedy


def shards(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        index = json.loads(text)
        change(index["shards"])
        return json.dumps(index)

    return apply


def place(name: str) -> Callable[[list[dict[str, Any]]], object]:
    def change(entries: list[dict[str, Any]]) -> None:
        entries[1]["raw_data"]["basename"] = name

    return change


def unplace(entries: list[dict[str, Any]]) -> None:
    entries[1]["raw_data"] = None


def add(column: str, encoding: str) -> Callable[[list[dict[str, Any]]], object]:
    def change(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            entry["column_names"].append(column)
            entry["column_encodings"].append(encoding)
            entry["column_sizes"].append(None)

    return change


def rename(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        entry["column_names"] = ["text"]


def encode(encoding: str) -> Callable[[list[dict[str, Any]]], object]:
    def change(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            entry["column_encodings"] = [encoding]

    return change


@pytest.mark.parametrize(
    ("change", "what", "remedy"),
    [
        (lambda text: text[:-5], "is not the index of an MDS data set", "MDSWriter"),
        (lambda text: "[]", "is not the index of an MDS data set", "MDSWriter"),
        (lambda text: '{"shards": [{"format": "json"}]}', "is not the index", "MDSWriter"),
        (lambda text: '{"shards": 5}', "is not the index of an MDS data set", "MDSWriter"),
        (lambda text: '{"shards": []}', "has no samples", "another"),
        (shards(rename), "has no column 'tokens'", "its columns: text"),
        (shards(encode("str")), "is 'str', not ids", "ndarray:uint32:1025, which is 1,025 ids a"),
        (shards(encode("ndarray:float32:9")), "is 'ndarray:float32:9', not ids", "1,025 ids"),
        (shards(encode("ndarray:float32")), "is 'ndarray:float32', not ids", "ndarray"),
        (shards(encode("ndarray:uint16:3,3")), "is 'ndarray:uint16:3,3', not", "ndarray"),
        (shards(lambda entries: encode("bytes")(entries[:1])), "differ in their columns", "kind"),
        (shards(place("../x.mds")), "names the file '../x.mds', outside its folder", "trust"),
        (shards(place("/etc/x.mds")), "names the file '/etc/x.mds', outside", "trust"),
        (shards(place("//etc/x.mds")), "names the file '//etc/x.mds', outside", "trust"),
        (shards(place("")), "names the file '', outside its folder", "trust"),
        (shards(place(".")), "names the file '.', outside its folder", "trust"),
        (shards(unplace), "is not the index of an MDS data set", "MDSWriter"),
        (shards(place("a/../../x")), "names the file 'a/../../x', outside its folder", "trust"),
        (shards(add("extra", "pkl")), "'extra' of", "without it"),
        (shards(add("loss_mask", "ndarray:uint8:8")), "as many integers as ids, 9", "uint8:9"),
        (shards(add("loss_mask", "bytes")), "'loss_mask' of", "ndarray:uint8:9"),
    ],
)
def test_what_is_no_index_is_told(
    data: Path, change: Callable[[str], str], what: str, remedy: str
) -> None:
    file = data / "index.json"
    file.write_text(change(file.read_text()))
    found = problem(read_mds_index, data, "local", 1024)
    assert what in found.what and str(data) in found.what
    assert remedy in found.remedy and found.path == "local"


def test_a_plan_knows_the_size_and_checks_the_length(data: Path, tmp_path: Path) -> None:
    sources = SOURCES + "  old: {kind: mds, local: data, repeat: free}\n"
    text = curriculum(stage("{old: 1}"), sources, "tokenizer: bytes\n")
    source = plan_of(tmp_path, text, TRAINER.replace("length: 64", "length: 8")).sources["old"]
    assert (source.num_samples, source.kind, source.first_id) == (7, "mds", 0)
    found = problem(plan_of, tmp_path, text)
    assert found.path == "sources.old"
    assert "hold 9 ids, and sequences of 64 tokens need 65" in found.what
    few = problem(plan_of, tmp_path, text.replace("free", "2"), TRAINER.replace("64", "8"))
    assert few.path == "sources.old" and "too small for its share" in few.what
