"""The run report: numbers, sources, escaping, unfinished runs, size; over synthetic run folders."""

from __future__ import annotations

import errno
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plan_files import problem
from web_pages import Page, assert_whole

from ncamix import charts, drawings
from ncamix.errors import UserError
from ncamix.report import CAVEAT, write_overview, write_report
from ncamix.run_record import read_run

BATCH_SIZE, LENGTH = 8, 256
CURRICULUM = """\
# curricula/code_target.yaml <script>alert("x")</script>
ncamix: 1
name: code_target
seed: 17
sources:
  simple: {kind: nca, alphabet: 10, band: {gzip: [0.30, 0.40]}}
  rich:   {kind: nca, alphabet: 10, band: {gzip: [0.50, 1.00]}}
  binary: {kind: nca, alphabet: 2,  band: {gzip: [0.10, 0.30]}}
  code:   {kind: text, files: [python-stdlib], holdout: {share: 0.02, by: document}}
stages:
  - name: automata
    duration: 15%
    mixture:
      0%:   {simple: 80%, binary: 20%}
      60%:  {simple: 40%, rich: 60%}
      100%: {rich: 1}
  - name: code
    duration: rest
    enter: {reinitialize: [embeddings], optimizer_state: fresh}
    mixture: {code: 1}
"""
TRAINER = """\
ncamix: 1
name: cpu
model: {kind: llama, layers: 4, heads: 4, width: 128, tie_embeddings: true}
sequence_length: 256
batch_size: 8
budget: 1Mtok
"""


def shares_of(stage: str, at: float, automata: list[str]) -> dict[str, float]:
    """The mixture at progress `at`: automata give way to one another, then text alone."""
    if stage == "code":
        return {"code": 1.0}
    centres = np.linspace(0, 1, len(automata))
    weights = np.maximum(0, 1 - np.abs(centres - at) * max(1, len(automata) - 1) / 1.2)
    return dict(zip(automata, (weights / weights.sum()).tolist(), strict=True))


def roll(rng: np.random.Generator, alphabet: int, size: int, calm: int) -> np.ndarray:
    """Frames [10, size, size] of a cyclic automaton after `calm` steps of burn-in."""
    grid = rng.integers(0, alphabet, (size, size))
    frames = []
    for step in range(calm + 10):
        if step >= calm:
            frames.append(grid)
        around = [np.roll(grid, s, a) for a in (0, 1) for s in (1, -1)]
        if alphabet == 2:
            grid = (sum(around) + grid >= 3).astype(int)
        else:
            eaten = np.any([n == (grid + 1) % alphabet for n in around], axis=0)
            grid = np.where(eaten, (grid + 1) % alphabet, grid)
    return np.array(frames, np.uint8)


def evaluate(stage: str, batch: int, tokens: int, when: str, first: str) -> list[dict[str, Any]]:
    """One evaluation of the text and of the `first` automata source."""
    rows = []
    for source in ("code", first):
        text = source == "code"
        loss = (3.9 if text else 4.2) + 4.4 * np.exp(-tokens * (1 if text else 4) / 4e5)
        loss += 0.6 * (stage == "code" and not text)
        rows.append(
            {
                "stage": stage,
                "batch": batch,
                "tokens": tokens,
                "when": when,
                "source": source,
                "loss": loss,
                "perplexity": float(np.exp(loss)),
                "loss_all_rows": loss + 0.3,
                "bits_per_byte": loss / 2.1 if text else None,
                "bits_per_byte_all_rows": (loss + 0.3) / 2.1 if text else None,
                "num_tokens": 32768,
                "num_bytes": 98000 if text else None,
            }
        )
    return rows


