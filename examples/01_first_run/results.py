"""What is kept of a run here: a thinned summary, its table and its picture.

    RUN/summary.json            -> OUT/summary.json, numbers that the table needs and a few more
    RUN/plan.json, metrics ...  -> OUT/overview.png

Usage: python results.py runs/code_target results. It prints the table, as Markdown.
Losses are in nats per token.
"""

import json
import sys
from pathlib import Path
from typing import Any

STAGE = ("name", "num_batches", "num_tokens", "planned", "realised", "train_loss", "seconds",
         "tokens_per_second")  # fmt: skip
EVALUATION = ("loss", "perplexity", "bits_per_byte", "num_tokens", "num_bytes")


def thin(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what frames, induction and the machine say."""
    stages = []
    for stage in summary["stages"]:
        found = {
            source: {when: {key: row[key] for key in EVALUATION} for when, row in both.items()}
            for source, both in stage["evaluation"].items()
        }
        stages.append({**{key: stage[key] for key in STAGE}, "evaluation": found})
    kept = ("name", "trainer", "device", "num_tokens", "plan_fingerprint")
    versions = {name: of for name, of in summary["versions"].items() if name != "platform"}
    return {**{key: summary[key] for key in kept}, "versions": versions, "stages": stages}


def table(summary: dict[str, Any]) -> str:
    """Held-out losses as each stage begins and ends, and what it was trained on."""
    lines = [
        "| stage | trained on, samples | held out | loss before | after | bits per byte, after |",
        "|---|---|---|---|---|---|",
    ]
    for stage in summary["stages"]:
        trained = ", ".join(f"{name} {n:,}" for name, n in stage["realised"].items())
        for source, both in stage["evaluation"].items():
            before, after = both["before"], both["after"]
            bits = "" if after["bits_per_byte"] is None else f"{after['bits_per_byte']:.3f}"
            lines.append(
                f"| {stage['name']} | {trained} | {source} "
                f"| {before['loss']:.3f} | {after['loss']:.3f} | {bits} |"
            )
    return "\n".join(lines)


def main(run: Path, out: Path) -> None:
    from ncamix.report import write_overview

    out.mkdir(parents=True, exist_ok=True)
    summary = thin(json.loads((run / "summary.json").read_text()))
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_overview(run, out / "overview.png")
    print(table(summary))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
