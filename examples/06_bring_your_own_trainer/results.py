"""What is kept of a training here: mean losses over stretches of batches, and their picture.

    losses.jsonl of train.py -> OUT/losses.json: a point every EVERY batches of a stage
                             -> OUT/losses.png

Usage: python results.py losses.jsonl results. It prints the table, as Markdown.
Losses are in nats per token that has a loss, tokens are inputs, with a loss or without.
"""

import json
import sys
from pathlib import Path
from typing import Any

EVERY = 20  # batches
COLOURS = ["#4477aa", "#cc6677"]


def thin(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages with means over EVERY batches, weighed by the tokens that have a loss."""
    stages = []
    for name in dict.fromkeys(row["stage"] for row in rows):
        own, points = [row for row in rows if row["stage"] == name], []
        for first in range(0, len(own), EVERY):
            part = own[first : first + EVERY]
            targets = sum(row["targets"] for row in part)
            mean = sum(row["loss"] * row["targets"] for row in part) / targets
            points.append({"batches": first + len(part), "targets": targets, "loss": mean})
        stages.append({"stage": name, "points": points})
    return stages


def table(stages: list[dict[str, Any]]) -> str:
    """The first and the last point of each stage."""
    lines = [
        "| stage | batches | tokens with a loss | loss at first | at last |",
        "|---|---|---|---|---|",
    ]
    for stage in stages:
        points = stage["points"]
        targets = sum(point["targets"] for point in points)
        first, last = points[0]["loss"], points[-1]["loss"]
        name, batches = stage["stage"], points[-1]["batches"]
        lines.append(f"| {name} | {batches} | {targets:,} | {first:.3f} | {last:.3f} |")
    return "\n".join(lines)


def draw(stages: list[dict[str, Any]], out: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), dpi=120, layout="constrained")
    begin = 0
    for colour, stage in zip(COLOURS, stages, strict=False):
        batches = [begin + point["batches"] for point in stage["points"]]
        losses = [point["loss"] for point in stage["points"]]
        axes.plot(batches, losses, ".-", color=colour, label=stage["stage"])
        begin = batches[-1]
    axes.set(xlabel="batches", ylabel="loss, nats per token", title="a loop of one's own")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out, metadata={"Software": None})


def main(losses: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    stages = thin([json.loads(line) for line in losses.read_text().splitlines()])
    (out / "losses.json").write_text(json.dumps(stages, indent=1) + "\n")
    draw(stages, out / "losses.png")
    print(table(stages))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