def make_run(
    run: Path,
    automata: tuple[str, ...] = ("simple", "rich", "binary"),
    batches: tuple[int, int] = (73, 415),
    until: int | None = None,
    frames: bool = True,
) -> dict[str, Any]:
    """Write a synthetic run folder; `until` stops it after so many batches. Returns the plan."""
    run.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    nca = list(automata)
    everything = [*nca, "code"]
    progress = np.linspace(0, 1, 101).round(6).tolist()
    stages: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    tokens = done = 0
    for name, num in zip(("automata", "code"), batches, strict=True):
        first, counts, realised = tokens, dict.fromkeys(everything, 0), dict.fromkeys(everything, 0)
        owed = dict.fromkeys(everything, 0.0)
        running = True

        for batch in range(num):
            running = until is None or done < until
            if batch == 0 and running:
                evaluations += evaluate(name, 0, tokens, "start", nca[0])
            drawn = dict.fromkeys(everything, 0)
            for source, share in shares_of(name, (batch + 0.5) / num, nca).items():
                owed[source] += BATCH_SIZE * share
            for _ in range(BATCH_SIZE):
                most = max(owed, key=lambda s: owed[s])
                owed[most] -= 1
                drawn[most] += 1
            tokens += BATCH_SIZE * LENGTH
            row = {"stage": name, "batch": batch, "tokens": tokens, "lr": 3e-3, "digest": 123}
            for i, source in enumerate(everything):
                counts[source] += drawn[source]
                if drawn[source]:
                    floor = 3.9 if source == "code" else 1.2 + 0.9 * i
                    loss = floor + 4.5 * np.exp(-batch / num * 5) + rng.normal(0, 0.12)
                    row[f"loss/{source}"] = round(float(loss), 4)
                row[f"count/{source}"] = counts[source]
            at = (batch + 0.5) / num
            row["lr"] = 3e-3 * min(1, at / 0.1) * (0.55 + 0.45 * np.cos(np.pi * at))
            if running:
                rows.append(row)
                done += 1
                realised = dict(counts)
                if (batch + 1) % max(1, sum(batches) // 10) == 0:
                    evaluations += evaluate(name, batch + 1, tokens, "every", nca[0])
        if until is None or done < until:
            evaluations += evaluate(name, num, tokens, "end", nca[0])
        mixtures = [shares_of(name, p, nca) for p in progress]
        stages.append(
            {
                "name": name,
                "num_batches": num,
                "batch_size": BATCH_SIZE,
                "sequence_length": LENGTH,
                "num_samples": num * BATCH_SIZE,
                "num_tokens": tokens - first,
                "num_loss_tokens": tokens - first,
                "first_token": first,
                "counts": {s: c for s, c in counts.items() if c},
                "largest_deviation_samples": 0.87,
                "mixture_curve": {
                    "progress": progress,
                    "weights": {s: [m.get(s, 0.0) for m in mixtures] for s in mixtures[0]},
                },
                "learning_rate_curve": {
                    "progress": progress,
                    "rate": [
                        3e-3 * min(1, p / 0.1) * (0.55 + 0.45 * float(np.cos(np.pi * p)))
                        for p in progress
                    ],
                },
                "enter": {
                    "reinitialize": ["embeddings"],
                    "initializer": "model",
                    "optimizer_state": "fresh",
                }
                if name == "code"
                else None,
                "realised": realised,
            }
        )
    finals = {s["name"]: s.pop("realised") for s in stages}
    sources: dict[str, Any] = {
        s: {
            "kind": "nca",
            "fingerprint": f"{i:08x}",
            "samples_needed": 300,
            "epochs": None,
            "first_id": 4096,
            "num_ids": 10002,
            "loss_tokens_per_sample": 219,
            "summary": f"nca, {2 if s == 'binary' else 10} states, gzip 0.{i + 1}0–0.{i + 2}0",
        }
        for i, s in enumerate(nca)
    }
    sources["code"] = {
        "kind": "text",
        "fingerprint": "c0de",
        "samples_needed": 3320,
        "epochs": 0.24,
        "first_id": 0,
        "num_ids": 4096,
        "loss_tokens_per_sample": 256,
        "summary": "text, python-stdlib, held out by document",
    }
    plan = {
        "ncamix": 1,
        "name": "code_target",
        "fingerprint": "f1a6" * 16,
        "curriculum_fingerprint": "beef" * 16,
        "trainer": {
            "name": "cpu",
            "model": {"kind": "llama", "layers": 4, "heads": 4, "width": 128},
            "precision": "fp32",
        },
        "seeds": {"init": 17, "order": 17, "rules": 17},
        "vocabulary": {
            "rows": 14116,
            "layout": "disjoint",
            "softmax": "active",
            "ranges": [
                {"name": "text", "first": 0, "size": 4096},
                {"name": "nca 10 states 2x2", "first": 4096, "size": 10002},
                {"name": "nca 2 states 2x2", "first": 14098, "size": 18},
            ],
        },
        "num_tokens": tokens,
        "sources": sources,
        "stages": stages,
        "warnings": ["text source code is read 0.24 times over: a share of it is never seen"],
    }
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "curriculum.yaml").write_text(CURRICULUM)
    (run / "trainer.yaml").write_text(TRAINER)
    for file, table in (("metrics.jsonl", rows), ("evaluations.jsonl", evaluations)):
        (run / file).write_text("".join(json.dumps(r) + "\n" for r in table))
    if until is None:
        (run / "summary.json").write_text(
            json.dumps(
                {
                    "name": "code_target",
                    "finished": True,
                    "trainer": "cpu",
                    "device": "2 CPU cores",
                    "stages": [
                        {
                            "name": s["name"],
                            "planned": s["counts"],
                            "realised": finals[s["name"]],
                            "train_loss": 4.6,
                            "tokens_per_second": 8123.4,
                            "seconds": 20.14,
                            "evaluation": {},
                        }
                        for s in stages
                    ],
                    "versions": {"torch": "2.7.0", "composer": "0.32.1"},
                }
            )
        )
    if frames:
        arrays: dict[str, Any] = {}
        for i, s in enumerate(nca):
            n = 2 if s == "binary" else 10
            rolls = [roll(rng, n, 12, 2 + 6 * i + 2 * r) for r in range(4)]
            arrays |= {
                s: np.array(rolls),
                f"{s}.scores": np.linspace(0.3, 0.4, 4) + i / 10,
                f"{s}.alphabet": n,
            }
        np.savez_compressed(run / "frames.npz", **arrays)
    return plan


