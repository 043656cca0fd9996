# make run    install into .venv and run the main job
# make test   install into .venv and run all tests
# make check  lint and type-check
# make schemas  write ncamix/schemas anew, after the grammar has changed
# make test-foundry  read compiled datasets with LLM Foundry, in an environment of its own
# make bench  time the parts that matter, print tables and write build/bench/*.json
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
FOUNDRY := .venv-foundry
BIN := $(VENV)/bin

.PHONY: run test test-foundry check format schemas bench clean

run: $(VENV)/.installed
	$(BIN)/ncamix run curricula/code_target.yaml

test: $(VENV)/.installed
	$(BIN)/pytest -n 2 --dist loadfile

test-foundry: $(VENV)/.installed $(FOUNDRY)/.installed
	$(BIN)/python tests/foundry/write_datasets.py build/foundry
	$(FOUNDRY)/bin/python tests/foundry/read_datasets.py build/foundry

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(VENV)/.installed
	$(BIN)/ncamix schema --write ncamix/schemas

bench: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/bench_automata.py
	$(BIN)/python tests/benchmarks/bench_plan.py
	$(BIN)/python tests/benchmarks/bench_throughput.py
	$(BIN)/python tests/benchmarks/bench_text.py
	$(BIN)/python tests/benchmarks/bench_order.py
	$(BIN)/python tests/benchmarks/bench_compile.py
	$(BIN)/python tests/benchmarks/bench_background.py
	$(BIN)/python tests/benchmarks/bench_curation.py
	$(BIN)/python tests/benchmarks/bench_loop.py
	$(BIN)/python tests/benchmarks/bench_resume.py
	$(BIN)/python tests/benchmarks/bench_report.py
	$(BIN)/python tests/benchmarks/bench_gpu.py --shape tiny

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	# Import once, so that the bytecode is there whatever the environment says of writing it.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import ncamix.training.stages, ncamix.report, datasets"
	touch $@

# LLM Foundry needs older releases of Streaming and transformers than ncamix, and pkg_resources.
$(FOUNDRY)/.installed: $(VENV)/.installed
	$(PYTHON) -m venv $(FOUNDRY)
	$(BIN)/uv pip install --quiet --python $(FOUNDRY)/bin/python \
		'llm-foundry==0.22.*' 'mosaicml-streaming<0.13' 'setuptools<81'
	touch $@

clean:
	rm -rf $(VENV) $(FOUNDRY) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
