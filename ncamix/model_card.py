"""The model card of an export: what was learned, in which order, how far, and how to load it.

plan, stage, the run's metrics and evaluations -> README.md
"""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ncamix.entry import Enter
from ncamix.plan import Plan, PlannedStage
from ncamix.run_folder import RunFolder, read_rows
from ncamix.summary import FINAL_SHARE, versions

_HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [ncamix]
---
"""
_LOAD_TEXT = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```
"""
_LOAD_ROWS = """\
```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(FOLDER)
```
"""


def model_card(
    plan: Plan, stage: PlannedStage, folder: RunFolder, whole: bool, has_tokenizer: bool
) -> str:
    """The text of README.md, in Markdown, for the model as it is after `stage`."""
    kind = plan.trainer.trainer.model.kind
    parts = [
        _HEAD + f"# {plan.name}, after stage {stage.index + 1} of {len(plan.stages)}: {stage.name}",
        f"A model of the kind `{kind}` that ncamix {versions()['ncamix']} trained on the "
        f"curriculum `{plan.name}` with the trainer `{plan.trainer.trainer.name}`. "
        f"FOLDER is where this file lies; nothing of ncamix is needed to load it.",
        _LOAD_TEXT if has_tokenizer else _LOAD_ROWS,
        "## What it learned",
        _stages(plan, stage),
        "## Losses",
        _losses(stage, folder),
        "## Vocabulary",
        _vocabulary(plan, stage, whole, has_tokenizer),
        "## Provenance",
        _provenance(plan),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _provenance(plan: Plan) -> str:
    seeds = ", ".join(f"{name} {seed}" for name, seed in vars(plan.seeds).items())
    numbers = ", ".join(f"{name} {number}" for name, number in sorted(versions().items()))
    return (
        f"- plan `{plan.fingerprint}`\n"
        f"- curriculum `{plan.curriculum.curriculum.fingerprint()}`\n"
        f"- seeds: {seeds}\n- versions: {numbers}"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _stages(plan: Plan, last: PlannedStage) -> str:
    rows = []
    for stage in plan.stages[: last.index + 1]:
        samples = ", ".join(f"{name}: {count:,}" for name, count in stage.counts.items() if count)
        enter = stage.enter or Enter()
        entered = [*map(str, enter.reinitialize), *(f"{g} (permuted)" for g in enter.permute)]
        rows.append(
            [
                stage.name + (f" (from {stage.origin.name})" if stage.origin is not None else ""),
                f"{stage.num_tokens:,}",
                f"{stage.sequence_length:,}",
                samples,
                ", ".join(entered) or "none",
            ]
        )
    head = ["stage", "tokens", "sequence length", "samples by source", "parts drawn anew before it"]
    return _table(head, rows)


def _losses(stage: PlannedStage, folder: RunFolder) -> str:
    own = [r for r in read_rows(folder.file("metrics.jsonl")) if r["stage"] == stage.name]
    trained = [r["loss"] for r in own[-max(1, len(own) // FINAL_SHARE) :] if r["loss"] is not None]
    lines = []
    if trained:
        share = 100 // FINAL_SHARE
        lines.append(
            f"Training loss, the mean over the last {share}% of the stage's batches: "
            f"{fmean(trained):.4f} nats per token."
        )
    rows = [
        [str(row["source"]), *(_number(row.get(k)) for k in _METRICS)]
        for row in read_rows(folder.file("evaluations.jsonl"))
        if row["stage"] == stage.name
        and row["when"] == "end"
        and row.get("batch") in (None, stage.num_batches)  # not where it ended before an edit
    ]
    if rows:
        lines += ["On held-out samples, at the end of the stage:", _table(_COLUMNS, rows)]
    return "\n\n".join(lines) or "None were recorded."


_METRICS = ("loss", "perplexity", "bits_per_byte")
_COLUMNS = ["source", "loss, nats per token", "perplexity", "bits per byte"]


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _vocabulary(plan: Plan, stage: PlannedStage, whole: bool, has_tokenizer: bool) -> str:
    vocabulary = plan.vocabulary
    behind = vocabulary.rows - vocabulary.text_rows
    if not whole:
        facts = [
            f"The {vocabulary.text_rows:,} ids of the text alone; the run's model has {behind:,} "
            "more rows, which were cut off. Logits of what is left are those of the run, bit for "
            "bit."
        ]
    elif has_tokenizer:
        facts = [
            f"All {vocabulary.rows:,} rows of the run. The tokenizer knows the first "
            f"{vocabulary.text_rows:,}, the ids of text; {behind:,} rows lie behind them. "
            "`vocabulary.json` says what each range of ids means."
        ]
    else:
        facts = [
            f"All {vocabulary.rows:,} rows of the run. There is no tokenizer, for up to this stage "
            "the model has seen no text. `vocabulary.json` says what each range of ids means."
        ]
    if vocabulary.softmax == "active":
        active = plan.active_ranges(stage)
        ranges = ", ".join(f"{first:,} to {last - 1:,}" for first, last in active)
        facts.append(
            "In training the softmax ran over the ids that a stage can emit alone; in this one "
            f"these were {ranges}."
        )
        kept = vocabulary.rows if whole else vocabulary.text_rows
        if active[0][0] > 0 or active[0][1] < kept:
            facts.append("Logits of other ids are untrained: leave them out before you normalise.")
    else:
        facts.append("In training the softmax ran over all rows of the run.")
    if vocabulary.layout == "overlay":
        facts.append("All sources share the ids from 0 on: an id means what its source means.")
    return "\n\n".join(facts)
