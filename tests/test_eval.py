"""`ncamix eval`: tasks of lm-eval from files, on an export, without the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_runs import finished_run
from typer.testing import CliRunner

from ncamix import cli
from ncamix.errors import UserError
from ncamix.evals import harness, task_data
from ncamix.evals.harness import Asked, Leaf, Options, find_tasks, group_result, open_tasks
from ncamix.evals.results import Result, Value, known_result, write_result
from ncamix.evals.task_data import TaskData, local_data

GSM8K = [
    {"question": f"Tom has {n} and {n}. How many?", "answer": f"Add.\n#### {2 * n}"}
    for n in range(8)
]
OWN_TASKS = {
    "colours.yaml": """\
task: own_colours
dataset_path: nobody/colours
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: ["red", "blue"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 7}
""",
    "prose.yaml": """\
task: own_prose
dataset_path: nobody/prose
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{page}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
metadata: {version: 1}
""",
    "programs.yaml": """\
task: own_programs
dataset_path: nobody/programs
output_type: generate_until
test_split: test
doc_to_text: x
doc_to_target: y
unsafe_code: true
""",
    "all.yaml": """\
group: own_all
task: [own_colours, {task: gsm8k, num_fewshot: 1}]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
""",
}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name, text in OWN_TASKS.items():
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    return tmp_path / "own"


@pytest.fixture(scope="module")
def manager() -> Any:
    """Reading all of lm-eval's tasks takes seconds: once."""
    return open_tasks(Options())


