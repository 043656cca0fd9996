"""The language page: every example is planned, every key of the grammar is on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from other_runs import finish
from plan_files import problems
from test_schema import mistakes

from ncamix.curriculum import Curriculum, Seeds
from ncamix.handbook import find_page
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.sources import KINDS, Spec
from ncamix.study import Study
from ncamix.study_plan import plan_study
from ncamix.trainer import LearningRate, Trainer, load_trainer
from ncamix.variants import load_study

PAGE = find_page("language")
ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", re.M | re.S)


def blocks() -> Iterator[tuple[str, str, str]]:
    """Language, file and text of every block that is a file: YAML says which in its first line,
    others behind the name of their language."""
    for language, name, text in BLOCK.findall(PAGE):
        named = re.match(r"# file: (\S+)\n", text)
        if language == "yaml":
            assert named, text
        if named or name:
            yield language, named[1] if named else name, text


EXAMPLES = {name: text for language, name, text in blocks() if language == "yaml"}


def sort_of(name: str) -> str:
    keys = re.findall(r"^(\w+):", EXAMPLES[name], re.M)
    return "study" if "base" in keys else "trainer" if "model" in keys else "curriculum"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds every example."""
    root = tmp_path_factory.mktemp("examples")
    for _, name, text in blocks():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    first = make_plan(load_curriculum(root / "first.yaml"), load_trainer(root / "small.yaml"))
    finish(root / "runs/first", first, "automata")  # which other examples begin with
    return root


def test_no_two_examples_have_one_name() -> None:
    names = [name for _, name, _ in blocks()]
    assert len(names) == len(set(names)) > 25


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_works(name: str, folder: Path) -> None:
    sort = sort_of(name)
    assert mistakes(sort, EXAMPLES[name]) == []
    if sort == "study":
        planned = plan_study(load_study(folder / name))
        assert [p.problems for p in planned if p.plan is None] == []
        assert len(planned) > 1
    elif sort == "trainer":
        assert load_trainer(folder / name).trainer.name == Path(name).stem
    else:
        plan = make_plan(load_curriculum(folder / name), load_trainer(folder / "small.yaml"))
        assert plan.name == Path(name).stem
        assert sum(sum(stage.counts.values()) for stage in plan.stages) > 0


def models(model: type[Spec], seen: dict[type[Spec], None]) -> dict[type[Spec], None]:
    """A grammar model and those of its keys."""
    seen[model] = None
    for field in model.model_fields.values():
        for inner in flattened(field.annotation):
            if isinstance(inner, type) and issubclass(inner, Spec) and inner not in seen:
                models(inner, seen)
    return seen


def flattened(annotation: Any) -> Iterator[Any]:
    """A type and the types that it is made of; choices as they are."""
    yield annotation
    for inner in get_args(annotation):
        yield from flattened(inner)


def grammar() -> list[type[Spec]]:
    found: dict[type[Spec], None] = {}
    for model in (Curriculum, Trainer, Study, *KINDS.values()):
        models(model, found)
    return list(found)


@pytest.mark.parametrize("model", grammar(), ids=lambda model: model.__name__)
def test_every_key_and_choice_is_on_the_page(model: type[Spec]) -> None:
    code = "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", PAGE, re.M | re.S))
    for name, field in model.model_fields.items():
        words = [field.alias or name]
        for annotation in flattened(field.annotation):
            if get_origin(annotation) is Literal:
                words += get_args(annotation)
        for word in words:
            assert re.search(rf"(?<![\w-]){re.escape(str(word))}(?![\w-])", code), word


@pytest.mark.parametrize("keys", [LearningRate, Seeds], ids=lambda keys: keys.__name__)
def test_keys_of_values_are_on_the_page(keys: Any) -> None:
    for part in fields(keys):
        assert f"`{part.name}" in PAGE or f"{part.name}: " in PAGE


def test_the_errors_shown_are_those_that_are_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = EXAMPLES["first.yaml"].replace("0%:   {simple: 1}", "0%:   {simpel: 1}")
    (folder / "wrong").mkdir()
    (folder / "wrong" / "first.yaml").write_text(wrong.replace("{every: 10%", "{evry: 10%"))
    monkeypatch.chdir(folder / "wrong")
    shown = "\n".join(f"ncamix: {problem}" for problem in problems(load_curriculum, "first.yaml"))
    assert f"```\n{shown}\n```" in PAGE, shown


def test_links_lead_to_sections() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(ncamix/language.md)" in readme
    anchors = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", PAGE, re.M)
    }
    linked = re.findall(r"\]\(#([^)]+)\)", PAGE) + re.findall(
        r"\(ncamix/language.md#(.+?)\)", readme
    )
    assert set(linked) <= anchors


def test_the_readme_shows_a_curriculum_and_a_study_of_the_language(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    study, shown = sorted(blocks, key=lambda block: "base:" not in block)
    for name in ("bands.yaml", "trainer.yaml"):
        shutil.copy(ROOT / "examples/02_mixed_bands" / name, tmp_path)
    (tmp_path / "study.yaml").write_text(study)
    assert load_study(tmp_path / "study.yaml").study.compare is not None
    (tmp_path / "example.yaml").write_text(shown)
    assert len(load_curriculum(tmp_path / "example.yaml").curriculum.stages) == 2
