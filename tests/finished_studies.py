"""Folders of studies as finished runs leave them, without the training: figures are drawn at random
around effects that are planted, everything else is planned as a study is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ncamix.arms import Arm, arm_json, study_facts
from ncamix.keys import fingerprint
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.study_plan import plan_study
from ncamix.study_runs import StudyRun, command, study_run
from ncamix.variants import LoadedStudy, load_study

BASE = """\
ncamix: 1
name: bands
seed: 3
tokenizer: bytes
sources:
  simple: {kind: nca, alphabet: 10, band: {gzip: [0.30, 0.40]}}
  rich: {kind: nca, alphabet: 10, band: {gzip: [0.50, 1.00]}}
  binary: {kind: nca, alphabet: 2, band: {gzip: [0.10, 0.30]}}
  code: {kind: text, files: [corpus/*.txt], holdout: {share: 0.2}, repeat: free}
stages:
  - name: automata
    duration: 20%
    mixture: {0%: {simple: 80%, binary: 20%}, 60%: {simple: 40%, rich: 60%}, 100%: {rich: 1}}
  - {name: code, duration: rest, mixture: {code: 1}, enter: {reinitialize: [embeddings]}}
evaluate: {every: 10%, sources: [code, rich]}
"""
TRAINER = """\
ncamix: 1
name: small
model: {layers: 2, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 64
batch_size: 4
budget: BUDGETtok
optimizer: {lr: 1e-3}
"""
STUDY = """\
ncamix: 1
name: mixed_bands
base: bands.yaml
trainer: small.yaml
seeds: [1, 2, 3, 4, 5]
tune: {stages.code.optimizer.lr.peak: [0.5x, 1x, 2x], seeds: [101]}
variants:
  up: {}
  down: {stages.automata.transform: reverse}
  even: {stages.automata.transform: flatten}
controls: [scratch_natural, shuffled]
compare: {primary: [up, even], metric: bits_per_byte/code, smallest_effect: 0.01}
"""


@dataclass(frozen=True)
class Figures:
    """What runs come to. effects: arm -> how much its bits per byte differ; shared: sd of what all
    arms have in common with one seed; own: of what each run adds. documents: held-out ones of the
    test split; 0 for none. lines: of metrics.jsonl that a row stands for."""

    effects: Mapping[str, float] = field(default_factory=dict)
    shared: float = 0.02
    own: float = 0.004
    documents: int = 40


State = Callable[[StudyRun], str]


def always_finished(run: StudyRun) -> str:
    return "finished"


def write_study(
    folder: Path,
    study: str = STUDY,
    base: str = BASE,
    figures: Figures | None = None,
    state: State = always_finished,
    batches: int = 200,
) -> Path:
    """A study's folder below `folder`.

    state: of each run; `untested` is finished without test.json. batches: of a run whose lengths
    are shares of the budget.
    """
    figures = figures or Figures()
    loaded = load(folder, study, base, batches)
    arms = list(plan_study(loaded))
    assert all(arm.plan for arm in arms), [arm.problems for arm in arms]
    home = folder / "runs" / loaded.study.name
    home.mkdir(parents=True)
    entries, chosen = [], {}
    for arm in arms:
        own = known_runs(loaded, arm)
        tuned = [run for run in own if run.tuning]
        for run in tuned:
            write_run(home, run, of(arm), figures, state(run))
        chosen[arm.name] = best(home, tuned, loaded)
        for run in own:
            if not run.tuning:
                run = replace(run, point=chosen[arm.lengthened or arm.name])
                if not arm.same_as:
                    write_run(home, run, of(arm), figures, state(run))
                entries.append(run)
        entries = [*tuned, *entries]
    facts = {
        **study_facts(loaded, arms),
        "arms": {
            arm.name: {**arm_json(arm), "chosen": chosen[arm.lengthened or arm.name]}
            for arm in arms
        },
        "runs": [
            {**run.as_json(), "command": command(run, *loaded.names, f"runs/x/{run.folder}")}
            for run in entries
        ],
    }
    (home / "study.json").write_text(json.dumps(facts))
    (home / "study.yaml").write_text(loaded.document.text)
    return home


def load(folder: Path, study: str, base: str, batches: int) -> LoadedStudy:
    (folder / "corpus").mkdir(parents=True)
    for i in range(20):
        (folder / "corpus" / f"{i}.txt").write_text("a line of notes that is no other\n" * (90 + i))
    (folder / "bands.yaml").write_text(base)
    (folder / "small.yaml").write_text(TRAINER.replace("BUDGET", str(batches * 4 * 64)))
    (folder / "study.yaml").write_text(study)
    return load_study(folder / "study.yaml")


def of(arm: Arm) -> Plan:
    assert arm.plan is not None
    return arm.plan


def known_runs(loaded: LoadedStudy, arm: Arm) -> list[StudyRun]:
    """An arm's runs; each has its arm's plan, under a fingerprint of its own."""
    tune, points, settings = loaded.study.tune, loaded.tuning_points(), list(map(str, arm.laid))
    tuned = [(p, s) for p in points for s in (tune.seeds if tune else ())]
    wanted = [(p, s, True) for p, s in tuned if not arm.same_as and not arm.lengthened]
    wanted += [(None, seed, False) for seed in loaded.study.seeds]
    found = []
    for point, seed, tuning in wanted:
        laid = (*settings, *map(str, points.get(point, ())), f"seed={seed}")
        run = study_run(arm.name, seed, point, tuning, laid, of(arm))
        home = run.folder if not arm.same_as else f"{arm.same_as}/{seed}"
        key = fingerprint([run.fingerprint, arm.same_as or arm.name, seed, point])
        found.append(replace(run, folder=home, fingerprint=key))
    return found


def best(home: Path, runs: list[StudyRun], loaded: LoadedStudy) -> str | None:
    from ncamix.study_runs import best_point, final_value

    compare = loaded.study.compare
    if compare is None or not runs:
        return None
    values: dict[str, list[float]] = {}
    for run in runs:
        found = final_value(home / run.folder, compare.metric.name, compare.metric.source)
        values.setdefault(str(run.point), []).append(found)
    return best_point(values)


# ---- one run


def write_run(home: Path, run: StudyRun, plan: Plan, figures: Figures, state: str) -> None:
    """A run's folder: finished, untested, failed, diverged, begun (halfway) or missing."""
    if state == "missing":
        return
    folder = home / run.folder
    folder.mkdir(parents=True)
    facts = json.loads(json.dumps(plan_json(plan))) | {"fingerprint": run.fingerprint}
    facts["seeds"] = dict.fromkeys(("init", "order", "rules"), run.seed)
    write(folder / "plan.json", facts)
    (folder / "curriculum.yaml").write_text(plan.curriculum.document.text)
    (folder / "trainer.yaml").write_text(plan.trainer.document.text)
    if state in ("failed", "diverged"):
        what = {"failed": "no room on the disk", "diverged": "the loss is not finite in batch 7"}
        note = {"fingerprint": run.fingerprint, "what": what[state], "log": ""}
        write(folder / f"{state}.json", note)
    if state == "failed":
        return
    random = np.random.default_rng([run.seed, *run.fingerprint.encode()])
    common = np.random.default_rng(run.seed).normal(0, figures.shared)
    end = 2.0 + figures.effects.get(run.arm, 0.0) + common + random.normal(0, figures.own)
    if run.tuning:
        end += {"0.5x": 0.03, "1x": 0.0, "2x": 0.02}.get(str(run.point).rpartition("=")[2], 0.01)
    share = 1.0 if state in ("finished", "untested") else 0.5
    write_metrics(folder, plan, random, share)
    evaluations = write_evaluations(folder, plan, end, random, share)
    if share == 1.0:
        write_ends(folder, run, plan, end, evaluations, figures, random, state != "untested")


def write(file: Path, facts: Any) -> None:
    file.write_text(json.dumps(facts))


def write_metrics(folder: Path, plan: Plan, random: np.random.Generator, share: float) -> None:
    """Losses fall from ln V to a floor of each source's; counts are those of the plan."""
    total = sum(stage.num_batches for stage in plan.stages)
    with (folder / "metrics.jsonl").open("w") as file:
        for stage in plan.stages:
            first = sum(s.num_batches for s in plan.stages[: stage.index])
            done = min(stage.num_batches, max(0, math.ceil(share * total) - first))
            counts = stage.apportionment.counts[:done]
            so_far, floors = counts.cumsum(0), np.linspace(1.5, 4.0, len(stage.sources))
            noise = random.normal(0, 0.12, counts.shape)
            fall = 5 * np.exp(-np.arange(done) / (0.15 * stage.num_batches + 1))
            size = stage.batch_size * stage.sequence_length
            for batch in range(done):
                losses = floors + fall[batch] + noise[batch]
                drawn = counts[batch]
                row: dict[str, Any] = {"stage": stage.name, "batch": batch}
                row |= {"tokens": stage.first_token + (batch + 1) * size}
                row["loss"] = float(losses @ drawn / drawn.sum())
                row |= {
                    f"loss/{s}": float(x)
                    for s, x, n in zip(stage.sources, losses, drawn, strict=True)
                    if n
                }
                for i, group in enumerate(("embedding", "attention", "mlp", "norms", "final_norm")):
                    row[f"grad_norm/{group}"] = float(abs(noise[batch, 0]) + i)
                totals = dict(zip(stage.sources, so_far[batch].tolist(), strict=True))
                row |= {f"count/{s}": n for s, n in totals.items()}
                row |= {f"loss_tokens/{s}": n * 60 for s, n in totals.items()}
                row |= {"lr": 1e-3 * fall[batch], "digest": 2**63 + batch}
                file.write(json.dumps(row) + "\n")


def write_evaluations(
    folder: Path, plan: Plan, end: float, random: np.random.Generator, share: float
) -> list[dict[str, Any]]:
    """Bits per byte of text fall to `end`, and jump up where embeddings are drawn anew."""
    rows, probes = [], []
    for stage in plan.stages:
        natural = any(plan.sources[s].kind == "text" for s in stage.sources if s in plan.sources)
        for batch in (0, *stage.evaluations, stage.num_batches):
            at = batch / stage.num_batches
            tokens = stage.first_token + batch * stage.batch_size * stage.sequence_length
            if tokens > share * plan.num_tokens:
                break
            when = "start" if batch == 0 else "end" if at == 1 else "every"
            place = {"stage": stage.name, "batch": batch, "tokens": tokens, "when": when}
            bits = end + (3 * math.exp(-6 * at) if natural else 4.5 + math.exp(-5 * at))
            bits += random.normal(0, 0.01) if at < 1 else 0.0
            loss = bits * 3.0 * math.log(2)
            rows.append(place | {"source": "code", "num_tokens": 16384, "num_bytes": 49152})
            rows[-1] |= {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits}
            rows.append(place | {"source": "rich", "num_tokens": 14016, "num_bytes": None})
            rows[-1] |= {"loss": 2 + 3 * math.exp(-5 * at), "bits_per_byte": None}
            probes.append(place | {"loss_drop": 0.8 * at + random.normal(0, 0.03)})
            probes[-1] |= {"prefix_matching_best": 0.4 * at + random.normal(0, 0.01)}
    for name, table in (("evaluations", rows), ("induction", probes)):
        lines = "".join(json.dumps(row) + "\n" for row in table)
        (folder / f"{name}.jsonl").write_text(lines)
    return rows


def write_ends(
    folder: Path,
    run: StudyRun,
    plan: Plan,
    end: float,
    evaluations: list[dict[str, Any]],
    figures: Figures,
    random: np.random.Generator,
    tested: bool,
) -> None:
    """summary.json, test.json and frequencies.json of a finished run."""
    last = {row["source"]: {"after": row} for row in evaluations}
    stages = [
        {"name": s.name, "num_tokens": s.num_tokens, "seconds": 12.5, "evaluation": last}
        for s in plan.stages
    ]
    versions = {"python": "3.11.9", "ncamix": "0.1.0", "torch": "2.7.0"}
    facts = {"name": plan.name, "finished": True, "device": "2 CPU cores", "stages": stages}
    facts |= {"plan_fingerprint": run.fingerprint, "versions": versions}
    write(folder / "summary.json", facts | {"num_tokens": plan.num_tokens})
    if tested:
        write(folder / "test.json", tested_facts(plan, end + 0.02, figures.documents, random))
    counts = (5000 / np.arange(1, 401) ** 1.1).round().astype(int)
    pairs = [[int(count), 1] for count in counts if count > 0]
    row = {"num_tokens": int(counts.sum()), "counts": pairs}
    write(folder / "frequencies.json", dict.fromkeys(plan.sources, row))


def tested_facts(
    plan: Plan, bits: float, documents: int, random: np.random.Generator
) -> dict[str, Any]:
    """The test split: bits per byte of the text, as sums over documents that come to just that."""
    lengths = np.random.default_rng(9).integers(400, 4000, max(1, documents))
    loss = bits * 3.0 * math.log(2)
    nats = loss * (lengths / 3) * np.random.default_rng(8).normal(1, 0.2, len(lengths))
    nats *= loss * lengths.sum() / 3 / nats.sum()
    row: dict[str, Any] = {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits}
    row |= {f"{key}_all_rows": value * 1.1 for key, value in row.items()}
    row |= {"num_tokens": int(lengths.sum()) // 3, "num_bytes": int(lengths.sum())}
    row["documents"] = documents and {
        "nats": nats.tolist(),
        "num_tokens": (lengths // 3).tolist(),
        "num_bytes": lengths.tolist(),
    }
    automata = {"loss": 2.5, "perplexity": math.exp(2.5), "bits_per_byte": None, "documents": None}
    sources = {"code": row | {"documents": row["documents"] or None}, "rich": automata}
    return {"split": "test", "tokens": plan.num_tokens, "sources": sources}