def read_page(run: Path) -> tuple[str, Page]:
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text("utf-8")
    page = Page(html)
    assert_whole(html, page)
    return html, page


def test_finished_run(tmp_path: Path) -> None:
    plan = make_run(tmp_path)
    html, page = read_page(tmp_path)
    record = read_run(tmp_path)
    last = [e for e in record.evaluations if e["source"] == "code"][-1]
    assert page.text.count(f"{last['loss']:.3f}") >= 3  # sentence, headline, table
    assert f"{last['bits_per_byte']:.3f} bits per byte" in page.text
    assert f"{last['perplexity']:.2f}" in page.text
    assert CAVEAT in page.text
    assert "999,424 tokens" in page.text and "Unfinished" not in page.text
    for source, facts in plan["sources"].items():
        assert source in page.text and facts["summary"] in page.text
    for stage in plan["stages"]:
        for count in stage["counts"].values():
            assert f">{count:,}</td>" in html
    assert "8,123" in page.text and "composer 0.32.1" in page.text
    assert plan["fingerprint"] in page.text and plan["warnings"][0] in page.text
    assert html.count("<svg") == 4 and html.count("<img") == 12
    assert "reinitialize embeddings, initializer model, optimizer state fresh" in page.text


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def test_what_is_watched_is_drawn(tmp_path: Path) -> None:
    make_run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for i, row in enumerate(rows):
        row |= {"grad_norm/mlp": 1 + i % 7, "grad_norm/head": None if i == 3 else 0.5}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = [{k: row[k] for k in ("stage", "batch", "tokens")} for row in rows]
    times = {"seconds": 0.5, "data_wait": 0.125, "tokens_per_second": 4000.0}
    append(tmp_path / "speed.jsonl", [place | times for place in places])
    score = {"when": "every", "loss_drop": 0.5, "prefix_matching_best": 0.25}
    append(tmp_path / "induction.jsonl", [place | score for place in places[::50]])
    evaluation = {"when": "every", "source": "rich", "loss": 2.0, "frames_seen": [1, 2]}
    for key in ("cell_accuracy", "frame_accuracy", "copied_cells", "copied_frames"):
        evaluation[key] = [0.25, 0.75]
    append(tmp_path / "evaluations.jsonl", [place | evaluation for place in places[25:60:10]])
    record = read_run(tmp_path)
    assert {len(stage.norms["mlp"][0]) for stage in record.stages} == {73, 415}
    assert len(record.stages[0].norms["head"][0]) == 72
    assert not any("not finite" in remark for remark in record.remarks)
    assert set(record.stages[1].speed[2]) == {0.25} and record.stages[0].speed.shape == (3, 73)
    html, page = read_page(tmp_path)
    assert html.count("<svg") == 8
    for words in (
        "norm of the gradient (logarithmic axis)",
        "throughput, tokens per second",
        "waiting for data, percent of a step",
        "rich: cells of the next frame right",
        "loss drop on repeated ids, nats per token",
        "best head",
        "copying",
    ):
        assert words in page.text, words


