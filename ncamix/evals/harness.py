"""Tasks of lm-eval, on an exported model.

    names -> groups and tags taken apart -> tasks, each with its data -> lm-eval -> results
    results of a group's tasks -> the group's mean, weighted as lm-eval or its YAML says

Tasks are evaluated one at a time, and a task that has a result under the same settings is passed
over: what was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ncamix.errors import Problem, UserError, fail, nearest
from ncamix.evals.humaneval import TASK as HUMANEVAL
from ncamix.evals.results import Result, Value, known_result, write_result
from ncamix.evals.subject import Subject
from ncamix.evals.task_data import TaskData, local_data, not_to_be_had

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

SHIPPED = Path(__file__).parent / "tasks"
PROPORTIONS = ("acc", "exact_match")  # metrics whose mean over tasks means something


@dataclass(frozen=True)
class Leaf:
    """A task as it is asked for. changes: what a group says of it. data: where it comes from."""

    name: str
    config: dict[str, Any]
    changes: dict[str, Any]
    data: TaskData

    @property
    def full_config(self) -> dict[str, Any]:
        return {**self.config, **self.changes}


@dataclass(frozen=True)
class Asked:
    """What one name of `--tasks` stands for. group: its configuration, None of a task or a tag."""

    name: str
    leaves: tuple[Leaf, ...]
    group: dict[str, Any] | None = None


@dataclass(frozen=True)
class Options:
    """How tasks are evaluated. shots: None is what each task says. limit: problems of each task.

    task_data: a folder, see the module of that name. include: folders of the user's own tasks.
    reached: whether the hub can be.
    """

    shots: int | None = None
    limit: int | None = None
    batch_size: int = 8
    device: str = "cpu"
    seed: int = 1234
    task_data: Path | None = None
    include: tuple[Path, ...] = ()
    reached: bool = True


def open_tasks(options: Options) -> TaskManager:
    """All tasks that lm-eval knows, those shipped here, and the user's own, who come last."""
    from lm_eval.tasks import TaskManager

    for folder in options.include:
        if not folder.is_dir():
            raise fail(f"{folder} is no folder of tasks", "name the folder of their YAML files")
    return TaskManager(include_path=[SHIPPED, *options.include])


def find_tasks(names: Sequence[str], manager: TaskManager, options: Options) -> list[Asked]:
    """The tasks that names stand for, with their data.

    Raises:
        UserError: a name is unknown, a task runs programs, or a split of its data is missing.
    """
    found: list[Asked] = []
    problems: list[Problem] = []
    for name in dict.fromkeys(names):
        try:
            leaves = tuple(_leaves(name, {}, manager, options))
            entry = manager.task_index[name]
            group = entry.cfg if entry.kind.name == "GROUP" else None
            found.append(Asked(name, leaves, group))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return found


def _leaves(
    name: str, changes: dict[str, Any], manager: TaskManager, options: Options
) -> list[Leaf]:
    """The tasks of a task, tag or group, and what the groups on the way say of them."""
    entry = manager.task_index.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, [*manager.all_tasks, HUMANEVAL], n=5)
        way_out = "`lm-eval ls tasks` lists them; for tasks of your own, say --include DIR"
        if close:
            way_out = nearest(name, close, "near it")
        raise fail(f"no such task: '{name}'", way_out)
    config = entry.cfg or {}
    if entry.kind.name == "TAG":
        return [x for n in sorted(entry.tags) for x in _leaves(n, changes, manager, options)]
    if entry.kind.name == "GROUP":
        return _members(config, changes, manager, options)
    full = {**config, **changes}
    if full.get("unsafe_code"):
        raise fail(
            f"the task '{name}' runs generated programs, and lm-eval would run them as you",
            f"of such tasks, ncamix evaluates {HUMANEVAL} alone, in a sandbox",
        )
    shots = options.shots if options.shots is not None else full.get("num_fewshot") or 0
    data = None
    if options.task_data is not None:
        data = local_data(name, full, shots, options.task_data)
    return [Leaf(name, config, changes, data or TaskData({}))]