def evaluated(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli.app, ["eval", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def only_few(monkeypatch: pytest.MonkeyPatch, manager: Any) -> Callable[[Path], None]:
    """The tasks of a folder, and those of lm-eval as they were read before."""

    def choose(folder: Path) -> None:
        def opened(options: Options) -> Any:
            from lm_eval.tasks import TaskManager

            few = TaskManager(include_path=[str(folder)], include_defaults=False)
            few._index = {**manager.task_index, **few.task_index}
            return few

        monkeypatch.setattr(harness, "open_tasks", opened)

    return choose


def test_tasks_from_files_end_in_results_and_go_on(
    tmp_path: Path, own: Path, only_few: Callable[[Path], None]
) -> None:
    only_few(own)
    run, _ = finished_run(tmp_path)
    data = tmp_path / "data"
    write_lines(data / "gsm8k" / "test.jsonl", GSM8K)
    write_lines(data / "gsm8k" / "train.jsonl", GSM8K[:5])
    colours = [{"question": f"Sky {i}?", "label": i % 2} for i in range(6)]
    write_lines(data / "own_colours.jsonl", colours)
    write_lines(data / "own_prose.jsonl", [{"page": "A fox. " * 30}, {"page": "B."}])
    options = ("--task-data", data, "--include", own, "--device", "cpu", "--limit", "4")

    said = evaluated(run, "--tasks", "own_all,own_prose,own_colours", *options, "--batch-size", "2")
    assert (run / "export" / "model.safetensors").is_file(), "made, since it was missing"
    results = {p.stem: json.loads(p.read_text()) for p in (run / "evaluations/late").glob("*.json")}
    assert set(results) == {"own_all", "own_colours", "own_prose", "gsm8k"}
    colours_found = results["own_colours"]
    assert colours_found["samples"] == 4
    (accuracy,) = colours_found["values"]
    assert accuracy["name"] == "acc" and 0 <= accuracy["value"] <= 1
    assert accuracy["error"] is not None
    assert colours_found["details"]["seeds"]["examples"] == 1234
    assert colours_found["details"]["versions"]["lm-eval"] and colours_found["details"]["hash"]
    assert colours_found["settings"]["task_version"] == 7
    assert [v["name"] for v in results["own_prose"]["values"]] == [
        "word_perplexity",
        "bits_per_byte",
    ]
    assert results["own_prose"]["values"][1]["value"] > 0
    assert [v["filter"] for v in results["gsm8k"]["values"]] == ["strict-match", "flexible-extract"]
    assert results["gsm8k"]["details"]["shots"] == 1, "as the group says"
    means = {v["name"]: v["value"] for v in results["own_all"]["values"]}
    assert (
        means["mean over tasks"] == (accuracy["value"] + results["gsm8k"]["values"][0]["value"]) / 2
    )
    assert "own_prose" in said and "bits_per_byte" in said

    again = evaluated(run, "--tasks", "own_all,own_prose", *options)
    assert again.count("was evaluated before") == 3 and "evaluating" not in again
    write_lines(data / "own_colours.jsonl", colours[::-1])
    again = evaluated(run / "export", "--tasks", "own_all", *options)
    assert again.count("was evaluated before") == 1 and "evaluating own_colours" in again

    with pytest.raises(UserError, match=r"own_colours' cannot be made of .*(.|\n)*columns of the"):
        write_lines(data / "own_colours.jsonl", [{"riddle": "?"}])
        evaluated(run, "--tasks", "own_colours", *options)


def test_gsm8k_and_others_are_found_in_files(tmp_path: Path, manager: Any) -> None:
    folder = tmp_path / "data"
    options = Options(task_data=folder)
    write_lines(folder / "gsm8k.jsonl", GSM8K)
    with pytest.raises(UserError, match=r"5 examples .* split 'train'(.|\n)*--shots 0"):
        find_tasks(["gsm8k"], manager, options)
    (found,) = find_tasks(["gsm8k"], manager, Options(shots=0, task_data=folder))
    task = harness._build(found.leaves[0], manager, options)
    assert task.eval_docs[0] == GSM8K[0] and task.doc_to_text(GSM8K[0]).startswith("Question: Tom")

    arc = {"text": ["1", "2"], "label": ["A", "B"]}
    rows = [{"question": "1 + 1?", "choices": arc, "answerKey": "B", "id": "x"}]
    for split in ("train", "validation", "test"):
        write_lines(folder / "arc_easy" / f"{split}.jsonl", rows)
    (found,) = find_tasks(["arc_easy"], manager, options)
    task = harness._build(found.leaves[0], manager, options)
    assert task.doc_to_choice(task.eval_docs[0]) == ["1", "2"]
    assert task.doc_to_target(task.eval_docs[0]) == 1

    parquet = folder / "Rowan" / "hellaswag" / "data"
    parquet.mkdir(parents=True)
    import pyarrow as pa
    from pyarrow import parquet as files

    row = {"ind": 1, "activity_label": "Run", "ctx_a": "He", "ctx_b": "runs", "ctx": "He runs"}
    table = pa.Table.from_pylist([{**row, "endings": ["far", "up", "on", "to"], "label": "0"}])
    for split in ("train", "validation"):
        files.write_table(table, parquet / f"{split}-00000-of-00001.parquet")
    (found,) = find_tasks(["hellaswag"], manager, options)
    task = harness._build(found.leaves[0], manager, options)
    assert task.doc_to_choice(task.eval_docs[0]) == ["far", "up", "on", "to"]

    (folder / "arc_challenge").mkdir()
    with pytest.raises(UserError, match="holds no data of the task 'arc_challenge'"):
        find_tasks(["arc_challenge"], manager, options)
    write_lines(folder / "arc_challenge" / "train.jsonl", rows)
    with pytest.raises(UserError, match="lacks the split 'test'"):
        find_tasks(["arc_challenge"], manager, options)


def test_what_cannot_be_evaluated_is_told_plainly(
    tmp_path: Path, own: Path, manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as told:
        find_tasks(["gsm8l", "arc_esy"], manager, Options())
    assert "did you mean 'gsm8k'" in str(told.value) and "'arc_easy'" in str(told.value)
    with pytest.raises(UserError, match="lm-eval ls tasks"):
        find_tasks(["qqqqqqqqqqqq"], manager, Options())
    with pytest.raises(UserError, match="runs generated programs"):
        find_tasks(["mbpp"], manager, Options())
    (asked,) = find_tasks(["gsm8k"], manager, Options(reached=False))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when imported
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'gsm8k' needs the dataset openai/gsm8k \(main\)") as told:
        harness._build(asked.leaves[0], manager, Options(reached=False))
    assert "hub is out of reach" in str(told.value)
    assert "DIR/gsm8k/test.jsonl" in str(told.value) and "--task-data" in str(told.value)


def test_bigbench_lite_is_24_tasks_that_lm_eval_has(manager: Any) -> None:
    (asked,) = find_tasks(["bigbench_lite"], manager, Options())
    names = [leaf.name for leaf in asked.leaves]
    assert len(set(names)) == 24
    for name in names:
        stem = name.removeprefix("bigbench_").rsplit("_multiple_choice")[0].rsplit("_generate")[0]
        choices = f"bigbench_{stem}_multiple_choice"
        assert name == (
            choices if choices in manager.all_tasks else f"bigbench_{stem}_generate_until"
        )
        assert manager.task_index[name].cfg["dataset_path"] == "hails/bigbench"
    assert sum("generate_until" in name for name in names) == 6


def test_groups_are_averaged_as_lm_eval_does() -> None:
    def result(name: str, metric: str, value: float, error: float, samples: int) -> Result:
        return Result(name, {}, samples, (Value(metric, value, error),))

    parts = [result("a", "acc", 0.2, 0.03, 10), result("b", "acc", 0.8, 0.04, 30)]
    rules = {"aggregate_metric_list": [{"metric": "acc"}]}
    asked = Asked("g", (), {"group": "g", **rules})
    mean, weighted = group_result(asked, parts).values
    assert mean == Value("mean over tasks", pytest.approx(0.5), pytest.approx(0.025))
    assert weighted.value == pytest.approx(0.65)
    mixed = [parts[0], result("c", "word_perplexity", 20.0, 1.0, 5)]
    assert [v.name for v in group_result(asked, mixed).values] == ["acc of 1"]
    generated = [parts[0], result("d", "exact_match", 0.4, 0.1, 5)]
    assert group_result(asked, generated).values[0].value == pytest.approx(0.3)


def test_a_result_is_known_by_its_settings(tmp_path: Path) -> None:
    result = Result("a/b", {"limit": 3}, 3, (Value("acc", 0.5, None, "x"),), {"hash": "h"})
    file = write_result(tmp_path, result)
    assert file.name == "a_b.json"
    assert known_result(tmp_path, "a/b", {"limit": 3}) == result
    assert known_result(tmp_path, "a/b", {"limit": None}) is None
    file.write_text(file.read_text()[:40])
    assert known_result(tmp_path, "a/b", {"limit": 3}) is None


def test_splits_that_are_missing_are_not_asked_for(tmp_path: Path) -> None:
    config = {"dataset_path": "x/y", "training_split": "train", "test_split": "test"}
    assert local_data("t", config, 0, tmp_path) is None
    write_lines(tmp_path / "t.jsonl", GSM8K)
    found = local_data("t", config, 0, tmp_path)
    assert found is not None and found.keys["training_split"] is None
    assert "test_split" not in found.keys and found.keys["dataset_path"] == "json"
    given = {**config, "fewshot_config": {"samples": [{"question": "?"}]}}
    assert local_data("t", given, 3, tmp_path) is not None
    assert Leaf("t", config, {"num_fewshot": 2}, TaskData({})).full_config["num_fewshot"] == 2


def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert not task_data.settle_hub()
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
    assert not task_data.settle_hub()


def test_mistakes_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    for arguments, words in (
        (["--tasks", ","], "names no task"),
        (["--tasks", "humaneval", "--samples", "4", "--k", "8"], "needs 8 samples"),
        (["--tasks", "humaneval", "--k", "x"], "no list of numbers"),
        (["--tasks", "gsm8k", "--task-data", "gone"], "there is no folder gone"),
        (["--tasks", "humaneval"], "not the folder of a run"),
    ):
        with pytest.raises(UserError, match=words):
            evaluated(tmp_path, *arguments)
