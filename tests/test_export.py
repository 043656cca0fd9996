"""`ncamix export`: any finished stage of a run, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_runs import CURRICULUM, TRAINER, finished_run, write_weights
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ncamix import cli, running
from ncamix.errors import UserError
from ncamix.exporting import export_run, find_export
from ncamix.run_folder import RunFolder


def exported(run: Path, *options: str) -> str:
    result = CliRunner().invoke(cli.app, ["export", str(run), *options])
    if result.exception is not None:
        raise result.exception
    return result.output


def logits_of(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("tied", ["true", "false"])
def test_every_stage_is_exported_bit_for_bit(tmp_path: Path, tied: str) -> None:
    trainer = TRAINER.replace("tie_embeddings: true", f"tie_embeddings: {tied}")
    run, plan = finished_run(tmp_path, trainer=trainer)
    rows, text = plan.vocabulary.rows, plan.vocabulary.text_rows
    assert rows > text
    ids = torch.randint(text, (2, 64), generator=torch.Generator().manual_seed(0))
    for stage in plan.stages:
        model = write_weights(RunFolder(run), plan, stage.index).eval()
        with torch.no_grad():
            expected = model(ids, use_cache=False).logits
        exported(run, "--stage", stage.name, "--vocabulary", "whole", "-o", str(tmp_path / "all"))
        assert torch.equal(logits_of(tmp_path / "all", ids), expected)
        if stage.index:
            exported(run, "-s", str(stage.index + 1), "-o", str(tmp_path / "text"))
            assert torch.equal(logits_of(tmp_path / "text", ids), expected[..., :text])
            tokenizer = AutoTokenizer.from_pretrained(tmp_path / "text")
            assert tokenizer.decode(tokenizer("naïve\n").input_ids) == "naïve\n"
            assert (tmp_path / "all" / "tokenizer.json").is_file()
        else:
            assert not (tmp_path / "all" / "tokenizer.json").exists()
    table = json.loads((tmp_path / "all" / "vocabulary.json").read_text())
    assert table["rows"] == rows and table["active"] == [[0, rows]]
    assert [entry["first"] for entry in table["ranges"]][:2] == [0, text]


def test_what_cannot_be_exported_is_refused_with_the_way_out(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path, finished=("warm",))
    with pytest.raises(UserError, match="--vocabulary whole"):
        exported(run, "--vocabulary", "text")
    with pytest.raises(UserError, match="did you mean 'whole'"):
        exported(run, "--vocabulary", "hole")
    with pytest.raises(UserError, match=r"'text' .*is not finished(.|\n)*finished: warm"):
        exported(run, "--stage", "text")
    with pytest.raises(UserError, match="did you mean 'warm'"):
        exported(run, "--stage", "warn")
    with pytest.raises(UserError, match="not the folder of a run"):
        exported(tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not replaced"):
        exported(run, "--out", str(mine))
    assert "warm" in exported(run) and (run / "export-warm-whole" / "config.json").is_file()
    (run / "checkpoints" / "0-warm" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="no stage of the run .* is finished"):
        exported(run)


def test_a_stage_that_was_lengthened_is_exported_at_its_new_end(tmp_path: Path) -> None:
    """Until then its weights are those of its end before, and so is a row of its evaluation."""
    run, plan = finished_run(tmp_path)
    for stage in plan.stages[:2]:
        (run / "checkpoints" / f"{stage.index}-{stage.name}" / "ba000008.pt").touch()
    late = run / "checkpoints" / "2-late"
    (late / "ba000005.pt").touch()
    with pytest.raises(UserError, match="'late' .*is not finished"):
        exported(run, "--stage", "late")
    assert "text" in exported(run)
    (late / "ba000008.pt").touch()
    rows = [
        {"stage": "late", "batch": batch, "when": "end", "source": "words", "loss": float(batch)}
        for batch in (5, 8)
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "late" in exported(run)
    card = (run / "export" / "README.md").read_text()
    assert "| words | 8.0000 |" in card and "5.0000" not in card


def test_a_run_without_text_leaves_no_export_of_one_with_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = finished_run(tmp_path)
    exported(run)
    text = CURRICULUM.replace("{words: 1, still: 1}", "{still: 1}").replace("[words]", "[still]")
    text = text.replace("{words: 1}", "{still: 1}").replace("{words:", "{unused:")
    other, plan = finished_run(tmp_path / "other", text)
    (run / "export").rename(other / "export")
    for name in ("summary.write_summary", "report.write_report", "running.save_frames"):
        monkeypatch.setattr(f"ncamix.{name}", lambda *given: {})
    running._finish(plan, RunFolder(other), None, "cpu")
    assert not (other / "export").exists()


def test_a_corpus_that_changed_is_refused(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    (tmp_path / "corpus" / "0.txt").write_text("another text")
    with pytest.raises(UserError, match="no longer be planned as it was: the source 'words'"):
        exported(run)


def test_an_export_that_is_there_is_found(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    assert find_export(run, None) is None
    assert export_run(run, None, None, None, None) == ("late", run / "export")
    export_run(run, "text", None, None, None)
    export_run(run, "text", "whole", None, None)
    assert find_export(run, None) is None, "the run is not finished: it may train on"
    (run / "summary.json").touch()
    assert find_export(run, None) == find_export(run, "late") == ("late", run / "export")
    assert find_export(run, "text") == ("text", run / "export-text")
    assert find_export(run, "warm") is None
    edited = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**edited, "fingerprint": "another"}))
    assert find_export(run, "text") is None, "the run has been edited since"


def test_the_card_tells_what_was_learned(tmp_path: Path) -> None:
    run, plan = finished_run(tmp_path)
    exported(run, "--stage", "text")
    card = (run / "export-text" / "README.md").read_text()
    text = plan.vocabulary.text_rows
    for fact in (
        "library_name: transformers",
        "after stage 2 of 3: text",
        f"| warm | {plan.stages[0].num_tokens:,} | 64 | still: 32 | none |",
        "words: 32 | embeddings |",
        "AutoTokenizer.from_pretrained(FOLDER)",
        "over the last 5% of the stage's batches: 42.5000 nats",
        "| words | 3.2500 | 25.7900 | 4.6880 |",
        f"The {text:,} ids of the text alone",
        f"these were 0 to {text - 1}.",
        f"plan `{plan.fingerprint}`",
        "init 3",
    ):
        assert fact in card, f"{fact!r} is not in {card}"
    assert "late" not in card
    assert "are untrained" not in card
    exported(run, "--stage", "text", "--vocabulary", "whole")
    card = (run / "export-text-whole" / "README.md").read_text()
    assert f"All {plan.vocabulary.rows:,} rows" in card and f"first {text:,}, the ids of" in card
    assert "are untrained" in card
    exported(run, "--stage", "warm")
    card = (run / "export-warm-whole" / "README.md").read_text()
    assert "There is no tokenizer" in card and "AutoTokenizer" not in card


def test_where_the_softmax_ran_over_all_rows_the_card_says_so(tmp_path: Path) -> None:
    body = CURRICULUM.replace("tokenizer:", "vocabulary: {softmax: all}\ntokenizer:")
    run, _ = finished_run(tmp_path, body)
    exported(run)
    assert "softmax ran over all rows" in (run / "export" / "README.md").read_text()