def _members(
    config: dict[str, Any], changes: dict[str, Any], manager: TaskManager, options: Options
) -> list[Leaf]:
    from lm_eval.config.group import GroupConfig

    structure = {f.name for f in dataclasses.fields(GroupConfig)} | {"task", "tag"}
    inherited = {**{k: v for k, v in config.items() if k not in structure}, **changes}
    members = config["task"] if isinstance(config["task"], list) else [config["task"]]
    leaves: list[Leaf] = []
    for member in members:
        if isinstance(member, str):
            leaves += _leaves(member, inherited, manager, options)
            continue
        name = member.get("group") or member.get("task")
        own = {k: v for k, v in member.items() if k not in structure}
        if isinstance(member.get("task"), list):  # a group that stands within this one
            leaves += _members({**inherited, **member}, {}, manager, options)
        else:
            leaves += _leaves(str(name), {**inherited, **own}, manager, options)
    return leaves


def evaluate(
    asked: Sequence[Asked],
    subject: Subject,
    options: Options,
    manager: TaskManager,
    told: Callable[[str], None],
) -> list[Result]:
    """The results of everything that is asked for, a group's own after those of its tasks.

    Raises:
        UserError: the data of tasks are not to be had; all of them are named, and none evaluated.
    """
    leaves = {leaf.name: leaf for item in asked for leaf in item.leaves}
    settings = {name: _settings(leaf, subject, options) for name, leaf in leaves.items()}
    results: dict[str, Result] = {}
    for name in leaves:
        known = known_result(subject.results, name, settings[name])
        if known is not None:
            told(f"{name} was evaluated before")
            results[name] = known
    built, problems = {}, []
    for name in leaves.keys() - results.keys():
        try:
            built[name] = _build(leaves[name], manager, options)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(sorted(problems, key=lambda problem: problem.what))
    model = _load(subject.model, options) if built else None
    for name, leaf in leaves.items():
        if name in built:
            told(f"evaluating {name} ({len(results) + 1} of {len(leaves)})")
            task = built.pop(name)
            results[name] = _evaluate(leaf, task, model, settings[name], options)
            write_result(subject.results, results[name])
    for item in asked:
        if item.group is not None:
            result = group_result(item, [results[leaf.name] for leaf in item.leaves])
            write_result(subject.results, result)
            results[item.name] = result
    return list(results.values())


def _settings(leaf: Leaf, subject: Subject, options: Options) -> dict[str, Any]:
    return {
        "model": subject.digest,
        "task": leaf.name,
        "task_version": (leaf.config.get("metadata") or {}).get("version"),
        "changes": leaf.changes,
        "shots": options.shots,
        "limit": options.limit,
        "seed": options.seed,
        "data": leaf.data.digest,
        "lm_eval": version("lm-eval"),
    }


def _build(leaf: Leaf, manager: TaskManager, options: Options) -> Any:
    """The task as lm-eval's object, with its data loaded."""
    member = {**leaf.changes, **leaf.data.keys, "task": leaf.name}
    try:
        # A group of one: only members of groups are given keys of their own.
        return manager.load([{"group": "ncamix", "task": [member]}])["tasks"][leaf.name]
    except Exception as error:  # of the hub's client, of datasets, of a task's own code
        if leaf.data.digest is None:
            raise not_to_be_had(leaf.name, leaf.full_config, options.reached, error) from None
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise fail(
            f"the task '{leaf.name}' cannot be made of the data in {options.task_data}: "
            f"{type(error).__name__}: {reason}",
            "they need the columns of the dataset "
            f"{leaf.config.get('dataset_path')}, which the task's templates read",
        ) from None


def _load(folder: Path, options: Options) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=str(folder),
        device=options.device,
        batch_size=options.batch_size,
        trust_remote_code=False,
    )


