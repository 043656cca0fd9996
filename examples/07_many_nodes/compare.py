"""Hold runs of one curriculum under several launchers against each other.

    RUN/metrics.jsonl of each --> the same batches? (digests, which must be equal)
                              --> by how much losses differ from the first run's, in nats per token
    -> OUT/runs.json, OUT/runs.png

Usage: python compare.py OUT RUN RUN ...; the first run is what the others are compared with.
"""

import json
import sys
from pathlib import Path
from typing import Any


def read(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def compare(runs: list[Path]) -> list[dict[str, Any]]:
    """A row a run: batches, whether they are the first run's, and how far losses are from its."""
    first, rows = read(runs[0]), []
    for run in runs:
        metrics = read(run)
        same = [row["digest"] for row in metrics] == [row["digest"] for row in first]
        pairs = zip(metrics, first, strict=True) if same else ()
        away = [abs(row["loss"] - other["loss"]) for row, other in pairs]
        told = {"run": run.name, "batches": len(metrics), "same_batches": same}
        rows.append({**told, "last_loss": metrics[-1]["loss"], "away": away})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| run | batches | the same batches | last loss | largest distance of a loss |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        same, away = "yes" if row["same_batches"] else "NO", max(row["away"], default=float("nan"))
        lines.append(
            f"| {row['run']} | {row['batches']} | {same} | {row['last_loss']:.6f} | {away:.1e} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), dpi=120, layout="constrained")
    for row in rows[1:]:
        axes.plot(range(1, len(row["away"]) + 1), row["away"], ".-", label=row["run"])
    axes.set_yscale("symlog", linthresh=1e-8)
    axes.set(xlabel="batches", ylabel=f"distance of the loss from {rows[0]['run']}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out, metadata={"Software": None})


def main(out: Path, runs: list[Path]) -> int:
    out.mkdir(parents=True, exist_ok=True)
    rows = compare(runs)
    (out / "runs.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, out / "runs.png")
    print(table(rows))
    return 0 if all(row["same_batches"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]))
