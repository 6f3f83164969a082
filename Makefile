# `make repro` and `make test` set their environment up by themselves; python 3.11+ and git are all they ask for.
.DEFAULT_GOAL := help
.PHONY: help repro large test bench check-pair fresh lab data env clean

VENV ?= .venv
BIN := $(VENV)/bin
# the first that really runs (a pyenv shim may exist and not), is new enough and can make environments
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# Stages at a time, each with `threads:` of params.yaml, and the GiB that they may take together (`meta:` in dvc.yaml).
JOBS ?= 2
MEMORY ?= 12

# One value of each for every command: bytes depend on them.
export PYTHONHASHSEED := 0
# Idle threads spin for some microseconds before they sleep: short enough for a second process beside this one, long
# enough for the many small products of a decoding step.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 20000
export DVC_NO_ANALYTICS := 1
export PATH := $(abspath $(BIN)):$(PATH)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

repro: data ## run what changed of the pipeline (or of TARGETS=stage): models, training, sampling, notebooks -> reports/
	$(BIN)/python -m diffamp.repro --jobs $(JOBS) --memory $(MEMORY) $(TARGETS)
	$(BIN)/python -m diffamp.readme

large: data ## the detection ladder, hours on two cores: large/ladder.yaml -> reports/large/
	$(BIN)/python -m diffamp.repro --jobs $(JOBS) --memory $(MEMORY) large/dvc.yaml
	$(BIN)/python -m diffamp.readme

test: data ## linters, types and every test
	$(BIN)/ruff check src tests benchmarks notebooks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

bench: data ## time the engine beside what users write today -> benchmarks/results/
	$(BIN)/python -m benchmarks

check-pair: data ## the cheap questions about a pair of params.yaml before a long run: make check-pair PAIR=steered
	@test -n "$(PAIR)" || { echo "name a pair of params.yaml: make check-pair PAIR=steered"; exit 1; }
	$(BIN)/python -m diffamp.check $(PAIR)

fresh: data ## fail when reports/ are older than the code, parameters or data that make them
	$(BIN)/python -m diffamp.fresh

lab: env ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

data: env ## restore data/ from the store in this repository
	$(BIN)/dvc pull --quiet data.dvc

env: $(VENV)/.ready ## the environment, from requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "python 3.11 or newer (with venv) is needed; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@

clean: ## remove the environment and everything that can be made again
	rm -rf $(VENV) models samples samples-guards samples-reasoning samples-transfer artifacts/organisms large/organisms logs .pytest_cache .mypy_cache .ruff_cache