def test_yaml_is_shown_escaped(tmp_path: Path) -> None:
    make_run(tmp_path)
    html, page = read_page(tmp_path)
    assert "<script" not in html
    assert CURRICULUM in page.text and TRAINER in page.text


def test_names_are_escaped_in_charts(tmp_path: Path) -> None:
    make_run(tmp_path, automata=("a<b>", "$x_2$", "r&d"))
    _, page = read_page(tmp_path)
    assert "b" not in page.tags - {"b"} and page.text.count("$x_2$") >= 3
    assert "a<b>" in page.text and "r&d" in page.text


def test_a_run_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)

    def refused(path: Path, data: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("ncamix.pages.write_whole", refused)
    found = problem(write_report, tmp_path)
    assert f"{tmp_path} cannot be written" in found.what and "report.html" in found.what
    assert "report on a copy of the run" in found.remedy


def test_what_is_no_run_or_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "runs/first").mkdir(parents=True)
    make_run(tmp_path / "runs/first")
    found = problem(write_report, tmp_path / "runs/frist")
    assert "not the folder of a run" in found.what
    assert f"did you mean '{tmp_path / 'runs/first'}'?" in found.remedy
    plan = tmp_path / "runs/first/plan.json"
    plan.write_bytes(plan.read_bytes()[:99])
    found = problem(write_report, tmp_path / "runs/first")
    assert found.file == str(plan) and "--fresh" in found.remedy


def test_same_folder_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("until", [0, 1, 40, 200])
def test_unfinished_run(tmp_path: Path, until: int) -> None:
    plan = make_run(tmp_path, until=until, frames=False)
    _, page = read_page(tmp_path)
    assert "Unfinished." in page.text and f"{until} of 488 batches" in page.text
    assert "No frames were recorded" in page.text and "not recorded yet" in page.text
    assert all(source in page.text for source in plan["sources"])
    assert f"{until * BATCH_SIZE * LENGTH:,} of 999,424 tokens" in page.text


def test_only_a_plan(tmp_path: Path) -> None:
    make_run(tmp_path, until=0, frames=False)
    for name in ("metrics.jsonl", "evaluations.jsonl", "curriculum.yaml", "trainer.yaml"):
        (tmp_path / name).unlink()
    _, page = read_page(tmp_path)
    assert "0 of 488 batches" in page.text and "Nothing has been evaluated yet" in page.text
    assert write_overview(tmp_path, tmp_path / "overview.png").is_file()


def test_no_plan_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json"):
        write_report(tmp_path)


