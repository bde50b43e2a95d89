# The same commands for people and CI; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-demo
# Where torch's builds are, instead of pip's own index: https://download.pytorch.org/whl/cpu has the one without CUDA.
TORCH_INDEX ?=
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --config-settings editable_mode=compat --editable

# The tests start hundreds of processes: each would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo test lint types imports check test-clients test-training faults mutants docs bench clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

env: $(STAMP)  ## Make the environment for work on vgen in .venv

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("vgen needs Python 3.11 or newer; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[dev]' --quiet
	@touch $@ $(DEMO_STAMP)

# The sizes are of Linux on x86-64 with the versions of constraints.txt; pip says them again, file by file.
$(DEMO_STAMP): pyproject.toml constraints.txt
	@echo "vgen is installed into $(VENV), once, with torch, diffusers and what else makes clips; no tools for work on vgen."
	@echo "  with torch for CPUs: 0.4 GB to download, 1.7 GB on disk"
	@echo "  with torch as PyPI has it, with CUDA: 3.0 GB to download"
	@echo "  free here: $$(df -h . | awk 'NR == 2 {print $$4}'). TORCH_INDEX=https://download.pytorch.org/whl/cpu chooses the first."
	@$(MAKE) --no-print-directory $(BIN)/python
	$(INSTALL) '.[generate,serve]'
	@touch $@

demo: $(DEMO_STAMP)  ## Make the clips of examples/prompts.txt
	$(BIN)/vgen run examples/prompts.txt

lint: $(STAMP)  ## Check style
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .

types: $(STAMP)  ## Check types
	$(BIN)/mypy

imports: $(STAMP)  ## Check which package may import which
	$(BIN)/lint-imports

check: lint types imports  ## Lint, types and import rules

# More than there are cores: tests wait for processes as often as they compute.
TEST_PROCESSES ?= $(shell $(PYTHON) -c 'import os; print(min(8, max(3, os.cpu_count())))')

test: check  ## Everything: lint, types, import rules, all tests with real servers
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-clients: $(STAMP)  ## Clients in their own versions, from the package indexes, a browser and promtool where they are installed
	$(BIN)/python -m tests.clients.run
	$(BIN)/python -m pytest -o python_files='check_*.py' tests/clients

test-training: $(STAMP)  ## Train shapes-wan from scratch for ten minutes: what it shows must beat chance by far
	$(BIN)/python -m pytest -s -o python_files='check_*.py' tests/training

SECONDS ?= 1800
SEED ?= $(shell date +%S%M)
faults: $(STAMP)  ## Every fault test, then a storm: SECONDS=1800 SEED=7; BARE=1 also over pure Celery chains
	$(BIN)/python -m pytest -m "slow_faults or not slow_faults" --timeout 400 tests/faults
	$(BIN)/python -m tests.faults.random_faults --seconds $(SECONDS) --seed $(SEED) $(if $(BARE),--bare)

mutants: $(STAMP)  ## Take the line's safeguards away one by one: some test must turn red
	$(BIN)/python -m tests.faults.run_mutants

docs: $(STAMP)  ## Write the generated pages anew
	$(BIN)/python -m cli.reference > docs/cli.md
	$(BIN)/python -m cli.reference --json-output > docs/json-output.md
	$(BIN)/python -m cli.settings_reference > docs/settings.md
	$(BIN)/python -m server.reference > docs/http-api.md

bench: $(STAMP)  ## Measure; see bench/README.md
	$(BIN)/python -m bench.encode
	$(BIN)/python -m bench.submit
	$(BIN)/python -m bench.orchestration
	$(BIN)/python -m bench.startup
	$(BIN)/python -m bench.serve
	$(BIN)/python -m bench.stream
	$(BIN)/python -m bench.scoring
	$(BIN)/python -m bench.line_efficiency
	if command -v nvidia-smi > /dev/null; then $(BIN)/python -m bench.gpu; else echo "no GPU: bench.gpu is left out"; fi

clean:  ## Remove the environment and caches, not your clips
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info build dist
