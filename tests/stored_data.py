"""Data sets of others, as MosaicML's own writer makes them, plans of them, and what is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import numpy as np
from conftest import Planner
from faulty_store import FaultyStore
from streaming import MDSWriter

from ncamix.plan import Plan
from ncamix.streams import make_dataset

LENGTH = 32
NUM = 100  # samples of a data set
ENCODINGS = ("ndarray:uint16", "ndarray", "bytes")


def write(
    folder: Path,
    dtype: str = "uint16",
    compression: str | None = None,
    masked: bool = False,
    ids: np.ndarray | None = None,
    hashes: list[str] | None = None,
) -> np.ndarray:
    """A data set as MosaicML's own writer makes it, in several shards; int64 [NUM, LENGTH + 1]."""
    if ids is None:
        ids = np.random.default_rng(5).integers(0, 257, (NUM, LENGTH + 1))
    columns = {"extra": "str", "tokens": f"ndarray:{dtype}:{LENGTH + 1}"}
    if masked:
        columns["loss_mask"] = f"ndarray:uint8:{LENGTH + 1}"
    with MDSWriter(
        out=str(folder), columns=columns, compression=compression, hashes=hashes, size_limit=1 << 12
    ) as writer:
        for i, row in enumerate(ids):
            sample: dict[str, Any] = {"tokens": row.astype(dtype), "extra": "x" * (i % 7)}
            if masked:
                sample["loss_mask"] = (row % 2).astype(np.uint8)
            writer.write(sample)
    return ids


def foreign(folder: Path, encoding: str, ids: np.ndarray, dtype: str, **how: Any) -> None:
    """A data set of others, in several shards: `ids` int64 [n, length] in some encoding."""
    columns = {"extra": "str", "tokens": encoding}
    with MDSWriter(out=str(folder), columns=columns, size_limit=1 << 11, **how) as writer:
        for i, row in enumerate(ids.astype(dtype)):
            value = row.tobytes() if encoding == "bytes" else row
            writer.write({"tokens": value, "extra": "x" * (i % 7)})


def some_ids(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(1, 257, (NUM, length))


def stored_plan(plan_of: Planner, *places: str) -> Plan:
    """A plan of `mine`, and `mine2`, ... for further places."""
    names = ["mine", *(f"mine{i}" for i in range(2, len(places) + 1))]
    lines = ["tokenizer: bytes", "sources:"]
    lines += [
        f"  {n}: {{kind: mds, {p}, repeat: free}}" for n, p in zip(names, places, strict=True)
    ]
    mixture = ", ".join(f"{name}: 1" for name in names)
    lines += ["stages:", f"  - {{name: one, duration: 20ba, mixture: {{{mixture}}}}}"]
    return plan_of("\n".join(lines) + "\n")


def read(plan: Plan, folder: Path) -> list[tuple[int, int, list[int], list[int] | None]]:
    """(source, sample, ids, mask) of all places of the stage's dataset."""
    folder.mkdir()
    dataset = make_dataset(plan, plan.stages[0], folder, None, 1)
    try:
        return [
            (
                s["source"],
                s["sample"],
                s["tokens"].astype(np.int64).tolist(),
                s["loss_mask"].tolist() if "loss_mask" in s else None,
            )
            for s in dataset
        ]
    finally:
        dataset.release()


def sent(store: FaultyStore, folder: Path) -> str:
    """The URL of a data set, sent as it lies."""
    client = boto3.client("s3", endpoint_url=store.url)
    for file in folder.iterdir():
        client.upload_file(str(file), "bucket", f"{folder.name}/{file.name}")
    return f"s3://bucket/{folder.name}"
