"""Hold baked batches against what `ncamix batch` says: the same samples, places and loss masks.

    ncamix batch CURRICULUM --stage S --batch T --json   -> source and sample number at every place
    data/SOURCE, by StreamingDataset                     -> the ids of that sample
    baked/N-S, by StreamingDataset                       -> samples T * B ... T * B + B - 1

data/ is the same curriculum compiled without --bake, a dataset a source. Usage:

    python check.py baked data curriculum.yaml --trainer trainer.yaml
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
from streaming import StreamingDataset


@cache
def dataset(folder: Path) -> StreamingDataset:
    return StreamingDataset(local=str(folder), num_canonical_nodes=1, shuffle=False, batch_size=1)


def check(baked: Path, data: Path, curriculum: list[str]) -> int:
    """Compare the first, a middle and the last batch of every stage; how many samples that were."""
    num_samples = 0
    for index, stage in enumerate(json.loads((baked / "plan.json").read_text())["stages"]):
        last = stage["num_batches"] - 1
        for t in sorted({0, last // 2, last}):
            which = ["--data", str(data), "--stage", stage["name"], "--batch", str(t), "--json"]
            command = [sys.executable, "-m", "ncamix", "batch", *curriculum, *which]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            for sample in told["samples"]:
                place = t * stage["batch_size"] + sample["place"]
                row = dataset(baked / f"{index}-{stage['name']}")[place]
                source = data / sample["dataset"]
                ids = dataset(source)[sample["sample"]]["tokens"]
                assert np.array_equal(row["tokens"], ids), (stage["name"], t, sample)
                start = json.loads((source / "source.json").read_text())["loss_start"]
                mask = row.get("loss_mask", np.ones(len(ids)))
                assert np.array_equal(mask[1:], np.arange(1, len(ids)) >= start), (t, sample)
                num_samples += 1
    return num_samples


if __name__ == "__main__":
    found = check(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    print(f"{found} samples at the places that ncamix batch says, masks too")