def test_torn_line_and_repeated_batches(tmp_path: Path) -> None:
    make_run(tmp_path, until=50)
    metrics = tmp_path / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    row = json.loads(lines[45])
    assert "loss/binary" in row
    again = {**row, "loss/rich": 7.5, "loss/binary": float("nan")}
    metrics.write_text("".join(lines) + json.dumps(again) + "\n" + lines[3][:40])
    record = read_run(tmp_path)
    stage = record.stages[0]
    assert len(stage.tokens) == 50 and 7.5 in stage.losses["rich"][1]
    assert record.remarks == ["Stage automata: 1 losses were not finite numbers."]
    (tmp_path / "frames.npz").write_bytes(b"PK torn")
    (tmp_path / "summary.json").write_text('{"finished": tr')
    _, page = read_page(tmp_path)
    assert "50 of 488 batches" in page.text and "frames.npz is not readable" in page.text


def test_many_sources_and_batches_stay_small(tmp_path: Path) -> None:
    names = tuple(f"band_{i:02d}" for i in range(12))
    make_run(tmp_path, automata=names, batches=(12_000, 18_000))
    start = time.perf_counter()
    html, page = read_page(tmp_path)
    assert time.perf_counter() - start < 30
    assert len(html) < 3_000_000
    assert all(page.text.count(name) >= 3 for name in names)


def test_overview_is_a_png_of_1600_by_900(tmp_path: Path) -> None:
    make_run(tmp_path)
    out = write_overview(tmp_path, tmp_path / "pictures" / "overview.png")
    data = out.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (1600, 900)


def test_realised_shares_follow_the_counts(tmp_path: Path) -> None:
    plan = make_run(tmp_path)
    stage = read_run(tmp_path).stages[0]
    assert stage.mixture_progress[[0, -1]].tolist() == [0, 1], "drawn without gaps between stages"
    assert all(len(shares) == len(stage.mixture_progress) for shares in stage.mixture.values())
    edges, shares = drawings.realised_shares(stage)
    assert edges[0] == 0 and edges[-1] == plan["stages"][0]["num_tokens"]
    assert np.allclose(sum(shares.values()), 100)
    for source, share in shares.items():
        samples = (share / 100 * np.diff(edges) / LENGTH).sum()
        assert round(samples) == plan["stages"][0]["counts"].get(source, 0)


def test_thinning_keeps_the_extremes() -> None:
    values = np.random.default_rng(0).normal(size=20_000)
    kept = drawings.thin(values)
    assert len(kept) <= drawings.MAX_RAW_POINTS + 2 and (np.diff(kept) > 0).all()
    assert {values.argmax(), values.argmin(), 0, 19_999} <= set(kept.tolist())
    at, medians = drawings.smooth(values)
    assert len(at) == len(medians) <= drawings.MAX_SMOOTH_POINTS and abs(medians).max() < 0.3
    assert [len(a) for a in drawings.smooth(values[:1])] == [1, 1]


def test_colours_are_stable_and_distinct() -> None:
    kinds = {f"n{i}": "nca" for i in range(8)} | {f"t{i}": "text" for i in range(6)}
    colours = charts.source_colours(kinds)
    assert len(set(colours.values())) == 14
    assert all(re.fullmatch("#[0-9a-f]{6}", c) for c in colours.values())
    assert charts.source_colours({"new": "text", **kinds})["n3"] == colours["n3"]
    mixed = charts.source_colours({f"n{i}": "nca" for i in range(12)} | {"t": "text"})
    assert len(set(mixed.values())) == 13
    assert len(set(charts.source_colours({f"n{i}": "nca" for i in range(14)}).values())) == 14


def test_a_paused_source_is_drawn_in_stretches() -> None:
    tokens = np.concatenate([np.arange(0.0, 100), np.arange(900.0, 1000)])
    assert [len(part) for part in drawings._stretches(tokens, 30)] == [100, 100]
    assert [len(part) for part in drawings._stretches(tokens[::50], 30)] == [4]
    assert [len(part) for part in drawings._stretches(tokens[:1], 30)] == [1]