def _evaluate(
    leaf: Leaf,
    task: Any,
    model: Any,
    settings: dict[str, Any],
    options: Options,
) -> Result:
    from lm_eval.evaluator import evaluate as run_lm_eval
    from lm_eval.utils import set_torch_seed

    # As lm-eval's own command does it, which would ask git and the machine about themselves, too.
    random.seed(options.seed)
    np.random.seed(options.seed)
    set_torch_seed(options.seed)
    if options.shots is not None and task.get_config("num_fewshot") != 0:
        task.set_config(key="num_fewshot", value=options.shots)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=options.seed)
    if (shortened := _shortened(task, model)) is not None:
        task.set_config(key="generation_kwargs", value=shortened, update=True)
    tasks: Any = {"tasks": {leaf.name: task}}
    found: Any = run_lm_eval(model, tasks, limit=options.limit)
    held, samples = found["results"][leaf.name], found["samples"][leaf.name]
    values = []
    for key, value in held.items():
        metric, _, way = key.partition(",")
        if not way or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = held.get(f"{metric}_stderr,{way}")
        known = isinstance(error, int | float) and not math.isnan(error)
        values.append(Value(metric, float(value), float(error) if known else None,
                            "" if way == "none" else way))  # fmt: skip
    digest = hashlib.blake2b(digest_size=16)
    for sample in samples:
        for part in ("doc_hash", "prompt_hash", "target_hash"):
            digest.update(sample[part].encode())
    details = {
        "hash": digest.hexdigest(),
        "shots": found["n-shot"].get(leaf.name),
        "problems": found["n-samples"].get(leaf.name),
        "higher_is_better": found["higher_is_better"].get(leaf.name),
        "config": found["configs"].get(leaf.name),
        "seeds": dict.fromkeys(("python", "numpy", "torch", "examples"), options.seed),
        "versions": {
            name: version(name) for name in ("ncamix", "lm-eval", "torch", "transformers")
        },
    }
    number = len({sample["doc_id"] for sample in samples})
    return Result(leaf.name, settings, number, tuple(values), details)


def _shortened(task: Any, model: Any) -> dict[str, Any] | None:
    """At most half of what a model can see is generated, where a task would have more."""
    if task.OUTPUT_TYPE != "generate_until":
        return None
    most = model.max_length // 2
    wanted = (task.config.generation_kwargs or {}).get("max_gen_toks", model.max_gen_toks)
    return {"max_gen_toks": most} if wanted > most else None


def group_result(item: Asked, results: Sequence[Result]) -> Result:
    """What lm-eval would say of a group, and the mean over its tasks' own figures."""
    from lm_eval.api.metrics import (
        aggregate_subtask_metrics,
        pooled_sample_stderr,
        unweighted_mean_stderr,
    )

    assert item.group is not None
    values = []
    figures = [result.values[0] for result in results if result.values]
    if len(figures) == len(results) and all(value.name in PROPORTIONS for value in figures):
        errors = [value.error for value in figures if value.error is not None]
        whole = unweighted_mean_stderr(errors) if len(errors) == len(figures) else None
        mean = sum(value.value for value in figures) / len(figures)
        values.append(Value("mean over tasks", mean, whole))
    wanted = item.group.get("aggregate_metric_list") or []
    for rule in wanted if isinstance(wanted, list) else [wanted]:
        ways: dict[str, list[tuple[Value, int]]] = {}
        for result in results:
            for value in result.values:
                allowed = rule.get("filter_list") or (value.filter or "none")
                if value.name == rule["metric"] and (value.filter or "none") in allowed:
                    ways.setdefault(value.filter, []).append((value, result.samples))
        by_size = rule.get("weight_by_size", True)
        for way, found in ways.items():
            sizes = [size for _, size in found]
            errors = [value.error for value, _ in found if value.error is not None]
            error = None
            if len(errors) == len(found) and (not by_size or min(sizes) > 1):
                error = (
                    pooled_sample_stderr(errors, sizes)
                    if by_size
                    else unweighted_mean_stderr(errors)
                )
            mean = aggregate_subtask_metrics([v.value for v, _ in found], sizes, by_size)
            name = f"{rule['metric']} of {len(found)}"
            values.append(Value(name, float(mean), error, way))
    settings = {"tasks": {result.task: result.settings for result in results}}
    return Result(item.name, settings, sum(r.samples for r in results), tuple(values))
