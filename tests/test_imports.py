"""Imports point one way: from what runs down to what is merely known."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ncamix

PACKAGE = Path(ncamix.__file__).parent

# Each row may import rows above it and its own.
RANKS = """
ncamix
errors keys packing random rerouting trust
files formats globs library locks processes stores threads tree waiting
run_folder words
duplicates gram_index
shards slots
shard_log
quantities reading slurm
ranks
disk rendering
composition stores
schedule
forms groups
automata
cache tokenization
hashing
bands
sources
omissions keeping model_files
containers
rows sizes
documents encoding
splits models
validation
evidence entry loggers optimizer
trainer
controls curriculum
study
references
loading paths schema
variants
counting mixture proportions
apportionment rates durations entering origins
planned_source
plan
stored_layout
forecast remarks parting corpora stored cache_limits
inventory
planning
plans
controls
arms
study_plan
statistics
held_out verdicts
speedups
findings
plan_output handbook
plan_tables comparison
study_tables
permutations
owners
order
remote
supplies
dataset stored_samples
curation
overlap
text_entry
text_compilation
collation
compilation background
streams
run_log
following
training
log_columns
run_record hub_folder
epiplexity charts cells canvas
drawings inline_svg multiples pictures frequencies pages
plan_picture
summary report
replanning advice
edits
model_card
export
running
jobs
ray_cluster
ray_jobs
launching forking selection spreading batches decoding
exporting
evals
showing batch_pictures
inspection
batch_output
measure
study_runs
conducting shares study_progress
study_locks study_edits
study_agenda
run_results
study_record
several_runs over_seeds
study_effects study_sources
study_results
study_files study_drawings
study_panels
study_pictures
study_report
study_running
study_forecast
interrupting options
looking compile_command measure_command export_command eval_command study_command pruning
report_command
cache_command
cli
__main__
"""
RANK = {name: row for row, names in enumerate(RANKS.split("\n")) for name in names.split()}


def part(module: str) -> str:
    """`ncamix.sources.text` is part of `sources`; the package itself is `ncamix`."""
    return module.split(".")[1] if "." in module else module


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Modules of ncamix that a file imports when it runs, late imports too, and where."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):  # what only type checkers see is no import
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name}:{node.lineno}: write imports in full"
            base = node.module or ""
            names = [base]
            if base == "ncamix":
                names = [f"ncamix.{a.name}" if a.name in RANK else "ncamix" for a in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "ncamix":
                yield name, node.lineno


def test_every_module_has_a_rank() -> None:
    tops = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in modules()}
    assert tops - {"__init__"} == set(RANK) - {"ncamix"}


def test_the_map_of_the_readme_lists_every_module_below_what_it_imports() -> None:
    readme = (PACKAGE.parent / "README.md").read_text()
    drawn = readme.split("ncamix/\n")[-1].split("```")[0]
    listed = re.findall(r"^    (\w+)(?:\.py|/) +\S", drawn, re.M)
    assert sorted([*listed, "__main__"]) == sorted(set(RANK) - {"ncamix"})
    place = {name: i for i, name in enumerate([*listed, "__main__"])}
    for file in modules():
        top = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in {part(name) for name, _ in imports(file)} - {"ncamix", top}:
            assert place[name] < place[top], f"{top} stands above {name}, which it imports"


@pytest.mark.parametrize("file", modules(), ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(file: Path) -> None:
    top = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    own = RANK["ncamix" if top == "__init__" else top]
    for name, line in imports(file):
        assert RANK[part(name)] <= own, f"{file.name}:{line} imports {name}, which stands above it"


def test_grammar_and_plan_import_no_heavy_library() -> None:
    code = (
        "import sys, ncamix.planning, ncamix.plan_output, ncamix.library\n"
        "heavy = {'torch', 'numba', 'streaming', 'composer', 'transformers', 'datasets',"
        " 'tokenizers', 'matplotlib', 'scipy', 'pandas', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
