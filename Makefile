# `make help` lists the targets. Python >= 3.11, git and make have to be installed.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.requirements-installed

# The stages run `python`, which has to be the one with the requirements.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help require-git setup repro pretrain test check docs clean bench full-step torture

help:  ## list the targets
	@awk -F ':.*## ' '/^## / {printf "\n%s\n", substr($$0, 4)} \
	    /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

## Run

setup: $(STAMP)  ## create .venv with the pinned requirements

repro: require-git $(STAMP)  ## run the stages of the pipeline that are out of date; resume a training
	$(RUN) -m dvc repro

pretrain: $(STAMP)  ## train partloc/weights further, on rendered objects; resumes
	$(RUN) -m partloc pretrain

## Develop

test: require-git check  ## the same as check

require-git:
	@git rev-parse --git-dir > /dev/null || { \
	    echo "error: this copy is not in a git repository, which DVC and the tests need;" \
	        "make one: git init" >&2; exit 1; }

check: require-git $(STAMP)  ## lint, check types and test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

docs: $(STAMP)  ## write all that is generated in README and docs: tables, API, schema, picture
	$(RUN) -m benchmarks.doc_tables --write
	$(RUN) -m tools.api_docs
	$(RUN) -m tools.params_schema
	$(RUN) -m examples.picture

clean:  ## remove .venv, caches and plots; images, models and trainings stay
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache build dvc_plots
	find partloc stages tests tools benchmarks examples -name __pycache__ -type d -prune \
	    -exec rm -rf {} +

## Measure

bench: $(STAMP)  ## measure speed and memory on a CPU, about 8 minutes
	$(RUN) -m pip install --disable-pip-version-check -r benchmarks/requirements.txt
	$(RUN) -m benchmarks.throughput
	$(RUN) -m benchmarks.frozen
	$(RUN) -m benchmarks.memory
	$(RUN) -m benchmarks.inference
	$(RUN) -m benchmarks.data_path
	$(RUN) -m benchmarks.scale_out --samples 120 --rounds 2

full-step: $(STAMP)  ## one optimiser step at full size (ViT-B/14, 1024 px): time and memory
	$(RUN) -m benchmarks.full_step

torture: $(STAMP)  ## try to break it: kills, damaged files, full disks
	$(RUN) -m benchmarks.torture --output metrics/torture.json

$(STAMP): requirements.txt
	@command -v "$(PYTHON)" > /dev/null || { \
	    echo "error: no $(PYTHON); name Python >= 3.11: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: Python >= 3.11 is required, $(PYTHON) is $$("$(PYTHON)" -V 2>&1);" \
	        "name another one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(RUN) -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@
