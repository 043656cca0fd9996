"""Read what write_datasets.py wrote with LLM Foundry's token loader, and compare every id.

.venv-foundry/bin/python tests/foundry/read_datasets.py FOLDER     (no ncamix in that environment)
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llmfoundry.data.text_data import build_text_dataloader
from transformers import PreTrainedTokenizerFast

LENGTH, BATCH = 129, 8  # ids of a sample, samples of a batch


def batches(folder: Path, tokenizer: Any) -> list[np.ndarray]:
    """All batches that the loader yields, int64 [BATCH, LENGTH] each."""
    settings = {
        "local": str(folder),
        "max_seq_len": LENGTH,
        "shuffle": False,
        "num_canonical_nodes": 1,
    }
    made = build_text_dataloader(tokenizer, BATCH, settings, drop_last=False, num_workers=0,
                                 pin_memory=False, prefetch_factor=None,
                                 persistent_workers=False)  # fmt: skip
    found = []
    for batch in made.dataloader:
        assert batch["input_ids"].dtype == torch.int64
        found.append(batch["input_ids"].numpy())
    return found


def main(home: Path) -> None:
    assert importlib.util.find_spec("ncamix") is None, "this environment is to lack ncamix"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(home / "sources" / "tokenizer.json"), pad_token="<|endoftext|>"
    )
    checked = 0
    for file in sorted((home / "expected").glob("*.npy")):
        expected = np.load(file)
        baked = file.stem[0].isdigit()
        found = batches(home / ("baked" if baked else "sources") / file.stem, tokenizer)
        assert len(found) == -(-len(expected) // BATCH), (file.stem, len(found))
        for number, ids in enumerate(found):
            own = expected[number * BATCH : (number + 1) * BATCH]
            assert sorted(map(tuple, ids)) == sorted(map(tuple, own)), (file.stem, number)
            checked += 1
        print(f"{file.stem}: {len(found)} batches are the same")
    assert checked
    print(f"LLM Foundry reads both layouts: {checked} batches")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
